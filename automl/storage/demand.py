"""Which studies want suggestions from a process that makes them for others, in whatever project."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from automl.core import StudyState
from automl.storage.batch_budget import has_turn
from automl.storage.database import Database, now
from automl.storage.tables import event, study, trial, worker
from automl.storage.workers import ALIVE_LEASES

#: A study that workers of this database may take up at any time gets so many suggestions before the first is claimed.
FIRST_SLOTS = 8

#: Events that a suggester causes itself: they are no reason to suggest again.
_OWN = ("suggested", "revised")


@dataclass(frozen=True, slots=True)
class Wanted:
    """An open study that somebody wants to run trials of."""

    study_id: int
    project: str
    slots: int  #: trials that can run at once, as far as it is known
    held: bool  #: whether somebody holds the right to suggest for it
    marker: tuple[object, ...]  #: another one as soon as there may be something to suggest


class Demand:
    """Thread-safe. `look` takes about a millisecond and a tenth for each wanted study."""

    def __init__(self, database: Database):
        self._database = database
        self._look = _look(database.dialect)

    def look(self) -> list[Wanted]:
        """The more urgent ones first."""
        rows = self._database.all(self._look)
        slots = self._live_slots() if any(row.queued for row in rows) else {}
        found = []
        for row in rows:
            could = min(slots.get(row.project, 0), max(FIRST_SLOTS, 2 * row.running)) if row.queued else 0
            if (wanted := max(row.wanted, could)) > 0:
                marker = (row.newest, row.running, row.paused, row.max_trials, row.max_active_s)
                found.append(Wanted(row.id, row.project, wanted, row.held, marker))
        return found

    def _live_slots(self) -> dict[str, int]:
        """Of workers that are alive and do not drain, by project."""
        alive = sa.and_(worker.c.ended_at.is_(None), worker.c.seen_at > now() - ALIVE_LEASES * worker.c.lease_s)
        slots: dict[str, int] = {}
        for row in self._database.all(sa.select(worker.c.project, worker.c.slots).where(alive, ~worker.c.draining)):
            slots[row.project] = slots.get(row.project, 0) + len(row.slots)
        return slots


def _look(dialect: str) -> sa.Select[tuple[object, ...]]:
    # Along the index of the feed: on PostgreSQL events are in the order of their transactions, on SQLite of `seq`.
    of_study = sa.and_(event.c.study_id == study.c.id, event.c.cause.not_in(_OWN))
    if dialect == "postgresql":
        newest = sa.select(event.c.position).where(of_study).order_by(event.c.position.desc()).limit(1)
    else:
        newest = sa.select(event.c.seq).where(of_study, event.c.position == 0).order_by(event.c.seq.desc()).limit(1)
    # A literal, not a parameter: SQLite matches a partial index with the text of the statement. A transaction that ends
    # late leaves the newest event as it is; the number of running trials tells of it.
    is_running = trial.c.state == sa.literal_column("'running'")
    running = sa.select(sa.func.count()).where(trial.c.study_id == study.c.id, is_running)
    may_be_taken_up = sa.and_(study.c.queued, has_turn())
    is_wanted = study.c.wanted_until > now()
    is_held = sa.and_(study.c.suggester_token.is_not(None), study.c.suggester_expires_at > now())
    return (
        sa.select(
            study.c.id,
            study.c.project,
            may_be_taken_up.label("queued"),
            sa.case((is_wanted, study.c.wanted_slots), else_=0).label("wanted"),
            sa.func.coalesce(is_held, sa.false()).label("held"),
            study.c.paused,
            study.c.max_trials,
            study.c.max_active_s,
            newest.scalar_subquery().label("newest"),
            running.scalar_subquery().label("running"),
        )
        .where(
            study.c.state == StudyState.OPEN.value,
            study.c.deleted_at.is_(None),
            study.c.spec.is_not(None),
            sa.or_(may_be_taken_up, is_wanted),
        )
        .order_by(study.c.priority.desc(), study.c.id)
    )
