from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState as OptunaState

from automl.board import Board, Curve, Prediction
from automl.core import Attr, FailureKind, TrialState
from automl.declaration import Choice, Float, Space
from automl.errors import InvalidInput
from automl.search import BayesianSampler, History, suggest
from automl.search.encoding import Encoding
from automl.search.fidelity import curve_rows
from automl.search.local import MOST_ROWS
from automl.search.observations import Reader
from automl.search.seen import Details, judges, learnt_space, observations, representatives
from automl.search.space import to_distributions
from automl.search.what_if import Known, Posterior, require
from tests.unit.search.boards import board
from tests.unit.search.trials import MIXED, NUMBERS, frozen

BRANCHES = Space(
    {
        "optimizer": Choice("sgd", "adamw"),
        "lr": Float(1e-4, 1e-1, log=True),
        "momentum": Float(0.0, 0.99, when={"optimizer": "sgd"}),
    }
)


def drawn(space: Space, n: int, seed: int = 0) -> list[dict[str, Any]]:
    encoding = Encoding.of(space)
    x = encoding.snap(np.random.default_rng(seed).random((n, encoding.d)))
    return [encoding.decode(row) for row in x]


def bowl(params: Mapping[str, Any]) -> float:
    return float((params["x"] / 15 - 0.2) ** 2 + (params["y"] / 15 - 0.6) ** 2)


def posterior(seen: Board, space: Space, details: Details | None = None, **known: Any) -> Posterior:
    rows = representatives(seen, Encoding.of(space))
    return Posterior(seen, space, rows, Known(details or Details(), **known))


def predict(seen: Board, space: Space, point: Mapping[str, Any], **known: Any) -> Prediction:
    return posterior(seen, space, **known).predict([point])[0]


# -- what it says ------------------------------------------------------------------------------------------------------


def test_at_the_point_of_a_trial_the_mean_is_near_its_value_and_sure() -> None:
    points = drawn(NUMBERS, 30)
    values = [bowl(point) for point in points]
    told = posterior(board(NUMBERS, points, values), NUMBERS).predict(points)
    spread = float(np.std(values))
    assert np.abs(np.array([p.mean for p in told]) - values).max() < 0.1 * spread
    assert max(p.sd for p in told) < 0.1 * spread


def test_a_known_function_is_found_again_between_the_trials() -> None:
    points, others = drawn(NUMBERS, 40), drawn(NUMBERS, 60, seed=1)
    told = posterior(board(NUMBERS, points, [bowl(point) for point in points]), NUMBERS).predict(others)
    truth = np.array([bowl(point) for point in others])
    mean, sd = np.array([p.mean for p in told]), np.array([p.sd for p in told])
    assert np.corrcoef(np.argsort(np.argsort(mean)), np.argsort(np.argsort(truth)))[0, 1] > 0.97
    good = truth < np.median(truth)  # what is bad is known by its rank only
    assert np.abs(mean - truth)[good].max() < 0.15 * truth.std()
    assert (np.abs(mean - truth) < 3.0 * sd + 0.02 * truth.std()).mean() > 0.85


def test_what_is_to_be_large_is_predicted_with_its_own_sign() -> None:
    points = drawn(NUMBERS, 30)
    up = predict(board(NUMBERS, points, [5.0 - bowl(p) for p in points], direction="maximize"), NUMBERS, points[3])
    down = predict(board(NUMBERS, points, [bowl(p) for p in points]), NUMBERS, points[3])
    assert up.mean == pytest.approx(5.0 - down.mean, abs=1e-6)
    assert up.sd == pytest.approx(down.sd, rel=1e-3)


def test_it_is_less_sure_far_from_the_trials() -> None:
    points = [{"x": float(x), "y": float(y)} for x in np.linspace(-5, 0, 5) for y in np.linspace(0, 5, 5)]
    rough = [float(np.sin(2 * point["x"]) + np.cos(1.5 * point["y"])) for point in points]
    near, far = posterior(board(NUMBERS, points, rough), NUMBERS).predict([points[12], {"x": 10.0, "y": 15.0}])
    assert far.sd > 3.0 * near.sd


