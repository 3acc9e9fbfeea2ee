"""The tables. Rows never leave this package; readers get the records of `core.py`.

Times are seconds since the epoch by the database's clock (`database.now`). Every change of a trial's or study's state
appends to `event` by a trigger (see the migrations), which also refuses moves that `core.MOVES` does not have.
"""

from __future__ import annotations

import sqlalchemy as sa

from automl.core import StudyState, TrialState
from automl.storage.database import Json, now

#: The newest migration. `schema.py` compares it with what the database says before Alembic is even imported.
HEAD = "0003"

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
    sa.Column("project", sa.Text, nullable=False, server_default="default"),
    sa.Column("name", sa.Text, nullable=False),
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
    sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),  # open, but nothing is claimed from it
    sa.Column("archived", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("tags", Json, nullable=False, server_default="[]"),
    sa.Column("origin_id", sa.BigInteger),  # the study that this one confirms; see declaration.Race
    sa.Column("deleted_at", sa.Double),  # NULL: it is there; what was deleted can be brought back for some days
    sa.Column("package_sha256", sa.Text),  # the code that came with it; see `package`
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),  # higher ones are taken up first
    sa.Column("batch_id", sa.BigInteger),
    sa.Column("batch_position", sa.Integer),
    sa.Column("schedule_id", sa.BigInteger),  # the schedule that started it
    # Somebody who cannot suggest himself searches it, on so many slots, until then.
    sa.Column("wanted_slots", sa.Integer, nullable=False, server_default="0"),
    sa.Column("wanted_until", sa.Double, nullable=False, server_default="0"),
    _one_of("state", StudyState),
    sqlite_autoincrement=True,  # an id that was used is never given to another study
)
sa.Index(
    "uq_study_name",
    study.c.project,
    study.c.name,
    unique=True,
    postgresql_where=study.c.deleted_at.is_(None),
    sqlite_where=study.c.deleted_at.is_(None),
)
sa.Index("ix_study_batch_id", study.c.batch_id)
sa.Index("ix_study_schedule_id", study.c.schedule_id)

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
    # Why its result counts for nothing, neither for the search nor for the ranking; NULL: it counts.
    sa.Column("invalid", sa.Text),
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
    # Reports are only ever inserted from the locked row of their trial, and deleted before it (`Trash.purge`).
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

worker = sa.Table(
    "worker",
    metadata,
    sa.Column("project", sa.Text, primary_key=True, server_default="default"),
    sa.Column("name", sa.Text, primary_key=True),  # trial.worker is this and "-" and the slot
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("slots", Json, nullable=False),  # [[GPU, ...], ...]
    sa.Column("load", Json, nullable=False),  # core.Load
    sa.Column("environment", Json, nullable=False),  # what its trials run in
    sa.Column("lease_s", sa.Double, nullable=False),
    sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),  # NULL: it has not said goodbye
)
sa.Index("ix_worker_seen_at", worker.c.seen_at)

# The registry. Versions, their files and the history are never changed nor removed: triggers refuse it.

model = sa.Table(
    "model",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("project", sa.Text, nullable=False, server_default="default"),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.UniqueConstraint("project", "name"),
    sqlite_autoincrement=True,
)

