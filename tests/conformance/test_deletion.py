"""A study that was deleted: nothing finds it, whoever works on it is told, and it can be brought back for a while."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import TrialState as OptunaState

from automl.core import Failure, FailureKind, Lease, Report, StudyRecord, StudyState
from automl.engine import connect
from automl.errors import InvalidInput, LeaseLost, NotFound
from automl.storage.database import now
from automl.storage.studies import new_trial
from automl.storage.tables import event, report, study, trial
from automl.team import UNDO_S
from tests.conformance.lab import LEASE_S, Lab, checkpoint, complete, new_token, spec, suggestion


def aged(lab: Lab, seconds: float) -> None:
    """As if everything that is deleted had been so for so much longer."""
    lab.database.execute(sa.update(study).values(deleted_at=study.c.deleted_at - seconds))


def confirming(lab: Lab, name: str) -> StudyRecord:
    """A confirmation of the lab's study, but for its race."""
    record = lab.engine.declare(spec(name))
    lab.database.execute(sa.update(study).where(study.c.id == record.id).values(origin_id=lab.study.id))
    return record


def names(lab: Lab) -> list[str]:
    return [record.name for record in lab.engine.studies()]


# -- gone ------------------------------------------------------------------------------------------------------------


def test_nothing_finds_it(lab: Lab) -> None:
    lab.engine.declare(spec(), entrypoint="lab.py:study", queued=True)
    lab.engine.finish(lab.claimed().token, complete(0.5))
    board = lab.engine.board(lab.study)
    lab.suggest()
    kept = lab.engine.declare(spec("kept"))
    lab.engine.delete("lab")
    assert names(lab) == ["kept"]
    assert lab.engine.queued_studies() == []
    assert [item.study.name for item in lab.engine.overviews(archived=True)] == ["kept"]
    gone: list[Callable[[], object]] = [
        lambda: lab.engine.study("lab"),
        lambda: lab.engine.study_by_id(lab.study.id),
        lambda: lab.engine.board(lab.study, board),
        lambda: lab.engine.pause("lab"),
        lambda: lab.engine.stop("lab"),
        lambda: lab.engine.delete("lab"),
        lambda: lab.engine.extend("lab", trials=500),
        lambda: lab.engine.enqueue(lab.study, {"x": 0.5}, extend=True),
    ]
    for call in gone:
        with pytest.raises(NotFound):
            call()
    with pytest.raises(InvalidInput):
        lab.engine.enqueue(lab.study, {"x": 0.5})
    assert lab.claim() is None
    assert lab.engine.claim([lab.study.id, kept.id], "bob", new_token(), LEASE_S) is None
    assert lab.engine.suggester(lab.study).step(2, LEASE_S) == 0
    assert lab.audit() == []


def test_no_optuna_program_finds_it(lab: Lab) -> None:
    storage = lab.engine.optuna
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], "theirs")
    trial_id = storage.create_new_trial(study_id)
    storage.set_trial_state_values(trial_id, OptunaState.COMPLETE, [1.0])
    running = storage.create_new_trial(study_id)
    assert len(storage.get_all_trials(study_id)) == 2
    connect(lab.url, lab.engine.artifacts.root).delete("theirs")  # another process
    assert [item.study_name for item in storage.get_all_studies()] == ["lab"]
    gone: list[Callable[[], object]] = [
        lambda: storage.get_study_id_from_name("theirs"),
        lambda: storage.get_study_name_from_id(study_id),
        lambda: storage.get_study_user_attrs(study_id),
        lambda: storage.set_study_user_attr(study_id, "a", 1),
        lambda: storage.create_new_trial(study_id),
        lambda: storage.get_all_trials(study_id),
        lambda: storage.get_trial(trial_id),
        lambda: storage.get_trial_id_from_study_id_trial_number(study_id, 0),
        lambda: storage.delete_study(study_id),
    ]
    for call in gone:
        with pytest.raises(KeyError):
            call()
    with pytest.raises((ValueError, KeyError)):
        storage.get_best_trial(study_id)
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(running, OptunaState.COMPLETE, [2.0])
    assert lab.engine.undelete("theirs").id == study_id
    assert storage.get_best_trial(study_id).value == 1.0
    assert [item.state.name for item in storage.get_all_trials(study_id)] == ["COMPLETE", "FAIL"]


def test_what_an_optuna_program_deletes_can_be_brought_back_too(lab: Lab) -> None:
    lab.engine.optuna.delete_study(lab.study.id)
    assert names(lab) == []
    assert lab.engine.undelete("lab").id == lab.study.id


WRITES: list[Callable[[Lab, Lease], object]] = [
    lambda lab, lease: lab.engine.report(lease.token, [Report(1, 0.5)]),
    lambda lab, lease: lab.engine.describe(lease.token, {"x": 0.5}, {}),
    lambda lab, lease: lab.engine.checkpoint(lease.token, checkpoint(1)),
    lambda lab, lease: lab.engine.finish(lease.token, complete(0.5)),
    lambda lab, lease: lab.engine.fail(lease.token, Failure(FailureKind.ERROR, "broken")),
    lambda lab, lease: lab.engine.release(lease.token),
    lambda lab, lease: lab.engine.should_prune(lease.token),
]


