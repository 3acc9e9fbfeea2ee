"""What `core.Coordinator` promises to workers, for every implementation and on every database.

The checker that these tests trust is itself put to the test: see the mutants at the end, which lack the fence that
they claim to have, as most job queues do.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from automl.core import (
    MAX_LOSSES,
    Artifact,
    Coordinator,
    Failure,
    FailureKind,
    Lease,
    Outcome,
    Report,
    StudyState,
    TrialState,
)
from automl.engine import HOPELESS_AFTER, Engine
from automl.errors import InvalidInput, LeaseLost
from automl.storage import leases as leases_module
from automl.storage.database import now
from automl.storage.distributions import Distributions
from automl.storage.leases import Leases
from automl.storage.tables import artifact, event, trial
from tests.conformance.lab import LEASE_S, UNIT, Lab, checkpoint, complete, new_token, spec, suggestion

ERROR = Failure(FailureKind.ERROR, "boom", "Traceback: boom")


@pytest.fixture
def coordinator(lab: Lab) -> Coordinator:
    return lab.engine


def refused_writes(coordinator: Coordinator, token: str) -> list[tuple[str, Callable[[], None]]]:
    """Every write there is, as a worker whose lease is over would make it."""
    return [
        ("report", lambda: coordinator.report(token, [Report(1, 99.0)])),
        ("describe", lambda: coordinator.describe(token, {"x": 0.9}, {"x": UNIT})),
        ("checkpoint", lambda: coordinator.checkpoint(token, checkpoint(9))),
        ("finish", lambda: coordinator.finish(token, complete(0.99, constraints={"c": 9.0}), [Report(9, 0.99)])),
        ("finish, define-by-run", lambda: coordinator.finish(token, complete(0.9, params={}, distributions={}))),
        ("fail", lambda: coordinator.fail(token, ERROR, [Report(9, 0.99)])),
        ("release", lambda: coordinator.release(token)),
    ]


def assert_all_refused(lab: Lab, coordinator: Coordinator, token: str) -> None:
    before = lab.everything()
    for name, write in refused_writes(coordinator, token):
        with pytest.raises(LeaseLost):
            write()
        assert lab.everything() == before, f"{name} was refused and changed something"
    assert coordinator.renew([token], LEASE_S) == frozenset()
    assert lab.everything() == before


class TestClaim:
    def test_nothing_waits_nothing_is_claimed(self, lab: Lab, coordinator: Coordinator) -> None:
        assert coordinator.claim([lab.study.id], "alice", new_token(), LEASE_S) is None
        assert coordinator.claim([], "alice", new_token(), LEASE_S) is None

    def test_a_claim_carries_all_that_the_trial_needs(self, lab: Lab, coordinator: Coordinator) -> None:
        lab.suggest()
        token = new_token()
        lease = coordinator.claim([lab.study.id], "alice", token, LEASE_S)
        assert lease == Lease(token, lab.study.id, lab.row().id, 0, 1, {"x": 0.5}, {"x": UNIT}, None)
        assert (lab.row().state, lab.row().worker) == ("running", "alice")

    def test_trials_are_claimed_in_the_order_of_their_numbers(self, lab: Lab) -> None:
        lab.suggest(3)
        assert [lab.claimed().number for _ in range(3)] == [0, 1, 2]

    def test_a_trial_of_another_study_is_not_claimed(self, lab: Lab, coordinator: Coordinator) -> None:
        lab.suggest()
        assert coordinator.claim([lab.study.id + 1], "alice", new_token(), LEASE_S) is None

    def test_an_enqueued_trial_is_claimed_only_when_the_sampler_has_completed_it(self, lab: Lab) -> None:
        lab.engine.enqueue(lab.study, {"x": 0.25})
        assert lab.claim() is None

    def test_a_claim_whose_answer_was_lost_finds_the_same_trial_again(self, lab: Lab) -> None:
        lab.suggest(3)
        token = new_token()
        first, again = lab.claimed(token=token), lab.claimed(token=token)
        assert first == again
        assert lab.counts()["running"] == 1

    def test_a_token_is_never_used_for_a_second_claim(self, lab: Lab, coordinator: Coordinator) -> None:
        lab.suggest(3)
        for end in (lambda lease: coordinator.finish(lease.token, complete(0.5)), lab.lose):
            lease = lab.claimed()
            end(lease)
            assert lab.claim(token=lease.token) is None
        assert lab.audit() == []

    def test_threads_claim_each_trial_exactly_once(self, lab: Lab) -> None:
        lab.suggest(40)
        together = threading.Barrier(8)

        def drain(name: str) -> list[int]:
            together.wait()
            return [lease.number for lease in iter(lambda: lab.claim(name), None)]

        with ThreadPoolExecutor(8) as pool:
            claimed = [number for numbers in pool.map(drain, map(str, range(8))) for number in numbers]
        assert sorted(claimed) == list(range(40))
        assert lab.audit() == []

    def test_processes_claim_and_finish_each_trial_exactly_once(self, lab: Lab) -> None:
        lab.suggest(40)
        processes = [
            subprocess.Popen([sys.executable, "-c", _DRAIN, lab.url, str(lab.study.id)], stdout=subprocess.PIPE)
            for _ in range(4)
        ]
        claimed = []
        for process in processes:
            out, _ = process.communicate(timeout=60)
            assert process.returncode == 0
            claimed += json.loads(out)
        assert sorted(claimed) == list(range(40))
        assert lab.counts()["complete"] == 40
        assert lab.audit() == []


_DRAIN = """
import json, sys, uuid
from automl.core import Outcome, TrialState
from automl.engine import connect
url, study = sys.argv[1], int(sys.argv[2])
engine, numbers = connect(url), []
while (lease := engine.claim([study], "p", token := uuid.uuid4().hex, 60.0)) is not None:
    engine.finish(token, Outcome(TrialState.COMPLETE, (0.5,)))
    numbers.append(lease.number)
