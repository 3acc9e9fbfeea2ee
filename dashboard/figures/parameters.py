"""Parameters: how much each of them matters, and where the good values are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from automl.board import Board
from automl.display import format_value
from automl.display.progress import clean, param
from dashboard.figures import style
from dashboard.figures.common import (
    Axis,
    Figure,
    goodness,
    hover_texts,
    jitter,
    plain_text,
    robust_limits,
    spread,
)
from dashboard.theme import Palette

#: Points of a slice: there is one for each parameter, drawn as SVG, since a browser has 16 contexts of WebGL in all.
SLICE_POINTS = 400
#: Trials behind a contour, those drawn on it, and cells along an axis of it.
_CONTOUR_TRIALS, _CONTOUR_POINTS, _CELLS = 800, 250, 48


def importance_bars(importances: Mapping[str, float], colours: Palette) -> Figure:
    """Shares of the parameters in what the trials differ by, the largest on top."""
    ranked = sorted(importances.items(), key=lambda item: item[1])
    shares = np.array([share for _, share in ranked])
    return {
        "data": [
            {
                "type": "bar",
                "orientation": "h",
                "x": shares,
                "y": np.arange(len(ranked)),
                "text": [f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %" for share in shares],
                "textposition": "outside",
                "textfont": {"color": colours.muted},
                "cliponaxis": False,
                "marker": {"color": colours.accent, "opacity": 0.35 + 0.65 * shares / max(shares.max(), 1e-9)},
                "hoverinfo": "skip",
            }
        ],
        "layout": style.layout(
            colours,
            max(90, 34 + 26 * len(ranked)),
            margin={"l": 8, "r": 56, "t": 4, "b": 4},
            xaxis={"visible": False, "range": [0, float(shares.max()) * 1.02]},
            yaxis={
                "tickvals": list(range(len(ranked))),
                "ticktext": [plain_text(name, 26) for name, _ in ranked],
                "tickfont": {"color": colours.text},
                "showgrid": False,
                "fixedrange": True,
            },
            bargap=0.45,
            showlegend=False,
        ),
    }


def shown_rows(board: Board, most: int) -> np.ndarray:
    """Counted trials to draw, the worst first so that the best lie on top: the very best, and an even sample."""
    ranked = board.ranking
    if len(ranked) <= most:
        return ranked[::-1]
    top = ranked[: most // 8]
    return np.concatenate([top, spread(ranked[most // 8 :], most - most // 8)])[::-1]


def slice_figure(board: Board, axis: Axis, rows: np.ndarray, colours: Palette) -> Figure:
    """The value of `rows` (see `shown_rows`) against one parameter, the better the stronger."""
    rows = rows[~np.isnan(axis.column.values[rows])]
    where = axis.scaled(axis.column.values[rows])
    if axis.is_choice:
        where = where + jitter(rows)
    sign = float(board.signs[0])
    values = board.values[:, 0]
    low, high = robust_limits(values[board.counted], sign)
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "markers",
                "x": where,
                "y": values[rows],
                "marker": {
                    "size": 6,
                    "color": goodness(board, rows) if len(rows) else rows,
                    "cmin": 0,
                    "cmax": 1,
                    "colorscale": style.scale(colours),
                    "line": {"width": 0},
                },
                "customdata": rows,
                "text": hover_texts(board, rows),
                "hovertemplate": "%{text}<extra></extra>",
            }
        ],
        "layout": style.layout(
            colours,
            210,
            margin={"l": 8, "r": 8, "t": 6, "b": 8},
            showlegend=False,
            xaxis=axis.layout() | {"title": {"text": plain_text(axis.name, 28)}, "showgrid": False},
            yaxis={"range": [low, high], "nticks": 4},
        ),
    }


def contour(board: Board, x: Axis, y: Axis, colours: Palette) -> Figure:
    """What the trials say of two parameters together: a weighted mean of those close by, and the trials on it.

    Where no trial is close there is nothing.
    """
    rows = shown_rows(board, _CONTOUR_TRIALS)
    rows = rows[~np.isnan(x.column.values[rows]) & ~np.isnan(y.column.values[rows])]
    sign = float(board.signs[0])
    low, high = robust_limits(board.values[rows, 0], sign)
    values = np.clip(board.values[rows, 0], low, high)
    grid_x, grid_y = _cells(x), _cells(y)
    surface = _smoothed(board, rows, values, (x, y), (grid_x, grid_y))
    drawn = spread(rows, _CONTOUR_POINTS)
    shift_x = jitter(drawn, 0.5) if x.is_choice else 0.0
    shift_y = jitter(drawn + 7, 0.5) if y.is_choice else 0.0
    ramp: list[tuple[float, str]] = [
        (0.0, colours.accent),
        (0.35, style.tint(colours.complete, 0.55)),
        (1.0, style.tint(colours.muted, 0.10)),
    ]
    levels = np.linspace(low, high, 3)
    return {
        "data": [
            {
                "type": "heatmap",
                "x": grid_x,
                "y": grid_y,
                "z": surface,
                "zmin": low,
                "zmax": high,
                "colorscale": ramp if sign > 0 else [(1.0 - at, colour) for at, colour in reversed(ramp)],
                "zsmooth": False if x.is_choice or y.is_choice else "best",
                "colorbar": {
                    "thickness": 10,
                    "outlinewidth": 0,
                    "len": 0.8,
                    "tickvals": levels.tolist(),
                    "ticktext": [format_value(float(level)) for level in levels],
                    "tickfont": {"color": colours.muted},
                },
                "hoverinfo": "skip",
            },
            {
                "type": "scatter",
                "mode": "markers",
                "x": x.scaled(x.column.values[drawn]) + shift_x,
                "y": y.scaled(y.column.values[drawn]) + shift_y,
                "marker": {
                    "size": 5,
                    "color": style.tint(colours.text, 0.0),
                    "line": {"width": 1, "color": style.tint(colours.text, 0.45)},
                },
                "customdata": drawn,
                "text": hover_texts(board, drawn),
                "hovertemplate": "%{text}<extra></extra>",
            },
        ],
        "layout": style.layout(
            colours,
            420,
            margin={"l": 8, "r": 8, "t": 8, "b": 8},
            showlegend=False,
            xaxis=x.layout() | {"title": {"text": plain_text(x.name, 28)}, "showgrid": False},
            yaxis=y.layout() | {"title": {"text": plain_text(y.name, 28)}, "showgrid": False},
        ),
    }


def parallel(board: Board, shown: Sequence[Axis], best: int, colours: Palette) -> Figure:
    """The `best` trials as lines through the axes, the metric last; lines of a better trial are stronger.

    A trial that lacks a parameter, because of a condition, runs through "off" at the foot of its axis.
    """
    rows = board.ranking[:best][::-1]
    low, high = robust_limits(board.values[rows, 0], float(board.signs[0]))
    values = np.clip(board.values[rows, 0], low, high)
    levels = np.linspace(low, high, 5)
    dimensions = [_dimension(axis, rows) for axis in shown] + [
        {
            "label": plain_text(board.study.metric_names[0], 18),
            "values": values,
            "range": [low, high],
            "tickvals": levels.tolist(),
            "ticktext": [format_value(float(level)) for level in levels],
        }
    ]
    return {
        "data": [
            {
                "type": "parcoords",
                "dimensions": dimensions,
                "line": {
                    "color": goodness(board, rows) if len(rows) else rows,
                    "cmin": 0,
                    "cmax": 1,
                    "colorscale": [[0.0, colours.line], [0.5, colours.complete], [1.0, colours.accent]],
                },
                "labelfont": {"color": colours.text, "size": 12},
                "tickfont": {"color": colours.muted, "size": 11},
                "rangefont": {"color": "rgba(0,0,0,0)", "size": 1},
                "unselected": {"line": {"color": colours.faint, "opacity": 0.25}},
            }
        ],
        "layout": style.layout(colours, 400, margin={"l": 56, "r": 64, "t": 44, "b": 16}),
    }


def _dimension(axis: Axis, rows: np.ndarray) -> Figure:
    low, high = axis.limits
    places, texts = axis.ticks
    if axis.column.choices is not None:  # unlike everywhere else, plotly takes these ticks for plain text
        texts = [clean(param(value))[:18] for value in axis.column.choices]
    values = axis.scaled(axis.column.values[rows])
    absent = ~np.isfinite(values)
    if absent.any():
        foot = low - 0.12 * (high - low)
        values = np.where(absent, foot, values)
        low, places, texts = foot, [foot, *places], ["off", *texts]
    return {
        "label": plain_text(axis.name, 18),
        "values": values,
        "range": [low, high],
        "tickvals": list(places),
        "ticktext": list(texts),
    }


def _cells(axis: Axis) -> np.ndarray:
    """The middles of the cells along an axis, scaled."""
    if axis.column.choices is not None:
        return np.arange(len(axis.column.choices), dtype=float)
    return np.linspace(*axis.limits, _CELLS)


def _smoothed(
    board: Board, rows: np.ndarray, values: np.ndarray, pair: tuple[Axis, Axis], grid: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """(cells of y, cells of x) Kernel regression of Nadaraya (1964) and Watson (1964) in the unit square.

    The width of the kernel falls with the sixth root of the trials, as is optimal in two dimensions. Cells from which
    the closest trial is further than two widths are NaN.
    """
    surface = np.full((len(grid[1]), len(grid[0])), np.nan)
    if not len(rows):
        return surface
    width = 0.28 * len(rows) ** (-1.0 / 6.0)
    weights = []
    for axis, cells in zip(pair, grid, strict=True):
        at = axis.column.values[rows]
        if axis.is_choice:
            weights.append((cells[:, None] == at[None, :]).astype(float))
        else:
            low, high = axis.limits
            gaps = ((cells - low) / (high - low))[:, None] - axis.unit(at)[None, :]
            weights.append(np.exp(-0.5 * (gaps / width) ** 2))
    across, up = weights
    closest = np.array([(across * of_row).max(axis=1) for of_row in up])
    enough = closest > np.exp(-2.0)
    surface[enough] = ((up * values) @ across.T)[enough] / (up @ across.T)[enough]
    return surface
