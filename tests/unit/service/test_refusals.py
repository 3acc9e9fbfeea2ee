"""What the service says when it does not do what was asked, and what it never says."""

from __future__ import annotations

import errno
import io
import logging
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from automl.errors import AutoMLError, DatabaseUnavailable, SchemaMismatch, StorageError
from automl.service.callers import Reader
from automl.service.refusals import keep_logs_clean, redacted
from tests.postgres import PostgresServer
from tests.unit.service.house import House, open_house

TOKENS = "/api/v1/tokens"
CANARY = "c4n4ry" + "x" * 37


def raise_from(error: BaseException, cause: BaseException | None = None) -> Callable[[Reader], None]:
    def route(caller: Reader) -> None:
        raise error from cause

    return route


def test_every_answer_has_an_id_and_careful_headers(hut: House) -> None:
    seen = set()
    for method, path in (
        ("GET", TOKENS),
        ("GET", "/nowhere"),
        ("PUT", TOKENS),
        ("GET", "/healthz"),
        ("GET", "/metrics"),
    ):
        answer = hut.ask(method, path)
        seen.add(answer.headers["X-Request-Id"])
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Server" not in answer.headers
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert len(seen) == 5


def test_a_clients_own_id_is_kept_if_it_is_harmless(hut: House) -> None:
    assert hut.ask("GET", TOKENS, headers={"X-Request-Id": "build-17.a"}).headers["X-Request-Id"] == "build-17.a"
    for odd in ("a b", "x" * 65, "\x1b[31m", "<script>"):
        assert hut.ask("GET", TOKENS, headers={"X-Request-Id": odd}).headers["X-Request-Id"] != odd


def test_unknown_addresses_and_methods_are_answered_in_the_same_form(hut: House) -> None:
    nowhere = hut.ask("GET", "/api/v1/nowhere")
    assert (nowhere.status, hut.said(nowhere)["code"]) == (404, "not_found")
    wrong = hut.ask("PATCH", TOKENS)
    assert (wrong.status, hut.said(wrong)["code"]) == (405, "method_not_allowed")
    assert set(wrong.headers["Allow"].split(", ")) == {"GET", "POST"}
    assert hut.ask("GET", f"{TOKENS}/").status == 404  # and no redirect


@pytest.mark.parametrize(
    "body, field",
    [
        ({"name": "x", "scopes": ["read"], "project": "other"}, "project"),
        ({"name": "x"}, "scopes"),
        ({"name": 5, "scopes": ["read"]}, "name"),
        ({"name": "x", "scopes": ["read", "root"]}, "scopes.1"),
        ({"name": "x", "scopes": ["read"], "expires_s": "soon"}, "expires_s"),
        ({"name": "x", "scopes": ["read"], "expires_s": -1}, "expires_s"),
        ([], "body"),
        ("x", "body"),
    ],
)
def test_a_wrong_field_is_named(hut: House, body: object, field: str) -> None:
    answer = hut.ask("POST", TOKENS, json=body)
    said = hut.said(answer)
    assert (answer.status, said["code"], said["field"]) == (422, "invalid_input", field)


def test_what_was_sent_is_not_repeated(hut: House) -> None:
    answer = hut.ask("POST", TOKENS, json={"name": [CANARY], "scopes": ["read"]})
    assert answer.status == 422
    assert CANARY.encode() not in answer.data