print(json.dumps(numbers))
"""


class TestLease:
    def test_renewing_extends_the_lease_by_the_database_clock(self, lab: Lab, coordinator: Coordinator) -> None:
        lease = lab.claimed()
        assert coordinator.renew([lease.token], 1000.0) == {lease.token}
        assert 990.0 < lab.row().lease_expires_at - lab.engine.clock() <= 1000.0

    def test_renewing_tells_which_leases_are_over(self, lab: Lab, coordinator: Coordinator) -> None:
        kept, lost = lab.claimed(), lab.claimed()
        lab.lose(lost)
        assert coordinator.renew([kept.token, lost.token, new_token()], LEASE_S) == {kept.token}
        assert coordinator.renew([], LEASE_S) == frozenset()

    def test_a_lease_that_runs_is_not_taken_back(self, lab: Lab) -> None:
        lab.claimed()
        assert lab.reap() == []

    def test_a_late_renewal_is_good_while_nobody_took_the_trial_back(self, lab: Lab, coordinator: Coordinator) -> None:
        lease = lab.claimed()
        lab.expire(lease.token)
        assert coordinator.renew([lease.token], LEASE_S) == {lease.token}
        assert lab.reap() == []
        coordinator.finish(lease.token, complete(0.5))
        assert lab.audit() == []

    def test_a_late_result_is_good_while_nobody_took_the_trial_back(self, lab: Lab, coordinator: Coordinator) -> None:
        lease = lab.claimed()
        lab.expire(lease.token)
        coordinator.finish(lease.token, complete(0.5))
        assert lab.row().state == "complete"

    def test_an_expired_lease_is_taken_back_once_and_the_next_attempt_is_counted(self, lab: Lab) -> None:
        first = lab.claimed()
        lab.expire(first.token)
        assert lab.reap() == [first.trial_id]
        assert lab.reap() == []
        assert (lab.row().state, lab.row().lost, lab.row().errors) == ("waiting", 1, 0)
        second = lab.claimed("bob")
        assert (second.number, second.attempt) == (0, 2)
        assert lab.causes() == ["suggested", "claimed", "lost", "claimed"]
        assert lab.audit() == []

    def test_reapers_at_the_same_time_take_a_trial_back_once(self, lab: Lab) -> None:
        leases = [lab.claimed() for _ in range(10)]
        lab.expire(*(lease.token for lease in leases))
        with ThreadPoolExecutor(4) as pool:
            taken = [trial_id for ids in pool.map(lambda _: lab.reap(), range(4)) for trial_id in ids]
        assert sorted(taken) == sorted(lease.trial_id for lease in leases)
        assert {lab.row(number).lost for number in range(10)} == {1}

    def test_after_a_start_of_postgresql_leases_have_time_to_be_renewed(self, lab: Lab) -> None:
        lease = lab.claimed()
        lab.expire(lease.token)
        a_century_s = 100 * 365 * 86400.0
        taken = lab.direct.reap(a_century_s)
        assert taken == ([] if lab.database.dialect == "postgresql" else [lease.trial_id])


class TestFence:
    """Guarantee 1: whatever a worker says under a lease that is not current is refused, and changes nothing."""

    def test_a_token_that_never_was_is_refused(self, lab: Lab, coordinator: Coordinator) -> None:
        lab.claimed()
        assert_all_refused(lab, coordinator, "never")

    def test_a_lease_that_was_taken_back_is_refused(self, lab: Lab, coordinator: Coordinator) -> None:
        lease = lab.claimed()
        lab.lose(lease)
        assert_all_refused(lab, coordinator, lease.token)

    def test_a_lease_that_another_worker_has_is_refused(self, lab: Lab, coordinator: Coordinator) -> None:
        zombie = lab.claimed("alice")
        lab.lose(zombie)
        lab.claimed("bob")
        assert_all_refused(lab, coordinator, zombie.token)

    @pytest.mark.parametrize("end", ["release", "fail", "stop"])
    def test_a_lease_that_was_given_up_is_refused(self, lab: Lab, coordinator: Coordinator, end: str) -> None:
        lease = lab.claimed()
        if end == "release":
            coordinator.release(lease.token)
        elif end == "fail":
            coordinator.fail(lease.token, ERROR)
        else:
            lab.engine.stop("lab")
        assert_all_refused(lab, coordinator, lease.token)

    def test_after_the_result_everything_but_the_same_result_is_refused(
        self, lab: Lab, coordinator: Coordinator
    ) -> None:
        lease = lab.claimed()
        coordinator.finish(lease.token, complete(0.5))
        before = lab.everything()
        for name, write in refused_writes(coordinator, lease.token):
            if not name.startswith("finish"):
                with pytest.raises(LeaseLost):
                    write()
        with pytest.raises(LeaseLost):
            coordinator.finish(lease.token, Outcome(TrialState.PRUNED, (0.4,)))
        assert lab.everything() == before


class TestReport:
    def test_reports_are_recorded_with_their_attempt(self, lab: Lab, coordinator: Coordinator) -> None:
        lease = lab.claimed()
        coordinator.report(lease.token, [Report(1, 0.1, {"loss": 2.0}), Report(2, 0.2)])
        assert lab.reports() == {1: (0.1, 1), 2: (0.2, 1)}
        assert lab.engine.reports(lab.engine.trials(lab.study)[0])[0] == Report(1, 0.1, {"loss": 2.0})

    def test_the_same_step_again_overwrites_also_within_one_call(self, lab: Lab, coordinator: Coordinator) -> None:
        lease = lab.claimed()
        coordinator.report(lease.token, [Report(1, 0.1), Report(1, 0.2)])
        coordinator.report(lease.token, [Report(1, 0.3)])
        assert lab.reports() == {1: (0.3, 1)}

    def test_a_newer_attempt_overwrites_an_older_one_and_never_the_other_way_round(
        self, lab: Lab, coordinator: Coordinator
    ) -> None:
        first = lab.claimed("alice")
        coordinator.report(first.token, [Report(1, 0.1), Report(2, 0.2)])
        lab.lose(first)
        second = lab.claimed("bob")
        coordinator.report(second.token, [Report(1, 0.7)])
        with pytest.raises(LeaseLost):
            coordinator.report(first.token, [Report(1, 99.0)])
        assert lab.reports() == {1: (0.7, 2), 2: (0.2, 1)}

    def test_no_reports_are_fine_and_still_need_the_lease(self, lab: Lab, coordinator: Coordinator) -> None:
        coordinator.report(lab.claimed().token, [])
        with pytest.raises(LeaseLost):
            coordinator.report(new_token(), [])

    def test_what_a_define_by_run_function_asked_for_is_seen_while_it_runs(
        self, lab: Lab, coordinator: Coordinator
    ) -> None:
        lease = lab.claimed()
        coordinator.describe(lease.token, {"x": 0.5, "y": 0.25}, {"x": UNIT, "y": UNIT})
        assert lab.engine.trials(lab.study)[0].params == {"x": 0.5, "y": 0.25}
        lab.lose(lease)
        assert lab.claimed().distributions == {"x": UNIT, "y": UNIT}


class TestCheckpoint:
    def test_the_next_attempt_starts_from_the_last_acknowledged_checkpoint(
        self, lab: Lab, coordinator: Coordinator
    ) -> None:
        lease = lab.claimed()
        coordinator.checkpoint(lease.token, checkpoint(3))
        coordinator.checkpoint(lease.token, checkpoint(7))
        lab.lose(lease)
        assert lab.claimed().checkpoint == checkpoint(7)
        assert lab.audit() == []

    def test_an_earlier_step_never_replaces_a_later_one(self, lab: Lab, coordinator: Coordinator) -> None:
        lease = lab.claimed()
        coordinator.checkpoint(lease.token, checkpoint(7))
        coordinator.checkpoint(lease.token, checkpoint(3))
        assert (lab.row().checkpoint_step, lab.row().checkpoint_path) == (7, checkpoint(7).path)

    def test_the_same_step_again_is_the_newer_file(self, lab: Lab, coordinator: Coordinator) -> None:
        first = lab.claimed()
        coordinator.checkpoint(first.token, checkpoint(7))
        lab.lose(first)
        second = lab.claimed()
        coordinator.checkpoint(second.token, checkpoint(7, attempt=2))
        assert (lab.row().checkpoint_path, lab.row().checkpoint_attempt) == (checkpoint(7, attempt=2).path, 2)


class TestEnds:
    def test_a_result_is_accepted_with_all_that_belongs_to_it(self, lab: Lab, coordinator: Coordinator) -> None:
        lease = lab.claimed()
        outcome = complete(
            0.5,
            metrics={"loss": 1.5},
            params={"x": 0.5, "y": 0.1},
            distributions={"x": UNIT, "y": UNIT},
            artifacts=(Artifact("model.json", "0" * 64, 10),),
            facts={"note": "hello"},
        )
        coordinator.finish(lease.token, outcome, [Report(9, 0.5)])
        found = lab.engine.trial(lab.study, 0)
        assert (found.state, found.values, found.metrics) == (TrialState.COMPLETE, (0.5,), {"loss": 1.5})
        assert (found.params, found.facts, found.artifacts) == (outcome.params, {"note": "hello"}, outcome.artifacts)
        assert lab.reports() == {9: (0.5, 1)}
        assert lab.row().result_token == lease.token
        assert found.duration_s is not None and found.duration_s >= 0

    def test_a_result_whose_answer_was_lost_may_be_sent_again_and_counts_once(
        self, lab: Lab, coordinator: Coordinator
    ) -> None:
        lease = lab.claimed()
        outcome = complete(0.5, params={"x": 0.5}, distributions={"x": UNIT}, artifacts=(Artifact("a", "0" * 64, 1),))
        coordinator.finish(lease.token, outcome, [Report(1, 0.5)])
        before = lab.everything() | {"artifact": lab.database.all(sa.select(artifact))}
        coordinator.finish(lease.token, outcome, [Report(1, 0.5)])
        assert lab.everything() | {"artifact": lab.database.all(sa.select(artifact))} == before

    def test_of_two_workers_who_both_think_they_have_the_trial_one_is_heard(
        self, lab: Lab, coordinator: Coordinator
    ) -> None:
        zombie = lab.claimed("alice")
        lab.lose(zombie)
        current = lab.claimed("bob")
        together = threading.Barrier(2)

        def finish(lease: Lease, value: float) -> bool:
            together.wait()
            try:
                coordinator.finish(lease.token, complete(value))
            except LeaseLost:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            heard = list(pool.map(finish, [zombie, current], [0.99, 0.5]))
        assert heard == [False, True]
        assert lab.row().value == 0.5
        assert lab.audit() == []

    def test_a_result_and_the_reaper_at_the_same_time_leave_one_of_two_truths(
        self, lab: Lab, coordinator: Coordinator
    ) -> None:
        leases = [lab.claimed() for _ in range(12)]
        lab.expire(*(lease.token for lease in leases))
        together = threading.Barrier(3)

        def finish(share: list[Lease]) -> list[int]:
            together.wait()
            heard = []
            for lease in share:
                try:
                    coordinator.finish(lease.token, complete(0.5), [Report(1, 0.5)])
                    heard.append(lease.trial_id)
                except LeaseLost:
                    pass
            return heard

        def reap(_: object) -> list[int]:
            together.wait()
            return lab.reap()

        with ThreadPoolExecutor(3) as pool:
            finishing = [pool.submit(finish, leases[i::2]) for i in range(2)]
            taken = pool.submit(reap, None).result()
            heard = [trial_id for future in finishing for trial_id in future.result()]
        assert sorted(heard + taken) == sorted(lease.trial_id for lease in leases)
        assert lab.audit() == []

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_a_value_that_is_not_finite_is_refused_and_changes_nothing(
        self, lab: Lab, coordinator: Coordinator, value: float
    ) -> None:
        lease = lab.claimed()
        with pytest.raises(InvalidInput, match="not all finite"):
            coordinator.finish(lease.token, complete(value))
        assert lab.row().state == "running"
        coordinator.finish(lease.token, complete(0.5))
        coordinator.finish(lab.claimed().token, Outcome(TrialState.PRUNED, None))
        assert [trial.value for trial in lab.engine.best_trials(lab.study, 5)] == [0.5]
        assert lab.audit() == []

    def test_constraints_are_where_optuna_keeps_them_in_one_order(self, lab: Lab, coordinator: Coordinator) -> None:
        coordinator.finish(lab.claimed().token, complete(0.5, constraints={"ms": 1e20, "a": -0.5, "mb": math.inf}))
        coordinator.finish(lab.claimed().token, Outcome(TrialState.PRUNED, (0.5,), constraints={"mb": -math.inf}))
        complete_one, pruned = lab.engine.optuna.get_all_trials(lab.study.id)
        assert complete_one.constraints == {"a": -0.5, "mb": math.inf, "ms": 1e20}
        assert list(complete_one.constraints) == sorted(complete_one.constraints)
        assert pruned.constraints == {"mb": -math.inf}
        records = lab.engine.trials(lab.study)
        assert [(dict(r.constraints), r.violated) for r in records] == [
            ({"a": -0.5, "mb": math.inf, "ms": 1e20}, ("mb", "ms")),
            ({"mb": -math.inf}, ()),
        ]

    def test_constraints_stand_beside_what_the_sampler_noted(self, lab: Lab, coordinator: Coordinator) -> None:
        lab.studies.hold(lab.study.id, lab.suggester, LEASE_S)
        noted = {**suggestion(), "system_attrs": {"automl:why": {"arm": "model"}}}
        lab.studies.add_suggestion(lab.study.id, lab.suggester, 0, noted)
        coordinator.finish(lab.claimed().token, complete(0.5, constraints={"ms": 1.0}))
        assert lab.row().system_attrs == {"automl:why": {"arm": "model"}, "constraints:ms": 1.0}
        assert lab.engine.trial(lab.study, 0).why == {"arm": "model"}

    def test_a_constraint_that_is_not_a_number_is_refused_and_changes_nothing(
        self, lab: Lab, coordinator: Coordinator
    ) -> None:
        lease = lab.claimed()
        before = lab.everything()
        with pytest.raises(InvalidInput, match="constraints") as caught:
            coordinator.finish(lease.token, complete(0.5, constraints={"ms": math.nan}))
        assert caught.value.field == "constraints"
        assert lab.everything() == before

    def test_a_released_trial_waits_again_with_its_checkpoint_at_no_cost(
        self, lab: Lab, coordinator: Coordinator
    ) -> None:
        for attempt in range(1, 9):
            lease = lab.claimed()
            assert (lease.number, lease.attempt) == (0, attempt)
            coordinator.checkpoint(lease.token, checkpoint(attempt, attempt))
            coordinator.release(lease.token)
        row = lab.row()
        assert (row.state, row.cause, row.preempted, row.lost, row.errors) == ("waiting", "preempted", 8, 0, 0)
        assert lab.claimed().checkpoint == checkpoint(8, 8)
        assert lab.audit() == []


class TestFailures:
    @pytest.fixture
    def lab(self, url: str, artifacts: Path) -> Iterator[Lab]:
        opened = Lab(url, artifacts, spec(retries=2))
        yield opened
        opened.close()

    def test_an_error_uses_up_retries_and_then_the_trial_has_failed(self, lab: Lab, coordinator: Coordinator) -> None:
        states = []
        for _ in range(3):
            coordinator.fail(lab.claimed().token, ERROR, [Report(1, 0.1)])
            lab.hurry()
            states.append(lab.row().state)
        assert states == ["waiting", "waiting", "failed"]
        found = lab.engine.trials(lab.study)[0]
        assert (found.failure, found.attempt, lab.row().errors) == (ERROR, 3, 3)
        assert found.finished_at is not None
        assert lab.reports() == {1: (0.1, 3)}
        assert lab.audit() == []

    def test_a_retry_that_works_leaves_no_failure_behind(self, lab: Lab, coordinator: Coordinator) -> None:
        coordinator.fail(lab.claimed().token, ERROR)
        lab.hurry()
        coordinator.finish(lab.claimed().token, complete(0.5))
        assert lab.engine.trials(lab.study)[0].failure is None

    def test_a_second_retry_waits_a_moment(self, lab: Lab, coordinator: Coordinator) -> None:
        coordinator.fail(lab.claimed().token, ERROR)
        coordinator.fail(lab.claimed().token, ERROR)
        failed_at = lab.engine.moves(lab.engine.trial(lab.study, 0))[-1]["at"]
        assert lab.row().run_after - failed_at == pytest.approx(1.0, abs=1e-3)
        lab.database.execute(sa.update(trial).values(run_after=now() + 60.0))
        assert lab.claim() is None

    @pytest.mark.parametrize("kind", [FailureKind.OUT_OF_MEMORY, FailureKind.NON_FINITE, FailureKind.TIMEOUT])
    def test_what_would_happen_again_is_not_tried_again(
        self, lab: Lab, coordinator: Coordinator, kind: FailureKind
    ) -> None:
        coordinator.fail(lab.claimed().token, Failure(kind, "it would happen again"))
        row = lab.row()
        assert (row.state, row.cause, row.errors, row.failure_kind) == ("failed", kind.value, 0, kind.value)
        assert lab.audit() == []

    def test_losses_and_preemptions_use_up_no_retries(self, lab: Lab, coordinator: Coordinator) -> None:
        lab.lose(lab.claimed())
        coordinator.fail(lab.claimed().token, Failure(FailureKind.LOST, "killed"))
        lab.hurry()
        coordinator.release(lab.claimed().token)
        for _ in range(2):
            coordinator.fail(lab.claimed().token, ERROR)
            lab.hurry()
        assert lab.row().state == "waiting"
        row = lab.row()
        assert (row.errors, row.lost, row.preempted) == (2, 2, 1)
        assert lab.audit() == []

    def test_a_trial_that_took_down_two_workers_five_times_is_not_tried_again(self, lab: Lab) -> None:
        for loss in range(1, MAX_LOSSES + 1):
            assert lab.row().state == "waiting" if lab.counts()["total"] else True
            lab.lose(lab.claimed("alice" if loss % 2 else "bob"))
        row = lab.row()
        assert (row.state, row.cause, row.lost, row.failure_kind) == ("failed", "poison", MAX_LOSSES, "lost")
        assert lab.audit() == []

    def test_a_worker_that_dies_again_and_again_by_itself_is_no_proof_against_the_trial(self, lab: Lab) -> None:
        for _ in range(MAX_LOSSES + 1):
            lab.lose(lab.claimed("alice"))
        assert lab.row().state == "waiting"

    def test_a_trial_whose_process_is_killed_five_times_is_not_tried_again(
        self, lab: Lab, coordinator: Coordinator
    ) -> None:
        for _ in range(MAX_LOSSES):
            coordinator.fail(lab.claimed("alice").token, Failure(FailureKind.LOST, "killed"))
            lab.hurry()
        assert (lab.row().state, lab.row().cause) == ("failed", "poison")

    def test_a_study_whose_first_trials_all_fail_alike_is_given_up(self, lab: Lab, coordinator: Coordinator) -> None:
        lab.suggest(HOPELESS_AFTER + 2)
        self._use_up_retries(lab, coordinator, ERROR, HOPELESS_AFTER)
        record = lab.engine.study("lab")
        assert record.state is StudyState.FAILED
        assert record.reason is not None and "boom" in record.reason
        assert lab.counts()["waiting"] == 0
        assert lab.audit() == []

    def test_a_study_of_which_one_trial_worked_goes_on(self, lab: Lab, coordinator: Coordinator) -> None:
        coordinator.finish(lab.claimed().token, complete(0.5))
        self._use_up_retries(lab, coordinator, ERROR, HOPELESS_AFTER + 1)
        assert lab.engine.study("lab").state is StudyState.OPEN

    def test_a_study_whose_trials_fail_in_different_ways_goes_on(self, lab: Lab, coordinator: Coordinator) -> None:
        for number in range(HOPELESS_AFTER + 1):
            self._use_up_retries(
                lab, coordinator, Failure(FailureKind.ERROR, "boom", f'  File "x.py", line {number}'), 1
            )
        assert lab.engine.study("lab").state is StudyState.OPEN

    @staticmethod
    def _use_up_retries(lab: Lab, coordinator: Coordinator, failure: Failure, trials: int) -> None:
        for _ in range(3 * trials):
            coordinator.fail(lab.claimed().token, failure)
            lab.hurry()


class TestStop:
    def test_stopping_a_study_cancels_what_is_unfinished_and_ends_its_leases(
        self, lab: Lab, coordinator: Coordinator
    ) -> None:
        coordinator.finish(lab.claimed().token, complete(0.5))
        running = lab.claimed()
        lab.suggest(2)
        assert lab.engine.stop("lab")
        assert not lab.engine.stop("lab")
        counts = lab.counts()
        assert (counts["complete"], counts["cancelled"], counts["total"]) == (1, 3, 4)
        assert coordinator.renew([running.token], LEASE_S) == frozenset()
        assert lab.claim() is None
        assert lab.audit() == []


class TwoWorkers(RuleBasedStateMachine):
    """Two workers, leases that expire at any moment, and a plain model of what must be true after each step.

    The model knows a trial's state, its current token, its counters, and each report with its attempt. Tokens are
    remembered for ever, so most of the calls here come from a worker whose time is over.
    """

    directory: Path
    make: Callable[[Lab], Coordinator] = staticmethod(lambda lab: lab.engine)

    @initialize()
    def open(self) -> None:
        empty, path = self.directory / "empty.db", self.directory / f"{new_token()}.db"
        if not empty.exists():  # migrated once, copied for each example
            Lab(f"sqlite:///{empty}", self.directory / "artifacts", spec(trials=2, retries=1)).close()
        shutil.copy(empty, path)
        self.lab = Lab(f"sqlite:///{path}", self.directory / "artifacts", spec(trials=2, retries=1))
        self.coordinator = self.make(self.lab)
        self.trials: dict[int, dict[str, Any]] = {}
        self.tokens: list[tuple[str, int]] = []

    def teardown(self) -> None:
        if hasattr(self, "lab"):
            self.lab.close()

    @precondition(lambda self: len(self.trials) < 2)
    @rule()
    def suggest(self) -> None:
        (number,) = self.lab.suggest()
        self.trials[number] = {
            "state": "waiting",
            "attempt": 0,
            "lease_token": None,
            "errors": 0,
            "lost": 0,
            "preempted": 0,
            "checkpoint_step": None,
            "value": None,
            "reports": {},
            "workers": set(),
        }

    @rule(worker=st.sampled_from(["alice", "bob"]))
    def claim(self, worker: str) -> None:
        waiting = [number for number, known in self.trials.items() if known["state"] == "waiting"]
        token = new_token()
        lease = self.coordinator.claim([self.lab.study.id], worker, token, LEASE_S)
        if not waiting:
            assert lease is None
            return
        assert lease is not None and lease.number == min(waiting)
        known = self.trials[lease.number]
        known |= {"state": "running", "attempt": known["attempt"] + 1, "lease_token": token}
        known["workers"].add(worker)
        assert lease.attempt == known["attempt"]
        assert (lease.checkpoint.step if lease.checkpoint else None) == known["checkpoint_step"]
        self.tokens.append((token, lease.number))

    def _try(self, pick: int, write: Callable[[str], None]) -> dict[str, Any] | None:
        """Make a call under one of all tokens there ever were; the model of the trial if it was to be accepted."""
        token, number = self.tokens[pick % len(self.tokens)]
        known = self.trials[number]
        if known["lease_token"] == token:
            write(token)
            return known
        with pytest.raises(LeaseLost):
            write(token)
        return None

    picks = st.integers(0, 50)
    steps = st.integers(1, 3)
    some_claimed = precondition(lambda self: self.tokens)

    @some_claimed
    @rule(pick=picks, step=steps, value=st.floats(-10, 10))
    def report(self, pick: int, step: int, value: float) -> None:
        known = self._try(pick, lambda token: self.coordinator.report(token, [Report(step, value)]))
        if known is not None:
            known["reports"][step] = (value, known["attempt"])

    @some_claimed
    @rule(pick=picks, step=steps)
    def checkpoint(self, pick: int, step: int) -> None:
        known = self._try(pick, lambda token: self.coordinator.checkpoint(token, checkpoint(step)))
        if known is not None:
            known["checkpoint_step"] = max(step, known["checkpoint_step"] or 0)

    @some_claimed
    @rule(pick=picks, value=st.floats(-10, 10))
    def finish(self, pick: int, value: float) -> None:
        token, number = self.tokens[pick % len(self.tokens)]
        trial = self.trials[number]
        if trial.get("result_token") == token:  # said twice, heard once; another result is refused
            self.coordinator.finish(token, complete(trial["value"]))
            if value != trial["value"]:
                with pytest.raises(LeaseLost):
                    self.coordinator.finish(token, complete(value))
            return
        known = self._try(pick, lambda token: self.coordinator.finish(token, complete(value)))
        if known is not None:
            known |= {"state": "complete", "value": value, "lease_token": None, "result_token": token}

    @some_claimed
    @rule(pick=picks, kind=st.sampled_from([FailureKind.ERROR, FailureKind.TIMEOUT, FailureKind.LOST]))
    def fail(self, pick: int, kind: FailureKind) -> None:
        failure = Failure(kind, "boom", new_token())  # each another, else the study would be given up
        known = self._try(pick, lambda token: self.coordinator.fail(token, failure))
        if known is None:
            return
        known["lease_token"] = None
        if kind is FailureKind.ERROR:
            known["errors"] += 1
        elif kind is FailureKind.LOST:
            known["lost"] += 1
        over = kind is FailureKind.TIMEOUT or known["errors"] > 1 or known["lost"] >= MAX_LOSSES
        known["state"] = "failed" if over else "waiting"

    @some_claimed
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        known = self._try(pick, self.coordinator.release)
        if known is not None:
            known |= {"state": "waiting", "lease_token": None, "preempted": known["preempted"] + 1}

    @some_claimed
    @rule(picked=st.lists(picks, max_size=3))
    def renew(self, picked: list[int]) -> None:
        asked = {self.tokens[pick % len(self.tokens)][0] for pick in picked}
        current = {known["lease_token"] for known in self.trials.values()}
        assert self.coordinator.renew(asked, LEASE_S) == asked & current

    @some_claimed
    @rule(pick=picks)
    def expire(self, pick: int) -> None:
        token, number = self.tokens[pick % len(self.tokens)]
        if self.trials[number]["lease_token"] == token:
            self.lab.expire(token)

    @some_claimed
    @rule(pick=picks)
    def lose(self, pick: int) -> None:
        self.expire(pick)
        self.reap()

    @some_claimed
    @rule()
    def reap(self) -> None:
        over = self.lab.database.all(
            sa.select(trial.c.number).where(trial.c.lease_expires_at < self.lab.engine.clock())
        )
        self.lab.reap()
        for (number,) in over:
            known = self.trials[number]
            known |= {"lease_token": None, "lost": known["lost"] + 1}
            poison = known["lost"] >= MAX_LOSSES and len(known["workers"]) > 1
            known["state"] = "failed" if poison else "waiting"

    @invariant()
    def the_tables_hold_what_the_model_holds(self) -> None:
        if not hasattr(self, "lab"):
            return
        self.lab.hurry()
        for number, known in self.trials.items():
            row = self.lab.row(number)._mapping
            for column in (
                "state",
                "attempt",
                "lease_token",
                "errors",
                "lost",
                "preempted",
                "checkpoint_step",
                "value",
            ):
                assert row[column] == known[column], f"trial {number}: {column}"
            assert self.lab.reports(number) == known["reports"]

    @invariant()
    def the_history_is_sound(self) -> None:
        if hasattr(self, "lab"):
            assert self.lab.audit() == []


EXAMPLES = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    report_multiple_bugs=False,
)


def test_whatever_two_workers_do_the_tables_agree_with_the_model(tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    machine = type("TwoWorkersHere", (TwoWorkers,), {"directory": tmp_path})
    run_state_machine_as_test(machine, settings=EXAMPLES)


# -- mutants ------------------------------------------------------------------------------------------------------

#: The fence of most job queues: the trial by its id, and its state.
_BY_ID = sa.and_(
    trial.c.id
    == sa.select(event.c.trial_id)
    .where(event.c.token == sa.bindparam("held"), event.c.cause == "claimed")
    .scalar_subquery(),
    trial.c.state == TrialState.RUNNING.value,
)


@contextmanager
def without_the_fence(*names: str) -> Iterator[None]:
    """The statements of `storage.leases`, with the trial's id in place of the token."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases_module, "_HELD", _BY_ID)
        for name in ("_CHECKPOINT", "_RELEASE"):
            statement = getattr(leases_module, name)
            kept = statement.whereclause.clauses[2:] if name == "_CHECKPOINT" else []
            unfenced = sa.update(trial).where(_BY_ID, *kept).values(statement._values)
            patch.setattr(leases_module, name, unfenced)
        yield


