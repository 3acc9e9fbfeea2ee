"""The hot path: requests that are answered without FastAPI, which would take longer than their work.

Workers ask for little and often, each time at one of a few addresses. These are found by a look into a table; their
bodies are parsed once, and one thread does all of the work. They have threads of their own, so that leases are renewed
however many others read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from automl import wire
from automl.service.answers import answer
from automl.service.callers import Caller
from automl.service.limits import BODY

#: More of them would wait for each other: with eight workers on two cores 4 do 5 % more than 16.
THREADS = 8


class DirectRoute(APIRoute):
    """A route `(request, caller[, body]) -> noun` at an address without parameters."""

    def __init__(self, path: str, endpoint: Any, **options: Any):
        super().__init__(path, endpoint, **options)
        hints = get_type_hints(endpoint, include_extras=True)
        self.find_caller = hints["caller"].__metadata__[0].dependency
        self._body = hints.get("body")

    def work(self, request: Request, caller: Caller, text: bytes) -> Response:
        said = () if self._body is None else (wire.parse(self._body, text),)
        return answer(self.endpoint(request, caller, *said))


class Shortcut:
    """Answers what is asked of direct routes; everything else it hands on."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], prefix: str):
        self._app = app
        self._routes = {
            (method, prefix + route.path): route
            for route in routes
            if isinstance(route, DirectRoute)
            for method in route.methods or ()
        }
        self._threads = ThreadPoolExecutor(THREADS, "direct")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        request = Request(scope)
        caller = await route.find_caller(request)
        work = partial(route.work, request, caller, scope.get(BODY, b""))
        respond = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        await respond(scope, receive, send)
