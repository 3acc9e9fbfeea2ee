"""Batches: all or nothing, one after the other, a budget that is shared exactly, an end."""

from __future__ import annotations

import multiprocessing
import uuid
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from automl.core import Load, StudyRecord, StudyState, TrialState, WorkerRecord
from automl.declaration import Resources
from automl.engine import Engine, connect
from automl.errors import InvalidInput, NotFound, StudyConflict
from automl.storage.audit import audit
from automl.storage.batch_budget import USED
from automl.storage.batches import BatchStudy, Budget, gpus_of_slots
from automl.storage.distributions import Distributions
from automl.storage.studies import Studies
from automl.storage.tables import batch, event, study
from tests.conformance.lab import LEASE_S, Lab, complete, new_token, spec, suggestion


def item(name: str, **changes: Any) -> BatchStudy:
    return BatchStudy(spec(name, **changes), f"/code/{name}.py:{name}", "a" * 64)


def submit(engine: Engine, *names: str, trials: int = 10, name: str = "night", **options: Any) -> list[StudyRecord]:
    """A batch of these studies, each of `trials` trials."""
    made = engine.batches.submit(name, [item(study_name, trials=trials) for study_name in names], **options)
    return [engine.study(study_name) for study_name in made.studies]


def studies_of(engine: Engine) -> Studies:
    return Studies(engine.database, Distributions(engine.database), engine.project)


def suggest(studies: Studies, record: StudyRecord, token: str, most: int) -> int:
    """Add up to `most` trials; how many were added before the budget was used."""
    for made in range(most):
        held = studies.hold(record.id, token, LEASE_S)
        assert held is not None
        if not studies.add_suggestion(record.id, token, held.next_number, suggestion()):
            return made
    return most


def finish(engine: Engine, *records: StudyRecord) -> int:
    """Run all that waits; how many trials."""
    done = 0
    while lease := engine.claim([record.id for record in records], "alice-0", new_token(), LEASE_S):
        engine.finish(lease.token, complete(0.5 + lease.number))
        done += 1
    return done


def row(engine: Engine, name: str = "night") -> Any:
    found = engine.database.first(sa.select(batch).where(batch.c.name == name))
    assert found is not None
    return found


# -- submitting ----------------------------------------------------------------------------------------------------


def test_a_batch_has_its_studies_in_their_order(lab: Lab) -> None:
    submit(lab.engine, "b", "c", "a", priority=5, budget=Budget(trials=7, hours=2.0, gpu_hours=0.5))
    found = lab.engine.batches.get("night")
    assert (found.studies, found.priority, found.made) == (("b", "c", "a"), 5, 0)
    assert (found.max_trials, found.max_hours, found.max_gpu_hours) == (7, 2.0, 0.5)
    assert lab.engine.batches.all() == [found]
    assert lab.engine.study("c").queued and lab.engine.study("c").entrypoint == "/code/c.py:c"


def test_a_name_that_is_taken_leaves_nothing_behind(lab: Lab) -> None:
    before = lab.everything()
    with pytest.raises(StudyConflict, match=r"'lab'.*anew"):
        submit(lab.engine, "new", "lab")
    assert lab.everything() == before and lab.engine.batches.all() == []
    submit(lab.engine, "new")
    with pytest.raises(InvalidInput, match="there is a batch 'night' already"):
        submit(lab.engine, "newer")
    with pytest.raises(NotFound):
        lab.engine.study("newer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a/b"}, "batch: 'a/b'; use"),
        ({"name": ""}, "batch: ''"),
        ({"priority": 101}, "priority: 101"),
        ({"priority": True}, "priority: True"),
        ({"budget": Budget(trials=0)}, "batch-trials: 0"),
        ({"budget": Budget(hours=0.0)}, "batch-hours: 0.0"),
        ({"budget": Budget(gpu_hours=float("nan"))}, "batch-gpu-hours: nan"),
        ({"studies": []}, "0 studies"),
        ({"studies": [item("x"), item("x")]}, "two of its studies are called 'x'"),
    ],
)
def test_a_wrong_batch_is_told_what_is_wrong_with_it(lab: Lab, change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"name": "night", "studies": [item("x")]} | change
    with pytest.raises(InvalidInput, match=message):
        lab.engine.batches.submit(given.pop("name"), given.pop("studies"), **given)
    assert lab.engine.batches.all() == []