class Unfenced(Leases):
    """One verb of this does not look at the token."""

    def __init__(self, lab: Lab, verb: str):
        super().__init__(lab.database, Distributions(lab.database))
        fenced = getattr(self, verb)

        def unfenced(*arguments: Any) -> Any:
            with without_the_fence():
                return fenced(*arguments)

        setattr(self, verb, unfenced)


class HastyClaim(Leases):
    """Looks for a waiting trial, and then takes it."""

    def __init__(self, lab: Lab, between: Callable[[], object]):
        super().__init__(lab.database, Distributions(lab.database))
        self._between = between

    def claim(self, study_ids: Any, worker: str, token: str, lease_s: float) -> Lease | None:
        row = self._database.first(sa.select(trial.c.id).where(trial.c.state == "waiting").limit(1))
        assert row is not None
        self._between()
        taken = {"state": "running", "cause": "claimed", "attempt": trial.c.attempt + 1}
        lease = {"lease_token": token, "lease_expires_at": 4e9, "worker": worker}
        self._database.execute(sa.update(trial).where(trial.c.id == row.id).values(**taken, **lease))
        return None


class ForgetfulClaim(Leases):
    """Does not count the attempt up."""

    def claim(self, study_ids: Any, worker: str, token: str, lease_s: float) -> Lease | None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(leases_module, "_CLAIM", leases_module._CLAIM.values(attempt=trial.c.attempt))
            return super().claim(study_ids, worker, token, lease_s)


