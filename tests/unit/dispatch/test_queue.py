"""A worker on the queue: what it takes up, passes over and drops."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from automl.core import StudyRecord, StudyState
from automl.dispatch import local as local_module
from automl.dispatch import queue as queue_module
from automl.dispatch.queue import QueueWorker
from automl.engine import Engine
from automl.trainers.host import StudyHost
from automl.trainers.worker import slots_for
from tests.unit.dispatch.conftest import DEADLINE_S, Lab, wait_for_end

QUICK = "def train(trial): return trial.params['x']"
ENDLESS = "def train(trial):\n    trial.report(0.5, step=0)\n    while True:\n        time.sleep(60)"

BROKEN_SAMPLER = """
import optuna
class Broken(optuna.samplers.RandomSampler):
    def before_trial(self, study, trial):
        raise ZeroDivisionError("a sampler with a bug")
"""


class Closed(Exception):
    """Ends the worker of a test, as Ctrl-C would."""


class Lines:
    """What a worker says. Raises `Closed` into it once it is told to."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._changed = threading.Condition()

    def say(self, line: str) -> None:
        with self._changed:
            self.all.append(line)
            self._changed.notify_all()

    def wait_for(self, text: str) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: any(text in line for line in self.all), DEADLINE_S)
        assert found, f"not said within {DEADLINE_S} s: {text!r}, but {self.all}"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "LOOK_S", (0.02, 0.02))


def submit(lab: Lab, engine: Engine, path: Path) -> StudyRecord:
    record, host = lab.declare(engine, path, queued=True)
    host.close()
    return record


def serve(engine: Engine) -> list[str]:
    """Serve the queue until nothing is left; what the worker said."""
    lines = Lines()
    QueueWorker(engine, slots_for(1), 30.0, lines.say).serve(exit_when_idle=True)
    return lines.all


