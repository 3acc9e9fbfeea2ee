"""What a study's trials say, as arrays.

| symbol | shape  | meaning                                                                       |
|--------|--------|-------------------------------------------------------------------------------|
| x      | (n, d) | points that have a result, in the order of their trials                       |
| values | (n, k) | their results, one column for each metric, signed so that small is good       |
| slack  | (n, c) | their constraints, feasible where <= 0; NaN where a trial has not set one     |
| cost   | (n,)   | what each took, in any unit; NaN where unknown                                |
| failed | (f, d) | points that cannot be evaluated, by their own fault                           |
| pending| (p, d) | points under evaluation                                                       |

`Reader` keeps what it has parsed, so that only what is new is parsed, and a suggestion after ten thousand trials costs
a few milliseconds. What it returns depends on the trials alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from automl.core import Attr, FailureKind
from automl.declaration import Space
from automl.search.cube import unit
from automl.search.encoding import Encoding
from automl.search.learnt import LearntSpace

#: These say something about the parameters; a lost machine does not.
TELLING_FAILURES = frozenset(
    {FailureKind.ERROR, FailureKind.OUT_OF_MEMORY, FailureKind.NON_FINITE, FailureKind.TIMEOUT}
)
#: What a trial is to the search.
_NOTHING, _DONE, _FAILED, _PENDING = range(4)


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


class Reader:
    """Trials to arrays, with a memory of the trials that are over."""

    def __init__(self, space: Space | None = None, cost: str | None = None):
        """`cost`: "seconds" (how long a trial took) or a user attribute; None: none."""
        self._cost = cost
        self._learnt = LearntSpace() if space is None else None
        self._forget(Encoding.of(space) if space is not None else None)

    def _forget(self, encoding: Encoding | None) -> None:
        self._encoding = encoding
        self._over: dict[int, FrozenTrial] = {}
        self._table: _Table | None = None

    def read(self, trials: Iterable[FrozenTrial], directions: Sequence[StudyDirection]) -> Observations | None:
        """The arrays of `trials`; None while nothing is known of the space."""
        trials = list(trials)
        if self._learnt is not None:
            encoding = self._learnt.after(trials)
            if encoding is None:
                return None
            if self._encoding is None or not encoding.same_as(self._encoding):
                self._forget(encoding)
        assert self._encoding is not None
        signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
        if self._table is None:
            self._table = _Table(self._encoding.d, len(signs))
        numbers = [trial.number for trial in trials]
        for trial, known in zip(trials, map(self._over.get, numbers), strict=True):
            if trial is not known:
                self._parse(trial, signs, self._table)
        return self._table.observations(self._encoding, np.array(numbers, dtype=int))

    def _parse(self, trial: FrozenTrial, signs: Sequence[float], table: _Table) -> None:
        """`trial` as a row of the table."""
        row = table.blank_row(trial.number)
        x = self._point(trial) if trial.state != TrialState.WAITING else None
        if trial.state.is_finished():
            self._over[trial.number] = trial
        if x is None:
            return
        table.x[row] = x
        table.cost[row] = self._cost_of(trial)
        if trial.state == TrialState.RUNNING:
            table.kind[row] = _PENDING
        elif trial.state == TrialState.COMPLETE and trial.values is not None and not any(map(math.isnan, trial.values)):
            table.kind[row] = _DONE
            table.values[row] = [sign * float(value) for sign, value in zip(signs, trial.values, strict=True)]
            for name, slack in trial.constraints.items():
                table.slack_of(name)[row] = slack
        elif _is_telling(trial):
            table.kind[row] = _FAILED
        curve = _curve(trial, x, signs)
        if curve is not None:
            table.curves[row] = curve

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
            waited = Attr.ATTEMPTS in trial.system_attrs  # what passed since it was started was not all work
            return math.nan if waited or trial.duration is None else trial.duration.total_seconds()
        value = trial.user_attrs.get(self._cost)
        return float(value) if isinstance(value, int | float) and value > 0 else math.nan


class _Table:
    """Parsed trials, a row for each number. The arrays have room for more."""

    def __init__(self, d: int, k: int):
        self.x = np.empty((0, d))
        self.values = np.empty((0, k))
        self.cost = np.empty(0)
        self.kind = np.empty(0, dtype=np.int8)
        self.slack: dict[str, np.ndarray] = {}
        self.curves: dict[int, Curve] = {}

    def blank_row(self, number: int) -> int:
        """The row of trial `number`, made empty."""
        room = max(64, 2 * number) - len(self.kind)
        if number >= len(self.kind):
            self.x = np.pad(self.x, ((0, room), (0, 0)))
            self.values = np.pad(self.values, ((0, room), (0, 0)))
            self.cost = np.pad(self.cost, (0, room))
            self.kind = np.pad(self.kind, (0, room))
            self.slack = {
                name: np.pad(slack, (0, room), constant_values=math.nan) for name, slack in self.slack.items()
            }
        self.kind[number] = _NOTHING
        for slack in self.slack.values():
            slack[number] = math.nan
        self.curves.pop(number, None)
        return number

    def slack_of(self, name: str) -> np.ndarray:
        """The column of a constraint."""
        return self.slack.setdefault(name, np.full(len(self.kind), math.nan))

    def observations(self, encoding: Encoding, rows: np.ndarray) -> Observations:
        """Of the trials with these numbers."""
        kind = self.kind[rows]
        done, failed, pending = (rows[kind == which] for which in (_DONE, _FAILED, _PENDING))
        slack = {name: column[done] for name, column in sorted(self.slack.items())}
        told = {name: column for name, column in slack.items() if not np.isnan(column).all()}
        return Observations(
            encoding=encoding,
            x=self.x[done],
            values=self.values[done],
            slack=np.stack(list(told.values()), axis=1) if told else np.empty((len(done), 0)),
            constraint_names=tuple(told),
            cost=self.cost[done],
            failed=self.x[failed],
            pending=self.x[pending],
            curves=tuple(self.curves[row] for row in rows.tolist() if row in self.curves) if self.curves else (),
        )


def _is_telling(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.COMPLETE:
        return True  # its result is NaN
    # A plain Optuna program's failure has no kind, and its parameters are to blame.
    kind = trial.system_attrs.get(Attr.FAILURE_KIND, FailureKind.ERROR)
    return trial.state == TrialState.FAIL and kind in TELLING_FAILURES


def _curve(trial: FrozenTrial, x: np.ndarray, signs: Sequence[float]) -> Curve | None:
    if len(signs) > 1 or trial.state == TrialState.FAIL:
        return None
    reports = sorted((s, signs[0] * v) for s, v in trial.intermediate_values.items() if math.isfinite(v))
    if not reports:
        return None
    steps, values = zip(*reports, strict=True)
    return Curve(x, np.array(steps, dtype=float), np.array(values), trial.state.is_finished())
