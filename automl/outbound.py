"""HTTP to addresses that users name, without becoming their way into our own network (server-side request forgery).

The name is resolved here, every address that it stands for is checked, and the connection goes to an address that was
checked: a second look-up, which could answer otherwise ("rebinding"), never happens. Redirects are not followed, no
proxy is read from the environment, and what comes back is cut off. TLS certificates are those of the name in the URL.

After OWASP, "Server-Side Request Forgery Prevention", and what went wrong with it in CVE-2026-2393 and CVE-2026-64849.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from automl.errors import AutoMLError, InvalidInput

#: So much of an answer is read.
ANSWER_BYTES = 64 * 1024
CONNECT_S = 5.0
#: From the first connection to the last byte, however slowly they come.
WHOLE_S = 15.0
MAX_URL = 2000

#: The addresses that a name stands for, as texts. Raises `OSError` when there are none.
Resolver = Callable[[str, int], Sequence[str]]

_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Undelivered(AutoMLError):
    """The other side was not reached, or did not say that it has taken the message."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A URL in its parts, checked but for what its host resolves to."""

    scheme: str
    host: str  #: a name or an address, without brackets
    port: int
    target: str  #: path and query


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes  #: the first 64 kB of it


def destination(url: str) -> Destination:
    """`url` in its parts. Raises `InvalidInput` for one that no message is ever sent to."""
    if not isinstance(url, str) or len(url) > MAX_URL:
        raise _forbidden(url, f"it is longer than {MAX_URL} characters")
    if not url.isascii() or not url.isprintable() or any(character in url for character in ' \\"<>^`{|}'):
        raise _forbidden(url, "it has characters that no URL has; write them as %XX")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _forbidden(url, str(error)) from error
    if parts.scheme not in _PORTS:
        raise _forbidden(url, "it is neither http:// nor https://")
    if "@" in parts.netloc:
        shown = f"{parts.scheme}://...@{parts.netloc.rpartition('@')[2]}"  # a password is not repeated
        raise _forbidden(shown, "it has a name or a password in it; sign messages with a secret instead")
    host = parts.hostname or ""
    if not (_NAME.fullmatch(host) or _is_address(host)) or len(host) > 253:
        raise _forbidden(url, f"{host!r} is no host")
    if port == 0:
        raise _forbidden(url, "0 is no port")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Destination(parts.scheme, host, port or _PORTS[parts.scheme], target)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of `host` by this machine's resolver, each once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def checked_addresses(goal: Destination, allow_private: bool, resolver: Resolver = resolve) -> list[str]:
    """The addresses to connect to.

    Raises `InvalidInput` when one of them, whichever, is none of the public internet: a name that stands for a public
    and a private one is a trick. Raises `Undelivered` when there are none.
    """
    try:
        addresses = list(resolver(goal.host, goal.port))
    except (OSError, UnicodeError) as error:
        raise Undelivered(f"{goal.host} is not known here ({error})") from error
    if not addresses:
        raise Undelivered(f"{goal.host} has no address")
    for text in addresses:
        why = _why_not(text, allow_private)
        if why is not None:
            stands_for = "" if text == goal.host else f" stands for {text}, which"
            cure = "give one of the public internet, or allow private addresses for this channel (--allow-private)"
            raise InvalidInput(f"url: {goal.host}{stands_for} is {why}; {cure}", field="url")
    return addresses


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    allow_private: bool = False,
    resolver: Resolver = resolve,
    trust: ssl.SSLContext | None = None,
) -> Answer:
    """Send `body` and read the answer, of status 200 to 299.

    `trust` is what certificates are checked with (None: what this machine trusts). Raises `InvalidInput` for a URL or
    an address that is not allowed, before anything is sent, and `Undelivered` for everything that goes wrong later.
    """
    goal = destination(url)
    addresses = checked_addresses(goal, allow_private, resolver)
    connection = http.client.HTTPConnection(goal.host, goal.port, timeout=CONNECT_S)
    try:
        connection.sock = _connected(goal, addresses, trust)
        with _ends_after(WHOLE_S, connection.sock):
            connection.request(
                "POST", goal.target, body, {"Host": _host_header(goal), **headers, "Connection": "close"}
            )
            with connection.getresponse() as received:
                answer = Answer(received.status, received.read(ANSWER_BYTES))
    except (OSError, http.client.HTTPException) as error:
        raise Undelivered(f"{goal.host}: {reason(error)}") from error
    finally:
        connection.close()
    if 300 <= answer.status < 400:
        raise Undelivered(f"{goal.host} answered {answer.status}; redirects are not followed, give the final URL")
    if not 200 <= answer.status < 300:
        raise Undelivered(f"{goal.host} answered {answer.status}")
    return answer


def _connected(goal: Destination, addresses: Sequence[str], trust: ssl.SSLContext | None) -> socket.socket:
    """A connection to the first of these addresses that answers."""
    failed: OSError | None = None
    for address in addresses:
        try:
            plain = socket.create_connection((address, goal.port), CONNECT_S)
        except OSError as error:
            failed = error
            continue
        if goal.scheme == "http":
            return plain
        try:
            return (trust or ssl.create_default_context()).wrap_socket(plain, server_hostname=goal.host)
        except BaseException:
            plain.close()
            raise
    raise failed or OSError("no address")


@contextlib.contextmanager
def _ends_after(seconds: float, connection: socket.socket) -> Iterator[None]:
    """A socket's own timeout begins again with every byte; this one does not."""

    def end() -> None:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "%" not in text  # with a zone it is one of this machine's own networks


def _why_not(text: str, allow_private: bool) -> str | None:
    """What forbids this address; None: nothing does."""
    try:
        address: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return "no address"
    inner = _inner(address)
    if inner is not None:
        return _why_not(str(inner), allow_private)
    # Nobody's hook lives there, but what cloud machines tell about themselves does.
    for what, is_so in (
        ("link-local", address.is_link_local),
        ("a multicast address", address.is_multicast),
        ("no address of a machine", address.is_unspecified),
    ):
        if is_so:
            return what
    if allow_private:
        return None
    if address.is_loopback:
        return "this machine itself"
    return None if address.is_global and not address.is_reserved else "no public address"


def _inner(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to (mapped, 6to4, Teredo, NAT64)."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _host_header(goal: Destination) -> str:
    host = f"[{goal.host}]" if ":" in goal.host else goal.host
    return host if goal.port == _PORTS[goal.scheme] else f"{host}:{goal.port}"


def _forbidden(url: object, why: str) -> InvalidInput:
    return InvalidInput(f"url: {str(url)[:200]!r} cannot be used: {why}", field="url")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def reason(error: Exception) -> str:
    """What went wrong, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
