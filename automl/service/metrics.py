"""Figures in the text format that Prometheus reads: counters, gauges, histograms.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

#: Upper ends of the classes of a duration, in seconds.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

Labels = Mapping[str, str]


@dataclass
class Histogram:
    """How many values fell into each class; `counts` has one more than `bounds`, for what is above all of them."""

    bounds: Sequence[float] = SECONDS
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def to_json(self) -> dict[str, Any]:
        """As a duty keeps it in its cursor, from where another process can show it."""
        return {"bounds": list(self.bounds), "counts": list(self.counts), "sum": self.sum}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Histogram:
        return cls(tuple(kept["bounds"]), list(kept["counts"]), kept["sum"])


class Requests:
    """How many requests were answered how, and how long it took: by route and by status. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._seconds: defaultdict[tuple[str, str], Histogram] = defaultdict(Histogram)

    def add(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is a template: what clients choose must not become a label."""
        with self._lock:
            self._counts[method, route, status] += 1
            self._seconds[method, route].add(seconds)

    def lines(self) -> list[str]:
        with self._lock:
            counts = [
                ({"method": method, "route": route, "status": str(status)}, float(n))
                for (method, route, status), n in sorted(self._counts.items())
            ]
            seconds = [
                ({"method": method, "route": route}, Histogram.from_json(found.to_json()))
                for (method, route), found in sorted(self._seconds.items())
            ]
        return [
            *family("automl_http_requests_total", "counter", "Requests that were answered.", counts),
            *histograms("automl_http_request_seconds", "What they took, until their answer began.", seconds),
        ]


def family(name: str, kind: str, about: str, samples: Iterable[tuple[Labels, float]]) -> list[str]:
    """All samples of one figure; kind: "counter" or "gauge"."""
    head = [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
    return head + [f"{name}{_labels(labels)} {_number(value)}" for labels, value in samples]


def histograms(name: str, about: str, samples: Iterable[tuple[Labels, Histogram]]) -> list[str]:
    lines = [f"# HELP {name} {about}", f"# TYPE {name} histogram"]
    for labels, found in samples:
        total = 0
        for bound, count in zip([*map(_number, found.bounds), "+Inf"], found.counts, strict=True):
            total += count
            lines.append(f"{name}_bucket{_labels({**labels, 'le': bound})} {total}")
        lines += [f"{name}_sum{_labels(labels)} {_number(found.sum)}", f"{name}_count{_labels(labels)} {total}"]
    return lines


def _labels(labels: Labels) -> str:
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
