"""The acquisitions: values, derivatives, and what they do where the improvement itself is no number any more."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automl.search.acquisition import (
    log_expected_improvement,
    log_improvement,
    log_probability_below,
    lower_confidence_bound,
)

#: Written by oracles/make_acquisition.py with BoTorch and mpmath.
ORACLES = json.loads((Path(__file__).parent / "oracles" / "acquisition.json").read_text())
EXACT = np.array(ORACLES["exact"]["rows"])

means = st.floats(-1e6, 1e6)
sds = st.floats(1e-5, 1e3)


def central_differences(f, mean, sd):
    """The derivatives of f(mean, sd)[0] by differences of fourth order."""
    derivatives = []
    for by_mean in (True, False):
        step = 1e-3 * sd
        values = [f(mean + k * step, sd)[0] if by_mean else f(mean, sd + k * step)[0] for k in (-2.0, -1.0, 1.0, 2.0)]
        derivatives.append((values[0] - 8.0 * values[1] + 8.0 * values[2] - values[3]) / (12.0 * step))
    return derivatives


def test_log_improvement_has_twelve_digits_from_minus_1e8_to_1e8():
    log_h, slope, density = log_improvement(EXACT[:, 0])
    np.testing.assert_allclose(log_h, EXACT[:, 1], rtol=1e-12)
    np.testing.assert_allclose(slope, EXACT[:, 2], rtol=1e-12)
    np.testing.assert_allclose(density, EXACT[:, 3], rtol=1e-12, atol=1e-300)


def test_log_probability_below_has_twelve_digits_from_minus_1e8_to_1e8():
    z = EXACT[:, 0]
    value, d_mean, d_sd = log_probability_below(-2.0 * z, np.full_like(z, 2.0), 0.0)
    np.testing.assert_allclose(value, EXACT[:, 4], rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(d_mean, -0.5 * EXACT[:, 5], rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(d_sd, -0.5 * z * EXACT[:, 5], rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("acquisition", [log_expected_improvement, log_probability_below])
def test_values_and_derivatives_are_those_of_botorch(acquisition):
    table = ORACLES["single"]
    expected = table[acquisition.__name__]
    value, d_mean, d_sd = acquisition(np.array(table["mean"]), np.array(table["sd"]), table["best"])
    np.testing.assert_allclose(value, expected["value"], rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(d_mean, expected["d_mean"], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(d_sd, expected["d_sd"], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("acquisition", [log_expected_improvement, log_probability_below, lower_confidence_bound])
def test_derivatives_are_the_limits_of_differences(acquisition):
    z = np.concatenate([np.linspace(-60.0, 12.0, 400), [-20.0, -1e-9, 0.0, 1e-9]])
    sd = np.resize([0.01, 0.3, 2.0], z.shape)
    mean = 0.7 - z * sd

    def f(mean, sd):
        return acquisition(mean, sd, 0.7)

    _, d_mean, d_sd = f(mean, sd)
    by_mean, by_sd = central_differences(f, mean, sd)
    # The value has 16 digits of z^2 / 2; dividing by the step takes three of them away.
    noise = 1e-12 * (1.0 + z * z) / sd
    assert (np.abs(by_mean - d_mean) <= 1e-8 * np.abs(d_mean) + noise).all()
    assert (np.abs(by_sd - d_sd) <= 1e-8 * np.abs(d_sd) + noise).all()


def test_values_known_by_hand():
    value, d_mean, d_sd = log_expected_improvement(np.array([1.0]), np.array([2.0]), 1.0)
    # At z = 0 the improvement is sd / sqrt(2 pi).
    assert value[0] == pytest.approx(math.log(2.0 / math.sqrt(2.0 * math.pi)))
    assert d_mean[0] == pytest.approx(-math.sqrt(2.0 * math.pi) / 4.0)
    assert d_sd[0] == pytest.approx(0.5)
    assert log_probability_below(np.array([1.0]), np.array([2.0]), 1.0)[0][0] == pytest.approx(math.log(0.5))
    assert lower_confidence_bound(np.array([1.0]), np.array([2.0]), 3.0) == (5.0, -1.0, 3.0)


@pytest.mark.parametrize("z", [-1e150, -1e80, -1e8, -38.6, -20.0, 0.0, 20.0, 38.6, 1e8, 1e150])
@pytest.mark.parametrize("acquisition", [log_expected_improvement, log_probability_below])
def test_everything_is_finite_however_far_the_mean_is(acquisition, z):
    assert np.isfinite(acquisition(np.array([-z]), np.array([1.0]), 0.0)).all()


def test_no_points_have_no_values():
    empty = np.empty(0)
    assert [part.shape for part in log_expected_improvement(empty, empty, 0.0)] == [(0,)] * 3
    assert [part.shape for part in log_probability_below(empty, empty, 0.0)] == [(0,)] * 3


@settings(deadline=None)
@given(st.lists(st.tuples(means, sds), min_size=1, max_size=8), means)
def test_a_point_is_worth_the_same_alone_and_among_others(points, best):
    mean, sd = np.array(points).T
    together = log_expected_improvement(mean, sd, best)
    for i in range(len(mean)):
        alone = log_expected_improvement(mean[i : i + 1], sd[i : i + 1], best)
        np.testing.assert_allclose([part[0] for part in alone], [part[i] for part in together], rtol=1e-12)


@settings(deadline=None)
@given(means, sds, means, st.floats(1e-3, 1e3))
def test_a_better_mean_or_a_better_chance_of_luck_is_worth_more(mean, sd, best, better):
    mean, sd = np.array([mean, mean - better * sd, mean]), np.array([sd, sd, sd * (1.0 + better)])
    value, d_mean, d_sd = log_expected_improvement(mean, sd, best)
    slack = 1e-12 * np.abs(value[0])
    assert value[1] >= value[0] - slack
    assert value[2] >= value[0] - slack
    assert (d_mean < 0.0).all()
    assert (d_sd >= 0.0).all()
    below, d_mean, _ = log_probability_below(mean, sd, best)
    assert below[1] >= below[0]
    assert (d_mean <= 0.0).all()
