"""The requests of the worker protocol, as the client writes them and the service reads them.

What the service reads is hostile until it has been parsed: unknown fields, numbers of another type, what is not finite,
NUL and lone surrogates are refused, with the name of the field. Reports tell what happened, and a training that
diverged is a fact: there, and in the further metrics of a result, which are what was reported last, the strings "NaN",
"Infinity" and "-Infinity" stand for the floats that JSON does not have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field

from automl.core import Artifact, FailureKind, Load, Outcome, Report, TrialState, WorkerRecord

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

#: Characters of a log's end that travel with a trial's last word.
MAX_LOG = 200_000

_NO_NUL = r"^[^\x00]*$"


def _plain(value: Any) -> Any:
    """Raises `ValueError` for a JSON value that a database may refuse: not finite, a NUL in a text."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be finite")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("must not have a NUL in it")
    if isinstance(value, Mapping):
        for key, item in value.items():
            _plain(key)
            _plain(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _plain(item)
    return value


Token = Annotated[str, Field(pattern=r"^[0-9a-f-]{32,64}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Id = Annotated[int, Field(ge=0, le=2**63 - 1)]
Step = Annotated[int, Field(ge=0, le=2**31 - 1)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Name = Annotated[str, Field(min_length=1, max_length=500, pattern=_NO_NUL)]
Text = Annotated[str, Field(max_length=1_000_000, pattern=_NO_NUL)]
Number = float | Literal["NaN", "Infinity", "-Infinity"]
Json = Annotated[Any, AfterValidator(_plain)]


@dataclass(frozen=True, slots=True)
class Claim:
    __pydantic_config__ = STRICT
    study_ids: Annotated[tuple[Id, ...], Field(max_length=1000)]
    worker: Name
    token: Token  #: chosen by the worker, new for each claim; the same again gives the same lease
    lease_s: Seconds


@dataclass(frozen=True, slots=True)
class Renew:
    __pydantic_config__ = STRICT
    tokens: Annotated[tuple[Token, ...], Field(max_length=1000)]
    lease_s: Seconds


@dataclass(frozen=True, slots=True)
class Reported:
    """A `core.Report`."""

    __pydantic_config__ = STRICT
    step: Step
    value: Number | None = None
    metrics: dict[Name, Number] = field(default_factory=dict)

    def noun(self) -> Report:
        value = None if self.value is None else float(self.value)
        return Report(self.step, value, {name: float(number) for name, number in self.metrics.items()})


Reporteds = Annotated[tuple[Reported, ...], Field(max_length=10_000)]


@dataclass(frozen=True, slots=True)
class Reports:
    __pydantic_config__ = STRICT
    token: Token
    reports: Reporteds


@dataclass(frozen=True, slots=True)
class Describe:
    __pydantic_config__ = STRICT
    token: Token
    params: dict[Name, Json]
    distributions: dict[Name, Text]  #: Optuna's JSON, by parameter


@dataclass(frozen=True, slots=True)
class Held:
    __pydantic_config__ = STRICT
    token: Token


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint whose file was sent; where it lies is the service's business."""

    __pydantic_config__ = STRICT
    token: Token
    step: Step
    sha256: Digest


@dataclass(frozen=True, slots=True)
class Result:
    """A `core.Outcome`."""

    __pydantic_config__ = STRICT
    state: Literal["complete", "pruned"]
    values: Annotated[tuple[float, ...], Field(max_length=100)] | None
    metrics: dict[Name, Number] = field(default_factory=dict)
    params: dict[Name, Json] | None = None
    distributions: dict[Name, Text] | None = None
    artifacts: Annotated[tuple[Artifact, ...], Field(max_length=1000)] = ()
    facts: dict[Name, Json] = field(default_factory=dict)
    constraints: dict[Name, Number] = field(default_factory=dict)

    @classmethod
    def of(cls, outcome: Outcome) -> Result:
        return cls(
            outcome.state.value,  # type: ignore[arg-type]  # what else it could be the service refuses
            outcome.values,
            dict(outcome.metrics),
            None if outcome.params is None else dict(outcome.params),
            None if outcome.distributions is None else dict(outcome.distributions),
            outcome.artifacts,
            dict(outcome.facts),
            dict(outcome.constraints),
        )

    def noun(self) -> Outcome:
        return Outcome(
            TrialState(self.state),
            self.values,
            {name: float(number) for name, number in self.metrics.items()},
            self.params,
            self.distributions,
            self.artifacts,
            self.facts,
            {name: float(number) for name, number in self.constraints.items()},
        )


@dataclass(frozen=True, slots=True)
class Finish:
    __pydantic_config__ = STRICT
    token: Token
    outcome: Result
    reports: Reporteds = ()
    log: Text | None = None  #: the end of what the attempt printed


@dataclass(frozen=True, slots=True)
class Fail:
    __pydantic_config__ = STRICT
    token: Token
    kind: FailureKind
    message: Text
    traceback: Text = ""
    reports: Reporteds = ()
    log: Text | None = None


@dataclass(frozen=True, slots=True)
class Release:
    __pydantic_config__ = STRICT
    token: Token
    log: Text | None = None


@dataclass(frozen=True, slots=True)
class Enroll:
    """A `core.WorkerRecord` without what only the service knows."""

    __pydantic_config__ = STRICT
    name: Name
    host: Name
    pid: Step
    slots: Annotated[tuple[tuple[Name, ...], ...], Field(max_length=1000)]
    load: Load
    environment: Annotated[dict[Name, Name], Field(max_length=200)]
    lease_s: Seconds

    @classmethod
    def of(cls, worker: WorkerRecord) -> Enroll:
        environment = dict(worker.environment)
        return cls(worker.name, worker.host, worker.pid, worker.slots, worker.load, environment, worker.lease_s)

    def noun(self) -> WorkerRecord:
        return WorkerRecord(
            name=self.name,
            host=self.host,
            pid=self.pid,
            slots=self.slots,
            load=self.load,
            environment=self.environment,
            lease_s=self.lease_s,
            draining=False,
            started_at=0.0,  # the database's clock says it, as the next
            seen_at=0.0,
            ended_at=None,
        )


@dataclass(frozen=True, slots=True)
class Beat:
    __pydantic_config__ = STRICT
    name: Name
    load: Load


@dataclass(frozen=True, slots=True)
class Leave:
    __pydantic_config__ = STRICT
    name: Name


@dataclass(frozen=True, slots=True)
class Study:
    __pydantic_config__ = STRICT
    study_id: Id


@dataclass(frozen=True, slots=True)
class Want:
    """Suggestions for so many trials at a time, for so long from now."""

    __pydantic_config__ = STRICT
    study_id: Id
    slots: Annotated[int, Field(ge=0, le=10_000)]
    lease_s: Seconds


@dataclass(frozen=True, slots=True)
class Files:
    """Further files of a finished trial, which were sent before."""

    __pydantic_config__ = STRICT
    trial_id: Id
    files: Annotated[tuple[Artifact, ...], Field(max_length=100)]


def reporteds(reports: Sequence[Report]) -> tuple[Reported, ...]:
    return tuple(Reported(item.step, item.value, dict(item.metrics)) for item in reports)
