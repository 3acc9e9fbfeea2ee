"""The budget that the studies of a batch share: counted in the transactions that make trials, and end studies.

The row of a batch is always locked after those of its studies and trials, and whoever has it waits for nothing else.
"""

from __future__ import annotations

import sqlalchemy as sa

from automl.core import StudyState, TrialState
from automl.storage.database import now
from automl.storage.tables import batch, study, trial

#: Why studies of a batch are stopped that had something left of their own budgets.
USED = "the batch's budget is used"

_UNFINISHED = tuple(state.value for state in TrialState if not state.is_finished)

#: Trials that the batch of a study allows to make; NULL: it has none, or none of this budget. For `RETURNING`.
TRIALS_LEFT = (
    sa.select(batch.c.max_trials - batch.c.made)
    .where(batch.c.id == study.c.batch_id)
    .correlate(study)
    .scalar_subquery()
)


def take(connection: sa.Connection, batch_id: int) -> bool:
    """Count a trial that is being made; False when the batch has none left."""
    has_room = sa.or_(batch.c.max_trials.is_(None), batch.c.made < batch.c.max_trials)
    counted = sa.update(batch).where(batch.c.id == batch_id, has_room).values(made=batch.c.made + 1)
    return bool(connection.execute(counted).rowcount)


def take_extra(connection: sa.Connection, batch_id: int) -> None:
    """Count a trial that somebody adds whatever the budget: it grows by one if need be."""
    is_used = batch.c.made >= batch.c.max_trials
    grown = sa.case((is_used, batch.c.made + 1), else_=batch.c.max_trials)
    connection.execute(sa.update(batch).where(batch.c.id == batch_id).values(made=batch.c.made + 1, max_trials=grown))


def give_back(connection: sa.Connection, study_id: int, count: int) -> None:
    """Trials of the study were cancelled: others may be made in their place."""
    if count:
        connection.execute(_of(study_id).values(made=batch.c.made - count))


def open_again(connection: sa.Connection, study_id: int) -> None:
    """A study that was over goes on, and so does its batch."""
    connection.execute(_of(study_id).where(batch.c.finished_at.is_not(None)).values(finished_at=None))


def _of(study_id: int) -> sa.Update:
    """Of the batch of a study; of none where it has none."""
    its_batch = sa.select(study.c.batch_id).where(study.c.id == study_id).scalar_subquery()
    return sa.update(batch).where(batch.c.id == its_batch)


def settle(connection: sa.Connection, batch_id: int) -> None:
    """Stop what is left of a batch whose trials are used and over, and finish a batch whose studies are over.

    Call it in a transaction of its own: what has moved must be seen.
    """
    of_batch = sa.and_(study.c.batch_id == batch_id, study.c.deleted_at.is_(None))
    is_open = study.c.state == StudyState.OPEN.value
    # Locked first: an UPDATE that has to wait for a row would judge by the trials of before its wait.
    connection.execute(sa.select(study.c.id).where(of_batch, is_open).order_by(study.c.id).with_for_update())
    connection.execute(sa.select(batch.c.id).where(batch.c.id == batch_id).with_for_update())
    used = sa.exists().where(batch.c.id == batch_id, batch.c.made >= batch.c.max_trials)
    ids = sa.select(study.c.id).where(of_batch)
    unfinished = sa.exists().where(trial.c.study_id.in_(ids), trial.c.state.in_(_UNFINISHED))
    stopped = sa.update(study).where(of_batch, is_open, used, ~unfinished)
    connection.execute(stopped.values(state=StudyState.STOPPED.value, reason=USED, paused=False))
    is_over = ~sa.exists().where(of_batch, is_open)
    ended = sa.update(batch).where(batch.c.id == batch_id, batch.c.finished_at.is_(None), is_over)
    connection.execute(ended.values(finished_at=now()))


def has_turn() -> sa.ColumnElement[bool]:
    """Of a study: whether it is not its batch that says it has to wait.

    A batch's studies go one after the other: the next one comes when the one before has no trial left to start, so
    that slots do not wait for its last trials. One that has begun goes on; one that is paused keeps nobody waiting.
    """
    ahead = study.alias("ahead")
    has_more = sa.or_(ahead.c.max_trials.is_(None), ahead.c.next_number - ahead.c.cancelled < ahead.c.max_trials)
    to_start = (TrialState.WAITING.value, TrialState.PAUSED.value)
    has_waiting = sa.exists().where(trial.c.study_id == ahead.c.id, trial.c.state.in_(to_start))
    keeps_waiting = sa.exists().where(
        ahead.c.batch_id == study.c.batch_id,
        ahead.c.batch_position < study.c.batch_position,
        ahead.c.state == StudyState.OPEN.value,
        ahead.c.queued,
        ~ahead.c.paused,
        ahead.c.deleted_at.is_(None),
        sa.or_(has_more, has_waiting),
    )
    return sa.or_(study.c.batch_id.is_(None), study.c.next_number > 0, ~keeps_waiting)
