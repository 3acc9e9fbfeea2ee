"""What the search expected of its suggestions against what came: is its model to be trusted?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from automl.board import Board
from automl.display import format_value
from dashboard.figures import style
from dashboard.figures.common import MOST, Figure, plain_text, robust_limits, spread
from dashboard.theme import Palette

#: Of a normal distribution, within one and two standard deviations.
WITHIN_1, WITHIN_2 = 0.683, 0.954
_WITH_BARS = 120


@dataclass(frozen=True)
class Calibration:
    """How the predictions of `trials` trials have held."""

    trials: int
    within_1: float  #: share of the results within one standard deviation of their prediction
    within_2: float


def judged(board: Board) -> np.ndarray:
    """Rows (k,) of counted trials that were predicted."""
    return np.flatnonzero(board.counted & ~np.isnan(board.mean) & (board.sd > 0))


def calibration(board: Board) -> Calibration | None:
    """None: no predicted trial has a result yet."""
    rows = judged(board)
    if not len(rows):
        return None
    off = _deviations(board, rows)
    return Calibration(len(rows), float((off <= 1).mean()), float((off <= 2).mean()))


def predicted_and_came(board: Board, colours: Palette) -> Figure:
    """Each prediction against its result, with the diagonal on which they would be equal."""
    rows = spread(judged(board), MOST)
    values, means = board.values[rows, 0], board.mean[rows]
    off = _deviations(board, rows)
    sign = float(board.signs[0])
    lows, highs = zip(robust_limits(values, sign), robust_limits(means, sign), strict=True)
    low, high = min(lows), max(highs)
    traces: list[Figure] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": np.array([low, high]),
            "y": np.array([low, high]),
            "line": {"width": 1, "dash": "dash", "color": colours.muted},
            "name": "as predicted",
            "hoverinfo": "skip",
        }
    ]
    for name, mask, colour, symbol in (
        ("more than 2 sd off", off > 2, colours.bad, "x"),
        ("within 2 sd", (off > 1) & (off <= 2), colours.warn, "diamond"),
        ("within 1 sd", off <= 1, colours.accent, "circle"),
    ):
        if mask.any():
            traces.append(_points(board, rows[mask], colour, name, symbol, len(rows)))
    metric = plain_text(board.study.metric_names[0], 30)
    return {
        "data": traces,
        "layout": style.layout(
            colours,
            440,
            xaxis={"title": {"text": f"predicted {metric}"}, "range": [low, high]},
            yaxis={"title": {"text": f"{metric} that came"}, "range": [low, high]},
        ),
    }


def _deviations(board: Board, rows: np.ndarray) -> np.ndarray:
    """(k,) how many standard deviations a result is away from its prediction."""
    return np.abs(board.values[rows, 0] - board.mean[rows]) / board.sd[rows]


def _points(board: Board, rows: np.ndarray, colour: str, name: str, symbol: str, total: int) -> Figure:
    trace: Figure = {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": board.mean[rows],
        "y": board.values[rows, 0],
        "marker": {"size": 7 if total <= 400 else 5, "color": colour, "symbol": symbol, "opacity": 0.75},
        "customdata": rows,
        "text": [
            f"<b>Trial {row}</b><br>predicted {format_value(float(board.mean[row]))} ± {board.sd[row]:.2g}"
            f"<br>came {format_value(float(board.values[row, 0]))}"
            for row in map(int, rows)
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }
    if total <= _WITH_BARS:
        trace["error_x"] = {
            "type": "data",
            "array": board.sd[rows],
            "thickness": 1,
            "width": 0,
            "color": style.tint(colour, 0.35),
        }
    return trace
