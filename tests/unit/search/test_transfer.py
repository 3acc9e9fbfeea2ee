"""What past studies teach a new one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from scipy.optimize import nnls

from automl.declaration import Choice, Float, Int, Space
from automl.search import gp
from automl.search.encoding import Encoding
from automl.search.transfer import MAX_ROWS, MAX_SOURCES, Ensemble, Source, Transfer, agreement, stacked
from automl.search.warping import half_rank

NUMBERS = Encoding.of(Space({"x": Float(0, 1), "y": Float(0, 1)}))
MIXED = Encoding.of(
    Space(
        {
            "lr": Float(1e-4, 1e-1, log=True),
            "optimizer": Choice("sgd", "adamw"),
            "momentum": Float(0.0, 1.0, when={"optimizer": "sgd"}),
            "width": Int(16, 64),
        }
    )
)


def bowl(x: float, y: float) -> Callable[[Mapping[str, Any]], float]:
    return lambda p: (p["x"] - x) ** 2 + 3.0 * (p["y"] - y) ** 2


def waves(x: float) -> Callable[[Mapping[str, Any]], float]:
    """What a trend and a few results do not explain."""
    return lambda p: math.sin(9.0 * (p["x"] - x)) + math.cos(7.0 * p["y"])


def source(
    name: str, function: Callable[[Mapping[str, Any]], float], n: int = 30, encoding: Encoding = NUMBERS, seed: int = 0
) -> Source:
    x = encoding.snap(np.random.default_rng(seed).random((n, encoding.d)))
    params = tuple(encoding.decode(row) for row in x)
    return Source(name, params, tuple(float(function(p)) for p in params))


def target(
    function: Callable[[Mapping[str, Any]], float], n: int, draws: int = 2
) -> tuple[gp.GaussianProcess, gp.Data]:
    x = NUMBERS.snap(np.random.default_rng(99).random((n, 2)))
    y = half_rank(np.array([function(NUMBERS.decode(row)) for row in x])).y
    data = gp.Data(NUMBERS.features(x), y, NUMBERS.group, np.ones(n))
    prior = gp.Prior()
    theta = gp.fit(data, prior, prior.start(2), 30)
    thetas = np.array([theta + 0.1 * i for i in range(draws)])
    return gp.GaussianProcess(data, thetas), data


# -- what is taken over ----------------------------------------------------------------------------------------------


def rows(*params: Mapping[str, Any], values: tuple[float, ...] | None = None) -> Source:
    """Three good rows, and these, which are better than all others."""
    good = ({"x": 0.1, "y": 0.1}, {"x": 0.5, "y": 0.9}, {"x": 0.9, "y": 0.2})
    return Source("past", good + params, (2.0, 3.0, 4.0) + (values or tuple(-1.0 for _ in params)))


def test_a_number_just_outside_of_the_new_range_is_clipped_and_its_row_kept():
    assert Transfer(NUMBERS, [rows({"x": 1.05, "y": 0.4})]).portfolio(1).tolist() == [[1.0, 0.4]]


@pytest.mark.parametrize(
    "params",
    [
        {"x": 1.5, "y": 0.4},
        {"x": "half", "y": 0.4},
        {"x": None, "y": 0.4},
        {"x": True, "y": 0.4},
        {"x": math.nan, "y": 0.4},
    ],
)
def test_a_row_with_a_value_that_the_new_space_does_not_reach_is_dropped(params):
    assert Transfer(NUMBERS, [rows(params)]).portfolio(1).tolist() == [[0.1, 0.1]]


@pytest.mark.parametrize("value", [-math.inf, math.inf, math.nan])
def test_a_row_without_a_finite_value_is_dropped(value):
    params = ({"x": 0.4, "y": 0.4}, {"x": 0.1, "y": 0.1}, {"x": 0.8, "y": 0.3})
    assert Transfer(NUMBERS, [Source("past", params, (value, 1.0, 2.0))]).names == ()
    assert Transfer(NUMBERS, [Source("past", params, (3.0, 1.0, 2.0))]).names == ("past",)


def test_a_choice_that_no_longer_exists_drops_its_row_and_true_is_not_1():
    encoding = Encoding.of(Space({"x": Float(0, 1), "skip": Choice(True, False)}))
    params = ({"x": 0.1, "skip": 1}, {"x": 0.2, "skip": "yes"}, {"x": 0.3, "skip": True})
    others = tuple({"x": 0.4 + 0.1 * i, "skip": False} for i in range(3))
    found = Transfer(encoding, [Source("past", params + others, (0.0, 0.0, 1.0, 2.0, 3.0, 4.0))]).portfolio(1)
    assert encoding.decode(found[0]) == {"x": pytest.approx(0.3), "skip": True}


def test_the_range_of_a_log_scale_is_measured_on_that_scale():
    encoding = Encoding.of(Space({"lr": Float(1e-4, 1e-1, log=True)}))
    near, far = {"lr": 1.5e-1}, {"lr": 3e-1}  # 0.06 and 0.16 of the three decades
    inside = tuple({"lr": lr} for lr in (1e-3, 1e-2, 3e-2))
    past = Source("past", (far, near, {"lr": -1.0}, *inside), (-9.0, -5.0, -9.0, 1.0, 2.0, 3.0))
    assert encoding.decode(Transfer(encoding, [past]).portfolio(1)[0]) == {"lr": pytest.approx(0.1)}


@pytest.mark.parametrize(
    "useless",
    [
        Source("empty", (), ()),
        Source("short", ({"x": 0.1, "y": 0.1}, {"x": 0.2, "y": 0.2}), (1.0, 2.0)),
        Source("flat", tuple({"x": 0.1 * i, "y": 0.5} for i in range(9)), (1.0,) * 9),
        Source("foreign", tuple({"depth": i} for i in range(9)), tuple(map(float, range(9)))),
    ],
)
def test_a_source_that_tells_nothing_is_left_out(useless):
    transfer = Transfer(NUMBERS, [useless, source("useful", bowl(0.3, 0.3))])
    assert transfer.names == ("useful",)
    assert Transfer(NUMBERS, [useless]).portfolio(3).shape == (0, 2)


def test_no_more_than_the_first_usable_sources_and_rows_count():
    sources = [source(str(i), bowl(0.3, 0.3), n=4, seed=i) for i in range(MAX_SOURCES + 2)]
    assert Transfer(NUMBERS, sources).names == tuple(str(i) for i in range(MAX_SOURCES))
    long = Transfer(NUMBERS, [source("long", bowl(0.3, 0.3), n=5 * MAX_ROWS)])
    assert len({tuple(x) for x in long.portfolio(1000)}) == math.ceil(MAX_ROWS / 3)


def test_the_best_row_of_a_long_source_is_kept():
    past = source("long", bowl(0.3, 0.3), n=3 * MAX_ROWS)
    best = past.params[int(np.argmin(past.values))]
    portfolio = Transfer(NUMBERS, [past]).portfolio(MAX_ROWS)
    assert any(NUMBERS.decode(x) == pytest.approx(best) for x in portfolio)


def test_a_parameter_that_the_source_never_had_does_not_matter_to_its_model():
    past = source("past", lambda p: (p["x"] - 0.3) ** 2)
    past = Source("past", tuple({"x": p["x"]} for p in past.params), past.values)
    model, data = target(bowl(0.3, 0.5), 8)
    transfer = Transfer(NUMBERS, [past])
    ensemble = transfer.ensemble(model, data)
    apart = np.array([[0.4, 0.0], [0.4, 1.0]])
    (theirs,) = ensemble.sources
    assert theirs.predict(apart)[0][0, 0] == theirs.predict(apart)[0][0, 1]
    assert np.all(transfer.prior(gp.Prior()).start(2)[1] == gp.Prior().centre)


def test_a_parameter_that_the_space_does_not_have_is_ignored():
    past = source("past", bowl(0.3, 0.6))
    more = Source("past", tuple({**p, "depth": i} for i, p in enumerate(past.params)), past.values)
    assert np.array_equal(Transfer(NUMBERS, [more]).portfolio(4), Transfer(NUMBERS, [past]).portfolio(4))


def test_a_child_whose_parent_is_new_makes_the_parent_what_it_needs():
    momentum = [0.1, 0.5, 0.9, 0.7]
    params = tuple({"lr": 1e-2, "momentum": m, "width": 32} for m in momentum)
    (x,) = Transfer(MIXED, [Source("sgd", params, (4.0, 3.0, 2.0, 1.0))]).portfolio(1)
    assert MIXED.decode(x) == pytest.approx({"lr": 1e-2, "optimizer": "sgd", "momentum": 0.7, "width": 32})


# -- where to begin --------------------------------------------------------------------------------------------------


def test_the_portfolio_begins_with_points_for_each_of_the_sources():
    sources = [source("a", bowl(0.1, 0.2), 60), source("b", bowl(0.9, 0.8), 60, seed=1)]
    portfolio = Transfer(NUMBERS, sources).portfolio(4)
    distances = [np.hypot(*(portfolio - optimum).T).min() for optimum in ((0.1, 0.2), (0.9, 0.8))]
    assert max(distances) < 0.2


def test_the_first_point_of_the_portfolio_is_the_best_one_of_the_only_source():
    past = source("past", bowl(0.3, 0.6), 60)
    first = NUMBERS.decode(Transfer(NUMBERS, [past]).portfolio(1)[0])
    assert bowl(0.3, 0.6)(first) <= sorted(past.values)[2]


def test_the_portfolio_of_one_source_spreads_around_its_best_point():
    past = source("past", bowl(0.3, 0.6), 90)
    ranked = sorted(past.params, key=bowl(0.3, 0.6))[:5]
    greedy = np.array([[p["x"], p["y"]] for p in ranked])
    portfolio = Transfer(NUMBERS, [past]).portfolio(5)
    assert portfolio.std(axis=0).sum() > greedy.std(axis=0).sum()


def test_the_portfolio_holds_different_points_of_the_space():
    sources = [source(str(i), lambda p: p["lr"] + p["width"], 20, MIXED) for i in range(3)]  # the same rows thrice
    portfolio = Transfer(MIXED, sources).portfolio(50)
    assert len({tuple(np.nan_to_num(x, nan=-1.0)) for x in portfolio}) == len(portfolio) == 7
    assert np.array_equal(MIXED.snap(portfolio), portfolio, equal_nan=True)
    assert len(Transfer(MIXED, sources).portfolio(2)) == 2
    assert len(Transfer(MIXED, sources).portfolio(0)) == 0


def test_equal_sources_give_equal_models():
    sources = [source("a", bowl(0.2, 0.2), 200), source("b", bowl(0.4, 0.2), 20)]
    one, two = Transfer(NUMBERS, sources), Transfer(NUMBERS, sources)
    assert np.array_equal(one.portfolio(5), two.portfolio(5))
    model, data = target(bowl(0.3, 0.3), 9)
    z = np.random.default_rng(1).random((5, 2))
    for mine, theirs in zip(one.ensemble(model, data).predict(z), two.ensemble(model, data).predict(z), strict=True):
        assert np.array_equal(mine, theirs)


# -- which parameters matter -----------------------------------------------------------------------------------------


def test_a_parameter_that_mattered_to_the_sources_begins_with_a_shorter_lengthscale():
    prior = Transfer(NUMBERS, [source(str(i), lambda p: math.sin(9 * p["x"]), seed=i) for i in range(3)]).prior(
        gp.Prior()
    )
    start = prior.start(2)
    assert start[0] < start[1] - 0.5
    value, gradient = prior.penalty(start)
    assert math.isfinite(value)
    assert np.all(np.isfinite(gradient))


def test_without_sources_the_prior_is_as_it_was():
    base = gp.Prior()
    assert Transfer(NUMBERS, []).prior(base) is base


# -- the shape -------------------------------------------------------------------------------------------------------


def test_the_weights_minimise_the_errors_of_predicting_each_result_from_the_others():
    rng = np.random.default_rng(5)
    model, data = target(bowl(0.4, 0.6), 8, draws=1)
    means = rng.standard_normal((8, 2)) + data.y[:, None]
    prior = gp.Prior()
    theta = gp.fit(data, prior, prior.start(2), 30)[None]
    columns = np.column_stack([means, np.ones(8), -np.ones(8), data.y])
    errors = np.empty_like(columns)
    for i in range(8):
        others = np.arange(8) != i
        for j, column in enumerate(columns.T):
            without = gp.GaussianProcess(
                gp.Data(data.z[others], column[others], data.group, data.repeats[others]), theta
            )
            mean, sd = without.predict(data.z[i : i + 1])
            of_result = math.sqrt(sd[0, 0] ** 2 + math.exp(theta[0, -1]) + 1e-6)
            errors[i, j] = (column[i] - mean[0, 0]) / of_result
    firm = math.sqrt(2.0)
    belief = np.array([[firm, 0, 0, 0, firm / 2], [0, firm, 0, 0, firm / 2], [0, 0, 2, -2, 0]])
    everything = np.concatenate([errors, belief])
    expected, _ = nnls(everything[:, :4], everything[:, 4])
    shares, constant = stacked(np.linalg.inv(covariance(model, data, theta)), means, data.y)
    assert shares == pytest.approx(expected[:2], abs=1e-4)
    assert constant == pytest.approx(expected[2] - expected[3], abs=1e-4)


def covariance(model: gp.GaussianProcess, data: gp.Data, theta: np.ndarray) -> np.ndarray:
    """(1, n, n) C, column by column: the posterior mean of targets y is K C^-1 y = y - v C^-1 y."""
    n, noise = len(data.y), math.exp(theta[0, -1]) + 1e-6
    units = [gp.Data(data.z, unit, data.group, data.repeats) for unit in np.eye(n)]
    smoother = np.stack([gp.GaussianProcess(unit, theta).predict(data.z)[0][0] for unit in units], axis=1)
    return np.linalg.inv((np.eye(n) - smoother) / noise)[None]


def test_a_source_that_resembles_the_target_gets_weight_and_makes_it_predict_better():
    model, data = target(waves(0.02), 8)
    ensemble = Transfer(NUMBERS, [source("near", waves(0.0), 60)]).ensemble(model, data)
    assert ensemble.weights["near"] > 0.5
    z = np.random.default_rng(3).random((200, 2))
    true = [waves(0.02)({"x": x, "y": y}) for x, y in z]
    alone, helped = (np.corrcoef(of.predict(z)[0].mean(axis=0), true)[0, 1] for of in (model, ensemble))
    assert helped > alone + 0.2


def test_a_source_that_says_the_opposite_is_dropped_and_the_model_is_the_target_s_own():
    model, data = target(waves(0.0), 8)
    ensemble = Transfer(NUMBERS, [source("opposite", lambda p: -waves(0.0)(p), 60)]).ensemble(model, data)
    assert ensemble.weights == {"opposite": 0.0}
    z = np.random.default_rng(3).random((9, 2))
    assert np.array_equal(ensemble.predict(z)[0], model.predict(z)[0])
    assert np.array_equal(ensemble.fitted, model.fitted)


def test_among_good_and_bad_sources_the_good_one_counts():
    noise = np.random.default_rng(8)
    sources = [
        source("opposite", lambda p: -waves(0.0)(p), 60),
        source("near", waves(0.02), 60, seed=1),
        source("noise", lambda p: noise.random(), 60, seed=2),
    ]
    weights = Transfer(NUMBERS, sources).ensemble(*target(waves(0.0), 15)).weights
    assert list(weights) == ["opposite", "near", "noise"]
    assert weights["opposite"] == 0.0
    assert weights["near"] > 0.5 > weights["noise"]


def test_of_two_sources_that_contradict_each_other_only_the_right_one_has_weight():
    y = np.linspace(-1.5, 1.5, 12)
    shares, _ = stacked(np.eye(12)[None], np.column_stack([2.0 * y, -y]), y)
    assert shares[0] == pytest.approx(0.5, abs=0.02)
    assert shares[1] == 0.0


def test_no_weight_is_negative_even_where_that_would_fit_better():
    rng = np.random.default_rng(2)
    y, error = np.linspace(-1.5, 1.5, 30), 0.2 * rng.standard_normal(30)
    shares, _ = stacked(np.eye(30)[None], np.column_stack([y + error, y + 3.0 * error]), y)
    assert shares[0] > 0.8
    assert shares[1] == 0.0


def test_the_agreement_is_the_share_of_pairs_ranked_right_less_those_ranked_wrong():
    y = np.array([1.0, 2.0, 3.0, 3.0])
    means = np.array([[1.0, 4.0, 0.0], [2.0, 3.0, 1.0], [3.0, 2.0, 0.5], [4.0, 1.0, 0.5]])
    assert agreement(means, y) == pytest.approx([1.0, -1.0, 1 / 5])


def test_without_sources_the_ensemble_is_the_target():
    model, data = target(bowl(0.3, 0.6), 9)
    ensemble = Transfer(NUMBERS, []).ensemble(model, data)
    assert ensemble.weights == {}
    assert np.array_equal(ensemble.fitted, model.fitted)


@pytest.fixture
def helped() -> Ensemble:
    sources = [source("a", bowl(0.2, 0.6), 40), source("b", bowl(0.4, 0.5), 40, seed=1)]
    ensemble = Transfer(NUMBERS, sources).ensemble(*target(bowl(0.3, 0.6), 7))
    assert len(ensemble.sources) == 2
    return ensemble


def test_the_gradients_are_those_of_the_predictions(helped):
    z = np.random.default_rng(4).random((5, 2))
    mean, sd, mean_slope, sd_slope = helped.predict_with_gradient(z)
    assert mean == pytest.approx(helped.predict(z)[0])
    assert sd == pytest.approx(helped.predict(z)[1])
    step = 1e-6
    for j in range(2):
        up, down = (helped.predict(z + sign * step * np.eye(2)[j]) for sign in (1, -1))
        assert mean_slope[..., j] == pytest.approx((up[0] - down[0]) / (2 * step), rel=1e-4, abs=1e-5)
        assert sd_slope[..., j] == pytest.approx((up[1] - down[1]) / (2 * step), rel=1e-4, abs=1e-5)


def test_what_the_sources_leave_open_is_learnt_from_the_results(helped):
    _, data = target(bowl(0.3, 0.6), 7)
    assert np.abs(helped.fitted - data.y).max() < 0.3


def test_the_fitted_means_are_the_predictions_at_the_observed_points(helped):
    assert helped.fitted.shape == (2, 7)
    assert helped.fitted == pytest.approx(helped.predict(helped.z)[0])


def test_pending_points_make_the_model_more_certain_and_leave_its_means(helped):
    z = np.array([[0.9, 0.1], [0.1, 0.9]])
    pending = helped.given(z)
    assert pending.predict(z)[0] == pytest.approx(helped.predict(z)[0])
    assert np.all(pending.predict(z)[1] < helped.predict(z)[1])
    assert pending.fitted[:, 7:] == pytest.approx(helped.predict(z)[0])
