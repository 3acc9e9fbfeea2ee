"""What the figures share: axes of parameters, ranges that outliers do not rule, samples, words in hovers.

A figure is a dict in plotly's own form with NumPy arrays inside. `go.Figure` checks every field of it again and takes
longer than all the rest, so none is made here.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from automl.board import Board, Column
from automl.core import TrialState
from automl.declaration import Choice, Parameter, Space
from automl.display import format_value
from automl.display.progress import param

Figure = dict[str, Any]

#: Points of one figure: more of them only cover each other. So few are drawn as SVG, because a canvas of WebGL takes a
#: second to begin with where there is no graphics card.
MOST = 1500
#: Without a declaration, a parameter above zero gets a log axis when its largest value is so many times its smallest.
_WIDE = 1000.0
#: So many marks have room along an axis, on a phone too.
_FEW = 10

_UNITS = ((1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours"), (86400.0, "days"))


def plain_text(text: object, most: int = 60) -> str:
    """`text` for a label or a hover, where plotly would obey `<b>` and `<a>`; cut to `most` characters."""
    words = " ".join(str(text).split())
    cut = words if len(words) <= most else words[: most - 1] + "…"
    return html.escape(cut, quote=False)


def spread(rows: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of `rows`, evenly chosen, the first and the last among them."""
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, max(most, 2)).astype(int)]


def elapsed_unit(seconds: float) -> tuple[float, str]:
    """The unit in which so long a time reads best: its seconds and its name."""
    return max((unit for unit in _UNITS if seconds >= 2 * unit[0]), default=_UNITS[0])


def metric_values(board: Board, metric: int = 0) -> np.ndarray:
    """(n,) what a trial has come to, or its newest report while it has no result; NaN: neither."""
    values = board.values[:, metric]
    if metric > 0:
        return values
    going = board.is_in(TrialState.RUNNING, TrialState.PAUSED, TrialState.PRUNED) & np.isnan(values)
    return np.where(going, board.last_value, values)


def robust_limits(values: np.ndarray, sign: float, log: bool = False) -> tuple[float, float]:
    """(low, high) to show: the best of `values` always, bad ones up to 1.5 interquartile ranges beyond the quartile.

    `sign` is what a value is multiplied with so that small is good. All finite; with `log` all above zero.
    """
    if not len(values):
        return (0.1, 1.0) if log else (0.0, 1.0)
    costs = sign * (np.log10(values) if log else values)
    lower, upper = np.quantile(costs, (0.25, 0.75))
    best = float(costs.min())
    fence = upper + 1.5 * max(upper - lower, 1e-3 * (upper - best))
    worst = float(costs[costs <= fence].max())
    margin = 0.06 * (worst - best) or 0.05 * abs(best) or 0.5
    ends = sorted((sign * (best - margin), sign * (worst + margin)))
    return (10.0 ** ends[0], 10.0 ** ends[1]) if log else (ends[0], ends[1])


def axis_range(limits: tuple[float, float], log: bool) -> list[float]:
    """`limits` as plotly wants them."""
    return [float(np.log10(limits[0])), float(np.log10(limits[1]))] if log else [float(limits[0]), float(limits[1])]


def whole_axis(title: str, traces: Sequence[Figure]) -> Figure:
    """An axis of whole numbers below `traces`: few of them are marked one by one, and never half of one."""
    reach = np.concatenate([np.zeros(1), *(np.asarray(trace["x"], dtype=float) for trace in traces)])
    return {"title": {"text": title}} | ({"dtick": 1} if np.nanmax(reach) <= _FEW else {})


def steps_axis(board: Board, traces: Sequence[Figure]) -> Figure:
    """The axis of the steps that trials report at, by the name that the study gives them."""
    fidelity = (board.study.spec or {}).get("fidelity") or {}
    return whole_axis(plain_text(fidelity.get("name", "step"), 24), traces)


def goodness(board: Board, rows: np.ndarray) -> np.ndarray:
    """(k,) of counted trials, by rank: 1 for the best of them, 0 for the worst."""
    costs = board.values[rows, 0] * board.signs[0]
    ranks = np.empty(len(rows))
    ranks[np.argsort(costs, kind="stable")] = np.arange(len(rows))
    return 1.0 - ranks / max(len(rows) - 1, 1)


def short_params(board: Board, row: int, most: int = 4, between: str = "<br>") -> str:
    """`lr = 0.01<br>width = 64`, the first few that the trial has; ready for a hover."""
    parts: list[str] = []
    left_out = 0
    for name, column in board.params.items():
        value = column.values[row]
        if np.isnan(value):
            continue
        if len(parts) == most:
            left_out += 1
        else:
            shown = column.choices[int(value)] if column.choices is not None else float(value)
            parts.append(f"{plain_text(name, 24)} = {plain_text(param(shown), 24)}")
    return between.join([*parts, f"and {left_out} more"] if left_out else parts)


