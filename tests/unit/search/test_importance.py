from __future__ import annotations

import numpy as np
import pytest

from automl.declaration import Choice, Float, Int, Space
from automl.search.importance import LEAST_TRIALS, MOST_TRIALS, importances
from tests.unit.search.boards import board
from tests.unit.search.test_what_if import BRANCHES, drawn

SPACE = Space({"much": Float(0, 1), "some": Int(1, 50), "nothing": Choice("a", "b"), "same": Float(2, 2)})


def test_what_decides_comes_first_and_the_shares_sum_to_one() -> None:
    points = drawn(SPACE, 200)
    found = importances(board(SPACE, points, [p["much"] + 0.003 * p["some"] for p in points]), SPACE)
    assert list(found)[:2] == ["much", "some"]
    assert found["much"] > 2.0 * found["some"]
    assert found["same"] == 0.0
    assert sum(found.values()) == pytest.approx(1.0)


def test_what_is_large_is_good_when_the_study_says_so() -> None:
    points = drawn(SPACE, 200)
    # Many are as low as can be, whatever `some` is; only few of one kind are high.
    values = [max(p["much"] - 0.8, 0.0) for p in points]
    up = importances(board(SPACE, points, values, direction="maximize"), SPACE)
    assert next(iter(up)) == "much" and up["much"] > 0.9


def test_a_conditional_parameter_counts_where_it_is_active() -> None:
    points = drawn(BRANCHES, 300)
    values = [1.0 if p["optimizer"] == "adamw" else abs(p["momentum"] - 0.9) for p in points]
    found = importances(board(BRANCHES, points, values), BRANCHES)
    assert set(found) == set(BRANCHES)
    assert found["momentum"] > found["lr"]


def test_of_several_metrics_the_first_counts() -> None:
    points = drawn(SPACE, 200)
    values = np.array([[p["some"], p["much"]] for p in points])
    assert next(iter(importances(board(SPACE, points, values), SPACE))) == "some"


def test_too_few_and_equal_results_say_nothing() -> None:
    points = drawn(SPACE, LEAST_TRIALS)
    few = [p["much"] for p in points]
    assert importances(board(SPACE, points[:-1], few[:-1]), SPACE) == {}
    assert importances(board(SPACE, points, [0.5] * LEAST_TRIALS), SPACE) == {}
    assert importances(board(SPACE, points, few), SPACE) != {}
    infinite = [np.inf] * (LEAST_TRIALS - 5) + few[:5]
    assert importances(board(SPACE, points, infinite), SPACE) == {}


def test_a_value_outside_of_the_space_is_left_out() -> None:
    points = drawn(SPACE, 60)
    wide = Space({**SPACE, "much": Float(0, 9)})
    points[5] = {**points[5], "much": 8.5}
    assert importances(board(wide, points, [p["some"] for p in points]), SPACE)


def test_of_a_long_study_a_choice_of_all_ranks_says_the_same() -> None:
    points = drawn(SPACE, 3 * MOST_TRIALS)
    seen = board(SPACE, points, [p["much"] ** 2 + 0.01 * p["some"] for p in points])
    found = importances(seen, SPACE)
    fewer = drawn(SPACE, 300, seed=1)
    of_few = importances(board(SPACE, fewer, [p["much"] ** 2 + 0.01 * p["some"] for p in fewer]), SPACE)
    assert found["much"] == pytest.approx(of_few["much"], abs=0.15)
