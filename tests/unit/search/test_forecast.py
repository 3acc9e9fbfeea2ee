"""Forecasts: the rule by hand, what they are in the limits, and that nothing makes them nonsense."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from automl.search.forecast import CONVERGED_BELOW, HORIZON, LEAST_RESULTS, Forecast, forecast, gained, is_converged

#: The first ten have the median 10; the best, 6, was found by trial 11, after which 20 more did not improve it.
FELL_THEN_STOOD = np.array([10.0] * 10 + [6.0] + [9.0] * 20)

hostile = st.floats(allow_nan=False) | st.sampled_from([0.0, 1.0, 1e-310, 1e149, -1e151, 1e308, math.inf, -math.inf])
results = st.lists(hostile, min_size=0, max_size=60).map(np.array)
curves = st.lists(st.floats(-100.0, 100.0), min_size=LEAST_RESULTS, max_size=60).map(np.array)
promises = st.sampled_from([0.0, 1e-300, 1e300, math.inf]) | st.floats(0.0, 100.0)
margins = st.none() | st.sampled_from([0.0, 1e-310, 1e300]) | st.floats(0.0, 200.0)
horizons = st.integers(1, 500)


def some(values, promise=0.1, horizon=HORIZON, margin=None):
    """A forecast that there is."""
    found = forecast(np.asarray(values, dtype=float), promise, horizon, margin)
    assert found is not None
    return found


def odds(f):
    return f.p_margin / (1.0 - f.p_margin)


# -- the rule -------------------------------------------------------------------------------------------------------


def test_the_odds_are_horizon_over_age_times_the_promise_in_margins():
    # The best was more than 0.5 worse until trial 10: 21 trials ago.
    assert odds(some(FELL_THEN_STOOD, promise=4.0, horizon=7, margin=0.5)) == pytest.approx(0.35 * 7 / 21 * 2.0)
    # It was never more than 4 worse: as many trials ago as there are.
    assert odds(some(FELL_THEN_STOOD, promise=4.0, horizon=7, margin=4.0)) == pytest.approx(0.35 * 7 / 31)


def test_a_margin_is_exceeded_not_reached():
    values = [10.0] * 10 + [8.0] * 5 + [7.0] * 5
    assert odds(some(values, 1.0, margin=1.0)) == pytest.approx(0.35 * HORIZON / 10)
    assert odds(some(values, 1.0, margin=0.99)) == pytest.approx(0.35 * HORIZON / 5 / 0.99 ** (1 / 3))


def test_the_margin_is_one_percent_of_what_was_gained_since_the_median_of_the_first_results():
    values = np.concatenate([np.arange(10.0, 20.0), [4.5], np.full(10, 30.0)])
    assert gained(values) == 14.5 - 4.5
    assert some(values).p_margin == pytest.approx(some(values, margin=0.1).p_margin)


def test_where_most_of_the_first_results_are_the_best_the_spread_of_all_says_what_is_much():
    saturated = [-1.0] * 8 + [-0.5, -0.9] + [-1.0] * 10
    assert gained(np.array(saturated)) == 0.5
    assert some(saturated).p_margin == pytest.approx(some(saturated, margin=0.01 * 0.5).p_margin)


def test_the_least_margin_is_a_hundredth_of_the_default_one():
    least = some(FELL_THEN_STOOD, margin=0.0)
    assert least == some(FELL_THEN_STOOD, margin=1e-4 * 4.0)
    assert least.p_margin > some(FELL_THEN_STOOD, margin=1.1e-4 * 4.0).p_margin


def test_gain_and_sd_are_those_of_the_chances_up_to_half_of_what_was_gained():
    m = np.linspace(0.0, 2.0, 4001)[1:] - 0.00025
    chances = np.array([some(FELL_THEN_STOOD, 0.3, margin=each).p_margin for each in m])
    mean = chances.mean() * 2.0
    square = (2.0 * m * chances).mean() * 2.0
    found = some(FELL_THEN_STOOD, 0.3)
    assert found.gain == pytest.approx(mean, rel=0.01)
    assert found.sd == pytest.approx(math.sqrt(square - mean**2), rel=0.01)


def test_results_that_do_not_count_are_time_without_a_record():
    lost = np.concatenate([FELL_THEN_STOOD, np.full(30, np.inf)])
    assert odds(some(lost, 1.0, margin=1.0)) == pytest.approx(odds(some(FELL_THEN_STOOD, 1.0, margin=1.0)) * 21 / 51)


# -- when a search has converged ------------------------------------------------------------------------------------


def test_a_search_that_steadily_improves_does_not_converge():
    for n in range(LEAST_RESULTS, 200, 10):
        found = some(-np.arange(float(n)), promise=1.0)
        assert not is_converged(found)
        assert found.p_margin > 0.7
        assert found.gain > 1.0


def test_a_search_converges_when_the_record_stands_and_the_model_sees_nothing():
    values = np.concatenate([np.geomspace(100.0, 1.0, 20), np.full(60, 2.0)])
    assert is_converged(some(values, promise=1e-4))
    assert not is_converged(some(values, promise=50.0))  # the model has a reason
    assert not is_converged(some(values[:25], promise=0.1))  # the record is young


def test_a_flat_objective_converges_but_not_before_it_has_been_flat_for_long():
    assert not is_converged(some(np.zeros(20), promise=1.0))
    assert is_converged(some(np.zeros(150), promise=1.0))
    assert some(np.zeros(150)).gain == 0.0


def test_rounding_errors_are_no_gain():
    flat = 0.1 + 1e-17 * np.arange(20.0)
    wobbling = np.where(np.arange(20) % 2, 3.0, np.nextafter(3.0, 4.0))
    assert some(flat).gain == some(wobbling).gain == 0.0


def test_the_border_of_convergence():
    assert is_converged(Forecast(20, 0.0, 0.0, CONVERGED_BELOW - 1e-9))
    assert not is_converged(Forecast(20, 0.0, 0.0, CONVERGED_BELOW))
    assert not is_converged(None)


def test_there_is_no_forecast_before_ten_results_nor_when_none_of_them_counts():
    assert forecast(np.arange(9.0), 1.0) is None
    assert forecast(np.arange(10.0), 1.0) is not None
    assert forecast(np.full(30, np.inf), 1.0) is None


# -- whatever comes -------------------------------------------------------------------------------------------------


@given(results, promises, horizons, margins)
@example(np.array([1e308, -1e308] * 8), math.inf, 20, 0.0)
@example(np.array([math.inf] * 8 + [1.0, 2.0] * 5), 1.0, 20, None)
@example(np.array([5e-324, 0.0] * 8), 1e300, 20, None)
@example(np.array([1e149, -1e149] * 8), 1e300, 20, 1e-310)
@example(np.array([1e-3, 0.0] * 8), 1e308, 20, None)
@settings(max_examples=300, deadline=None)
def test_a_forecast_is_always_numbers_that_make_sense(values, promise, horizon, margin):
    before = values.copy()
    found = forecast(values, promise, horizon, margin)
    np.testing.assert_array_equal(values, before)
    if len(values) < LEAST_RESULTS or (values == math.inf).all():
        assert found is None
        return
    assert found is not None
    assert all(map(math.isfinite, astuple(found)))
    assert found.trials == horizon
    assert found.gain >= 0.0
    assert found.sd >= 0.0
    assert 0.0 <= found.p_margin <= 1.0
    assert found == forecast(values, promise, horizon, margin)


@given(curves, promises, horizons, st.floats(0.0, 200.0), st.floats(0.0, 200.0))
def test_a_larger_margin_is_never_more_likely_to_be_exceeded(values, promise, horizon, one, other):
    small, large = sorted((one, other))
    assert some(values, promise, horizon, large).p_margin <= some(values, promise, horizon, small).p_margin


@given(curves, promises, horizons, horizons, margins)
def test_a_longer_horizon_never_brings_less(values, promise, one, other, margin):
    short, long = (some(values, promise, h, margin) for h in sorted((one, other)))
    assert long.p_margin >= short.p_margin
    assert long.gain >= short.gain


@given(curves, st.floats(0.0, 100.0), horizons, st.floats(0.0, 100.0), margins)
def test_a_model_that_promises_more_is_never_less_likely(values, promise, horizon, more, margin):
    low, high = some(values, promise, horizon, margin), some(values, promise + more, horizon, margin)
    assert high.p_margin >= low.p_margin
    assert high.gain >= low.gain


@given(st.sampled_from([-3, 0, 8]), st.integers(-100, 100), st.integers(1, 40))
def test_a_forecast_is_in_the_units_of_the_values(scale, shift, seed):
    factor = 2.0**scale  # and whole values, so that nothing is rounded and no value changes sides of a margin
    values = np.random.default_rng(seed).integers(-1000, 1000, 30).astype(float)
    here = some(values, 3.0, margin=2.0)
    there = some(factor * (values + shift), factor * 3.0, margin=factor * 2.0)
    assert there.p_margin == pytest.approx(here.p_margin)
    assert (there.gain, there.sd) == pytest.approx((factor * here.gain, factor * here.sd))
