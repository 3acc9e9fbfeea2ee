"""How much a request may bring, and how many may come: looked at before any of it is worked on.

A route whose body is not JSON, or larger, says so with `takes`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from anyio import to_thread
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from automl.errors import InvalidInput, TooMany
from automl.service import strict_json
from automl.service.callers import IDENTITY
from automl.service.refusals import Problem

F = TypeVar("F", bound=Callable[..., Any])

#: Where the bytes of a body are kept, once they are read as a whole.
BODY = "automl.body"
MAX_TARGET_LENGTH = 8192
#: A body of more bytes is looked at in another thread, so that other requests are answered in the meantime.
LARGE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Body:
    """What a request's body may be."""

    media: str = "application/json"
    max_bytes: int = 1024 * 1024
    max_text: int = strict_json.MAX_TEXT  #: characters of a text in JSON
    max_items: int = strict_json.MAX_ITEMS  #: of an array or an object in JSON
    streamed: bool = False  #: handed on as it comes; nobody looks at it before the route does


def takes(body: Body) -> Callable[[F], F]:
    """Of a route's function: what its body may be, where that is not a small JSON text."""

    def declare(function: F) -> F:
        function.takes = body  # type: ignore[attr-defined]
        return function

    return declare


class Declared:
    """The body of one route, with its methods and the template of its address."""

    def __init__(self, methods: frozenset[str], address: str, body: Body):
        self.methods = methods
        self.address = address
        self.body = body
        self._pattern = compile_path(address)[0]

    def is_at(self, path: str) -> bool:
        return self._pattern.match(path) is not None


@dataclass(frozen=True, slots=True)
class Rate:
    """How many requests a caller may send: so many a second in the long run, so many at once."""

    per_second: float = 500.0
    burst: int = 1000


class Buckets:
    """How many requests each of many callers has left. Of those that were silent the longest it forgets most."""

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic, keep: int = 10_000):
        self._rate = rate
        self._clock = clock
        self._keep = keep
        self._left: OrderedDict[Any, tuple[float, float]] = OrderedDict()  # caller -> requests left, when

    def take(self, caller: Any) -> float:
        """Count a request of this caller; 0.0, or the seconds after which he may send the next one."""
        wait = self.wait(caller)
        if wait == 0.0:
            left, at = self._left[caller]
            self._left[caller] = (left - 1.0, at)
        return wait

    def wait(self, caller: Any) -> float:
        """As `take`, without counting."""
        now = self._clock()
        left, at = self._left.pop(caller, (float(self._rate.burst), now))
        left = min(float(self._rate.burst), left + (now - at) * self._rate.per_second)
        self._left[caller] = (left, now)
        if len(self._left) > self._keep:
            self._left.popitem(last=False)
        return 0.0 if left >= 1.0 else (1.0 - left) / self._rate.per_second


class Limits:
    """Refuses what is too much, and hands on the body of a request in one piece."""

    def __init__(self, app: ASGIApp, declared: Iterable[Declared] = (), rate: Rate | None = None):
        self._app = app
        self._declared = tuple(declared)
        self._buckets = Buckets(rate or Rate())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        _look_at_target(scope)
        if identity := scope.get(IDENTITY):
            wait = self._buckets.take((identity.project, identity.who))
            if wait:
                raise TooMany(f"too many requests; the next one may come in {wait:.3f} s", retry_after_s=wait)
        headers = dict(scope["headers"])
        if b"range" in headers:  # answers are whole: a hundred thousand ranges of one are a bomb
            scope["headers"] = [item for item in scope["headers"] if item[0] != b"range"]
        if b"transfer-encoding" not in headers and headers.get(b"content-length", b"0") == b"0":
            await self._app(scope, receive, send)
            return
        rule = self._rule(scope)
        _look_at_headers(headers, rule)
        if rule.streamed:
            await self._app(scope, _counted(receive, rule), send)
            return
        body = await _read(receive, rule)
        if body is None:
            return  # nobody waits for an answer any more
        if body and rule.media == "application/json":
            if len(body) > LARGE:
                await to_thread.run_sync(strict_json.parse, body, rule.max_text, rule.max_items)
            else:
                strict_json.parse(body, rule.max_text, rule.max_items)
        scope[BODY] = body
        await self._app(scope, _replayed(body, receive), send)

    def _rule(self, scope: Scope) -> Body:
        for declared in self._declared:
            if scope["method"] in declared.methods and declared.is_at(scope["path"]):
                return declared.body
        return Body()


def _look_at_target(scope: Scope) -> None:
    query = scope["query_string"]
    if len(scope.get("raw_path") or b"") + len(query) > MAX_TARGET_LENGTH:
        raise Problem(414, "address_too_long", f"the address has more than {MAX_TARGET_LENGTH} characters")
    if "\0" in scope["path"] or b"%00" in query:
        raise InvalidInput("address: has a NUL character", field="address")


def _look_at_headers(headers: dict[bytes, bytes], rule: Body) -> None:
    coding = headers.get(b"content-encoding", b"identity").strip().lower()
    if coding != b"identity":
        name = coding.decode("latin-1")[:40]
        message = f"Content-Encoding: {name} is not taken; send the body as it is"
        raise Problem(415, "unsupported_media_type", message, "Content-Encoding")
    media, _, parameters = headers.get(b"content-type", b"").decode("latin-1").lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "")
    if media.strip() != rule.media or (charset.startswith("charset=") and charset not in ("charset=utf-8",)):
        message = f"Content-Type: send {rule.media}, in UTF-8 where it is text"
        raise Problem(415, "unsupported_media_type", message, "Content-Type")
    length = headers.get(b"content-length")
    if length is not None and length.isdigit() and int(length[:20]) > rule.max_bytes:
        raise _too_large(rule)


def _too_large(rule: Body) -> Problem:
    return Problem(413, "too_large", f"body: has more than {rule.max_bytes} bytes", "body")


async def _read(receive: Receive, rule: Body) -> bytes | None:
    pieces: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece = message.get("body", b"")
        size += len(piece)
        if size > rule.max_bytes:
            raise _too_large(rule)
        pieces.append(piece)
        more = message.get("more_body", False)
    return b"".join(pieces)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A body that was read, then whatever comes after it."""
    whole: Message | None = {"type": "http.request", "body": body, "more_body": False}

    async def replay() -> Message:
        nonlocal whole
        if whole is not None:
            message, whole = whole, None
            return message
        return await receive()

    return replay


def _counted(receive: Receive, rule: Body) -> Receive:
    size = 0

    async def count() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > rule.max_bytes:
            raise _too_large(rule)
        return message

    return count
