"""Boards, curves, timelines and overviews say what the tables hold, however they were brought up to date."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import sqlalchemy as sa
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial

from automl import Choice, Float
from automl.board import FAILURES, STATES, Board
from automl.core import Attr, Failure, FailureKind, Outcome, Report, StudyRecord, TrialState
from automl.declaration import Bound, Space
from automl.engine import connect
from automl.errors import NotFound
from automl.storage import columns
from automl.storage.tables import study as study_table
from automl.storage.tables import trial
from tests.conformance.lab import Lab, complete, spec

HOSTILE = 'x\'); DROP TABLE trial; -- "quoted" $.a[0] <script>%s {} é'


def assert_same(board: Board, other: Board) -> None:
    """Equal in every column; the cursors may differ."""
    assert columns.same_study(board.study, other.study)
    assert board.workers == other.workers
    for name in ("state", "values", "last_value", "step", "excess", "invalid", "attempt", "failure", "worker"):
        np.testing.assert_array_equal(getattr(board, name), getattr(other, name), err_msg=name)
    for name in ("created", "started", "finished", "mean", "sd"):
        np.testing.assert_array_equal(getattr(board, name), getattr(other, name), err_msg=name)
    for kind in ("params", "metrics"):
        mine, others = getattr(board, kind), getattr(other, kind)
        assert list(mine) == list(others)
        for name, column in mine.items():
            assert column.choices == others[name].choices
            np.testing.assert_array_equal(column.values, others[name].values, err_msg=name)
    for item in (board, other):
        for column in (*item.params.values(), *item.metrics.values()):
            assert len(column.values) == len(item)
        assert item.values.shape == (len(item), len(item.study.directions))


class Watched:
    """A board that is brought up to date at each look, and compared with one that is made anew."""

    def __init__(self, lab: Lab, record: StudyRecord | None = None):
        self.lab = lab
        self.record = record or lab.study
        self.board = lab.engine.board(self.record)

    def look(self) -> Board:
        self.board = self.lab.engine.board(self.record, self.board)
        assert_same(self.board, self.lab.engine.board(self.record))
        assert self.lab.engine.board(self.record, self.board) is self.board
        return self.board

    def state(self, number: int = 0) -> TrialState:
        return STATES[self.look().state[number]]


@pytest.fixture
def watched(lab: Lab) -> Watched:
    return Watched(lab)


def wide(**changes: Any) -> Any:
    """A study of several metrics and kinds of parameters, with constraints."""
    space = Space(
        {
            "opt": Choice("sgd", "adamw", None, 3, 4.5),
            "lr": Float(1e-5, 1.0, log=True),
            "momentum": Float(0.0, 0.99, when={"opt": "sgd"}),
        }
    )
    fields = {"space": space, "metrics": {"a": "max", "b": "min"}, "fidelity": None}
    return spec("wide", **{**fields, "constraints": {"latency": Bound(max=5.0)}, **changes})


# -- boards ----------------------------------------------------------------------------------------------------------


def test_a_study_without_trials_has_an_empty_board(watched: Watched) -> None:
    board = watched.look()
    assert len(board) == 0 and board.values.shape == (0, 1) and board.best is None
    assert board.counts["total"] == 0 and list(board.params) == ["x"] and len(board.front) == 0


def test_every_move_of_a_trial_is_seen(lab: Lab, watched: Watched) -> None:
    lab.suggest()
    assert watched.state() is TrialState.WAITING
    lease = lab.claimed(worker="m-1-0")
    assert watched.state() is TrialState.RUNNING and watched.board.workers == ("m-1-0",)
    lab.engine.report(lease.token, [Report(1, 0.5)])
    lab.engine.report(lease.token, [Report(3, 0.7, {"loss": 1.0})])
    assert watched.look().step[0] == 3 and watched.board.last_value[0] == 0.7
    lab.engine.release(lease.token)
    assert watched.state() is TrialState.WAITING
    lease = lab.claimed(worker="m-2-0")
    assert watched.look().attempt[0] == 2 and watched.board.workers == ("m-2-0",)
    lab.lose(lease)
    assert watched.look().failure[0] == FAILURES.index(FailureKind.LOST)
    lease = lab.claimed(worker="m-2-0")
    lab.engine.finish(lease.token, complete(0.9, metrics={"loss": 0.25}))
    board = watched.look()
    assert board.values[0, 0] == 0.9 and board.metrics["loss"].at(0) == 0.25 and board.failure[0] == -1
    assert board.finished[0] >= board.started[0] >= board.created[0] > 1e9
    assert board.params["x"].at(0) == 0.5


def test_pruned_failed_and_cancelled_trials_are_seen(lab: Lab, watched: Watched) -> None:
    lab.suggest(4)
    watched.look()
    lease = lab.claimed()
    lab.engine.finish(lease.token, Outcome(TrialState.PRUNED, (0.4,)), [Report(1, 0.3), Report(2, 0.4)])
    assert watched.state(0) is TrialState.PRUNED and watched.board.step[0] == 2
    lease = lab.claimed()
    lab.engine.fail(lease.token, Failure(FailureKind.OUT_OF_MEMORY, "no memory"))
    assert watched.state(1) is TrialState.FAILED
    assert FAILURES[watched.board.failure[1]] is FailureKind.OUT_OF_MEMORY
    lab.claimed()
    watched.look()
    lab.engine.stop(lab.study.name)
    board = watched.look()
    assert board.counts["cancelled"] == 2 and board.study.state.value == "stopped"


def test_a_revised_suggestion_and_an_enqueued_trial_are_seen(lab: Lab, watched: Watched) -> None:
    lab.suggest()
    watched.look()
    changed = {"params": {"x": 0.125}, "distributions": {}, "basis": 3}
    lab.studies.revise_suggestion(lab.study.id, 0, {**changed, "system_attrs": {Attr.WHY: {"mean": 0.5, "sd": 0.1}}})
    board = watched.look()
    assert board.params["x"].at(0) == 0.125 and board.mean[0] == 0.5 and board.sd[0] == 0.1
    number = lab.engine.enqueue(lab.study, {"x": 0.75})
    assert watched.look().params["x"].at(number) == 0.75


def test_nothing_new_is_the_same_object_and_anything_new_another(lab: Lab) -> None:
    lease = lab.claimed()
    lab.engine.report(lease.token, [Report(1, 0.5)])
    board = lab.engine.board(lab.study)
    assert lab.engine.board(lab.study, board) is board
    lab.engine.renew([lease.token], 60.0)
    lab.studies.hold(lab.study.id, lab.suggester, 60.0, active_s=5.0)
    assert lab.engine.board(lab.study, board) is board, "leases and seconds of search are no news"
    lab.engine.report(lease.token, [Report(1, 0.6)])
    newer = lab.engine.board(lab.study, board)
    assert newer is not board and newer.last_value[0] == 0.6 and board.last_value[0] == 0.5


def test_a_board_shares_the_columns_that_did_not_change(lab: Lab) -> None:
    lease = lab.claimed()
    board = lab.engine.board(lab.study)
    lab.engine.finish(lease.token, complete(0.5))
    newer = lab.engine.board(lab.study, board)
    assert newer.params["x"] is board.params["x"] and newer.created is board.created
    assert newer.state is not board.state


def test_a_changed_study_makes_a_new_board(lab: Lab, watched: Watched) -> None:
    before = watched.look()
    lab.engine.tag(lab.study.name, ["nightly"])
    assert watched.look() is not before and watched.board.study.tags == ("nightly",)
    lab.engine.pause(lab.study.name)
    assert watched.look().study.paused
    lab.engine.extend(lab.study.name, trials=200)
    budget = watched.look().study.spec["budget"]  # type: ignore[index]
    assert budget["trials"] == 200


def test_a_wider_declaration_brings_its_columns_in_declared_order(lab: Lab, watched: Watched) -> None:
    lab.claimed()
    watched.look()
    wider = Space({"kind": Choice("a", "b"), "x": Float(0.0, 2.0)})
    record = lab.engine.study_by_id(lab.study.id)
    changed = {**record.spec, "space": wider.to_json()}  # type: ignore[dict-item]
    lab.database.execute(sa.update(study_table).where(study_table.c.id == record.id).values(spec=changed))
    board = watched.look()
    assert list(board.params) == ["kind", "x"] and board.params["kind"].choices == ("a", "b")
    assert board.params["kind"].at(0) is None and board.params["x"].at(0) == 0.5


def test_an_invalid_mark_and_its_end_are_seen(lab: Lab, watched: Watched) -> None:
    for value in (0.5, 0.9):
        lab.engine.finish(lab.claimed().token, complete(value))
    assert watched.look().best == 1
    lab.engine.invalidate(lab.study, 1, "trained on the test data")
    assert watched.look().best == 0 and watched.board.invalid.tolist() == [False, True]
    lab.engine.restore(lab.study, 1)
    assert watched.look().best == 1


def test_values_that_json_lacks_arrive(lab: Lab) -> None:
    storage, study_id = program(lab, "odd", [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE])
    seen = Watched(lab, lab.engine.study("odd"))
    for values in ([math.inf, 1e300], [-math.inf, -1e-300], [0.1 + 0.2, 1e20]):
        end(storage, storage.create_new_trial(study_id), values)
    np.testing.assert_array_equal(
        seen.look().values, [[math.inf, 1e300], [-math.inf, -1e-300], [0.30000000000000004, 1e20]]
    )


def test_a_nan_is_no_value(lab: Lab) -> None:
    storage, study_id = program(lab, "nan", [StudyDirection.MINIMIZE])
    seen = Watched(lab, lab.engine.study("nan"))
    trial_id = storage.create_new_trial(study_id)
    storage.set_trial_intermediate_value(trial_id, 1, math.nan)
    storage.set_trial_system_attr(trial_id, Attr.WHY, {"mean": "no number", "sd": [1]})
    assert np.isnan(seen.look().last_value[0]) and np.isnan(seen.board.mean[0]) and np.isnan(seen.board.sd[0])
    end(storage, trial_id, [math.nan])
    assert np.isnan(seen.look().values[0, 0]) and not seen.board.counted[0]


def test_constraints_come_as_what_is_violated_in_sum(lab: Lab) -> None:
    storage, study_id = program(lab, "bounded", [StudyDirection.MINIMIZE])
    record = lab.engine.study("bounded")
    seen = Watched(lab, record)
    given: list[dict[str, Any]] = [
        {"constraints": [1.0, 2.0, -5.0]},
        {"constraints:a": -1.0, "constraints:b": -0.5},
        {"constraints:a": math.inf},
        {'constraints:"; --': 0.25, "constraints:a": 0.5},
        {"constraints:a": math.nan},
        {},
        {"constraints:a": 0.0},
        {"constraintsother": 7.0, "noted": '"constraints'},
    ]
    for value, attrs in enumerate(given):
        trial_id = storage.create_new_trial(study_id)
        for key, attr in attrs.items():
            storage.set_trial_system_attr(trial_id, key, attr)
        end(storage, trial_id, [float(value)])
    excess = seen.look().excess
    np.testing.assert_array_equal(excess, [3.0, -0.5, math.inf, 0.75, math.inf, math.nan, 0.0, math.nan])
    assert seen.board.feasible.tolist() == [False, True, False, False, False, True, True, True]


def test_the_ranking_is_that_of_the_best_trials(lab: Lab) -> None:
    storage, study_id = program(lab, "ranked", [StudyDirection.MAXIMIZE])
    rng = random.Random(0)
    for _ in range(40):
        trial_id = storage.create_new_trial(study_id)
        for name in ("a", "b"):
            storage.set_trial_system_attr(trial_id, f"constraints:{name}", rng.choice([-1.0, 0.0, 0.5, 2.0]))
        end(storage, trial_id, [rng.choice([1.0, 2.0, 3.0])])
    record = lab.engine.study("ranked")
    lab.engine.invalidate(record, 7, "a bug")
    best = [item.number for item in lab.engine.best_trials(record, 100)]
    assert lab.engine.board(record).ranking.tolist() == best


def test_several_metrics_choices_and_conditions(url: str, artifacts: Path) -> None:
    lab = Lab(url, artifacts, wide())
    seen = Watched(lab)
    given: list[dict[str, Any]] = [
        {"opt": "sgd", "lr": 1e-3, "momentum": 0.9},
        {"opt": None, "lr": 1.0},
        {"opt": 3, "lr": 0.5},
        {"opt": 4.5, "lr": 0.25},
    ]
    for number, params in enumerate(given):
        held = lab.studies.hold(lab.study.id, lab.suggester, 60.0)
        assert held is not None
        row = {"params": params, "distributions": {}, "system_attrs": {}, "basis": 0}
        assert lab.studies.add_suggestion(lab.study.id, lab.suggester, held.next_number, row)
        seen.look()
        lease = lab.claimed()
        outcome = complete(float(number), -1.5, constraints={"latency": number - 2.0}, metrics={"z": 1.0, "e": 2.0})
        lab.engine.finish(lease.token, outcome)
        seen.look()
    board = seen.board
    assert list(board.params) == ["opt", "lr", "momentum"] and list(board.metrics) == ["e", "z"]
    assert [board.params["opt"].at(row) for row in range(4)] == ["sgd", None, 3, 4.5]
    assert [board.params["momentum"].at(row) for row in range(4)] == [0.9, None, None, None]
    assert board.values.tolist() == [[number, -1.5] for number in range(4)]
    assert board.excess.tolist() == [-2.0, -1.0, 0.0, 1.0] and board.best == 2
    lab.close()


def test_names_that_look_like_sql_are_names(lab: Lab) -> None:
    storage, study_id = program(lab, HOSTILE, [StudyDirection.MINIMIZE])
    seen = Watched(lab, lab.engine.study(HOSTILE))
    trial_id = storage.create_new_trial(study_id)
    choice = CategoricalDistribution((HOSTILE, "other"))
    storage.set_trial_param(trial_id, HOSTILE, choice.to_internal_repr(HOSTILE), choice)
    storage.set_trial_system_attr(trial_id, f"constraints:{HOSTILE}", 2.5)
    storage.set_trial_user_attr(trial_id, HOSTILE, HOSTILE)
    assert seen.look().params[HOSTILE].at(0) == HOSTILE and seen.board.excess[0] == 2.5
    lease = lab.claimed(worker=HOSTILE)
    lab.engine.finish(lease.token, complete(1.0, metrics={HOSTILE: 3.0}), [Report(1, 0.5, {HOSTILE: 4.0})])
    board = lab.engine.board(lab.study)
    assert board.workers == (HOSTILE,) and board.metrics[HOSTILE].at(0) == 3.0
    assert lab.engine.curves(lab.study, [0])[0].metrics[HOSTILE].tolist() == [4.0]
    assert lab.engine.timeline(lab.study)[0].worker == HOSTILE


def test_an_optuna_programs_writes_are_seen_as_they_come(lab: Lab) -> None:
    storage, study_id = program(lab, "theirs", [StudyDirection.MINIMIZE])
    seen = Watched(lab, lab.engine.study("theirs"))
    first, second = storage.create_new_trial(study_id), storage.create_new_trial(study_id)
    storage.set_trial_param(second, "later", 0.5, FloatDistribution(0.0, 1.0))
    assert list(seen.look().params) == ["later"]
    kinds = CategoricalDistribution(("b", True, 2))
    storage.set_trial_param(first, "kind", kinds.to_internal_repr(True), kinds)
    assert seen.look().params["kind"].at(0) is True and seen.board.params["kind"].at(1) is None
    storage.set_trial_intermediate_value(first, 4, 0.25)
    assert seen.look().step[0] == 4
    end(storage, first, [1.0])
    storage.set_trial_state_values(second, OptunaState.FAIL)
    assert seen.look().counts["failed"] == 1
    study = optuna.load_study(study_name="theirs", storage=storage)
    study.enqueue_trial({"later": 0.125, "unknown": 1})
    assert seen.look().params["later"].at(2) == 0.125
    study.add_trial(create_trial(value=3.0, params={"new": 0.5}, distributions={"new": FloatDistribution(0, 1)}))
    assert seen.look().params["new"].at(3) == 0.5
    study.ask({"later": FloatDistribution(0.0, 1.0)})
    seen.look()


def test_a_long_study_is_read_piece_by_piece(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        metrics = {"late": 1.0} if number == 8 else {"early": 2.0} if number == 0 else {}
        lab.engine.finish(lab.claimed(worker=f"m-{9 - number}-0").token, complete(number / 10, metrics=metrics))
    whole = lab.engine.board(lab.study)
    monkeypatch.setattr(columns, "PIECE", 3)
    assert_same(columns.Boards(lab.database).read(lab.study), whole)
    assert whole.values[:, 0].tolist() == [number / 10 for number in range(9)]


@pytest.mark.parametrize("seed", range(4))
def test_any_history_gives_the_board_that_is_made_anew(lab: Lab, seed: int) -> None:
    rng = random.Random(seed)
    seen = Watched(lab)
    leases: list[Any] = []

    def take() -> Any:
        return leases.pop(rng.randrange(len(leases)))

    def claim() -> None:
        lab.hurry()
        lease = lab.claim(worker=f"w-{rng.randrange(4)}-{rng.randrange(2)}")
        if lease is not None:
            leases.append(lease)

    def report() -> None:
        value = rng.choice([rng.random(), None, math.inf])
        lab.engine.report(rng.choice(leases).token, [Report(rng.randrange(9), value, {"loss": 1.0})])

    def fail() -> None:
        lab.engine.fail(take().token, Failure(rng.choice(list(FailureKind)), "it went wrong"))

    def finish() -> None:
        state = rng.choice([TrialState.COMPLETE, TrialState.PRUNED])
        metrics = {rng.choice("abc"): rng.random()}
        lab.engine.finish(take().token, Outcome(state, (rng.random(),), metrics), [Report(9, rng.random())])

    def mark() -> None:
        over = [n for n, state in enumerate(seen.board.state) if STATES[state] in (TrialState.COMPLETE,)]
        if over:
            number = rng.choice(over)
            if seen.board.invalid[number]:
                lab.engine.restore(lab.study, number)
            else:
                lab.engine.invalidate(lab.study, number, "odd")

    moves: list[tuple[Callable[[], Any], bool]] = [
        (lambda: lab.suggest(rng.randrange(1, 4)), False),
        (claim, False),
        (claim, False),
        (report, True),
        (report, True),
        (finish, True),
        (fail, True),
        (lambda: lab.engine.release(take().token), True),
        (lambda: lab.lose(take()), True),
        (lambda: lab.studies.cancel_waiting(lab.study.id), False),
        (lambda: lab.engine.enqueue(lab.study, {"x": rng.random()}), False),
        (mark, False),
    ]
    for step in range(60):
        move, needs_lease = rng.choice(moves)
        if leases or not needs_lease:
            move()
        if step % rng.randrange(1, 4) == 0:
            seen.look()
    seen.look()
    assert len(seen.board) > 5


def test_a_transaction_that_ends_late_is_not_missed(url: str, artifacts: Path) -> None:
    """Its event is older than others that were seen, and must be seen all the same."""
    if url.startswith("sqlite"):
        pytest.skip("SQLite has one writer: no transaction ends after a later one")
    lab = Lab(url, artifacts)
    lab.suggest(2)
    board = lab.engine.board(lab.study)
    change = lab.engine.change()
    other = connect(url, artifacts)
    with other.database.transaction() as connection:
        late = sa.update(trial).where(trial.c.study_id == lab.study.id, trial.c.number == 0)
        connection.execute(late.values(state="cancelled", cause="cancelled", finished_at=1.0))
        lab.database.execute(
            sa.update(trial)
            .where(trial.c.study_id == lab.study.id, trial.c.number == 1)
            .values(state="cancelled", cause="cancelled", finished_at=1.0)
        )
        board = lab.engine.board(lab.study, board)
        assert board.counts["cancelled"] == 1
        lab.engine.overviews()
        assert lab.engine.change() > change
        change = lab.engine.change()
    board = lab.engine.board(lab.study, board)
    assert board.counts["cancelled"] == 2
    assert lab.engine.overviews()[0].counts["cancelled"] == 2
    assert lab.engine.change() > change
    other.close()
    lab.close()


def test_readers_in_many_threads_share_one_board(lab: Lab) -> None:
    lab.engine.finish(lab.claimed().token, complete(0.5))
    board = lab.engine.board(lab.study)
    found: list[Board] = []
    threads = [threading.Thread(target=lambda: found.append(lab.engine.board(lab.study, board))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and all(item is board for item in found)


def test_a_deleted_study_has_no_board(lab: Lab) -> None:
    board = lab.engine.board(lab.study)
    lab.engine.delete(lab.study.name)
    with pytest.raises(NotFound, match="gone"):
        lab.engine.board(lab.study, board)
    with pytest.raises(NotFound, match="gone"):
        lab.engine.board(lab.study)
    with pytest.raises(NotFound, match="gone"):
        columns.Boards(lab.database).read(lab.study, board)
    assert lab.engine.overviews() == []


# -- curves, timeline ------------------------------------------------------------------------------------------------


def test_curves_are_what_was_reported(lab: Lab) -> None:
    lease = lab.claimed()
    lab.engine.report(lease.token, [Report(3, 0.3, {"loss": 3.0}), Report(1, 0.1), Report(2, None, {"loss": 2.0})])
    lab.claimed()
    found = lab.engine.curves(lab.study, [0, 1, 77])
    assert sorted(found) == [0, 1, 77]
    assert found[0].steps.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(found[0].values, [0.1, np.nan, 0.3])
    np.testing.assert_array_equal(found[0].metrics["loss"], [np.nan, 2.0, 3.0])
    assert len(found[1].steps) == len(found[77].values) == 0
    assert lab.engine.curves(lab.study, []) == {}


def test_curves_of_more_trials_than_a_statement_has_parameters(lab: Lab) -> None:
    lab.engine.report(lab.claimed().token, [Report(1, 0.5)])
    found = lab.engine.curves(lab.study, range(70_000))
    assert len(found) == 70_000 and found[0].values.tolist() == [0.5]


def test_the_timeline_tells_every_attempt_and_how_it_ended(lab: Lab) -> None:
    lease = lab.claimed(worker="m-1-0")
    lab.lose(lease)
    lease = lab.claimed(worker="m-1-1")
    lab.engine.release(lease.token)
    lease = lab.claimed(worker="m-1-1")
    lab.engine.finish(lease.token, complete(0.5))
    lab.claimed(worker="m-1-0")
    lab.engine.invalidate(lab.study, 0, "odd")
    found = lab.engine.timeline(lab.study)
    assert [(item.worker, item.number, item.attempt, item.ended_by) for item in found] == [
        ("m-1-0", 0, 1, "lost"),
        ("m-1-1", 0, 2, "preempted"),
        ("m-1-1", 0, 3, "complete"),
        ("m-1-0", 1, 1, None),
    ]
    assert all(item.ended_at is None or item.ended_at >= item.started_at for item in found)
    assert found[-1].ended_at is None
    assert lab.engine.timeline(lab.study, limit=2) == found[2:]


def test_the_timeline_holds_an_optuna_programs_trials(lab: Lab) -> None:
    storage, study_id = program(lab, "theirs", [StudyDirection.MINIMIZE])
    end(storage, storage.create_new_trial(study_id), [1.0])
    (found,) = lab.engine.timeline(lab.engine.study("theirs"))
    assert (found.worker, found.number, found.ended_by) == ("", 0, "complete")


# -- overviews, change -----------------------------------------------------------------------------------------------


def test_an_overview_follows_its_study(lab: Lab) -> None:
    (found,) = lab.engine.overviews()
    assert (found.best, found.best_number, found.trend, found.workers, found.seconds_left) == (None, None, (), 0, None)
    assert found.counts == lab.counts() and found.last_active_at >= found.study.created_at
    for value in (0.5, 0.2, 0.9):
        lab.engine.finish(lab.claimed(worker="m-1-0").token, complete(value))
    lab.claimed(worker="m-1-0")
    lab.claimed(worker="m-1-1")
    lab.claimed(worker="m-2-0")
    (found,) = lab.engine.overviews()
    assert (found.best, found.best_number, found.trend, found.workers) == (0.9, 2, (0.5, 0.5, 0.9), 2)
    assert found.seconds_left is not None and found.counts == lab.counts()
    lab.engine.invalidate(lab.study, 2, "odd")
    (found,) = lab.engine.overviews()
    assert (found.best, found.best_number, found.trend) == (0.5, 0, (0.5, 0.5))
    lab.engine.stop(lab.study.name)
    (found,) = lab.engine.overviews()
    assert (found.workers, found.seconds_left, found.study.state.value) == (0, None, "stopped")


def test_a_trend_keeps_its_first_and_its_last_value(lab: Lab) -> None:
    for value in range(90):
        lab.engine.finish(lab.claimed().token, complete(value / 100))
    (found,) = lab.engine.overviews()
    assert len(found.trend) == 60 and found.trend[0] == 0.0 and found.trend[-1] == 0.89
    assert list(found.trend) == sorted(found.trend)


def test_overviews_put_the_newest_activity_first_and_leave_out_what_nobody_asked_for(lab: Lab) -> None:
    for name in ("second", "third", "confirms"):
        lab.engine.declare(spec(name))
    confirms = sa.update(study_table).where(study_table.c.name == "confirms")
    lab.database.execute(confirms.values(origin_id=lab.study.id))
    lab.claimed()
    assert [item.study.name for item in lab.engine.overviews()] == ["lab", "third", "second"]
    lab.engine.archive("third")
    assert [item.study.name for item in lab.engine.overviews()] == ["lab", "second"]
    assert [item.study.name for item in lab.engine.overviews(archived=True)] == ["lab", "third", "second"]


def test_what_happened_to_an_archived_study_is_seen_when_it_is_asked_for(lab: Lab) -> None:
    lab.engine.overviews(archived=True)
    lab.engine.archive(lab.study.name)
    lab.engine.finish(lab.claimed().token, complete(0.5))
    assert lab.engine.overviews() == []
    assert lab.engine.overviews(archived=True)[0].best == 0.5


def test_the_number_of_changes_grows_with_every_move(lab: Lab) -> None:
    seen = [lab.engine.change()]

    def grows() -> bool:
        seen.append(lab.engine.change())
        return seen[-1] > seen[-2]

    assert not grows()
    lab.suggest()
    assert grows()
    lease = lab.claimed()
    assert grows()
    lab.engine.finish(lease.token, complete(0.5))
    assert grows() and not grows()
    lab.engine.invalidate(lab.study, 0, "odd")
    assert grows()


def test_logs_are_shown_from_the_end_and_without_escape_codes(lab: Lab) -> None:
    path = lab.engine.log_path(lab.study.id, 3, 1)
    assert lab.engine.log_tail(lab.study, 3, 1) is None
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x1b[31mred\x1b[0m\r\n 10%\r 50%\r100%\n\x1b]0;title\x07\x1b[2Jeinf\xc3\xbchrung\xff\x00\tend\n")
    assert lab.engine.log_tail(lab.study, 3, 1) == "red\n100%\neinführung\ufffd\tend\n"
    path.write_text("".join(f"line {i}\n" for i in range(1000)))
    tail = lab.engine.log_tail(lab.study, 3, 1, limit_bytes=25)
    assert tail == "line 998\nline 999\n"


# -- helpers ---------------------------------------------------------------------------------------------------------


def program(lab: Lab, name: str, directions: list[StudyDirection]) -> tuple[Any, int]:
    """An Optuna program's study."""
    storage = lab.engine.optuna
    return storage, storage.create_new_study(directions, name)


def end(storage: Any, trial_id: int, values: list[float]) -> None:
    storage.set_trial_state_values(trial_id, OptunaState.COMPLETE, values)
