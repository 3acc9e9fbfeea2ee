"""The database's schema: brought up to date on first use, under a lock, by Alembic migrations in this package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from automl.errors import SchemaMismatch
from automl.storage.database import Database
from automl.storage.tables import HEAD

#: Any number that nobody else uses: PostgreSQL's advisory locks have no names.
_MIGRATION_LOCK = 0x6175746F


def ensure_schema(database: Database) -> None:
    """Create or migrate the tables if need be. Raises `SchemaMismatch` when they are of a newer automl."""
    with database.connection() as connection:
        if _version(connection) == HEAD:
            return
    with without_foreign_keys(database), database.transaction() as connection:
        if database.dialect == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        version = _version(connection)
        if version == HEAD:
            return  # somebody else was faster
        _upgrade(connection, version, database)


@contextmanager
def without_foreign_keys(database: Database) -> Iterator[None]:
    """SQLite changes a table by making another one, and dropping the old one must not drop what refers to it.

    It can be said outside of a transaction only; the thread's connection is the one that the transaction takes.
    """
    if database.dialect != "sqlite":
        yield
        return
    with database.connection() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        connection.exec_driver_sql("PRAGMA legacy_alter_table = ON")  # or triggers are looked at half-way
    try:
        yield
    finally:
        with database.connection() as connection:
            connection.exec_driver_sql("PRAGMA legacy_alter_table = OFF")
            connection.exec_driver_sql("PRAGMA foreign_keys = ON")


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.scalar(sa.text("SELECT version_num FROM alembic_version"))


def alembic_config(connection: sa.Connection) -> Any:
    """An Alembic configuration that runs this package's migrations on `connection`."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: sa.Connection, version: str | None, database: Database) -> None:
    from alembic import command
    from alembic.script import ScriptDirectory

    config = alembic_config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if version is not None and version not in known:
        cure = "upgrade automl here, or use another database"
        raise SchemaMismatch(f"{database} was migrated to {version!r} by a newer automl; {cure}")
    command.upgrade(config, "head")
