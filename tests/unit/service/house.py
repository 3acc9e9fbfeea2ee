"""A running service with a token for each thing that somebody may do, and ways to knock at it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
from fastapi import FastAPI

from automl.core import StudyRecord
from automl.engine import Engine, connect
from automl.service.app import create_app
from automl.service.auth import TokenAuthenticator
from automl.service.limits import Rate
from automl.service.server import Patience
from automl.team import Scope
from tests.conformance.lab import LEASE_S, new_token, suggestion
from tests.service import running


@dataclass
class House:
    """One service. Tokens are by the scope that they have, "foreign" is an admin's of another project."""

    engine: Engine
    app: FastAPI
    url: str
    tokens: Mapping[str, str]
    pool: urllib3.PoolManager

    def ask(
        self,
        method: str,
        path: str,
        *,
        who: str | None = "admin",
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> urllib3.BaseHTTPResponse:
        """An answer; `who` is one of `tokens`, a token's text, or None: nobody says who he is."""
        sent = dict(headers or {})
        if who is not None:
            sent["Authorization"] = f"Bearer {self.tokens.get(who, who)}"
        return self.pool.request(method, self.url + path, headers=sent, **options)

    def said(self, answer: urllib3.BaseHTTPResponse) -> dict[str, Any]:
        """What is under "error", in the one form that errors have."""
        assert answer.status >= 400, answer.data
        assert answer.headers["Content-Type"] == "application/json"
        body = json.loads(answer.data)
        assert body.keys() == {"error"}
        error: dict[str, Any] = body["error"]
        assert {"code", "message", "request_id"} <= error.keys() <= {"code", "message", "request_id", "field", "data"}
        assert error["request_id"] == answer.headers["X-Request-Id"]
        return error

    def knock(self, timeout_s: float = 30.0) -> socket.socket:
        """A connection of one's own."""
        parts = urlsplit(self.url)
        return socket.create_connection((parts.hostname, parts.port), timeout=timeout_s)


@contextmanager
def open_house(
    url: str, artifacts: Path, *, patience: Patience | None = None, rate: Rate | None = None, local: bool = False
) -> Iterator[House]:
    """A house on this database; `local`: where nobody is asked for a token."""
    engine = connect(url, artifacts)
    tokens = {scope.value: engine.tokens.create(f"{scope.value}er", [scope])[0] for scope in Scope}
    tokens["foreign"] = engine.of_project("elsewhere").tokens.create("foreign", [Scope.ADMIN])[0]
    app = create_app(engine, rate=rate) if local else create_app(engine, TokenAuthenticator(engine), rate=rate)
    with running(app, patience=patience) as address, urllib3.PoolManager(retries=False) as pool:
        yield House(engine, app, address, tokens, pool)
    engine.close()


def suggest(engine: Engine, study: StudyRecord, count: int) -> None:
    """Add waiting trials to a study that has none."""
    suggester = new_token()
    for number in range(count):
        assert engine._studies.hold(study.id, suggester, LEASE_S) is not None
        assert engine._studies.add_suggestion(study.id, suggester, number, suggestion())


def heard(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    pieces = []
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            break
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces)
