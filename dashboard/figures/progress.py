"""Progress: the best value so far, the trials that made it, and what more of them would bring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from automl.board import Board
from automl.core import TrialState
from automl.display import format_value
from dashboard.figures import style
from dashboard.figures.common import (
    MOST,
    Figure,
    axis_range,
    elapsed_unit,
    hover_texts,
    metric_values,
    plain_text,
    robust_limits,
    spread,
    whole_axis,
)
from dashboard.theme import Palette

Line = tuple[np.ndarray, np.ndarray, np.ndarray]

#: Results that alone decide what part of the axis is shown.
_ENOUGH = 5

_UNFINISHED = (TrialState.RUNNING, TrialState.PAUSED)


@dataclass(frozen=True)
class View:
    """How a reader wants to see it."""

    metric: int = 0  #: its place among the study's
    by_time: bool = False  #: since the first trial began; else by number
    log: bool = False
    now: float | None = None  #: seconds since the epoch: where running trials are in time


PLAIN = View()


@dataclass(frozen=True)
class Drawn:
    """A figure, and what has to be said below it."""

    figure: Figure
    notes: tuple[str, ...] = ()


def best_line(board: Board, x: np.ndarray, metric: int = 0) -> Line:
    """Rows (k,) that improved the metric, in the order of `x` (n,), where (k,) on `x`, and their values (k,)."""
    rows = np.flatnonzero(board.counted & board.feasible & ~np.isnan(board.values[:, metric]) & ~np.isnan(x))
    rows = rows[np.argsort(x[rows], kind="stable")]
    costs = board.values[rows, metric] * board.signs[metric]
    if not len(rows):
        return rows, x[rows], costs
    better = np.append(True, costs[1:] < np.minimum.accumulate(costs)[:-1])
    rows = rows[better]
    return rows, x[rows], board.values[rows, metric]


def can_be_log(board: Board, metric: int = 0) -> bool:
    """Whether all that would be drawn has a logarithm."""
    shown = metric_values(board, metric)
    shown = shown[np.isfinite(shown)]
    return bool(len(shown)) and bool((shown > 0).all())


def progress(board: Board, colours: Palette, view: View = PLAIN, forecast: Mapping[str, Any] | None = None) -> Drawn:
    """The values of all trials with the best so far. `forecast` is the engine's, and speaks of the first metric."""
    metric = view.metric
    log = view.log and can_be_log(board, metric)
    x, unit = _positions(board, view)
    values = metric_values(board, metric)
    at = np.isfinite(values) & np.isfinite(x)
    sign = float(board.signs[metric])
    line = best_line(board, x, metric)
    kinds = _kinds(board, colours, at)
    # A pruned trial's value is of an early step: it says little of where the results are.
    results = at & board.counted
    limits = robust_limits(values[results if results.sum() >= _ENOUGH else at & ~board.invalid], sign, log)
    traces, drawn = _points(board, kinds, x, values, line[0])
    notes = []
    total = sum(len(rows) for _, rows, _ in kinds)
    if drawn < total:
        notes.append(f"{drawn:,} of {total:,} trials are drawn: all improvements, all running ones, an even sample.")
    beyond = int((sign * values[at & ~board.invalid] > max(sign * limits[0], sign * limits[1])).sum())
    if beyond:
        side = "top" if sign > 0 else "bottom"
        notes.append(f"{beyond:,} {'trial is' if beyond == 1 else 'trials are'} beyond the {side}.")
    last = float(x[at].max()) if at.any() else 0.0
    if len(line[0]):
        traces.append(_best_so_far(line, last, colours))
    if len(line[0]) and forecast and metric == 0:
        ahead = _forecast_reach(forecast, at, last, view.by_time)
        best = float(line[2][-1])
        traces += _forecast_band(forecast, best, sign, (last, last + ahead), log, colours)
        reached = best - sign * (forecast["gain"] + forecast["sd"])
        if not log or reached > 0:
            limits = min(limits[0], reached), max(limits[1], reached)
        notes.append(_forecast_words(forecast, sign, board.study.metric_names[0]))
    failed, rug = _failed(board, x, colours)
    layout = style.layout(
        colours,
        420,
        xaxis=({"title": {"text": unit}} if view.by_time else whole_axis(unit, traces))
        | {"showgrid": False, "rangemode": "tozero"},
        yaxis={
            "title": {"text": plain_text(board.study.metric_names[metric], 30)},
            "range": axis_range(limits, log),
            "type": "log" if log else "linear",
        },
    )
    if log:
        layout["yaxis"] |= {"dtick": "D2" if limits[1] / limits[0] < 100 else 1}
    if failed is not None:
        traces.append(failed)
        layout["yaxis"]["domain"] = [0.06, 1.0]
        layout["yaxis2"] = rug
        layout["xaxis"]["anchor"] = "y2"
    if len(line[0]):
        layout["annotations"] = [_best_label(line, sign, log, colours)]
    return Drawn({"data": traces, "layout": layout}, tuple(notes))


