"""How much a request may bring, knocked at with sockets where a client would not do such things."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import psutil
import pytest

from automl.service.limits import Rate
from tests.unit.service.house import House, heard, open_house

TOKENS = "/api/v1/tokens"
GOOD = {"name": "x", "scopes": ["read"]}


def send(house: House, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request in so many words."""
    with house.knock() as connection:
        connection.sendall(f"{head}\r\nAuthorization: Bearer {house.tokens['admin']}\r\n\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        start, _, rest = heard(connection).partition(b"\r\n\r\n")
    lines = start.decode().split("\r\n")
    return int(lines[0].split()[1]), dict(line.lower().split(": ", 1) for line in lines[1:]), rest


@pytest.mark.parametrize(
    "body, field",
    [
        (b'{"name": NaN, "scopes": ["read"]}', "name"),
        (b'{"name": "a\\u0000", "scopes": ["read"]}', "name"),
        (b'{"name": "a", "name": "b", "scopes": ["read"]}', "body"),
        (b'{"name": "a", "scopes": ["read"], "expires_s": 1e999}', "expires_s"),
        (b"[" * 20_000, "body"),
        (b'{"name": "a", "scopes": ["read"]', "body"),
    ],
)
def test_json_that_is_none_is_refused_and_nothing_is_made(hut: House, body: bytes, field: str) -> None:
    before = hut.engine.tokens.all()
    answer = hut.ask("POST", TOKENS, body=body, headers={"Content-Type": "application/json"})
    assert answer.status == 422
    assert hut.said(answer)["field"] == field
    assert [token.id for token in hut.engine.tokens.all()] == [token.id for token in before]


def test_a_body_that_is_too_large_is_refused_by_its_word_and_by_what_comes(hut: House) -> None:
    large = json.dumps({**GOOD, "name": "x" * (1 << 20)}).encode()
    announced = hut.ask("POST", TOKENS, body=large, headers={"Content-Type": "application/json"})
    assert announced.status == 413
    assert hut.said(announced)["code"] == "too_large"
    chunks = (large[at : at + 65_536] for at in range(0, len(large), 65_536))
    chunked = hut.ask("POST", TOKENS, body=chunks, headers={"Content-Type": "application/json"}, chunked=True)
    assert chunked.status == 413


def test_gigabytes_are_read_by_nobody(hut: House) -> None:
    head = f"POST {TOKENS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    before = psutil.Process().memory_info().rss
    piece = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    sent = 0
    with hut.knock() as connection:
        connection.sendall(f"{head}Authorization: Bearer {hut.tokens['admin']}\r\n\r\n".encode())
        try:
            for _ in range(200):
                connection.sendall(piece)
                sent += 1
        except OSError:
            pass
        answer = heard(connection)
    assert b" 413 " in answer or answer == b""  # who writes on and on may not hear why
    assert sent < 40
    assert psutil.Process().memory_info().rss - before < 20e6


def test_who_is_told_that_it_is_too_large_hears_it(hut: House) -> None:
    head = f"POST {TOKENS} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000000000\r\n"
    with hut.knock() as connection:
        connection.sendall(f"{head}Authorization: Bearer {hut.tokens['admin']}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(65536)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "identity, gzip"])
def test_packed_bodies_are_refused_unopened(hut: House, coding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    answer = hut.ask("POST", TOKENS, body=b"\x1f\x8b" + b"\0" * 100, headers=headers)
    assert answer.status == 415
    assert hut.said(answer)["field"] == "Content-Encoding"


@pytest.mark.parametrize(
    "media",
    [
        "text/plain",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/jsonp",
        "",
    ],
)
def test_other_bodies_than_json_are_refused(hut: House, media: str) -> None:
    answer = hut.ask("POST", TOKENS, body=json.dumps(GOOD), headers={"Content-Type": media})
    assert answer.status == 415
    assert hut.said(answer)["field"] == "Content-Type"


def test_json_may_name_its_charset(hut: House) -> None:
    headers = {"Content-Type": 'Application/JSON; charset="UTF-8"', "Content-Encoding": "identity"}
    assert hut.ask("POST", TOKENS, body=json.dumps(GOOD), headers=headers).status == 201


def test_an_address_has_an_end_and_no_nul(hut: House) -> None:
    assert hut.ask("GET", f"{TOKENS}?x={'y' * 9000}").status == 414
    assert hut.ask("GET", f"{TOKENS}?x=%00").status == 422
    assert hut.ask("DELETE", f"{TOKENS}/a%00b").status == 422
    assert hut.said(hut.ask("DELETE", f"{TOKENS}/a%00b"))["field"] == "address"


def test_a_range_is_not_looked_at(hut: House) -> None:
    ranges = "bytes=" + ",".join(f"{n}-" for n in range(3000))
    answer = hut.ask("GET", TOKENS, headers={"Range": ranges})
    assert answer.status == 200


def test_a_body_that_is_announced_twice_is_refused(hut: House) -> None:
    two_lengths = f"POST {TOKENS} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 20"
    assert send(hut, two_lengths, b"{}")[0] == 400
    smuggled = f"POST {TOKENS} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked"
    assert send(hut, smuggled, b"0\r\n\r\n")[0] == 400


def test_who_asks_too_often_has_to_wait_and_others_have_not(sqlite_url: str, artifacts: Path) -> None:
    with open_house(sqlite_url, artifacts, rate=Rate(per_second=0.5, burst=5)) as house:
        answers = [house.ask("GET", TOKENS) for _ in range(6)]
        assert [answer.status for answer in answers] == [200] * 5 + [429]
        assert answers[-1].headers["Retry-After"] in ("1", "2")
        assert house.said(answers[-1])["data"]["retry_after_s"] > 0
        assert house.ask("GET", TOKENS, who="foreign").status == 200
        assert house.ask("GET", "/healthz").status == 200
