"""A board works out what tables and plots need, at fifty thousand trials too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from automl.board import STATES, Board, Column
from automl.core import StudyRecord, StudyState, TrialState

COMPLETE = STATES.index(TrialState.COMPLETE)


def board(values: Any, directions: tuple[str, ...] = ("minimize",), **columns: Any) -> Board:
    """Complete trials with these values, (n, m) or (n,)."""
    values = np.array(values, dtype=float).reshape(-1, len(directions))
    n = len(values)
    record = StudyRecord(1, "s", StudyState.OPEN, None, directions, None, None, None, False, 0.0, 0.0)
    nothing = np.full(n, np.nan)
    given: dict[str, Any] = {
        "state": np.full(n, COMPLETE, np.int8),
        "last_value": nothing,
        "step": np.full(n, -1),
        "excess": nothing,
        "invalid": np.zeros(n, bool),
        "attempt": np.ones(n, np.int16),
        "failure": np.full(n, -1, np.int8),
        "worker": np.full(n, -1, np.int32),
        "created": nothing,
        "started": np.arange(n, dtype=float),
        "finished": np.arange(n, dtype=float) + 10.0,
        "mean": nothing,
        "sd": nothing,
    }
    return Board(record, 0, values=values, **{**given, **columns})


def dominated(costs: np.ndarray, row: int) -> bool:
    """By definition, one pair at a time."""
    return any((other <= costs[row]).all() and (other < costs[row]).any() for other in costs)


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_no_trial_beats(m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Few different values, so that there are ties in one metric and in all.
    values = rng.integers(0, 6, size=(60, m)).astype(float)
    values[rng.random((60, m)) < 0.05] = rng.choice([np.inf, -np.inf])
    directions = tuple(rng.choice(["minimize", "maximize"], m).tolist())
    item = board(values, directions)
    expected = {row for row in range(60) if not dominated(values * item.signs, row)}
    assert set(item.front.tolist()) == expected and len(item.front) == len(expected)
    first = values[item.front, 0] * item.signs[0]
    assert (np.diff(first) >= 0).all() if np.isfinite(first).all() else True


def test_the_front_leaves_out_what_does_not_count() -> None:
    values = [[1.0, 1.0], [0.0, 0.0], [0.5, 0.5], [np.nan, 0.1], [2.0, 0.5]]
    excess, invalid = np.full(5, np.nan), np.zeros(5, bool)
    excess[2], invalid[1] = 0.1, True
    item = board(values, ("minimize", "minimize"), excess=excess, invalid=invalid)
    assert item.front.tolist() == [0, 4]


@pytest.mark.parametrize("m", [1, 2, 3])
def test_the_front_of_no_trial_is_empty(m: int) -> None:
    assert board(np.empty((0, m)), ("minimize",) * m).front.tolist() == []


@pytest.mark.parametrize("m", [2, 3])
def test_a_long_front_of_a_long_study_is_found(m: int) -> None:
    """On a sphere no trial beats another: the most that there is to compare."""
    rng = np.random.default_rng(0)
    values = np.abs(rng.normal(size=(20_000, m)))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    inside = board(np.concatenate([values, 1.5 * values]), ("minimize",) * m)
    assert sorted(inside.front.tolist()) == list(range(20_000))


def test_infeasible_trials_rank_behind_all_others_by_how_much_they_violate() -> None:
    excess = np.array([0.5, -1.0, 0.1, np.nan, 0.0])
    item = board([9.0, 1.0, 9.0, 3.0, 2.0], ("maximize",), excess=excess)
    assert item.ranking.tolist() == [3, 4, 1, 2, 0] and item.best == 3
    assert item.feasible.tolist() == [False, True, False, True, True]


def test_best_so_far_goes_by_the_order_in_which_trials_ended() -> None:
    finished = np.array([3.0, 1.0, 2.0, np.nan])
    state = np.array([COMPLETE, COMPLETE, COMPLETE, STATES.index(TrialState.RUNNING)], np.int8)
    item = board([1.0, 5.0, 4.0, 0.0], finished=finished, state=state)
    assert item.by_finish.tolist() == [1, 2, 0] and item.best_so_far.tolist() == [5.0, 4.0, 1.0]


def test_counts_name_every_state() -> None:
    counts = board([1.0, 2.0]).counts
    assert counts["total"] == counts["complete"] == 2 and len(counts) == len(TrialState) + 1
    assert sum(counts.values()) == 4


def test_a_replaced_board_forgets_what_the_old_one_has_worked_out() -> None:
    item = board([1.0, 2.0])
    assert item.best == 0
    assert item.replaced(invalid=np.array([True, False])).best == 1 and item.best == 0


def test_a_column_gives_values_choices_and_none() -> None:
    numbers = Column(np.array([0.5, np.nan]))
    choices = Column(np.array([1.0, np.nan, 0.0]), (None, "a"))
    assert [numbers.at(0), numbers.at(1)] == [0.5, None]
    assert [choices.at(row) for row in range(3)] == ["a", None, None]
