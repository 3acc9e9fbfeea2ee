"""Which requests reach the dashboard, which the API, and which nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from automl.engine import Engine, connect
from automl.service.app import create_app
from automl.service.auth import TokenAuthenticator
from automl.service.web import Web

HOME = "127.0.0.1:8787"


async def dashboard(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes whatever comes."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"page"})


def asked(web: Web, path: str, kind: str = "http", **headers: str) -> Message:
    """The first thing that comes back."""
    said: list[Message] = []

    async def send(message: Message) -> None:
        said.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    named = {"host": HOME, **headers}
    scope: dict[str, Any] = {
        "type": kind,
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8787),
        "scheme": "http",
        "state": {},
    }
    asyncio.run(web(scope, receive, send))
    return said[0]


@pytest.fixture
def engine(sqlite_url: str, artifacts: Path) -> Iterator[Engine]:
    opened = connect(sqlite_url, artifacts)
    yield opened
    opened.close()


@pytest.fixture
def home(engine: Engine) -> Web:
    """On loopback, where nobody is asked for a token."""
    return Web(create_app(engine), dashboard)


@pytest.fixture
def team(engine: Engine) -> Web:
    return Web(create_app(engine, TokenAuthenticator(engine)), dashboard)


@pytest.mark.parametrize("path", ["/", "/study", "/apikeys", "/healthz2", "/_stcore/health", "/static/js/index.js"])
def test_pages_are_the_dashboards_and_may_not_be_framed(team: Web, path: str) -> None:
    answer = asked(team, path)
    assert answer["status"] == 299
    assert (b"x-frame-options", b"DENY") in answer["headers"]


@pytest.mark.parametrize(
    ("path", "status"), [("/healthz", 200), ("/api/v1/studies", 401), ("/metrics", 401), ("/api", 401), ("/api/", 401)]
)
def test_the_api_answers_at_its_own_addresses(team: Web, path: str, status: int) -> None:
    assert asked(team, path)["status"] == status


@pytest.mark.parametrize(
    "path", ["/_stcore/metrics", "/_stcore/upload_file/1/2", "/_stcore/agent/mcp", "/_stcore/script-health-check"]
)
def test_what_streamlit_offers_to_programs_is_not_there(team: Web, path: str) -> None:
    assert asked(team, path)["status"] == 404


def test_a_page_of_another_site_gets_no_connection(home: Web, team: Web) -> None:
    for web in (home, team):
        assert asked(web, "/_stcore/stream", "websocket", origin=f"http://{HOME}")["type"] == "websocket.accept"
        for origin in ("http://evil.example.org", "null", f"http://{HOME}.evil.example.org", "http://[", ""):
            refused = asked(web, "/_stcore/stream", "websocket", origin=origin)
            assert refused["type"] == "websocket.close", origin


def test_without_tokens_it_answers_to_names_of_this_machine_only(home: Web, team: Web) -> None:
    for host in (HOME, "localhost:8787", "[::1]:8787"):
        assert asked(home, "/", host=host)["status"] == 299
    for host in ("evil.example.org:8787", "10.0.0.1", "", "["):
        assert asked(home, "/", host=host)["status"] == 403, host
    assert asked(team, "/", host="automl.example.org")["status"] == 299