@pytest.mark.parametrize(
    "error, cause, status, code",
    [
        (RuntimeError(f"a secret: {CANARY}"), None, 500, "internal"),
        (AutoMLError("of no kind"), None, 500, "internal"),
        (StorageError(f"postgresql://me:{CANARY}@db/x: syntax error"), None, 500, "storage_error"),
        (DatabaseUnavailable(f"postgresql://me:{CANARY}@db/x: no answer"), None, 503, "database_unavailable"),
        (SchemaMismatch("the database is newer"), None, 503, "schema_mismatch"),
        (OSError(errno.ENOSPC, "No space left on device"), None, 507, "storage_full"),
        (OSError(errno.EDQUOT, "Quota exceeded"), None, 507, "storage_full"),
        (DatabaseUnavailable("full"), sa.exc.OperationalError("x", {}, sqlite3.OperationalError()), 503, None),
    ],
)
def test_what_goes_wrong_inside_is_not_told(
    hut: House,
    error: Exception,
    cause: Exception | None,
    status: int,
    code: str | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    hut.app.get("/api/v1/broken")(raise_from(error, cause))
    answer = hut.ask("GET", "/api/v1/broken")
    said = hut.said(answer)
    assert answer.status == status
    assert code in (None, said["code"])
    assert CANARY not in answer.data.decode()
    assert "Traceback" not in answer.data.decode()
    assert ("Retry-After" in answer.headers) == (status in (503, 507))
    assert said["request_id"] in caplog.text


def test_a_full_disk_is_507_whatever_database_says_so(hut: House, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "small.db", isolation_level=None)
    connection.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("CREATE TABLE t AS SELECT randomblob(100000)")
    connection.close()
    wrapped = DatabaseUnavailable("no answer")
    hut.app.get("/api/v1/full")(raise_from(wrapped, sa.exc.OperationalError("INSERT", {}, full.value)))
    answer = hut.ask("GET", "/api/v1/full")
    assert (answer.status, hut.said(answer)["code"]) == (507, "storage_full")


def test_a_database_that_stops_is_503_and_all_is_well_when_it_is_back(
    own_postgres: PostgresServer, artifacts: Path
) -> None:
    with open_house(own_postgres.create_database(), artifacts) as house:
        assert house.ask("GET", TOKENS).status == 200
        own_postgres.stop()
        for path in (TOKENS, "/metrics", "/readyz"):
            answer = house.ask("GET", path)
            assert answer.status == 503, answer.data
            assert answer.headers["Retry-After"]
            assert "127.0.0.1" not in house.said(answer)["message"]
        assert house.ask("GET", "/healthz").status == 200
        own_postgres.start()
        assert house.ask("GET", TOKENS).status == 200


@pytest.mark.parametrize(
    "text",
    [
        f"automl_0123456789ab_{CANARY}",
        f"Authorization: Bearer {CANARY}",
        f"'authorization', b'bearer {CANARY}'",
        f"postgresql://me:{CANARY}@db.example/automl",
        f"https://me:{CANARY}@hooks.example",
        f"host=db password={CANARY} user=me",
        f'{{"password": "{CANARY}", "x": 1}}',
        f"{{'secret': '{CANARY}'}}",
        f"GET /x?token={CANARY}&y=1",
    ],
)
def test_secrets_are_struck_out(text: str) -> None:
    assert CANARY not in redacted(text)
    assert redacted(text) != text


@pytest.mark.parametrize("text", ["token 'ci' is none of this project", "secret: give 16 characters", "a:b@c"])
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_no_secret_gets_into_a_log(hut: House) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    for name in ("", "library"):
        logging.getLogger(name).addHandler(handler)
    logging.getLogger("library").propagate = False  # it has a handler of its own
    make = logging.getLogRecordFactory()
    keep_logs_clean()
    token = hut.tokens["admin"]
    secret = token.split("_", 2)[2]
    hut.app.get("/api/v1/broken")(raise_from(RuntimeError(f"Bearer {token} at postgresql://me:{CANARY}@db/x")))
    try:
        hut.ask("GET", "/api/v1/broken")
        hut.ask("GET", f"{TOKENS}?token={token}")
        hut.ask("GET", TOKENS, who=f"{token}wrong")
        logging.getLogger("automl.other").warning("%s and %s", token, {"password": CANARY})
        try:
            raise ValueError(token)
        except ValueError:
            logging.getLogger("library").exception("it failed")
    finally:
        logging.setLogRecordFactory(make)
        logging.getLogger().removeHandler(handler)
    assert "RuntimeError" in stream.getvalue()
    assert "it failed" in stream.getvalue()
    assert secret not in stream.getvalue()
    assert CANARY not in stream.getvalue()