def _positions(board: Board, view: View) -> tuple[np.ndarray, str]:
    """(n,) where the trials are, and the title of the axis."""
    if not view.by_time:
        return np.arange(len(board), dtype=float), "trial"
    begun = board.started[~np.isnan(board.started)]
    if not len(begun):
        return np.full(len(board), np.nan), "minutes since the start"
    ends = np.where(board.is_in(*_UNFINISHED), np.nan if view.now is None else view.now, board.finished)
    seconds = ends - begun.min()
    size, name = elapsed_unit(float(np.nanmax(seconds, initial=0.0)))
    return seconds / size, f"{name} since the start"


def _kinds(board: Board, colours: Palette, at: np.ndarray) -> list[tuple[str, np.ndarray, Figure]]:
    """Name, rows and marker of each kind of trial that is there, those on top last."""
    complete = at & board.is_in(TrialState.COMPLETE) & ~board.invalid
    kinds = [
        ("pruned", at & board.is_in(TrialState.PRUNED) & ~board.invalid, colours.pruned, "triangle-down", 0.4),
        ("violates a constraint", complete & ~board.feasible, colours.complete, "circle-open", 0.8),
        ("complete", complete & board.feasible, colours.complete, "circle", 0.65),
        ("running", at & board.is_in(TrialState.RUNNING), colours.running, "diamond", 1.0),
        ("paused", at & board.is_in(TrialState.PAUSED), colours.paused, "square", 0.9),
        ("invalid", at & board.invalid, colours.bad, "x-thin-open", 0.9),
    ]
    return [
        (name, np.flatnonzero(mask), {"color": shade, "symbol": symbol, "opacity": opacity})
        for name, mask, shade, symbol, opacity in kinds
        if mask.any()
    ]


def _points(
    board: Board, kinds: list[tuple[str, np.ndarray, Figure]], x: np.ndarray, values: np.ndarray, improved: np.ndarray
) -> tuple[list[Figure], int]:
    total = sum(len(rows) for _, rows, _ in kinds)
    always = np.zeros(len(board), dtype=bool)
    always[improved] = True
    always |= board.is_in(TrialState.RUNNING, TrialState.PAUSED) | board.invalid
    share = min(1.0, max(MOST - int(always.sum()), 0) / max(total, 1))
    traces = []
    drawn = 0
    for name, rows, marker in kinds:
        must, rest = rows[always[rows]], rows[~always[rows]]
        if share < 1.0:
            rest = spread(rest, max(int(share * len(rest)), 2))
        shown = np.sort(np.concatenate([must, rest]))
        drawn += len(shown)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": name,
                "x": x[shown],
                "y": values[shown],
                "marker": marker | {"size": 9 if name in ("running", "invalid") else 7 if total <= 300 else 5},
                "customdata": shown,
                "text": hover_texts(board, shown),
                "hovertemplate": "%{text}<extra>" + name + "</extra>",
            }
        )
        if symbol_is_line(marker["symbol"]):
            traces[-1]["marker"]["line"] = {"width": 2, "color": marker["color"]}
    return traces, drawn


def symbol_is_line(symbol: str) -> bool:
    """Whether plotly draws it as strokes, whose colour is that of the line."""
    return "thin" in symbol or symbol.startswith("line-")


