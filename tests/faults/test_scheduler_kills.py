"""One search for each tick: several schedulers at once, and kill -9 anywhere in the life of one.

`--ticks 10000 --kill-points 100` for the long form.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import sqlalchemy as sa

from automl.cron import Plan
from automl.engine import Engine, connect
from automl.service.duties.scheduler import Scheduler
from automl.storage.tables import firing, study
from automl.team import FiringState
from tests.unit.searches import spec

MINUTE = 60.0
SCHEDULERS = 3
DEADLINE_S = 120.0

#: A scheduler whose clock is in a file, that looks again and again. It says "ready", then counts the lines that it runs
#: in the modules that start searches, and dies before line number `at` of them; with `at` None it ends after one look
#: and says how many there were.
DEATHWATCH = """
import os, signal, sys
from automl.engine import connect
from automl.service.duties.scheduler import Scheduler
{before}
url, artifacts, moment, at = {url!r}, {artifacts!r}, {moment!r}, {at!r}
names = ("automl/service/duties/scheduler.py", "automl/storage/schedules.py", "automl/storage/database.py")
seen = 0

def watch(frame, event, argument):
    global seen
    if not frame.f_code.co_filename.endswith(names):
        return None
    if event == "line":
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)
    return watch

scheduler = Scheduler(connect(url, artifacts), lambda: moment)
print("ready", flush=True)
sys.stdin.readline()
sys.settrace(watch)
scheduler.step()
sys.settrace(None)
print(seen)
"""

#: Python that commits each statement by itself.
WITHOUT_THE_TRANSACTION = """
from automl.storage.database import Database
Database.transaction = Database.connection
"""


class Station:
    """A schedule that comes each minute, and the schedulers that look at it."""

    def __init__(self, url: str, artifacts: Path):
        self.url = url
        self.artifacts = artifacts
        self.engine: Engine = connect(url, artifacts)
        plan = Plan(spec("digits").to_json(), "digits.py:digits", "* * * * *", catch_up="all", overlap="queue")
        seen_until = self.engine.schedules.add(plan).seen_until
        self.moment = seen_until - seen_until % MINUTE + 0.5
        self.ticks = 0
        self._started: list[subprocess.Popen[str]] = []

    def pass_minutes(self, minutes: int = 1) -> None:
        self.moment += minutes * MINUTE
        self.ticks += minutes

    def start(self, at: int | None = None, before: str = "") -> subprocess.Popen[str]:
        """A scheduler in a process of its own, which waits for a line before it looks."""
        fields = {"url": self.url, "artifacts": str(self.artifacts), "moment": self.moment, "at": at, "before": before}
        process = subprocess.Popen(
            [sys.executable, "-c", DEATHWATCH.format(**fields)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def look(self) -> None:
        """What a scheduler does that takes over."""
        Scheduler(self.engine, lambda: self.moment).step()

    def problems(self) -> list[str]:
        """What is not one search for each tick."""
        rows = self.engine.database.all(sa.select(firing.c.tick, firing.c.state, firing.c.study_id))
        studies = [row.id for row in self.engine.database.all(sa.select(study.c.id).order_by(study.c.id))]
        found = []
        if len(rows) != self.ticks or len({row.tick for row in rows}) != self.ticks:
            found.append(f"{len(rows)} rows for {self.ticks} ticks")
        if {row.state for row in rows} - {FiringState.STARTED.value}:
            found.append("a tick was not started")
        if sorted(row.study_id or 0 for row in rows) != studies:
            found.append(f"{len(studies)} searches for {len(rows)} rows")
        return found

    def close(self) -> None:
        for process in self._started:
            with process, suppress(ProcessLookupError):
                process.kill()
        self.engine.close()


@pytest.fixture
def station(url: str, artifacts: Path) -> Iterator[Station]:
    built = Station(url, artifacts)
    yield built
    built.close()


@pytest.mark.timeout(1800)
def test_several_schedulers_start_one_search_for_each_tick(station: Station, request: pytest.FixtureRequest) -> None:
    """They look in the same moment; at times two of them sleep, and catch up later."""
    ticks = request.config.getoption("--ticks")
    together = threading.Barrier(SCHEDULERS)
    problems: list[BaseException] = []

    def work(me: int) -> None:
        scheduler = Scheduler(station.engine, lambda: station.moment)
        try:
            for tick in range(ticks):
                together.wait(DEADLINE_S)
                if me == 0:
                    station.pass_minutes()
                together.wait(DEADLINE_S)
                if me == tick // 10 % SCHEDULERS or tick % 10 > 2:
                    scheduler.step()
        except BaseException as error:
            problems.append(error)
            together.abort()

    threads = [threading.Thread(target=work, args=(me,)) for me in range(SCHEDULERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    station.look()
    assert problems == []
    assert station.problems() == []


@pytest.mark.timeout(1800)
def test_a_scheduler_that_is_killed_anywhere_leaves_one_search_for_each_tick(
    station: Station, request: pytest.FixtureRequest
) -> None:
    """Three are started at once; all but one die somewhere in their look, and the next ones take over."""
    points = request.config.getoption("--kill-points")
    chance = random.Random(0)
    station.pass_minutes(2)
    process = station.start()
    said, _ = process.communicate("\n", timeout=DEADLINE_S)
    lines = int(said)
    killed = 0
    while killed < points:
        station.pass_minutes(chance.randint(1, 3))
        dying = [station.start(at=1 + int(chance.random() * lines)) for _ in range(SCHEDULERS - 1)]
        for process in dying:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        if chance.random() < 0.5:
            station.look()
        for process in dying:
            process.communicate(timeout=DEADLINE_S)
            assert process.returncode in (0, -signal.SIGKILL)
            killed += process.returncode == -signal.SIGKILL
        station.look()
        assert station.problems() == [], f"after {killed} kills"
    print(f"{station.engine.database.dialect}: {killed} kills, {station.ticks} ticks")


def test_the_checks_notice_a_scheduler_without_its_transaction(station: Station) -> None:
    """The row of the tick is there then, and its study is not."""
    noticed = False
    for at in range(150, 600, 15):
        station.pass_minutes()
        process = station.start(at=at, before=WITHOUT_THE_TRANSACTION)
        process.communicate("\n", timeout=DEADLINE_S)
        station.look()
        if station.problems():
            noticed = True
            break
    assert noticed
