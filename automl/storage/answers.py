"""What was answered to a request with an idempotency key, so that a repeated one gets it again and does nothing.

A key is begun before its request is worked on, in one statement, so of two that come at once one does the work. Who
began it and died leaves it open; after a while the next one with the key does the work.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from automl.errors import InvalidInput, TooMany
from automl.storage.database import Database, now
from automl.storage.tables import answer

MAX_KEY_LENGTH = 255
#: Seconds after which a request that was begun and never answered is taken for dead.
DEAD_AFTER_S = 60.0

_FIELD = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered the first time."""

    status: int
    body: str


class Answers:
    """The keys of one project. Thread-safe."""

    def __init__(self, database: Database, project: str):
        self._database = database
        self._project = project

    def begin(self, key: str, request_sha256: str) -> Answer | None:
        """None: the request is the caller's to do, and to `finish` or `forget`. Else what was answered to it.

        Raises `InvalidInput` for a key that cannot be, or that came with another request, and `TooMany` while somebody
        else is working on the same request.
        """
        if not 1 <= len(key) <= MAX_KEY_LENGTH or not (key.isascii() and key.isprintable()):
            cure = f"use 1 to {MAX_KEY_LENGTH} printable ASCII characters, as a UUID"
            raise InvalidInput(f"{_FIELD}: {key[:40]!r} cannot be one; {cure}", field=_FIELD)
        new = self._database.insert(answer).values(
            project=self._project, key=key, request_sha256=request_sha256, created_at=now()
        )
        is_dead = sa.and_(answer.c.status.is_(None), answer.c.created_at < now() - DEAD_AFTER_S)
        is_same = answer.c.request_sha256 == new.excluded.request_sha256
        begun = new.on_conflict_do_update(
            index_elements=["project", "key"], set_={"created_at": now()}, where=sa.and_(is_dead, is_same)
        )
        found = None
        while found is None:  # one that was forgotten in between is begun again
            if self._database.first(begun.returning(answer.c.key)) is not None:
                return None
            found = self._database.first(sa.select(answer).where(self._is(key)))
        if found.request_sha256 != request_sha256:
            raise InvalidInput(f"{_FIELD}: it came with another request before; use a new one for each", field=_FIELD)
        if found.status is None:
            raise TooMany("the same request is being worked on; ask again for its answer", retry_after_s=1.0)
        return Answer(found.status, found.body or "")

    def finish(self, key: str, status: int, body: str) -> None:
        """Keep what was answered; the first answer to a key stays."""
        done = sa.update(answer).where(self._is(key), answer.c.status.is_(None))
        self._database.execute(done.values(status=status, body=body))

    def forget(self, key: str) -> None:
        """The request failed, and may be tried again with the same key; one that was answered stays."""
        self._database.execute(sa.delete(answer).where(self._is(key), answer.c.status.is_(None)))

    def purge(self, older_than_s: float) -> int:
        """Remove the keys of all projects that were begun longer ago; how many."""
        return self._database.execute(sa.delete(answer).where(answer.c.created_at < now() - older_than_s))

    def _is(self, key: str) -> sa.ColumnElement[bool]:
        return sa.and_(answer.c.project == self._project, answer.c.key == key)
