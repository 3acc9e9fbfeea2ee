"""What each slot of each worker did, attempt by attempt: gaps are idle time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from automl.board import Segment
from automl.display import format_duration
from dashboard.figures import style
from dashboard.figures.common import Figure, plain_text
from dashboard.theme import Palette

#: Ends that are nobody's result: the trial waits again, for another attempt.
_STATES = ("complete", "pruned", "failed", "cancelled", "paused")
_BAR_PX, _AROUND_PX = 26, 76


def kind(segment: Segment) -> str:
    """How an attempt ended, in the words of the legend."""
    if segment.ended_at is None:
        return "running"
    if segment.ended_by in _STATES:
        return str(segment.ended_by)
    return "preempted" if segment.ended_by in ("released", "preempted") else "tried again"


def idle_shares(segments: Sequence[Segment], now: float) -> dict[str, float]:
    """Of each slot: the share of its time, from its first attempt here to the end of the window, that it did nothing.

    The window ends `now` when anything runs, else with the last attempt.
    """
    if not segments:
        return {}
    end = _window_end(segments, now)
    shares = {}
    for worker, parts in _by_worker(segments).items():
        begun = min(part.started_at for part in parts)
        busy = _covered([(part.started_at, now if part.ended_at is None else part.ended_at) for part in parts])
        shares[worker] = 1.0 - min(busy / (end - begun), 1.0) if end > begun else 0.0
    return shares


def legend(segments: Sequence[Segment], colours: Palette) -> list[tuple[str, str]]:
    """The kinds of ends that are there, with their colours."""
    there = {kind(segment) for segment in segments}
    return [(name, str(look["color"])) for name, look in _looks(colours).items() if name in there]


def timeline(segments: Sequence[Segment], colours: Palette, now: float, offset_s: float = 0.0) -> Figure:
    """Bars by slot and time. `now`: seconds since the epoch; `offset_s`: what the reader's clock is ahead of UTC."""
    workers = sorted({segment.worker for segment in segments})
    place = {worker: len(workers) - 1 - i for i, worker in enumerate(workers)}
    idle = idle_shares(segments, now)
    looks = _looks(colours)
    traces = []
    for name, look in looks.items():
        parts = [segment for segment in segments if kind(segment) == name]
        if parts:
            traces.append(_bars(name, parts, look, place, now, offset_s))
    if later := [segment for segment in segments if segment.attempt > 1]:
        traces.append(_later_attempts(later, colours, place, offset_s))
    end = _window_end(segments, now)
    begin = min((segment.started_at for segment in segments), default=end - 1.0)
    room = 0.02 * max(end - begin, 1.0)
    return {
        "data": traces,
        "layout": style.layout(
            colours,
            _AROUND_PX + max(2, len(workers)) * _BAR_PX,
            margin={"l": 8, "r": 74, "t": 8, "b": 8},
            showlegend=False,  # it is in the page, where it wraps: on a phone it would cover the bars
            barmode="overlay",
            bargap=0.3,
            xaxis={"type": "date", "range": [1e3 * (begin - room + offset_s), 1e3 * (end + room + offset_s)]},
            yaxis={
                "tickvals": list(place.values()),
                "ticktext": [plain_text(worker, 24) for worker in place],
                "range": [-0.6, max(1, len(workers) - 1) + 0.6],
                "showgrid": False,
                "fixedrange": True,
            },
            annotations=[
                {
                    "xref": "paper",
                    "x": 1.0,
                    "xanchor": "left",
                    "xshift": 8,
                    "y": place[worker],
                    "text": f"idle {100 * idle[worker]:.0f} %",
                    "showarrow": False,
                    "font": {"size": 11, "color": colours.warn if idle[worker] > 0.2 else colours.muted},
                }
                for worker in workers
            ],
        ),
    }


def _looks(colours: Palette) -> Mapping[str, Figure]:
    """Colour and pattern of each kind of end, in the order of the legend."""
    return {
        "complete": {"color": colours.complete},
        "pruned": {"color": colours.pruned},
        "failed": {"color": colours.failed},
        "cancelled": {"color": colours.cancelled},
        "paused": {"color": colours.paused},
        "running": {"color": colours.running},
        "tried again": _hatched(colours.failed, "/"),
        "preempted": _hatched(colours.waiting, "x"),
    }


def _hatched(colour: str, shape: str) -> Figure:
    return {
        "color": colour,
        "pattern": {
            "shape": shape,
            "fillmode": "replace",
            "fgcolor": colour,
            "bgcolor": style.tint(colour, 0.25),
            "size": 6,
            "solidity": 0.5,
        },
    }


def _later_attempts(parts: Sequence[Segment], colours: Palette, place: Mapping[str, int], offset_s: float) -> Figure:
    """A mark where a trial began again."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "second or later attempt",
        "x": 1e3 * (np.array([part.started_at for part in parts]) + offset_s),
        "y": np.array([place[part.worker] for part in parts]) + 0.42,
        "marker": {"symbol": "triangle-down", "size": 8, "color": colours.text},
        "customdata": np.array([part.number for part in parts]),
        "hovertemplate": "Trial %{customdata} again<extra></extra>",
    }


def _bars(
    name: str, parts: Sequence[Segment], look: Figure, place: Mapping[str, int], now: float, offset_s: float
) -> Figure:
    begins = np.array([part.started_at for part in parts])
    ends = np.array([now if part.ended_at is None else part.ended_at for part in parts])
    why = "" if name in (*_STATES, "running") else "<br>"
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "base": 1e3 * (begins + offset_s),
        "x": 1e3 * np.maximum(ends - begins, 1e-3),
        "y": np.array([place[part.worker] for part in parts]),
        "width": 0.7,
        "marker": look | {"line": {"width": 0}},
        "customdata": np.array([part.number for part in parts]),
        "text": [
            f"<b>Trial {part.number}</b>"
            + (f", attempt {part.attempt}" if part.attempt > 1 else "")
            + f"<br>{format_duration(float(end - begin))}"
            + (f"{why}{plain_text(part.ended_by)}" if why and part.ended_by else "")
            for part, begin, end in zip(parts, begins, ends, strict=True)
        ],
        "textposition": "none",
        "hovertemplate": "%{text}<extra>" + name + "</extra>",
    }


def _window_end(segments: Sequence[Segment], now: float) -> float:
    return max((now if part.ended_at is None else part.ended_at for part in segments), default=now)


def _by_worker(segments: Sequence[Segment]) -> dict[str, list[Segment]]:
    found: dict[str, list[Segment]] = {}
    for segment in segments:
        found.setdefault(segment.worker, []).append(segment)
    return found


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """The length of the union of spans."""
    total, reached = 0.0, -np.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
