"""Attacks 6 to 15, 22 and 23: what is sent."""

from __future__ import annotations

import gzip
import json
import time
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from automl.client.work import LEASE
from automl.storage import schedules
from tests.attacks.knocks import API, begun, claimed, everything, lose, refused, result
from tests.unit.service.house import House, heard

SPEC: dict[str, Any] = {"name": "s", "metrics": {"a": "max"}, "budget": {"trials": 3}}
UNIT = {"kind": "float", "low": 0.0, "high": 1.0}
PLAN = {"spec": {**SPEC, "space": {"x": UNIT}}, "entrypoint": "s.py:s", "cron": "0 2 * * *"}


def test_06_a_stale_lease_token_changes_nothing(house: House) -> None:
    """A heartbeat is no 409: it answers with the leases that are held, and this is none of them. A checkpoint's file
    is not taken, so there is none to acknowledge: 422.

    Thorough: tests/conformance/test_coordinator.py.
    """
    record, stale = begun(house)
    assert lose(house) == [house.engine.trial(record, 0).id]
    fresh = claimed(house, record)
    before = everything(house)
    assert house.ask("POST", f"{API}/work/renew", who="work", json={"tokens": [stale], "lease_s": 9.0}).json() == []
    put = f"work/checkpoints/1/{'0' * 64}"
    octets = {"Content-Type": "application/octet-stream", LEASE: stale}
    assert refused(house, "PUT", put, b"x", who="work", headers=octets)[:2] == (409, "lease_lost")
    acknowledged = {"token": stale, "step": 1, "sha256": "0" * 64}
    assert refused(house, "POST", "work/checkpoint", acknowledged, who="work")[0] == 422
    for path, body in (
        ("work/report", {"token": stale, "reports": [{"step": 1, "value": 1.0}]}),
        ("work/describe", {"token": stale, "params": {}, "distributions": {}}),
        ("work/should-prune", {"token": stale}),
        ("work/finish", result(stale)),
        ("work/fail", {"token": stale, "kind": "error", "message": "x"}),
        ("work/release", {"token": stale}),
        ("report", {"token": stale, "step": 1, "value": 0.5}),
        ("tell", {"token": stale, "values": [0.5]}),
        ("tell", {"token": stale, "state": "failed"}),
    ):
        assert refused(house, "POST", path, body, who="work")[:2] == (409, "lease_lost"), path
    assert everything(house) == before
    assert house.ask("POST", f"{API}/work/finish", who="work", json=result(fresh)).status == 200


def test_07_a_result_counts_once_and_another_one_for_the_same_lease_is_refused(house: House) -> None:
    """The refusal is called lease_lost: the lease ended with its result."""
    _, token = begun(house)
    assert house.ask("POST", f"{API}/work/finish", who="work", json=result(token)).status == 200
    before = everything(house)
    assert house.ask("POST", f"{API}/work/finish", who="work", json=result(token)).status == 200
    assert house.ask("POST", f"{API}/tell", who="work", json={"token": token, "values": [0.5]}).status == 204
    assert refused(house, "POST", "work/finish", result(token, 0.7), who="work")[:2] == (409, "lease_lost")
    assert refused(house, "POST", "tell", {"token": token, "values": [0.7]}, who="work")[:2] == (409, "lease_lost")
    assert everything(house) == before


def test_08_an_idempotency_key_with_another_body_is_refused(house: House) -> None:
    """Thorough: tests/unit/service/test_idempotency.py."""
    key = {"Idempotency-Key": "0b9e6a5c"}
    first = house.ask("POST", f"{API}/studies", json={"spec": SPEC}, headers=key)
    assert first.status == 200
    before = everything(house)
    other = {"spec": {**SPEC, "name": "other"}}
    assert refused(house, "POST", "studies", other, headers=key)[:2] == (422, "idempotency_mismatch")
    assert refused(house, "POST", "studies/undelete", {"name": "s"}, headers=key)[:2] == (422, "idempotency_mismatch")
    again = house.ask("POST", f"{API}/studies", json={"spec": SPEC}, headers=key)
    assert (again.status, again.data) == (200, first.data)
    assert everything(house) == before


