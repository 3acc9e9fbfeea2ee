"""Notifications: channels, a test message, deliveries."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response
from pydantic import Field, StrictBool

from automl.errors import Forbidden
from automl.outbound import MAX_URL
from automl.service.answers import answer, says
from automl.service.bodies import Body, example
from automl.service.callers import LOCAL, Admin, Caller
from automl.storage.channels import MAX_DELIVERIES, MAX_SECRET
from automl.team import Channel, ChannelKind, Delivery, Subject

router = APIRouter(tags=["channels"])

Name = Annotated[str, Path(max_length=80, description="The channel's.")]


class NewChannel(Body):
    """Who is told of what."""

    model_config = example(
        name="team", kind="webhook", address="https://hooks.example.com/automl", subjects=["finished", "failed"]
    )

    name: Annotated[str, Field(max_length=80)]
    kind: ChannelKind
    address: Annotated[str, Field(max_length=MAX_URL, description="A URL, or an e-mail address.")]
    subjects: Annotated[tuple[Subject, ...], Field(min_length=1, max_length=len(Subject))] = tuple(Subject)
    secret: Annotated[
        str | None, Field(max_length=MAX_SECRET, description="What messages to a webhook are signed with.")
    ] = None
    allow_private: Annotated[StrictBool, Field(description="Also to private networks.")] = False


@router.post("/channels", status_code=201, responses=says(Channel, 201))
def add(request: Request, body: NewChannel, caller: Admin) -> Response:
    """Tell an address of these subjects from now on. Its secret is never shown again."""
    if body.allow_private and not _may_reach_private(request, caller):
        who = "whoever runs the service allows them: `automl notify add --allow-private` on its database"
        raise Forbidden(f"allow_private: messages from here go to public addresses only; {who}")
    given = body.model_dump()
    name, kind, address, subjects = (given.pop(field) for field in ("name", "kind", "address", "subjects"))
    return answer(caller.engine.channels.add(name, kind, address, subjects, **given), 201)


def _may_reach_private(request: Request, caller: Caller) -> bool:
    """A project's admin is not the one who owns the network that the service stands in."""
    return caller.identity == LOCAL or bool(getattr(request.app.state, "private_hooks", False))


@router.get("/channels", responses=says(list[Channel]))
def every(caller: Admin) -> Response:
    """All channels, by name."""
    return answer(caller.engine.channels.all())


@router.get("/channels/{name}", responses=says(Channel))
def read(name: Name, caller: Admin) -> Response:
    return answer(caller.engine.channels.get(name))


@router.delete("/channels/{name}", status_code=204)
def remove(name: Name, caller: Admin) -> Response:
    """With what is on its way to it."""
    caller.engine.channels.remove(name)
    return Response(status_code=204)


@router.post("/channels/{name}/test", status_code=202, responses=says(Delivery, 202))
def test(name: Name, caller: Admin) -> Response:
    """Put a test message on its way; `/deliveries` says what became of it."""
    return answer(caller.engine.channels.test(name), 202)


@router.get("/deliveries", responses=says(list[Delivery]))
def deliveries(
    caller: Admin,
    channel: Annotated[str | None, Query(max_length=80, description="Of this channel only.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_DELIVERIES)] = 100,
) -> Response:
    """What was told lately, the newest first."""
    return answer(caller.engine.channels.deliveries(channel, limit))
