"""How Alembic reaches the database: through the connection, and inside the transaction, of `storage.schema`."""

from __future__ import annotations

from alembic import context

from automl.storage.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # the caller's transaction holds all of it
)
context.run_migrations()
