"""What has happened that people are told of, in all projects of a database, since a cursor.

The cursor of the history of studies and trials is `floor`: every event up to this number has been read. Events get
their numbers before they can be seen. So on PostgreSQL the floor moves to a number that a look has seen only when all
transactions that were running at that look are over; until then what is above the floor is read again, and the key of
each happening keeps it from being told again. The other news are few, and are read by their time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from automl.core import StudyState, TrialState
from automl.storage.changes import transaction
from automl.storage.database import Database, now, violates
from automl.storage.tables import batch, event, firing, model, promotion, schedule, study, trial, worker
from automl.storage.workers import ALIVE_LEASES
from automl.team import FiringState, Subject

#: What is older is no news: a service that was off for long does not tell of last week.
FRESH_S = 86_400.0
#: News that are read by their time are read so long again: their transaction may have ended late.
LATE_S = 120.0
#: Events that one look reads at most.
PAGE = 5000

_ENDS = (StudyState.FINISHED.value, StudyState.STOPPED.value, StudyState.FAILED.value)


@dataclass(frozen=True, slots=True)
class Happening:
    """Something to be told. `key` is the same whenever it is read."""

    key: str
    subject: Subject
    project: str
    at: float
    study: str | None
    data: Mapping[str, Any]
    family: str | None = None  #: of the key, where only the newest counts


class News:
    """Reads only."""

    def __init__(self, database: Database):
        self._database = database

    def since(self, cursor: Mapping[str, Any]) -> tuple[dict[str, Any], list[Happening]]:
        """The cursor of now, and what happened since `cursor`, and maybe a little before; {}: nothing, only the cursor.

        What is told is as old as a day at most.
        """
        with self._database.snapshot() as connection:
            moment = _Moment(*connection.execute(self._moment()).one())
            if "floor" not in cursor:
                return {"floor": moment.newest, "at": moment.now}, []
            floor = int(cursor["floor"])
            rows = list(connection.execute(_events(floor, moment.now - FRESH_S)))
            found = [*_study_ends(rows)]
            for study_id in dict.fromkeys(row.study_id for row in rows if row.trial_id is not None):
                ended = {row.trial_id for row in rows if row.study_id == study_id}
                found += _new_best(connection, study_id, ended)
            since = max(float(cursor["at"]) - LATE_S, moment.now - FRESH_S)
            for reader in (_promotions, _missed, _batches, _lost_workers):
                found += reader(connection, since)
        seen = rows[-1].seq if len(rows) == PAGE else moment.newest
        return _moved(cursor, moment, int(seen)), found

    def _moment(self) -> sa.Select[Any]:
        newest = sa.select(sa.func.coalesce(sa.func.max(event.c.seq), 0)).scalar_subquery()
        if self._database.dialect != "postgresql":
            return sa.select(now(), newest, sa.literal(0), sa.literal(0))  # one writer: nothing is still to come
        snapshot = sa.func.pg_current_snapshot()
        oldest, end = sa.func.pg_snapshot_xmin(snapshot), sa.func.pg_snapshot_xmax(snapshot)
        return sa.select(now(), newest, transaction(oldest), transaction(end))


@dataclass(frozen=True, slots=True)
class _Moment:
    now: float
    newest: int  #: event that can be seen
    oldest: int  #: transaction that runs
    end: int  #: all transactions up to here have begun


def _moved(cursor: Mapping[str, Any], moment: _Moment, seen: int) -> dict[str, Any]:
    """`seen` is the number up to which this look has read whatever could be seen."""
    floor, next_floor, end = int(cursor["floor"]), cursor.get("next"), cursor.get("end")
    if next_floor is not None and end is not None and (end <= moment.oldest or end > moment.end):
        # A higher number than the server has given out yet: the cursor came here with a dump.
        floor, next_floor = int(next_floor), None
    if next_floor is None and moment.oldest == moment.end:  # nothing runs
        return {"floor": seen, "at": moment.now}
    if next_floor is None:
        next_floor, end = seen, moment.end
    return {"floor": floor, "next": next_floor, "end": end, "at": moment.now}


def _events(floor: int, not_before: float) -> sa.Select[Any]:
    """Ends of studies and complete trials above `floor`, with what they are of."""
    is_end = sa.and_(event.c.trial_id.is_(None), event.c.state.in_(_ENDS))
    is_result = sa.and_(event.c.trial_id.is_not(None), event.c.state == TrialState.COMPLETE.value)
    columns = (event.c.seq, event.c.study_id, event.c.trial_id, event.c.state, event.c.cause, event.c.at)
    return (
        sa.select(*columns, study.c.name, study.c.project)
        .join_from(event, study, study.c.id == event.c.study_id)
        .where(event.c.seq > floor, event.c.at > not_before, sa.or_(is_end, is_result), study.c.deleted_at.is_(None))
        .order_by(event.c.seq)
        .limit(PAGE)
    )


def _study_ends(rows: list[sa.Row[Any]]) -> Iterator[Happening]:
    for row in rows:
        if row.trial_id is None:
            subject = Subject.FAILED if row.state == StudyState.FAILED.value else Subject.FINISHED
            reason = row.cause if row.cause != row.state else None
            data = {"state": row.state, "reason": reason}
            yield Happening(f"study:{row.study_id}:{row.seq}", subject, row.project, row.at, row.name, data)


def _new_best(connection: sa.Connection, study_id: int, ended: set[int]) -> Iterator[Happening]:
    """The best trial of a study, if it is one of those that have just ended; confirmations have none."""
    wanted = sa.select(study.c.name, study.c.project, study.c.directions, study.c.spec, study.c.origin_id)
    found = connection.execute(wanted.where(study.c.id == study_id)).one()
    best = trial.c.value.desc() if found.directions[0] == "maximize" else trial.c.value.asc()
    complete = trial.c.state == sa.literal_column("'complete'")  # in these words, so that the partial index is used
    counts = sa.and_(complete, trial.c.value.is_not(None), trial.c.invalid.is_(None), ~violates(trial.c.system_attrs))
    columns = (trial.c.id, trial.c.number, trial.c.value, trial.c.params, trial.c.finished_at)
    row = connection.execute(
        sa.select(*columns).where(trial.c.study_id == study_id, counts).order_by(best, trial.c.number).limit(1)
    ).first()
    if row is None or row.id not in ended or found.origin_id is not None:
        return
    metric = next(iter((found.spec or {}).get("metrics") or {}), "value")
    data = {"trial": row.number, "metric": metric, "value": row.value, "params": row.params}
    family = f"best:{study_id}:"
    at = row.finished_at or 0.0
    yield Happening(f"{family}{row.id}", Subject.NEW_BEST, found.project, at, found.name, data, family)


def _promotions(connection: sa.Connection, since: float) -> Iterator[Happening]:
    wanted = sa.select(promotion, model.c.name, model.c.project).join(model).where(promotion.c.at > since)
    for row in connection.execute(wanted.order_by(promotion.c.id)):
        names = ("alias", "kind", "from_version", "to_version", "who", "reason", "forced")
        data = {"model": row.name} | {name: getattr(row, name) for name in names}
        yield Happening(f"promotion:{row.id}", Subject.PROMOTED, row.project, row.at, None, data)


def _missed(connection: sa.Connection, since: float) -> Iterator[Happening]:
    wanted = sa.select(firing, schedule.c.name, schedule.c.project).join(schedule)
    missed = wanted.where(firing.c.state == FiringState.MISSED.value, firing.c.at > since)
    for row in connection.execute(missed.order_by(firing.c.tick)):
        data = {"schedule": row.name, "tick": row.tick}
        key = f"missed:{row.schedule_id}:{row.tick:.0f}"
        yield Happening(key, Subject.SCHEDULE_MISSED, row.project, row.at, None, data)


def _batches(connection: sa.Connection, since: float) -> Iterator[Happening]:
    for row in connection.execute(sa.select(batch).where(batch.c.finished_at > since).order_by(batch.c.id)):
        studies = sa.select(study.c.name, study.c.state).where(study.c.batch_id == row.id, study.c.deleted_at.is_(None))
        states = {of.name: of.state for of in connection.execute(studies.order_by(study.c.batch_position))}
        data = {"batch": row.name, "trials": row.made, "studies": states}
        key = f"batch:{row.id}:{row.finished_at:.3f}"
        yield Happening(key, Subject.BATCH_FINISHED, row.project, row.finished_at, None, data)


def _lost_workers(connection: sa.Connection, since: float) -> Iterator[Happening]:
    """Workers that fell silent without a goodbye."""
    silent_at = worker.c.seen_at + ALIVE_LEASES * worker.c.lease_s
    lost = sa.and_(worker.c.ended_at.is_(None), silent_at < now(), silent_at > since)
    for row in connection.execute(sa.select(worker).where(lost).order_by(worker.c.name)):
        data = {"worker": row.name, "host": row.host, "seen_at": row.seen_at}
        key = f"lost:{row.name}:{row.seen_at:.3f}"
        at = row.seen_at + ALIVE_LEASES * row.lease_s
        yield Happening(key, Subject.WORKER_LOST, row.project, at, None, data)
