"""What a client has already is not sent again, and what it has not seen is not overwritten."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from automl import wire
from automl.service.refusals import Problem


def etag(body: bytes) -> str:
    """A weak one: bodies that say the same have the same."""
    return f'W/"{blake2b(body, digest_size=12).hexdigest()}"'


def require_match(request: Request, value: Any) -> None:
    """Raises 412 where the request is meant for another state (`If-Match`) than `value`, as a GET of it would say it.

    Of two that change at the same moment both may pass: it keeps people from overwriting what they have not seen.
    """
    wanted = request.headers.get("if-match")
    if wanted is not None and not _names(wanted, etag(wire.dump(value))):
        message = "it was changed since it was read: read it again, then decide whether the change is still wanted"
        raise Problem(412, "precondition_failed", message, "If-Match")


class ETags:
    """Gives every JSON answer to a GET a tag, and answers 304 to who has it."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET":
            await self._app(scope, receive, send)
            return
        start: Message | None = None

        async def tagged(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and _is_json(message):
                start = message  # until the body is here
                return
            if start is not None:
                first, start = start, None
                if not message.get("more_body", False):
                    first, message = _answer(scope, first, message)
                await send(first)
            await send(message)

        await self._app(scope, receive, tagged)


def _is_json(start: Message) -> bool:
    return start["status"] == 200 and any(
        name == b"content-type" and value.startswith(b"application/json") for name, value in start["headers"]
    )


def _answer(scope: Scope, start: Message, body: Message) -> tuple[Message, Message]:
    own = next((value.decode("latin-1") for name, value in start["headers"] if name == b"etag"), None)
    tag = own or etag(body.get("body", b""))
    headers = [*start["headers"]] if own else [*start["headers"], (b"etag", tag.encode("latin-1"))]
    known = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"if-none-match"), "")
    if known and _names(known, tag):
        kept = [item for item in headers if item[0] not in (b"content-length", b"content-type")]
        return {**start, "status": 304, "headers": kept}, {**body, "body": b""}
    return {**start, "headers": headers}, body


def _names(header: str, tag: str) -> bool:
    """Whether a header names this tag, or any; weak or not is the same to us."""
    named = {item.strip().removeprefix("W/") for item in header.split(",")}
    return "*" in named or tag.removeprefix("W/") in named
