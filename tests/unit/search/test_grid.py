"""Grids: every point once."""

from __future__ import annotations

import itertools

import pytest

from automl.declaration import Choice, Float, Int, Space
from automl.errors import InvalidInput
from automl.search import GridExhausted, GridSampler, History, suggest
from automl.search.grid import grid_values
from tests.unit.search.trials import search, spread

CONDITIONAL = Space(
    {
        "optimizer": Choice("sgd", "adamw"),
        "momentum": Float(0, 0.4, step=0.2, when={"optimizer": "sgd"}),
        "nesterov": Choice(True, False, when={"optimizer": "sgd"}),
        "warm": Int(1, 2, when={"nesterov": True}),
        "depth": Int(1, 3),
    }
)


def points(space, n, seed=0):
    return [tuple(t.params.items()) for t in search("grid", space, spread, n, seed=seed)]


def test_every_point_of_a_conditional_space_comes_once_and_then_the_grid_is_exhausted():
    expected = set()
    for depth in (1, 2, 3):
        expected.add(frozenset({("optimizer", "adamw"), ("depth", depth)}))
        for momentum, (nesterov, warm) in itertools.product((0.0, 0.2, 0.4), ((True, 1), (True, 2), (False, None))):
            point = {"optimizer": "sgd", "momentum": momentum, "nesterov": nesterov, "depth": depth}
            expected.add(frozenset((point | ({"warm": warm} if warm else {})).items()))
    found = points(CONDITIONAL, 30)
    assert {frozenset(p) for p in found} == expected
    assert len(found) == len(expected) == GridSampler(CONDITIONAL, 0).size == 30
    with pytest.raises(GridExhausted, match="30 points") as caught:
        suggest(History(["minimize"], "study", CONDITIONAL), 30, "grid", 0)
    assert caught.value.size == 30


def test_the_seed_shuffles_the_order_and_nothing_else():
    space = Space({"x": Float(0, 1), "y": Int(1, 5)})
    first, again, other = points(space, 50), points(space, 50), points(space, 50, seed=1)
    assert first == again != other
    assert set(first) == set(other)
    assert first != sorted(first)


def test_values_on_the_grid():
    assert grid_values(Float(0, 9)) == pytest.approx(list(range(10)))
    assert grid_values(Float(1e-9, 1, log=True)) == pytest.approx([10.0**-k for k in range(9, -1, -1)])
    assert grid_values(Float(0, 1, step=0.25)) == [0, 0.25, 0.5, 0.75, 1]
    assert grid_values(Int(1, 40, log=True)) == list(range(1, 41))
    assert len(grid_values(Int(0, 10**9))) == 10
    assert len(grid_values(Float(0, 1, step=1e-6))) == 10
    assert grid_values(Choice("a", None)) == ["a", None]


def test_a_grid_beyond_any_memory_is_counted_not_listed():
    huge = Space({f"x{i}": Int(1, 1000) for i in range(12)})
    assert GridSampler(huge, 0).size == 1000**12
    assert len(set(points(huge, 20))) == 20


def test_what_a_fixed_parent_switches_on_is_drawn():
    history = History(["minimize"], "study", CONDITIONAL)
    for number in range(10):
        params = suggest(history, number, "grid", 0, fixed={"optimizer": "sgd"}).params
        assert CONDITIONAL.check(params)["optimizer"] == "sgd"


def test_a_grid_needs_a_declared_space():
    with pytest.raises(InvalidInput, match="needs a declared space"):
        suggest(History(["minimize"], "study"), 0, "grid", 0)