def _best_so_far(line: Line, last: float, colours: Palette) -> Figure:
    _, where, values = line
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": np.append(where, max(last, where[-1])),
        "y": np.append(values, values[-1]),
        "line": {"shape": "hv", "width": 2.5, "color": colours.accent},
        "hoverinfo": "skip",
    }


def _best_label(line: Line, sign: float, log: bool, colours: Palette) -> Figure:
    rows, where, values = line
    value = float(values[-1])
    return {
        "x": float(where[-1]),
        "y": float(np.log10(value)) if log else value,
        "text": f"<b>{format_value(value)}</b> trial {rows[-1]}",
        "showarrow": False,
        "xanchor": "left" if where[-1] < 0.6 * max(float(where.max()), 1e-9) else "right",
        "yanchor": "top" if sign > 0 else "bottom",
        "yshift": -4 * sign,
        "font": {"color": colours.accent, "size": 12},
    }


def _forecast_reach(forecast: Mapping[str, Any], at: np.ndarray, last: float, by_time: bool) -> float:
    """How far the trials of the forecast go on the axis."""
    trials = float(forecast["trials"])
    return trials * last / max(int(at.sum()), 1) if by_time else trials


def _forecast_band(
    forecast: Mapping[str, Any], best: float, sign: float, span: tuple[float, float], log: bool, colours: Palette
) -> list[Figure]:
    """What is expected of more trials: a dashed line, and one standard deviation around it."""
    gain, sd = float(forecast["gain"]), float(forecast["sd"])
    near, far = best - sign * max(gain - sd, 0.0), best - sign * (gain + sd)
    if log and far <= 0:
        far = best / 10.0
    x = np.array(span)
    common = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "legendgroup": "forecast"}
    colour = colours.accent
    return [
        common | {"x": x, "y": np.array([best, near]), "line": {"width": 0, "color": colour}, "showlegend": False},
        common
        | {
            "x": x,
            "y": np.array([best, far]),
            "line": {"width": 0, "color": colour},
            "fill": "tonexty",
            "fillcolor": style.tint(colours.accent, 0.14),
            "showlegend": False,
        },
        common
        | {
            "x": x,
            "y": np.array([best, best - sign * gain if not log else max(best - sign * gain, best / 10.0)]),
            "line": {"width": 1.5, "dash": "dot", "color": colour},
            "name": f"forecast of {forecast['trials']} more",
        },
    ]


def _forecast_words(forecast: Mapping[str, Any], sign: float, metric: str) -> str:
    change = "lower" if sign > 0 else "raise"
    chance = forecast.get("p_margin")
    likely = f" Chance of an improvement worth mentioning: {100 * chance:.0f} %." if chance is not None else ""
    more = "One more trial is" if forecast["trials"] == 1 else f"{forecast['trials']} more trials are"
    words = f"{more} expected to {change} the best {metric} by"
    return f"{words} {forecast['gain']:.2g} ± {forecast['sd']:.2g}.{likely}"


def _failed(board: Board, x: np.ndarray, colours: Palette) -> tuple[Figure | None, Figure]:
    """Failed trials have no value: ticks in a strip of their own below the others."""
    rows = np.flatnonzero(board.is_in(TrialState.FAILED) & np.isfinite(x))
    axis = {"domain": [0.0, 0.04], "range": [-1, 1], "showgrid": False, "showticklabels": False, "fixedrange": True}
    if not len(rows):
        return None, axis
    shown = spread(rows, MOST // 10)
    trace = {
        "type": "scatter",
        "mode": "markers",
        "name": "failed",
        "x": x[shown],
        "y": np.zeros(len(shown)),
        "yaxis": "y2",
        "marker": {
            "symbol": "line-ns-open",
            "size": 10,
            "color": colours.bad,
            "line": {"width": 1.5, "color": colours.bad},
        },
        "customdata": shown,
        "text": hover_texts(board, shown),
        "hovertemplate": "%{text}<extra>failed</extra>",
    }
    return trace, axis | {"zeroline": False}
