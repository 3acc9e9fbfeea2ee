"""kill -9 of `automl promote` and `automl rollback`: the alias names what it named before, or what it was to name.

Ten points of a process' life by default; `pytest tests/faults/test_promotion_kills.py --kill-points 50` tries more.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.acceptance.desk import wait_until
from tests.conformance.gallery import Gallery, write_onnx_model

DEADLINE_S = 120.0

#: `automl`, which counts the lines that it runs in the modules of promotion, and dies before line number `at` of them,
#: or before the first that has the text `at` in it. With `at` None it writes down how many there were.
DEATHWATCH = """
import linecache, os, signal, sys
at, counted = {at!r}, {counted!r}
{before}
names = ("automl/promotion.py", "automl/gates.py", "automl/engine.py")
names += tuple("automl/storage/" + name for name in ("registry.py", "artifacts.py", "database.py", "trials.py"))
seen = 0

def watch(frame, event, argument):
    global seen
    if not frame.f_code.co_filename.endswith(names):
        return None
    if event == "line":
        seen += 1
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        if seen == at or (isinstance(at, str) and at in line):
            os.kill(os.getpid(), signal.SIGKILL)
    return watch

from automl.cli import main
sys.settrace(watch)
try:
    main()
finally:
    sys.settrace(None)
    with open(counted, "w") as file:
        file.write(str(seen))
"""

#: Python that commits each statement of a move by itself.
WITHOUT_THE_TRANSACTION = """
from automl.storage.database import Database
Database.transaction = Database.connection
"""


class Stage:
    """A study with models, and the processes that promote them."""

    def __init__(self, url: str, directory: Path, files: list[Path]):
        self.directory = directory
        self.gallery = Gallery(url, directory / "artifacts", files)
        self.numbers = [self.gallery.trained(value) for value in (0.1, 0.2, 0.3, 0.4)]
        for number in self.numbers[:2]:
            self.gallery.put_up(number)
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *words: str, at: int | str | None = None, before: str = "") -> subprocess.Popen[str]:
        """`automl WORDS...`, dying at this point of its life."""
        script = DEATHWATCH.format(at=at, counted=str(self.directory / "counted"), before=before)
        process = subprocess.Popen(
            [sys.executable, "-c", script, *words, "--storage", self.gallery.url],
            cwd=self.directory,
            env=os.environ
            | {
                "AUTOML_ARTIFACTS": str(self.gallery.engine.artifacts.root),
                "PYTHONPATH": os.pathsep.join(sys.path),
                "TMPDIR": str(self.directory),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def ended(self, process: subprocess.Popen[str]) -> str:
        """What it said at last, when nothing of it works any more, on the database's side neither."""
        _, said = process.communicate(timeout=DEADLINE_S)
        self._end(process)
        if self.gallery.database.dialect == "postgresql":  # a server finishes what it was told by one who is dead
            others = sa.text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            wait_until(lambda: self.gallery.database.all(others)[0].count == 0)
        return said

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        """The process that it had load a model, too."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        for process in self._started:
            self._end(process)
            process.wait(DEADLINE_S)
        self.gallery.close()

    @property
    def now(self) -> int:
        """The version that the alias names."""
        return self.gallery.named()["champion"]

    def next_trial(self, chance: random.Random) -> str:
        """One that the alias does not name."""
        named = self.gallery.engine.model_version("lab").number
        return str(chance.choice([number for number in self.numbers if number != named]))

    def next_command(self, chance: random.Random) -> list[str]:
        """A promotion of another trial than the present one, or a rollback."""
        moves = self.gallery.engine.promotions("lab")
        promoted = sum(1 if move.kind == "promote" else -1 for move in moves)
        if promoted > 1 and chance.random() < 0.4:
            return ["rollback", "lab"]
        return ["promote", "lab", "--trial", self.next_trial(chance)]


@pytest.fixture
def stage(url: str, tmp_path: Path, files: list[Path]) -> Iterator[Stage]:
    built = Stage(url, tmp_path, files)
    yield built
    built.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_onnx_model(tmp_path_factory.mktemp("model"))


def measured(stage: Stage) -> dict[str, tuple[float, int]]:
    """How long each command lives, in seconds and in lines."""
    lives = {}
    for command in (["promote", "lab", "--trial", "2"], ["rollback", "lab"]):
        began = time.monotonic()
        process = stage.start(*command)
        said = stage.ended(process)
        assert process.returncode == 0, said
        lives[command[0]] = (time.monotonic() - began, int((stage.directory / "counted").read_text()))
    return lives


@pytest.mark.timeout(600)
def test_a_promotion_that_is_killed_anywhere_leaves_the_alias_whole(
    stage: Stage, request: pytest.FixtureRequest
) -> None:
    """Half of the points are spread over the time of a life, half over the lines that move the alias."""
    points = request.config.getoption("--kill-points")
    chance = random.Random(0)
    lives = measured(stage)
    outcomes: Counter[str] = Counter()
    for point in range(points):
        command = stage.next_command(chance)
        life_s, lines = lives[command[0]]
        fraction = (point // 2 + chance.random()) / ((points + 1) // 2)
        before, moves = stage.now, len(stage.gallery.engine.promotions("lab"))
        process = stage.start(*command, at=1 + int(fraction * lines) if point % 2 else None)
        if point % 2 == 0:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=fraction * life_s)
            process.kill()
        said = stage.ended(process)
        assert process.returncode in (0, -signal.SIGKILL), said
        assert stage.gallery.problems() == [], f"point {point}: {command} at {fraction:.3f} of its life"
        moved = len(stage.gallery.engine.promotions("lab")) - moves
        assert (moved, stage.now == before) in ((0, True), (1, False))
        outcomes[f"{'killed' if process.returncode else 'done'}, {'moved' if moved else 'not moved'}"] += 1
    print(f"{stage.gallery.database.dialect}: {dict(outcomes)}")
    assert outcomes["killed, not moved"] + outcomes["killed, moved"] >= points * 0.7, outcomes
    process = stage.start("promote", "lab", "--trial", stage.next_trial(chance))
    said = stage.ended(process)
    assert process.returncode == 0, said  # no lock was left


#: A line, and the version that the alias names when a rollback from version 2 died before it.
AROUND_THE_COMMIT = {
    "values(version_id=version_id)": 2,  # nothing was written
    "sa.insert(promotion)": 2,  # the alias was, in the transaction
    'exec_driver_sql("COMMIT")': 2,  # everything was
    "return replace(draft": 1,  # committed, and nobody was told
}


def test_a_rollback_that_is_killed_around_its_commit_has_happened_or_has_not(stage: Stage) -> None:
    for line, version in AROUND_THE_COMMIT.items():
        process = stage.start("rollback", "lab", at=line)
        said = stage.ended(process)
        assert process.returncode == -signal.SIGKILL, said
        assert stage.gallery.problems() == []
        assert stage.now == version, line


def test_the_checks_notice_a_move_that_is_not_atomic(stage: Stage) -> None:
    process = stage.start("rollback", "lab", at="sa.insert(promotion)", before=WITHOUT_THE_TRANSACTION)
    stage.ended(process)
    assert process.returncode == -signal.SIGKILL
    assert any("the history says" in problem for problem in stage.gallery.problems())
