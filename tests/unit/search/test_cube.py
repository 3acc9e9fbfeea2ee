"""One parameter and the unit interval."""

from __future__ import annotations

import math

import pytest

from automl.declaration import Choice, Float, Int
from automl.errors import InvalidInput
from automl.search.cube import at, count, nearest, top, unit


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        (Int(1, 4), [1, 2, 3, 4]),
        (Int(2, 9, step=3), [2, 5, 8]),
        (Int(7, 7, log=True), [7]),
        (Float(0.0, 0.35, step=0.1), [0.0, 0.1, 0.2, 0.3]),
        (Float(1.0, 1.0), [1.0]),
        (Choice("a", None, True, 2), ["a", None, True, 2]),
    ],
)
def test_equal_parts_of_the_interval_belong_to_the_values_of_a_countable_parameter(parameter, values):
    n = count(parameter)
    assert n == len(values)
    assert [at(parameter, (k + 0.5) / n) for k in range(n)] == pytest.approx(values)


def test_the_top_of_a_grid_is_its_last_point_in_decimals():
    assert top(Float(0.0, 0.3, step=0.1)) == 0.3
    assert top(Float(0.0, 0.35, step=0.1)) == 0.3
    assert top(Int(0, 10, step=4)) == 8
    assert at(Float(0.0, 0.35, step=0.1), 1.0) == 0.3


def test_a_log_scale_gives_each_decade_the_same_room():
    assert at(Float(1e-4, 1.0, log=True), 0.5) == pytest.approx(1e-2)
    drawn = [at(Int(1, 1000, log=True), (k + 0.5) / 3000) for k in range(3000)]
    assert sum(v < 10 for v in drawn) / 3000 == pytest.approx(math.log(9.5 / 0.5) / math.log(1000.5 / 0.5), abs=1e-3)


def test_coordinates_and_values_outside_are_clipped():
    assert at(Float(-1, 1), 7.0) == 1.0
    assert at(Int(0, 5), -3.0) == 0
    assert nearest(Float(-1, 1), 1.5) == 1.0
    assert nearest(Int(0, 10, step=4), 99) == 8
    assert unit(Float(-1, 1), 5) == 1.0


def test_a_range_wider_than_any_float_difference_works():
    wide = Float(-1.7e308, 1.7e308)
    assert unit(wide, 0.0) == 0.5
    assert at(wide, 0.5) == 0.0


def test_an_unknown_choice_is_refused_by_name():
    with pytest.raises(InvalidInput, match="'lion' is none of"):
        unit(Choice("sgd", "adamw"), "lion")
