"""The trials of a study as columns: what tables and plots are made of, at fifty thousand trials too.

A board is one moment of a study and never changes. `Engine.board` makes one, and brings one up to date by reading what
has changed; where nothing has, it gives back the very same object.

| symbol | meaning                                                          |
|--------|------------------------------------------------------------------|
| n      | trials, by number: row i is trial i                              |
| m      | the study's metrics                                              |
| NaN    | "none" in every column of floats; -1 in every column of integers |
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np

from automl.core import FailureKind, StudyRecord, TrialState

#: What `Board.state` and `Board.failure` count.
STATES: tuple[TrialState, ...] = tuple(TrialState)
FAILURES: tuple[FailureKind, ...] = tuple(FailureKind)


@dataclass(frozen=True, eq=False)
class Column:
    """A parameter or a further metric of all trials: numbers, or places in `choices`."""

    values: np.ndarray  #: (n,) float64; NaN: the trial has none, as where a condition switches it off
    choices: tuple[Any, ...] | None = None  #: of one that is not a number; `values` are their indices then

    def at(self, row: int) -> Any:
        """The value of one trial, None when it has none."""
        value = self.values[row]
        if np.isnan(value):
            return None
        return float(value) if self.choices is None else self.choices[int(value)]


@dataclass(frozen=True, eq=False)
class Board:
    """All trials of `study` at the moment `cursor` of its history."""

    study: StudyRecord
    cursor: int
    state: np.ndarray  #: (n,) int8, places in STATES
    values: np.ndarray  #: (n, m) float64
    last_value: np.ndarray  #: (n,) of the newest report, of running, paused and pruned trials
    step: np.ndarray  #: (n,) int64, of the newest report of the same
    excess: np.ndarray  #: (n,) by how much constraints are violated in sum; where all are kept, the largest of them
    invalid: np.ndarray  #: (n,) bool: marked as such
    attempt: np.ndarray  #: (n,) int16
    failure: np.ndarray  #: (n,) int8, places in FAILURES, of the last attempt that failed
    worker: np.ndarray  #: (n,) int32, places in `workers`
    created: np.ndarray  #: (n,) seconds since the epoch, as the next two
    started: np.ndarray
    finished: np.ndarray
    mean: np.ndarray  #: (n,) of the first metric, as the sampler predicted it
    sd: np.ndarray
    workers: tuple[str, ...] = ()
    params: Mapping[str, Column] = field(default_factory=dict)  #: by name, in declared order
    metrics: Mapping[str, Column] = field(default_factory=dict)  #: further ones than the study's

    def __len__(self) -> int:
        return len(self.state)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Trials by state, and "total"."""
        found = np.bincount(self.state, minlength=len(STATES))
        return {"total": len(self)} | {state.value: int(n) for state, n in zip(STATES, found, strict=True)}

    def is_in(self, *states: TrialState) -> np.ndarray:
        """(n,) bool: which trials are in one of these states."""
        return np.isin(self.state, [STATES.index(state) for state in states])

    @cached_property
    def counted(self) -> np.ndarray:
        """(n,) bool: complete trials with a result that was not marked as invalid."""
        return self.is_in(TrialState.COMPLETE) & ~self.invalid & ~np.isnan(self.values[:, 0])

    @cached_property
    def feasible(self) -> np.ndarray:
        """(n,) bool: which keep their constraints; those without any do."""
        return ~(self.excess > 0)

    @cached_property
    def duration_s(self) -> np.ndarray:
        """(n,) seconds from the first start to the end."""
        return self.finished - self.started

    @property
    def signs(self) -> np.ndarray:
        """(m,) what a metric is multiplied with so that small is good."""
        return np.array([-1.0 if direction == "maximize" else 1.0 for direction in self.study.directions])

    @cached_property
    def ranking(self) -> np.ndarray:
        """(k,) rows of the counted trials by the first metric, the best first; infeasible ones last, by their excess.

        The order of `Engine.best_trials`.
        """
        rows = np.flatnonzero(self.counted)
        over = np.where(self.feasible[rows], 0.0, self.excess[rows])
        return rows[np.lexsort((rows, self.values[rows, 0] * self.signs[0], over))]

    @property
    def best(self) -> int | None:
        """The row of the best trial, None when there is none."""
        return int(self.ranking[0]) if len(self.ranking) else None

    @cached_property
    def by_finish(self) -> np.ndarray:
        """(k,) rows of the counted and feasible trials in the order in which they ended."""
        rows = np.flatnonzero(self.counted & self.feasible)
        return rows[np.argsort(self.finished[rows], kind="stable")]

    @cached_property
    def best_so_far(self) -> np.ndarray:
        """(k,) the best value of the first metric when each trial of `by_finish` had ended."""
        sign = self.signs[0]
        return sign * np.minimum.accumulate(sign * self.values[self.by_finish, 0])

    @cached_property
    def front(self) -> np.ndarray:
        """(k,) rows of the counted and feasible trials that no other one beats in every metric, by the first metric."""
        rows = np.flatnonzero(self.counted & self.feasible & ~np.isnan(self.values).any(axis=1))
        costs = self.values[rows] * self.signs
        return rows[_undominated(costs)]

    def replaced(self, **changes: Any) -> Board:
        """Another board with these fields, and nothing of what this one has worked out."""
        return Board(**{item.name: changes.get(item.name, getattr(self, item.name)) for item in fields(self)})


