"""Several studies beside each other: how fast each got how far, and where its best trial lies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from automl.board import STATES, Board
from automl.core import StudyState
from dashboard import theme
from dashboard.figures import style
from dashboard.figures.common import Figure, axis_range, elapsed_unit, plain_text, robust_limits, whole_axis
from dashboard.theme import Palette

#: What tells the runs of one method apart: a number at the end of the name.
_RUN = re.compile(r"^(?P<group>.*?\D)(?:[\s_.#-]*)\d+$", re.DOTALL)
#: Places at which runs of a group are compared.
_GRID = 200
#: Numbers that differ by less than this share of the larger one are alike.
_ALIKE = 0.1


@dataclass(frozen=True, eq=False)
class Run:
    """What a comparison needs of a study."""

    name: str
    metric: str
    sign: float  #: what the metric is multiplied with so that small is good
    is_over: bool
    trials: np.ndarray  #: (k,) how many trials had ended when each result came
    seconds: np.ndarray  #: (k,) since the first trial started
    best: np.ndarray  #: (k,) the best value by then
    number: int | None = None  #: of the best trial
    params: Mapping[str, Any] = field(default_factory=dict)  #: its parameters
    ended: int = 0

    @property
    def value(self) -> float | None:
        return float(self.best[-1]) if len(self.best) else None


def run_of(board: Board) -> Run:
    """Everything but the parameters as they were declared: a board has whole numbers as floats."""
    rows = board.by_finish
    ended = np.array([state.is_finished for state in STATES])[board.state] & ~np.isnan(board.finished)
    ends = np.sort(board.finished[ended])
    started = board.started[~np.isnan(board.started)]
    begin = float(started.min()) if len(started) else 0.0
    best = board.best
    params = {name: column.at(best) for name, column in board.params.items()} if best is not None else {}
    return Run(
        board.study.name,
        board.study.metric_names[0],
        float(board.signs[0]),
        board.study.state is not StudyState.OPEN,
        np.searchsorted(ends, board.finished[rows], side="right"),
        board.finished[rows] - begin,
        board.best_so_far,
        best,
        {name: value for name, value in params.items() if value is not None},
        len(ends),
    )


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one method, or a single one."""

    name: str
    runs: tuple[Run, ...]

    @property
    def values(self) -> np.ndarray:
        """(k,) What those that have a result came to."""
        return np.array([run.value for run in self.runs if run.value is not None])


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """Studies whose names differ by a number at their end are runs of one method; in the order of the first ones."""
    by_name: dict[str, list[Run]] = {}
    for run in runs:
        found = _RUN.match(run.name)
        by_name.setdefault(found["group"].rstrip(" _.#-") if found else run.name, []).append(run)
    groups = []
    for name, members in by_name.items():
        groups.append(Group(name if len(members) > 1 else members[0].name, tuple(members)))
    return groups


def progress(groups: Sequence[Group], colours: Palette, *, by_time: bool = False) -> Figure:
    """The best value so far of each group: its median in the band of its quartiles, or a line."""
    seconds = max((float(run.seconds[-1]) for g in groups for run in g.runs if len(run.seconds)), default=0.0)
    size, unit = elapsed_unit(seconds) if by_time else (1.0, "trials that have ended")
    traces: list[Figure] = []
    for place, group in enumerate(groups):
        traces += _group(group, colours.series(place), by_time, size)
    values = np.concatenate([run.best for group in groups for run in group.runs] or [np.empty(0)])
    metric = plain_text(groups[0].runs[0].metric, 30) if groups else ""
    sign = groups[0].runs[0].sign if groups else 1.0
    limits = robust_limits(values[np.isfinite(values)], sign)
    return {
        "data": traces,
        "layout": style.layout(
            colours,
            420,
            hovermode="x unified" if len(groups) <= 8 else "closest",
            xaxis=({"title": {"text": unit}} if by_time else whole_axis(unit, traces)) | {"rangemode": "tozero"},
            yaxis={"title": {"text": f"best {metric} so far"}, "range": axis_range(limits, False)},
        ),
    }


def _group(group: Group, colour: str, by_time: bool, size: float) -> list[Figure]:
    name = plain_text(group.name, 40)
    line: Figure = {
        "type": "scatter",
        "mode": "lines",
        "line": {"width": 2.2, "color": colour, "shape": "hv"},
        "legendgroup": group.name,
        "hovertemplate": "%{y:.5g}<extra>" + name + "</extra>",
    }
    if len(group.runs) == 1:
        run = group.runs[0]
        x = run.seconds / size if by_time else run.trials
        y = run.best
        if not by_time and len(x) and run.ended > x[-1]:
            x, y = np.append(x, run.ended), np.append(y, y[-1])
        return [line | {"name": name, "x": x, "y": y}]
    x, low, middle, high = quartiles(group, by_time)
    x = x / size
    edge = {"type": "scatter", "mode": "lines", "x": x, "hoverinfo": "skip", "showlegend": False}
    edge |= {"legendgroup": group.name, "line": {"width": 0, "shape": "hv"}}
    return [
        edge | {"y": low},
        edge | {"y": high, "fill": "tonexty", "fillcolor": style.tint(colour, 0.18)},
        line | {"name": f"{name} (median of {len(group.runs)})", "x": x, "y": middle},
    ]


def quartiles(group: Group, by_time: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, lower quartile, median and upper quartile (g,) over the runs, where more than half of them have a value.

    A run that is over keeps its last value; one that goes on says nothing beyond its last result.
    """
    runs = [run for run in group.runs if len(run.best)]
    if not runs:
        return (np.empty(0),) * 4
    places = [run.seconds if by_time else run.trials.astype(float) for run in runs]
    end = max(float(place[-1]) for place in places)
    grid = np.linspace(0.0, end, _GRID) if by_time else np.arange(1.0, end + 1.0)
    if len(grid) > _GRID:
        grid = np.unique(np.linspace(1.0, end, _GRID).round())
    table = np.full((len(runs), len(grid)), np.nan)
    for row, (run, place) in enumerate(zip(runs, places, strict=True)):
        at = np.searchsorted(place, grid, side="right") - 1
        told = (at >= 0) & (run.is_over | (grid <= place[-1]))
        table[row, told] = run.best[at[told]]
    enough = (~np.isnan(table)).sum(axis=0) * 2 > len(group.runs)
    if not enough.any():
        return (np.empty(0),) * 4
    low, middle, high = np.nanquantile(table[:, enough], (0.25, 0.5, 0.75), axis=0)
    return grid[enough], low, middle, high


def parameter_table(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Head and HTML rows: the parameters of each study's best trial, the best study first.

    Marked are those that differ from its own: other choices, and numbers by more than a tenth.
    """
    ordered = sorted(runs, key=lambda run: run.sign * (run.value if run.value is not None else np.inf * run.sign))
    names = list(dict.fromkeys(name for run in ordered for name in run.params))
    rows = []
    for name in names:
        first = ordered[0].params.get(name)
        cells = [f"<b>{_word(first)}</b>"]
        for run in ordered[1:]:
            value = run.params.get(name)
            kind = "am-apart" if _is_apart(value, first) else "am-muted"
            cells.append(f'<span class="{kind}">{_word(value)}</span>')
        rows.append([theme.escape(name), *cells])
    return ["parameter", *(run.name for run in ordered)], rows


def _word(value: Any) -> str:
    return theme.escape(theme.value_text(value))


def _is_apart(value: Any, other: Any) -> bool:
    if isinstance(value, float) and isinstance(other, float):
        return abs(value - other) > _ALIKE * max(abs(value), abs(other))
    return bool(value != other)