@pytest.mark.parametrize("space", [NUMBERS, MIXED], ids=["numbers", "mixed"])
@pytest.mark.parametrize("n", [8, 25, 60])
def test_it_says_of_a_suggestion_what_the_sampler_said(space: Space, n: int) -> None:
    points = drawn(space, n, seed=n)
    values = [sum(float(v) ** 2 if isinstance(v, float | int) else len(v) for v in p.values()) for p in points]
    history = History(("maximize",), "study", space)
    sampler = BayesianSampler(seed=3, space=space)
    for number, (point, value) in enumerate(zip(points, values, strict=True)):
        trial = frozen(number, values=[value])
        trial.params, trial.distributions = dict(point), {k: to_distributions(space)[k] for k in point}
        history.update([trial])
    found = suggest(history, n, sampler, 3, space=space)
    why = found.system_attrs[Attr.WHY]
    fits = {name: (np.array(thetas), count) for name, (thetas, count) in why["fits"].items()}
    seen = board(space, points, values, direction="maximize")
    said = predict(seen, space, found.params, fits=fits)
    assert said.mean == pytest.approx(why["mean"], rel=1e-6, abs=1e-9)
    assert said.sd == pytest.approx(why["sd"], rel=1e-6)
    without = predict(seen, space, found.params)
    assert abs(without.mean - why["mean"]) < 0.5 * float(np.std(values))


# -- feasibility, minutes ----------------------------------------------------------------------------------------------


def test_a_known_border_divides_the_probable_from_the_improbable() -> None:
    points = drawn(NUMBERS, 60)
    slack = np.array([point["x"] - 2.5 for point in points])
    seen = board(NUMBERS, points, [bowl(p) for p in points], excess=slack)
    details = Details({row: {"size": float(value)} for row, value in enumerate(slack)})
    inside, on, outside = posterior(seen, NUMBERS, details).predict([{"x": x, "y": 7.0} for x in (-2.0, 2.5, 7.0)])
    assert inside.feasible is not None and inside.feasible > 0.98
    assert on.feasible is not None and 0.1 < on.feasible < 0.9
    assert outside.feasible is not None and outside.feasible < 0.02


def test_failures_by_the_trials_own_fault_lower_the_chance_and_lost_machines_do_not() -> None:
    points = drawn(NUMBERS, 40)
    is_bad = [point["y"] > 10 for point in points]
    values = [np.nan if bad else bowl(point) for bad, point in zip(is_bad, points, strict=True)]
    states = [TrialState.FAILED if bad else TrialState.COMPLETE for bad in is_bad]

    def chance(kind: FailureKind) -> float | None:
        failures = {row: kind for row, bad in enumerate(is_bad) if bad}
        seen = board(NUMBERS, points, values, states=states, failures=failures)
        return predict(seen, NUMBERS, {"x": 0.0, "y": 14.0}).feasible

    assert (chance(FailureKind.OUT_OF_MEMORY) or 1.0) < 0.2
    assert chance(FailureKind.LOST) is None


def test_minutes_follow_what_makes_trials_slow_and_a_trial_that_waited_says_nothing() -> None:
    points = drawn(NUMBERS, 40)
    start = np.full(40, 1e9)
    seconds = np.array([60.0 * 2.0 ** (point["y"] / 5.0) for point in points])
    attempt = np.ones(40, dtype=np.int16)
    attempt[::10], seconds[::10] = 2, 1e6
    seen = board(NUMBERS, points, [bowl(p) for p in points], started=start, finished=start + seconds, attempt=attempt)
    short, long = posterior(seen, NUMBERS).predict([{"x": 0.0, "y": 0.0}, {"x": 0.0, "y": 15.0}])
    assert short.minutes == pytest.approx(1.0, rel=0.2)
    assert long.minutes == pytest.approx(8.0, rel=0.2)


def test_an_invalid_trial_counts_for_nothing() -> None:
    points = drawn(NUMBERS, 20)
    values = np.array([bowl(p) for p in points])
    wrong = values.copy()
    wrong[7] = -100.0
    invalid = np.arange(20) == 7
    marked = predict(board(NUMBERS, points, wrong, invalid=invalid), NUMBERS, points[7])
    without = predict(board(NUMBERS, points[:7] + points[8:], np.delete(values, 7)), NUMBERS, points[7])
    assert marked.mean == pytest.approx(without.mean)


# -- curves, several metrics, other spaces -----------------------------------------------------------------------------


