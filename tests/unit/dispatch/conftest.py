"""Engines, study files and searches for the tests of the dispatch."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from automl.core import StudyRecord, StudyState
from automl.dispatch.local import search
from automl.engine import Engine
from automl.trainers.host import StudyHost
from automl.trainers.source import FileSource, code_sha256
from automl.trainers.worker import slots_for

DEADLINE_S = 60.0


@dataclass
class Lab:
    """A folder with a database, and study files to search with."""

    folder: Path
    url: str
    stack: ExitStack

    def engine(self) -> Engine:
        """A new engine on the database, as another process would have."""
        engine = Engine(self.url, self.folder / "artifacts")
        self.stack.callback(engine.close)
        return engine

    def write(self, code: str, *, trials: int | None = 3, name: str = "s", **options: str) -> Path:
        """A study file; `options` are source text, as in `sampler='"grid"'`."""
        budget = f"Budget(trials={trials})"
        fields = {"space": '{"x": Float(0, 1)}', "metrics": '{"y": "min"}', "budget": budget, **options}
        arguments = ", ".join(f"{field}={text}" for field, text in fields.items())
        path = self.folder / f"{name}.py"
        head = "import os, pathlib, time\nfrom automl import Budget, Choice, Fidelity, Float, Int, Resources, Study\n"
        path.write_text(head + textwrap.dedent(code) + f"\nstudy = Study({name!r}, train, {arguments})\n")
        return path

    def host(self, path: Path) -> StudyHost:
        host = StudyHost.start(FileSource(str(path)), log_path=self.folder / "template.log")
        self.stack.callback(host.close)
        return host

    def declare(self, engine: Engine, path: Path, *, queued: bool = False) -> tuple[StudyRecord, StudyHost]:
        host = self.host(path)
        entrypoint = FileSource(str(path), host.spec.name).entrypoint
        record = engine.declare(host.spec, entrypoint=entrypoint, code_sha256=code_sha256(path), queued=queued)
        return record, host

    def search(self, path: Path, workers: int = 1, watch: Callable[[], None] = lambda: None) -> StudyRecord:
        engine = self.engine()
        record, host = self.declare(engine, path)
        return search(engine, record, host, slots_for(workers), 30.0, watched(watch))


def watched(watch: Callable[[], None] = lambda: None, what: str = "the end of the search") -> Callable[[], None]:
    """`watch`, which also fails the test when it is called for too long."""
    deadline = time.monotonic() + DEADLINE_S

    def check() -> None:
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        watch()

    return check


def wait_for_end(engine: Engine, record: StudyRecord, check: Callable[[], None] = lambda: None) -> StudyRecord:
    """Wait for another thread's or process's search, calling `check` meanwhile."""
    overdue = watched(check)
    while record.state is StudyState.OPEN:
        overdue()
        time.sleep(0.02)
        record = engine.study_by_id(record.id)
    return record


@pytest.fixture
def lab(tmp_path: Path, sqlite_url: str) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield Lab(tmp_path, sqlite_url, stack)
