"""The server that the application runs on: uvicorn, hardened against clients that are slow, large or many.

A connection has so long for the head of a request, and for its body as long as one that still moves would take; what
it may hold of memory is bounded at every moment, and there are only so many of them.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from automl.service.auth import check_listening

#: Set in the state of a request whose answer has no end: it is cut off when the server ends.
ENDLESS = "automl.endless"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long, how much and how many."""

    head_s: float = 10.0  #: until the head of a request has come, from the connection or from its first byte
    body_s: float = 10.0  #: until its body has come, and more the larger it is: see `bytes_per_s`
    bytes_per_s: float = 16 * 1024  #: a large body may come as slowly as this
    idle_s: int = 15  #: between two requests of one connection
    unread_s: float = 30.0  #: until the client takes what was sent to it
    stop_s: int = 10  #: until requests are over when the server ends
    max_head_bytes: int = 32 * 1024
    max_unwanted_bytes: int = 16 * 1024 * 1024  #: of a body that goes on after its request was refused
    max_connections: int = 1000


@dataclass(frozen=True, slots=True)
class Tls:
    certfile: Path
    keyfile: Path | None = None  #: None: it is in `certfile`


def make_server(
    app: FastAPI,
    host: str,
    port: int,
    *,
    tls: Tls | None = None,
    patience: Patience | None = None,
    proxies: str | None = None,
) -> uvicorn.Server:
    """A server for `app`, to be `run`.

    Args:
        tls: None: it speaks plain HTTP, for loopback or behind a proxy.
        proxies: addresses, divided by commas, whose `X-Forwarded-For` is believed; None: nobody's.

    Raises `InvalidTarget` where others could reach an `app` that asks nobody for a token.
    """
    check_listening(host, app.state.authenticate)
    patience = patience or Patience()
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_protocol(patience),
        log_config=None,
        access_log=False,  # addresses hold names; the figures say how many came
        server_header=False,
        proxy_headers=proxies is not None,
        forwarded_allow_ips=proxies,
        timeout_keep_alive=patience.idle_s,
        timeout_graceful_shutdown=patience.stop_s,
        ssl_certfile=None if tls is None else tls.certfile,
        ssl_keyfile=None if tls is None else tls.keyfile,
    )
    return uvicorn.Server(config)


def _protocol(patience: Patience) -> type[asyncio.Protocol]:
    """For uvicorn, which makes one object of it for each connection, with arguments of its own."""

    class Patient(_Patient):
        allowed = patience

    return Patient


class _Patient(HttpToolsProtocol):
    """A connection that is given up when it takes too long or too much."""

    allowed: Patience
    _timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None
    _in_head = True
    _in_body = False
    _is_refused = False
    _head_bytes = 0
    _messages = 0  # that are here as a whole: one that comes in one piece was in its head before and after it
    _body_bytes = 0
    _unwanted_bytes = 0
    _began = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.allowed.max_connections:
            self._refuse(503, "too_many_connections", "too many connections; try again", b"retry-after: 1\r\n")
            return
        self._wait(self.allowed.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait(None)
        self._unset_keepalive_if_required()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            self._count_unwanted(len(data))
            return
        was_in_head, messages = self._in_head, self._messages
        if was_in_head and self._timer is None:  # the first byte of another request
            self._wait(self.allowed.head_s)
        super().data_received(data)
        if was_in_head and self._in_head and messages == self._messages and not self._is_refused:
            self._head_bytes += len(data)
            if self._head_bytes > self.allowed.max_head_bytes:
                self._refuse_head()

    def send_400_response(self, msg: str) -> None:
        if not self._is_refused:
            self._refuse(400, "bad_request", "this is no HTTP request")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)

    def on_headers_complete(self) -> None:
        if self._head_bytes > self.allowed.max_head_bytes + len(self.url):
            self._refuse_head()
            return
        if self._is_refused:
            return
        self._in_head, self._head_bytes = False, 0
        self._in_body, self._body_bytes, self._unwanted_bytes = True, 0, 0
        self._began = self.loop.time()
        self._wait(self.allowed.body_s)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if self._is_refused:
            return
        self._body_bytes += len(body)
        if self.cycle.response_complete:
            self._count_unwanted(len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._wait(None)
        self._messages += 1
        self._in_head, self._in_body = True, False
        if self._is_refused:
            return
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete:  # nothing else is waited for
            self._wait(self.allowed.idle_s)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body:  # it was answered before it was here: it is given its time to end
            self._unset_keepalive_if_required()

    def handle_websocket_upgrade(self) -> None:
        self._wait(None)
        super().handle_websocket_upgrade()

    def shutdown(self) -> None:
        if self.cycle is not None and self.cycle.scope["state"].get(ENDLESS):
            self.transport.close()
        super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self.allowed.unread_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    def _wait(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self._timer = None
        if self._in_body:
            if self.flow.read_paused:  # we are the slow one
                self._wait(self.allowed.body_s)
                return
            left = self._began + self.allowed.body_s + self._body_bytes / self.allowed.bytes_per_s - self.loop.time()
            if left > 0:
                self._wait(left)
                return
        self.transport.close()

    def _count_unwanted(self, size: int) -> None:
        """Read on for a while: a client that still writes would otherwise not see why it was refused."""
        self._unwanted_bytes += size
        if self._unwanted_bytes > self.allowed.max_unwanted_bytes:
            self.transport.abort()

    def _refuse_head(self) -> None:
        message = f"the head of the request has more than {self.allowed.max_head_bytes} bytes"
        self._refuse(431, "head_too_large", message)

    def _refuse(self, status: int, code: str, message: str, headers: bytes = b"") -> None:
        """Answer what never reaches the application, and hear no more of it."""
        self._is_refused = True
        self._wait(None)
        id = secrets.token_hex(8)
        body = json.dumps({"error": {"code": code, "message": message, "request_id": id}}).encode()
        lines = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nx-request-id: {id}\r\n"
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}connection: close\r\n"
        self.transport.write(head.encode() + headers + b"\r\n" + body)
        self.transport.close()
