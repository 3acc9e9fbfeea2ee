"""What learning curves add to the model, when they are not trusted, and that no curve breaks or slows a suggestion."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState
from scipy.optimize import approx_fprime
from scipy.stats import spearmanr

from automl.declaration import Fidelity, Float, Space
from automl.search import gp
from automl.search.encoding import Encoding
from automl.search.fidelity import MAX_ROWS, AtFullFidelity, CurveRows, at_level, curve_rows, spearman
from automl.search.observations import Curve, Observations, Reader
from automl.search.suggest import Suggestion
from automl.search.warping import half_rank

from .trials import frozen

SQUARE = Space({"a": Float(0.0, 1.0), "b": Float(0.0, 1.0)})
ENCODING = Encoding.of(SQUARE)
EPOCHS = Fidelity("epoch", 1, 27)

#: What a trial at points (n, 2) reports at one step.
Reports = Callable[[np.ndarray, float], np.ndarray]


def bowl(x: np.ndarray) -> np.ndarray:
    return ((x - np.array([0.3, 0.6])) ** 2).sum(axis=1)


def learning(x: np.ndarray, step: float) -> np.ndarray:
    """All trials get better by 1 on their way from step 1 to step 27, in steps of the log, and then no more."""
    return bowl(x) + 1.0 - np.log(min(max(step, 1.0), 27.0)) / np.log(27.0)


def crossing(x: np.ndarray, step: float) -> np.ndarray:
    """What is good in the end looks bad until a third of the way."""
    return bowl(x) if step > 9 else 1.0 - bowl(x)


def curve(x: np.ndarray, steps: np.ndarray | range, reports: Reports = learning, is_over: bool = True) -> Curve:
    values = np.array([reports(x[None], step)[0] for step in steps])
    return Curve(x, np.array(steps, dtype=float), values, is_over)


def seen(x: np.ndarray, curves: list[Curve], values: np.ndarray | None = None) -> Observations:
    """Results at `x` (n, 2), those of the bowl unless given, and curves."""
    results = bowl(x) if values is None else values
    n, d = x.shape
    none = np.empty((0, d))
    return Observations(
        ENCODING, x, results.reshape(n, -1), np.empty((n, 0)), (), np.full(n, np.nan), none, none, tuple(curves)
    )


def study(n: int, n_pruned: int, reports: Reports = learning, last: int = 3) -> Observations:
    """`n` completed trials, and others that were pruned at step `last`."""
    x = np.random.default_rng(0).random((n + n_pruned, 2))
    done = [curve(point, range(1, 28), reports) for point in x[:n]]
    return seen(x[:n], done + [curve(point, range(1, last + 1), reports) for point in x[n:]])


def model(o: Observations, rows: CurveRows) -> AtFullFidelity:
    n = len(o.x)
    y = half_rank(np.append(o.values[:, 0], rows.values)).y
    full = gp.Data(ENCODING.features(o.x), y[:n], ENCODING.group, np.ones(n))
    data = rows.join(full, ENCODING, y[n:])
    theta = gp.fit(data, gp.Prior(), gp.Prior().start(data.d), 40)
    return AtFullFidelity(gp.GaussianProcess(data, theta[None]), n)


# -- what the model learns -----------------------------------------------------------------------------------------


def test_where_trials_were_only_pruned_the_model_expects_what_they_would_have_become():
    def cliff(x: np.ndarray) -> np.ndarray:
        return bowl(x) + 1.0 / (1.0 + np.exp(-40.0 * (x[:, 0] - 0.55)))

    rng = np.random.default_rng(3)
    left = rng.random((12, 2)) * [0.4, 1.0]  # none of the trials beyond the cliff was completed
    right = rng.random((20, 2)) * [0.3, 1.0] + [0.7, 0.0]

    def report(x: np.ndarray, step: float) -> np.ndarray:
        return cliff(x) - bowl(x) + learning(x, step)

    curves = [curve(x, range(1, 28), report) for x in left] + [curve(x, range(1, 4), report) for x in right]
    o = seen(left, curves, cliff(left))
    rows = curve_rows(o, EPOCHS)
    warp = half_rank(np.append(o.values[:, 0], rows.values))
    expected = warp.inverse(model(o, rows).predict(ENCODING.features(right))[0][0])
    assert spearman(expected, cliff(right)) > 0.95
    assert (expected > cliff(left).max()).all()
    # They are not thought to be as bad as what they reported: at that level the completed trials were worse, too.
    assert np.median(expected) < np.median(report(right, 3)) - 0.3
    # Without their curves there would be no cliff.
    alone = model(o, CurveRows(right[:0], np.empty(0), np.empty(0)))
    ignorant = half_rank(cliff(left)).inverse(alone.predict(ENCODING.features(right))[0][0])
    assert np.median(ignorant) <= cliff(left).max()


def test_pruned_and_running_trials_give_their_last_value_at_their_level_and_others_none_at_full_fidelity():
    o = study(8, 0)
    pruned, running = np.array([0.9, 0.1]), np.array([0.8, 0.2])
    o = seen(o.x, [*o.curves, curve(pruned, range(1, 4)), curve(running, range(1, 12), is_over=False)])
    rows = curve_rows(o, EPOCHS)
    last = {tuple(x): (level, value) for x, level, value in zip(rows.x, rows.level, rows.values, strict=True)}
    assert last[tuple(pruned)] == pytest.approx((1.0 / 3.0, learning(pruned[None], 3)[0]))
    assert last[tuple(running)] == pytest.approx((np.log(11.0) / np.log(27.0), learning(running[None], 11)[0]))
    of_completed = np.array([tuple(x) not in {tuple(pruned), tuple(running)} for x in rows.x])
    np.testing.assert_allclose(np.unique(rows.level[of_completed]), [0.0, 1.0 / 3.0, 2.0 / 3.0], atol=1e-12)
    step = np.exp(rows.level[of_completed] * np.log(27.0))
    expected = [learning(x[None], s)[0] for x, s in zip(rows.x[of_completed], step, strict=True)]
    np.testing.assert_allclose(rows.values[of_completed], expected)


def test_the_trials_of_a_study_are_read_whatever_its_direction():
    x = np.random.default_rng(1).random((9, 2))
    suggestions = [Suggestion({"a": a, "b": b}, {}) for a, b in x.tolist()]
    steps = range(1, 28)
    trials = [
        frozen(i, s, values=[-bowl(p[None])[0]], reports={step: -learning(p[None], step)[0] for step in steps})
        for i, (s, p) in enumerate(zip(suggestions[:7], x, strict=False))
    ]
    for number, state in ((7, TrialState.PRUNED), (8, TrialState.RUNNING)):
        reports = {1: -9.0, 2: -8.0, 3: -7.0, 4: np.nan}
        trials.append(frozen(number, suggestions[number], state=state, reports=reports))
    o = Reader(SQUARE).read(trials, [StudyDirection.MAXIMIZE])
    assert o is not None
    rows = curve_rows(o, EPOCHS)
    np.testing.assert_allclose(rows.x[:2], x[7:])
    np.testing.assert_allclose(rows.values[:2], 7.0)
    assert (rows.values[2:] < 2.0).all()


def test_nothing_is_added_when_every_trial_has_a_result():
    assert len(curve_rows(study(12, 0), EPOCHS)) == 0


def test_a_trial_that_ended_without_a_number_and_several_metrics_add_nothing():
    o = study(8, 3)
    failed = seen(o.x, list(o.curves))
    object.__setattr__(failed, "failed", np.array([c.x for c in o.curves[8:]]))
    assert len(curve_rows(failed, EPOCHS)) == 0
    two = np.stack([bowl(o.x), bowl(o.x)], axis=1)
    assert len(curve_rows(seen(o.x, list(o.curves), two), EPOCHS)) == 0


# -- steps ---------------------------------------------------------------------------------------------------------


def test_without_a_fidelity_the_largest_step_of_completed_trials_is_the_maximum_and_zero_is_the_first_step():
    o = study(8, 4)
    declared, found = curve_rows(o, EPOCHS), curve_rows(o)
    np.testing.assert_array_equal(declared.level, found.level)
    from_zero = seen(o.x, [Curve(c.x, c.steps - 1.0, c.values, c.is_over) for c in o.curves])
    shifted = curve_rows(from_zero)
    np.testing.assert_array_equal(shifted.level, found.level)
    np.testing.assert_array_equal(shifted.values, found.values)


def test_reports_at_other_steps_than_the_rungs_count_at_their_own_steps():
    x = np.random.default_rng(0).random((9, 2))
    every_fifth = np.arange(5, 28, 5)
    o = seen(x[:8], [*(curve(point, every_fifth) for point in x[:8]), curve(x[8], every_fifth[:3])])
    rows = curve_rows(o, EPOCHS)
    steps = np.exp(rows.level * np.log(27.0))
    assert set(np.round(steps, 9)) == {5.0, 15.0}  # at rung 9 the report of step 5, and the last one of the pruned
    assert len(rows) == 9
    first_and_last = [curve(point, (1, 27)) for point in x[:8]]
    rows = curve_rows(seen(x[:8], [*first_and_last, curve(x[8], (1, 2))]), EPOCHS)
    assert len(rows) == 9  # at the rungs 3 and 9 they say nothing that they did not say at 1


def test_steps_beyond_the_maximum_are_at_full_fidelity():
    o = study(8, 0)
    far = curve(np.array([0.9, 0.9]), range(1, 60), is_over=False)
    rows = curve_rows(seen(o.x, [*o.curves, far]), EPOCHS)
    assert rows.level[0] == 1.0
    assert rows.values[0] == far.values[-1]
    assert rows.level.min() == 0.0
    completed = [curve(point, (1, 3, 9, 54)) for point in o.x]  # their last reports are still those of their end
    assert len(curve_rows(seen(o.x, [*completed, far]), EPOCHS)) > 1


def test_steps_before_the_first_that_tells_anything_are_not_used():
    from_third = Fidelity("epoch", 3, 27)
    assert len(curve_rows(study(8, 4, last=2), from_third)) == 0
    rows = curve_rows(study(8, 4, last=3), from_third)
    assert rows.level.min() == pytest.approx(1.0 / 3.0)


# -- trust ---------------------------------------------------------------------------------------------------------


def test_a_rung_where_good_trials_look_bad_is_not_used_and_a_later_one_is():
    assert len(curve_rows(study(12, 10, crossing, last=3), EPOCHS)) == 0
    late = curve_rows(study(12, 10, crossing, last=26), EPOCHS)
    assert len(late) == 0  # rung 9 was the last one they reached, and it misleads
    for last in (26, 9):
        o = study(12, 10, lambda x, step: learning(x, step) if step >= 9 else 1.0 - bowl(x), last=last)
        rows = curve_rows(o, EPOCHS)
        assert len(rows) == 10 + 12
        assert rows.level.min() == pytest.approx(2.0 / 3.0)


def test_four_completed_trials_are_too_few_to_trust_a_rung():
    assert len(curve_rows(study(4, 10), EPOCHS)) == 0
    assert len(curve_rows(study(5, 10), EPOCHS)) > 0


def test_reports_of_another_quantity_than_the_result_are_not_used():
    o = study(12, 10)
    loss_for_error = seen(o.x, [Curve(c.x, c.steps, 2.5 * c.values + 0.4, c.is_over) for c in o.curves])
    assert len(curve_rows(loss_for_error, EPOCHS)) == 0
    opposite = seen(o.x, [Curve(c.x, c.steps, -c.values, c.is_over) for c in o.curves])
    assert len(curve_rows(opposite, EPOCHS)) == 0
    best_epoch = seen(o.x, list(o.curves), bowl(o.x) - 0.01)
    assert len(curve_rows(best_epoch, EPOCHS)) > 0


def test_results_that_are_all_equal_trust_no_rung():
    o = study(12, 10)
    assert len(curve_rows(seen(o.x, list(o.curves), np.ones(12)), EPOCHS)) == 0


def test_the_rank_correlation_is_that_of_scipy_and_zero_for_a_constant():
    rng = np.random.default_rng(5)
    a = rng.integers(5, size=30).astype(float)
    b = a + rng.integers(4, size=30)
    assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    assert spearman(a, np.ones(30)) == 0.0


# -- bounds --------------------------------------------------------------------------------------------------------


def test_of_many_trials_the_deepest_and_the_best_stay_and_rows_and_time_are_bounded():
    rng = np.random.default_rng(0)
    x = rng.random((6000, 2))
    curves = [curve(point, (1, 3, 9, 27)) for point in x[:3000]]
    curves += [curve(point, (1, 3) if i % 2 else (1, 3, 9)) for i, point in enumerate(x[3000:])]
    order = rng.permutation(6000)
    o = seen(x[:3000], [curves[i] for i in order])
    start = time.process_time()
    rows = curve_rows(o, EPOCHS)
    assert time.process_time() - start < 0.5
    assert MAX_ROWS - 3 < len(rows) <= MAX_ROWS
    pruned = ~np.isin(rows.x[:, 0], x[:3000, 0])
    latest = [curves[i] for i in order if i >= 3000][-1000:]
    best = min(float(c.values[-1]) for c in latest if c.steps[-1] == 9)
    assert best in rows.values[pruned]
    assert (rows.level[pruned] < 0.5).sum() >= 10  # shallow ones too
    assert 25 <= (~pruned).sum() <= 33


def test_completed_trials_still_judge_after_a_thousand_were_pruned_in_a_row():
    assert len(curve_rows(study(12, 1500), EPOCHS)) > 12


def test_a_hundred_thousand_reports_add_one_row():
    steps = np.arange(1.0, 100_001.0)
    x = np.random.default_rng(0).random((9, 2))
    curves = [Curve(p, steps, bowl(p[None]) + 1.0 / steps, True) for p in x[:8]]
    curves.append(Curve(x[8], steps[:-1], bowl(x[8:]) + 1.0 / steps[:-1], False))
    start = time.process_time()
    rows = curve_rows(seen(x[:8], curves))
    assert time.process_time() - start < 0.5
    assert np.array_equal(rows.x[0], x[8])
    assert (rows.x == x[8]).all(axis=1).sum() == 1
    assert len(rows) <= MAX_ROWS


HOSTILE: dict[str, Callable[[Curve], Curve]] = {
    "nan": lambda c: Curve(c.x, c.steps, np.full(len(c.values), np.nan), c.is_over),
    "nan at the end": lambda c: Curve(c.x, c.steps, np.append(c.values[:-1], np.nan), c.is_over),
    "constant": lambda c: Curve(c.x, c.steps, np.zeros(len(c.values)), c.is_over),
    "one report": lambda c: Curve(c.x, c.steps[:1], c.values[:1], c.is_over),
    "one late report": lambda c: Curve(c.x, c.steps[-1:], c.values[-1:], c.is_over),
    "negative steps": lambda c: Curve(c.x, c.steps - 9.0, c.values, c.is_over),
    "only step zero": lambda c: Curve(c.x, np.zeros(1), c.values[:1], c.is_over),
    "beyond the maximum": lambda c: Curve(c.x, c.steps + 1000.0, c.values, c.is_over),
    "infinite": lambda c: Curve(c.x, c.steps, c.values * np.inf, c.is_over),
    "huge": lambda c: Curve(c.x, c.steps, np.where(c.x[0] > 0.5, 1e308, -1e308) * c.values, c.is_over),
}


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # 0 * inf, of the test's making
@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("which", [slice(None), slice(0, 12), slice(12, None), slice(0, None, 3)])
@pytest.mark.parametrize("fidelity", [None, EPOCHS, Fidelity("epoch", 1, 1), Fidelity("epoch", 26, 27)], ids=str)
def test_no_curve_breaks_the_model(hostile, which, fidelity):
    o = study(12, 10)
    curves = list(o.curves)
    curves[which] = map(hostile, curves[which])
    values = np.where(np.arange(12) % 5 == 4, np.inf, bowl(o.x)) if which == slice(0, 12) else bowl(o.x)
    o = seen(o.x, curves, values)
    rows = curve_rows(o, fidelity)
    assert len(rows) <= MAX_ROWS
    assert rows.x.shape == (len(rows), 2)
    assert np.isfinite(rows.values).all()
    assert ((rows.level >= 0.0) & (rows.level <= 1.0)).all()
    mean, sd = model(o, rows).predict(ENCODING.features(o.x))
    assert np.isfinite(mean).all()
    assert np.isfinite(sd).all()


def test_the_largest_numbers_there_are_do_not_overflow():
    x = np.random.default_rng(0).random((16, 2))
    values = 1.7e308 * (2.0 * (bowl(x) - bowl(x).min()) / np.ptp(bowl(x)) - 1.0)
    curves = [Curve(p, np.arange(1.0, 28.0), np.full(27, v), True) for p, v in zip(x[:12], values, strict=False)]
    curves += [Curve(p, np.arange(1.0, 4.0), np.full(3, v), True) for p, v in zip(x[12:], values[12:], strict=True)]
    o = seen(x[:12], curves, values[:12])
    rows = curve_rows(o, EPOCHS)
    assert len(rows) >= 4
    assert np.isfinite(model(o, rows).predict(ENCODING.features(x))[0]).all()


def test_equal_observations_give_equal_rows():
    first, again = curve_rows(study(12, 90), EPOCHS), curve_rows(study(12, 90), EPOCHS)
    for name in ("x", "level", "values"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()


# -- the surrogate -------------------------------------------------------------------------------------------------


@pytest.fixture
def surrogate() -> AtFullFidelity:
    o = study(8, 6)
    return model(o, curve_rows(o, EPOCHS))


def test_the_fitted_means_are_those_of_the_completed_and_then_of_the_pending_trials(surrogate):
    z = ENCODING.features(study(8, 6).x)
    np.testing.assert_allclose(surrogate.fitted, surrogate.predict(z)[0], rtol=1e-8)
    pending = np.array([[0.2, 0.9], [0.7, 0.7]])
    posterior = surrogate.given(pending)
    expected = np.concatenate([surrogate.fitted, surrogate.predict(pending)[0]], axis=1)
    np.testing.assert_allclose(posterior.fitted, expected, rtol=1e-8)
    np.testing.assert_allclose(posterior.predict(pending)[0], surrogate.predict(pending)[0], rtol=1e-8)
    assert (posterior.predict(pending)[1] < surrogate.predict(pending)[1]).all()


def test_the_gradients_are_those_of_the_predictions_at_full_fidelity(surrogate):
    z = np.array([[0.35, 0.8]])
    mean, sd, mean_slope, sd_slope = surrogate.predict_with_gradient(z)
    expected_mean, expected_sd = surrogate.predict(z)
    np.testing.assert_allclose(mean, expected_mean)
    np.testing.assert_allclose(sd, expected_sd)
    for k, slope in ((0, mean_slope), (1, sd_slope)):
        assert slope.shape == (1, 1, 2)
        numeric = approx_fprime(z[0], lambda u, k=k: surrogate.predict(u[None])[k][0, 0], 1e-6)
        np.testing.assert_allclose(slope[0, 0], numeric, rtol=1e-3, atol=1e-5)


def test_a_level_is_one_more_feature_for_all_points_or_for_each():
    z = np.zeros((2, 3))
    assert at_level(z, 0.5).tolist() == [[0.0, 0.0, 0.0, 0.5]] * 2
    assert at_level(z, np.array([0.1, 0.2]))[:, 3].tolist() == [0.1, 0.2]