class ForgetfulReaper(Leases):
    """Takes a trial back without counting the loss."""

    def reap(self, grace_s: float) -> list[int]:
        real = leases_module._lost

        def lost(*arguments: Any) -> dict[str, Any]:
            return {name: value for name, value in real(*arguments).items() if name != "lost"}

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(leases_module, "_lost", lost)
            return super().reap(grace_s)


def zombie_story(lab: Lab) -> list[str]:
    """A worker sleeps past its lease, another one takes over, the first wakes up. All that went wrong, one line each.

    On the way the second worker loses nothing: what it was told is recorded must still be there at the end.
    """
    wrong: list[str] = []
    lab.suggest()
    alice = lab.claimed("alice")
    lab.engine.report(alice.token, [Report(1, 0.1)])
    lab.engine.checkpoint(alice.token, checkpoint(1))
    lab.lose(alice)
    bob = lab.claimed("bob")
    lab.engine.report(bob.token, [Report(1, 0.5), Report(2, 0.6)])
    lab.engine.checkpoint(bob.token, checkpoint(2, attempt=2))
    for name, write in refused_writes(lab.engine, alice.token):
        try:
            write()
            wrong.append(f"the zombie's {name} was accepted")
        except LeaseLost:
            pass
        wrong += lab.audit()
    if lab.row().checkpoint_path != checkpoint(2, attempt=2).path:
        wrong.append("the zombie's checkpoint is in place of the current one")
    if lab.reports() != {1: (0.5, 2), 2: (0.6, 2)}:
        wrong.append("the zombie's reports are in place of the current ones")
    try:
        lab.engine.finish(bob.token, complete(0.7))
    except LeaseLost:
        wrong.append("the current worker's result was refused")
    if lab.row().value != 0.7:
        wrong.append("the current worker's result is not there")
    return list(dict.fromkeys(wrong + lab.audit()))


