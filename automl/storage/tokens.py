"""Tokens: what a caller of the service shows, and who he is.

A token reads `automl_<id>_<secret>`. Its id is public and finds the row. Of the secret, 256 random bits, only the
sha256 is kept, so whoever reads the database cannot call with what he finds there. Its bits cannot be guessed, so a
slow hash would protect nothing more.
"""

from __future__ import annotations

import hmac
import math
import re
import secrets
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from automl.errors import Forbidden, InvalidInput, NotFound
from automl.storage.database import Database, now
from automl.storage.tables import token
from automl.team import Identity, Scope, Token

MAX_NAME_LENGTH = 60
#: `used_at` is no more exact than this: a write for each request would cost more than it tells.
USED_WITHIN_S = 60.0

_ID = r"[0-9a-f]{12}"
_TEXT = re.compile(rf"automl_({_ID})_([A-Za-z0-9_-]{{43}})")
_COLUMNS = tuple(token.c[name] for name in Token.__dataclass_fields__)
_IS_GOOD = sa.and_(token.c.revoked_at.is_(None), sa.or_(token.c.expires_at.is_(None), token.c.expires_at > now()))
_BY_ID = token.c.id == sa.bindparam("token_id", type_=sa.Text)
_UNUSED = sa.or_(token.c.used_at.is_(None), token.c.used_at < now() - USED_WITHIN_S)
_LOOK = sa.select(
    token.c.project,
    token.c.name,
    token.c.scopes,
    token.c.sha256,
    _IS_GOOD.label("is_good"),
    _UNUSED.label("unused"),
).where(_BY_ID)
_USE = sa.update(token).where(_BY_ID, _UNUSED).values(used_at=now())
#: What the secret of an unknown token is compared with: nobody knows what has this hash.
_NOBODYS = "0" * 64


class Tokens:
    """The tokens of one project."""

    def __init__(self, database: Database, project: str):
        self._database = database
        self._project = project

    def create(
        self,
        name: str,
        scopes: Sequence[Scope],
        *,
        expires_s: float | None = None,
        by: str = "local",
        creator: Identity | None = None,
    ) -> tuple[str, Token]:
        """A new token: its text, which nobody can ever read again, and what is kept of it.

        Args:
            name: for histories; no other good token of the project may have it.
            expires_s: seconds from now, by the database's clock. None: good until it is revoked.
            by: who made it.
            creator: who made it, where it was a caller of the service; it gives no scope that he has not.

        Raises `InvalidInput`, `Forbidden`.
        """
        _check_name(name)
        given = _checked(scopes)
        if creator is not None:
            lacking = [scope.value for scope in given if not creator.may(scope)]
            if lacking:
                raise Forbidden(f"scopes: {creator.who!r} has not {', '.join(lacking)}, and cannot give it")
        if expires_s is not None and not (math.isfinite(expires_s) and expires_s > 0):
            raise InvalidInput(f"expires: {expires_s} seconds from now cannot be; give more than 0", field="expires")
        id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        same = sa.select(token.c.id).where(token.c.project == self._project, token.c.name == name, _IS_GOOD)
        values = {
            "id": id,
            "project": self._project,
            "name": name,
            "sha256": _hashed(secret),
            "scopes": [scope.value for scope in given],
            "created_at": now(),
            "created_by": by if creator is None else creator.who,
            "expires_at": None if expires_s is None else now() + expires_s,
        }
        with self._database.transaction() as connection:
            if connection.execute(same.limit(1)).first() is not None:
                cure = "revoke it first, or choose another name"
                raise InvalidInput(f"name: there is a good token {name!r} already; {cure}", field="name")
            row = connection.execute(sa.insert(token).values(**values).returning(*_COLUMNS)).one()
        return f"automl_{id}_{secret}", _token(row)

    def all(self) -> list[Token]:
        """The oldest first, with those that are good no more."""
        wanted = sa.select(*_COLUMNS).where(token.c.project == self._project)
        return [_token(row) for row in self._database.all(wanted.order_by(token.c.created_at, token.c.id))]

    def revoke(self, id_or_name: str) -> None:
        """From now on it is good for nothing; one that was revoked already stays so. Raises `NotFound`."""
        meant = sa.and_(token.c.project == self._project, sa.or_(token.c.id == id_or_name, token.c.name == id_or_name))
        ends = sa.update(token).where(meant, token.c.revoked_at.is_(None)).values(revoked_at=now())
        if self._database.execute(ends):
            return
        if self._database.first(sa.select(token.c.id).where(meant).limit(1)) is None:
            raise NotFound(f"token {id_or_name!r} is none of this project; `automl token ls` lists them", field="token")


def identify(database: Database, text: str) -> Identity | None:
    """Whose token this is, in whatever project; None for one that is unknown, expired or revoked."""
    parts = _TEXT.fullmatch(text)
    if parts is None:
        return None
    id, secret = parts.groups()
    row = database.first(_LOOK, {"token_id": id})
    # Also for an unknown id, so that the time of an answer does not tell which ids there are.
    matches = hmac.compare_digest(_hashed(secret), _NOBODYS if row is None else row.sha256)
    if row is None or not matches or not row.is_good:
        return None
    if row.unused:
        database.execute(_USE, {"token_id": id})
    # A scope that only a newer automl knows gives nothing here.
    return Identity(row.name, row.project, frozenset(Scope(name) for name in row.scopes if name in set(Scope)))


def is_any_good(database: Database) -> bool:
    """Whether there is a good token, in any project."""
    return database.first(sa.select(token.c.id).where(_IS_GOOD).limit(1)) is not None


def _hashed(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isprintable() or name != name.strip():
        cure = f"use 1 to {MAX_NAME_LENGTH} printable characters"
        raise InvalidInput(f"name: {name!r} cannot be a token's; {cure}", field="name")
    if re.fullmatch(_ID, name):
        raise InvalidInput(f"name: {name!r} reads like the id of a token; choose another", field="name")


def _checked(scopes: Sequence[Scope]) -> tuple[Scope, ...]:
    """In the order in which `Scope` names them, each once."""
    unknown = [str(scope) for scope in scopes if scope not in set(Scope)]
    if unknown or not scopes:
        problem = f"{', '.join(unknown)} is none" if unknown else "none is given"
        raise InvalidInput(f"scopes: {problem}; there are {', '.join(Scope)}", field="scopes")
    return tuple(scope for scope in Scope if scope in set(scopes))


def _token(row: sa.Row[Any]) -> Token:
    known = tuple(Scope(name) for name in row.scopes if name in set(Scope))
    return Token(**{**row._asdict(), "scopes": known})
