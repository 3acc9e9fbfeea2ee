"""Studies, trials, leases, history."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")

MOVES = """
    (OLD.state = 'waiting' AND NEW.state IN ('running', 'cancelled'))
    OR (OLD.state = 'running' AND NEW.state IN ('complete', 'pruned', 'failed', 'paused', 'waiting', 'cancelled'))
    OR (OLD.state = 'paused' AND NEW.state IN ('waiting', 'cancelled'))
"""
EVENT_COLUMNS = "position, study_id, trial_id, attempt, state, cause, worker, token, checkpoint_step, at"
TRIAL_VALUES = "NEW.study_id, NEW.id, NEW.attempt, NEW.state, NEW.cause, NEW.worker"
STUDY_VALUES = "NEW.id, NULL, NULL, NEW.state, coalesce(NEW.reason, NEW.state), NULL, NULL, NULL"

POSTGRESQL = f"""
CREATE FUNCTION trial_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.state <> NEW.state AND NOT ({MOVES}) THEN
        RAISE EXCEPTION 'trial % cannot move from % to %', OLD.id, OLD.state, NEW.state
            USING ERRCODE = 'check_violation';
    END IF;
    INSERT INTO event ({EVENT_COLUMNS}) VALUES (
        pg_current_xact_id()::text::bigint, {TRIAL_VALUES},
        CASE WHEN TG_OP = 'UPDATE' THEN coalesce(NEW.lease_token, OLD.lease_token) ELSE NEW.lease_token END,
        NEW.checkpoint_step, extract(epoch from clock_timestamp())
    );
    RETURN NULL;
END $$;
CREATE TRIGGER trial_moved AFTER INSERT OR UPDATE OF state, basis ON trial
    FOR EACH ROW EXECUTE FUNCTION trial_moved();

CREATE FUNCTION study_moved() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO event ({EVENT_COLUMNS}) VALUES (
        pg_current_xact_id()::text::bigint, {STUDY_VALUES}, extract(epoch from clock_timestamp())
    );
    RETURN NULL;
END $$;
CREATE TRIGGER study_moved AFTER INSERT OR UPDATE OF state ON study
    FOR EACH ROW EXECUTE FUNCTION study_moved();
"""

SQLITE_NOW = "(julianday('now') - 2440587.5) * 86400.0"
SQLITE = (
    f"""
CREATE TRIGGER trial_refused BEFORE UPDATE OF state ON trial
WHEN OLD.state <> NEW.state AND NOT ({MOVES})
BEGIN
    SELECT RAISE(ABORT, 'a trial cannot move like this');
END
""",
    f"""
CREATE TRIGGER trial_made AFTER INSERT ON trial
BEGIN
    INSERT INTO event ({EVENT_COLUMNS})
    VALUES (0, {TRIAL_VALUES}, NEW.lease_token, NEW.checkpoint_step, {SQLITE_NOW});
END
""",
    f"""
CREATE TRIGGER trial_moved AFTER UPDATE OF state, basis ON trial
BEGIN
    INSERT INTO event ({EVENT_COLUMNS})
    VALUES (0, {TRIAL_VALUES}, coalesce(NEW.lease_token, OLD.lease_token), NEW.checkpoint_step, {SQLITE_NOW});
END
""",
    f"""
CREATE TRIGGER study_made AFTER INSERT ON study
BEGIN
    INSERT INTO event ({EVENT_COLUMNS}) VALUES (0, {STUDY_VALUES}, {SQLITE_NOW});
END
""",
    f"""
CREATE TRIGGER study_moved AFTER UPDATE OF state ON study
BEGIN
    INSERT INTO event ({EVENT_COLUMNS}) VALUES (0, {STUDY_VALUES}, {SQLITE_NOW});
