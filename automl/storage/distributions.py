"""Parameter distributions, stored once for each study and named by small ids in the trials' rows.

A distribution is Optuna's JSON text. Ids are never reused or changed, so what was read once stays true.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from automl.storage.database import Database
from automl.storage.tables import distribution


class Distributions:
    """Interned distributions of all studies of one database. Thread-safe."""

    def __init__(self, database: Database):
        self._database = database
        self._ids: dict[tuple[int, str, str], int] = {}
        self._bodies: dict[int, str] = {}
        self._insert = database.insert(distribution).on_conflict_do_nothing()

    def ids(self, study_id: int, bodies: Mapping[str, str]) -> dict[str, int]:
        """The id of each parameter's distribution, stored now if it is new."""
        if any((study_id, name, body) not in self._ids for name, body in bodies.items()):
            rows = [{"study_id": study_id, "name": name, "body": body} for name, body in bodies.items()]
            with self._database.transaction() as connection:
                connection.execute(self._insert, rows)
            self._load(study_id)
        return {name: self._ids[study_id, name, body] for name, body in bodies.items()}

    def bodies(self, study_id: int, ids: Mapping[str, int]) -> dict[str, str]:
        """The inverse of `ids`."""
        if any(id not in self._bodies for id in ids.values()):
            self._load(study_id)
        return {name: self._bodies[id] for name, id in ids.items()}

    def of_parameter(self, study_id: int, name: str) -> list[str]:
        """All distributions that the parameter ever had in this study, first to last."""
        columns = (distribution.c.id, distribution.c.body)
        known = sa.select(*columns).where(distribution.c.study_id == study_id, distribution.c.name == name)
        return [row.body for row in self._database.all(known.order_by(distribution.c.id))]

    def newest(self, study_id: int) -> dict[str, str]:
        """The last distribution of every parameter, in the order in which they were first asked for."""
        columns = (distribution.c.name, distribution.c.body)
        known = sa.select(*columns).where(distribution.c.study_id == study_id).order_by(distribution.c.id)
        return {row.name: row.body for row in self._database.all(known)}

    def _load(self, study_id: int) -> None:
        rows = self._database.all(sa.select(distribution).where(distribution.c.study_id == study_id))
        for row in rows:  # without a lock: whoever sets an entry sets it to the same
            self._ids[study_id, row.name, row.body] = row.id
            self._bodies[row.id] = row.body
