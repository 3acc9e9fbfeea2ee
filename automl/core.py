"""The nouns that every layer shares: states and their moves, leases, reports, outcomes, records.

Standard library only, no I/O. What a user *declares* is in `declaration.py`; these are what the system *keeps*.

Life of a trial::

    WAITING ──claim──▶ RUNNING ──finish──▶ COMPLETE | PRUNED
       ▲                 │ │ └───fail────▶ FAILED
       │                 │ └──pause──▶ PAUSED
       └─lost, released, retried, resumed─┘         any unfinished ──cancel──▶ CANCELLED
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Protocol


class TrialState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_finished(self) -> bool:
        return not MOVES[self]


_S = TrialState
#: The only moves there are. The database refuses any other by a trigger, and a test compares the two.
MOVES: Mapping[TrialState, frozenset[TrialState]] = MappingProxyType(
    {
        _S.WAITING: frozenset({_S.RUNNING, _S.CANCELLED}),
        _S.RUNNING: frozenset({_S.COMPLETE, _S.PRUNED, _S.FAILED, _S.PAUSED, _S.WAITING, _S.CANCELLED}),
        _S.PAUSED: frozenset({_S.WAITING, _S.CANCELLED}),
        _S.COMPLETE: frozenset(),
        _S.PRUNED: frozenset(),
        _S.FAILED: frozenset(),
        _S.CANCELLED: frozenset(),
    }
)


class StudyState(StrEnum):
    OPEN = "open"  # more trials may come
    FINISHED = "finished"  # the budget is used and every trial is over
    STOPPED = "stopped"  # somebody said so; running it again opens it
    FAILED = "failed"  # its trials cannot work; `reason` says why


class FailureKind(StrEnum):
    """Why an attempt ended without a result. Only `ERROR` uses up a trial's retries."""

    ERROR = "error"  # the training function raised, or its process died by its own doing
    OUT_OF_MEMORY = "out_of_memory"
    NON_FINITE = "non_finite"  # NaN or infinity as a result
    TIMEOUT = "timeout"  # ran longer than Resources(timeout_s=...)
    LOST = "lost"  # the machine, the worker or the trial's process was killed from outside
    PREEMPTED = "preempted"  # handed back on purpose (Ctrl-C, SIGTERM); costs nothing


#: What Optuna's system attribute of a constraint begins with; its name follows.
CONSTRAINT = "constraints:"

#: A trial that took its worker down this often, on two workers or more, is not tried again.
MAX_LOSSES = 5


class Attr(StrEnum):
    """Our keys among the system attributes that Optuna's samplers read and write."""

    WHY = "automl:why"  # of a trial: why its point was suggested, an object of the sampler's
    FAILURE_KIND = "automl:failure_kind"  # of a failed trial: a `FailureKind`, "cancelled" or "invalid"
    ATTEMPTS = "automl:attempts"  # of a trial that took several: what passed since its start was not all work
    SOURCES = "automl:sources"  # of a study: the past studies that it learns from
    CANDIDATE = "automl:candidate"  # of a confirmation's trial: the number of the trial that it runs again
    INCUMBENT = "automl:incumbent"  # of a scheduled study: which trial runs the champion again, and whence it is


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where an attempt can go on from. `step` is the last step that is inside."""

    step: int
    path: str  #: relative to the artifact root
    sha256: str


@dataclass(frozen=True, slots=True)
class Lease:
    """The permission to advance one trial, as given to one worker. Every write carries `token`."""

    token: str
    study_id: int
    trial_id: int
    number: int
    attempt: int  #: 1, 2, ...; never reset: the fencing number
    params: Mapping[str, Any]
    distributions: Mapping[str, str]  #: Optuna distribution JSON by parameter
    checkpoint: Checkpoint | None


@dataclass(frozen=True, slots=True)
class Report:
    """Metrics at one step. `value` is the objective's, None where only further metrics were given."""

    step: int
    value: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A stored file of a trial."""

    name: str
    sha256: str
    size: int  #: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial came to. `params` and `distributions` are what a define-by-run function really asked for."""

    state: TrialState  #: COMPLETE or PRUNED
    values: tuple[float, ...] | None  #: one per metric of the study, in its order
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, Any] | None = None
    distributions: Mapping[str, str] | None = None
    artifacts: tuple[Artifact, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)  #: what `trial.log(key=value)` noted
    constraints: Mapping[str, float] = field(default_factory=dict)  #: by name; kept where it is 0 or less


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt failed. `message` is one line."""

    kind: FailureKind
    message: str
    traceback: str = ""

    @property
    def digest(self) -> str:
        """Equal for failures at the same place of the same kind; without a traceback, of the same message.

        Numbers in messages do not count: another trial's wrong shape or result has others.
        """
        places = [line for line in self.traceback.splitlines() if line.startswith("  File ")]
        text = "\n".join(places) + re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?", "0", self.message)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """A trial as readers see it. Times are seconds since the epoch, by the database's clock."""

    id: int
    number: int
    state: TrialState
    params: Mapping[str, Any]
    values: tuple[float, ...] | None
    metrics: Mapping[str, float]
    attempt: int
    worker: str | None
    failure: Failure | None
    started_at: float | None
    finished_at: float | None
    step: int | None = None  #: last reported
    last_value: float | None = None  #: reported at that step
    facts: Mapping[str, Any] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)  #: by name; kept where it is 0 or less
    why: Mapping[str, Any] = field(default_factory=dict)  #: why this point was suggested, as its sampler noted it
    invalid: str | None = None  #: why its result counts for nothing; None: it counts

    @property
    def violated(self) -> tuple[str, ...]:
        """The constraints that it does not keep; it is feasible when there are none."""
        return tuple(name for name, value in self.constraints.items() if not value <= 0)

    @property
    def value(self) -> float | None:
        return self.values[0] if self.values else None

    @property
    def duration_s(self) -> float | None:
        return self.finished_at - self.started_at if self.finished_at and self.started_at else None


