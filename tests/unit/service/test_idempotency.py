"""What is sent twice with one key is done once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event

import pytest
import sqlalchemy as sa
import urllib3
from fastapi.responses import Response

from automl.errors import NotFound
from automl.service.answers import answer
from automl.service.callers import Submitter
from automl.service.idempotency import MAX_KEY_LENGTH
from automl.storage import tables
from tests.unit.service.house import House

MAKE = "/api/v1/make"


@pytest.fixture
def made(house: House) -> list[str]:
    """What the route `MAKE` has made."""
    things: list[str] = []

    def make(caller: Submitter, thing: dict[str, str]) -> Response:
        if "wait" in thing:
            raise NotFound("there is none yet", field="thing")
        things.append(f"{caller.identity.project} {thing['name']}")
        return answer(things, 201)

    house.app.post(MAKE)(make)
    return things


def post(house: House, key: str | None, who: str = "submit", path: str = MAKE, **body: str) -> urllib3.BaseHTTPResponse:
    headers = {} if key is None else {"Idempotency-Key": key}
    return house.ask("POST", path, who=who, headers=headers, json=body)


def test_a_repeated_request_is_done_once_and_answered_the_same(house: House, made: list[str]) -> None:
    first, again = post(house, "k", name="a"), post(house, "k", name="a")
    assert made == ["default a"]
    assert (first.status, first.data) == (again.status, again.data) == (201, b'["default a"]')
    assert again.headers["Content-Type"] == "application/json"
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]


def test_without_a_key_or_with_another_it_is_done_again(house: House, made: list[str]) -> None:
    for key in (None, None, "k", "l"):
        assert post(house, key, name="a").status == 201
    assert len(made) == 4


def test_a_key_is_good_for_one_request(house: House, made: list[str]) -> None:
    post(house, "k", name="a")
    for other in (post(house, "k", name="b"), post(house, "k", path=f"{MAKE}?x=1", name="a")):
        assert other.status == 422
        assert house.said(other)["code"] == "idempotency_mismatch"
        assert house.said(other)["field"] == "Idempotency-Key"
    assert made == ["default a"]


def test_a_key_belongs_to_its_project(house: House, made: list[str]) -> None:
    post(house, "k", name="a")
    foreign = post(house, "k", who="foreign", name="b")
    assert (foreign.status, made) == (201, ["default a", "elsewhere b"])


def test_what_was_refused_may_be_tried_again(house: House, made: list[str]) -> None:
    assert post(house, "k", wait="1").status == 404
    assert post(house, "k", name="a").status == 201
    assert post(house, "l", who="read", name="a").status == 403
    assert post(house, "l", name="b").status == 201
    assert made == ["default a", "default b"]


@pytest.mark.parametrize("key", ["", "x" * (MAX_KEY_LENGTH + 1), "a\tb", "é"])
def test_an_odd_key_is_refused(house: House, made: list[str], key: str) -> None:
    odd = house.ask("POST", MAKE, headers={"Idempotency-Key": key.encode().decode("latin-1")}, json={"name": "a"})
    assert (odd.status, house.said(odd)["field"], made) == (422, "Idempotency-Key", [])


def test_of_many_at_once_one_is_done(house: House, made: list[str]) -> None:
    barrier = Barrier(8)

    def one(_: int) -> int:
        barrier.wait()
        return post(house, "k", name="a").status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(one, range(8)))
    assert made == ["default a"]
    assert set(statuses) <= {201, 429}
    assert 201 in statuses


def test_while_it_is_done_another_one_is_told_to_come_again(house: House) -> None:
    began, may_end = Event(), Event()

    def slow(caller: Submitter) -> Response:
        began.set()
        assert may_end.wait(30)
        return answer("done")

    house.app.post("/api/v1/slow")(slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(post, house, "k", path="/api/v1/slow")
        assert began.wait(30)
        second = post(house, "k", path="/api/v1/slow")
        may_end.set()
        assert first.result().status == 200
    assert (second.status, second.headers["Retry-After"]) == (429, "1")
    assert post(house, "k", path="/api/v1/slow").data == b'"done"'


def test_the_worker_protocol_keeps_nothing(house: House) -> None:
    answers = [post(house, "k", who="work", path="/api/v1/work/leave", name=name) for name in ("a", "b")]
    assert [answer.status for answer in answers] == [200, 200]  # one key, two requests


def test_a_secret_is_said_once_and_kept_nowhere(house: House) -> None:
    body = {"name": "ci", "scopes": ["read"]}
    headers = {"Idempotency-Key": "k"}
    first = house.ask("POST", "/api/v1/tokens", headers=headers, json=body)
    again = house.ask("POST", "/api/v1/tokens", headers=headers, json=body)
    secret = json.loads(first.data)["text"].split("_", 2)[2]
    assert again.status == 409
    assert json.loads(again.data)["error"]["code"] == "said_once"
    kept = house.engine.database.all(sa.select(tables.answer))
    assert kept != []
    assert secret not in str(kept)
    assert [token.name for token in house.engine.tokens.all()].count("ci") == 1
