"""The door of the service: who may come in, by a token or, on this machine alone, without one."""

from __future__ import annotations

import inspect
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from urllib.parse import urlsplit

from anyio import to_thread
from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from automl.engine import Engine
from automl.errors import InvalidTarget, TooMany, Unauthorized
from automl.outbound import is_loopback
from automl.service.callers import IDENTITY, Authenticator, local
from automl.service.limits import Buckets, Rate
from automl.service.refusals import Problem
from automl.storage.tokens import identify
from automl.team import Identity

#: Seconds for which a token that was good is taken without another look. What is revoked is refused within a second.
TRUSTED_S = 0.5
#: Seconds for which a good token is known well enough to be looked at whatever others at its address have tried.
KNOWN_S = 600.0
#: Bad tokens from one address: so many at once, and as many again in each minute.
FAILURES = Rate(per_second=20 / 60, burst=20)
#: Addresses that anybody may ask for.
OPEN = frozenset({"/healthz", "/readyz"})

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_KEPT = 10_000


class TokenAuthenticator:
    """Knows callers by `Authorization: Bearer automl_<id>_<secret>`, and by nothing else."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic):
        self._database = engine.database
        self._clock = clock
        self._failures = Buckets(FAILURES, clock)
        self._known: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()  # by hash: no token stays in memory

    async def __call__(self, request: Request) -> Identity:
        """Who sent this. Raises `Unauthorized`, whatever is wrong with the token, and `TooMany`, `StorageError`."""
        kind, _, text = request.headers.get("authorization", "").partition(" ")
        text = text.strip()
        if kind.lower() != "bearer" or not text or len(text) > 200:
            raise self._refusal(request, counts=bool(kind))
        key = sha256(text.encode("utf-8", "replace")).digest()
        identity, at = self._known.get(key, (None, 0.0))
        now = self._clock()
        if identity is not None and now - at < TRUSTED_S:
            return identity
        if (identity is None or now - at > KNOWN_S) and (wait := self._failures.wait(_network(request))):
            raise _too_many(wait)
        # `now` was read before the database is asked: the answer may be older than the moment at which it comes.
        found = await to_thread.run_sync(identify, self._database, text)
        self._known.pop(key, None)
        if found is None:
            raise self._refusal(request, counts=True)
        self._known[key] = (found, now)
        if len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return found

    def _refusal(self, request: Request, *, counts: bool) -> Exception:
        """The same words for every reason: whether a token was ever good is nobody's business."""
        if counts and (wait := self._failures.take(_network(request))):
            return _too_many(wait)
        return Unauthorized("this takes a good token, in the header `Authorization: Bearer ...`; see `automl token`")


class Door:
    """Lets a request in when it is known who sent it, and no page of another site sent it with a browser's help."""

    def __init__(self, app: ASGIApp, authenticate: Authenticator):
        self._app = app
        self._authenticate = authenticate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            request = Request(scope, receive)
            _look_at_origin(request)
            if self._authenticate is local:
                _look_at_host(request)
            scope[IDENTITY] = await identified(self._authenticate, request)
        await self._app(scope, receive, send)


async def identified(authenticate: Authenticator, request: Request) -> Identity:
    """Who sent this, as `authenticate` says, at once or later."""
    found = authenticate(request)
    return await found if inspect.isawaitable(found) else found


def check_listening(host: str, authenticate: Authenticator) -> None:
    """Raises `InvalidTarget` where everybody on a network could do everything: not on loopback, without tokens."""
    if authenticate is local and not is_loopback(host):
        cure = "listen on 127.0.0.1, or ask for tokens"
        raise InvalidTarget(f"host: {host!r} can be reached by others, and nobody is asked for a token: {cure}", "host")


def _look_at_origin(request: Request) -> None:
    """A browser says so when another site's page makes it write."""
    if request.method in _READING:
        return
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    is_other = origin is not None and urlsplit(origin).netloc.lower() != host.lower()
    if is_other or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise Problem(403, "foreign_origin", "a page of another site may not write here", "Origin")


def _look_at_host(request: Request) -> None:
    """A name that another site made point to this machine (DNS rebinding) is no name of ours."""
    host = request.headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = ""
    if not is_loopback(name.rstrip(".")):
        message = "without tokens this service answers to localhost and 127.0.0.1 only"
        raise Problem(403, "foreign_host", message, "Host")


def _network(request: Request) -> str:
    """What the failures of a client are counted under: an IPv6 client has 2^64 addresses to choose from."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return host


def _too_many(wait: float) -> TooMany:
    return TooMany("too many bad tokens came from this address; wait, and see that the token is good", wait)
