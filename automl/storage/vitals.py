"""How the system is: what its figures are made of, and whether the database can be worked with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from automl.core import Attr, TrialState
from automl.errors import SchemaMismatch
from automl.storage.database import Database, now
from automl.storage.studies import there
from automl.storage.tables import HEAD, study, trial, worker
from automl.storage.workers import ALIVE_LEASES

#: So many of the newest trials say how long a suggestion takes.
SUGGESTIONS = 200


@dataclass(frozen=True, slots=True)
class Vitals:
    """The figures of one project at one moment."""

    trials: Mapping[str, int]  #: by state, every state present
    expired_lease_s: float  #: for how long the oldest lease that nobody took back is over; 0.0: there is none
    workers: int  #: that are alive
    gpus: int  #: of them, those whose load is known
    gpu_idle: float | None  #: the share of their time that these are idle; None: there are none
    suggestion_ms: tuple[float, ...]  #: what the newest suggestions took, in ascending order


def vitals(database: Database, project: str) -> Vitals:
    """Raises `DatabaseUnavailable`."""
    here = sa.select(study.c.id).where(there(project)).scalar_subquery()
    of_project = trial.c.study_id.in_(here)
    counted = sa.select(trial.c.state, sa.func.count().label("n")).where(of_project).group_by(trial.c.state)
    # A literal, as in the index of running trials.
    is_running = trial.c.state == sa.literal_column("'running'")
    oldest = sa.select(now() - sa.func.min(trial.c.lease_expires_at)).where(of_project, is_running)
    alive = sa.and_(worker.c.ended_at.is_(None), worker.c.seen_at > now() - ALIVE_LEASES * worker.c.lease_s)
    listed = sa.select(worker.c.load).where(worker.c.project == project, alive)
    took = trial.c.system_attrs[(Attr.WHY.value, "ms")].as_float()
    is_suggested = trial.c.basis.is_not(None)
    newest = sa.select(took).where(of_project, is_suggested).order_by(trial.c.id.desc()).limit(SUGGESTIONS)
    with database.connection() as connection:
        states = {row.state: row.n for row in connection.execute(counted)}
        expired = connection.execute(oldest).scalar()
        loads = [load for (load,) in connection.execute(listed)]
        suggestions = sorted(ms for (ms,) in connection.execute(newest) if ms is not None)
    busy = [gpu["load"] for load in loads for gpu in load.get("gpus", ()) if gpu.get("load") is not None]
    return Vitals(
        trials={state.value: states.get(state.value, 0) for state in TrialState},
        expired_lease_s=max(0.0, expired or 0.0),
        workers=len(loads),
        gpus=len(busy),
        gpu_idle=1.0 - sum(busy) / len(busy) if busy else None,
        suggestion_ms=tuple(suggestions),
    )


def check_ready(database: Database) -> None:
    """Whether requests can be answered. Raises `DatabaseUnavailable`, and `SchemaMismatch` where others migrated it."""
    found = database.all(sa.select(sa.column("version_num", sa.Text)).select_from(sa.table("alembic_version")))
    versions = [row.version_num for row in found]
    if versions != [HEAD]:
        raise SchemaMismatch(f"the database is at {', '.join(versions) or 'no version'}, and this is {HEAD}")
