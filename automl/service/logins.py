"""Who is at the dashboard, and the token with which it calls the service for him.

Whoever logs in through an identity provider gets a token for some hours, one in each process however many pages he has
open, and it is revoked when he logs out: what he may do is decided where it is decided for everybody else.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from automl.engine import Engine
from automl.errors import NotFound
from automl.service.config import Role, role_of
from automl.storage.leftovers import LOGIN
from automl.storage.tokens import identify
from automl.team import Identity, Scope

#: A log-in's token is good for so long, and replaced by another one when so little of that is left.
GOOD_S, RENEW_S = 12 * 3600.0, 3600.0
#: Of an e-mail address in the name of a token, which histories show.
_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who has said who he is."""

    identity: Identity
    token: str

    def may(self, scope: Scope) -> bool:
        return self.identity.may(scope)


@dataclass(frozen=True, slots=True)
class _Pass:
    visitor: Visitor
    token_id: str
    made_at: float


class Logins:
    """Thread-safe. One for a process."""

    def __init__(self, engine: Engine, roles: Mapping[str, Role], clock: Callable[[], float] = time.monotonic):
        """`roles`: by e-mail address, or "@" and a domain."""
        self._engine = engine
        self._roles = roles
        self._clock = clock
        self._lock = threading.Lock()
        self._passes: dict[str, _Pass] = {}  # by e-mail address
        self._ended: dict[str, float] = {}  # when somebody logged out

    def by_token(self, text: str) -> Visitor | None:
        """Whoever holds this token; None for one that is not good."""
        text = text.strip()
        identity = identify(self._engine.database, text)
        return None if identity is None else Visitor(identity, text)

    def by_address(self, email: str, since: float) -> Visitor | None:
        """Whoever the identity provider says has this address; None when nobody has given him a role.

        `since` is when his page was opened: one from before he logged out shows him as logged in still.
        """
        role = role_of(self._roles, email)
        if role is None:
            return None
        with self._lock:
            if since < self._ended.get(email, float("-inf")):
                return None
            found = self._passes.get(email)
            if found is None or self._clock() - found.made_at > GOOD_S - RENEW_S:
                found = self._passes[email] = self._make(email, role)
            return found.visitor

    def has_ended(self, email: str, since: float) -> bool:
        """Whether he has logged out since his page was opened."""
        with self._lock:
            return since < self._ended.get(email, float("-inf"))

    def end(self, email: str) -> None:
        """He logs out: his token is good for nothing from here on."""
        with self._lock:
            self._ended[email] = self._clock()
            found = self._passes.pop(email, None)
        if found is not None:
            with suppress(NotFound):  # it was over, and has been cleared away
                self._engine.of_project(found.visitor.identity.project).tokens.revoke(found.token_id)

    def now(self) -> float:
        """What `since` is compared with."""
        return self._clock()

    def _make(self, email: str, role: Role) -> _Pass:
        # No two good tokens of a project have one name, and another process may have made one for him.
        name = f"{email[:_SHOWN]} {secrets.token_hex(3)}"
        tokens = self._engine.of_project(role.project).tokens
        text, token = tokens.create(name, role.scopes, expires_s=GOOD_S, by=LOGIN)
        identity = Identity(name, role.project, frozenset(role.scopes))
        return _Pass(Visitor(identity, text), token.id, self._clock())
