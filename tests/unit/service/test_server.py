"""Clients that are slow, large or many, as sockets. What waits here is the client: that it is slow is the matter."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import urllib3
from fastapi.responses import Response

from automl.service.callers import Anyone
from automl.service.server import Patience, Tls
from tests.service import running
from tests.unit.service.house import House, heard, open_house

HASTY = Patience(
    head_s=0.6,
    body_s=0.6,
    bytes_per_s=2e5,
    idle_s=1,
    unread_s=0.6,
    stop_s=2,
    max_head_bytes=4096,
    max_unwanted_bytes=1 << 20,
)
#: Seconds within which somebody of little patience ends what would go on for half a minute.
GIVEN_UP_S = 6.0


@pytest.fixture
def hasty(sqlite_url: str, artifacts: Path) -> Iterator[House]:
    """A house of little patience."""
    with open_house(sqlite_url, artifacts, patience=HASTY) as opened:
        yield opened


def drip(connection: socket.socket, text: bytes) -> float:
    """Send byte by byte, one each 0.1 s, until the other side has had enough: after how many seconds."""
    began = time.monotonic()
    connection.settimeout(0.1)
    for at in range(len(text)):
        try:
            connection.sendall(text[at : at + 1])
            if not connection.recv(65536):
                return time.monotonic() - began
        except TimeoutError:
            continue
        except OSError:
            return time.monotonic() - began
    raise AssertionError("nobody minded")


def test_who_says_nothing_is_sent_away(hasty: House) -> None:
    with hasty.knock(5.0) as connection:
        assert heard(connection) == b""


def test_a_head_that_drips_is_given_up(hasty: House) -> None:
    with hasty.knock() as connection:
        assert drip(connection, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 50) < GIVEN_UP_S


def test_a_second_head_that_drips_is_given_up_too(hasty: House) -> None:
    with hasty.knock() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in connection.recv(65536)
        assert drip(connection, b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 50) < GIVEN_UP_S


def test_a_body_that_drips_is_given_up(hasty: House) -> None:
    head = f"POST /api/v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {hasty.tokens['admin']}\r\n"
    with hasty.knock() as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n".encode())
        assert drip(connection, b" " * 1000) < GIVEN_UP_S


def test_a_large_body_that_moves_is_waited_for(hasty: House) -> None:
    head = f"POST /api/v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {hasty.tokens['admin']}\r\n"
    body = json.dumps({"name": "x" * 900_000, "scopes": ["read"]}).encode()
    with hasty.knock() as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode())
        for at in range(0, len(body), 100_000):  # 0.9 s, and at this size it is given 5
            connection.sendall(body[at : at + 100_000])
            threading.Event().wait(0.09)
        assert b" 422 " in connection.recv(65536)


def test_a_connection_that_is_idle_is_closed(hasty: House) -> None:
    with hasty.knock(5.0) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert heard(connection).startswith(b"HTTP/1.1 200 ")


def test_a_head_that_is_too_large_is_refused_before_it_ends(hasty: House) -> None:
    with hasty.knock() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 6000)
        answer = heard(connection)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "head_too_large"


def test_many_small_headers_are_too_large_as_well(hasty: House) -> None:
    with hasty.knock() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X: yyyyyyyyyy\r\n" * 600 + b"\r\n")
        assert heard(connection).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("text", [b"\0" * 100, b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"])
def test_what_is_no_http_is_answered_in_our_form(hasty: House, text: bytes) -> None:
    with hasty.knock() as connection:
        connection.sendall(text)
        answer = heard(connection)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "bad_request"


def test_there_are_only_so_many_connections(sqlite_url: str, artifacts: Path) -> None:
    with open_house(sqlite_url, artifacts, patience=Patience(max_connections=8)) as house:
        opened = [house.knock() for _ in range(8)]
        with house.knock() as one_more:
            answer = heard(one_more)
        for connection in opened:
            connection.close()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
        deadline = time.monotonic() + GIVEN_UP_S
        while house.ask("GET", "/healthz").status != 200:  # when they are gone, there is room again
            assert time.monotonic() < deadline


def test_who_does_not_take_his_answer_is_cut_off(hasty: House) -> None:
    def large(caller: Anyone) -> Response:
        return Response(b"x" * 50_000_000)

    hasty.app.get("/api/v1/large")(large)
    request = f"GET /api/v1/large HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {hasty.tokens['read']}\r\n\r\n"
    with hasty.knock() as connection:
        connection.sendall(request.encode())
        connection.recv(1)
        threading.Event().wait(1.5)
        assert len(heard(connection)) < 49_000_000


def test_requests_may_come_before_the_last_is_answered(hasty: House) -> None:
    with hasty.knock() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 3)
        assert heard(connection).count(b"HTTP/1.1 200 ") == 3


def test_slow_ones_do_not_keep_others_waiting(sqlite_url: str, artifacts: Path) -> None:
    with open_house(sqlite_url, artifacts) as house:
        slow = [house.knock() for _ in range(200)]
        for connection in slow:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
        began = time.monotonic()
        assert house.ask("GET", "/api/v1/tokens").status == 200
        assert time.monotonic() - began < Patience().head_s / 2  # it did not wait for one of them
        for connection in slow:
            connection.close()


def test_a_request_that_is_under_way_is_answered_when_the_server_ends(sqlite_url: str, artifacts: Path) -> None:
    began, may_end = threading.Event(), threading.Event()

    def slow(caller: Anyone) -> Response:
        began.set()
        assert may_end.wait(30)
        return Response(b"done")

    with ThreadPoolExecutor(1) as pool:
        with open_house(sqlite_url, artifacts, patience=HASTY) as house:
            house.app.get("/api/v1/slow")(slow)
            answer = pool.submit(house.ask, "GET", "/api/v1/slow")
            assert began.wait(30)
            timer = threading.Timer(0.3, may_end.set)  # when it has been told to end
            timer.start()
        assert answer.result().data == b"done"
        timer.join()


def test_it_speaks_tls(house: House, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    with running(house.app, tls=Tls(certificate, key)) as url:
        context = ssl.create_default_context(cafile=str(certificate))
        with urllib3.PoolManager(ssl_context=context, retries=False) as pool:
            assert pool.request("GET", f"{url}/healthz").status == 200