@contextmanager
def serving(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    """A worker in a thread, which is interrupted at the end."""
    lines, over, raised = Lines(), threading.Event(), []

    def sleep(seconds: float) -> None:
        if over.wait(seconds):
            raise Closed

    def work() -> None:
        try:
            QueueWorker(engine, slots_for(1), 30.0, lines.say).serve(exit_when_idle=False)
        except BaseException as error:
            raised.append(error)

    clock = type("Clock", (), {"sleep": staticmethod(sleep)})
    monkeypatch.setattr(queue_module, "time", clock)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield lines
    finally:
        over.set()
        thread.join(DEADLINE_S)
    assert [type(error) for error in raised] == [Closed]


def test_a_worker_runs_what_is_queued_and_ends_when_nothing_is_left(lab: Lab) -> None:
    engine = lab.engine()
    records = [submit(lab, engine, lab.write(QUICK, trials=2, name=name, sampler='"random"')) for name in ("a", "b")]
    said = serve(engine)
    assert sorted(said) == ["study a: finished", "study a: taken up", "study b: finished", "study b: taken up"]
    assert [engine.study_by_id(record.id).state for record in records] == [StudyState.FINISHED] * 2


def test_a_worker_looks_less_often_while_nothing_happens(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, path = lab.engine(), lab.write(QUICK, trials=1)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 6:
            submit(lab, engine, path)
            path.unlink()  # it cannot be taken up: nothing happens but that it is there
        if len(pauses) == 8:
            raise Closed

    monkeypatch.setattr(queue_module, "LOOK_S", (0.5, 2.0))
    monkeypatch.setattr(queue_module, "time", type("Clock", (), {"sleep": staticmethod(sleep)}))
    with pytest.raises(Closed):
        QueueWorker(engine, slots_for(1), 30.0, Lines().say).serve(exit_when_idle=False)
    assert pauses == [0.5, 0.75, 1.125, 1.6875, 2.0, 2.0, 0.5, 0.75]


def test_a_worker_that_finds_nothing_ends_at_once(lab: Lab) -> None:
    assert serve(lab.engine()) == []


def gone(path: Path) -> None:
    path.unlink()


def changed(path: Path) -> None:
    path.write_text(path.read_text() + "# changed\n")


@pytest.mark.parametrize(("harm", "says"), [(gone, "is not on this machine"), (changed, "is not the file that was")])
def test_a_study_whose_file_does_not_fit_is_passed_over_and_the_others_are_run(
    lab: Lab, harm: Callable[[Path], None], says: str
) -> None:
    engine = lab.engine()
    path = lab.write(QUICK, name="bad")
    submit(lab, engine, path)
    harm(path)
    submit(lab, engine, lab.write(QUICK, name="good", trials=1, sampler='"random"'))
    said = serve(engine)
    assert "study good: finished" in said
    (line,) = [line for line in said if line.startswith("study bad")]
    assert "passed over" in line and says in line
    assert engine.study("bad").state is StudyState.OPEN


def test_a_study_that_needs_gpus_is_left_to_workers_that_have_them(lab: Lab) -> None:
    engine = lab.engine()
    submit(lab, engine, lab.write(QUICK, resources="Resources(gpus=1)"))
    (said,) = serve(engine)
    assert "passed over: resources.gpus" in said


def test_a_study_whose_file_fails_here_is_passed_over_until_it_is_submitted_anew(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = lab.engine()
    flag = "WORKS = pathlib.Path(__file__).with_suffix('.works').exists()\nassert WORKS, 'not here'\n"
    path = lab.write(flag + QUICK, trials=1, sampler='"random"')
    works = path.with_suffix(".works")
    works.touch()
    record = submit(lab, engine, path)
    works.unlink()
    with serving(lab.engine(), monkeypatch) as lines:
        lines.wait_for("passed over")
        works.touch()
        changed(path)
        submit(lab, engine, path)
        assert wait_for_end(engine, record).state is StudyState.FINISHED
        lines.wait_for("study s: finished")
    assert sum("passed over" in line for line in lines.all) == 1


def test_a_study_that_is_stopped_is_dropped_with_its_trials(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = lab.engine()
    record = submit(lab, engine, lab.write(ENDLESS, sampler='"random"'))
    other = submit(lab, engine, lab.write(QUICK, name="other", trials=2, sampler='"random"'))
    with serving(lab.engine(), monkeypatch) as lines:
        until(lambda: engine.counts([record])[record.id]["running"] == 1)
        engine.stop("s")
        lines.wait_for("study s: stopped")
        assert wait_for_end(engine, other).state is StudyState.FINISHED, "the slot is free again"
    assert {trial.state.value for trial in engine.trials(record)} == {"cancelled"}


def test_an_interrupted_worker_hands_its_trial_back(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = lab.engine()
    record = submit(lab, engine, lab.write(ENDLESS, sampler='"random"'))
    with serving(lab.engine(), monkeypatch):
        until(lambda: engine.counts([record])[record.id]["running"] == 1)
    assert {trial.state.value for trial in engine.trials(record)} == {"waiting"}


def test_a_template_that_dies_is_replaced_and_one_that_always_dies_is_passed_over(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_module, "MAX_RESTARTS", 1)
    hosts: list[StudyHost] = []
    start = StudyHost.start.__func__  # type: ignore[attr-defined]

    def remembered(cls: type[StudyHost], *arguments: object, **options: object) -> StudyHost:
        hosts.append(start(cls, *arguments, **options))
        return hosts[-1]

    engine = lab.engine()
    record = submit(lab, engine, lab.write(ENDLESS, sampler='"random"'))
    monkeypatch.setattr(StudyHost, "start", classmethod(remembered))
    with serving(lab.engine(), monkeypatch) as lines:
        for count in (1, 2):
            until(lambda count=count: len(hosts) == count)  # type: ignore[misc]
            os.kill(hosts[-1]._process.pid, signal.SIGKILL)
        lines.wait_for("passed over: study 's': the process that holds its code was killed 2 times")
    assert engine.study_by_id(record.id).state is StudyState.OPEN


def test_what_one_studys_sampler_raises_does_not_stop_the_others(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = lab.engine()
    submit(lab, engine, lab.write(BROKEN_SAMPLER + QUICK, name="bad", sampler="Broken()"))
    submit(lab, engine, lab.write(QUICK, name="good", trials=1, sampler='"random"'))
    said = serve(engine)
    assert "study good: finished" in said
    assert "study bad: passed over: a sampler with a bug" in said


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s"
        time.sleep(0.01)