def test_the_zombie_story_ends_well(lab: Lab) -> None:
    assert zombie_story(lab) == []


@pytest.mark.parametrize(
    ("verb", "caught"),
    [
        ("finish", "its result came from lease"),
        ("report", "the zombie's reports are in place of the current ones"),
        ("checkpoint", "the zombie's checkpoint is in place of the current one"),
        ("fail", "the zombie's fail was accepted"),
        ("release", "the zombie's release was accepted"),
        ("describe", "the zombie's describe was accepted"),
    ],
)
def test_a_verb_that_does_not_look_at_the_token_is_caught(lab: Lab, verb: str, caught: str) -> None:
    lab.engine._leases = Unfenced(lab, verb)
    assert any(caught in line for line in zombie_story(lab))


def test_a_claim_that_looks_first_and_takes_later_is_caught_by_the_audit(lab: Lab) -> None:
    lab.suggest(1)
    together = threading.Barrier(2)
    lab.engine._leases = HastyClaim(lab, together.wait)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lab.claim, ["alice", "bob"]))
    assert any("was claimed while it was running" in line for line in lab.audit())


def test_a_claim_that_does_not_count_attempts_is_caught_by_the_audit(lab: Lab) -> None:
    lab.engine._leases = ForgetfulClaim(lab.database, Distributions(lab.database))
    lab.claimed()
    assert any("went from attempt 0 to 0" in line for line in lab.audit())


