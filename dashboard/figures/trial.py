"""One trial: where its parameters lie in their ranges, its curve, and what became of each attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from automl.board import Board, Curve
from automl.core import FailureKind
from dashboard import theme
from dashboard.figures import style
from dashboard.figures.common import Axis, Figure, declared, plain_text, robust_limits, steps_axis
from dashboard.theme import Palette

#: Causes of moves by which an attempt begins.
_BEGINS = ("claimed", "asked")
#: How an attempt ended, in words, and its colour.
_ENDS: Mapping[str, tuple[str, str]] = {
    "complete": ("complete", "complete"),
    "pruned": ("pruned", "pruned"),
    "failed": ("failed", "failed"),
    "cancelled": ("cancelled", "cancelled"),
    "paused": ("paused", "paused"),
    FailureKind.ERROR: ("error", "failed"),
    FailureKind.OUT_OF_MEMORY: ("out of memory", "failed"),
    FailureKind.NON_FINITE: ("no finite result", "failed"),
    FailureKind.TIMEOUT: ("took too long", "failed"),
    FailureKind.LOST: ("lost: its worker is gone", "warn"),
    FailureKind.PREEMPTED: ("handed back", "paused"),
    "poison": ("took its workers down", "failed"),
}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One go at a trial. Seconds since the epoch."""

    number: int
    worker: str
    started_at: float
    ended_at: float | None  #: None: it runs
    end: str | None  #: in words
    colour: str  #: the name of one of the palette's
    checkpoint: int | None  #: the step from which a next one goes on
    waits: bool  #: whether the trial waited again after it


def attempts(moves: Sequence[Mapping[str, Any]]) -> list[Attempt]:
    """The attempts in a trial's history, see `Engine.moves`."""
    found: list[Attempt] = []
    begun: Mapping[str, Any] | None = None
    for move in moves:
        if move["state"] == "running" and move["cause"] in _BEGINS:
            begun = move
        elif begun is not None and move["state"] != "running":
            cause = move["cause"] if move["state"] in ("waiting", "failed") else move["state"]
            words, colour = _ENDS.get(cause, (str(cause).replace("_", " "), "muted"))
            found.append(
                Attempt(
                    begun["attempt"],
                    begun["worker"] or "",
                    begun["at"],
                    move["at"],
                    words,
                    colour,
                    move["checkpoint_step"],
                    move["state"] == "waiting",
                )
            )
            begun = None
    if begun is not None:
        found.append(Attempt(begun["attempt"], begun["worker"] or "", begun["at"], None, None, "running", None, False))
    return found


def attempt_lines(found: Sequence[Attempt], now: float) -> str:
    """HTML: the attempts over each other on one scale of time, the first on top."""
    if not found:
        return ""
    begin = min(item.started_at for item in found)
    end = max(now if item.ended_at is None else item.ended_at for item in found)
    span = max(end - begin, 1e-9)
    lines = []
    for item in found:
        over = now if item.ended_at is None else item.ended_at
        left = 100.0 * (item.started_at - begin) / span
        width = max(100.0 * (over - item.started_at) / span, 0.6)
        words = "running" if item.end is None else item.end
        if item.waits:
            words += f"; goes on from step {item.checkpoint}" if item.checkpoint is not None else "; begins anew"
        lines.append(
            f'<li><b>{item.number}</b><span class="am-span" aria-hidden="true">'
            f'<i style="left:{min(left, 99.4):.2f}%;width:{width:.2f}%;background:var(--am-{item.colour})"></i></span>'
            f"<span>{theme.duration(over - item.started_at)}</span>"
            f'<span style="color:var(--am-{item.colour})">{theme.escape(words)}</span>'
            f'<span class="am-muted">{theme.escape(item.worker)}</span></li>'
        )
    return f'<ol class="am-attempts">{"".join(lines)}</ol>'