def test_curves_of_pruned_trials_are_seen_as_the_sampler_sees_them() -> None:
    points = drawn(NUMBERS, 40)
    final = np.array([bowl(p) for p in points])
    pruned = np.array([p["x"] > 4 for p in points])
    states = [TrialState.PRUNED if bad else TrialState.COMPLETE for bad in pruned]
    steps = np.array([1, 3, 9])
    curves = [Curve(steps, value + 1.0 / steps - 1.0 / 9.0) for value in final]
    seen = board(
        NUMBERS,
        points,
        np.where(pruned, np.nan, final),
        states=states,
        step=np.where(pruned, 3, -1),
        last_value=np.where(pruned, [curve.values[1] for curve in curves], np.nan),
    )
    rows = representatives(seen, Encoding.of(NUMBERS))
    wanted = judges(seen, rows)
    assert wanted.tolist() == np.flatnonzero(~pruned).tolist()
    details = Details(curves={number: curves[number] for number in wanted.tolist()})

    trials = []
    for number, point in enumerate(points):
        state = OptunaState.PRUNED if pruned[number] else OptunaState.COMPLETE
        reported = curves[number].values[: 2 if pruned[number] else 3]
        values = None if pruned[number] else [final[number]]
        trial = frozen(number, state=state, values=values, reports=dict(zip(steps.tolist(), reported, strict=False)))
        trial.params, trial.distributions = dict(point), to_distributions(NUMBERS)
        trials.append(trial)
    theirs = Reader(NUMBERS).read(trials, [StudyDirection.MINIMIZE])
    assert theirs is not None
    ours = observations(seen, rows, Encoding.of(NUMBERS), details)
    assert np.allclose(ours.x, theirs.x) and np.allclose(ours.values, theirs.values)
    mine, yours = curve_rows(ours), curve_rows(theirs)
    assert len(mine) > 10
    assert np.allclose(mine.x, yours.x) and np.allclose(mine.level, yours.level)
    assert np.allclose(mine.values, yours.values)
    assert "objective and curves" in posterior(seen, NUMBERS, details).fits


def test_of_several_metrics_the_first_is_predicted() -> None:
    points = drawn(NUMBERS, 30)
    values = np.array([[bowl(p), 100.0 - p["x"]] for p in points])
    told = predict(board(NUMBERS, points, values), NUMBERS, points[0])
    assert told.mean == pytest.approx(values[0, 0], abs=0.1 * values[:, 0].std())


def test_a_space_that_nobody_declared_is_learnt_with_its_conditions() -> None:
    points = drawn(BRANCHES, 80)
    seen = board(BRANCHES, points, [p["lr"] + p.get("momentum", 0.0) for p in points])
    found = learnt_space(seen, to_distributions(BRANCHES))
    assert found is not None
    assert dict(found) == dict(BRANCHES)
    assert learnt_space(board(BRANCHES, [], []), to_distributions(BRANCHES)) is None


# -- surfaces ----------------------------------------------------------------------------------------------------------


def test_a_line_and_a_surface_are_the_predictions_along_them() -> None:
    points = drawn(NUMBERS, 30)
    beliefs = posterior(board(NUMBERS, points, [bowl(p) for p in points]), NUMBERS)
    line = beliefs.surface({"y": 3.0}, "x", size=5)
    assert line.axes == ((-5.0, -1.25, 2.5, 6.25, 10.0),)
    told = beliefs.predict([{"x": x, "y": 3.0} for x in line.axes[0]])
    assert line.mean == pytest.approx([p.mean for p in told])
    assert line.sd == pytest.approx([p.sd for p in told])
    plane = beliefs.surface({}, ("x", "y"), size=4)
    assert plane.mean.shape == plane.sd.shape == (4, 4)
    corner = beliefs.predict([{"x": plane.axes[0][1], "y": plane.axes[1][3]}])[0]
    assert plane.mean[1, 3] == pytest.approx(corner.mean)


def test_axes_of_choices_and_of_few_whole_numbers_have_all_values_and_log_scales_rise_evenly() -> None:
    points = drawn(MIXED, 30)
    beliefs = posterior(board(MIXED, points, [p["lr"] for p in points]), MIXED)
    first = points[0]
    assert beliefs.surface(first, "optimizer").axes == (("sgd", "adamw"),)
    assert beliefs.surface(first, "blocks").axes == ((1, 2, 3, 4),)
    lr = np.log(beliefs.surface(first, "lr", size=7).axes[0])
    assert np.allclose(np.diff(lr), np.diff(lr)[0])


def test_what_a_condition_switches_on_along_the_way_has_the_given_value() -> None:
    points = drawn(BRANCHES, 40)
    seen = board(BRANCHES, points, [p["lr"] + p.get("momentum", 5.0) for p in points])
    beliefs = posterior(seen, BRANCHES)
    line = beliefs.surface({"optimizer": "adamw", "lr": 0.01, "momentum": 0.9}, "optimizer")
    told = beliefs.predict([{"optimizer": "sgd", "lr": 0.01, "momentum": 0.9}, {"optimizer": "adamw", "lr": 0.01}])
    assert line.mean == pytest.approx([p.mean for p in told])


@pytest.mark.parametrize(
    ("names", "fixed"),
    [("nothing", {}), (("lr", "lr"), {}), (("lr", "momentum", "optimizer"), {}), ("momentum", {"optimizer": "adamw"})],
)
def test_a_surface_over_what_cannot_be_is_refused(names: Any, fixed: Mapping[str, Any]) -> None:
    points = drawn(BRANCHES, 20)
    beliefs = posterior(board(BRANCHES, points, [p["lr"] for p in points]), BRANCHES)
    with pytest.raises(InvalidInput) as caught:
        beliefs.surface(fixed, names)
    assert caught.value.field == "names"


