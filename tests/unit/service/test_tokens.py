"""Tokens over HTTP, and their client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from automl.client.tokens import RemoteTokens
from automl.client.transport import Transport
from automl.errors import Forbidden, InvalidInput, NotFound, Unauthorized
from automl.team import Scope
from tests.unit.service.house import House


@pytest.fixture
def tokens(house: House) -> Iterator[RemoteTokens]:
    transport = Transport(house.url, house.tokens["admin"])
    yield RemoteTokens(transport)
    transport.close()


def test_a_token_is_made_used_listed_and_revoked(house: House, tokens: RemoteTokens) -> None:
    text, token = tokens.create("ci", [Scope.READ, Scope.SUBMIT], expires_s=3600)
    assert (token.name, token.project, token.scopes) == ("ci", "default", (Scope.READ, Scope.SUBMIT))
    assert token.created_by == "adminer"
    assert token.expires_at is not None and token.expires_at - token.created_at == pytest.approx(3600, abs=1)
    assert house.ask("GET", "/metrics", who=text).status == 200
    listed = {found.name: found for found in tokens.all()}
    assert listed["ci"].id == token.id
    assert "foreign" not in listed
    tokens.revoke("ci")
    tokens.revoke(token.id)
    assert {found.name: found.revoked_at for found in tokens.all()}["ci"] is not None
    with pytest.raises(Unauthorized):
        while True:  # for up to half a second it may still be taken
            Transport(house.url, text).request("GET", "/openapi.json")


def test_nobody_sees_secrets_in_a_list(house: House) -> None:
    listed = house.ask("GET", "/api/v1/tokens").data.decode()
    for text in house.tokens.values():
        assert text.split("_", 2)[2] not in listed
    assert "sha256" not in listed


def test_another_projects_token_is_not_found(house: House, tokens: RemoteTokens) -> None:
    theirs = house.tokens["foreign"].split("_")[1]
    with pytest.raises(NotFound):
        tokens.revoke(theirs)
    with pytest.raises(NotFound):
        tokens.revoke("a/b?c#d%2e")
    assert house.ask("GET", "/api/v1/tokens", who="foreign").status == 200


@pytest.mark.parametrize("who", [scope.value for scope in Scope if scope is not Scope.ADMIN])
def test_only_an_admin_deals_with_tokens(house: House, who: str) -> None:
    remote = RemoteTokens(Transport(house.url, house.tokens[who]))
    for refused in (lambda: remote.create("x", [Scope.READ]), remote.all, lambda: remote.revoke("adminer")):
        with pytest.raises(Forbidden):
            refused()


def test_wrong_ones_are_refused_by_their_field(tokens: RemoteTokens) -> None:
    for name, scopes, expires_s, field in (
        ("", [Scope.READ], None, "name"),
        ("x" * 61, [Scope.READ], None, "name"),
        ("a\nb", [Scope.READ], None, "name"),
        ("adminer", [Scope.READ], None, "name"),
        ("x", [], None, "scopes"),
        ("x", [Scope.READ], 0.0, "expires_s"),
    ):
        with pytest.raises(InvalidInput) as caught:
            tokens.create(name, scopes, expires_s=expires_s)
        assert caught.value.field == field
