"""Declared parameters as Optuna distributions and as points of the unit cube."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from automl.declaration import Choice, Float, Int
from automl.errors import InvalidInput, InvalidStudy
from automl.search import from_distribution, from_unit, to_distribution, to_distributions, to_unit
from tests.unit.search.trials import MIXED


@pytest.mark.parametrize(
    ("parameter", "distribution"),
    [
        (Float(0, 1), FloatDistribution(0, 1)),
        (Float(0.1, 10, log=True), FloatDistribution(0.1, 10, log=True)),
        (Float(0, 1, step=0.25), FloatDistribution(0, 1, step=0.25)),
        (Int(1, 9), IntDistribution(1, 9)),
        (Int(1, 9, log=True), IntDistribution(1, 9, log=True)),
        (Int(1, 9, step=2), IntDistribution(1, 9, step=2)),
        (Choice("a", 1, None, False), CategoricalDistribution(["a", 1, None, False])),
    ],
)
def test_a_parameter_and_its_distribution_are_each_others(parameter, distribution):
    assert to_distribution(parameter) == distribution
    assert from_distribution(distribution) == parameter
    assert json_to_distribution(distribution_to_json(to_distribution(parameter))) == distribution


def test_a_grid_that_misses_its_upper_bound_ends_at_its_last_point_without_a_warning():
    assert to_distribution(Float(0, 1, step=0.3)).high == 0.9
    assert to_distribution(Int(0, 10, step=4)).high == 8


def test_distributions_come_parents_first():
    assert list(to_distributions(MIXED)) == list(MIXED)


def test_what_no_parameter_can_hold_is_refused():
    class Strange(BaseDistribution):
        def to_internal_repr(self, param_value_in_external_repr):
            return 0.0

        def single(self):
            return False

        def _contains(self, param_value_in_internal_repr):
            return True

    with pytest.raises(InvalidInput, match="float, int or categorical"):
        from_distribution(Strange())
    with pytest.raises(InvalidStudy, match="choices"):
        from_distribution(CategoricalDistribution((1, True)))


def test_inactive_parameters_are_nan_in_the_cube_and_absent_outside():
    params = {"lr": 1e-2, "width": 64, "optimizer": "adamw", "blocks": 1}
    u = to_unit(MIXED, params)
    assert u.shape == (6,)
    assert [name for name, coordinate in zip(MIXED, u, strict=True) if np.isnan(coordinate)] == ["momentum", "skip"]
    assert from_unit(MIXED, u) == pytest.approx(params)


def test_a_wrong_shape_or_a_nan_for_an_active_parameter_is_refused():
    with pytest.raises(InvalidInput, match="one coordinate for each"):
        from_unit(MIXED, np.zeros(5))
    with pytest.raises(InvalidInput, match="'lr' is active"):
        from_unit(MIXED, np.full(6, np.nan))
