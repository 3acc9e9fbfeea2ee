"""Which trials of a study may have changed since a cursor, by its history: for whoever keeps trials up to date.

On PostgreSQL the cursor is the oldest transaction that was still running at a look: whatever that look could not see
has this number or a higher one. On SQLite, which has one writer, it is the last event's number. Running trials report
without an event, and are always among those that may have changed.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from automl.storage.tables import event, trial

STUDY = sa.bindparam("study_id", type_=sa.BigInteger)


def changes(dialect: str) -> tuple[sa.ColumnElement[int], sa.ColumnElement[bool]]:
    """The cursor of now, and which trials may have changed since `:cursor`. For statements with `:study_id`."""
    since = sa.bindparam("cursor", type_=sa.BigInteger)
    new = sa.select(event.c.trial_id).where(event.c.study_id == STUDY)
    other = trial.alias("other")
    # A literal, not a parameter: SQLite matches a partial index with the text of the statement.
    is_running = other.c.state == sa.literal_column("'running'")
    running = sa.select(other.c.id).where(other.c.study_id == STUDY, is_running)
    if dialect != "postgresql":
        newest = sa.select(sa.func.coalesce(sa.func.max(event.c.seq), 0)).scalar_subquery()
        return newest, trial.c.id.in_(new.where(event.c.position == 0, event.c.seq > since).union_all(running))
    # Visible rows with a higher number came with a dump of another server: the first look has read them.
    end = transaction(sa.func.pg_snapshot_xmax(sa.func.pg_current_snapshot()))
    changed = new.where(event.c.position >= since, event.c.position < end).union_all(running)
    # An array, not IN: the planner, which does not know how few they are, might read the whole table.
    is_changed = trial.c.id == sa.any_(sa.func.array(changed.scalar_subquery()))
    return transaction(sa.func.pg_snapshot_xmin(sa.func.pg_current_snapshot())), is_changed


def transaction(id: sa.ColumnElement[Any]) -> sa.ColumnElement[int]:
    return sa.cast(sa.cast(id, sa.Text), sa.BigInteger)
