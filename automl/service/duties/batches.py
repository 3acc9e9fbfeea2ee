"""The duty that looks after batches: holds and stops those that have used their hours, finishes those that are over."""

from __future__ import annotations

import sqlalchemy as sa

from automl.engine import Engine
from automl.storage.tables import batch


class BatchKeeper:
    """Every five seconds. What it does may be done twice: nothing rests on who holds the duty."""

    name = "batches"
    every_s = 5.0

    def __init__(self, engine: Engine):
        self._engine = engine

    def step(self) -> None:
        """Look after the unfinished batches of all projects. Raises `DatabaseUnavailable`."""
        unfinished = sa.select(batch.c.project).where(batch.c.finished_at.is_(None)).distinct()
        for row in self._engine.database.all(unfinished.order_by(batch.c.project)):
            self._engine.of_project(row.project).batches.look_after()