def parameter_rows(board: Board, row: int, params: Mapping[str, Any]) -> list[list[str]]:
    """HTML cells of each parameter in declared order: name, value, its place in the range, how the best one differs.

    `row`: the trial, which may be the best one itself.
    """
    known = declared(board)
    best = board.best
    rows = []
    for name, value in params.items():
        column = board.params.get(name)
        here, there, other = "", "", ""
        if column is not None:
            axis = Axis(name, column, known.get(name))
            if best is not None and best != row:
                theirs = column.at(best)
                there = _place(axis, best)
                other = '<span class="am-muted">same</span>' if theirs == value else _difference(axis, value, theirs)
            here = _track(axis, _place(axis, row), there)
        rows.append([theme.escape(name), f"<b>{theme.escape(theme.value_text(value))}</b>", here, other])
    return rows


def _place(axis: Axis, row: int) -> str:
    """In per cent of the range, "" where the trial has none."""
    place = float(axis.unit(axis.column.values[row : row + 1])[0])
    return "" if np.isnan(place) else f"{100.0 * min(max(place, 0.0), 1.0):.1f}"


def _track(axis: Axis, here: str, best: str) -> str:
    """The range as a line, with this trial's place and the best one's."""
    if not here:
        return ""
    ends = _ends(axis)
    marks = f'<s style="left:{best}%"></s>' if best else ""
    return (
        f'<span class="am-track"><small>{theme.escape(ends[0])}</small>'
        f'<span role="img" aria-label="at {float(here):.0f} % of its range{", on a log scale" if axis.is_log else ""}">'
        f'{marks}<i style="left:{here}%"></i></span><small>{theme.escape(ends[1])}</small></span>'
    )


def _ends(axis: Axis) -> tuple[str, str]:
    """What the range's ends say; nothing where the values have no order."""
    if axis.is_choice:
        return "", ""
    low, high = (10.0**end if axis.is_log else end for end in axis.limits)
    return f"{low:.3g}", f"{high:.3g}"


def _difference(axis: Axis, value: Any, best: Any) -> str:
    if best is None:
        return '<span class="am-muted">off in the best</span>'
    text = f"{theme.escape(theme.value_text(best))}"
    if axis.is_choice or isinstance(value, str | bool) or value is None:
        return text
    if axis.is_log and value > 0 and best > 0:
        return f'{text} <span class="am-muted">× {best / value:.3g}</span>'
    return f'{text} <span class="am-muted">{best - value:+.3g}</span>'


def curve(board: Board, row: int, mine: Curve, best: Curve | None, colours: Palette) -> Figure:
    """What the trial reported, over the curve of the best one; further metrics can be switched on in the legend."""
    name = plain_text(board.study.metric_names[0], 24)
    traces: list[Figure] = []
    if best is not None and len(best.steps) and board.best != row:
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": f"best, trial {board.best}",
                "x": best.steps,
                "y": best.values,
                "line": {"width": 1.6, "color": colours.muted, "dash": "dot"},
                "hovertemplate": "%{y:.5g}<extra>best</extra>",
            }
        )
    traces.append(_line(name, mine.steps, mine.values, colours.accent, len(mine.steps)))
    for place, (other, values) in enumerate(mine.metrics.items(), start=1):
        trace = _line(plain_text(other, 24), mine.steps, values, colours.series(place), len(mine.steps))
        traces.append(trace | {"visible": "legendonly", "yaxis": "y2"})
    seen = [mine.values, best.values if best is not None and board.best != row else mine.values[:0]]
    values = np.concatenate(seen)
    values = values[np.isfinite(values)]
    return {
        "data": traces,
        "layout": style.layout(
            colours,
            300,
            hovermode="x unified",
            xaxis=steps_axis(board, traces),
            yaxis={"title": {"text": name}, "range": list(robust_limits(values, float(board.signs[0])))},
            yaxis2={"overlaying": "y", "side": "right", "showgrid": False, "showticklabels": False, "showline": False},
        ),
    }


def _line(name: str, steps: np.ndarray, values: np.ndarray, colour: str, reports: int) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines+markers" if reports <= 30 else "lines",
        "name": name,
        "x": steps,
        "y": values,
        "line": {"width": 2.2, "color": colour},
        "marker": {"size": 5},
        "hovertemplate": "%{y:.5g}<extra>" + name + "</extra>",
    }
