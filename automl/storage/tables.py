"""The tables. Rows never leave this package; readers get the records of `core.py`.

Times are seconds since the epoch by the database's clock (`database.now`). Every change of a trial's or study's state
appends to `event` by a trigger (see the migrations), which also refuses moves that `core.MOVES` does not have.
"""

from __future__ import annotations

import sqlalchemy as sa

from automl.core import StudyState, TrialState
from automl.storage.database import Json, now

#: The newest migration. `schema.py` compares it with what the database says before Alembic is even imported.
HEAD = "0001"

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

# SQLite numbers rows by itself only in a column of type INTEGER.
_Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _one_of(column: str, values: type[TrialState] | type[StudyState]) -> sa.CheckConstraint:
    names = ", ".join(f"'{member.value}'" for member in values)
    return sa.CheckConstraint(f"{column} IN ({names})", name=column)


study = sa.Table(
    "study",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("state", sa.Text, nullable=False, server_default=StudyState.OPEN.value),
    sa.Column("reason", sa.Text),  # why it was stopped or has failed
    sa.Column("directions", Json, nullable=False),
    # declaration.StudySpec; NULL: a plain Optuna program's study. Not JSONB, which forgets the order of the metrics.
    sa.Column("spec", sa.JSON(none_as_null=True)),
    sa.Column("entrypoint", sa.Text),
    sa.Column("code_sha256", sa.Text),
    sa.Column("queued", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("max_trials", sa.Integer),
    sa.Column("max_active_s", sa.Double),
    sa.Column("retries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_number", sa.Integer, nullable=False, server_default="0"),
    sa.Column("cancelled", sa.Integer, nullable=False, server_default="0"),  # numbers that the budget gets back
    sa.Column("active_s", sa.Double, nullable=False, server_default="0"),
    sa.Column("suggester_token", sa.Text),
    sa.Column("suggester_expires_at", sa.Double),
    sa.Column("user_attrs", Json, nullable=False, server_default="{}"),
    sa.Column("system_attrs", Json, nullable=False, server_default="{}"),
    sa.Column("created_at", sa.Double, nullable=False),
    _one_of("state", StudyState),
    sqlite_autoincrement=True,  # an id that was used is never given to another study
)

trial = sa.Table(
    "trial",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("study_id", sa.ForeignKey("study.id", ondelete="CASCADE"), nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),  # of the last move, for the history
    # How many results the suggestion was based on; NULL: not suggested yet (enqueued, or made by Optuna).
    sa.Column("basis", sa.Integer),
    # In the order in which they were suggested, so not JSONB.
    sa.Column("params", sa.JSON(none_as_null=True), nullable=False, server_default="{}"),
    sa.Column("distributions", Json, nullable=False, server_default="{}"),  # parameter -> distribution.id
    sa.Column("objectives", Json),  # [value of each metric of the study]; NULL when there is none
    sa.Column("value", sa.Double),  # the first of them, never NaN: what SQL can sort by
    sa.Column("metrics", Json, nullable=False, server_default="{}"),
    sa.Column("user_attrs", Json, nullable=False, server_default="{}"),
    sa.Column("system_attrs", Json, nullable=False, server_default="{}"),
    # Lease. Only a leased trial is ever reaped: one that an Optuna program runs has no lease_expires_at.
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lease_token", sa.Text),
    sa.Column("lease_expires_at", sa.Double),
    sa.Column("worker", sa.Text),
    sa.Column("result_token", sa.Text),  # the lease that the accepted result came from
    sa.Column("run_after", sa.Double, nullable=False, server_default="0"),
    # Ends of attempts, counted apart: only errors use up retries.
    sa.Column("errors", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lost", sa.Integer, nullable=False, server_default="0"),
    sa.Column("preempted", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failure_kind", sa.Text),
    sa.Column("failure_message", sa.Text),
    sa.Column("failure_traceback", sa.Text),
    sa.Column("failure_digest", sa.Text),
    sa.Column("checkpoint_step", sa.Integer),
    sa.Column("checkpoint_path", sa.Text),
    sa.Column("checkpoint_sha256", sa.Text),
    sa.Column("checkpoint_attempt", sa.Integer),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.UniqueConstraint("study_id", "number"),
    _one_of("state", TrialState),
    sa.CheckConstraint("lease_token IS NULL OR state = 'running'", name="lease"),
    sa.CheckConstraint("(lease_token IS NULL) = (lease_expires_at IS NULL)", name="expiry"),
    sqlite_autoincrement=True,
)
sa.Index(
    "uq_trial_lease_token",
    trial.c.lease_token,
    unique=True,
    postgresql_where=trial.c.lease_token.is_not(None),
    sqlite_where=trial.c.lease_token.is_not(None),
)
sa.Index(
    "ix_trial_waiting",
    trial.c.study_id,
    trial.c.number,
    postgresql_where=trial.c.state == sa.literal_column("'waiting'"),
    sqlite_where=trial.c.state == sa.literal_column("'waiting'"),
)
sa.Index(
    "ix_trial_running",
    trial.c.study_id,
    postgresql_where=trial.c.state == sa.literal_column("'running'"),
    sqlite_where=trial.c.state == sa.literal_column("'running'"),
)
sa.Index(
    "ix_trial_best",
    trial.c.study_id,
    trial.c.value,
    postgresql_where=trial.c.state == sa.literal_column("'complete'"),
    sqlite_where=trial.c.state == sa.literal_column("'complete'"),
)

report = sa.Table(
    "report",
    metadata,
    # No foreign key: its check would lock the trial's row a second time, in the most frequent statement that there is.
    # Reports are only ever inserted from the locked row of their trial, and deleted before it (`Studies.delete`).
    sa.Column("trial_id", _Id, primary_key=True, autoincrement=False),
    sa.Column("step", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("value", sa.Double),  # NULL: none, and on SQLite, which has no NaN, NaN
    sa.Column("metrics", Json),
    sqlite_with_rowid=False,
)

distribution = sa.Table(
    "distribution",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("study_id", sa.ForeignKey("study.id", ondelete="CASCADE"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # Optuna's JSON
    sa.UniqueConstraint("study_id", "name", "body"),
)

artifact = sa.Table(
    "artifact",
    metadata,
    sa.Column("trial_id", sa.ForeignKey("trial.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
)

event = sa.Table(
    "event",
    metadata,
    sa.Column("seq", _Id, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),  # PostgreSQL: the transaction; SQLite: 0
    sa.Column("study_id", sa.BigInteger, nullable=False),  # no foreign key: the hottest insert there is
    sa.Column("trial_id", sa.BigInteger),  # NULL: the study itself moved
    sa.Column("attempt", sa.Integer),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("worker", sa.Text),
    sa.Column("token", sa.Text),  # of the lease that moved it, or of the new lease
    sa.Column("checkpoint_step", sa.Integer),
    sa.Column("at", sa.Double, nullable=False),
    sqlite_autoincrement=True,
)
sa.Index("ix_event_feed", event.c.study_id, event.c.position)
sa.Index("ix_event_trial", event.c.trial_id)
# A token is good for one claim, ever: a claim that is repeated after its lease was over finds nothing.
sa.Index(
    "uq_event_claim",
    event.c.token,
    unique=True,
    postgresql_where=event.c.cause == sa.literal_column("'claimed'"),
    sqlite_where=event.c.cause == sa.literal_column("'claimed'"),
)

__all__ = ["HEAD", "artifact", "distribution", "event", "metadata", "now", "report", "study", "trial"]