def test_09_what_is_no_finite_number_is_no_value_no_metric_and_no_parameter(house: House) -> None:
    """In the worker protocol a diverged training may report "NaN", as a text, for a metric: that is what happened."""
    record, token = begun(house)
    before = everything(house)
    numbers = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", '"NaN"', '"1"')
    for path, text, field in (
        ("tell", f'{{"token":"{token}","values":[%s]}}', "values"),
        ("report", f'{{"token":"{token}","step":1,"value":%s}}', "value"),
        ("report", f'{{"token":"{token}","step":1,"metrics":{{"m":%s}}}}', "metrics"),
        ("work/finish", f'{{"token":"{token}","outcome":{{"state":"complete","values":[%s]}}}}', "outcome.values"),
        (f"studies/{record.id}/trials", '{"params":{"x":%s}}', "params"),
        ("work/renew", f'{{"tokens":["{token}"],"lease_s":%s}}', "lease_s"),
    ):
        for number in numbers:
            status, _, named = refused(house, "POST", path, (text % number).encode())
            assert status == 422, (path, number)
            assert named is not None and named.startswith(field), (path, number, named)
    for number in numbers[:5]:
        body = f'{{"points":[{{"x":{number}}}]}}'.encode()
        assert refused(house, "POST", f"studies/{record.id}/what-if", body) == (422, "invalid_input", "points.0.x")
    assert everything(house) == before


def test_10_a_number_of_another_kind_or_size_is_refused_by_its_field(house: House) -> None:
    _, token = begun(house)
    before = everything(house)
    for path, body, field in (
        ("report", {"step": True}, "step"),
        ("report", {"step": 1.5}, "step"),
        ("report", {"step": -1}, "step"),
        ("report", {"step": 2**31}, "step"),
        ("report", {"step": 2**63}, "step"),
        ("report", {"step": 10**900}, "step"),
        ("report", {"step": 1, "value": True}, "value"),
        ("report", {"step": 1, "lease_s": -1.0}, "lease_s"),
        ("tell", {"values": [True]}, "values.0"),
        ("tell", {"values": ["0.5"]}, "values.0"),
        ("work/report", {"reports": [{"step": -1}]}, "reports.0.step"),
        ("work/report", {"reports": [{"step": 2**31}]}, "reports.0.step"),
        ("work/report", {"reports": [{"step": 1, "value": True}]}, "reports.0.value"),
    ):
        status, code, named = refused(house, "POST", path, {"token": token, **body}, who="work")
        assert (status, code) == (422, "invalid_input"), body
        assert named is not None and named.startswith(field), body
    assert everything(house) == before


def test_10_a_parameter_of_another_kind_and_an_id_that_no_row_can_have_are_refused(house: House) -> None:
    record, _ = begun(house)
    before = everything(house)
    for value in (True, "0.5", 10**300, -1, None):
        assert refused(house, "POST", f"studies/{record.id}/trials", {"params": {"x": value}})[0] == 422, value
    for id in ("0", "-1", str(2**63), "1.5", "true", "9" * 5000):
        assert refused(house, "GET", f"studies/{id}")[0] in (414, 422), id
    space = {"n": {"kind": "int", "low": 0, "high": 2**53 + 1}}
    for change in ({"space": space}, {"budget": {"trials": 2**31}}, {"retries": True}):
        assert refused(house, "POST", "studies", {"spec": {**SPEC, **change}})[0] == 422, change
    assert everything(house) == before


