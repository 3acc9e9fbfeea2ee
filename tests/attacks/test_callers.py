"""Attacks 1 to 5 and 24: who calls, where from, and how often."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from automl.client.work import LEASE
from automl.service.auth import TRUSTED_S
from automl.service.server import Patience
from automl.team import Scope
from tests.attacks.knocks import API, begun, everything, files, refused, result, serving
from tests.unit.service.house import House, heard, open_house
from tests.unit.service.test_who_may_what import OPEN, TABLE, routes

EMPTY = "0" * 64


def address(path: str, **names: Any) -> str:
    """A route's address with these in it."""
    known = {"study_id": 1, "trial_id": 1, "number": 0, "schedule_id": 1, "sha256": EMPTY, "step": 1, "token": "ci"}
    known |= {"name": "model.json"} | names
    return (path if path in ("/healthz", "/readyz", "/metrics") else API + path).format(**known)


def test_01_without_a_token_no_route_but_two_is_open(house: House) -> None:
    """Thorough, for each scope: tests/unit/service/test_who_may_what.py."""
    asked = [(method, address(path)) for method, path, _ in routes()]
    further = ("/openapi.json", "/docs", "/redoc", "/nowhere", "/api/v1/openapi.json", "/api/v1/docs", "/static/x.js")
    for method, path in [*asked, *(("GET", path) for path in further)]:
        answer = house.ask(method, path, who=None)
        if (method, path) in OPEN:
            assert answer.status == 200
            continue
        assert answer.status == 401, f"{method} {path}"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        if method != "HEAD":
            assert house.said(answer)["code"] == "unauthorized"


def test_01_a_websocket_without_a_token_is_not_opened(house: House) -> None:
    with house.knock() as connection:
        connection.sendall(
            b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        assert heard(connection).startswith(b"HTTP/1.1 403 ")


def test_01_a_dashboard_that_asks_for_tokens_shows_a_stranger_nothing(
    sqlite_url: str, artifacts: Path, tmp_path: Path
) -> None:
    """What of Streamlit answers is the page on which one logs in. Thorough: tests/unit/service/test_web.py."""
    with open_house(sqlite_url, artifacts) as house, serving(sqlite_url, artifacts, tmp_path) as served:
        begun(house, "a-secret-name")
        pool = house.pool
        for path, status in (
            ("/api/v1/studies", 401),
            ("/metrics", 401),
            ("/api/v1/openapi.json", 401),
            ("/_stcore/metrics", 404),
            ("/_stcore/agent/mcp", 404),
            ("/_stcore/script-health-check", 404),
            ("/", 200),
            ("/study?study=a-secret-name", 200),
            ("/_stcore/health", 200),
        ):
            answer = pool.request("GET", served.url + path)
            assert answer.status == status, path
            assert b"a-secret-name" not in answer.data, path
        assert pool.request("PUT", f"{served.url}/_stcore/upload_file/a/b", body=b"x").status == 404
        assert b"automl_" not in served.log.read_bytes()


def test_02_whatever_is_wrong_with_a_token_it_is_the_same_401(house: House) -> None:
    """A token in the address is none, and is not looked at. Thorough: tests/unit/service/test_auth.py."""
    good = house.tokens["admin"]
    id, secret = good.removeprefix("automl_").split("_", 1)
    expired = house.engine.tokens.create("gone", [Scope.ADMIN], expires_s=0.001)[0]
    said = set()
    for bad in (good[:-1], good + "x", f"automl_{id}_", f"automl_{'0' * 12}_{secret}", secret, "x", expired, "ÿ"):
        answer = house.ask("GET", f"{API}/studies", who=bad.encode().decode("latin-1"))
        assert answer.status == 401, bad
        error = house.said(answer)
        said.add((error["code"], error["message"], answer.headers["WWW-Authenticate"]))
    for query in ("token", "access_token", "authorization"):
        assert refused(house, "GET", f"studies?{query}={good}", who=None)[0] == 401
    assert len(said) == 1


def test_02_a_revoked_token_is_refused_within_a_second(house: House) -> None:
    text, made = house.engine.tokens.create("short", [Scope.READ])
    assert house.ask("GET", f"{API}/studies", who=text).status == 200
    assert house.ask("DELETE", f"{API}/tokens/{made.id}").status == 204
    assert TRUSTED_S < 1.0
    time.sleep(TRUSTED_S)  # until then a token that was good may not be looked up again
    assert refused(house, "GET", "studies", who=text)[:2] == (401, "unauthorized")


def test_03_a_workers_token_does_nothing_but_work(house: House) -> None:
    record, _ = begun(house)
    before = everything(house)
    for method, path, body in (
        ("POST", f"studies/{record.id}/promotions", {}),
        ("POST", "models/rollback", {"name": "lab"}),
        ("POST", "tokens", {"name": "more", "scopes": ["admin"]}),
        ("POST", "tokens", {"name": "more", "scopes": ["work"]}),
        ("DELETE", "tokens/admin", None),
        ("DELETE", f"studies/{record.id}", None),
        ("POST", "studies/purge", {"older_than_s": 0}),
        ("PATCH", f"studies/{record.id}", {"state": "stopped"}),
        ("POST", f"studies/{record.id}/trials/0/invalidate", {"reason": "x"}),
        ("POST", "channels", {"name": "x", "kind": "webhook", "address": "https://example.org/"}),
    ):
        assert refused(house, method, path, body, who="work")[:2] == (403, "insufficient_scope"), f"{method} {path}"
    assert everything(house) == before


def test_04_what_is_of_another_project_looks_as_if_it_never_was(house: House) -> None:
    """Each verb and each address, with an id that there is and with one that never was: the answers are the same.

    Thorough for the engine: tests/conformance/test_projects.py.
    """
    record, _ = begun(house)
    body = {"name": "x", "reason": "x", "params": {}, "points": [], "fixed": {}, "names": ["x"], "paused": True}
    wrong = []
    for method, path in sorted(TABLE):
        if "{study_id}" not in path and "{trial_id}" not in path:
            continue
        said = []
        for number in (record.id, record.id + 10**9):
            at = address(path, study_id=number, trial_id=number) + "?numbers=0&since=0&attempt=1"
            sent = _what_fits(house, method, path, body)
            answer = house.ask(method, at, who="foreign", **({} if sent is None else {"json": sent}))
            text = answer.data.decode().replace(answer.headers["X-Request-Id"], "").replace(str(number), "N")
            said.append((answer.status, text))
        if said[0] != said[1] or said[0][0] != 404:
            wrong.append(f"{method} {path}: {said}")
    assert wrong == []
    assert house.engine.study("lab") == record


def _what_fits(house: House, method: str, path: str, fields: dict[str, Any]) -> dict[str, Any] | None:
    """Of `fields` those that the body of this route knows; None where it takes none."""
    from automl.service.openapi import document, operations

    described = document(house.app)
    for found, at, operation in operations(described):
        if (found, at) == (method, API + path) and "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            known = described["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]["properties"]
            return {
                name: value
                for name, value in fields.items()
                if name in known and (name != "reason" or method == "POST")
            }
    return None


