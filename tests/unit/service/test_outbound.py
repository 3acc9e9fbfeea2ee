"""Requests to addresses that users name: attack 20 of the list, with a resolver that lies and a server that listens."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from automl import outbound
from automl.errors import InvalidInput
from automl.outbound import ANSWER_BYTES, Destination, Undelivered, checked_addresses, destination, post, resolve
from tests.unit.service.receiver import Receiver, receiving

PUBLIC = "93.184.215.14"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def to(*addresses: str) -> outbound.Resolver:
    """A resolver that says so of every name."""
    return lambda host, port: list(addresses)


FORBIDDEN = [
    "127.0.0.1",
    "127.8.9.10",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.3.4",
    "192.168.1.1",
    "100.64.0.1",  # behind a provider's translation
    "169.254.169.254",  # what cloud machines tell about themselves
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::7f00:1",  # 127.0.0.1 behind NAT64
    "2002:7f00:1::",  # and behind 6to4
    "not an address",
]


@pytest.mark.parametrize("address", FORBIDDEN)
def test_no_name_may_stand_for_an_address_that_is_not_public(address: str, receiver: Receiver) -> None:
    with pytest.raises(InvalidInput) as refused:
        post(f"http://hooks.example:{receiver.port}/", b"{}", {}, resolver=to(address))
    assert refused.value.field == "url" and "hooks.example stands for" in str(refused.value)
    assert receiver.connections == 0


@pytest.mark.parametrize("addresses", [(PUBLIC, "127.0.0.1"), ("127.0.0.1", PUBLIC)])
def test_a_name_with_a_public_and_a_private_address_is_refused_as_a_whole(addresses: Sequence[str]) -> None:
    with pytest.raises(InvalidInput, match="this machine itself"):
        checked_addresses(Destination("http", "hooks.example", 80, "/"), False, to(*addresses))


@pytest.mark.parametrize("address", [PUBLIC, "2606:2800:21f:cb07:6820:80da:af6b:8b2c", f"::ffff:{PUBLIC}"])
def test_a_public_address_is_allowed(address: str) -> None:
    assert checked_addresses(Destination("https", "hooks.example", 443, "/"), False, to(address)) == [address]


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0177.0.0.1", "0x7f000001", "127.1", "[::1]", "localhost"])
def test_other_ways_to_write_this_machine_are_refused_by_what_they_stand_for(host: str, receiver: Receiver) -> None:
    with pytest.raises((InvalidInput, Undelivered)):  # some resolvers do not know the short forms
        post(f"http://{host}:{receiver.port}/", b"{}", {}, resolver=resolve)
    assert receiver.connections == 0


@pytest.mark.parametrize("address", ["169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1"])
def test_no_permission_opens_the_way_to_a_clouds_own_addresses(address: str) -> None:
    with pytest.raises(InvalidInput):
        checked_addresses(Destination("http", "hooks.example", 80, "/"), True, to(address))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.com/", "neither http:// nor https://"),
        ("file:///etc/passwd", "neither http"),
        ("gopher://127.0.0.1:5432/_x", "neither http"),
        ("//example.com/", "neither http"),
        ("http:///path", "is no host"),
        ("http://user:secret@example.com/", "a name or a password"),
        ("http://@example.com/", "a name or a password"),
        ("http://example.com\r\nX: y/", "characters"),
        ("http://example.com/ a", "characters"),
        ("http://exam\u0131ple.com/", "characters"),
        ("http://example.com:0/", "0 is no port"),
        ("http://example.com:99999/", "cannot be used"),
        ("http://[fe80::1%25eth0]/", "is no host"),
        ("http://exa$mple.com/", "is no host"),
        ("http://example.com/" + "a" * 2000, "longer than 2000"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_before_anything_is_looked_up(url: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as refused:
        post(url, b"", {}, resolver=lambda host, port: pytest.fail("looked up"))
    assert refused.value.field == "url"
    assert "secret@" not in str(refused.value)


def test_a_url_is_taken_apart() -> None:
    assert destination("https://Hooks.Example/a/b?c=d#e") == Destination("https", "hooks.example", 443, "/a/b?c=d")
    assert destination("http://[2001:db8::1]:8080") == Destination("http", "2001:db8::1", 8080, "/")


def test_the_name_is_looked_up_once_and_the_connection_goes_to_what_was_checked(receiver: Receiver) -> None:
    answers = [["127.0.0.1"], ["127.0.0.2"]]  # a second look-up would say something else

    answer = post(
        f"http://hooks.example:{receiver.port}/a?b=c",
        b'{"x":1}',
        {"Content-Type": "application/json", "X-Sign": "me"},
        allow_private=True,
        resolver=lambda host, port: answers.pop(0),
    )
    assert (answer.status, answer.body, len(answers)) == (200, b"ok", 1)
    (came,) = receiver.received
    assert (came.path, came.body) == ("/a?b=c", b'{"x":1}')
    assert came.headers["host"] == f"hooks.example:{receiver.port}"
    assert came.headers["x-sign"] == "me"


def test_a_redirect_is_a_failure_and_nobody_follows_it(receiver: Receiver) -> None:
    receiver.status, receiver.headers = 302, {"Location": f"http://127.0.0.1:{receiver.port}/elsewhere"}
    with pytest.raises(Undelivered, match="302; redirects are not followed"):
        post(receiver.url, b"", {}, allow_private=True)
    assert len(receiver.received) == 1


@pytest.mark.parametrize("status", [400, 404, 500])
def test_an_answer_that_is_no_success_is_a_failure(receiver: Receiver, status: int) -> None:
    receiver.status = status
    with pytest.raises(Undelivered, match=f"answered {status}"):
        post(receiver.url, b"", {}, allow_private=True)


def test_of_a_long_answer_only_the_beginning_is_read(receiver: Receiver) -> None:
    receiver.body = b"x" * (40 * ANSWER_BYTES)
    assert len(post(receiver.url, b"", {}, allow_private=True).body) == ANSWER_BYTES


def test_no_proxy_is_taken_from_the_environment(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "")
        post(receiver.url, b"", {}, allow_private=True)
        assert proxy.connections == 0 and len(receiver.received) == 1


def test_an_answer_that_does_not_come_is_not_waited_for(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "WHOLE_S", 0.2)
    receiver.wait = threading.Event()
    with pytest.raises(Undelivered):
        post(receiver.url, b"", {}, allow_private=True)
    receiver.wait.set()


def test_nobody_listening_and_an_unknown_name_are_said(receiver: Receiver) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(Undelivered, match=r"127\.0\.0\.1: .*refused"):
            post(f"http://127.0.0.1:{closed.getsockname()[1]}/", b"", {}, allow_private=True)

    def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    with pytest.raises(Undelivered, match=r"nobody\.example is not known here"):
        post("http://nobody.example/", b"", {}, resolver=unknown)


def test_another_address_of_the_name_is_tried_when_the_first_does_not_answer(receiver: Receiver) -> None:
    addresses = to("127.0.0.9", "127.0.0.1")  # the receiver listens at the second one
    assert post(f"http://hooks.example:{receiver.port}/", b"", {}, allow_private=True, resolver=addresses).status == 200


# -- TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of hooks.example, signed by itself; certificate and key in one file."""
    folder = tmp_path_factory.mktemp("tls")
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    made += ["-subj", "/CN=hooks.example", "-addext", "subjectAltName=DNS:hooks.example"]
    made += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(made, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return both


@pytest.fixture
def secure(certificate: Path) -> Iterator[Receiver]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with receiving(context) as found:
        yield found


def test_the_certificate_is_that_of_the_name_although_the_connection_goes_to_an_address(
    secure: Receiver, certificate: Path
) -> None:
    trust = ssl.create_default_context(cafile=str(certificate))
    here = to("127.0.0.1")

    def send(name: str, with_trust: ssl.SSLContext | None) -> int:
        url = f"https://{name}:{secure.port}/"
        return post(url, b"hi", {}, allow_private=True, resolver=here, trust=with_trust).status

    assert send("hooks.example", trust) == 200
    with pytest.raises(Undelivered, match="CERTIFICATE_VERIFY_FAILED"):
        send("other.example", trust)
    with pytest.raises(Undelivered, match="CERTIFICATE_VERIFY_FAILED"):
        send("hooks.example", None)  # signed by nobody whom this machine trusts
    assert len(secure.received) == 1