def test_11_gigabytes_are_read_by_nobody(house: House) -> None:
    """Announced, in pieces without end, or packed. Thorough: tests/unit/service/test_limits.py."""
    head = f"POST {API}/tokens HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {house.tokens['admin']}\r\n"
    house.ask("GET", f"{API}/tokens")
    before = psutil.Process().memory_info().rss
    with house.knock() as connection:
        began = time.monotonic()
        connection.sendall(f"{head}Content-Length: 5000000000\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
        assert time.monotonic() - began < 5.0
    with house.knock() as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece, sent = b"100000\r\n" + b" " * 0x100000 + b"\r\n", 0
        try:
            while sent < 100:
                connection.sendall(piece)
                sent += 1
        except OSError:
            pass
        assert sent < 40
        answer = heard(connection)
        assert b" 413 " in answer or answer == b""  # who writes on and on may not hear why
    bomb = gzip.compress(b" " * 100_000_000)
    assert refused(house, "POST", "tokens", bomb, headers={"Content-Encoding": "gzip"})[0] == 415
    assert psutil.Process().memory_info().rss - before < 20e6


def test_12_json_that_readers_fall_over_is_refused(house: House) -> None:
    """Thorough: tests/unit/service/test_strict_json.py."""
    before = len(house.engine.tokens.all())
    for body in (
        b"[" * 20_000,
        b'{"a":' * 20_000,
        b'{"name": "x", "scopes": ["read"], "expires_s": ' + b"9" * 5000 + b"}",
        b'{"name": "x", "scopes": ["read"], "expires_s": -' + b"9" * 5000 + b"}",
        b'{"name": "x", "scopes": ["read"], "name": "y"}',
        b'{"name": {"a": 1, "a": 2}, "scopes": ["read"]}',
        b'{"name": "x", "scopes": ["read"]} {}',
        b"",
        b"nul",
    ):
        assert refused(house, "POST", "tokens", body)[:2] == (422, "invalid_input"), body[:60]
        assert refused(house, "POST", "studies", body)[0] == 422
    assert len(house.engine.tokens.all()) == before


#: NUL, as JSON says it and as it is; halves of characters; bytes that are no UTF-8; a name that is too long.
TEXTS = (rb"a\u0000b", b"a\x00b", rb"a\ud800b", rb"a\udfff", b"\xff\xfe", b"\xed\xa0\x80", b"\xc0\xaf", b"x" * 10_000)


def test_13_texts_that_databases_refuse_are_refused_before(house: House) -> None:
    record, token = begun(house)
    before = everything(house)
    for text in TEXTS:
        spec = json.dumps(SPEC).encode().replace(b'"s"', b'"' + text + b'"')
        for path, body in (
            ("studies", b'{"spec": ' + spec + b"}"),
            ("tokens", b'{"name": "' + text + b'", "scopes": ["read"]}'),
            ("schedules", b'{"cron": "0 2 * * *", "entrypoint": "s.py:s", "spec": ' + spec + b"}"),
            ("channels", b'{"name": "' + text + b'", "kind": "slack", "address": "https://hooks.example.org/"}'),
            (f"studies/{record.id}/clone", b'{"name": "' + text + b'"}'),
            ("work/beat", b'{"name": "' + text + b'", "load": {}}'),
            (f"studies/{record.id}/trials", b'{"params": {"' + text + b'": 1}}'),
        ):
            assert refused(house, "POST", path, body)[0] == 422, (path, text[:20])
        if len(text) < 100:
            body = b'{"token": "%s", "kind": "error", "message": "%s"}' % (token.encode(), text)
            assert refused(house, "POST", "work/fail", body)[0] == 422, text
    assert everything(house) == before
    for name in ("%00", "a%00b", "%ff", "%ed%a0%80", "x" * 10_000):
        answer = house.ask("GET", f"{API}/studies?name={name}")
        assert answer.status in (200, 414, 422), name
        assert answer.status != 200 or answer.json()["items"] == []


def test_14_fields_that_are_unknown_or_the_services_own_cannot_be_written(house: House) -> None:
    record, token = begun(house)
    before = everything(house)
    study = f"studies/{record.id}"
    for method, path, good, further in (
        ("POST", "studies", {"spec": SPEC}, ("id", "state", "project", "created_at", "owner")),
        ("PATCH", study, {"paused": True}, ("id", "name", "project", "spec", "queued", "finished_at")),
        ("POST", f"{study}/trials", {"params": {"x": 0.1}}, ("number", "state", "values", "attempt", "worker")),
        ("POST", "tell", {"token": token, "values": [0.5]}, ("attempt", "number", "project", "worker", "ended_at")),
        ("POST", "work/finish", result(token), ("attempt", "project", "worker", "study_id")),
        ("POST", "tokens", {"name": "x", "scopes": ["read"]}, ("project", "id", "creator", "secret")),
        ("POST", "schedules", PLAN, ("id", "project", "next_at", "who")),
        ("POST", f"{study}/promotions", {"reason": "x"}, ("version", "at", "from_version")),
    ):
        for name in further:
            status, code, field = refused(house, method, path, {**good, name: 1})
            assert (status, code, field) == (422, "invalid_input", name), path
    nested = {"spec": {**SPEC, "project": "elsewhere"}}
    assert refused(house, "POST", "studies", nested) == (422, "invalid_input", "spec.project")
    assert everything(house) == before


ODD = ("name' OR '1'='1", "id; DROP TABLE study;--", "pg_sleep(10)", "(SELECT 1)", '"id"', "owner", "spec", "(" * 2000)


def test_15_nothing_that_is_asked_for_becomes_sql(house: House) -> None:
    """There is an allow-list of orders and states, which answers 422; a name is compared, and finds nothing.

    Ten thousand parentheses are more than an address may have: 414.
    """
    begun(house)
    before = everything(house)
    for text in ODD:
        for key in ("order", "state", "limit", "after", "archived", "sort", "filter", "order_by"):
            status, _, field = refused(house, "GET", f"studies?{key}={quote(text)}")
            assert (status, field) == (422, key), text
        for key in ("name", "tag"):
            answer = house.ask("GET", f"{API}/studies?{key}={quote(text[:200])}")
            assert answer.json()["items"] == []
        for path in ("models/version?reference=", "models/versions?name="):
            assert refused(house, "GET", path + quote(text[:900]))[0] in (404, 422)
        assert refused(house, "GET", f"studies/1/curves?numbers={quote(text)}")[0] == 422
    assert refused(house, "GET", f"studies?order={'(' * 10_000}")[:2] == (414, "address_too_long")
    assert everything(house) == before


def test_22_a_time_that_cannot_be_is_refused(house: House) -> None:
    """Thorough: tests/unit/test_cron.py, tests/conformance/test_schedules.py."""
    for cron in ("99 * * * *", "* * * * * *", "*/0 * * * *", "0 0 30 2 *", "", "x", "@reboot", "* " * 99):
        assert refused(house, "POST", "schedules", {**PLAN, "cron": cron}) == (422, "invalid_input", "cron"), cron
    for zone in ("Mars/Olympus", "../../etc/passwd", "/etc/localtime", "", "utc\n", "\\\\host\\zone"):
        assert refused(house, "POST", "schedules", {**PLAN, "timezone": zone}) == (422, "invalid_input", "timezone"), (
            zone
        )
    assert house.engine.schedules.all() == []


def test_22_there_is_an_end_to_the_number_of_schedules(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a limit of the project's, not of time: 422, not 429."""
    monkeypatch.setattr(schedules, "MAX_SCHEDULES", 3)
    for n in range(3):
        plan = {**PLAN, "spec": {**PLAN["spec"], "name": f"s{n}"}}
        assert house.ask("POST", f"{API}/schedules", json=plan).status == 200
    assert refused(house, "POST", "schedules", PLAN)[0] == 422
    assert len(house.engine.schedules.all()) == 3


def test_23_a_parameter_that_cannot_be_is_named(house: House) -> None:
    for parameter in (
        {"kind": "float", "low": 2.0, "high": 1.0},
        {"kind": "float", "low": 0.0, "high": 1.0, "log": True},
        {"kind": "float", "low": -1.0, "high": 1.0, "log": True},
        {"kind": "float", "low": 0.0, "high": 1.0, "step": 0.0},
        {"kind": "float", "low": 0.0, "high": 1.0, "step": -0.1},
        {"kind": "int", "low": 1, "high": 9, "step": 0},
        {"kind": "int", "low": 9, "high": 1},
        {"kind": "int", "low": 0, "high": 9, "log": True},
        {"kind": "choice", "choices": []},
        {"kind": "choice", "choices": ["a"], "prior": [1.0, 2.0]},
        {"kind": "odd"},
        {},
    ):
        body = {"spec": {**SPEC, "space": {"good": UNIT, "odd_one": parameter}}}
        status, _, field = refused(house, "POST", "studies", body)
        assert status == 422 and field is not None and field.startswith("spec.space.odd_one"), parameter
    assert house.engine.studies() == []


def test_23_a_million_parameters_are_too_many(house: House) -> None:
    """More than a body may have is 413, more than an object may have is 422."""
    many = ",".join(f'"p{n}":{{}}' for n in range(1_000_000))
    body = json.dumps({"spec": SPEC}).replace('"metrics"', f'"space": {{{many}}}, "metrics"').encode()
    assert refused(house, "POST", "studies", body)[:2] == (413, "too_large")
    fewer = ",".join(f'"p{n}":{{}}' for n in range(20_000))
    body = json.dumps({"spec": SPEC}).replace('"metrics"', f'"space": {{{fewer}}}, "metrics"').encode()
    assert refused(house, "POST", "studies", body) == (422, "invalid_input", "spec.space")
    assert house.engine.studies() == []
