"""Several objectives: the front, the reference point, the hypervolume improvement and the scalarisation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from automl.search.acquisition import log_expected_improvement
from automl.search.pareto import (
    LogHypervolumeImprovement,
    non_dominated,
    random_weights,
    reference_point,
    scalarisation,
)

#: Written by oracles/make_acquisition.py with BoTorch and mpmath.
ORACLES = json.loads((Path(__file__).parent / "oracles" / "acquisition.json").read_text())

#: Few distinct values, so that ties and equal rows are common, and some that are nearly equal.
coordinates = st.sampled_from([0.0, 0.25, 0.25 + 1e-15, 0.5, 0.75, 1.0])
fronts = st.integers(2, 4).flatmap(
    lambda k: st.integers(0, 8).flatmap(lambda f: arrays(float, (f, k), elements=coordinates))
)
observed = st.integers(1, 4).flatmap(
    lambda k: st.integers(1, 10).flatmap(
        lambda n: arrays(float, (n, k), elements=st.one_of(coordinates, st.floats(-1e9, 1e9)))
    )
)


def concave_front(f, k, seed=0):
    points = np.abs(np.random.default_rng(seed).normal(size=(f, k)))
    return 1.0 - points / np.linalg.norm(points, axis=1, keepdims=True)


# -- the front and its reference point ---------------------------------------------------------------------------------


def test_the_front_is_what_nothing_else_dominates():
    values = np.array([[0.0, 3.0], [1.0, 1.0], [1.0, 1.0], [2.0, 1.0], [3.0, 0.0], [0.0, 4.0]])
    assert non_dominated(values).tolist() == [True, True, True, False, True, False]


@settings(deadline=None)
@given(observed)
def test_the_front_agrees_with_the_definition(values):
    no_worse = (values[:, None] <= values[None]).all(axis=2)
    better = (values[:, None] < values[None]).any(axis=2)
    assert non_dominated(values).tolist() == (~(no_worse & better).any(axis=0)).tolist()


@pytest.mark.parametrize("case", ORACLES["reference"])
def test_the_reference_point_is_that_of_botorch(case):
    np.testing.assert_allclose(reference_point(np.array(case["front"])), case["reference"], rtol=1e-12)


def test_dominated_values_do_not_move_the_reference_point():
    values = np.array([[0.0, 2.0], [1.0, 0.0], [50.0, 60.0]])
    np.testing.assert_allclose(reference_point(values), [1.1, 2.2])


def test_without_a_width_of_the_front_the_median_counts_and_a_diverged_run_does_not():
    values = np.array([[0.0, 5.0], [1.0, 6.0], [2.0, 7.0], [3.0, 8.0], [1e9, 1e9]])
    np.testing.assert_allclose(reference_point(values), [0.2, 5.2])
    # More than half are at the best: the range is what is left.
    np.testing.assert_allclose(reference_point(np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 4.0]])), [0.1, 1.3])


def test_a_diverged_run_does_not_hide_the_width_of_the_front():
    values = np.array([[0.0, 2.0], [1.0, 0.0], [1e16, 1e16]])
    np.testing.assert_allclose(reference_point(values), [1.1, 2.2])


@pytest.mark.parametrize(("value", "reference"), [(-30.0, -27.0), (0.0, 0.1), (1e20, 1.1e20), (1e-20, 1.1e-20)])
def test_the_only_value_is_below_its_reference_point(value, reference):
    assert reference_point(np.array([[value, 1.0]]))[0] == pytest.approx(reference)


@settings(deadline=None)
@given(observed)
def test_every_value_of_the_front_is_below_the_reference_point(values):
    assert (values[non_dominated(values)] < reference_point(values)).all()


@settings(deadline=None)
@given(observed, st.sampled_from([2.0**-30, 2.0**20]))
def test_the_reference_point_does_not_depend_on_the_unit(values, unit):
    # A power of two changes no digit. A column of nothing has no unit.
    values = np.round(values, 3) + (np.round(values, 3) == 0.0).all(axis=0)
    assert (reference_point(values * unit) == reference_point(values) * unit).all()


# -- the hypervolume improvement ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ORACLES["hypervolume"], ids=lambda c: f"{len(c['front'])}x{len(c['reference'])}")
def test_the_hypervolume_improvement_and_its_derivatives_are_those_of_botorch(case):
    front, reference, means, sds = (np.array(case[name]) for name in ("front", "reference", "means", "sds"))
    value, d_means, d_sds = LogHypervolumeImprovement(front, reference)(means, sds)
    np.testing.assert_allclose(value, case["value"], rtol=1e-8)
    np.testing.assert_allclose(d_means, case["d_means"], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(d_sds, case["d_sds"], rtol=1e-8, atol=1e-9)


def test_the_value_is_right_where_the_improvement_underflows():
    case = ORACLES["far_hypervolume"]
    front, reference, means, sds = (np.array(case[name]) for name in ("front", "reference", "means", "sds"))
    value, d_means, d_sds = LogHypervolumeImprovement(front, reference)(means, sds)
    assert (np.array(case["value"]) < -700.0).all()
    np.testing.assert_allclose(value, case["value"], rtol=1e-10)
    assert np.isfinite(d_means).all()
    assert np.isfinite(d_sds).all()
    assert (d_means.min(axis=1) < -1.0).all()  # there is a way to go


@pytest.mark.parametrize(("k", "f"), [(2, 0), (2, 1), (2, 20), (3, 12), (4, 8)])
def test_derivatives_are_the_limits_of_differences(k, f):
    rng = np.random.default_rng(k + f)
    improvement = LogHypervolumeImprovement(concave_front(f, k), np.full(k, 1.1))
    means, sds = rng.uniform(-0.5, 2.0, (40, k)), rng.uniform(0.02, 0.6, (40, k))
    _, d_means, d_sds = improvement(means, sds)
    for j in range(k):
        step = np.zeros_like(means)
        step[:, j] = 1e-5 * sds[:, j]
        width = 2e-5 * sds[:, j]
        by_mean = (improvement(means + step, sds)[0] - improvement(means - step, sds)[0]) / width
        by_sd = (improvement(means, sds + step)[0] - improvement(means, sds - step)[0]) / width
        np.testing.assert_allclose(d_means[:, j], by_mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(d_sds[:, j], by_sd, rtol=1e-5, atol=1e-5)


def test_a_point_that_is_certain_gains_the_area_it_adds():
    improvement = LogHypervolumeImprovement(np.array([[1.0, 3.0], [3.0, 1.0]]), np.array([4.0, 4.0]))
    means = np.array([[2.0, 2.0], [0.0, 0.0], [0.0, 3.5], [1.0, 2.0]])
    # The square between the two; all that they left, 16 - 5; half a unit left of both; two units between them.
    expected = np.log([1.0, 11.0, 0.5, 2.0])
    np.testing.assert_allclose(improvement(means, np.full((4, 2), 1e-9))[0], expected, atol=1e-7)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_value_is_the_mean_of_what_samples_gain(k):
    rng = np.random.default_rng(1)
    front, reference = concave_front(4, k, seed=2), np.full(k, 1.1)
    mean, sd = np.full((1, k), 0.4), np.full((1, k), 0.3)
    # The volume of the gain by throwing darts: each in a corner that the sample, but nothing of the front, dominates.
    samples = mean + sd * rng.standard_normal((200_000, k))
    low = -1.2
    darts = rng.uniform(low, 1.1, samples.shape)
    hit = (samples <= darts).all(axis=1) & ~(front[:, None] <= darts).all(axis=2).any(axis=0)
    volume = hit.mean() * (1.1 - low) ** k
    error = hit.std() / math.sqrt(len(hit)) * (1.1 - low) ** k
    assert abs(math.exp(LogHypervolumeImprovement(front, reference)(mean, sd)[0][0]) - volume) < 4.0 * error


def test_without_a_front_the_value_is_the_sum_of_the_logs_of_the_improvements():
    means, sds = np.array([[0.5, 2.0, -1.0]]), np.array([[0.2, 1.0, 3.0]])
    value, d_means, _ = LogHypervolumeImprovement(np.empty((0, 3)), np.ones(3))(means, sds)
    parts = [log_expected_improvement(means[:, j], sds[:, j], 1.0) for j in range(3)]
    assert value[0] == pytest.approx(sum(part[0][0] for part in parts))
    assert d_means[0] == pytest.approx([part[1][0] for part in parts])


def test_rows_that_are_dominated_or_beyond_the_reference_change_nothing():
    front, reference = np.array([[0.2, 0.6], [0.6, 0.2]]), np.ones(2)
    more = np.concatenate([front, [[0.7, 0.7], [0.2, 0.6], [-1.0, 1.0], [2.0, -2.0]]])
    means, sds = np.random.default_rng(0).uniform(0.0, 1.0, (2, 9, 2))
    np.testing.assert_allclose(
        LogHypervolumeImprovement(more, reference)(means, sds)[0],
        LogHypervolumeImprovement(front, reference)(means, sds)[0],
        rtol=1e-12,
    )


def test_many_points_are_worth_what_each_is_alone():
    improvement = LogHypervolumeImprovement(concave_front(6, 3), np.full(3, 1.1))
    means, sds = np.random.default_rng(0).uniform(0.1, 1.0, (2, 300, 3))
    together = improvement(means, sds)
    for i in (0, 127, 128, 299):
        alone = improvement(means[i : i + 1], sds[i : i + 1])
        for part, whole in zip(alone, together, strict=True):
            np.testing.assert_allclose(part[0], whole[i], rtol=1e-12)


@settings(deadline=None)
@given(fronts, st.floats(1e-5, 1e3), st.integers(0, 10**6))
def test_degenerate_fronts_and_far_points_give_numbers(front, sd, seed):
    k = front.shape[1]
    rng = np.random.default_rng(seed)
    means = np.concatenate([rng.uniform(-2.0, 3.0, (4, k)), front, np.full((1, k), 1e6), np.full((1, k), -1e6)])
    reference = reference_point(front) if len(front) else np.ones(k)
    parts = LogHypervolumeImprovement(front, reference)(means, np.full_like(means, sd))
    assert all(np.isfinite(part).all() for part in parts)


@settings(deadline=None)
@given(fronts, st.floats(1e-3, 10.0), st.floats(1e-2, 10.0), st.integers(0, 10**6))
def test_a_better_mean_is_worth_more_and_a_longer_front_leaves_less(front, sd, better, seed):
    k = front.shape[1]
    rng = np.random.default_rng(seed)
    means, sds = rng.uniform(-1.0, 2.0, (5, k)), np.full((5, k), sd)
    reference = np.full(k, 1.1)
    value, d_means, _ = LogHypervolumeImprovement(front, reference)(means, sds)
    slack = 1e-9 * (1.0 + np.abs(value))
    assert (LogHypervolumeImprovement(front, reference)(means - better, sds)[0] >= value - slack).all()
    assert (d_means <= 1e-6 / sd).all()
    longer = np.concatenate([front, rng.uniform(0.0, 1.0, (1, k))])
    assert (LogHypervolumeImprovement(longer, reference)(means, sds)[0] <= value + slack).all()


@pytest.mark.parametrize(
    ("f", "k", "suits"), [(0, 2, True), (300, 2, True), (301, 2, False), (51, 4, False), (1, 5, False)]
)
def test_boxes_are_for_few_objectives_and_short_fronts(f, k, suits):
    assert LogHypervolumeImprovement.suits(np.zeros((f, k))) is suits


@pytest.mark.parametrize(("k", "f"), [(2, 300), (3, 150), (4, 50)])
def test_a_front_that_suits_has_at_most_a_thousand_boxes(k, f):
    front = concave_front(f, k)
    assert LogHypervolumeImprovement.suits(front)
    assert f < LogHypervolumeImprovement(front, np.full(k, 1.1)).n_boxes < 1000


# -- the scalarisation -------------------------------------------------------------------------------------------------


def test_the_scalarisation_is_the_largest_weighted_part_and_a_little_of_the_sum():
    values = np.array([[0.0, 20.0], [1.0, 10.0], [2.0, 0.0], [4.0, 40.0]])
    # In units of the front, from its best: (0, 1), (0.5, 0.5), (1, 0), (2, 2).
    expected = [0.75 + 0.05 * 0.75, 0.375 + 0.05 * 0.5, 0.25 + 0.05 * 0.25, 1.5 + 0.05 * 2.0]
    np.testing.assert_allclose(scalarisation(values, np.array([0.25, 0.75])), expected)


def test_every_point_of_a_concave_front_is_the_best_for_some_weights():
    angle = np.linspace(0.1, math.pi / 2.0 - 0.1, 7)
    values = 1.0 - np.stack([np.cos(angle), np.sin(angle)], axis=1)
    values = np.concatenate([values, values + 0.2])
    rng = np.random.default_rng(0)
    best = {int(np.argmin(scalarisation(values, random_weights(2, rng), augmentation=0.01))) for _ in range(300)}
    assert best == set(range(7))


@settings(deadline=None)
@given(observed, st.integers(0, 10**6))
def test_what_is_dominated_is_never_scalarised_to_less(values, seed):
    loss = scalarisation(values, random_weights(values.shape[1], np.random.default_rng(seed)))
    assert np.isfinite(loss).all()
    worse = (values[:, None] <= values[None]).all(axis=2)
    assert (loss[:, None] <= loss[None] + 1e-12 * np.abs(loss[None]))[worse].all()


def test_weights_are_uniform_on_the_simplex():
    rng = np.random.default_rng(0)
    weights = np.stack([random_weights(3, rng) for _ in range(4000)])
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    # On a uniform simplex of three a part exceeds 1/2 with chance 1/4.
    np.testing.assert_allclose((weights > 0.5).mean(axis=0), 0.25, atol=0.03)
