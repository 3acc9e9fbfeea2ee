"""Learning curves: the best trials in colour, the others as their background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from automl.board import Board, Curve
from automl.core import TrialState
from automl.display import format_value
from dashboard.figures import style
from dashboard.figures.common import (
    Figure,
    axis_range,
    elapsed_unit,
    plain_text,
    robust_limits,
    short_params,
    spread,
    steps_axis,
)
from dashboard.figures.progress import PLAIN, View
from dashboard.theme import Palette

BEST, OTHERS = 10, 60


def chosen(board: Board, best: int = BEST, others: int = OTHERS) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the best trials, best first, and of others: all that run, then an even sample of those that ended."""
    top = board.ranking[:best]
    reported = board.step >= 0
    running = np.flatnonzero(board.is_in(TrialState.RUNNING, TrialState.PAUSED) & reported)[-others // 2 :]
    ended = np.flatnonzero(board.is_in(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED) & reported)
    ended = ended[~np.isin(ended, top)]
    return top, np.concatenate([running, spread(ended, others - len(running))]).astype(int)


def learning_curves(board: Board, curves: Mapping[int, Curve], colours: Palette, view: View = PLAIN) -> Figure:
    """The curves of these trials, by number. By time, a trial's steps are spread evenly over its time."""
    by_time = view.by_time
    top = [int(row) for row in board.ranking[:BEST] if row in curves and len(curves[int(row)].steps)]
    others = [row for row in sorted(curves) if row not in top and len(curves[row].steps)]
    spans = {row: _seconds(board, row, view.now) for row in [*top, *others]}
    size, unit = elapsed_unit(max((s for s in spans.values() if s), default=0.0))
    where = {row: _x(curves[row], None if span is None else span / size, by_time) for row, span in spans.items()}
    traces = [
        trace
        for state, colour, opacity in (
            (TrialState.PRUNED, colours.pruned, 0.45),
            (TrialState.FAILED, colours.failed, 0.45),
            (TrialState.COMPLETE, colours.complete, 0.3),
            (TrialState.PAUSED, colours.paused, 0.8),
            (TrialState.RUNNING, colours.running, 0.9),
        )
        for trace in _background(
            board, [r for r in others if board.is_in(state)[r]], curves, where, state, colour, opacity
        )
    ]
    for place, row in reversed(list(enumerate(top))):
        curve = curves[row]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(curve.steps) == 1 else "lines",
                "name": f"trial {row}: {format_value(float(board.values[row, 0]))}",
                "x": where[row],
                "y": curve.values,
                "line": {"width": 2.5 if place == 0 else 1.6, "color": colours.series(place), "dash": _dash(place)},
                "legendrank": 100 + place,
                "customdata": np.full(len(curve.steps), row),
                "text": [f"<b>Trial {row}</b><br>{short_params(board, row)}"] * len(curve.steps),
                "hovertemplate": "%{text}<br>step %{x}: %{y:.5g}<extra></extra>"
                if not by_time
                else "%{text}<br>%{y:.5g}<extra></extra>",
            }
        )
    seen = [curves[row].values[np.isfinite(curves[row].values)] for row in spans]
    values = np.concatenate(seen) if seen else np.zeros(0)
    log = view.log and bool(len(values)) and bool((values > 0).all())
    return {
        "data": traces,
        "layout": style.layout(
            colours,
            440,
            xaxis={"title": {"text": f"{unit} since the trial's start"}} if by_time else steps_axis(board, traces),
            yaxis={
                "title": {"text": plain_text(board.study.metric_names[0], 30)},
                "range": axis_range(robust_limits(values, float(board.signs[0]), log), log),
                "type": "log" if log else "linear",
            },
        ),
    }


def _seconds(board: Board, row: int, now: float | None) -> float | None:
    end = board.finished[row]
    if np.isnan(end):
        end = now if now is not None else np.nan
    seconds = float(end - board.started[row])
    return seconds if np.isfinite(seconds) and seconds > 0 else None


def _x(curve: Curve, span: float | None, by_time: bool) -> np.ndarray:
    """(k,) The steps, or when they were; a trial whose time is not known has no place in time."""
    if not by_time:
        return curve.steps.astype(float)
    if span is None:
        return np.full(len(curve.steps), np.nan)
    first = min(int(curve.steps[0]) - 1, 0)
    return span * (curve.steps - first) / max(int(curve.steps[-1]) - first, 1)


def _background(
    board: Board,
    rows: list[int],
    curves: Mapping[int, Curve],
    where: Mapping[int, np.ndarray],
    state: TrialState,
    colour: str,
    opacity: float,
) -> list[Figure]:
    """All curves of a state as one trace with gaps, and a mark where the pruned and the running ones end."""
    if not rows:
        return []
    gap = np.array([np.nan])
    x = np.concatenate([part for row in rows for part in (where[row], gap)])
    y = np.concatenate([part for row in rows for part in (curves[row].values, gap)])
    number = np.concatenate([np.full(len(curves[row].steps) + 1, row) for row in rows])
    hover = "Trial %{customdata}<br>%{y:.5g}<extra>" + state.value + "</extra>"
    base: Figure = {"legendgroup": state.value, "name": state.value, "hovertemplate": hover}
    lines = base | {
        "type": "scatter",
        "mode": "lines",
        "x": x,
        "y": y,
        "customdata": number,
        "line": {"width": 1, "color": colour},
        "opacity": opacity,
    }
    if state not in (TrialState.PRUNED, TrialState.RUNNING, TrialState.FAILED):
        return [lines]
    ends = base | {
        "type": "scatter",
        "mode": "markers",
        "x": np.array([where[row][-1] for row in rows]),
        "y": np.array([curves[row].values[-1] for row in rows]),
        "customdata": np.array(rows),
        "marker": {
            "size": 7,
            "symbol": "diamond" if state is TrialState.RUNNING else "x-thin-open",
            "color": colour,
            "line": {"width": 1.5, "color": colour},
        },
        "showlegend": False,
        "opacity": min(1.0, opacity + 0.25),
    }
    return [lines, ends]


def overlaid(board: Board, curves: Mapping[int, Curve], numbers: Sequence[int], colours: Palette) -> Figure:
    """The curves of a few trials over each other, each in a colour of its own."""
    seen = [curves[number].values[np.isfinite(curves[number].values)] for number in numbers if number in curves]
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(curves[number].steps) <= 30 else "lines",
            "name": f"trial {number}",
            "x": curves[number].steps.astype(float),
            "y": curves[number].values,
            "line": {"width": 2, "color": colours.series(place)},
            "marker": {"size": 4},
            "hovertemplate": f"trial {number}<br>step %{{x}}: %{{y:.5g}}<extra></extra>",
        }
        for place, number in enumerate(numbers)
        if number in curves and len(curves[number].steps)
    ]
    return {
        "data": traces,
        "layout": style.layout(
            colours,
            340,
            xaxis=steps_axis(board, traces),
            yaxis={
                "title": {"text": plain_text(board.study.metric_names[0], 30)},
                "range": list(robust_limits(np.concatenate(seen) if seen else np.zeros(0), float(board.signs[0]))),
            },
        ),
    }


def _dash(place: int) -> str:
    """Lines from the ninth on have the colours of the first again."""
    return "solid" if place < 8 else "dot"
