"""The API and the dashboard as one application: the API at its own addresses, the dashboard at all others.

Where visitors have to log in, the dashboard reaches the API as everybody does, with the visitor's token: over a second
listener, on loopback, which needs no certificate. Streamlit keeps what its script may know in its secrets: how visitors
come in is handed over there.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from automl.engine import Engine
from automl.outbound import is_loopback
from automl.service.app import create_app
from automl.service.auth import OPEN, TokenAuthenticator
from automl.service.callers import local
from automl.service.config import Config, Listen, Oidc, asks_for_tokens
from automl.service.limits import Rate
from automl.service.refusals import keep_logs_clean
from automl.service.server import Patience, Tls, make_server

log = logging.getLogger("automl.service")

#: Requests that are being worked on when the service is told to end have so long.
STOP_S = 4
#: Under this name the dashboard finds in Streamlit's secrets how visitors come in.
DOOR = "automl"

_API_PATHS = (*OPEN, "/metrics", "/api")
#: Of Streamlit: figures, uploads and doors for programs, which this dashboard has no use for.
_CLOSED = ("/_stcore/metrics", "/_stcore/upload_file", "/_stcore/agent", "/_stcore/script-health-check")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
)


class Web:
    """ASGI. Looks like the API to whoever asks who is let in."""

    def __init__(self, api: FastAPI, dashboard: ASGIApp):
        self.state = api.state
        self._api = api
        self._dashboard = dashboard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._dashboard(scope, receive, send)
            return
        path = scope["path"]
        if any(path == root or path.startswith(f"{root}/") for root in _API_PATHS):
            await self._api(scope, receive, send)
        elif any(path == root or path.startswith(f"{root}/") for root in _CLOSED):
            await _refuse(scope, send, 404)
        elif not self._is_welcome(scope):
            await _refuse(scope, send, 403)
        else:
            await self._dashboard(scope, receive, _with_headers(send))

    def _is_welcome(self, scope: Scope) -> bool:
        """Not a page of another site, and where nobody is asked for a token not a name that is not this machine's."""
        headers = {name: value.decode("latin-1").lower() for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        try:
            is_other = origin is not None and urlsplit(origin).netloc != host
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if scope["type"] == "websocket" and is_other:
            return False
        return self.state.authenticate is not local or is_loopback(name)


def serve(engine: Engine, listen: Listen, config: Config, script: Path | None) -> None:
    """Answer until a signal comes, which is raised again then. The caller has seen to `config.check_exposure`.

    `script` is the dashboard's, for Streamlit, which has its settings already; None: there is no dashboard.
    """
    keep_logs_clean()
    threading.Thread(target=_prepare, name="prepare", daemon=True).start()
    asks = asks_for_tokens(listen, config)
    rate = Rate(config.limits.requests_per_s, config.limits.burst)
    authenticate = TokenAuthenticator(engine) if asks else local
    api = create_app(engine, authenticate, rate=rate)
    tls = Tls(listen.tls_cert, listen.tls_key) if listen.tls_cert is not None else None
    options: dict[str, Any] = {"tls": tls, "patience": Patience(stop_s=STOP_S)}
    if listen.behind_proxy:
        options["proxies"] = "*"  # nobody else reaches this port: see docs/service.md
    if script is None:
        make_server(api, listen.host, listen.port, **options).run()
    elif not asks:
        make_server(_join(api, script, {}), listen.host, listen.port, **options).run()
    else:
        with _inside(create_app(engine, TokenAuthenticator(engine), rate=rate)) as url:
            web = _join(api, script, secrets_of(config.oidc, url))
            make_server(web, listen.host, listen.port, **options).run()


def _prepare() -> None:
    """Load what the first look at what the model says would have to wait for, longer than a request should take."""
    import automl.beliefs  # noqa: F401


def secrets_of(oidc: Oidc | None, url: str) -> dict[str, Any]:
    """How visitors come in, for the dashboard's script and for Streamlit itself."""
    if oidc is None:
        return {DOOR: {"login": "token", "service": url, "roles": {}}}
    names = ("client_id", "client_secret", "server_metadata_url", "redirect_uri", "cookie_secret")
    roles = {who: {"project": role.project, "scopes": ",".join(role.scopes)} for who, role in oidc.roles.items()}
    return {
        DOOR: {"login": "oidc", "service": url, "roles": roles},
        "auth": {name: getattr(oidc, name) for name in names},
    }


def _join(api: FastAPI, script: Path, secrets: Mapping[str, Any]) -> FastAPI:
    from streamlit import App
    from streamlit.runtime.secrets import secrets_singleton

    # Before the application is built: it signs cookies with what is in there.
    secrets_singleton.merge_programmatic_secrets(secrets)
    return cast("FastAPI", Web(api, App(script)))


@contextmanager
def _inside(api: FastAPI) -> Iterator[str]:
    """The API on loopback, for the dashboard; its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        server = uvicorn.Server(uvicorn.Config(api, log_config=None, access_log=False, server_header=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="inside", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(1.0)


def _with_headers(send: Send) -> Send:
    async def also(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
        await send(message)

    return also


async def _refuse(scope: Scope, send: Send, status: int) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0"), *_HEADERS]})
    await send({"type": "http.response.body", "body": b""})
