"""Duties: what has to happen without anybody asking, done by whoever holds its lease.

A duty is a row that appears when it is first held. Its lease is taken, kept and judged by the database's clock alone.
A holder that was slow may believe to have it for too long: what must happen exactly once does not rest on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from automl.storage.database import Database, now
from automl.storage.tables import duty

_NAMED = duty.c.name == sa.bindparam("duty", type_=sa.Text)
_IS_HOLDER = duty.c.holder == sa.bindparam("by", type_=sa.Text)


@dataclass(frozen=True, slots=True)
class Duty:
    """A duty that somebody has held, now or at some time."""

    name: str
    holder: str  #: who held it last
    expires_at: float  #: when his lease is over; seconds since the epoch, the database's clock
    held: bool  #: whether it is not over yet
    cursor: Mapping[str, Any]  #: how far it has come, where it matters


class Duties:
    """The duties of a database, whatever the project. Thread-safe."""

    def __init__(self, database: Database):
        self._database = database
        self._hold = _hold(database.insert)

    def hold(self, name: str, holder: str, lease_s: float) -> bool:
        """Take the duty, keep it, or renew its lease, to `lease_s` seconds from now; False while another one has it.

        `holder` is the name of one process: two that give the same one have the duty both.
        """
        return self._database.first(self._hold, {"duty": name, "by": holder, "lease_s": lease_s}) is not None

    def let_go(self, name: str, holder: str) -> None:
        """Give the duty back at once, instead of when the lease is over; its cursor stays."""
        over = sa.update(duty).where(_NAMED, _IS_HOLDER).values(expires_at=0.0)
        self._database.execute(over, {"duty": name, "by": holder})

    def cursor(self, name: str) -> dict[str, Any]:
        """How far the duty has come, as it was last written; {} for one that never wrote it."""
        row = self._database.first(sa.select(duty.c.cursor).where(_NAMED), {"duty": name})
        return {} if row is None else dict(row.cursor)

    def advance(self, name: str, holder: str, cursor: Mapping[str, Any]) -> bool:
        """Write how far the duty has come; False, and nothing written, when the holder's lease is over."""
        holds = sa.and_(_NAMED, _IS_HOLDER, duty.c.expires_at > now())
        written = sa.update(duty).where(holds).values(cursor=dict(cursor))
        return bool(self._database.execute(written, {"duty": name, "by": holder}))

    def all(self) -> list[Duty]:
        """By name."""
        wanted = sa.select(duty, (duty.c.expires_at > now()).label("held")).order_by(duty.c.name)
        return [Duty(**row._asdict()) for row in self._database.all(wanted)]


def _hold(insert: Any) -> Any:
    """One statement: PostgreSQL looks at the condition again when it had to wait for the row."""
    until = now() + sa.bindparam("lease_s", type_=sa.Double)
    by = sa.bindparam("by", type_=sa.Text)
    new = insert(duty).values(name=sa.bindparam("duty", type_=sa.Text), holder=by, expires_at=until)
    free = sa.or_(duty.c.holder == new.excluded.holder, duty.c.expires_at <= now())
    taken = {"holder": new.excluded.holder, "expires_at": until}
    return new.on_conflict_do_update(index_elements=["name"], set_=taken, where=free).returning(duty.c.name)