# -- points that cannot be ---------------------------------------------------------------------------------------------


def test_a_parameter_that_is_switched_off_counts_for_nothing_whatever_its_value() -> None:
    points = drawn(BRANCHES, 30)
    beliefs = posterior(board(BRANCHES, points, [p["lr"] for p in points]), BRANCHES)
    off = {"optimizer": "adamw", "lr": 0.01}
    with_it, absurd, without = beliefs.predict([{**off, "momentum": 0.5}, {**off, "momentum": "fast"}, off])
    assert with_it.mean == pytest.approx(without.mean)
    assert absurd.mean == pytest.approx(without.mean)


@pytest.mark.parametrize(
    ("point", "field"),
    [
        ({"optimizer": "sgd", "lr": 0.01}, "momentum"),
        ({"optimizer": "sgd", "lr": 7.0, "momentum": 0.5}, "lr"),
        ({"optimizer": "adam", "lr": 0.01}, "optimizer"),
        ({"optimizer": "adamw", "lr": float("nan")}, "lr"),
        ({"optimizer": "adamw", "lr": 0.01, "width": 3}, "width"),
    ],
)
def test_a_wrong_point_is_refused_by_the_name_of_its_parameter(point: Mapping[str, Any], field: str) -> None:
    points = drawn(BRANCHES, 10)
    beliefs = posterior(board(BRANCHES, points, [p["lr"] for p in points]), BRANCHES)
    with pytest.raises(InvalidInput, match=field) as caught:
        beliefs.predict([point])
    assert caught.value.field == f"params[{field!r}]"


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_results_are_refused_with_how_many_it_takes(n: int) -> None:
    points = drawn(NUMBERS, n)
    with pytest.raises(InvalidInput, match=f"{n} complete trials, a prediction needs 5"):
        require(board(NUMBERS, points, [bowl(p) for p in points]))


def test_equal_results_are_predicted_as_they_are() -> None:
    points = drawn(NUMBERS, 12)
    told = predict(board(NUMBERS, points, [0.25] * 12), NUMBERS, points[0])
    assert told.mean == pytest.approx(0.25)
    assert np.isfinite(told.sd)


# -- long studies ------------------------------------------------------------------------------------------------------


def test_of_a_long_study_the_best_the_near_and_a_spread_are_seen() -> None:
    points = drawn(NUMBERS, 3000)
    noise = 0.05 * np.random.default_rng(0).standard_normal(3000)
    values = np.array([bowl(p) for p in points]) + noise
    seen = board(NUMBERS, points, values)
    rows = representatives(seen, Encoding.of(NUMBERS))
    assert len(rows) == len(set(rows.tolist())) == MOST_ROWS
    assert set(seen.ranking[:60].tolist()) <= set(rows.tolist())
    assert int(seen.ranking[-1]) in rows  # the worst too
    best = int(seen.ranking[0])
    away = np.array([(p["x"] - points[best]["x"]) ** 2 + (p["y"] - points[best]["y"]) ** 2 for p in points])
    assert set(np.argsort(away)[:60].tolist()) <= set(rows.tolist())  # whatever they came to
    told = predict(seen, NUMBERS, points[best])
    truth = bowl(points[best])
    assert abs(told.mean - truth) < 0.5 * abs(values[best] - truth)  # less lucky than the result


def test_of_infeasible_trials_none_is_among_the_best() -> None:
    points = drawn(NUMBERS, 600)
    excess = np.where(np.arange(600) % 2 == 0, 1.0, -1.0)
    values = np.where(excess > 0, -1.0, [bowl(p) for p in points])
    rows = representatives(board(NUMBERS, points, values, excess=excess), Encoding.of(NUMBERS))
    assert (excess[rows] < 0).sum() > MOST_ROWS // 2


def test_the_same_board_is_believed_the_same() -> None:
    points = drawn(MIXED, 150)
    seen = board(MIXED, points, [p["lr"] for p in points])
    asked: Sequence[Mapping[str, Any]] = points[:5]
    assert posterior(seen, MIXED).predict(asked) == posterior(seen, MIXED).predict(asked)


def test_hyperparameters_that_are_given_are_taken_as_they_are() -> None:
    points = drawn(NUMBERS, 120)
    seen = board(NUMBERS, points, [bowl(p) for p in points])
    first = posterior(seen, NUMBERS)
    again = posterior(seen, NUMBERS, fits=first.fits)
    assert all(np.array_equal(again.fits[name][0], first.fits[name][0]) for name in first.fits)
    assert again.predict(points[:3]) == first.predict(points[:3])
