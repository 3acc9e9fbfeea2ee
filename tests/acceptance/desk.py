"""Where a new user sits: a folder with study files, a database, and a terminal to type into."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "studies"

#: Each call of the training function leaves a line in this file of the working directory.
DIARY = "trained.txt"

#: A study of a score that is easy to calculate: best at x = 0.3.
TOY = f"""
import automl
from automl import Budget, Choice, Float, Int, Study


def train(trial):
    with open("{DIARY}", "a") as diary:
        diary.write(f"{{trial.number}}\\n")
    print("hello from trial", trial.number)
    score = -(trial.params["x"] - 0.3) ** 2
    trial.report(score, step=1, loss=trial.params["x"])
    return score


study = Study(
    name="toy",
    train=train,
    space={{"x": Float(0.0, 1.0), "n": Int(1, 8, log=True), "kind": Choice("=1+1", "plain")}},
    metrics={{"score": "max"}},
    budget=Budget(trials=6),
)
"""

#: A study whose trials go on until there is a file "go" in the working directory, or until they are told to stop.
PATIENT = TOY.replace('"toy"', '"patient"').replace(
    "    score =",
    """    import os, time
    for step in trial.steps(3000):
        if os.path.exists("go"):
            break
        time.sleep(0.01)
    score =""",
)


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    out: str
    err: str


class Desk:
    """A user's working directory."""

    def __init__(self, folder: Path, storage: str | None = None):
        """`storage` is what the user has in $AUTOML_STORAGE; None: the embedded default."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.storage = storage
        self._started: list[subprocess.Popen[str]] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AUTOML_")}
        self._environment = {**kept, "PYTHONPATH": str(ROOT)}
        if storage is not None:
            self._environment["AUTOML_STORAGE"] = storage

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def start(self, *words: str | Path, **environment: str) -> subprocess.Popen[str]:
        """Type `python WORDS...` and do not wait for it."""
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=self.folder,
            env={**self._environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def leave(self) -> None:
        """End what a failed test left running."""
        for process in self._started:
            with process:
                process.kill()

    def python(self, *words: str | Path, **environment: str) -> Done:
        return ended(self.start(*words, **environment))

    def automl(self, *words: str | Path, **environment: str) -> Done:
        return self.python("-m", "automl", *words, **environment)

    def works(self, *words: str | Path) -> str:
        """What `automl WORDS...` prints, which must succeed."""
        done = self.automl(*words)
        assert done.status == 0, done.err + done.out
        return done.out

    def json(self, *words: str | Path) -> Any:
        return json.loads(self.works(*words, "--json"))

    @property
    def trained(self) -> list[int]:
        """The numbers of the trials that were trained, by number; one that was trained twice comes twice."""
        diary = self.folder / DIARY
        return sorted(int(line) for line in diary.read_text().split()) if diary.exists() else []


def ended(process: subprocess.Popen[str], timeout_s: float = 120.0) -> Done:
    """Wait for a command to end; one that does not is killed, and the test fails."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return Done(process.returncode, out, err)


def wait_until(happened: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Look again and again, fifty times a second."""
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
