"""Studies with results in them, made through the engine's verbs: no processes, no training."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import sqlalchemy as sa

from automl.core import Artifact, Attr, Failure, FailureKind, Lease, Outcome, Report, StudyRecord, TrialState
from automl.declaration import Budget, Choice, Float, Space, StudySpec
from automl.engine import Engine
from automl.storage.tables import trial

LEASE_S = 60.0


def spec(name: str = "toy", **changes: Any) -> StudySpec:
    fields: dict[str, Any] = {
        "space": Space({"x": Float(0.0, 1.0), "kind": Choice("=1+1", "plain")}),
        "metrics": {"score": "max"},
        "budget": Budget(trials=10),
        "sampler": "random",
    }
    return StudySpec(name=name, **{**fields, **changes})


def claim(engine: Engine, record: StudyRecord) -> Lease:
    """The next trial of the study, suggested and claimed."""
    suggester = engine.suggester(record)
    suggester.step(1, LEASE_S)
    lease = engine.claim([record.id], "alice", uuid.uuid4().hex, LEASE_S)
    suggester.close()
    assert lease is not None
    return lease


def complete(
    engine: Engine,
    record: StudyRecord,
    *values: float,
    artifacts: Sequence[Artifact] = (),
    constraints: Mapping[str, float] = MappingProxyType({}),
    **metrics: float,
) -> int:
    """One more trial with these values, one for each metric of the study; its number."""
    lease = claim(engine, record)
    outcome = Outcome(TrialState.COMPLETE, values, metrics, artifacts=tuple(artifacts), constraints=constraints)
    engine.finish(lease.token, outcome, [Report(1, values[0], {"loss": 0.5})])
    return lease.number


def give_reason(engine: Engine, record: StudyRecord, number: int, why: Mapping[str, Any]) -> None:
    """Let a trial have been suggested for this reason."""
    its = sa.and_(trial.c.study_id == record.id, trial.c.number == number)
    engine.database.execute(sa.update(trial).where(its).values(system_attrs={Attr.WHY.value: dict(why)}))


def fail(engine: Engine, record: StudyRecord, message: str, traceback: str = "") -> int:
    """One more trial, which fails; its number."""
    lease = claim(engine, record)
    engine.fail(lease.token, Failure(FailureKind.ERROR, message, traceback))
    return lease.number
