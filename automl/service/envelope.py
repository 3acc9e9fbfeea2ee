"""Around every answer: an id to ask about it by, headers that keep browsers careful, and its place in the figures."""

from __future__ import annotations

import logging
import re
import secrets
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from automl.service.metrics import Requests
from automl.service.refusals import REQUEST_ID, refusal

logger = logging.getLogger("automl.service")

_OWN_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
_NO_STORE = (b"cache-control", b"no-store")


class Envelope:
    """Answers what nothing below it has answered: every request gets one answer, in our form."""

    def __init__(self, app: ASGIApp, requests: Requests):
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # there are none here
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        id = _id(scope)
        scope[REQUEST_ID] = id
        began, status = time.perf_counter(), 0

        async def enclosed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _enclosed(message["headers"], id)
                # Until here: a stream of events lasts for hours.
                self._requests.add(scope["method"], _route(scope), status, time.perf_counter() - began)
            await send(message)

        try:
            await self._app(scope, receive, enclosed)
        except Exception as error:
            if status:  # too late for another answer: the connection is closed by the server
                logger.error("%s: after its answer had begun: %s", id, type(error).__name__)
                raise
            await refusal(error, id)(scope, receive, enclosed)


def _id(scope: Scope) -> str:
    """The client's own, so that it can be found in both logs, if it is harmless."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _OWN_ID.fullmatch(value):
            return value.decode()
    return secrets.token_hex(8)


def _route(scope: Scope) -> str:
    route: Any = scope.get("route")
    return getattr(route, "path", "none")


def _enclosed(headers: Any, id: str) -> list[tuple[bytes, bytes]]:
    listed = [*headers, (b"x-request-id", id.encode()), *_HEADERS]
    if not any(name == b"cache-control" for name, _ in listed):
        listed.append(_NO_STORE)
    return listed