def test_whoever_runs_a_trial_of_it_is_told_at_his_next_word(lab: Lab) -> None:
    lease = lab.claimed()
    lab.suggest()
    lab.engine.delete("lab")
    before = lab.everything()
    assert lab.engine.renew([lease.token], LEASE_S) == frozenset()
    for write in WRITES:
        with pytest.raises(LeaseLost):
            write(lab, lease)
    assert lab.everything() == before
    assert {lab.row(number).state for number in (0, 1)} == {"cancelled"}


def test_whoever_searches_it_makes_no_more_trials(lab: Lab) -> None:
    held = lab.studies.hold(lab.study.id, lab.suggester, LEASE_S)
    assert held is not None
    lab.engine.delete("lab")
    assert not lab.studies.add_suggestion(lab.study.id, lab.suggester, held.next_number, suggestion())
    assert lab.studies.hold(lab.study.id, lab.suggester, LEASE_S) is None
    # Not even whoever gets its lease in the same moment.
    lab.database.execute(sa.update(study).values(suggester_token=lab.suggester, suggester_expires_at=now() + 60.0))
    assert not lab.studies.add_suggestion(lab.study.id, lab.suggester, held.next_number, suggestion())
    assert lab.studies.enqueue(lab.study.id, {"x": 0.5}) is None
    assert lab.engine.undelete("lab").state is StudyState.OPEN
    assert lab.suggest() == [0]


def test_not_even_a_trial_that_slipped_in_is_claimed(lab: Lab) -> None:
    other = lab.engine.declare(spec("other"))
    lab.engine.delete("lab")
    lab.database.execute(new_trial(lab.study.id, 0, "suggested", {"basis": 0}))
    assert lab.claim() is None
    assert lab.engine.claim([lab.study.id, other.id], "bob", new_token(), LEASE_S) is None


def test_under_load_nothing_is_claimed_once_it_is_deleted_and_nothing_goes_on(lab: Lab) -> None:
    lab.engine.extend("lab", trials=2000)
    stop = Event()

    def work(index: int) -> None:
        while not stop.is_set():
            lease = lab.claim(f"w{index}")
            if lease is not None:
                try:
                    lab.engine.release(lease.token)
                except LeaseLost:
                    assert lab.row(lease.number).state == "cancelled"

    claims = sa.select(sa.func.count().label("n")).where(event.c.cause == "claimed")
    unfinished = sa.select(trial.c.id).where(trial.c.state.in_(("waiting", "running")))
    with ThreadPoolExecutor(5) as pool:
        workers = [pool.submit(work, index) for index in range(5)]
        try:
            for _ in range(10):
                lab.suggester = new_token()
                lab.suggest(12)
                lab.engine.delete("lab")
                here = lab.database.first(claims)
                assert lab.database.all(unfinished) == []
                for _ in range(5):
                    assert lab.claim("me") is None
                assert lab.database.first(claims) == here
                lab.engine.undelete("lab")
        finally:
            stop.set()
        for worker in workers:
            worker.result()
    assert lab.audit() == []


def test_its_deletion_and_its_return_are_told_to_whoever_watches(lab: Lab) -> None:
    change = lab.engine.change()
    lab.engine.delete("lab")
    assert lab.engine.change() > change
    change = lab.engine.change()
    lab.engine.undelete("lab")
    assert lab.engine.change() > change
    rows = lab.database.all(sa.select(event.c.cause).where(event.c.trial_id.is_(None)).order_by(event.c.seq))
    assert [row.cause for row in rows] == ["open", "deleted", "undeleted"]


# -- back ------------------------------------------------------------------------------------------------------------


def test_it_comes_back_as_it_was_and_goes_on(lab: Lab) -> None:
    lease = lab.claimed()
    lab.engine.finish(lease.token, complete(0.5), [Report(1, 0.25)])
    lab.suggest(2)
    lab.engine.tag("lab", ["mine"])
    board = lab.engine.board(lab.study)
    before = lab.engine.study("lab")
    lab.engine.overviews()
    lab.engine.delete("lab")
    assert lab.engine.overviews() == []
    assert lab.engine.undelete("lab") == before
    assert lab.engine.best_trials(lab.study)[0].values == (0.5,)
    assert lab.reports() == {1: (0.25, 1)}
    # What had not ended is cancelled, and its place in the budget is free again.
    assert lab.engine.board(lab.study, board).counts["cancelled"] == 2
    assert lab.engine.overviews()[0].counts["cancelled"] == 2
    assert lab.suggest() == [3]
    lab.engine.finish(lab.claimed().token, complete(0.75))
    assert lab.engine.board(lab.study).counts["complete"] == 2
    assert lab.audit() == []


