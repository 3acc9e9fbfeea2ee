"""What a define-by-run function asks beyond its suggestion."""

from __future__ import annotations

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from automl.declaration import Int
from automl.search import independent


@pytest.mark.parametrize(
    "distribution",
    [
        FloatDistribution(-1, 1),
        FloatDistribution(1e-7, 1, log=True),
        FloatDistribution(-10.2, 10.2, step=0.1),
        IntDistribution(0, 10, step=2),
        IntDistribution(1, 10**9, log=True),
        CategoricalDistribution(["a", None, True, 3]),
    ],
)
def test_draws_are_plain_values_inside_the_distribution(distribution):
    drawn = [independent(7, number, "x", distribution) for number in range(200)]
    assert all(distribution._contains(distribution.to_internal_repr(v)) for v in drawn)
    assert {type(v) for v in drawn} <= {int, float, str, bool, type(None)}
    assert len(set(drawn)) >= 4


def test_a_draw_depends_on_seed_number_and_name_only():
    d = FloatDistribution(0, 1)
    base = independent(1, 2, "x", d)
    independent(1, 2, "other", d)
    assert independent(1, 2, "x", d) == base
    others = {independent(0, 2, "x", d), independent(1, 3, "x", d), independent(1, 2, "y", d)}
    assert len(others | {base}) == 4


def test_draws_are_uniform():
    drawn = [independent(0, number, "k", Int(1, 4)) for number in range(4000)]
    for value in range(1, 5):
        assert drawn.count(value) == pytest.approx(1000, abs=120)
