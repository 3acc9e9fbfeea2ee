"""Real processes on a real database: how the fault tests start, hurt and watch them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil

from automl.core import StudyState, TrialRecord, TrialState
from automl.engine import Engine, connect
from automl.errors import DatabaseUnavailable
from automl.storage.audit import audit

T = TypeVar("T")

#: Seconds. Short enough to see a takeover, long enough for a busy machine to renew in time.
LEASE_S = 4.0
DEADLINE_S = 60.0

#: Five steps a trial. What a trial does beyond that is told by files beside the study: while `hold` is there, step 3
#: does not end, unless there is a file `go-<attempt>`. The result is the attempt that it came from, plus a little.
STUDY = """
import os, time
from pathlib import Path
{imports}
from automl import Budget, Fidelity, Float, Study

here = Path(__file__).parent

def train(trial):
    state = {{"sum": 0.0}}
    for step in trial.steps({stateful}):
        state["sum"] += trial.params["x"]
        trial.report(state["sum"], step=step)
        time.sleep(0.05)
        while step == 3 and (here / "hold").exists() and not (here / f"go-{{trial.attempt}}").exists():
            time.sleep(0.02)
    return trial.attempt + trial.params["x"] / 10

study = Study(
    name="play", train=train, space={{"x": Float(0.0, 1.0)}}, metrics={{"score": "max"}},
    budget=Budget(trials={trials}), fidelity=Fidelity("step", max=5), sampler="random", pruner="none",
)
"""


class Theatre:
    """A study's file, its database, and every process that a test started."""

    def __init__(self, url: str, directory: Path, *, trials: int = 4, checkpoints: bool = False):
        self.url = url
        self.directory = directory
        self.artifacts = directory / "artifacts"
        self.file = directory / "play.py"
        # Checkpoints need torch: imported by the template once, not by each trial.
        options = {"imports": "import torch" if checkpoints else "", "stateful": "state=state" if checkpoints else ""}
        self.file.write_text(STUDY.format(trials=trials, **options))
        self.trials = trials
        self.engine: Engine = connect(url, self.artifacts)
        self.processes: list[subprocess.Popen[str]] = []
        self._acknowledged: dict[int, float] = {}

    # -- processes ----------------------------------------------------------------------------------------------

    def start(self, *arguments: str, before: str = "") -> subprocess.Popen[str]:
        """`automl` with these arguments and a lease; `before` is Python that runs in the process first."""
        return self._start(*arguments, "--lease", str(LEASE_S), before=before)

    def start_service(self, *arguments: str) -> subprocess.Popen[str]:
        return self._start("serve", *arguments)

    def _start(self, *arguments: str, before: str = "") -> subprocess.Popen[str]:
        script = f"import sys\n{before}\nfrom automl.cli import main\nmain()"
        name = f"{len(self.processes)}-{arguments[0]}.log"
        with (self.directory / name).open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", script, *arguments, "--storage", self.url],
                cwd=self.directory,
                env=os.environ | {"AUTOML_ARTIFACTS": str(self.artifacts), "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )
        self.processes.append(process)
        return process

    def run(self, workers: int = 2) -> subprocess.Popen[str]:
        return self.start("run", str(self.file), "--workers", str(workers))

    def worker(self, before: str = "") -> subprocess.Popen[str]:
        return self.start("worker", "--workers", "1", before=before)

    def submit(self) -> None:
        process = subprocess.run(
            [sys.executable, "-m", "automl", "submit", str(self.file), "--storage", self.url],
            cwd=self.directory,
            env=os.environ | {"AUTOML_ARTIFACTS": str(self.artifacts), "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
        assert process.returncode == 0, process.stderr

    def said(self) -> str:
        """What all processes wrote."""
        return "\n".join(f"== {path.name}\n{path.read_text()}" for path in sorted(self.directory.glob("*.log")))

    def trial_processes(self, process: subprocess.Popen[str]) -> list[psutil.Process]:
        """The children of the study's template under this supervisor."""
        try:
            templates = psutil.Process(process.pid).children()
            return [child for template in templates for child in template.children()]
        except psutil.NoSuchProcess:
            return []

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                for member in [*psutil.Process(process.pid).children(recursive=True), process]:
                    with suppress(ProcessLookupError):
                        os.kill(member.pid, signal.SIGKILL)
            process.wait(DEADLINE_S)
        self.engine.close()

    # -- the script ---------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Trials stop in their third step."""
        (self.directory / "hold").touch()

    def let_go(self, attempt: int | None = None) -> None:
        """They go on: all of them, or those of this attempt."""
        if attempt is None:
            (self.directory / "hold").unlink()
        else:
            (self.directory / f"go-{attempt}").touch()

    # -- watching -----------------------------------------------------------------------------------------------

    def until(self, what: str, condition: Callable[[], T], deadline_s: float = DEADLINE_S) -> T:
        """Waits until `condition()` holds, and remembers on the way every result that was acknowledged."""
        give_up = time.monotonic() + deadline_s
        while time.monotonic() < give_up:
            self._remember()
            if answer := condition():
                return answer
            time.sleep(0.02)
        raise AssertionError(f"{what}: not within {deadline_s:.0f} s\n{self.said()}")

    def _remember(self) -> None:
        with suppress(DatabaseUnavailable):  # it is the fault that is being tested
            for trial in self.all():
                if trial.state is TrialState.COMPLETE and trial.value is not None:
                    self._acknowledged.setdefault(trial.number, trial.value)

    def all(self) -> list[TrialRecord]:
        names = [record.name for record in self.engine.studies()]
        return self.engine.trials(self.engine.study("play")) if "play" in names else []

    def trial(self, number: int) -> TrialRecord:
        return self.all()[number]

    def running(self, count: int = 1, step: int = 3) -> bool:
        """So many trials run and have reported this step."""
        return sum(t.state is TrialState.RUNNING and (t.step or 0) >= step for t in self.all()) >= count

    def complete(self) -> int:
        return sum(trial.state is TrialState.COMPLETE for trial in self.all())

    def moves(self, number: int) -> list[dict[str, Any]]:
        return self.engine.moves(self.trial(number))

    def causes(self) -> list[str]:
        """The causes of all moves of all trials."""
        return [move["cause"] for trial in self.all() for move in self.engine.moves(trial)]

    def is_over(self) -> bool:
        return bool(self.all()) and self.engine.study("play").state is not StudyState.OPEN

    def problems(self) -> list[str]:
        """What is wrong at the end of a play: broken guarantees, a budget not used exactly, results that are gone."""
        record = self.engine.study("play")
        found = audit(self.engine.database, record.id)
        trials = self.all()
        if record.state is not StudyState.FINISHED:
            found.append(f"the study is {record.state}")
        if [trial.number for trial in trials] != list(range(self.trials)):
            found.append(f"numbers are {[trial.number for trial in trials]}")
        for trial in trials:
            if trial.state is not TrialState.COMPLETE:
                found.append(f"trial {trial.number} is {trial.state}")
            elif trial.value != trial.attempt + trial.params["x"] / 10:
                found.append(f"trial {trial.number} has the result of another attempt")
            if sorted(report.step for report in self.engine.reports(trial)) != [1, 2, 3, 4, 5]:
                found.append(f"trial {trial.number} lacks reports")
        for number, value in self._acknowledged.items():
            if trials[number].value != value:
                found.append(f"trial {number} had the result {value}, has {trials[number].value}")
        return found


def has_ended(process: psutil.Process) -> bool:
    """Whether the process does nothing any more; somebody may still have to collect it."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def theatre(url: str, directory: Path, **options: Any) -> Iterator[Theatre]:
    """A theatre whose processes are gone afterwards, whatever happened."""
    opened = Theatre(url, directory, **options)
    try:
        yield opened
    finally:
        opened.close()