@dataclass(frozen=True, slots=True)
class StudyRecord:
    """A study as the system keeps it. `spec` is None for one that a plain Optuna program made."""

    id: int
    name: str
    state: StudyState
    reason: str | None
    directions: tuple[str, ...]  #: "minimize" | "maximize", one per metric
    spec: Mapping[str, Any] | None  #: `declaration.StudySpec` as JSON
    entrypoint: str | None  #: FILE:NAME that workers load; None when the code lives in one process only
    code_sha256: str | None
    queued: bool
    active_s: float  #: seconds that somebody searched
    created_at: float
    paused: bool = False  #: open, but no trial is started
    archived: bool = False
    tags: tuple[str, ...] = ()
    origin_id: int | None = None  #: the study that this one confirms
    package_sha256: str | None = None  #: the code that came with it, see `team.Package`

    @property
    def metric_names(self) -> tuple[str, ...]:
        if self.spec:
            return tuple(self.spec["metrics"])
        return tuple(f"value_{i}" if i else "value" for i in range(len(self.directions)))

    @property
    def is_to_be_confirmed(self) -> bool:
        """Whether its declaration asks for a confirmation of its best trials when it is finished."""
        return bool(self.spec and self.spec.get("confirm"))


@dataclass(frozen=True, slots=True)
class Load:
    """What a machine is busy with; shares are in [0, 1], memory in bytes. None: unknown."""

    cpu: float | None = None
    memory: float | None = None
    gpus: tuple[Mapping[str, Any], ...] = ()  #: name, index, memory_used, memory_total, load


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker process as it last said. Times are seconds since the epoch, by the database's clock."""

    name: str  #: `TrialRecord.worker` is this, "-" and the number of the slot
    host: str
    pid: int
    slots: tuple[tuple[str, ...], ...]  #: the GPUs of each slot
    load: Load
    environment: Mapping[str, str]  #: "python", "platform", and the versions of packages by name
    lease_s: float
    draining: bool
    started_at: float
    seen_at: float
    ended_at: float | None  #: None: it has not said goodbye


