"""What the supervisor, a template and the process of a trial say to each other: one JSON object a line.

A trial's process sends the messages below; it hears `{"type": "prune", "value": bool}` and
`{"type": "stop", "why": "preempt" | "prune"}`. Both ends are Python, so NaN and infinity pass as JSON's
customary `NaN` and `Infinity`. What arrives is parsed here once; anything else is a `WireError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from automl.core import Artifact, Checkpoint, Failure, FailureKind, Outcome, TrialState

#: A line above this many bytes is no message of ours. It bounds what a broken child costs its supervisor.
MAX_LINE_BYTES = 64 << 20


class WireError(ValueError):
    """Bytes that are no message."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that the process of a trial needs to know."""

    trial_id: int
    number: int
    attempt: int
    artifacts: str  #: root of the artifact store
    study_seed: int = 0
    seed: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    distributions: Mapping[str, str] = field(default_factory=dict)  #: Optuna distribution JSON by parameter
    metrics: Mapping[str, str] = field(default_factory=dict)  #: name -> "min" | "max", the study's, in order
    constraints: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  #: name -> {"min": ..., "max": ...}
    prunable: bool = False  #: whether asking `should_prune` can ever be answered with yes
    max_step: int | None = None  #: the fidelity's
    checkpoint: Checkpoint | None = None
    cpus: int = 1
    gpus: tuple[str, ...] = ()  #: as CUDA_VISIBLE_DEVICES names them
    held_out: bool = False  #: instead of training: `Study(evaluate=...)`
    export: str | None = None  #: instead of training: make the ONNX file of the model in this folder

    def to_json(self) -> dict[str, Any]:
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Job:
        checkpoint = Checkpoint(**data["checkpoint"]) if data["checkpoint"] else None
        return cls(**{**data, "checkpoint": checkpoint, "gpus": tuple(data["gpus"])})


@dataclass(frozen=True)
class Reported:
    """`trial.report`. The first one of a define-by-run function also tells what it asked for."""

    step: int
    value: float | None
    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, Any] | None = None
    distributions: Mapping[str, str] | None = None


@dataclass(frozen=True)
class PruneAsked:
    """The trial waits for `answer_prune`."""


@dataclass(frozen=True)
class Checkpointed:
    """A checkpoint's file is in place."""

    checkpoint: Checkpoint


@dataclass(frozen=True)
class Noted:
    """`trial.log(key=value)`."""

    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Done:
    outcome: Outcome


@dataclass(frozen=True)
class Failed:
    failure: Failure


@dataclass(frozen=True)
class Interrupted:
    """The trial ended because it was told to make way; its last checkpoint was sent before."""


@dataclass(frozen=True)
class Exited:
    """The process is gone: always the last message, made by the host. One of `status` and `signal` says why."""

    status: int
    signal: int | None = None
    max_rss_kb: int | None = None


Message = Reported | PruneAsked | Checkpointed | Noted | Done | Failed | Interrupted | Exited


def encode(message: Message) -> bytes:
    """A message of a trial as one line."""
    return line({"type": type(message).__name__} | {k: _plain(v) for k, v in vars(message).items()})


def decode(data: bytes) -> Message:
    """The inverse of `encode`. Raises `WireError` for anything else, `Exited` included: no child may send that."""
    fields = parse(data)
    try:
        return _READERS[fields.pop("type")](fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WireError(f"not a message ({type(error).__name__}: {error}): {data[:200]!r}") from error


def line(fields: Mapping[str, Any]) -> bytes:
    """A JSON object as one line."""
    return json.dumps(fields).encode() + b"\n"


def parse(data: bytes) -> dict[str, Any]:
    """A line as a JSON object. Raises `WireError`."""
    try:
        fields = json.loads(data)
    except ValueError as error:
        raise WireError(f"not JSON ({error}): {data[:200]!r}") from error
    if not isinstance(fields, dict):
        raise WireError(f"not an object: {data[:200]!r}")
    return fields


class LineBuffer:
    """Turns the chunks of a stream into lines."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The lines that `chunk` completes. Raises `WireError` when one grows beyond `MAX_LINE_BYTES`."""
        self._rest += chunk
        if b"\n" in chunk:
            *lines, rest = self._rest.split(b"\n")
            self._rest = rest
            yield from map(bytes, lines)
        if len(self._rest) > MAX_LINE_BYTES:
            raise WireError(f"a line of more than {MAX_LINE_BYTES} bytes")


def _plain(value: Any) -> Any:
    """`value` as what json can write: dataclasses and mappings of other kinds become dicts."""
    if isinstance(value, Outcome):
        artifacts = [asdict(artifact) for artifact in value.artifacts]
        names = ("state", "values", "metrics", "params", "distributions", "facts", "constraints")
        return {name: _plain(getattr(value, name)) for name in names} | {"artifacts": artifacts}
    if isinstance(value, Checkpoint | Failure):
        return asdict(value)
    return dict(value) if isinstance(value, Mapping) else value


def _numbers(data: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in data.items()}


def _optional(convert: Callable[[Any], Any], value: Any) -> Any:
    return None if value is None else convert(value)


def _reported(data: dict[str, Any]) -> Reported:
    return Reported(
        step=int(data["step"]),
        value=_optional(float, data["value"]),
        metrics=_numbers(data["metrics"]),
        params=_optional(dict, data["params"]),
        distributions=_optional(dict, data["distributions"]),
    )


def _checkpointed(data: dict[str, Any]) -> Checkpointed:
    fields = data["checkpoint"]
    return Checkpointed(Checkpoint(int(fields["step"]), str(fields["path"]), str(fields["sha256"])))


def _done(data: dict[str, Any]) -> Done:
    fields = data["outcome"]
    return Done(
        Outcome(
            state=TrialState(fields["state"]),
            values=_optional(lambda values: tuple(map(float, values)), fields["values"]),
            metrics=_numbers(fields["metrics"]),
            params=_optional(dict, fields["params"]),
            distributions=_optional(dict, fields["distributions"]),
            artifacts=tuple(Artifact(**artifact) for artifact in fields["artifacts"]),
            facts=dict(fields["facts"]),
            constraints=_numbers(fields["constraints"]),
        )
    )


def _failed(data: dict[str, Any]) -> Failed:
    fields = data["failure"]
    return Failed(Failure(FailureKind(fields["kind"]), str(fields["message"]), str(fields["traceback"])))


_READERS: Mapping[str, Callable[[dict[str, Any]], Message]] = {
    "Reported": _reported,
    "PruneAsked": lambda _: PruneAsked(),
    "Checkpointed": _checkpointed,
    "Noted": lambda data: Noted(dict(data["facts"])),
    "Done": _done,
    "Failed": _failed,
    "Interrupted": lambda _: Interrupted(),
}