def test_04_a_lease_and_a_file_of_another_project_are_not_there(house: House) -> None:
    """A lease is 409 as any that one does not hold. Thorough: tests/unit/service/test_work.py."""
    _, token = begun(house)
    before, kept = everything(house), files(house.engine.artifacts.root)
    assert refused(house, "POST", "work/finish", result(token), who="foreign")[:2] == (409, "lease_lost")
    assert refused(house, "POST", "tell", {"token": token, "values": [1.0]}, who="foreign")[:2] == (409, "lease_lost")
    lease = {LEASE: token}
    assert refused(house, "GET", "work/checkpoints", who="foreign", headers=lease)[:2] == (409, "lease_lost")
    assert refused(house, "GET", f"files/{EMPTY}/model.json", who="foreign")[0] == 404
    assert everything(house) == before
    assert files(house.engine.artifacts.root) == kept


@pytest.mark.parametrize(
    ("words", "config", "said"),
    [
        (["--host", "0.0.0.0"], "", "nobody could log in"),
        (["--host", "0.0.0.0"], '[auth]\nmode = "token"\n', "in clear text"),
        (
            ["--host", "127.0.0.1"],
            '[oidc]\nclient_id = "a"\nclient_secret = "Qm5kTz81"\nserver_metadata_url = "https://id.example/x"\n'
            'redirect_uri = "https://automl.example/oauth2callback"\n'
            'cookie_secret = "change-me-change-me-change-me-change"\n',
            "cookie_secret: it can be guessed",
        ),
    ],
    ids=["nobody is asked", "no certificate", "a secret of an example"],
)
def test_05_it_does_not_start_where_everybody_could_come_in(
    url: str, tmp_path: Path, words: list[str], config: str, said: str
) -> None:
    """Thorough: tests/unit/service/test_config.py."""
    (tmp_path / "serve.toml").write_text(config)
    command = [sys.executable, "-m", "automl", "serve", "--storage", url, "--config", "serve.toml", "--port", "8787"]
    done = subprocess.run(
        [*command, *words], cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_24_a_thousand_bad_tokens_are_told_to_wait_and_a_good_one_is_not(house: House) -> None:
    assert house.ask("GET", f"{API}/studies", who="read").status == 200
    statuses = []
    for n in range(1000):
        answer = house.ask("GET", f"{API}/studies", who=f"automl_{n:012x}_{'x' * 43}")
        statuses.append(answer.status)
        assert answer.status == 401 or int(answer.headers["Retry-After"]) >= 1
    assert set(statuses) == {401, 429}
    assert statuses.count(401) < 60
    assert house.ask("GET", f"{API}/studies", who="read").status == 200


def test_24_a_head_that_drips_a_bomb_of_ranges_and_ten_thousand_parts(url: str, artifacts: Path) -> None:
    """Ranges are not looked at; multipart is of no route. Thorough: tests/unit/service/test_server.py."""
    with open_house(url, artifacts, patience=Patience(head_s=0.3)) as house:
        with house.knock() as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            began = time.monotonic()
            heard(connection)
            assert time.monotonic() - began < 10.0
        began = time.monotonic()
        ranges = "bytes=" + ",".join(["0-"] * 5000)
        whole = house.ask("GET", f"{API}/studies", headers={"Range": ranges})
        assert (whole.status, json.loads(whole.data)) == (200, {"items": [], "next": None})
        assert time.monotonic() - began < 5.0
        parts = (
            b"".join(b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' for _ in range(10_000)) + b"--x--"
        )
        media = {"Content-Type": "multipart/form-data; boundary=x"}
        began = time.monotonic()
        assert refused(house, "POST", "studies", parts, headers=media)[:2] == (415, "unsupported_media_type")
        assert time.monotonic() - began < 5.0
