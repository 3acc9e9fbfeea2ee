"""The Pareto front: what no other trial beats in every metric, among all the others."""

from __future__ import annotations

import numpy as np

from automl.board import Board
from automl.display import format_value
from dashboard.figures import style
from dashboard.figures.common import MOST, Figure, plain_text, short_params, spread
from dashboard.theme import Palette


def pareto(board: Board, pair: tuple[int, int], colours: Palette) -> Figure:
    """Two metrics against each other: the front in the accent, others dimmed, those that break constraints marked."""
    first, second = pair
    x, y = board.values[:, first], board.values[:, second]
    counted = board.counted & ~np.isnan(x) & ~np.isnan(y)
    front = board.front
    behind = counted.copy()
    behind[front] = False
    free = spread(np.flatnonzero(behind & board.feasible), MOST)
    broken = spread(np.flatnonzero(behind & ~board.feasible), MOST // 3)
    names = [plain_text(board.study.metric_names[i], 30) for i in pair]
    traces = [
        _points(board, pair, rows, name, marker)
        for rows, name, marker in (
            (
                broken,
                "violates a constraint",
                {"symbol": "x-thin-open", "color": colours.failed, "size": 7, "opacity": 0.6},
            ),
            (free, "others", {"color": colours.muted, "size": 6, "opacity": 0.4}),
            (front, "front", {"color": colours.accent, "size": 10, "line": {"width": 1.5, "color": colours.page}}),
        )
        if len(rows)
    ]
    if len(front) > 1 and len(board.study.directions) == 2:
        traces.insert(-1, _staircase(board, pair, front, colours))
    better = ["more is better" if board.signs[i] < 0 else "less is better" for i in pair]
    ranges = [
        _range(np.concatenate([board.values[front, i], board.values[free, i]]), float(board.signs[i])) for i in pair
    ]
    return {
        "data": traces,
        "layout": style.layout(
            colours,
            460,
            xaxis={"title": {"text": f"{names[0]} ({better[0]})"}, "range": ranges[0]},
            yaxis={"title": {"text": f"{names[1]} ({better[1]})"}, "range": ranges[1]},
        ),
    }


def _points(board: Board, pair: tuple[int, int], rows: np.ndarray, name: str, marker: Figure) -> Figure:
    labels = [plain_text(board.study.metric_names[i], 24) for i in pair]
    if "thin" in str(marker.get("symbol")):
        marker = marker | {"line": {"width": 1.5, "color": marker["color"]}}
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": board.values[rows, pair[0]],
        "y": board.values[rows, pair[1]],
        "marker": marker,
        "customdata": rows,
        "text": [
            f"<b>Trial {row}</b><br>"
            + "<br>".join(
                f"{label} {format_value(float(board.values[row, i]))}" for label, i in zip(labels, pair, strict=True)
            )
            + f"<br>{short_params(board, row)}"
            for row in map(int, rows)
        ],
        "hovertemplate": "%{text}<extra>" + name + "</extra>",
    }


def _staircase(board: Board, pair: tuple[int, int], front: np.ndarray, colours: Palette) -> Figure:
    """The edge of what the front beats."""
    x, y = board.values[front, pair[0]], board.values[front, pair[1]]
    order = np.argsort(x, kind="stable")
    shape = "hv" if board.signs[pair[0]] > 0 else "vh"
    return {
        "type": "scatter",
        "mode": "lines",
        "x": x[order],
        "y": y[order],
        "line": {"shape": shape, "width": 1.5, "color": style.tint(colours.accent, 0.5)},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _range(values: np.ndarray, sign: float) -> list[float]:
    """Around the good three quarters twice over: far losers do not squeeze the front."""
    costs = sign * values
    best, middle, worst = float(costs.min()), float(np.quantile(costs, 0.75)), float(costs.max())
    worst = min(worst, best + 2.0 * max(middle - best, 1e-9))
    margin = 0.06 * (worst - best) or 0.05 * abs(best) or 0.5
    low, high = sorted((sign * (best - margin), sign * (worst + margin)))
    return [low, high]