@dataclass(frozen=True, slots=True)
class Gate:
    """A check before an alias moves."""

    name: str
    passed: bool
    figure: str  #: what was found, in a few words with the number that decides
    why: str = ""  #: of one that failed: what is wrong, and the cure


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a trial's hyperparameters really give, by runs with fresh seeds. In units of the study's first metric."""

    observed: float  #: what the search saw: the lucky value
    value: float  #: what is to be expected of another training
    low: float  #: of the 95 % interval
    high: float
    p_best: float  #: the probability that no other candidate is better
    runs: int
    held_out: bool  #: measured by `Study(evaluate=...)`, on data that the search has never seen


@dataclass(frozen=True, slots=True)
class Model:
    """A name in the registry, under which versions are kept."""

    name: str
    created_at: float
    aliases: Mapping[str, int]  #: alias -> the version that it names
    versions: int  #: how many there are


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """An immutable version of a model."""

    model: str
    version: int
    study: str
    study_id: int
    trial_id: int
    number: int  #: of the trial
    params: Mapping[str, Any]
    metrics: Mapping[str, float]  #: the study's first, in their order
    directions: tuple[str, ...]  #: of the study's metrics
    files: tuple[Artifact, ...]
    code_sha256: str | None
    data_sha256: str | None
    environment: Mapping[str, str]
    created_at: float
    aliases: tuple[str, ...] = ()  #: that name it now


@dataclass(frozen=True, slots=True)
class Promotion:
    """A move of an alias; the history of a model is made of them."""

    model: str
    alias: str
    kind: str  #: "promote" | "rollback"
    from_version: int | None  #: None: the alias was new
    to_version: int
    who: str
    reason: str | None
    forced: bool
    gates: tuple[Gate, ...]
    estimate: Estimate | None
    at: float


def constraints_of(system_attrs: Mapping[str, Any]) -> dict[str, float]:
    """A trial's constraints by name, as Optuna keeps them: one attribute each, in old databases all in a list."""
    listed = {str(i): value for i, value in enumerate(system_attrs.get("constraints") or ())}
    named = {key.removeprefix(CONSTRAINT): v for key, v in system_attrs.items() if key.startswith(CONSTRAINT)}
    return listed | named


#: How many times as likely to be the best as the trial that the search saw as best another one has to be to take its
#: place: what the search saw counts for something, too. Without it the choice falls on a worse trial than the search's
#: best in one of four simulated races, with 5 in one of twenty, at the price of a tenth of the gain (docs/log.md).
BURDEN_OF_PROOF = 5.0


def confirmed_best(estimates: Mapping[int, Estimate]) -> int:
    """The number of the trial to take. `estimates` is not empty and begins with what the search saw as best."""
    first = next(iter(estimates))
    likeliest = max(estimates, key=lambda number: estimates[number].p_best)
    proven = estimates[likeliest].p_best >= BURDEN_OF_PROOF * estimates[first].p_best
    return likeliest if proven else first


class Coordinator(Protocol):
    """All that a worker knows of the system. The engine and the HTTP client both satisfy it.

    Writes raise `LeaseLost` when the token is not current, and then change nothing. Every call may raise
    `DatabaseUnavailable`, and every call may be repeated: the token makes the repetition harmless.
    """

    def claim(self, study_ids: Sequence[int], worker: str, token: str, lease_s: float) -> Lease | None:
        """Take the next waiting trial of these studies; None when there is none. `token` is new for each claim."""

    def renew(self, tokens: Iterable[str], lease_s: float) -> frozenset[str]:
        """Extend these leases by `lease_s` from now; returns those still held. Stop the trials of the others."""

    def report(self, token: str, reports: Sequence[Report]) -> None:
        """Record reports. The same step again overwrites, an older attempt's never a newer one's."""

    def describe(self, token: str, params: Mapping[str, Any], distributions: Mapping[str, str]) -> None:
        """Record what a define-by-run function really asked for, while it runs."""

    def should_prune(self, token: str) -> bool:
        """Whether the trial is worth ending now, by the reports recorded so far."""

    def checkpoint(self, token: str, checkpoint: Checkpoint) -> None:
        """Acknowledge a checkpoint whose file is in place. An earlier step never replaces a later one."""

    def finish(self, token: str, outcome: Outcome, reports: Sequence[Report] = ()) -> None:
        """The trial's one accepted result, with its last reports."""

    def fail(self, token: str, failure: Failure, reports: Sequence[Report] = ()) -> bool:
        """End the attempt. True: the trial waits again, because it has retries left or was not to blame."""

    def release(self, token: str) -> None:
        """Hand the trial back with its last checkpoint; costs it nothing."""


def trial_seed(study_seed: int, number: int) -> int:
    """The seed of a trial, in [0, 2**32): the same whoever runs it, however often."""
    return derived_seed("trial", study_seed, number)


def derived_seed(*parts: object) -> int:
    """A seed in [0, 2**32) from any parts that print the same everywhere."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