def hover_texts(board: Board, rows: Sequence[int] | np.ndarray) -> list[str]:
    """What a hover says of each trial: its number, value and first parameters."""
    values = metric_values(board)
    name = plain_text(board.study.metric_names[0], 24)
    return [
        f"<b>Trial {row}</b><br>{name} {format_value(float(values[row]))}<br>{short_params(board, row)}"
        if not np.isnan(values[row])
        else f"<b>Trial {row}</b><br>{short_params(board, row)}"
        for row in map(int, rows)
    ]


def declared(board: Board) -> Mapping[str, Parameter]:
    """The parameters as the study declares them; {} for one that a plain Optuna program made."""
    spec = board.study.spec
    return Space.from_json(spec["space"]) if spec and spec.get("space") else {}


@dataclass(frozen=True, eq=False)
class Axis:
    """A parameter as an axis: numbers on their own scale, choices at 0, 1, 2, ..."""

    name: str
    column: Column
    parameter: Parameter | None  #: None: nobody declared it

    @property
    def is_choice(self) -> bool:
        return self.column.choices is not None

    @cached_property
    def is_log(self) -> bool:
        if self.is_choice or isinstance(self.parameter, Choice):
            return False
        if self.parameter is not None:
            return self.parameter.log
        known = self.column.values[~np.isnan(self.column.values)]
        return bool(len(known) > 1 and known.min() > 0 and known.max() / known.min() >= _WIDE)

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """`values` where they are on the axis."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log10(values) if self.is_log else values

    @cached_property
    def limits(self) -> tuple[float, float]:
        """Both ends, scaled: as declared, or around what was tried."""
        if self.column.choices is not None:
            return -0.5, len(self.column.choices) - 0.5
        known = self.scaled(self.column.values)
        known = known[np.isfinite(known)]
        ends = [float(known.min()), float(known.max())] if len(known) else []
        if self.parameter is not None and not isinstance(self.parameter, Choice):
            given = np.array([self.parameter.low, self.parameter.high], dtype=float)
            ends += self.scaled(given).tolist()
        low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    def unit(self, values: np.ndarray) -> np.ndarray:
        """`values` from 0 to 1 along the axis."""
        low, high = self.limits
        return (self.scaled(values) - low) / (high - low)

    @cached_property
    def ticks(self) -> tuple[list[float], list[str]]:
        """Where the ticks are, scaled, and what they say."""
        if self.column.choices is not None:
            return [float(i) for i in range(len(self.column.choices))], [
                plain_text(param(value), 18) for value in self.column.choices
            ]
        low, high = self.limits
        if self.is_log:
            exponents = np.arange(np.ceil(low - 1e-9), np.floor(high + 1e-9) + 1)
            exponents = exponents[:: max(1, int(np.ceil(len(exponents) / 5)))]
            if len(exponents) >= 2:
                return exponents.tolist(), [f"{10.0**e:.4g}" for e in exponents]
            places = np.linspace(low, high, 3)
            return places.tolist(), [f"{10.0**e:.3g}" for e in places]
        step = _round_step((high - low) / 4)
        places = np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step
        return places.tolist(), [f"{place + 0.0:.6g}" for place in places.round(12)]

    def layout(self) -> Figure:
        """Of the axis in a plotly figure that is given scaled values."""
        low, high = self.limits
        places, texts = self.ticks
        room = 0.0 if self.is_choice else 0.03 * (high - low)
        return {"range": [low - room, high + room], "tickvals": places, "ticktext": texts, "zeroline": False}


def axes(board: Board) -> list[Axis]:
    """The parameters that any trial has, as axes, in declared order."""
    known = declared(board)
    tried = [(name, column) for name, column in board.params.items() if not np.isnan(column.values).all()]
    return [Axis(name, column, known.get(name)) for name, column in tried]


def jitter(rows: np.ndarray, width: float = 0.6) -> np.ndarray:
    """(k,) in [-width / 2, width / 2], the same for a trial each time: choices as strips that do not shimmer."""
    golden = 0.6180339887498949
    return width * ((rows * golden) % 1.0 - 0.5)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5, 10, ... at `step` or above."""
    power = 10.0 ** np.floor(np.log10(step))
    return float(next(m * power for m in (1.0, 2.0, 5.0, 10.0) if m * power >= step * (1 - 1e-9)))