def test_a_project_does_not_see_the_batches_of_another(lab: Lab) -> None:
    submit(lab.engine, "a")
    other = lab.engine.of_project("other")
    assert other.batches.all() == []
    for verb in (other.batches.get, other.batches.stop, other.batches.report, other.batches.spent):
        with pytest.raises(NotFound, match="there is no 'night'; there is none yet"):
            verb("night")
    submit(other, "a")
    assert [found.project for found in lab.engine.batches.all()] == ["default"]


# -- one after the other --------------------------------------------------------------------------------------------


def test_the_next_study_comes_when_the_one_before_has_nothing_left_to_start(lab: Lab) -> None:
    first, second = submit(lab.engine, "a", "b", trials=2)
    studies, token = studies_of(lab.direct), new_token()
    assert queued(lab.engine) == ["a"]
    suggest(studies, first, token, 2)
    assert queued(lab.engine) == ["a"]  # its trials wait
    leases = [lab.engine.claim([first.id], "alice-0", new_token(), LEASE_S) for _ in range(2)]
    assert queued(lab.engine) == ["a", "b"]  # slots that are idle go on with the next one
    suggest(studies, second, token, 1)
    assert leases[0] is not None
    lab.engine.release(leases[0].token)
    assert queued(lab.engine) == ["a", "b"]  # what has begun goes on
    assert finish(lab.engine, first, second) == 2


def test_a_paused_or_ended_study_keeps_no_other_one_waiting(lab: Lab) -> None:
    submit(lab.engine, "a", "b", "c")
    lab.engine.pause("a")
    assert queued(lab.engine) == ["a", "b"]
    lab.engine.stop("b")
    assert queued(lab.engine) == ["a", "c"]
    lab.engine.resume("a")
    assert queued(lab.engine) == ["a"]


def queued(engine: Engine) -> list[str]:
    return [record.name for record in engine.queued_studies() if record.name != "lab"]


def test_a_batch_of_higher_priority_comes_first_and_single_studies_have_none(lab: Lab) -> None:
    lab.engine.declare(spec("single"), entrypoint="x.py", queued=True)
    (low,) = submit(lab.engine, "low", name="later", priority=-1)
    (high,) = submit(lab.engine, "high", name="now", priority=5)
    (equal,) = submit(lab.engine, "equal", name="even", priority=5)
    names = [record.name for record in lab.engine.queued_studies() if record.name != "lab"]
    assert names == ["high", "equal", "single", "low"]
    studies = studies_of(lab.direct)
    for record in (low, high, equal):
        suggest(studies, record, new_token(), 1)
    ids = [low.id, equal.id, high.id]
    claimed = [lab.engine.claim(ids, "alice-0", new_token(), LEASE_S) for _ in ids]
    assert [lease.study_id for lease in claimed if lease] == [high.id, equal.id, low.id]


# -- the budget -----------------------------------------------------------------------------------------------------


def test_the_trials_of_the_budget_are_shared(lab: Lab) -> None:
    first, second = submit(lab.engine, "a", "b", trials=4, budget=Budget(trials=6))
    studies, token = studies_of(lab.engine), new_token()
    assert suggest(studies, first, token, 9) == 4
    held = studies.hold(second.id, token, LEASE_S)
    assert held is not None and held.trials_left == 2
    assert suggest(studies, second, token, 9) == 2
    assert row(lab.engine).made == 6
    assert lab.engine.study("b").state is StudyState.OPEN
    with pytest.raises(InvalidInput, match="no trial left"):
        lab.engine.enqueue(second, {"x": 0.5})
    assert lab.engine.enqueue(second, {"x": 0.5}, extend=True) == 2  # the budget grows by one
    assert (row(lab.engine).made, row(lab.engine).max_trials) == (7, 7)
    for record in (first, second):
        assert audit(lab.database, record.id) == []


