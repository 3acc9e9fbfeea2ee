"""Numbers, budgets and the right to suggest: what every process that shares a study can rely on."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import StatementError

from automl.core import Failure, FailureKind, Outcome, Report, StudyState, TrialState
from automl.declaration import Budget, Choice, Fidelity, Float, Int, Resources, Space
from automl.engine import Engine, connect
from automl.errors import InvalidInput, NotFound, StudyConflict
from automl.storage.tables import study
from tests.conformance.lab import LEASE_S, Lab, complete, new_token, spec, suggestion

T = TypeVar("T")


def together(count: int, work: Callable[[int], T]) -> list[T]:
    """`work(0)`, `work(1)`, ... in threads that start at the same moment."""
    start = threading.Barrier(count)

    def wait_and_work(index: int) -> T:
        start.wait()
        return work(index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(wait_and_work, range(count)))


def numbers(lab: Lab) -> list[int]:
    return [trial.number for trial in lab.engine.trials(lab.study)]


class TestBudget:
    @pytest.fixture
    def lab(self, url: str, artifacts: Path) -> Lab:
        return Lab(url, artifacts, spec(trials=10))

    def test_exactly_the_budget_is_made_however_many_threads_suggest(self, lab: Lab) -> None:
        # All of them say that they hold the study: the counter alone must be enough.
        assert lab.studies.hold(lab.study.id, lab.suggester, LEASE_S) is not None

        def suggest(_: int) -> int:
            made = 0
            for number in range(15):
                made += lab.studies.add_suggestion(lab.study.id, lab.suggester, number, suggestion())
            return made

        assert sum(together(8, suggest)) == 10
        assert numbers(lab) == list(range(10))
        assert lab.audit() == []

    def test_exactly_the_budget_is_made_however_many_threads_enqueue(self, lab: Lab) -> None:
        def enqueue(_: int) -> list[int]:
            made = []
            while (number := lab.studies.enqueue(lab.study.id, {"x": 0.5})) is not None:
                made.append(number)
            return made

        assert sorted(number for made in together(8, enqueue) for number in made) == list(range(10))
        assert numbers(lab) == list(range(10))
        assert lab.audit() == []

    def test_numbers_are_dense_when_one_suggests_and_others_enqueue(self, lab: Lab) -> None:
        def work(index: int) -> int:
            if index == 0:
                return len(lab.suggest(5))
            return sum(lab.studies.enqueue(lab.study.id, {"x": 0.1}) is not None for _ in range(2))

        assert sum(together(6, work)) == 10
        assert numbers(lab) == list(range(10))
        assert lab.audit() == []

    def test_a_suggestion_that_cannot_be_stored_leaves_no_gap(self, lab: Lab) -> None:
        lab.suggest()
        with pytest.raises(StatementError, match="not JSON serializable"):
            lab.studies.add_suggestion(lab.study.id, lab.suggester, 1, suggestion() | {"params": {"x": object()}})
        assert lab.suggest() == [1]

    def test_enqueueing_beyond_the_budget_is_refused_with_the_cure(self, lab: Lab) -> None:
        lab.suggest(10)
        with pytest.raises(InvalidInput, match=r"raise budget\.trials"):
            lab.engine.enqueue(lab.study, {"x": 0.5})

    def test_enqueueing_what_is_not_in_the_space_is_refused_with_the_cure(self, lab: Lab) -> None:
        for params, message in [({"x": 2.0}, "outside"), ({"y": 0.5}, "no such parameter")]:
            with pytest.raises(InvalidInput, match=message):
                lab.engine.enqueue(lab.study, params)
        assert numbers(lab) == []

    def test_a_failed_trial_has_used_its_number_up(self, lab: Lab) -> None:
        lab.engine.fail(lab.claimed().token, Failure(FailureKind.TIMEOUT, "too long"))
        assert len(lab.suggest(20)) == 9


class TestEnd:
    @pytest.fixture
    def lab(self, url: str, artifacts: Path) -> Lab:
        return Lab(url, artifacts, spec(trials=4))

    def finish_all(self, lab: Lab) -> None:
        while lab.suggest() or lab.counts()["waiting"]:
            lab.engine.finish(lab.claimed().token, complete(0.5))

    def test_a_study_is_finished_when_its_budget_is_used_and_its_trials_are_over(self, lab: Lab) -> None:
        leases = [lab.claimed() for _ in range(4)]
        assert not lab.studies.close_if_done(lab.study.id)
        for lease in leases[:3]:
            lab.engine.finish(lease.token, complete(0.5))
        assert not lab.studies.close_if_done(lab.study.id)
        lab.engine.finish(leases[3].token, complete(0.5))
        assert lab.studies.close_if_done(lab.study.id)
        assert lab.engine.study("lab").state is StudyState.FINISHED
        assert lab.audit() == []

    def test_one_of_many_closes_the_study(self, lab: Lab) -> None:
        self.finish_all(lab)
        assert sum(together(8, lambda _: lab.studies.close_if_done(lab.study.id))) == 1

    def test_a_trial_that_is_enqueued_while_the_study_is_closed_is_not_left_behind(
        self, url: str, artifacts: Path
    ) -> None:
        lab = Lab(url, artifacts, spec("timed", trials=None, minutes=1.0))
        lab.studies.hold(lab.study.id, lab.suggester, LEASE_S, active_s=60.0)
        with ThreadPoolExecutor(1) as pool:
            with lab.database.transaction() as connection:  # as `enqueue` does it, slowly
                connection.execute(sa.update(study).values(next_number=1))
                connection.execute(
                    sa.text(
                        "INSERT INTO trial (study_id, number, state, cause, created_at)"
                        f" VALUES ({lab.study.id}, 0, 'waiting', 'enqueued', 0)"
                    )
                )
                closing = pool.submit(lab.studies.close_if_done, lab.study.id)
                with pytest.raises(TimeoutError):
                    closing.result(timeout=0.3)  # it waits for the study's row
            assert not closing.result(timeout=30)
        assert lab.engine.study("timed").state is StudyState.OPEN
        lab.close()

    def test_a_study_with_budget_left_stays_open(self, lab: Lab) -> None:
        lab.engine.finish(lab.claimed().token, complete(0.5))
        assert not lab.studies.close_if_done(lab.study.id)

    def test_a_finished_study_takes_no_more_trials(self, lab: Lab) -> None:
        self.finish_all(lab)
        lab.studies.close_if_done(lab.study.id)
        assert lab.suggest() == []
        assert lab.studies.enqueue(lab.study.id, {}) is None

    def test_a_finished_study_with_a_larger_budget_is_open_again(self, lab: Lab) -> None:
        self.finish_all(lab)
        lab.studies.close_if_done(lab.study.id)
        assert lab.engine.declare(spec(trials=4)).state is StudyState.FINISHED
        assert lab.engine.declare(spec(trials=6)).state is StudyState.OPEN
        assert lab.suggest(9) == [4, 5]
        assert lab.audit() == []

    def test_a_stopped_study_opened_again_gets_its_cancelled_numbers_back(self, lab: Lab) -> None:
        lab.engine.finish(lab.claimed().token, complete(0.5))
        lab.suggest(2)
        lab.engine.stop("lab", "enough")
        assert (lab.engine.study("lab").state, lab.engine.study("lab").reason) == (StudyState.STOPPED, "enough")
        assert lab.suggest() == []
        assert lab.engine.declare(spec(trials=4)).reason is None
        assert lab.suggest(9) == [3, 4, 5]
        self.finish_all(lab)
        counts = lab.counts()
        assert (counts["complete"], counts["cancelled"], counts["total"]) == (4, 2, 6)
        assert lab.studies.close_if_done(lab.study.id)
        assert lab.audit() == []

    def test_a_grid_that_is_through_is_the_whole_budget(self, lab: Lab) -> None:
        lab.engine.finish(lab.claimed().token, complete(0.5))
        lab.studies.shrink_budget(lab.study.id)
        assert lab.suggest() == []
        assert lab.studies.close_if_done(lab.study.id)

    def test_the_minutes_of_a_budget_count_only_while_somebody_searches(self, url: str, artifacts: Path) -> None:
        lab = Lab(url, artifacts, spec("timed", trials=None, minutes=1.0))
        held = lab.studies.hold(lab.study.id, lab.suggester, LEASE_S, active_s=45.0)
        assert held is not None and held.trials_left is None and held.seconds_left == 15.0
        assert not lab.studies.close_if_done(lab.study.id)
        lease = lab.claimed()
        lab.suggest(2)
        held = lab.studies.hold(lab.study.id, lab.suggester, LEASE_S, active_s=15.0)
        assert held is not None and held.seconds_left == 0.0
        assert lab.studies.cancel_waiting(lab.study.id) == 2
        assert not lab.studies.close_if_done(lab.study.id)  # what runs may end
        lab.engine.finish(lease.token, complete(0.5))
        assert lab.studies.close_if_done(lab.study.id)
        assert lab.engine.study("timed").active_s == 60.0
        assert lab.audit() == []

    def test_a_study_that_is_deleted_and_purged_leaves_nothing_and_its_name_is_free(self, lab: Lab) -> None:
        self.finish_all(lab)
        lab.engine.delete("lab")
        assert lab.engine.purge(0.0) == 1
        assert not any(lab.everything().values())
        with pytest.raises(NotFound, match="there is none yet"):
            lab.engine.study("lab")
        assert lab.engine.declare(spec()).id != lab.study.id


class TestBest:
    def done(self, lab: Lab, value: float, **constraints: float) -> None:
        lab.engine.finish(lab.claimed().token, complete(value, constraints=constraints))

    def best(self, lab: Lab, limit: int = 9) -> list[int]:
        return [trial.number for trial in lab.engine.best_trials(lab.study, limit)]

    def test_the_best_come_first_and_equal_ones_by_number(self, lab: Lab) -> None:
        for value in (0.2, 0.9, 0.5, 0.9):
            self.done(lab, value)
        lab.engine.finish(lab.claimed().token, Outcome(TrialState.PRUNED, (2.0,)))
        assert self.best(lab) == [1, 3, 2, 0]
        assert self.best(lab, 2) == [1, 3]

    def test_a_trial_that_violates_a_constraint_is_never_before_one_that_keeps_all(self, lab: Lab) -> None:
        self.done(lab, 0.9, ms=5.0, mb=-1.0)
        self.done(lab, 0.8, ms=0.5, mb=0.25)
        self.done(lab, 0.1, ms=0.0, mb=-1.0)
        self.done(lab, 0.3)
        self.done(lab, 0.95, ms=math.inf)
        self.done(lab, 0.2, ms=-math.inf)
        self.done(lab, 0.7, ms=1e20)
        assert self.best(lab) == [3, 5, 2, 1, 0, 6, 4]
        assert self.best(lab, 1) == [3]
        assert self.best(lab, 4) == [3, 5, 2, 1]
        assert [trial.violated for trial in lab.engine.best_trials(lab.study, 5)][2:] == [(), ("mb", "ms"), ("ms",)]

    def test_where_none_keeps_them_the_least_violation_is_best_and_then_the_value(self, lab: Lab) -> None:
        for value, ms in ((0.9, 2.0), (0.1, 0.5), (0.2, 0.5)):
            self.done(lab, value, ms=ms)
        assert self.best(lab) == [2, 1, 0]

    def test_constraints_of_optuna_programs_count_in_both_of_their_forms(self, lab: Lab) -> None:
        import optuna

        program = optuna.create_study(study_name="theirs", storage=lab.engine.optuna)
        for value, excess in ((0.1, 1.0), (0.2, -1.0)):
            trial = program.ask()
            trial.set_constraint("c", excess)
            program.tell(trial, value)
        for value, listed in ((0.05, [-1.0, 2.0]), (0.3, [-1.0, 0.0])):
            old = optuna.trial.create_trial(value=value, system_attrs={"constraints": listed})
            program.add_trial(old)
        record = lab.engine.study("theirs")
        assert [trial.number for trial in lab.engine.best_trials(record, 9)] == [1, 3, 0, 2]
        assert program.best_trial.number == 1


class TestConverged:
    def test_what_is_unclaimed_is_cancelled_what_was_started_finishes_and_then_the_study_does(self, lab: Lab) -> None:
        running, interrupted = lab.claimed(), lab.claimed()
        lab.suggest(3)
        lab.engine.release(interrupted.token)
        assert lab.studies.converge(lab.study.id, lab.suggester, "converged: enough")
        counts = lab.counts()
        assert (counts["running"], counts["waiting"], counts["cancelled"]) == (1, 1, 3)
        assert lab.suggest() == []
        assert lab.engine.study("lab").state is StudyState.OPEN
        assert not lab.studies.close_if_done(lab.study.id)
        for token in (running.token, lab.claimed().token):
            lab.engine.finish(token, complete(0.5))
        assert lab.studies.close_if_done(lab.study.id)
        record = lab.engine.study("lab")
        assert (record.state, record.reason) == (StudyState.FINISHED, "converged: enough")
        assert lab.audit() == []

    def test_who_does_not_hold_the_study_cannot_end_it(self, lab: Lab) -> None:
        lab.suggest(2)
        before = lab.everything()
        assert not lab.studies.converge(lab.study.id, "asleep", "converged")
        assert lab.everything() == before

    def test_declared_again_it_has_its_budget_back(self, lab: Lab) -> None:
        lab.engine.finish(lab.claimed().token, complete(0.5))
        lab.studies.converge(lab.study.id, lab.suggester, "converged")
        lab.studies.close_if_done(lab.study.id)
        record = lab.engine.declare(spec())
        assert (record.state, record.reason) == (StudyState.OPEN, None)
        assert lab.suggest(2) == [1, 2]


class TestNotes:
    def test_a_note_on_the_study_is_the_holders_alone(self, lab: Lab) -> None:
        lab.studies.hold(lab.study.id, lab.suggester, LEASE_S)
        assert lab.studies.note(lab.study.id, lab.suggester, "automl:sources", {"studies": [1e20]})
        assert not lab.studies.note(lab.study.id, "asleep", "automl:sources", {})
        assert lab.engine.optuna.get_study_system_attrs(lab.study.id) == {"automl:sources": {"studies": [1e20]}}

    def test_the_forecast_is_that_of_the_newest_suggestion_that_has_one(self, lab: Lab) -> None:
        assert lab.engine.forecast(lab.study) is None
        lab.studies.hold(lab.study.id, lab.suggester, LEASE_S)
        for number, why in enumerate([{}, {"forecast": {"gain": 1.0}}, {"forecast": {"gain": 0.5}}, {"arm": "design"}]):
            noted = {**suggestion(), "system_attrs": {"automl:why": why} if why else {}}
            assert lab.studies.add_suggestion(lab.study.id, lab.suggester, number, noted)
        lab.suggest(2)
        assert lab.engine.forecast(lab.study) == {"gain": 0.5}


class TestRightToSuggest:
    def test_one_process_at_a_time_holds_a_study(self, lab: Lab) -> None:
        held = together(8, lambda index: lab.studies.hold(lab.study.id, f"process {index}", LEASE_S))
        assert sum(answer is not None for answer in held) == 1

    def test_the_holder_keeps_it_and_others_wait(self, lab: Lab) -> None:
        assert lab.studies.hold(lab.study.id, "one", LEASE_S) is not None
        assert lab.studies.hold(lab.study.id, "two", LEASE_S) is None
        assert lab.studies.hold(lab.study.id, "one", LEASE_S) is not None

    def test_what_is_let_go_can_be_taken_at_once_and_only_by_the_holder(self, lab: Lab) -> None:
        lab.studies.hold(lab.study.id, "one", LEASE_S)
        lab.studies.let_go(lab.study.id, "two")
        assert lab.studies.hold(lab.study.id, "two", LEASE_S) is None
        lab.studies.let_go(lab.study.id, "one")
        assert lab.studies.hold(lab.study.id, "two", LEASE_S) is not None

    def test_a_holder_that_fell_asleep_is_replaced_and_its_suggestions_are_refused(self, lab: Lab) -> None:
        lab.studies.hold(lab.study.id, "asleep", LEASE_S)
        lab.database.execute(sa.update(study).values(suggester_expires_at=0.0))
        assert lab.studies.hold(lab.study.id, "next", LEASE_S) is not None
        before = lab.everything()
        assert not lab.studies.add_suggestion(lab.study.id, "asleep", 0, suggestion())
        assert lab.studies.hold(lab.study.id, "asleep", LEASE_S, active_s=1000.0) is None
        assert lab.everything() == before
        assert lab.studies.add_suggestion(lab.study.id, "next", 0, suggestion())

    def test_a_suggestion_for_another_number_than_the_next_is_refused(self, lab: Lab) -> None:
        lab.suggest(2)
        for taken_or_ahead in (0, 1, 3):
            assert not lab.studies.add_suggestion(lab.study.id, lab.suggester, taken_or_ahead, suggestion())
        assert numbers(lab) == [0, 1]

    def test_an_unclaimed_suggestion_is_made_again_in_place(self, lab: Lab) -> None:
        lab.suggest(2)
        assert lab.studies.revise_suggestion(lab.study.id, 0, suggestion(x=0.75, basis=3))
        assert [(item.number, item.basis) for item in lab.studies.unclaimed(lab.study.id)] == [(0, 3), (1, 0)]
        assert lab.claimed().params == {"x": 0.75}
        assert lab.causes() == ["suggested", "revised", "claimed"]
        assert lab.audit() == []

    def test_a_trial_that_was_ever_claimed_keeps_its_parameters(self, lab: Lab) -> None:
        lease = lab.claimed()
        assert not lab.studies.revise_suggestion(lab.study.id, 0, suggestion(x=0.75))
        lab.engine.release(lease.token)
        assert not lab.studies.revise_suggestion(lab.study.id, 0, suggestion(x=0.75))
        assert lab.claimed().params == {"x": 0.5}

    def test_an_enqueued_trial_is_completed_and_then_claimed(self, lab: Lab) -> None:
        number = lab.engine.enqueue(lab.study, {"x": 0.25})
        (item,) = lab.studies.unclaimed(lab.study.id)
        assert (item.number, item.basis, item.fixed) == (number, None, {"x": 0.25})
        assert lab.studies.revise_suggestion(lab.study.id, number, suggestion(x=0.25))
        assert lab.claimed().params == {"x": 0.25}
        assert lab.audit() == []


class TestDeclare:
    def test_the_same_declaration_finds_the_same_study(self, lab: Lab) -> None:
        assert lab.engine.declare(spec()).id == lab.study.id

    def test_processes_that_declare_the_same_study_at_once_share_it(self, url: str, artifacts: Path) -> None:
        connect(url, artifacts).close()

        def declare(_: int) -> int:
            engine = connect(url, artifacts)
            try:
                return engine.declare(spec("shared")).id
            finally:
                engine.close()

        assert len(set(together(6, declare))) == 1

    def test_what_may_change_from_run_to_run_is_no_conflict(self, lab: Lab) -> None:
        other = spec(resources=Resources(cpus=2), sampler="random", pruner="none", retries=3)
        assert lab.engine.declare(other).id == lab.study.id

    @pytest.mark.parametrize(
        ("changes", "difference"),
        [
            ({"metrics": {"score": "min"}}, r"metrics were \{'score': 'max'\}, now \{'score': 'min'\}"),
            ({"fidelity": Fidelity("step", max=5)}, "fidelity was .*, now "),
            ({"space": Space({"x": Float(0.2, 1.0)})}, r"x was Float\(0\.0, 1\.0\), now Float\(0\.2, 1\.0\)"),
            ({"space": Space({"x": Float(0.0, 1.0), "y": Int(1, 2)})}, r"y was absent, now Int\(1, 2\)"),
            ({"space": Space({"y": Int(1, 2)})}, r"x was Float\(0\.0, 1\.0\), now absent"),
            ({"space": None}, "x was .*, now absent"),
        ],
    )
    def test_another_definition_under_a_taken_name_is_refused_with_the_differences(
        self, lab: Lab, changes: dict[str, object], difference: str
    ) -> None:
        before = lab.everything()
        for extend in (False, True):
            with pytest.raises(StudyConflict, match=difference) as caught:
                lab.engine.declare(spec(**changes), extend=extend)
            assert "choose another name" in str(caught.value)
            assert "--extend" not in str(caught.value)
        assert lab.everything() == before

    def test_a_wider_definition_is_accepted_when_asked_for_and_the_message_says_how(self, lab: Lab) -> None:
        wider = spec(space=Space({"x": Float(-1.0, 2.0)}))
        with pytest.raises(StudyConflict, match="--extend") as caught:
            lab.engine.declare(wider)
        assert caught.value.extendable
        record = lab.engine.declare(wider, extend=True)
        assert record.id == lab.study.id
        assert record.spec == wider.to_json()
        with pytest.raises(StudyConflict):
            lab.engine.declare(spec(), extend=True)  # and back would be narrower

    def test_a_failed_study_that_is_declared_again_has_another_chance(self, lab: Lab) -> None:
        for number in range(3):
            lab.suggest()
            lab.engine.fail(lab.claimed().token, Failure(FailureKind.ERROR, "boom"))
            assert lab.engine.study("lab").state is (StudyState.FAILED if number == 2 else StudyState.OPEN)
        record = lab.engine.declare(spec())
        assert (record.state, record.reason) == (StudyState.OPEN, None)

    def test_a_study_of_a_plain_optuna_program_keeps_its_name(self, lab: Lab) -> None:
        import optuna

        optuna.create_study(study_name="theirs", storage=lab.engine.optuna)
        with pytest.raises(StudyConflict, match="made by an Optuna program"):
            lab.engine.declare(spec("theirs"), extend=True)

    def test_studies_are_listed_and_a_missing_one_is_named_with_those_that_there_are(self, lab: Lab) -> None:
        lab.engine.declare(spec("other", space=Space({"k": Choice("a", "b")})), queued=True)
        assert [record.name for record in lab.engine.studies()] == ["lab", "other"]
        assert [record.name for record in lab.engine.queued_studies()] == ["other"]
        with pytest.raises(NotFound, match="there are lab, other"):
            lab.engine.study("missing")


def test_a_holder_whose_budget_was_raised_meanwhile_sees_it(lab: Lab, artifacts: Path) -> None:
    other: Engine = connect(lab.url, artifacts)
    other.declare(spec(trials=200))
    other.close()
    held = lab.studies.hold(lab.study.id, new_token(), LEASE_S)
    assert held is not None and held.trials_left == 200
    assert Budget(trials=200).trials == held.trials_left


@pytest.mark.parametrize("sampler", ["auto", "tpe"])
def test_a_sampler_rebuilt_from_the_database_makes_the_same_next_suggestion(
    sqlite_url: str, tmp_path: Path, artifacts: Path, sampler: str
) -> None:
    space = Space({"x": Float(0.0, 1.0), "k": Choice("a", "b"), "n": Int(1, 9, when={"k": "b"})})
    declared = spec(space=space, sampler=sampler, seed=7)
    lab = Lab(sqlite_url, artifacts, declared)
    survivor = lab.engine.suggester(lab.study)
    for _ in range(13):
        assert survivor.step(slots=1, lease_s=LEASE_S) == 1
        lease = lab.claimed()
        lab.engine.report(lease.token, [Report(1, lease.params["x"])])
        lab.engine.finish(lease.token, complete(-abs(lease.params["x"] - 0.3)))
    here, there = (sqlite3.connect(path) for path in (lab.database.url.database or "", tmp_path / "copy.db"))
    with closing(here), closing(there):
        here.backup(there)
    copy = Lab(f"sqlite:///{tmp_path}/copy.db", artifacts, declared)
    copy.database.execute(sa.update(study).values(suggester_expires_at=0.0))  # its holder was killed
    successor = copy.engine.suggester(copy.study)
    for _ in range(3):
        suggested = []
        for place, suggester in ((lab, survivor), (copy, successor)):
            assert suggester.step(slots=1, lease_s=LEASE_S) == 1
            lease = place.claimed()
            suggested.append((lease.number, lease.params))
            place.engine.finish(lease.token, complete(0.1))
        assert suggested[0] == suggested[1]
    copy.close()
    lab.close()