def _undominated(costs: np.ndarray) -> np.ndarray:
    """Which rows of `costs` (k, m) no other one beats, by the first column, then the next; of equal ones all."""
    order = np.lexsort(costs.T[::-1])  # stable
    ordered = costs[order]
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    distinct = ordered[is_new]
    kept = _by_stairs(distinct) if costs.shape[1] <= 3 else _by_filter(distinct)
    return order[kept[np.cumsum(is_new) - 1]]


def _by_stairs(costs: np.ndarray) -> np.ndarray:
    """(k,) bool for distinct rows in order: a sweep that keeps the front of the second and third column, as stairs."""
    kept = np.zeros(len(costs), dtype=bool)
    padded = np.zeros((len(costs), 3))
    padded[:, : costs.shape[1]] = costs
    seconds: list[float] = []  # rising
    thirds: list[float] = []  # falling
    for row, (second, third) in enumerate(zip(padded[:, 1].tolist(), padded[:, 2].tolist(), strict=True)):
        at = bisect_right(seconds, second)
        if at and thirds[at - 1] <= third:
            continue
        kept[row] = True
        at = bisect_left(seconds, second)
        end = at
        while end < len(thirds) and thirds[end] >= third:
            end += 1
        seconds[at:end], thirds[at:end] = [second], [third]
    return kept


def _by_filter(costs: np.ndarray) -> np.ndarray:
    """(k,) bool for distinct rows in order: the first that is left is beaten by none, and takes out what it beats."""
    kept = np.zeros(len(costs), dtype=bool)
    left = np.arange(len(costs))
    while len(left):
        kept[left[0]] = True
        left = left[(costs[left] < costs[left[0]]).any(axis=1)]
    return kept


@dataclass(frozen=True, eq=False)
class Curve:
    """What one trial reported, step by step."""

    steps: np.ndarray  #: (k,) int64
    values: np.ndarray  #: (k,) the first metric
    metrics: Mapping[str, np.ndarray] = field(default_factory=dict)  #: (k,) each, further ones


@dataclass(frozen=True, slots=True)
class Segment:
    """What a slot of a worker did for a while: one attempt of a trial. Seconds since the epoch."""

    worker: str
    number: int
    attempt: int
    started_at: float
    ended_at: float | None  #: None: it runs
    ended_by: str | None  #: "complete", "pruned", "failed", "cancelled", "paused", or why it waits again ("lost", ...)


@dataclass(frozen=True, slots=True)
class Overview:
    """A study among others."""

    study: StudyRecord
    counts: Mapping[str, int]  #: trials by state, and "total"
    best: float | None  #: value of the first metric
    best_number: int | None
    trend: tuple[float, ...]  #: the best value so far, from the first result to the last, at most 60 of them
    workers: int  #: that run its trials now
    seconds_left: float | None
    last_active_at: float  #: seconds since the epoch


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model expects of a point. In units of the study's first metric."""

    mean: float
    sd: float
    feasible: float | None  #: the probability of a result that keeps all constraints; None where none ever failed to
    minutes: float | None  #: that a trial takes; None: too few have ended
