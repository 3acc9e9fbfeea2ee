"""What a study's trials say, as arrays.

| symbol | shape  | meaning                                                                       |
|--------|--------|-------------------------------------------------------------------------------|
| x      | (n, d) | points that have a result, in the order of their trials                       |
| values | (n, k) | their results, one column for each metric, signed so that small is good       |
| slack  | (n, c) | their constraints, feasible where <= 0; NaN where a trial has not set one     |
| cost   | (n,)   | what each took, in any unit; NaN where unknown                                |
| failed | (f, d) | points that cannot be evaluated, by their own fault                           |
| pending| (p, d) | points under evaluation                                                       |

`Reader` keeps the arrays of trials that are over, so that only what is new is parsed. What it returns depends on the
trials alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from automl.core import FailureKind
from automl.declaration import Space
from automl.search.cube import unit
from automl.search.encoding import Encoding

#: Trial system attribute with the `FailureKind` of a failed trial. A failed trial without one is a plain Optuna
#: program's, and its parameters are to blame.
FAILURE_KIND = "automl:failure_kind"
#: These say something about the parameters; a lost machine does not.
_TELLING_FAILURES = frozenset(
    {FailureKind.ERROR, FailureKind.OUT_OF_MEMORY, FailureKind.NON_FINITE, FailureKind.TIMEOUT}
)
#: A parent with more values than this is no switch.
_MAX_SWITCH_VALUES = 64


@dataclass(frozen=True, slots=True)
class Curve:
    """The reports of one trial at a point `x` (d,): `values` (s,), small is good, at `steps` (s,), rising."""

    x: np.ndarray
    steps: np.ndarray
    values: np.ndarray
    is_over: bool


@dataclass(frozen=True)
class Observations:
    """All that a suggestion is based on. Symbols as above; `curves` has every trial that reported."""

    encoding: Encoding
    x: np.ndarray
    values: np.ndarray
    slack: np.ndarray
    constraint_names: tuple[str, ...]
    cost: np.ndarray
    failed: np.ndarray
    pending: np.ndarray
    curves: tuple[Curve, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class _Row:
    """One trial, parsed. `values` is None without a result."""

    trial: FrozenTrial
    state: TrialState
    x: np.ndarray
    values: tuple[float, ...] | None
    slack: Mapping[str, float]
    cost: float
    curve: Curve | None


class Reader:
    """Trials to arrays, with a memory of the trials that are over."""

    def __init__(self, space: Space | None = None, cost: str | None = None):
        """`cost`: "seconds" (how long a trial took) or a user attribute; None: none."""
        self._space = space
        self._cost = cost
        self._encoding: Encoding | None = Encoding.of(space) if space is not None else None
        self._rows: dict[int, _Row] = {}

    def read(self, trials: Iterable[FrozenTrial], directions: Sequence[StudyDirection]) -> Observations | None:
        """The arrays of `trials`; None while nothing is known of the space."""
        trials = list(trials)
        if self._space is None:
            encoding = learn(trials)
            if encoding is None:
                return None
            if self._encoding is None or not encoding.same_as(self._encoding):
                self._encoding, self._rows = encoding, {}
        assert self._encoding is not None
        signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
        rows = [row for trial in trials if (row := self._row(trial, signs)) is not None]
        return self._assemble(rows, len(signs))

    def _row(self, trial: FrozenTrial, signs: Sequence[float]) -> _Row | None:
        known = self._rows.get(trial.number)
        if known is not None and known.trial is trial and known.state == trial.state:
            return known
        if trial.state == TrialState.WAITING:
            return None
        x = self._point(trial)
        if x is None:
            return None
        values = None
        if trial.state == TrialState.COMPLETE and trial.values is not None and not any(map(math.isnan, trial.values)):
            values = tuple(sign * float(value) for sign, value in zip(signs, trial.values, strict=True))
        over = trial.state.is_finished()
        slack = trial.constraints if over else {}
        row = _Row(trial, trial.state, x, values, slack, self._cost_of(trial), _curve(trial, x, signs, over))
        if over:
            self._rows[trial.number] = row
        return row

    def _point(self, trial: FrozenTrial) -> np.ndarray | None:
        assert self._encoding is not None
        x = np.full(self._encoding.d, np.nan)
        for j, (name, domain) in enumerate(zip(self._encoding.names, self._encoding.domains, strict=True)):
            if name not in trial.params:
                continue
            value = trial.params[name]
            if hasattr(domain, "choices") and value not in domain.choices:
                return None  # of a space that had more choices
            x[j] = unit(domain, value)
        return x if not np.isnan(x).all() else None

    def _cost_of(self, trial: FrozenTrial) -> float:
        if self._cost is None:
            return math.nan
        if self._cost == "seconds":
            return trial.duration.total_seconds() if trial.duration is not None else math.nan
        value = trial.user_attrs.get(self._cost)
        return float(value) if isinstance(value, int | float) and value > 0 else math.nan

    def _assemble(self, rows: Sequence[_Row], k: int) -> Observations:
        assert self._encoding is not None
        d = self._encoding.d
        done = [row for row in rows if row.values is not None]
        failed = [row.x for row in rows if row.values is None and _is_telling(row.trial)]
        pending = [row.x for row in rows if row.state == TrialState.RUNNING]
        names = tuple(dict.fromkeys(name for row in done for name in row.slack))
        return Observations(
            encoding=self._encoding,
            x=np.array([row.x for row in done]).reshape(-1, d),
            values=np.array([row.values for row in done]).reshape(-1, k),
            slack=np.array([[row.slack.get(name, math.nan) for name in names] for row in done]).reshape(
                len(done), len(names)
            ),
            constraint_names=names,
            cost=np.array([row.cost for row in done]),
            failed=np.array(failed).reshape(-1, d),
            pending=np.array(pending).reshape(-1, d),
            curves=tuple(row.curve for row in rows if row.curve is not None),
        )


def _is_telling(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.COMPLETE:
        return True  # its result is NaN
    return trial.state == TrialState.FAIL and trial.system_attrs.get(FAILURE_KIND, "error") in _TELLING_FAILURES


def _curve(trial: FrozenTrial, x: np.ndarray, signs: Sequence[float], over: bool) -> Curve | None:
    if len(signs) > 1 or trial.state == TrialState.FAIL:
        return None
    reports = sorted((s, signs[0] * v) for s, v in trial.intermediate_values.items() if math.isfinite(v))
    if not reports:
        return None
    return Curve(x, np.array([s for s, _ in reports], float), np.array([v for _, v in reports]), over)


# -- a space that nobody declared ---------------------------------------------------------------------------------


def learn(trials: Sequence[FrozenTrial]) -> Encoding | None:
    """The space that these trials were drawn from: the union of their parameters; None when there are none.

    A parameter that some trials lack is conditional. Its parents are found where the values of one other parameter
    tell the trials that have it from those that have it not; where none does, it counts as active everywhere. The
    latest distribution of a name is the one that counts.
    """
    domains: dict[str, BaseDistribution] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            known = domains.get(name)
            if known is None or type(known) is type(distribution):
                domains[name] = distribution
    if not domains:
        return None
    drawn = [trial.params for trial in trials if trial.params]
    # A parent is asked for before its child, and at least as often.
    often = {name: sum(name in params for params in drawn) for name in domains}
    position = {name: i for i, name in enumerate(domains)}
    names = sorted(domains, key=lambda name: (-often[name], position[name]))
    conditions: list[tuple[tuple[int, np.ndarray], ...]] = []
    for j, name in enumerate(names):
        found = None if often[name] == len(drawn) else _switch(name, names[:j], domains, drawn)
        conditions.append(() if found is None else (found,))
    sometimes = frozenset(
        name for name, held in zip(names, conditions, strict=True) if not held and often[name] < len(drawn)
    )
    return Encoding(tuple(names), tuple(domains[name] for name in names), tuple(conditions), sometimes)


def _switch(
    name: str, parents: Sequence[str], domains: Mapping[str, BaseDistribution], drawn: Sequence[Mapping[str, Any]]
) -> tuple[int, np.ndarray] | None:
    """The parent of which some values come with `name` and the others without it."""
    for i, parent in enumerate(parents):
        if not isinstance(domains[parent], CategoricalDistribution) and domains[parent].__class__.__name__[0] != "I":
            continue
        with_child = {params.get(parent) for params in drawn if name in params}
        without = {params.get(parent) for params in drawn if name not in params and parent in params}
        if None in with_child and not any(parent in p and p[parent] is None for p in drawn if name in p):
            continue  # seen without this parent
        if without and not with_child & without and len(with_child) <= _MAX_SWITCH_VALUES:
            values = [v for v in with_child if _holds(domains[parent], v)]
            if values:
                return i, np.sort(np.array([unit(domains[parent], value) for value in values]))
    return None


def _holds(domain: Any, value: Any) -> bool:
    return value in domain.choices if hasattr(domain, "choices") else domain.low <= value <= domain.high
