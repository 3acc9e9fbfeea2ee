"""The workers that are, as they last said, and the one word that goes back to them: whether to drain.

A worker says every few seconds that it lives. Nothing depends on that but what people see: whether a trial is lost is
judged by its lease alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from automl.core import Load, WorkerRecord
from automl.errors import NotFound
from automl.storage.database import Database, now
from automl.storage.prepared import prepared
from automl.storage.tables import worker
from automl.team import DEFAULT_PROJECT

#: A worker that has been silent for so many of its leases is gone.
ALIVE_LEASES = 3
#: Seconds for which a worker that is gone is still listed.
LISTED_S = 86_400.0

_ALIVE = sa.and_(worker.c.ended_at.is_(None), worker.c.seen_at > now() - ALIVE_LEASES * worker.c.lease_s)
_MINE = worker.c.project == sa.bindparam("of_project", type_=sa.Text)
_NAMED = sa.and_(_MINE, worker.c.name == sa.bindparam("worker_name", type_=sa.Text))

_COLUMNS = tuple(worker.c[name] for name in WorkerRecord.__dataclass_fields__)

_BEAT = (
    sa.update(worker)
    .where(_NAMED)
    .values(load=sa.bindparam("load", type_=worker.c.load.type), seen_at=now(), ended_at=None)
    .returning(worker.c.draining)
)


class Workers:
    """The workers of one project."""

    def __init__(self, database: Database, project: str = DEFAULT_PROJECT):
        self._database = database
        self._project = project

    def enroll(self, record: WorkerRecord) -> None:
        """A worker has started. Its times are those of the database's clock, and it does not drain."""
        values: dict[str, Any] = {
            "host": record.host,
            "pid": record.pid,
            "slots": [list(gpus) for gpus in record.slots],
            "load": asdict(record.load),
            "environment": dict(record.environment),
            "lease_s": record.lease_s,
            "draining": False,
            "started_at": now(),
            "seen_at": now(),
            "ended_at": None,
        }
        row = self._database.insert(worker).values(project=self._project, name=record.name, **values)
        # Another process had the name when the machine was started last: what it was is over.
        self._database.execute(row.on_conflict_do_update(index_elements=["project", "name"], set_=values))

    def beat(self, name: str, load: Load) -> bool | None:
        """The worker lives; whether it is to drain, None when it is not enrolled (any more)."""
        row = prepared(self._database, _BEAT).first({**self._place(name), "load": asdict(load)})
        return None if row is None else bool(row.draining)

    def leave(self, name: str) -> None:
        """The worker has ended."""
        self._database.execute(sa.update(worker).where(_NAMED).values(ended_at=now()), self._place(name))

    def all(self, *, gone: bool) -> list[WorkerRecord]:
        """Those that live, by name; with `gone` also those of the last day."""
        listed = sa.or_(_ALIVE, worker.c.seen_at > now() - LISTED_S) if gone else _ALIVE
        wanted = sa.select(*_COLUMNS).where(_MINE, listed).order_by(worker.c.name)
        return [_record(row) for row in self._database.all(wanted, {"of_project": self._project})]

    def drain(self, name: str, on: bool) -> None:
        """Raises `NotFound`, which names the workers that there are."""
        told = sa.update(worker).where(_NAMED, _ALIVE).values(draining=on)
        if not self._database.execute(told, self._place(name)):
            names = [record.name for record in self.all(gone=False)]
            there = f"there are {', '.join(names)}" if names else "there is none now"
            raise NotFound(f"worker: no worker {name!r} is alive; {there}", field="worker")

    def environment(self, slot: str | None) -> Mapping[str, str]:
        """Of the worker that this slot is (was) one of, as `TrialRecord.worker` names it; {} when it is not known."""
        name = (slot or "").rpartition("-")[0]
        row = self._database.first(sa.select(worker.c.environment).where(_NAMED), self._place(name))
        return {} if row is None else row.environment

    def _place(self, name: str) -> dict[str, str]:
        return {"of_project": self._project, "worker_name": name}


def _record(row: sa.Row[Any]) -> WorkerRecord:
    load = {**row.load, "gpus": tuple(row.load.get("gpus", ()))}
    slots = tuple(tuple(gpus) for gpus in row.slots)
    return WorkerRecord(**{**row._asdict(), "slots": slots, "load": Load(**load)})
