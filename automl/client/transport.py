"""Requests to the service and what it answers, as nouns and errors of this package."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import urllib3

from automl import wire
from automl.client.connection import ANSWER_S, CONNECT_S, Answer, BadAnswer, Connections
from automl.errors import AutoMLError, DatabaseUnavailable, InvalidInput, InvalidTarget
from automl.outbound import is_loopback, reason
from automl.problems import error_of

T = TypeVar("T")

API = "/api/v1"
_PLAIN = re.compile(r"[A-Za-z0-9/?=&%:,;@+._~-]*")


class Transport:
    """One service, as one bearer of a token. Thread-safe."""

    def __init__(self, url: str, token: str | None):
        """Raises `InvalidTarget`, see `checked_url`."""
        self.url = checked_url(url, token)
        self._headers = {"Accept": "application/json"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._connections = Connections(self.url)
        self._root = urlsplit(self.url).path + API
        self._pool = urllib3.PoolManager(
            num_pools=2,
            maxsize=64,
            timeout=urllib3.Timeout(connect=CONNECT_S, read=ANSWER_S),
            retries=urllib3.Retry(total=False, redirect=False),
        )

    def get(self, path: str, kind: type[T], **query: Any) -> T:
        """What is at `path` under the API's root; queries that are None are left out, lists are said item by item."""
        return self._parsed(kind, self.request("GET", path, query=query))

    def ask(self, path: str, kind: type[T], body: Any) -> T:
        """What the service says to `body`: a question that is too long for a URL, and changes nothing."""
        return self._parsed(kind, self.request("POST", path, _said(body), {"Content-Type": "application/json"}))

    def send(self, method: str, path: str, kind: type[T], body: Any = None, *, key: str | None = None) -> T:
        """Change something. `body` is JSON or a noun's JSON text; what is sent twice with one `key` is done once."""
        data = body if isinstance(body, bytes) else _said({} if body is None else body)
        headers = {"Content-Type": "application/json"}
        if method == "POST":
            headers["Idempotency-Key"] = key or uuid.uuid4().hex
        return self._parsed(kind, self.request(method, path, data, headers))

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
    ) -> Answer:
        """A request as it is, and its answer as a whole.

        Raises what the service said, or `DatabaseUnavailable` when there was no answer.
        """
        fields = {name: _text(value) for name, value in (query or {}).items() if value is not None}
        target = f"{self._root}{path}?{urlencode(fields, doseq=True)}" if fields else self._root + path
        if not _PLAIN.fullmatch(target):
            target = quote(target, safe="/?=&%:,;@+-._~")
        try:
            answer = self._connections.ask(method, target, {**self._headers, **(headers or {})}, body)
        except (OSError, BadAnswer) as error:
            raise DatabaseUnavailable(f"{self.url}: {reason(error)}") from error
        if answer.status >= 400:
            raise self._error(answer.status, answer.data)
        return answer

    def transfer(
        self, method: str, path: str, file: BinaryIO | None = None, headers: Mapping[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        """As `request`, for what need not fit into memory: sends `file`, and the caller reads and releases the answer.

        A file is sent once: nobody else rewinds it.
        """
        target, said = f"{self.url}{API}{path}", {**self._headers, **(headers or {})}
        try:
            try:
                answer = self._pool.request(method, target, body=file, headers=said, preload_content=False)
            except urllib3.exceptions.ProtocolError:  # mostly a connection that the service had closed as idle
                if file is not None:
                    raise
                answer = self._pool.request(method, target, headers=said, preload_content=False)
            if answer.status >= 400:
                raise self._error(answer.status, answer.data)
        except urllib3.exceptions.HTTPError as error:
            raise DatabaseUnavailable(f"{self.url}: {reason(error)}") from error
        return answer

    def close(self) -> None:
        self._connections.close()
        self._pool.clear()

    def _parsed(self, kind: type[T], answer: Answer) -> T:
        return wire.parse(kind, answer.data or b"null")

    def _error(self, status: int, data: bytes) -> AutoMLError:
        try:
            said = json.loads(data)["error"]
        except (ValueError, KeyError, TypeError):  # not our service: a proxy on the way, or a wrong address
            if status in (502, 503, 504):
                return DatabaseUnavailable(f"{self.url}: answered {status}")
            return AutoMLError(f"{self.url}: answered {status}, and not as automl does; is the address right?")
        return error_of(status, said)


def checked_url(url: str, token: str | None) -> str:
    """The address of a service, as `https://automl.example.org`, maybe with the path under which a proxy has it.

    A token goes over plain `http://` to this machine only, unless the address ends in `?insecure=1`: whoever can read
    the network would have it. Raises `InvalidTarget`.
    """
    shown = repr(re.sub("//.*@", "//...@", url))
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")
    except ValueError as error:  # UnicodeError is one
        raise _wrong(f"{shown} is no address", "write https://HOST") from error
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise _wrong(f"{shown} is no address", "write https://HOST, or http://127.0.0.1:PORT on this machine")
    if parts.username is not None or parts.password is not None:
        raise _wrong("there is a user or a password in the address", "put a token into AUTOML_TOKEN")
    if parts.fragment or parts.query not in ("", "insecure=1"):
        raise _wrong(f"{shown} asks for something", "leave out what follows '?' or '#'")
    if token is not None and not (token.isascii() and token.isprintable() and token):
        raise InvalidTarget("token: it holds what no token holds; copy it again into AUTOML_TOKEN", field="token")
    if token is not None and parts.scheme == "http" and not is_loopback(host) and not parts.query:
        cure = "use https://, or add ?insecure=1 where the network is your own"
        raise _wrong(f"whoever can read the network to {host} would read the token", cure)
    return url.partition("?")[0].rstrip("/")


def _wrong(problem: str, cure: str) -> InvalidTarget:
    return InvalidTarget(f"storage: {problem}; {cure}", field="storage")


def _said(body: Any) -> bytes:
    try:
        return wire.dump(body)
    except TypeError as error:
        raise InvalidInput(f"body: {reason(error)}; use plain numbers, texts, lists and dicts", "body") from error


def _text(value: Any) -> Any:
    """As it is in a query; a list item by item."""
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    return str(value).lower() if isinstance(value, bool) else str(value)