def test_a_reaper_that_does_not_count_losses_is_caught_by_the_audit(lab: Lab) -> None:
    lab.engine._leases = ForgetfulReaper(lab.database, Distributions(lab.database))
    lab.lose(lab.claimed())
    assert lab.audit() == ["trial 0: lost is 0, its history tells of 1"]


@pytest.mark.parametrize("verb", ["report", "checkpoint"])
def test_the_model_catches_a_verb_that_does_not_look_at_the_token(tmp_path: Path, verb: str) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    def make(lab: Lab) -> Engine:
        lab.engine._leases = Unfenced(lab, verb)
        return lab.engine

    machine = type("Mutant", (TwoWorkers,), {"directory": tmp_path, "make": staticmethod(make)})
    without_shrinking = settings(
        EXAMPLES, max_examples=200, phases=[Phase.generate], derandomize=True, print_blob=False
    )
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        run_state_machine_as_test(machine, settings=without_shrinking)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        ({"attempt": 7}, "trial 0: is at attempt 7, its history says 1"),
        ({"result_token": "other"}, "trial 0: its result came from lease other"),
        ({"checkpoint_attempt": 9}, "trial 0: its checkpoint is of attempt 9, but there were only 1"),
        ({"checkpoint_step": 1}, "trial 0: its checkpoint is of step 1, acknowledged was 5"),
        ({"number": 3}, "numbers are not 0 to 0, each once"),
        ({"lost": 1}, "trial 0: lost is 1, its history tells of 0"),
        ({"finished_at": None}, "trial 0: is complete, but not since when"),
    ],
)
def test_the_audit_sees_a_row_that_was_tampered_with(lab: Lab, damage: dict[str, Any], line: str) -> None:
    lease = lab.claimed()
    lab.engine.checkpoint(lease.token, checkpoint(5))
    lab.engine.finish(lease.token, complete(0.5))
    assert lab.audit() == []
    lab.database.execute(sa.update(trial).values(**damage))
    assert any(found.startswith(line) for found in lab.audit())


def test_the_audit_sees_a_lease_that_everybody_forgot(lab: Lab) -> None:
    lease = lab.claimed()
    lab.expire(lease.token)
    assert lab.audit() == []
    lab.database.execute(sa.update(trial).values(lease_expires_at=1.0))
    (line,) = lab.audit()
    assert line.startswith("trial 0: its lease was over") and line.endswith("is a worker running?")


def test_the_audit_sees_a_report_of_an_attempt_that_never_was(lab: Lab) -> None:
    lease = lab.claimed()
    lab.engine.report(lease.token, [Report(1, 0.5)])
    lab.database.execute(sa.text("UPDATE report SET attempt = 4"))
    assert lab.audit() == ["trial 0: a report is of attempt 4, but there were only 1"]


def test_the_audit_sees_a_budget_that_was_exceeded(lab: Lab) -> None:
    lab.suggest(3)
    lab.database.execute(sa.text("UPDATE study SET max_trials = 2"))
    assert lab.audit() == ["the budget of 2 trials is exceeded by 2 (or was lowered since)"]