def test_what_is_cancelled_is_given_back(lab: Lab) -> None:
    first, second = submit(lab.engine, "a", "b", budget=Budget(trials=5))
    studies, token = studies_of(lab.engine), new_token()
    assert suggest(studies, first, token, 9) == 5
    assert studies.cancel_waiting(first.id, 3) == 1
    assert row(lab.engine).made == 4
    lab.engine.stop("a")
    assert row(lab.engine).made == 0
    assert suggest(studies, second, token, 9) == 5


def test_what_is_left_is_stopped_when_the_trials_are_used_and_over(lab: Lab) -> None:
    first, second, third = submit(lab.engine, "a", "b", "c", trials=2, budget=Budget(trials=3))
    studies, token = studies_of(lab.engine), new_token()
    suggest(studies, first, token, 2)
    suggest(studies, second, token, 1)
    studies.close_if_done(second.id)
    assert lab.engine.study("c").state is StudyState.OPEN  # trials of the batch are not over
    assert finish(lab.engine, first, second) == 3
    studies.close_if_done(first.id)
    states = {name: (lab.engine.study(name).state, lab.engine.study(name).reason) for name in "abc"}
    assert states["a"] == (StudyState.FINISHED, None)
    assert states["b"] == states["c"] == (StudyState.STOPPED, USED)
    assert row(lab.engine).finished_at is not None
    assert third.id and lab.engine.queued_studies() == []


def test_a_finished_batch_is_finished_once_and_goes_on_when_a_study_is_extended(lab: Lab) -> None:
    (record,) = submit(lab.engine, "a", trials=1)
    studies, token = studies_of(lab.engine), new_token()
    suggest(studies, record, token, 1)
    finish(lab.engine, record)
    studies.close_if_done(record.id)
    finished_at = row(lab.engine).finished_at
    lab.engine.batches.look_after()
    assert row(lab.engine).finished_at == finished_at is not None
    lab.engine.extend("a", trials=2)
    assert row(lab.engine).finished_at is None


def test_stopping_a_batch_ends_all_of_its_studies(lab: Lab) -> None:
    submit(lab.engine, "a", "b")
    assert lab.engine.batches.stop("night")
    assert {lab.engine.study(name).state for name in "ab"} == {StudyState.STOPPED}
    assert lab.engine.study("lab").state is StudyState.OPEN
    assert row(lab.engine).finished_at is not None
    assert not lab.engine.batches.stop("night")


def enrolled(engine: Engine, name: str, slots: tuple[tuple[str, ...], ...]) -> None:
    record = WorkerRecord(name, "host", 1, slots, Load(), {}, LEASE_S, False, 0.0, 0.0, None)
    engine.enroll(record)


def attempt(engine: Engine, record: StudyRecord, worker: str, hours: float, *, over: bool = True) -> str:
    """An attempt that began so long ago, as the history has it."""
    lease = engine.claim([record.id], worker, new_token(), LEASE_S)
    assert lease is not None
    began = sa.update(event).where(event.c.trial_id == lease.trial_id, event.c.cause == "claimed")
    engine.database.execute(began.values(at=event.c.at - 3600 * hours))
    if over:
        engine.finish(lease.token, complete(0.5))
    return lease.token


def test_hours_and_gpu_hours_are_those_of_all_attempts(lab: Lab) -> None:
    two_gpus = item("a", resources=Resources(gpus=2))
    lab.engine.batches.submit("night", [two_gpus, item("b")])
    first, second = lab.engine.study("a"), lab.engine.study("b")
    enrolled(lab.engine, "tower-7", (("0", "1"), ("2",), ("2",)))
    studies, token = studies_of(lab.engine), new_token()
    suggest(studies, first, token, 3)
    attempt(lab.engine, first, "tower-7-0", 1.0)  # two GPUs
    attempt(lab.engine, first, "tower-7-1", 2.0)  # half a GPU
    attempt(lab.engine, first, "gone-8-0", 1.0)  # nobody knows this worker: as the study declares
    suggest(studies, second, token, 1)
    attempt(lab.engine, second, "gone-8-0", 0.5, over=False)  # runs
    spent = lab.engine.batches.spent("night")
    assert spent.trials == 4
    assert (spent.hours, spent.gpu_hours) == (pytest.approx(4.5, abs=0.01), pytest.approx(5.0, abs=0.01))
    assert spent.studies["b"].hours == pytest.approx(0.5, abs=0.01)
    assert spent.studies["b"].gpu_hours == 0.0


