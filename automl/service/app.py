"""The application: all routes over one engine, and what stands before them.

A request goes through, from the outside in: `Envelope` (an id, an answer in any case), `Door` (who is it), `Limits`
(is it too much), `Shortcut` (is it a worker's), `Idempotency` (was it done before), `ETags` (is the answer known), then
the router.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.types import ASGIApp

from automl.engine import Engine
from automl.service.answers import answer
from automl.service.auth import Door
from automl.service.callers import Anyone, Authenticator, local
from automl.service.direct import Shortcut
from automl.service.envelope import Envelope
from automl.service.etags import ETags
from automl.service.idempotency import Idempotency
from automl.service.leases import Book
from automl.service.limits import Body, Declared, Limits, Rate
from automl.service.metrics import Requests
from automl.service.openapi import TAGS, document, operation_id
from automl.service.refusals import use_refusals
from automl.service.routes import ROUTERS, health, work

__all__ = ["API", "answer", "create_app"]

API = "/api/v1"


def create_app(engine: Engine, authenticate: Authenticator = local, *, rate: Rate | None = None) -> FastAPI:
    """The API over `engine` and the other projects of its database.

    Args:
        authenticate: `TokenAuthenticator(engine)`; with `local` everybody may do everything, so see
            `auth.check_listening`.
        rate: how many requests each caller may send.
    """
    app = _Api(
        title="automl",
        version="1",
        openapi_tags=TAGS,
        openapi_url=None,  # ours takes a token, and the pages that show it load scripts from elsewhere
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
    )
    app.state.authenticate = authenticate
    app.state.engine_of = engine_of = lru_cache(maxsize=1000)(engine.of_project)
    app.state.requests = requests = Requests()
    app.state.book = Book()
    for router in ROUTERS:
        app.include_router(router, prefix="" if router is health.router else API)
    app.get(f"{API}/openapi.json", include_in_schema=False)(_openapi)
    declared = tuple(_declared())
    large = [route for route in declared if route.body != Body()]
    app.state.bodies = {(method, route.address): route.body for route in large for method in route.methods}
    use_refusals(app, lambda path: frozenset().union(*(route.methods for route in declared if route.is_at(path))))

    def enclose(router: ASGIApp) -> ASGIApp:
        known = Shortcut(Idempotency(ETags(router), engine_of), work.router.routes, API)
        return Envelope(Door(Limits(known, large, rate), authenticate), requests)

    app.enclose = enclose
    return app


class _Api(FastAPI):
    """FastAPI in our layers instead of its own outermost ones: `Envelope` answers whatever goes wrong."""

    enclose: Callable[[ASGIApp], ASGIApp]

    def build_middleware_stack(self) -> ASGIApp:
        handlers: Any = self.exception_handlers
        return self.enclose(ExceptionMiddleware(AsyncExitStackMiddleware(self.router), handlers))


def _openapi(request: Request, caller: Anyone) -> Response:
    """What this service can do."""
    return JSONResponse(document(request.app))


def _declared() -> Iterator[Declared]:
    """Of all routes; their bodies are small JSON texts unless they said otherwise with `limits.takes`."""
    for router in ROUTERS:
        prefix = "" if router is health.router else API
        for route in router.routes:
            if isinstance(route, APIRoute):
                body = getattr(route.endpoint, "takes", Body())
                yield Declared(frozenset(route.methods or ()), prefix + route.path, body)
