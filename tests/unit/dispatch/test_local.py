"""Searches on one machine: budgets, look-ahead, several processes on one database, dead templates."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest
import sqlalchemy as sa
from optuna.samplers import RandomSampler

from automl.core import StudyRecord, StudyState, TrialState
from automl.dispatch import local as local_module
from automl.dispatch.local import LocalDispatch, search
from automl.engine import Engine
from automl.errors import InvalidStudy, StudyFailed
from automl.storage.audit import audit
from automl.storage.tables import study, trial
from automl.trainers.worker import Slot, slots_for
from tests.unit.dispatch.conftest import DEADLINE_S, Lab, wait_for_end, watched

QUICK = "def train(trial): return trial.params['x']"
#: Waits until the test makes the file "go" in the folder of the study file.
GATED = """
GO = pathlib.Path(__file__).parent / "go"
def train(trial):
    trial.report(0.5, step=0)
    while not GO.exists():
        time.sleep(0.005)
    return trial.params["x"]
"""


def states(engine: Engine, record: StudyRecord) -> list[str]:
    return [trial.state.value for trial in engine.trials(record)]


def numbers(engine: Engine, record: StudyRecord) -> list[int]:
    return [trial.number for trial in engine.trials(record)]


# -- budgets ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "sampler"), [(1, '"random"'), (2, '"tpe"')])
def test_a_search_runs_exactly_its_budget(lab: Lab, workers: int, sampler: str) -> None:
    record = lab.search(lab.write(QUICK, trials=7, sampler=sampler), workers)
    engine = lab.engine()
    assert record.state is StudyState.FINISHED
    assert numbers(engine, record) == list(range(7)) and set(states(engine, record)) == {"complete"}
    assert audit(engine.database, record.id) == []


def test_who_watches_is_called_less_often_while_nothing_begins_or_ends(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, pauses = lab.write(GATED, trials=1, sampler='"random"'), list[float]()
    wait_for_news = LocalDispatch.wait_for_news

    def noted(self: LocalDispatch, seconds: float) -> bool:
        pauses.append(round(seconds, 3))
        if len(pauses) > 6 and pauses[-2:] == [0.8, 0.8]:
            (path.parent / "go").touch()
        return wait_for_news(self, seconds)

    monkeypatch.setattr(LocalDispatch, "wait_for_news", noted)
    assert lab.search(path).state is StudyState.FINISHED
    grown = pauses.index(0.8)
    assert pauses[grown - 4 : grown] == [0.0, 0.2, 0.4, 0.6]


def test_the_same_search_with_a_larger_budget_goes_on(lab: Lab) -> None:
    lab.search(lab.write(QUICK, trials=2, sampler='"random"'))
    record = lab.search(lab.write(QUICK, trials=4, sampler='"random"'))
    assert states(lab.engine(), record) == ["complete"] * 4


@pytest.mark.parametrize("workers", [1, 3])
def test_as_many_suggestions_wait_as_trials_run_and_never_more_than_the_budget_has(lab: Lab, workers: int) -> None:
    engine = lab.engine()
    record, host = lab.declare(engine, lab.write(GATED, trials=4, sampler='"random"'))
    expected = {"running": min(workers, 4), "waiting": min(workers, 4 - workers)}
    with LocalDispatch(engine, slots_for(workers)) as local:
        local.add(record, host)
        until(lambda: expected.items() <= engine.counts([record])[record.id].items(), f"{expected}", local)
        (lab.folder / "go").touch()
        wait_for_end(engine, record, local.check)
    assert states(engine, record) == ["complete"] * 4


def test_a_grid_ends_the_search_when_it_has_no_more_points(lab: Lab) -> None:
    space = '{"c": Choice("a", "b"), "n": Int(1, 3)}'
    path = lab.write("def train(trial): return trial.params['n']", trials=50, sampler='"grid"', space=space)
    record = lab.search(path, workers=2)
    engine = lab.engine()
    assert record.state is StudyState.FINISHED
    points = {(t.params["c"], t.params["n"]) for t in engine.trials(record)}
    assert len(engine.trials(record)) == len(points) == 6


def test_a_budget_of_minutes_ends_the_search_and_cancels_what_waits(lab: Lab) -> None:
    code = "def train(trial):\n    time.sleep(0.05)\n    return 1.0"
    record = lab.search(lab.write(code, sampler='"random"', budget="Budget(minutes=1.5 / 60)"))
    engine = lab.engine()
    assert record.state is StudyState.FINISHED and record.active_s >= 1.5
    ended = states(engine, record)
    assert ended.count("complete") >= 3 and set(ended) <= {"complete", "cancelled"}


def test_an_enqueued_trial_is_completed_and_run_first(lab: Lab) -> None:
    engine = lab.engine()
    path = lab.write(QUICK, trials=3, space='{"x": Float(0, 1), "z": Float(0, 1)}')
    record, host = lab.declare(engine, path)
    assert engine.enqueue(record, {"x": 0.125}) == 0
    record = search(engine, record, host, slots_for(1), 30.0, watched())
    first = engine.trial(record, 0)
    assert first.values == (0.125,) and set(first.params) == {"x", "z"}
    assert states(engine, record) == ["complete"] * 3


def test_an_enqueued_trial_that_cannot_be_is_cancelled_and_the_search_goes_on(lab: Lab) -> None:
    engine = lab.engine()
    path = lab.write(QUICK, trials=3, space='{"x": Float(0, 1, step=0.25)}')
    record, host = lab.declare(engine, path)
    engine.enqueue(record, {"x": 0.3})  # between the points of the grid
    record = search(engine, record, host, slots_for(1), 30.0, watched())
    assert record.state is StudyState.FINISHED
    assert states(engine, record) == ["cancelled"] + ["complete"] * 3


def test_a_study_that_is_stopped_ends_the_search_and_its_trials(lab: Lab) -> None:
    engine = lab.engine()
    record, host = lab.declare(engine, lab.write(GATED, trials=4, sampler='"random"'))
    stopped = threading.Event()

    def stop() -> None:
        if not stopped.is_set() and engine.counts([record])[record.id]["running"]:
            engine.stop("s")
            stopped.set()

    record = search(engine, record, host, slots_for(1), 30.0, watched(stop))
    assert record.state is StudyState.STOPPED and set(states(engine, record)) == {"cancelled"}


def test_a_search_that_is_interrupted_hands_its_trials_back(lab: Lab) -> None:
    engine = lab.engine()
    record, host = lab.declare(engine, lab.write(GATED, trials=4, sampler='"random"'))

    def interrupt() -> None:
        if engine.counts([record])[record.id]["running"]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(engine, record, host, slots_for(1), 30.0, watched(interrupt))
    assert set(states(engine, record)) == {"waiting"} and not host.alive
    (lab.folder / "go").touch()
    assert lab.search(lab.folder / "s.py").state is StudyState.FINISHED


# -- several processes --------------------------------------------------------------------------------------------


def test_two_dispatchers_share_a_study_and_never_exceed_its_budget(lab: Lab) -> None:
    path = lab.write(QUICK, trials=30, sampler='"random"')
    engines = [lab.engine(), lab.engine()]
    pairs = [lab.declare(engine, path) for engine in engines]
    record = pairs[0][0]
    with LocalDispatch(engines[0], slots_for(2)) as one, LocalDispatch(engines[1], slots_for(2)) as other:
        for local, (_, host) in zip((one, other), pairs, strict=True):
            local.add(record, host)

        def check() -> None:
            one.check()
            other.check()

        record = wait_for_end(engines[0], record, check)
    assert numbers(engines[0], record) == list(range(30))
    assert set(states(engines[0], record)) == {"complete"}
    assert audit(engines[0].database, record.id) == []


def test_only_one_dispatcher_suggests_and_the_other_takes_over_when_its_lease_is_over(lab: Lab) -> None:
    path = lab.write(GATED, trials=4, sampler='"random"')
    engine, other_engine = lab.engine(), lab.engine()
    record, host = lab.declare(engine, path)
    token = engine.suggester(record)  # a process that holds the study and then says no more
    assert token.step(1, 3600.0) == 1
    holder = suggester_token(engine, record)
    with LocalDispatch(other_engine, slots_for(1)) as local:
        local.add(record, host)
        until(lambda: engine.counts([record])[record.id]["running"] == 1, "a running trial", local)
        assert suggester_token(engine, record) == holder and numbers(engine, record) == [0]
        engine.database.execute(sa.update(study).values(suggester_expires_at=1.0))
        until(lambda: len(numbers(engine, record)) == 2, "a suggestion by the other", local)
        assert suggester_token(engine, record) != holder
        assert token.step(1, 3600.0) == 0, "the first does not hold it any more"
        (lab.folder / "go").touch()
        wait_for_end(engine, record, local.check)
    assert suggester_token(engine, record) is None, "the next process need not wait"


def test_the_trials_of_a_dead_worker_are_taken_back_and_run_again(lab: Lab) -> None:
    engine = lab.engine()
    record, host = lab.declare(engine, lab.write(QUICK, trials=2, sampler='"random"'))
    dead = engine.suggester(record)
    dead.step(1, 30.0)
    dead.close()
    assert engine.claim([record.id], "dead", "token-of-the-dead", 3600.0) is not None
    engine.database.execute(sa.update(trial).values(lease_expires_at=1.0))
    record = search(engine, record, host, slots_for(1), 30.0, watched())
    assert states(engine, record) == ["complete"] * 2 and engine.trial(record, 0).attempt == 2


def suggester_token(engine: Engine, record: StudyRecord) -> str | None:
    row = engine.database.first(sa.select(study.c.suggester_token).where(study.c.id == record.id))
    assert row is not None
    return row[0]


# -- troubles -----------------------------------------------------------------------------------------------------


def test_a_template_that_is_killed_gets_a_successor(lab: Lab) -> None:
    engine = lab.engine()
    record, host = lab.declare(engine, lab.write(GATED, trials=3, sampler='"random"'))

    def kill_once() -> None:
        if host.alive and engine.counts([record])[record.id]["running"]:
            os.kill(host._process.pid, signal.SIGKILL)
            host._reader.join(DEADLINE_S)
            (lab.folder / "go").touch()

    record = search(engine, record, host, slots_for(1), 30.0, watched(kill_once))
    assert record.state is StudyState.FINISHED and states(engine, record) == ["complete"] * 3
    assert engine.trial(record, 0).attempt == 2


def test_a_study_that_kills_its_template_again_and_again_fails_with_the_reason(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_module, "MAX_RESTARTS", 1)
    code = "def train(trial):\n    os.kill(os.getppid(), 9)\n    time.sleep(60)"
    with pytest.raises(StudyFailed, match="process that holds its code was killed 2 times"):
        lab.search(lab.write(code, trials=2, sampler='"random"'))
    assert set(states(lab.engine(), lab.engine().study("s"))) == {"waiting"}


def test_a_template_is_not_started_again_from_a_file_that_was_changed(lab: Lab) -> None:
    engine = lab.engine()
    path = lab.write(GATED, trials=3, sampler='"random"')
    record, host = lab.declare(engine, path)

    def kill() -> None:
        if host.alive and engine.counts([record])[record.id]["running"]:
            path.write_text(path.read_text() + "# changed\n")
            os.kill(host._process.pid, signal.SIGKILL)
            host._reader.join(DEADLINE_S)

    with pytest.raises(InvalidStudy, match="is not the file that was submitted"):
        search(engine, record, host, slots_for(1), 30.0, watched(kill))


def test_a_study_that_needs_more_gpus_than_a_slot_has_is_refused(lab: Lab) -> None:
    engine = lab.engine()
    record, host = lab.declare(engine, lab.write(QUICK, resources="Resources(gpus=2)"))
    for slots in ([Slot(0), Slot(1, ("0",))], []):
        with pytest.raises(InvalidStudy, match=r"resources.gpus: study 's' needs 2 GPU\(s\)"):
            search(engine, record, host, slots, 30.0, watched())
    assert not host.alive


def test_what_a_sampler_raises_ends_the_search(lab: Lab) -> None:
    class Broken(RandomSampler):
        def before_trial(self, study: object, trial: object) -> None:
            raise ZeroDivisionError("a sampler with a bug")

    engine = lab.engine()
    record, host = lab.declare(engine, lab.write(QUICK))
    host.sampler = Broken()
    with pytest.raises(ZeroDivisionError, match="a sampler with a bug"):
        search(engine, record, host, slots_for(1), 30.0, watched())


def test_a_study_whose_trials_all_fail_alike_ends_the_search(lab: Lab) -> None:
    record = lab.search(lab.write("def train(trial): raise ValueError('no data')", trials=20, sampler='"random"'))
    assert record.state is StudyState.FAILED and "no data" in (record.reason or "")
    failed = [t for t in lab.engine().trials(record) if t.state is TrialState.FAILED]
    assert len(failed) <= 4


def until(condition: Callable[[], bool], what: str, local: LocalDispatch) -> None:
    """Poll the database, which sends no signal."""
    overdue = watched(local.check, what)
    while not condition():
        overdue()
        time.sleep(0.01)
