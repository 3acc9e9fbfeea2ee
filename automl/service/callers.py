"""Who calls, and what he may do: each route says what it needs, in its signature."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Path, Request

from automl.engine import Engine
from automl.errors import Unauthorized
from automl.team import DEFAULT_PROJECT, Identity, Scope

#: Where it is kept who sent a request, while it is worked on.
IDENTITY = "automl.identity"
#: Set by a route whose answer holds a secret: it is not kept for a repeated request.
SECRET = "automl.secret"

#: Who calls a service that asks nobody for a token: somebody on this machine.
LOCAL = Identity("local", DEFAULT_PROJECT, frozenset(Scope))

#: A number that a database row may have, in a path.
RowId = Annotated[int, Path(ge=1, le=2**63 - 1)]


class Authenticator(Protocol):
    def __call__(self, request: Request) -> Identity | Awaitable[Identity]:
        """Who sent this. Raises `Unauthorized`, `TooMany`."""


def local(request: Request) -> Identity:
    """Everybody who reaches the service may do everything: for a service that nobody else can reach."""
    return LOCAL


@dataclass(frozen=True)
class Caller:
    """Whom a route works for: `engine` sees his project and no other."""

    identity: Identity
    engine: Engine


def needs(scope: Scope | None) -> Callable[[Request], Awaitable[Caller]]:
    """Refuses a caller without this scope; None: any good token will do."""

    async def caller(request: Request) -> Caller:  # async: it waits for nothing, and a thread would cost more than it
        found: Identity | None = request.scope.get(IDENTITY)
        if found is None:
            raise Unauthorized("this takes a token")
        if scope is not None:
            found.require(scope)
        return Caller(found, request.app.state.engine_of(found.project))

    caller.scope = scope  # type: ignore[attr-defined]  # for the test that enumerates all routes
    return caller


# What routes say in their signature: `caller: Reader`.
Anyone = Annotated[Caller, Depends(needs(None))]
Reader = Annotated[Caller, Depends(needs(Scope.READ))]
Submitter = Annotated[Caller, Depends(needs(Scope.SUBMIT))]
CodeSubmitter = Annotated[Caller, Depends(needs(Scope.SUBMIT_CODE))]
Worker = Annotated[Caller, Depends(needs(Scope.WORK))]
Promoter = Annotated[Caller, Depends(needs(Scope.PROMOTE))]
Admin = Annotated[Caller, Depends(needs(Scope.ADMIN))]
