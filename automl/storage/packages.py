"""The code of studies, as texts that are known by their sha256 (see `trainers/package.py` for what is in them)."""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

from automl.errors import NotFound
from automl.storage.database import Database, now
from automl.storage.tables import package


class Packages:
    """The packages of one project. One that is there never changes."""

    def __init__(self, database: Database, project: str):
        self._database = database
        self._project = project
        self._insert = database.insert(package).on_conflict_do_nothing()

    def put(self, body: str, who: str = "local") -> str:
        """Keep a package; its sha256. The same once more is harmless, and keeps the name of who was first."""
        digest = hashlib.sha256(body.encode()).hexdigest()
        row = {"project": self._project, "sha256": digest, "body": body, "created_at": now(), "created_by": who}
        self._database.execute(self._insert.values(**row))
        return digest

    def get(self, sha256: str) -> str:
        """Raises `NotFound`."""
        wanted = sa.select(package.c.body).where(package.c.project == self._project, package.c.sha256 == sha256)
        row = self._database.first(wanted)
        if row is None:
            raise NotFound(f"package {sha256[:12]} is not here; submit the study again", field="package")
        return row.body
