"""Tokens: create, list, revoke."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Body, Path, Request
from fastapi.responses import Response
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as parsed

from automl.service.answers import answer
from automl.service.callers import SECRET, Admin
from automl.storage.tokens import MAX_NAME_LENGTH
from automl.team import Scope, Token

router = APIRouter(tags=["tokens"])

_EXAMPLE = {"name": "ci", "scopes": ["read", "submit"], "expires_s": 7_776_000}


@parsed(frozen=True, config=ConfigDict(extra="forbid"))
class NewToken:
    """What a token is to be."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))]
    expires_s: Annotated[float, Field(gt=0, le=1e10)] | None = None


@dataclass(frozen=True, slots=True)
class Created:
    """A new token, and its text, which is said this once."""

    text: str
    token: Token


@router.post("/tokens", status_code=201, response_model=Created)
def create(request: Request, caller: Admin, new: Annotated[NewToken, Body(examples=[_EXAMPLE])]) -> Response:
    """Make a token of the caller's project; its text is said this once, and kept nowhere."""
    request.scope[SECRET] = True
    made = caller.engine.tokens.create(new.name, new.scopes, expires_s=new.expires_s, creator=caller.identity)
    return answer(Created(*made), 201)


@router.get("/tokens", response_model=list[Token])
def ls(caller: Admin) -> Response:
    """All tokens of the project, without their secrets."""
    return answer(caller.engine.tokens.all())


@router.delete("/tokens/{token}", status_code=204)
def revoke(caller: Admin, token: Annotated[str, Path(max_length=MAX_NAME_LENGTH)]) -> Response:
    """Make a token good for nothing, within a second; by its id or its name."""
    caller.engine.tokens.revoke(token)
    return Response(status_code=204)
