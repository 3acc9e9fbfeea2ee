"""Projects, tokens, duties, packages of code, schedules, batches, notifications; studies that can be brought back."""

from __future__ import annotations

import re

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
TABLES = ("delivery", "channel", "batch", "firing", "schedule", "package", "answer", "duty", "token")
STUDY: dict[str, sa.Column[object]] = {
    "project": sa.Column("project", sa.Text(), server_default="default", nullable=False),
    "deleted_at": sa.Column("deleted_at", sa.Double(), nullable=True),
    "package_sha256": sa.Column("package_sha256", sa.Text(), nullable=True),
    "priority": sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
    "batch_id": sa.Column("batch_id", sa.BigInteger(), nullable=True),
    "batch_position": sa.Column("batch_position", sa.Integer(), nullable=True),
    "schedule_id": sa.Column("schedule_id", sa.BigInteger(), nullable=True),
    "wanted_slots": sa.Column("wanted_slots", sa.Integer(), server_default="0", nullable=False),
    "wanted_until": sa.Column("wanted_until", sa.Double(), server_default="0", nullable=False),
}


def upgrade() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for name in ("study", "model"):
        if on_sqlite:
            _without_constraint(name, f"uq_{name}_name")
        else:
            op.drop_constraint(f"uq_{name}_name", name)
    for column in STUDY.values():
        op.add_column("study", column)
    there = sa.text("deleted_at IS NULL")
    op.create_index(
        "uq_study_name", "study", ["project", "name"], unique=True, postgresql_where=there, sqlite_where=there
    )
    op.create_index("ix_study_batch_id", "study", ["batch_id"], unique=False)
    op.create_index("ix_study_schedule_id", "study", ["schedule_id"], unique=False)
    op.add_column("model", sa.Column("project", sa.Text(), server_default="default", nullable=False))
    if on_sqlite:
        _with_constraint("model", "CONSTRAINT uq_model_project_name UNIQUE (project, name)")
    else:
        op.create_unique_constraint("uq_model_project_name", "model", ["project", "name"])
    _workers_of_projects()
    _create_tables()