def test_one_that_was_over_or_paused_stays_so(lab: Lab) -> None:
    lab.engine.pause("lab")
    lab.engine.delete("lab")
    assert lab.engine.undelete("lab").paused
    assert lab.claim() is None
    assert lab.audit() == []
    lab.engine.stop("lab")
    lab.engine.delete("lab")
    assert lab.engine.undelete("lab").state is StudyState.STOPPED
    assert lab.audit() == []


def test_its_confirmations_go_and_come_back_with_it_but_not_one_that_was_deleted_before(lab: Lab) -> None:
    confirming(lab, "one")
    confirming(lab, "two")
    before = lab.engine.study("two")
    lab.engine.declare(spec("other"))
    lab.engine.delete("one")
    lab.engine.delete("lab")
    assert names(lab) == ["other"]
    with pytest.raises(InvalidInput, match="bring back 'lab', which it confirms") as caught:
        lab.engine.undelete("two")
    assert caught.value.field == "study"
    lab.engine.undelete("lab")
    assert names(lab) == ["lab", "two", "other"]
    assert lab.engine.study("two") == before
    lab.engine.undelete("one")
    assert names(lab) == ["lab", "one", "two", "other"]


@pytest.mark.parametrize("taken", ["lab", "two"])
def test_it_stays_away_while_its_name_or_that_of_a_confirmation_is_taken(lab: Lab, taken: str) -> None:
    confirming(lab, "one")
    confirming(lab, "two")
    lab.engine.delete("lab")
    new = lab.engine.declare(spec(taken))
    before = lab.everything()
    with pytest.raises(InvalidInput, match=f"another study has the name {taken!r} now; delete that one") as caught:
        lab.engine.undelete("lab")
    assert caught.value.field == "name"
    assert not isinstance(caught.value, NotFound)
    assert lab.everything() == before
    assert lab.engine.study(taken).id == new.id
    lab.engine.delete(taken)
    assert lab.engine.undelete("lab").id == (new.id if taken == "lab" else lab.study.id)


def test_of_several_of_one_name_the_last_one_comes_back(lab: Lab) -> None:
    ids = [lab.study.id]
    for _ in range(2):
        lab.engine.delete("lab")
        ids.append(lab.engine.declare(spec()).id)
    lab.engine.delete("lab")
    assert len(set(ids)) == 3
    assert lab.engine.undelete("lab").id == ids[2]
    assert names(lab) == ["lab"]


@pytest.mark.parametrize("name", ["lab", "never", ""])
def test_what_is_not_deleted_cannot_be_brought_back(lab: Lab, name: str) -> None:
    with pytest.raises(NotFound, match="was not deleted, or is gone for good") as caught:
        lab.engine.undelete(name)
    assert caught.value.field == "study"


# -- for good --------------------------------------------------------------------------------------------------------


def test_only_what_was_deleted_longer_ago_is_removed_and_nothing_of_it_is_left(lab: Lab) -> None:
    lab.engine.finish(lab.claimed().token, complete(0.5), [Report(1, 0.25)])
    lab.engine.declare(spec("young"))
    lab.engine.declare(spec("there"))
    lab.engine.delete("lab")
    aged(lab, 100.0)
    lab.engine.delete("young")
    assert lab.engine.purge(200.0) == 0
    assert lab.engine.purge(50.0) == 1
    assert lab.engine.purge(50.0) == 0
    for table in (trial, report):
        assert lab.database.all(sa.select(table)) == []
    assert lab.database.all(sa.select(event).where(event.c.study_id == lab.study.id)) == []
    with pytest.raises(NotFound):
        lab.engine.undelete("lab")
    lab.engine.undelete("young")
    assert names(lab) == ["young", "there"]


def test_where_no_service_clears_up_the_next_deletion_does(lab: Lab) -> None:
    lab.engine.declare(spec("other"))
    lab.engine.delete("lab")
    aged(lab, UNDO_S - 60.0)
    lab.engine.delete("other")
    lab.engine.undelete("other")
    aged(lab, 120.0)
    lab.engine.delete("other")
    with pytest.raises(NotFound):
        lab.engine.undelete("lab")
    lab.engine.undelete("other")


def test_one_that_was_brought_back_in_the_meantime_is_not_removed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look for old ones and the removal, somebody wants it back."""
    lab.engine.delete("lab")
    look: Any = lab.database.all

    def undeleted(*arguments: Any) -> Any:
        found = look(*arguments)
        monkeypatch.undo()
        lab.engine.undelete("lab")
        return found

    monkeypatch.setattr(lab.database, "all", undeleted)
    assert lab.engine.purge(-1.0) == 0
    assert names(lab) == ["lab"]


def test_a_study_is_deleted_under_its_declaration_and_declared_anew(lab: Lab) -> None:
    """The new one may be defined otherwise: it is another study."""
    lab.engine.delete("lab")
    new = lab.engine.declare(replace(spec(), metrics={"loss": "min"}))
    assert new.id != lab.study.id
    assert lab.engine.counts([new])[new.id]["total"] == 0
