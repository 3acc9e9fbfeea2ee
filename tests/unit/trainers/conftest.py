"""Jobs, study files and templates for the tests of the trial's processes."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from automl.trainers import wire
from automl.trainers.host import StudyHost
from automl.trainers.source import FileSource
from tests.unit.trainers.trial_processes import FakeLink, messages_of

#: What a study file needs before there is `automl.Study`.
STUDY = """
from automl.declaration import Budget, Choice, Fidelity, Float, Space, StudySpec
from automl.trainers.source import Declared

def study_of(train, **changes):
    fields = dict(
        name="test", space=Space({"x": Float(0, 1)}), metrics={"score": "max"}, budget=Budget(trials=3)
    )
    return Declared(StudySpec(**fields | changes), train)
"""


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
def job(tmp_path: Path) -> wire.Job:
    return wire.Job(
        study_seed=7,
        trial_id=12,
        number=3,
        attempt=1,
        seed=11,
        params={"x": 0.5},
        distributions={},
        metrics={"score": "max"},
        prunable=False,
        max_step=None,
        checkpoint=None,
        artifacts=str(tmp_path / "artifacts"),
    )


@pytest.fixture
def study_file(tmp_path: Path) -> Callable[..., Path]:
    """Write a study file: `study_file("def train(trial): ...", name="digits.py", study=True)`."""

    def write(code: str, name: str = "some_study.py", study: bool = True) -> Path:
        path = tmp_path / name
        text = textwrap.dedent(code)
        path.write_text(STUDY + text + "\nstudy = study_of(train)\n" if study else text)
        return path

    return write


@pytest.fixture
def start(tmp_path: Path, study_file: Callable[..., Path]) -> Iterator[Callable[..., StudyHost]]:
    """Start a host for the code of a study file; it is closed after the test."""
    with ExitStack() as stack:

        def start_host(code: str, study: bool = True, **source: Any) -> StudyHost:
            path = study_file(code, study=study)
            host = StudyHost.start(FileSource(str(path), **source), log_path=tmp_path / "template.log")
            return stack.enter_context(host)

        yield start_host


@pytest.fixture
def run(tmp_path: Path, job: wire.Job) -> Callable[..., list[wire.Message]]:
    """Run one attempt on a host and return all its messages, the `Exited` included."""

    def run_attempt(host: StudyHost, **changes: Any) -> list[wire.Message]:
        return messages_of(host.launch(replace(job, **changes), tmp_path / "trial.log"))

    return run_attempt
