"""What the model expects along one parameter and over two, with the point that is asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automl.board import Board
from automl.display import format_value
from automl.search.what_if import Surface
from dashboard.figures import style
from dashboard.figures.common import Axis, Figure, axes, hover_texts, jitter, plain_text, spread
from dashboard.theme import Palette

#: Trials that are drawn over a surface: the best ones, and others evenly.
_BEST, _OTHERS = 60, 200


def axis_of(board: Board, name: str) -> Axis | None:
    """A parameter as an axis; None when no trial has it."""
    return next((axis for axis in axes(board) if axis.name == name), None)


def line(board: Board, found: Surface, params: Mapping[str, Any], colours: Palette) -> Figure | None:
    """The mean along a parameter in its band of one standard deviation; None where no trial has the parameter."""
    axis = axis_of(board, found.names[0])
    if axis is None:
        return None
    x = _places(axis, found.axes[0])
    texts = [plain_text(_word(value), 24) for value in found.axes[0]]
    here = int(np.argmin(np.abs(x - _places(axis, [params[axis.name]])[0])))
    metric = plain_text(board.study.metric_names[0], 24)
    shape = {"shape": "spline", "smoothing": 0.4} if len(x) > 12 else {}
    traces: list[Figure] = []
    if axis.is_choice:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": x,
                "y": found.mean,
                "error_y": {"type": "data", "array": found.sd, "color": colours.accent, "thickness": 1.5},
                "marker": {"size": 9, "color": colours.accent},
                "text": texts,
                "customdata": found.sd,
                "hovertemplate": "%{text}: %{y:.5g} ± %{customdata:.2g}<extra></extra>",
                "showlegend": False,
            }
        )
    else:
        for side, fill in ((1.0, None), (-1.0, "tonexty")):
            band: Figure = {
                "type": "scatter",
                "mode": "lines",
                "x": x,
                "y": found.mean + side * found.sd,
                "line": {"width": 0} | shape,
                "hoverinfo": "skip",
                "showlegend": False,
            }
            traces.append(band | ({"fill": fill, "fillcolor": style.tint(colours.accent, 0.18)} if fill else {}))
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": x,
                "y": found.mean,
                "line": {"width": 2.4, "color": colours.accent} | shape,
                "text": texts,
                "customdata": found.sd,
                "hovertemplate": "%{text}: %{y:.5g} ± %{customdata:.2g}<extra></extra>",
                "showlegend": False,
            }
        )
    traces.append(_point([x[here]], [found.mean[here]], colours))
    shapes = []
    if board.best is not None:
        best = float(board.values[board.best, 0])
        shapes = [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": best,
                "y1": best,
                "line": {"width": 1.2, "dash": "dot", "color": colours.good},
                "label": {
                    "text": f"best {format_value(best)}",
                    "textposition": "end" if here < len(x) / 2 else "start",
                    "font": {"size": 11, "color": colours.good},
                },
            }
        ]
    return {
        "data": traces,
        "layout": style.layout(
            colours,
            280,
            margin={"l": 8, "r": 12, "t": 12, "b": 8},
            shapes=shapes,
            xaxis=axis.layout() | {"title": {"text": plain_text(axis.name, 40)}},
            yaxis={"title": {"text": metric}},
        ),
    }


def plane(board: Board, found: Surface, params: Mapping[str, Any], colours: Palette) -> Figure | None:
    """The mean over two parameters as heights, the trials, and the point; None where no trial has one of them."""
    first, second = (axis_of(board, name) for name in found.names)
    if first is None or second is None:
        return None
    is_large_good = float(board.signs[0]) < 0
    ramp = [[0.0, colours.faint], [0.5, style.tint(colours.accent, 0.42)], [1.0, colours.accent]]
    x, y = _places(first, found.axes[0]), _places(second, found.axes[1])
    has_choice = first.is_choice or second.is_choice
    metric = plain_text(board.study.metric_names[0], 24)
    words = [[f"{plain_text(_word(a), 20)}, {plain_text(_word(b), 20)}" for a in found.axes[0]] for b in found.axes[1]]
    heights: Figure = {
        "type": "heatmap" if has_choice else "contour",
        "x": x,
        "y": y,
        "z": found.mean.T,
        "customdata": found.sd.T,
        "text": words,
        "colorscale": ramp,
        "reversescale": not is_large_good,
        "hovertemplate": "%{text}<br>" + metric + " %{z:.5g} ± %{customdata:.2g}<extra></extra>",
        "colorbar": {
            "thickness": 10,
            "outlinewidth": 0,
            "tickfont": {"color": colours.muted},
            "title": {"text": metric, "side": "right", "font": {"color": colours.muted, "size": 11}},
        },
    }
    if not has_choice:
        heights["line"] = {"width": 0.5, "color": style.tint(colours.text, 0.18)}
        heights["ncontours"] = 18
    rows = _shown(board, first, second)
    trials: Figure = {
        "type": "scatter",
        "mode": "markers",
        "x": first.scaled(first.column.values[rows]) + (jitter(rows) if first.is_choice else 0.0),
        "y": second.scaled(second.column.values[rows]) + (jitter(rows) if second.is_choice else 0.0),
        "text": hover_texts(board, rows),
        "customdata": rows,
        "hovertemplate": "%{text}<extra></extra>",
        "marker": {
            "size": 5,
            "color": style.tint(colours.text, 0.55),
            "line": {"width": 0.5, "color": colours.page},
        },
        "cliponaxis": False,
        "showlegend": False,
    }
    here = [_places(axis, [params[axis.name]]) for axis in (first, second)]
    return {
        "data": [heights, trials, _point(here[0], here[1], colours)],
        "layout": style.layout(
            colours,
            380,
            margin={"l": 8, "r": 8, "t": 12, "b": 8},
            xaxis=_within(first) | {"title": {"text": plain_text(first.name, 40)}},
            yaxis=_within(second) | {"title": {"text": plain_text(second.name, 40)}},
        ),
    }


def _within(axis: Axis) -> Figure:
    """Without room around the surface."""
    return axis.layout() | {"range": list(axis.limits), "showgrid": False}


def _point(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, colours: Palette) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": x,
        "y": y,
        "marker": {
            "size": 14,
            "color": colours.page,
            "symbol": "circle",
            "line": {"width": 3.5, "color": colours.warn},
        },
        "hoverinfo": "skip",
        "cliponaxis": False,
        "showlegend": False,
    }


def _places(axis: Axis, values: Sequence[Any]) -> np.ndarray:
    """(k,) where values are on the axis."""
    if axis.column.choices is not None:
        return np.array([float(axis.column.choices.index(value)) for value in values])
    return np.asarray(axis.scaled(np.array(values, dtype=float)))


def _word(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shown(board: Board, first: Axis, second: Axis) -> np.ndarray:
    there = ~np.isnan(first.column.values) & ~np.isnan(second.column.values)
    ranked = board.ranking[there[board.ranking]]
    return np.concatenate([spread(ranked[_BEST:], _OTHERS), ranked[:_BEST]])
