"""Who is let in, and who is not."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import pytest
import sqlalchemy as sa

from automl.errors import InvalidTarget
from automl.service.app import create_app
from automl.service.auth import TRUSTED_S, TokenAuthenticator
from automl.service.limits import Buckets, Rate
from automl.service.server import make_server
from automl.storage.database import now
from automl.storage.tables import token as tokens
from automl.team import Scope
from tests.unit.service.house import House

TOKENS = "/api/v1/tokens"


def test_a_good_token_is_let_in_and_another_scope_is_told_what_it_lacks(house: House) -> None:
    assert house.ask("GET", TOKENS).status == 200
    answer = house.ask("GET", TOKENS, who="read")
    assert answer.status == 403
    said = house.said(answer)
    assert said["code"] == "insufficient_scope"
    assert "'admin'" in said["message"]


def test_whatever_is_wrong_with_a_token_the_answer_is_the_same(house: House) -> None:
    good = house.tokens["admin"]
    revoked, token = house.engine.tokens.create("revoked", [Scope.ADMIN])
    house.engine.tokens.revoke(token.id)
    expired, late = house.engine.tokens.create("expired", [Scope.ADMIN], expires_s=60.0)
    is_late = sa.update(tokens).where(tokens.c.id == late.id).values(expires_at=now() - 1.0)
    assert house.engine.database.execute(is_late) == 1
    other_secret = good[:-1] + ("A" if good[-1] != "A" else "B")
    unknown = f"automl_{'0' * 12}_{good.split('_', 2)[2]}"
    bodies = set()
    for sent in (None, revoked, expired, other_secret, unknown, good[:-1], good + "x", "nonsense", "é" * 20, "x" * 300):
        headers = {} if sent is None else {"Authorization": f"Bearer {sent}".encode().decode("latin-1")}
        answer = house.ask("GET", TOKENS, who=None, headers=headers)
        assert answer.status == 401, sent
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="automl"'
        said = house.said(answer)
        bodies.add(json.dumps({**said, "request_id": ""}))
    assert len(bodies) == 1


@pytest.mark.parametrize("scheme", ["", "Basic ", "Token "])
def test_a_token_is_taken_as_a_bearers_only(hut: House, scheme: str) -> None:
    good = hut.tokens["admin"]
    assert hut.ask("GET", TOKENS, who=None, headers={"Authorization": f"{scheme}{good}"}).status == 401
    assert hut.ask("GET", f"{TOKENS}?token={good}&access_token={good}", who=None).status == 401
    assert hut.ask("GET", TOKENS, who=None, headers={"Cookie": f"token={good}"}).status == 401


def test_a_revoked_token_is_refused_within_a_second(house: House) -> None:
    text, token = house.engine.tokens.create("short", [Scope.ADMIN])
    assert house.ask("GET", TOKENS, who=text).status == 200
    house.engine.tokens.revoke(token.id)
    assert TRUSTED_S < 1.0
    time.sleep(TRUSTED_S)  # until then a token that was good may not be looked up again
    assert house.ask("GET", TOKENS, who=text).status == 401


def test_an_address_that_tries_many_tokens_has_to_wait_and_who_was_known_has_not(hut: House) -> None:
    assert hut.ask("GET", TOKENS).status == 200
    answers = [hut.ask("GET", TOKENS, who=f"automl_{n:012x}_{'x' * 43}") for n in range(30)]
    assert [answer.status for answer in answers[:20]] == [401] * 20
    assert {answer.status for answer in answers[21:]} == {429}
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 3
    assert hut.said(answers[-1])["code"] == "too_many_requests"
    # One who never came before cannot be told from one who guesses.
    assert hut.ask("GET", TOKENS, who="read").status == 429
    assert hut.ask("GET", TOKENS).status == 200


def test_a_bucket_fills_again_with_time() -> None:
    now = 0.0
    buckets = Buckets(Rate(per_second=2.0, burst=3), clock=lambda: now, keep=2)
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    now = 0.5
    assert [buckets.take("a"), buckets.take("a")] == [0.0, 0.5]
    now = 100.0
    assert [buckets.take("a") for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]  # never more than a burst
    assert buckets.take("b") == buckets.take("c") == 0.0
    assert buckets.take("a") == 0.0  # forgotten: two others came since


def test_nobody_is_asked_for_a_token_at_home(home: House) -> None:
    assert home.ask("GET", TOKENS, who=None).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "", "["]
)
def test_at_home_a_name_of_somebody_else_is_refused(home: House, host: str) -> None:
    for path in (TOKENS, "/metrics"):
        answer = home.ask("GET", path, who=None, headers={"Host": host})
        assert answer.status == 403
        assert home.said(answer)["field"] == "Host"


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST."])
def test_at_home_our_own_names_are_taken(home: House, host: str) -> None:
    assert home.ask("GET", TOKENS, who=None, headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": "http://"}, {"Sec-Fetch-Site": "cross-site"}],
)
@pytest.mark.parametrize("name", ["home", "hut"])
def test_a_page_of_another_site_cannot_write(
    name: str, headers: Mapping[str, str], request: pytest.FixtureRequest
) -> None:
    house: House = request.getfixturevalue(name)
    before = house.engine.tokens.all()
    answer = house.ask("POST", TOKENS, headers=headers, json={"name": "evil", "scopes": ["admin"]})
    assert answer.status == 403
    assert house.said(answer)["code"] == "foreign_origin"
    assert house.engine.tokens.all() == before


def test_a_page_of_our_own_may_write(home: House) -> None:
    headers = {"Origin": home.url, "Sec-Fetch-Site": "same-origin"}
    assert home.ask("POST", TOKENS, headers=headers, json={"name": "mine", "scopes": ["read"]}).status == 201


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "automl.example"])
def test_without_tokens_only_loopback_is_listened_on(home: House, host: str) -> None:
    with pytest.raises(InvalidTarget, match="can be reached by others"):
        make_server(create_app(home.engine), host, 0)
    make_server(create_app(home.engine, TokenAuthenticator(home.engine)), host, 0)
