"""A trial as Optuna sees it, which keeps the database's text and reads it only where somebody looks.

Ten thousand trials are loaded to look at the values of all and the parameters of some: a row of texts costs a small
part of the dicts that Optuna's own storages make of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from automl.core import Attr, TrialState
from automl.storage.database import dumps, loads

#: What an invalid trial has under `Attr.FAILURE_KIND`.
INVALID = "invalid"

#: What Optuna calls our states. It has no pause, and knows no difference between a failed and a cancelled trial. An
#: invalid one has failed, too.
OPTUNA_STATES: Mapping[str, OptunaState] = MappingProxyType(
    {
        TrialState.WAITING.value: OptunaState.WAITING,
        TrialState.RUNNING.value: OptunaState.RUNNING,
        TrialState.PAUSED.value: OptunaState.RUNNING,
        TrialState.COMPLETE.value: OptunaState.COMPLETE,
        TrialState.PRUNED.value: OptunaState.PRUNED,
        TrialState.FAILED.value: OptunaState.FAIL,
        TrialState.CANCELLED.value: OptunaState.FAIL,
    }
)


class TrialRow(NamedTuple):
    """What the database says of a trial: JSON as text, times in seconds since the epoch."""

    id: int
    number: int
    state: str
    basis: int | None
    params: str
    distributions: Mapping[str, BaseDistribution]  #: shared by all trials that have the same ones
    objectives: str | None
    user_attrs: str
    system_attrs: str
    metrics: str  #: further ones than the study's
    failure_kind: str | None  #: of the last attempt that failed
    attempt: int
    started_at: float | None
    finished_at: float | None
    reports: str | None  #: "step value step value ..."
    invalid: str | None = None  #: why its result counts for nothing

    def as_enqueued(self) -> TrialRow:
        """A suggestion as Optuna would have enqueued it: whoever pops it evaluates the same point."""
        fixed = {**json.loads(self.system_attrs), "fixed_params": json.loads(self.params)}
        return self._replace(params="{}", distributions={}, system_attrs=dumps(fixed))


class LazyTrial(FrozenTrial):
    """A `FrozenTrial` in every respect; a copy or pickle of it is a plain one."""

    def __init__(self, row: TrialRow):
        # Not the base's __init__: an attribute that is not there yet is read by __getattr__ when it is first wanted.
        self._number = row.number
        self._trial_id = row.id
        self.state = OPTUNA_STATES[row.state] if row.invalid is None else OptunaState.FAIL
        self._row = row

    def is_of(self, row: TrialRow) -> bool:
        """Whether `row` says nothing else than this trial was made of."""
        return self._row == row

    def fresh(self) -> LazyTrial:
        """The trial as it was read, sharing nothing that can be changed."""
        return LazyTrial(self._row)

    def __getattr__(self, name: str) -> Any:
        read = _READ.get(name)
        if read is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = read(self._row)
        setattr(self, name, value)
        return value

    def __eq__(self, other: Any) -> bool:
        if not isinstance(other, FrozenTrial):
            return NotImplemented
        return _fields(self) == _fields(other)

    def __hash__(self) -> int:
        return hash(self._plain())

    def __repr__(self) -> str:
        return repr(self._plain())

    def __reduce__(self) -> tuple[Any, ...]:
        return object.__new__, (FrozenTrial,), _fields(self)

    def _plain(self) -> FrozenTrial:
        plain = FrozenTrial.__new__(FrozenTrial)
        plain.__dict__.update(_fields(self))
        return plain


def _fields(trial: FrozenTrial) -> dict[str, Any]:
    if isinstance(trial, LazyTrial):
        return {name: getattr(trial, name) for name in _FIELDS}
    return trial.__dict__


def _params(row: TrialRow) -> dict[str, Any]:
    return loads(row.params)


def _distributions(row: TrialRow) -> dict[str, BaseDistribution]:
    # In the order of the parameters, which the ids' JSON does not keep.
    return {name: row.distributions[name] for name in loads(row.params) if name in row.distributions}


def _values(row: TrialRow) -> list[float] | None:
    if row.objectives is None or row.invalid is not None:
        return None
    return [float(value) for value in loads(row.objectives)]  # PostgreSQL's JSON writes 1e20 as an integer


def _user_attrs(row: TrialRow) -> dict[str, Any]:
    # Further metrics have no other place with Optuna. A fact of the same name was meant as such, and wins.
    return {**loads(row.metrics), **loads(row.user_attrs)}


def _system_attrs(row: TrialRow) -> dict[str, Any]:
    """What was stored, and what a sampler should know of the trial's fate."""
    fate: dict[str, Any] = {}
    if row.invalid is not None:
        fate[Attr.FAILURE_KIND.value] = INVALID
    elif row.state == TrialState.CANCELLED.value:
        fate[Attr.FAILURE_KIND.value] = row.state
    elif row.state == TrialState.FAILED.value and row.failure_kind is not None:
        fate[Attr.FAILURE_KIND.value] = row.failure_kind
    if row.attempt > 1:
        fate[Attr.ATTEMPTS.value] = row.attempt
    return {**loads(row.system_attrs), **fate}


def _intermediate_values(row: TrialRow) -> dict[int, float]:
    # Of an invalid trial none: pruners compare with the reports of failed trials, too.
    parts = row.reports.split() if row.reports and row.invalid is None else []
    return dict(zip(map(int, parts[::2]), map(float, parts[1::2]), strict=True))


def _datetime_start(row: TrialRow) -> datetime | None:
    # Optuna wants a start of whatever has ended: a trial that was cancelled in the queue started and ended at once.
    return _local(row.finished_at if row.started_at is None else row.started_at)


def _datetime_complete(row: TrialRow) -> datetime | None:
    return _local(row.finished_at)


def _local(moment: float | None) -> datetime | None:
    return None if moment is None else datetime.fromtimestamp(moment)  # Optuna's datetimes are naive, in local time


_READ: Mapping[str, Callable[[TrialRow], Any]] = MappingProxyType(
    {
        "_params": _params,
        "_distributions": _distributions,
        "_values": _values,
        "_user_attrs": _user_attrs,
        "_system_attrs": _system_attrs,
        "intermediate_values": _intermediate_values,
        "_datetime_start": _datetime_start,
        "datetime_complete": _datetime_complete,
    }
)

# In the order of FrozenTrial's own __init__, which its repr follows.
_FIELDS = (
    "_number",
    "state",
    "_values",
    "_datetime_start",
    "datetime_complete",
    "_params",
    "_user_attrs",
    "_system_attrs",
    "intermediate_values",
    "_distributions",
    "_trial_id",
)