END
""",
)


def upgrade() -> None:
    op.create_table(
        "study",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), server_default="open", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("directions", JSON, nullable=False),
        sa.Column("spec", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("entrypoint", sa.Text(), nullable=True),
        sa.Column("code_sha256", sa.Text(), nullable=True),
        sa.Column("queued", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("max_trials", sa.Integer(), nullable=True),
        sa.Column("max_active_s", sa.Double(), nullable=True),
        sa.Column("retries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_number", sa.Integer(), server_default="0", nullable=False),
        sa.Column("cancelled", sa.Integer(), server_default="0", nullable=False),
        sa.Column("active_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("suggester_token", sa.Text(), nullable=True),
        sa.Column("suggester_expires_at", sa.Double(), nullable=True),
        sa.Column("user_attrs", JSON, server_default="{}", nullable=False),
        sa.Column("system_attrs", JSON, server_default="{}", nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.CheckConstraint("state IN ('open', 'finished', 'stopped', 'failed')", name=op.f("ck_study_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_study")),
        sa.UniqueConstraint("name", name=op.f("uq_study_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "distribution",
        sa.Column("id", ID, nullable=False),
        sa.Column("study_id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_distribution_study_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_distribution")),
        sa.UniqueConstraint("study_id", "name", "body", name=op.f("uq_distribution_study_id_name_body")),
    )
    op.create_table(
        "event",
        sa.Column("seq", ID, nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=False),
        sa.Column("trial_id", sa.BigInteger(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("token", sa.Text(), nullable=True),
        sa.Column("checkpoint_step", sa.Integer(), nullable=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_event")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_feed", "event", ["study_id", "position"], unique=False)
    op.create_index("ix_event_trial", "event", ["trial_id"], unique=False)
    op.create_index(
        "uq_event_claim",
        "event",
        ["token"],
        unique=True,
        postgresql_where=sa.text("cause = 'claimed'"),
        sqlite_where=sa.text("cause = 'claimed'"),
    )
    op.create_table(
        "trial",
        sa.Column("id", ID, nullable=False),
        sa.Column("study_id", ID, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("basis", sa.Integer(), nullable=True),
        sa.Column("params", sa.JSON(none_as_null=True), server_default="{}", nullable=False),
        sa.Column("distributions", JSON, server_default="{}", nullable=False),
        sa.Column("objectives", JSON, nullable=True),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("metrics", JSON, server_default="{}", nullable=False),
        sa.Column("user_attrs", JSON, server_default="{}", nullable=False),
        sa.Column("system_attrs", JSON, server_default="{}", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_expires_at", sa.Double(), nullable=True),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("result_token", sa.Text(), nullable=True),
        sa.Column("run_after", sa.Double(), server_default="0", nullable=False),
        sa.Column("errors", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lost", sa.Integer(), server_default="0", nullable=False),
        sa.Column("preempted", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failure_kind", sa.Text(), nullable=True),
        sa.Column("failure_message", sa.Text(), nullable=True),
        sa.Column("failure_traceback", sa.Text(), nullable=True),
        sa.Column("failure_digest", sa.Text(), nullable=True),
        sa.Column("checkpoint_step", sa.Integer(), nullable=True),
        sa.Column("checkpoint_path", sa.Text(), nullable=True),
        sa.Column("checkpoint_sha256", sa.Text(), nullable=True),
        sa.Column("checkpoint_attempt", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.CheckConstraint("lease_token IS NULL OR state = 'running'", name=op.f("ck_trial_lease")),
        sa.CheckConstraint(
            "state IN ('waiting', 'running', 'paused', 'complete', 'pruned', 'failed', 'cancelled')",
            name=op.f("ck_trial_state"),
        ),
        sa.CheckConstraint("(lease_token IS NULL) = (lease_expires_at IS NULL)", name=op.f("ck_trial_expiry")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_trial_study_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trial")),
        sa.UniqueConstraint("study_id", "number", name=op.f("uq_trial_study_id_number")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_trial_best",
        "trial",
        ["study_id", "value"],
        unique=False,
        postgresql_where=sa.text("state = 'complete'"),
        sqlite_where=sa.text("state = 'complete'"),
    )
    op.create_index(
        "ix_trial_running",
        "trial",
        ["study_id"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "ix_trial_waiting",
        "trial",
        ["study_id", "number"],
        unique=False,
        postgresql_where=sa.text("state = 'waiting'"),
        sqlite_where=sa.text("state = 'waiting'"),
    )
    op.create_index(
        "uq_trial_lease_token",
        "trial",
        ["lease_token"],
        unique=True,
        postgresql_where=sa.text("lease_token IS NOT NULL"),
        sqlite_where=sa.text("lease_token IS NOT NULL"),
    )
    op.create_table(
        "artifact",
        sa.Column("trial_id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trial.id"], name=op.f("fk_artifact_trial_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("trial_id", "name", name=op.f("pk_artifact")),
    )
    op.create_table(
        "report",
        sa.Column("trial_id", ID, nullable=False),
        sa.Column("step", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("metrics", JSON, nullable=True),
        sa.PrimaryKeyConstraint("trial_id", "step", name=op.f("pk_report")),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":
        # Trials and their leases are updated in place all the time: room on the page keeps indexes untouched.
        op.execute("ALTER TABLE trial SET (fillfactor = 70)")
        op.execute("ALTER TABLE study SET (fillfactor = 50)")
        op.execute(POSTGRESQL)
    else:
        for statement in SQLITE:
            op.execute(statement)


def downgrade() -> None:
    for table in ("report", "artifact", "trial", "event", "distribution", "study"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION trial_moved(); DROP FUNCTION study_moved();")