@pytest.mark.parametrize("budget", [Budget(hours=1.0), Budget(gpu_hours=2.0)])
def test_when_the_hours_are_used_what_runs_ends_and_what_is_left_is_stopped(lab: Lab, budget: Budget) -> None:
    studies_given = [item("a", resources=Resources(gpus=2)), item("b")]
    lab.engine.batches.submit("night", studies_given, budget=budget)
    first = lab.engine.study("a")
    suggest(studies_of(lab.engine), first, new_token(), 3)
    attempt(lab.engine, first, "gone-8-0", 0.6)
    lab.engine.batches.look_after()
    assert not lab.engine.study("a").paused
    running = attempt(lab.engine, first, "gone-8-0", 0.6, over=False)
    lab.engine.batches.look_after()
    assert lab.engine.study("a").paused and lab.engine.study("a").state is StudyState.OPEN
    assert lab.engine.claim([first.id], "gone-8-0", new_token(), LEASE_S) is None  # nothing more is started
    lab.engine.finish(running, complete(0.7))  # what runs is not lost
    lab.engine.batches.look_after()
    for name in "ab":
        record = lab.engine.study(name)
        assert (record.state, record.reason, record.paused) == (StudyState.STOPPED, USED, False)
    counts = lab.engine.counts([first])[first.id]
    assert (counts["complete"], counts["cancelled"]) == (2, 1)
    assert row(lab.engine).finished_at is not None


def test_gpus_that_slots_share_are_counted_once_among_them() -> None:
    assert gpus_of_slots([["0"], ["0"], ["1", "2"], []]) == {0: 0.5, 1: 0.5, 2: 2.0, 3: 0.0}


# -- many at once -----------------------------------------------------------------------------------------------------


def _suggest_all(url: str, artifacts: str, name: str, barrier: Any, answers: Any) -> None:
    """One process that makes all the trials of a study that it is allowed to; cancels one of ten, as people do."""
    engine = connect(url, Path(artifacts))
    studies, record, token = studies_of(engine), engine.study(name), uuid.uuid4().hex
    barrier.wait(60)
    made = cancelled = refused = 0
    while refused < 3:
        held = studies.hold(record.id, token, LEASE_S)
        assert held is not None
        if not studies.add_suggestion(record.id, token, held.next_number, suggestion()):
            refused += 1
            continue
        made += 1
        if made % 10 == 0:
            cancelled += studies.cancel_waiting(record.id, held.next_number)
    answers.put((name, made, cancelled))
    engine.close()


def test_processes_that_suggest_at_once_make_exactly_the_trials_of_the_budget(url: str, artifacts: Path) -> None:
    engine = connect(url, artifacts)
    names = ["a", "b", "c", "d"]
    submit(engine, *names, trials=1000, budget=Budget(trials=83))
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(len(names)), context.Queue()
    processes = [
        context.Process(target=_suggest_all, args=(url, str(artifacts), name, barrier, answers)) for name in names
    ]
    for process in processes:
        process.start()
    told = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    records = [engine.study(name) for name in names]
    counts = engine.counts(records)
    waiting = sum(counts[record.id][TrialState.WAITING.value] for record in records)
    assert waiting == 83 == row(engine).made
    assert sum(made - cancelled for _, made, cancelled in told) == 83
    for record in records:
        assert audit(engine.database, record.id) == []
        numbers = engine.database.first(sa.select(study.c.next_number).where(study.c.id == record.id))
        assert numbers is not None and numbers.next_number == counts[record.id]["total"]
    engine.close()
