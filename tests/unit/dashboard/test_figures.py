"""Figures are functions of a board: what they draw, what they leave out and say so, and that text stays text."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import plotly.graph_objects as go
import plotly.io
import pytest

from automl.board import STATES, Board, Column, Curve, Segment
from automl.core import TrialState
from dashboard.figures import parameters, reasons, timeline
from dashboard.figures.common import MOST, Figure, axes, robust_limits, spread
from dashboard.figures.curves import chosen, learning_curves, overlaid
from dashboard.figures.pareto import pareto
from dashboard.figures.progress import View, best_line, progress
from dashboard.figures.structure import structure
from dashboard.theme import DARK, LIGHT
from tests.unit.dashboard.boards import board, record, with_states


def trace(figure: Figure, name: str) -> dict[str, Any]:
    return next(item for item in figure["data"] if item.get("name") == name)


def names(figure: Figure) -> list[str]:
    return [item["name"] for item in figure["data"] if item.get("showlegend", True) and "name" in item]


def curves_of(base: Board, rows: list[int], steps: int = 9) -> dict[int, Curve]:
    return {row: Curve(np.arange(1, steps + 1), np.linspace(1.0, base.values[row, 0], steps)) for row in rows}


def all_figures(base: Board) -> list[Figure]:
    shown = axes(base)
    rows = parameters.shown_rows(base, 100)
    return [
        progress(base, LIGHT).figure,
        progress(base, DARK, View(by_time=True, log=True, now=9999.0)).figure,
        learning_curves(base, curves_of(base, [0, 1, 2]), LIGHT),
        overlaid(base, curves_of(base, [0, 1]), [0, 1], LIGHT),
        parameters.importance_bars({"lr": 0.7, "<b>$x$</b>": 0.3}, LIGHT),
        *(parameters.slice_figure(base, axis, rows, LIGHT) for axis in shown),
        parameters.contour(base, shown[0], shown[2], LIGHT),
        parameters.parallel(base, shown, 20, DARK),
        reasons.predicted_and_came(base, LIGHT),
        timeline.timeline([Segment("alpha-0", 0, 1, 0.0, 5.0, "complete")], LIGHT, 10.0),
    ]


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("n", [3, 60])
def test_every_figure_is_one_that_plotly_accepts(n: int, declared: bool) -> None:
    for figure in all_figures(board(n, study=record(declared=declared))):
        json.loads(plotly.io.to_json(go.Figure(figure)))  # go.Figure raises for a field that plotly does not have


def test_nothing_of_a_users_text_is_markup_in_a_figure() -> None:
    for figure in all_figures(board(60)):
        if figure["data"][0]["type"] == "parcoords":
            continue  # its ticks are plain text, and must not be escaped twice
        text = plotly.io.to_json(go.Figure(figure)).replace("\\u003c", "<").replace("\\u003e", ">")
        assert "<script>" not in text
        assert "<b>$x$" not in text


def test_the_best_so_far_is_every_improvement_in_the_order_of_the_axis() -> None:
    base = board(5, values=np.array([[3.0], [5.0], [2.0], [2.0], [1.0]]))
    rows, where, values = best_line(base, np.arange(5.0))
    assert rows.tolist() == [0, 2, 4]
    assert where.tolist() == [0.0, 2.0, 4.0]
    assert values.tolist() == [3.0, 2.0, 1.0]


def test_what_does_not_count_is_never_the_best_so_far() -> None:
    base = board(
        5,
        values=np.array([[3.0], [-9.0], [2.0], [-8.0], [1.0]]),
        invalid=np.array([0, 1, 0, 0, 0], dtype=bool),
        excess=np.array([-1.0, -1.0, -1.0, 2.0, -1.0]),
    )
    assert best_line(base, np.arange(5.0))[0].tolist() == [0, 2, 4]


def test_states_are_told_apart_by_their_marks() -> None:
    base = with_states(board(20), {3: TrialState.RUNNING, 4: TrialState.PRUNED, 5: TrialState.FAILED})
    excess, invalid = np.full(20, -1.0), np.zeros(20, dtype=bool)
    excess[6], invalid[7] = 1.0, True
    drawn = progress(base.replaced(excess=excess, invalid=invalid), LIGHT).figure
    symbols = {name: trace(drawn, name)["marker"]["symbol"] for name in names(drawn) if "marker" in trace(drawn, name)}
    assert len(set(symbols.values())) == len(symbols) == 6
    assert trace(drawn, "running")["customdata"].tolist() == [3]
    assert trace(drawn, "running")["y"].tolist() == [base.last_value[3]]
    assert trace(drawn, "violates a constraint")["marker"]["symbol"] == "circle-open"
    assert trace(drawn, "invalid")["customdata"].tolist() == [7]
    assert trace(drawn, "failed")["customdata"].tolist() == [5]


@pytest.mark.parametrize(("direction", "far", "side"), [("min", 1e6, "top"), ("max", -1e6, "bottom")])
def test_outliers_do_not_rule_the_axis_and_are_counted(direction: str, far: float, side: str) -> None:
    values = np.linspace(1.0, 2.0, 40)[:, None]
    values[[4, 9, 20]] = far
    drawn = progress(board(40, study=record({"m": direction}), values=values), LIGHT)
    low, high = drawn.figure["layout"]["yaxis"]["range"]
    assert 0.5 < low < 1.0
    assert 2.0 < high < 3.0
    assert any(f"3 trials are beyond the {side}" in note for note in drawn.notes)


def test_an_axis_without_outliers_shows_all() -> None:
    drawn = progress(board(60), LIGHT)
    low, high = drawn.figure["layout"]["yaxis"]["range"]
    values = board(60).values
    assert low < values.min() <= values.max() < high
    assert not any("beyond" in note for note in drawn.notes)


def test_the_best_value_is_always_in_sight_however_far_it_is() -> None:
    values = np.append(np.full(50, 5.0), -1e5)
    low, high = robust_limits(values, 1.0)
    assert low < -1e5
    assert high > 5.0


def test_of_fifty_thousand_trials_some_fifteen_hundred_are_drawn_and_a_note_says_so() -> None:
    base = with_states(board(50_000), {49_998: TrialState.RUNNING, 49_999: TrialState.RUNNING})
    drawn = progress(base, LIGHT)
    points = [t for t in drawn.figure["data"] if t.get("mode") == "markers"]
    shown = np.concatenate([t["customdata"] for t in points])
    assert len(shown) <= MOST + 10
    assert set(best_line(base, np.arange(50_000.0))[0]) <= set(shown.tolist())
    assert {49_998, 49_999} <= set(shown.tolist())
    assert any("of 50,000 trials are drawn" in note for note in drawn.notes)


@pytest.mark.parametrize(("direction", "sign"), [("min", 1.0), ("max", -1.0)])
def test_the_forecast_goes_on_from_the_best_to_the_better_side(direction: str, sign: float) -> None:
    base = board(30, study=record({"m": direction}))
    drawn = progress(base, LIGHT, forecast={"trials": 20, "gain": 0.02, "sd": 0.05, "p_margin": 0.4})
    best = base.values[base.best, 0]
    band = trace(drawn.figure, "forecast of 20 more")
    assert band["x"].tolist() == [29.0, 49.0]
    assert band["y"] == pytest.approx([best, best - sign * 0.02])
    low, high = drawn.figure["layout"]["yaxis"]["range"]
    assert low <= best - sign * 0.07 <= high
    near = next(t for t in drawn.figure["data"] if t.get("showlegend") is False)
    assert near["y"].tolist() == [best, best]  # never worse than what is there


def test_a_log_axis_is_only_for_what_has_a_logarithm() -> None:
    base = board(10, values=np.linspace(-1.0, 1.0, 10)[:, None])
    assert progress(base, LIGHT, View(log=True)).figure["layout"]["yaxis"]["type"] == "linear"
    assert progress(board(10), LIGHT, View(log=True)).figure["layout"]["yaxis"]["type"] == "log"


def test_by_time_a_running_trial_is_now() -> None:
    base = with_states(board(10), {9: TrialState.RUNNING})
    drawn = progress(base, LIGHT, View(by_time=True, now=1001.0 + 600.0)).figure
    assert trace(drawn, "running")["x"].tolist() == [10.0]
    assert drawn["layout"]["xaxis"]["title"]["text"] == "minutes since the start"


def test_a_handful_of_trials_or_steps_is_marked_one_by_one() -> None:
    def mark(figure: Figure) -> object:
        return figure["layout"]["xaxis"].get("dtick")

    few, many = board(4), board(60)
    assert [mark(progress(base, LIGHT).figure) for base in (few, many)] == [1, None]
    assert mark(progress(few, LIGHT, View(by_time=True, now=9999.0)).figure) is None
    for draw in (learning_curves, lambda base, curves, colours: overlaid(base, curves, [0, 1], colours)):
        assert [mark(draw(few, curves_of(few, [0, 1], steps), LIGHT)) for steps in (9, 30)] == [1, None]


def test_few_curves_are_chosen_the_best_and_the_running_ones_among_them() -> None:
    base = with_states(board(5000), {4998: TrialState.RUNNING, 4999: TrialState.RUNNING})
    top, others = chosen(base)
    assert top.tolist() == base.ranking[:10].tolist()
    assert len(others) == 60
    assert {4998, 4999} <= set(others.tolist())
    assert not set(top.tolist()) & set(others.tolist())


def test_the_best_curves_have_colours_and_the_pruned_ones_end_with_a_mark() -> None:
    base = with_states(board(30), {2: TrialState.PRUNED})
    top, _ = chosen(base)
    drawn = learning_curves(base, curves_of(base, [*map(int, top), 2]), LIGHT)
    colours = [(t["line"]["color"], t["line"]["dash"]) for t in drawn["data"] if str(t["name"]).startswith("trial ")]
    assert len(set(colours)) == 10
    ends = next(t for t in drawn["data"] if t["name"] == "pruned" and t["mode"] == "markers")
    assert ends["x"].tolist() == [9.0]


def test_by_time_the_steps_of_a_trial_fill_its_time() -> None:
    base = board(3)
    drawn = learning_curves(base, curves_of(base, [0, 1, 2], steps=4), LIGHT, View(by_time=True))
    assert drawn["data"][0]["x"].tolist() == pytest.approx([2.0, 4.0, 6.0, 8.0])


def test_a_slice_has_a_log_axis_where_one_is_declared_and_strips_for_choices() -> None:
    base = board(60)
    by_name = {axis.name: axis for axis in axes(base)}
    lr = parameters.slice_figure(base, by_name["lr"], parameters.shown_rows(base, 100), LIGHT)
    assert lr["data"][0]["x"] == pytest.approx(np.log10(base.params["lr"].values[lr["data"][0]["customdata"]]))
    assert "0.01" in lr["layout"]["xaxis"]["ticktext"]
    strips = parameters.slice_figure(base, by_name["optimizer"], parameters.shown_rows(base, 100), LIGHT)
    places = strips["data"][0]["x"]
    assert (np.abs(places - np.round(places)) <= 0.3 + 1e-9).all()
    assert len(np.unique(places)) > 30
    assert strips["layout"]["xaxis"]["ticktext"] == ["sgd", "adamw"]


def test_an_undeclared_parameter_over_many_decades_is_seen_on_a_log_axis() -> None:
    base = board(
        50,
        study=record(declared=False),
        params={"a": Column(np.logspace(-5, 0, 50)), "b": Column(np.linspace(1.0, 4.0, 50))},
    )
    assert [axis.is_log for axis in axes(base)] == [True, False]


def test_the_better_a_trial_the_stronger_its_colour() -> None:
    base = board(60)
    drawn = parameters.slice_figure(base, axes(base)[0], parameters.shown_rows(base, 100), LIGHT)["data"][0]
    assert drawn["customdata"][-1] == base.best  # drawn last, on top
    assert drawn["marker"]["color"][-1] == 1.0


def test_a_contour_follows_the_trials_and_is_empty_far_from_them() -> None:
    n = 400
    rng = np.random.default_rng(0)
    x, y = rng.uniform(1, 1.5, n), rng.uniform(1, 2, n)
    base = board(
        n,
        study=record(declared=False),
        values=(x + 10.0 * y)[:, None],
        params={"x": Column(np.append(x[:-1], 2.0)), "y": Column(y)},
    )
    surface = parameters.contour(base, axes(base)[0], axes(base)[1], LIGHT)["data"][0]["z"]
    assert np.isnan(surface[:, 35]).all()
    assert np.nanmean(surface[-5:, :20]) > np.nanmean(surface[:5, :20]) + 5.0


def test_parallel_coordinates_say_off_where_a_condition_switches_a_parameter_off() -> None:
    base = board(60)
    drawn = parameters.parallel(base, axes(base), 20, LIGHT)["data"][0]
    momentum = next(d for d in drawn["dimensions"] if d["label"] == "momentum")
    assert momentum["ticktext"][0] == "off"
    off = np.isnan(base.params["momentum"].values[base.ranking[:20][::-1]])
    assert ((momentum["values"] == momentum["tickvals"][0]) == off).all()
    assert all(len(d["values"]) == 20 and np.isfinite(d["values"]).all() for d in drawn["dimensions"])


def test_the_tree_hangs_parameters_under_the_values_that_switch_them_on() -> None:
    html = structure(board(60))
    optimizer, value, momentum = (html.index(text) for text in ("<b>optimizer</b>", "if sgd", "<b>momentum</b>"))
    assert optimizer < value < momentum
    assert "only if optimizer = sgd" in html  # the further parent of the last one
    assert "believed: 0.01 ± 15 % of the range" in html
    assert "<script>" not in html
    assert "<b>$x$" not in html
    assert html.count("am-hist") == 5


def test_the_tree_of_a_study_without_trials_shows_its_space_alone() -> None:
    html = structure(board(0))
    assert "<b>lr</b>" in html
    assert "am-hist" not in html
    assert structure(board(0, study=record(declared=False), params={})) == ""


def test_the_front_is_in_front_and_what_violates_constraints_is_marked() -> None:
    excess = np.full(60, -1.0)
    excess[:5] = 1.0
    base = board(60, study=record({"loss": "min", "accuracy": "max"}), excess=excess)
    drawn = pareto(base, (0, 1), LIGHT)
    assert trace(drawn, "front")["customdata"].tolist() == base.front.tolist()
    assert set(trace(drawn, "violates a constraint")["customdata"].tolist()) == set(range(5))
    assert drawn["data"][-1]["name"] == "front"
    go.Figure(drawn)


def segments() -> list[Segment]:
    return [
        Segment("a-0", 0, 1, 0.0, 40.0, "complete"),
        Segment("a-0", 1, 1, 60.0, None, None),
        Segment("a-1", 2, 1, 0.0, 50.0, "lost"),
        Segment("a-1", 2, 2, 50.0, 90.0, "failed"),
        Segment("b-0", 3, 1, 50.0, 75.0, "preempted"),
    ]


def test_idle_time_is_what_no_attempt_covers() -> None:
    assert timeline.idle_shares(segments(), 100.0) == pytest.approx({"a-0": 0.2, "a-1": 0.1, "b-0": 0.5})
    doubled = [*segments(), Segment("a-0", 9, 1, 10.0, 30.0, "complete")]  # inside of another: counted once
    assert timeline.idle_shares(doubled, 100.0)["a-0"] == pytest.approx(0.2)


def test_the_timeline_tells_ends_apart_and_marks_later_attempts() -> None:
    drawn = timeline.timeline(segments(), LIGHT, 100.0, offset_s=3600.0)
    assert set(names(drawn)) == {
        "complete", "running", "tried again", "failed", "preempted", "second or later attempt"
    }  # fmt: skip
    running = trace(drawn, "running")
    assert running["base"].tolist() == [1e3 * (60.0 + 3600.0)]
    assert running["x"].tolist() == [1e3 * 40.0]
    assert trace(drawn, "second or later attempt")["customdata"].tolist() == [2]
    assert [note["text"] for note in drawn["layout"]["annotations"]] == ["idle 20 %", "idle 10 %", "idle 50 %"]


def test_calibration_counts_what_came_within_one_and_two_deviations() -> None:
    mean, sd = np.zeros(10), np.ones(10)
    values = np.array([0.1, -0.5, 0.9, 1.5, -1.9, 2.5, 0.0, 0.0, 0.0, 0.0])[:, None]
    mean[9] = np.nan
    base = with_states(board(10, values=values, mean=mean, sd=sd), {8: TrialState.PRUNED})
    found = reasons.calibration(base)
    assert found == reasons.Calibration(8, 5 / 8, 7 / 8)
    assert reasons.calibration(board(3, mean=np.full(3, np.nan))) is None


def test_a_sample_is_even_and_keeps_both_ends() -> None:
    rows = spread(np.arange(1000), 11)
    assert rows.tolist()[0] == 0
    assert rows.tolist()[-1] == 999
    assert set(np.diff(rows)) <= {99, 100}
    assert spread(np.arange(5), 11).tolist() == [0, 1, 2, 3, 4]


def test_trials_that_only_wait_draw_nothing() -> None:
    base = board(3)
    waiting = base.replaced(
        state=np.full(3, STATES.index(TrialState.WAITING), dtype=np.int8),
        values=np.full((3, 1), np.nan),
        last_value=np.full(3, np.nan),
    )
    assert progress(waiting, LIGHT).figure["data"] == []