model_version = sa.Table(
    "model_version",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("model_id", sa.ForeignKey("model.id"), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),  # 1, 2, ... for each model
    # No foreign keys: a version outlives its study.
    sa.Column("study_id", sa.BigInteger, nullable=False),
    sa.Column("study", sa.Text, nullable=False),
    sa.Column("trial_id", sa.BigInteger, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("params", sa.JSON(none_as_null=True), nullable=False),
    sa.Column("metrics", sa.JSON(none_as_null=True), nullable=False),  # the study's first, in their order
    sa.Column("directions", Json, nullable=False),
    sa.Column("code_sha256", sa.Text),
    sa.Column("data_sha256", sa.Text),
    sa.Column("environment", Json, nullable=False, server_default="{}"),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.UniqueConstraint("model_id", "version"),
    sa.UniqueConstraint("model_id", "trial_id"),
    sqlite_autoincrement=True,
)

model_file = sa.Table(
    "model_file",
    metadata,
    sa.Column("version_id", sa.ForeignKey("model_version.id"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
)

alias = sa.Table(
    "alias",
    metadata,
    sa.Column("model_id", sa.ForeignKey("model.id"), primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version_id", sa.ForeignKey("model_version.id"), nullable=False),
)

promotion = sa.Table(
    "promotion",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("model_id", sa.ForeignKey("model.id"), nullable=False),
    sa.Column("alias", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),  # core.Promotion.kind
    sa.Column("from_version", sa.Integer),
    sa.Column("to_version", sa.Integer, nullable=False),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("forced", sa.Boolean, nullable=False),
    sa.Column("gates", Json, nullable=False),  # [core.Gate]
    sa.Column("estimate", Json),  # core.Estimate, where the study was confirmed
    sa.Column("at", sa.Double, nullable=False),
    sqlite_autoincrement=True,
)
sa.Index("ix_promotion_alias", promotion.c.model_id, promotion.c.alias, promotion.c.id)

# A team: who may call, what starts by itself, who is told. See `team.py`.

token = sa.Table(
    "token",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # the public part of what the bearer holds
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("sha256", sa.Text, nullable=False),  # of the secret part: 256 random bits need no slow hash
    sa.Column("scopes", Json, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.Column("used_at", sa.Double),
)
sa.Index("ix_token_project", token.c.project)

duty = sa.Table(
    "duty",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("expires_at", sa.Double, nullable=False),
    sa.Column("cursor", Json, nullable=False, server_default="{}"),  # how far it has come, where it matters
)

# What was answered to a request with an idempotency key.
answer = sa.Table(
    "answer",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("request_sha256", sa.Text, nullable=False),
    sa.Column("status", sa.Integer),  # NULL: it is being worked on
    sa.Column("body", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
)
sa.Index("ix_answer_created_at", answer.c.created_at)

package = sa.Table(
    "package",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("sha256", sa.Text, primary_key=True),  # of `body`
    sa.Column("body", sa.Text, nullable=False),  # JSON: {"files": {relative name: text}, ...}
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
)

schedule = sa.Table(
    "schedule",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("project", sa.Text, nullable=False, server_default="default"),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("cron", sa.Text, nullable=False),
    sa.Column("timezone", sa.Text, nullable=False),
    sa.Column("catch_up", sa.Text, nullable=False),
    sa.Column("overlap", sa.Text, nullable=False),
    sa.Column("promote", sa.Text),  # the alias that a better model gets by itself; NULL: it is only proposed
    sa.Column("spec", sa.JSON(none_as_null=True), nullable=False),
    sa.Column("entrypoint", sa.Text, nullable=False),
    sa.Column("code_sha256", sa.Text),
    sa.Column("package_sha256", sa.Text),
    sa.Column("paused", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("seen_until", sa.Double, nullable=False),  # ticks up to then have been dealt with
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.UniqueConstraint("project", "name"),
    sqlite_autoincrement=True,
)

firing = sa.Table(
    "firing",
    metadata,
    sa.Column("schedule_id", sa.ForeignKey("schedule.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tick", sa.Double, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),  # team.FiringState
    sa.Column("study_id", sa.BigInteger),  # NULL: nothing was started at this tick
    sa.Column("verdict", Json),  # what came of it, when it is over
    sa.Column("at", sa.Double, nullable=False),
)
sa.Index("ix_firing_study_id", firing.c.study_id)

batch = sa.Table(
    "batch",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("project", sa.Text, nullable=False, server_default="default"),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("max_trials", sa.Integer),
    sa.Column("max_hours", sa.Double),
    sa.Column("max_gpu_hours", sa.Double),
    sa.Column("made", sa.Integer, nullable=False, server_default="0"),  # trials, in all of its studies
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
    sa.UniqueConstraint("project", "name"),
    sqlite_autoincrement=True,
)

channel = sa.Table(
    "channel",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("project", sa.Text, nullable=False, server_default="default"),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),  # team.ChannelKind
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("secret", sa.Text),  # what messages are signed with
    sa.Column("subjects", Json, nullable=False),  # of which of team.Subject it is told
    sa.Column("allow_private", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.UniqueConstraint("project", "name"),
    sqlite_autoincrement=True,
)

delivery = sa.Table(
    "delivery",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("channel_id", sa.ForeignKey("channel.id", ondelete="CASCADE"), nullable=False),
    sa.Column("key", sa.Text, nullable=False),  # of what happened: each channel is told once
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("payload", Json, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("next_at", sa.Double, nullable=False),
    sa.Column("delivered_at", sa.Double),
    sa.Column("given_up_at", sa.Double),
    sa.Column("error", sa.Text),
    sa.UniqueConstraint("channel_id", "key"),
    sqlite_autoincrement=True,
)
sa.Index("ix_delivery_next_at", delivery.c.next_at)

__all__ = [
    "HEAD",
    "alias",
    "answer",
    "artifact",
    "batch",
    "channel",
    "delivery",
    "distribution",
    "duty",
    "event",
    "firing",
    "metadata",
    "model",
    "model_file",
    "model_version",
    "now",
    "package",
    "promotion",
    "report",
    "schedule",
    "study",
    "token",
    "trial",
    "worker",
]
