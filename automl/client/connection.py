"""Small requests, one at a time on each thread's own connection: a worker has one or two for each trial and report.

What urllib3 does for each request takes it a dozen times as long as this takes; it carries the files.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

#: A connection that does not come about is given up after so long; an answer is waited for so long.
CONNECT_S, ANSWER_S = 5.0, 60.0

_RECEIVED = 256 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    data: bytes
    headers: Sequence[tuple[bytes, bytes]]

    def header(self, name: str) -> str:
        """Its value, or ""."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for given, value in self.headers if given.lower() == wanted), "")


class BadAnswer(Exception):
    """What came is no HTTP."""


class Connections:
    """The connections to one server, one for each thread that asks. Thread-safe; a forked child makes its own."""

    def __init__(self, url: str):
        """`url`: http or https, with a host; its path is none of our business."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._host = parts.hostname if parts.hostname.isascii() else parts.hostname.encode("idna").decode()
        self._is_secure = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_secure else 80)
        named = f"[{self._host}]" if ":" in self._host else self._host
        self._named = named if parts.port is None else f"{named}:{parts.port}"
        self._tls: ssl.SSLContext | None = None
        self._own = threading.local()
        self._open: weakref.WeakSet[_Connection] = weakref.WeakSet()

    def ask(self, method: str, target: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """The answer to a request, which is sent once more where its connection turns out to be closed.

        Raises `OSError`, and `BadAnswer`.
        """
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._named}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        request = "\r\n".join([*lines, "\r\n"]).encode("latin-1") + (body or b"")
        kept: _Connection | None = getattr(self._own, "connection", None)
        if kept is not None and kept.pid == os.getpid():
            with suppress(ConnectionError):  # mostly the server had closed it as idle
                return self._asked(kept, request)
        return self._asked(self._connect(), request)

    def close(self) -> None:
        for connection in list(self._open):
            connection.close()

    def _asked(self, connection: _Connection, request: bytes) -> Answer:
        self._own.connection = None
        stays = False
        try:
            answer, stays = connection.ask(request)
        finally:
            if stays:
                self._own.connection = connection
            else:
                connection.close()
        return answer

    def _connect(self) -> _Connection:
        connected = socket.create_connection((self._host, self._port), CONNECT_S)
        try:
            connected.settimeout(ANSWER_S)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._is_secure:
                self._tls = self._tls or ssl.create_default_context()
                connected = self._tls.wrap_socket(connected, server_hostname=self._host)
        except BaseException:
            connected.close()
            raise
        connection = _Connection(connected)
        self._open.add(connection)
        return connection


class _Connection:
    def __init__(self, connected: socket.socket):
        self.pid = os.getpid()
        self._socket = connected
        # Its thread may end, its client be forgotten: by then it may be too late for a method of this object.
        weakref.finalize(self, connected.close)

    def ask(self, request: bytes) -> tuple[Answer, bool]:
        """The answer, and whether another request may follow."""
        self._socket.sendall(request)
        reading = _Reading()
        try:
            while reading.answer is None:
                data = self._socket.recv(_RECEIVED)
                if not data:
                    raise ConnectionResetError("the connection was closed before the answer was here")
                reading.feed(data)
        finally:
            reading.end()
        return reading.answer, reading.stays

    def close(self) -> None:
        self._socket.close()


class _Reading:
    """An answer as it comes."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.stays = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._pieces: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def end(self) -> None:
        """The parser knows this object and is known by it: neither is left to the garbage collector."""
        del self._parser

    def feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise BadAnswer(f"what came is no HTTP: {error}") from error

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim answer: the real one follows
            self._headers = []
        elif self.answer is None:
            self.answer = Answer(status, b"".join(self._pieces), self._headers)
            self.stays = self._parser.should_keep_alive()
