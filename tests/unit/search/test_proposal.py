"""What a suggestion makes of results, pending points, failures, constraints, costs, beliefs and several metrics."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from automl.declaration import Choice, Float, Int, Space
from automl.search.encoding import Encoding
from automl.search.observations import Observations
from automl.search.proposal import Request, design, propose

SQUARE = Space({"a": Float(0.0, 1.0), "b": Float(0.0, 1.0)})
REQUEST = Request(number=30, seed=7)


def seen(space: Space, x: np.ndarray, values: np.ndarray, **others: Any) -> Observations:
    """Observations of results (n,) or (n, k) at unit points; the rest is empty unless given."""
    encoding = Encoding.of(space)
    n, d = x.shape
    empty = Observations(
        encoding=encoding,
        x=encoding.snap(x),
        values=values.reshape(n, values.shape[1] if values.ndim > 1 else 1),
        slack=np.zeros((n, 0)),
        constraint_names=(),
        cost=np.full(n, np.nan),
        failed=np.zeros((0, d)),
        pending=np.zeros((0, d)),
    )
    return replace(empty, **others)


def bowl(x: np.ndarray) -> np.ndarray:
    return ((x - np.array([0.3, 0.6])) ** 2).sum(axis=1)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).random((20, 2))


def test_the_minimum_of_a_bowl_is_found(x):
    found = propose(seen(SQUARE, x, bowl(x)), REQUEST)
    assert np.abs(found.x - [0.3, 0.6]).max() < 0.05
    assert found.why["mean"] == pytest.approx(0.0, abs=0.03)
    assert found.why["best"] == pytest.approx(bowl(x).min(), abs=0.01)


def test_equal_arguments_give_equal_suggestions_and_another_seed_or_number_others(x):
    o = seen(SQUARE, x[:8], bowl(x[:8]) + np.sin(20.0 * x[:8, 0]))
    first, again = propose(o, REQUEST), propose(o, REQUEST)
    assert first.x.tobytes() == again.x.tobytes()
    assert first.why == again.why
    drawn = {propose(o, replace(REQUEST, **change)).fits["objective"][0].tobytes() for change in ({}, {"seed": 8})}
    assert len(drawn) == 2


def test_a_pending_point_is_not_proposed_again(x):
    o = seen(SQUARE, x, bowl(x))
    first = propose(o, REQUEST).x
    second = propose(replace(o, pending=first[None]), REQUEST).x
    assert np.abs(first - second).max() > 1e-4


def test_many_pending_points_keep_apart():
    x = np.random.default_rng(1).random((6, 2))
    o = seen(SQUARE, x, bowl(x))
    for number in range(6, 22):
        o = replace(o, pending=np.concatenate([o.pending, propose(o, replace(REQUEST, number=number)).x[None]]))
    distances = np.abs(o.pending[:, None] - o.pending).max(axis=2) + np.eye(16)
    assert distances.min() > 1e-3


def test_the_points_of_a_small_space_are_each_tried_before_any_is_tried_again():
    space = Space({"k": Int(1, 3), "c": Choice("x", "y", "z")})
    encoding = Encoding.of(space)
    tried: list[np.ndarray] = []
    for number in range(9):
        x = np.array(tried).reshape(-1, 2)
        tried.append(propose(seen(space, x, x.sum(axis=1)), Request(number, seed=0)).x)
    late = [tuple(encoding.decode(point).values()) for point in tried[5:]]
    early = [tuple(encoding.decode(point).values()) for point in tried[:5]]
    assert len(set(late)) == 4
    assert not set(late) & set(early)


def test_failures_are_learnt_as_a_region_to_avoid(x):
    fails = x[:, 0] < 0.5  # where the bowl has its minimum
    o = seen(SQUARE, x[~fails], bowl(x[~fails]), failed=x[fails])
    found = propose(o, REQUEST)
    assert found.x[0] > 0.45
    assert found.why["feasible"] < 1.0
    assert propose(replace(o, failed=x[:0]), REQUEST).x[0] < 0.45


def test_a_constraint_moves_the_suggestion_to_its_border(x):
    slack = 1.0 - x.sum(axis=1)  # feasible where a + b >= 1; the bowl's minimum is at 0.9
    o = seen(SQUARE, x, bowl(x), slack=slack[:, None], constraint_names=("sum",))
    assert propose(o, REQUEST).x.sum() == pytest.approx(1.0, abs=0.05)


def test_without_a_feasible_point_feasibility_is_what_is_searched(x):
    x = x[x.sum(axis=1) < 1.2]
    slack = 1.8 - x.sum(axis=1)
    o = seen(SQUARE, x, bowl(x), slack=slack[:, None], constraint_names=("sum",))
    assert propose(o, REQUEST).x.sum() > 1.6


def test_of_two_equal_minima_the_cheap_one_is_tried_while_the_budget_is_young(x):
    values = np.cos(4.0 * np.pi * x[:, 0])  # minima at 1/4 and 3/4
    o = seen(SQUARE, x, values, cost=np.exp(4.0 * x[:, 0]))
    cheap = [propose(o, Request(number, 0, n_trials=1000)).x[0] for number in range(20, 24)]
    assert np.mean(cheap) < 0.4


def test_a_belief_counts_while_there_are_few_results_and_is_forgotten_when_wrong():
    space = Space({"a": Float(0.0, 1.0, prior=(0.9, 0.05)), "b": Float(0.0, 1.0)})
    assert design(Encoding.of(space), 0, seed=0)[0] == pytest.approx(0.9)
    few = np.random.default_rng(3).random((5, 2))
    assert propose(seen(space, few, np.zeros(5)), REQUEST).x[0] > 0.7
    many = np.random.default_rng(3).random((40, 2))
    assert abs(propose(seen(space, many, bowl(many)), REQUEST).x[0] - 0.3) < 0.1


def test_the_front_of_two_metrics_grows():
    x = np.random.default_rng(0).random((15, 2))

    def measure(points: np.ndarray) -> np.ndarray:
        return np.stack([bowl(points), ((points - [0.8, 0.2]) ** 2).sum(axis=1)], axis=1)

    members = 0
    for number in range(15, 19):
        new = propose(seen(SQUARE, x, measure(x)), Request(number, seed=0)).x[None]
        worse = measure(x) <= measure(new)
        members += not (worse.all(axis=1) & (measure(x) < measure(new)).any(axis=1)).any()
        x = np.concatenate([x, new])
    assert members >= 3


def test_five_metrics_are_searched_in_random_directions(x):
    values = np.stack([bowl(x + shift) for shift in np.linspace(-0.2, 0.2, 5)], axis=1)
    assert propose(seen(SQUARE, x, values), REQUEST).why["arm"] == "direction"


def test_replicates_are_averaged_so_that_one_lucky_result_is_not_the_best():
    rng = np.random.default_rng(5)
    grid = np.linspace(0.05, 0.95, 10)
    x = np.repeat(np.stack([grid, np.full(10, 0.5)], axis=1), 6, axis=0)
    values = (x[:, 0] - 0.3) ** 2 + 0.05 * rng.standard_normal(len(x))
    values[-1] = -0.4  # at 0.95, where the mean of the other five is far above
    found = propose(seen(Space({"a": Float(0, 1), "b": Float(0, 1)}), x, values), REQUEST)
    assert found.why["model_rows"] == 10
    assert found.why["best"] > -0.1


def test_a_fit_is_used_again_until_there_are_a_twentieth_more_results():
    x = np.random.default_rng(0).random((43, 2))
    first = propose(seen(SQUARE, x[:40], bowl(x[:40])), REQUEST)
    assert propose(seen(SQUARE, x[:41], bowl(x[:41])), replace(REQUEST, fits=first.fits)).fits == {}
    assert propose(seen(SQUARE, x, bowl(x)), replace(REQUEST, fits=first.fits)).fits["objective"][1] == 43


def test_a_long_study_is_modelled_by_a_part_of_its_results_and_nothing_is_tried_twice():
    x = np.random.default_rng(0).random((600, 2))
    arms = set()
    for number in range(600, 612):
        found = propose(seen(SQUARE, x, bowl(x)), Request(number, seed=0))
        arms.add(found.why["arm"])
        assert found.why.get("model_rows", 0) <= 250
        assert np.abs(found.x - [0.3, 0.6]).max() < 0.2
        assert np.abs(x - found.x).max(axis=1).min() > 1e-9
        x = np.concatenate([x, found.x[None]])
    assert arms == {"region", "density"}