def _workers_of_projects() -> None:
    """Workers that live tell of themselves again within seconds, so nobody copies their rows."""
    op.drop_table("worker")
    op.create_table(
        "worker",
        sa.Column("project", sa.Text(), server_default="default", nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("slots", JSON, nullable=False),
        sa.Column("load", JSON, nullable=False),
        sa.Column("environment", JSON, nullable=False),
        sa.Column("lease_s", sa.Double(), nullable=False),
        sa.Column("draining", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("project", "name", name=op.f("pk_worker")),
    )
    op.create_index("ix_worker_seen_at", "worker", ["seen_at"], unique=False)


def _create_tables() -> None:
    op.create_table(
        "token",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("scopes", JSON, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("revoked_at", sa.Double(), nullable=True),
        sa.Column("used_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_token")),
    )
    op.create_index("ix_token_project", "token", ["project"], unique=False)
    op.create_table(
        "duty",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("cursor", JSON, server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_duty")),
    )
    op.create_table(
        "answer",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("request_sha256", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("project", "key", name=op.f("pk_answer")),
    )
    op.create_index("ix_answer_created_at", "answer", ["created_at"], unique=False)
    op.create_table(
        "package",
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("project", "sha256", name=op.f("pk_package")),
    )
    op.create_table(
        "schedule",
        sa.Column("id", ID, nullable=False),
        sa.Column("project", sa.Text(), server_default="default", nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("cron", sa.Text(), nullable=False),
        sa.Column("timezone", sa.Text(), nullable=False),
        sa.Column("catch_up", sa.Text(), nullable=False),
        sa.Column("overlap", sa.Text(), nullable=False),
        sa.Column("promote", sa.Text(), nullable=True),
        sa.Column("spec", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("entrypoint", sa.Text(), nullable=False),
        sa.Column("code_sha256", sa.Text(), nullable=True),
        sa.Column("package_sha256", sa.Text(), nullable=True),
        sa.Column("paused", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("seen_until", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schedule")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_schedule_project_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "firing",
        sa.Column("schedule_id", ID, nullable=False),
        sa.Column("tick", sa.Double(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("study_id", sa.BigInteger(), nullable=True),
        sa.Column("verdict", JSON, nullable=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["schedule.id"], name=op.f("fk_firing_schedule_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("schedule_id", "tick", name=op.f("pk_firing")),
    )
    op.create_index("ix_firing_study_id", "firing", ["study_id"], unique=False)
    op.create_table(
        "batch",
        sa.Column("id", ID, nullable=False),
        sa.Column("project", sa.Text(), server_default="default", nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_trials", sa.Integer(), nullable=True),
        sa.Column("max_hours", sa.Double(), nullable=True),
        sa.Column("max_gpu_hours", sa.Double(), nullable=True),
        sa.Column("made", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("finished_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_batch_project_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "channel",
        sa.Column("id", ID, nullable=False),
        sa.Column("project", sa.Text(), server_default="default", nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("subjects", JSON, nullable=False),
        sa.Column("allow_private", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_channel")),
        sa.UniqueConstraint("project", "name", name=op.f("uq_channel_project_name")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "delivery",
        sa.Column("id", ID, nullable=False),
        sa.Column("channel_id", ID, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("payload", JSON, nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", sa.Double(), nullable=False),
        sa.Column("delivered_at", sa.Double(), nullable=True),
        sa.Column("given_up_at", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["channel_id"], ["channel.id"], name=op.f("fk_delivery_channel_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_delivery")),
        sa.UniqueConstraint("channel_id", "key", name=op.f("uq_delivery_channel_id_key")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_delivery_next_at", "delivery", ["next_at"], unique=False)


def downgrade() -> None:
    """For a database in which all studies are of one project; the names of deleted ones must not be taken again."""
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for table in TABLES:
        op.drop_table(table)
    op.execute("DELETE FROM worker")
    if on_sqlite:
        _without_constraint("model", "uq_model_project_name")
        for index in ("uq_study_name", "ix_study_batch_id", "ix_study_schedule_id"):
            op.drop_index(index, "study")
    else:
        op.drop_constraint("uq_model_project_name", "model")
        op.drop_index("uq_study_name", "study")
    op.drop_column("model", "project")
    for column in STUDY:
        op.drop_column("study", column)
    for table in ("study", "model"):
        if on_sqlite:
            _with_constraint(table, f"CONSTRAINT uq_{table}_name UNIQUE (name)")
        else:
            op.create_unique_constraint(f"uq_{table}_name", table, ["name"])
    if on_sqlite:
        declared = _declaration("worker").replace("PRIMARY KEY (project, name)", "PRIMARY KEY (name)")
        _made_again("worker", declared)
    else:
        op.drop_constraint("pk_worker", "worker")
        op.create_primary_key("pk_worker", "worker", ["name"])
    op.drop_column("worker", "project")


# SQLite cannot change the constraints of a table: it is made again, see https://sqlite.org/lang_altertable.html.
# `schema.py` has switched foreign keys off, or dropping the old one would take along all that refers to it.


def _without_constraint(table: str, constraint: str) -> None:
    declared = re.sub(rf",\s*CONSTRAINT {constraint} UNIQUE \([^)]*\)", "", _declaration(table))
    _made_again(table, declared)


def _with_constraint(table: str, constraint: str) -> None:
    head, _, _ = _declaration(table).rpartition(")")
    _made_again(table, f"{head}, {constraint})")


def _declaration(table: str) -> str:
    if op.get_bind().execute(sa.text("PRAGMA foreign_keys")).scalar():
        raise RuntimeError("say PRAGMA foreign_keys = OFF before the transaction, or rows that refer here would go")
    found = op.get_bind().execute(sa.text("SELECT sql FROM sqlite_master WHERE name = :name"), {"name": table})
    return str(found.scalar_one())


def _made_again(table: str, declared: str) -> None:
    connection = op.get_bind()
    kept = sa.text("SELECT sql FROM sqlite_master WHERE tbl_name = :name AND type <> 'table' AND sql IS NOT NULL")
    others = connection.execute(kept, {"name": table}).scalars().all()  # indexes and triggers
    op.execute(re.sub(r'^CREATE TABLE "?\w+"?', f"CREATE TABLE {table}_again", declared))
    op.execute(f"INSERT INTO {table}_again SELECT * FROM {table}")
    counted = sa.text("SELECT seq FROM sqlite_sequence WHERE name = :name")
    counter = connection.execute(counted, {"name": table}).scalar()
    op.execute(f"DROP TABLE {table}")
    op.execute(f"ALTER TABLE {table}_again RENAME TO {table}")
    if counter is not None:  # an id that was used is never given again, even that of a row that is gone
        connection.execute(sa.text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": table})
        again = sa.text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :seq)")
        connection.execute(again, {"name": table, "seq": counter})
    for statement in others:
        connection.exec_driver_sql(statement)
