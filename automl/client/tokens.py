"""The tokens of the caller's project, over HTTP: the twin of `automl.storage.tokens.Tokens`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from automl.client.transport import Transport
from automl.team import Identity, Scope, Token


@dataclass(frozen=True, slots=True)
class _Created:
    text: str
    token: Token


class RemoteTokens:
    """The tokens of one project, as one of its admins."""

    def __init__(self, transport: Transport):
        self._transport = transport

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

        `by` and `creator` are for who talks to the database: the service knows whom this caller's token names.
        Raises `InvalidInput`, `Forbidden`.
        """
        body: dict[str, Any] = {"name": name, "scopes": [str(scope) for scope in scopes]}
        if expires_s is not None:
            body["expires_s"] = expires_s
        made = self._transport.send("POST", "/tokens", _Created, body)
        return made.text, made.token

    def all(self) -> list[Token]:
        """The oldest first, with those that are good no more."""
        return self._transport.get("/tokens", list[Token])

    def revoke(self, id_or_name: str) -> None:
        """From now on (within a second) it is good for nothing. Raises `NotFound`."""
        self._transport.request("DELETE", f"/tokens/{quote(id_or_name, safe='')}")
