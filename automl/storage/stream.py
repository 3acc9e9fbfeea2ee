"""The history of all studies as one stream that can be taken up again anywhere, with nothing left out.

An event's number says when it was begun, not when it was committed: on PostgreSQL one with a lower number may appear
after one with a higher. So a stream has a low mark, below which nothing can appear any more, and reads again what is
above it. The mark rises to the highest number of an earlier look when all transactions that ran then are over.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from automl.storage.changes import transaction
from automl.storage.database import Database
from automl.storage.tables import event, study, trial

#: Events that a statement reads, and how often at a time; what is beyond them is read by the next look.
PAGE, PAGES = 1000, 10

_SINCE = sa.bindparam("since", type_=sa.BigInteger)
_COLUMNS = (
    event.c.seq,
    event.c.study_id,
    event.c.trial_id,
    trial.c.number,
    event.c.state,
    event.c.cause,
    event.c.attempt,
    event.c.worker,
    event.c.at,
    study.c.project,
    study.c.name,
)
_EVENTS = (
    sa.select(*_COLUMNS)
    .select_from(event.join(study, study.c.id == event.c.study_id).outerjoin(trial, trial.c.id == event.c.trial_id))
    .where(event.c.seq > _SINCE)
    .order_by(event.c.seq)
    .limit(PAGE)
)


@dataclass(frozen=True, slots=True)
class Happening:
    """A study or a trial has moved."""

    seq: int
    project: str
    study_id: int
    study: str
    trial: int | None  #: its number; None: the study itself moved
    state: str
    cause: str
    attempt: int | None
    worker: str | None
    at: float  #: seconds since the epoch, by the database's clock


class Stream:
    """What happens from now on, in all projects. Not thread-safe."""

    def __init__(self, database: Database):
        self._database = database
        self.low = 0  #: whatever happened up to this number has been given out, or was before the beginning
        self._given: set[int] = set()  # numbers above the mark
        self._looks: deque[tuple[int, int]] = deque()  # (highest number then, first transaction after it)
        newest = sa.select(sa.func.coalesce(sa.func.max(event.c.seq), 0).label("top"))
        if database.dialect == "postgresql":
            snapshot = sa.func.pg_current_snapshot()
            running = (transaction(sa.func.pg_snapshot_xmin(snapshot)), transaction(sa.func.pg_snapshot_xmax(snapshot)))
        else:  # one writer: numbers appear in their order
            running = (sa.literal(1), sa.literal(0))
        self._mark = newest.add_columns(running[0].label("first_running"), running[1].label("next"))

    def begin(self) -> None:
        """Leave out what has happened so far."""
        row = self._look()
        self.low = row.top
        self._given.clear()
        self._looks.append((row.top, row.next))

    def new(self) -> list[Happening]:
        """What happened since the last call, each thing once. Raises `DatabaseUnavailable`."""
        row = self._look()
        rows = _read(self._database, _EVENTS, self.low)
        fresh = [found for found in rows if found.seq not in self._given]
        self._given.update(found.seq for found in fresh)
        # All that ran at these looks was over before this one, so before the rows were read.
        covered = rows[-1].seq if len(rows) == PAGE * PAGES else None
        while self._looks and self._looks[0][1] <= row.first_running:
            top, _ = self._looks.popleft()
            self.low = max(self.low, top if covered is None else min(top, covered))
        self._given = {seq for seq in self._given if seq > self.low}
        self._looks.append((row.top, row.next))
        return [_happening(found) for found in fresh]

    def _look(self) -> sa.Row[Any]:
        row = self._database.first(self._mark)
        assert row is not None
        return row


def since(database: Database, project: str, seq: int, study_id: int | None = None) -> list[Happening]:
    """What happened in a project after number `seq`: the first `PAGE * PAGES` of it."""
    wanted = _EVENTS.where(study.c.project == project)
    if study_id is not None:
        wanted = wanted.where(event.c.study_id == study_id)
    return [_happening(row) for row in _read(database, wanted, seq)]


def _read(database: Database, wanted: sa.Select[Any], seq: int) -> list[sa.Row[Any]]:
    rows: list[sa.Row[Any]] = []
    for _ in range(PAGES):
        page = database.all(wanted, {"since": rows[-1].seq if rows else seq})
        rows += page
        if len(page) < PAGE:
            break
    return rows


def _happening(row: sa.Row[Any]) -> Happening:
    return Happening(
        seq=row.seq,
        project=row.project,
        study_id=row.study_id,
        study=row.name,
        trial=row.number,
        state=row.state,
        cause=row.cause,
        attempt=row.attempt,
        worker=row.worker,
        at=row.at,
    )
