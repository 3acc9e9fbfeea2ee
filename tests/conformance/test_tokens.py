"""Tokens: who calls, for how long, and what nobody can find out."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from automl.engine import Engine, connect
from automl.errors import Forbidden, InvalidInput, NotFound
from automl.storage.database import now
from automl.storage.tables import token
from automl.storage.tokens import identify
from automl.team import Identity, Scope

READ = (Scope.READ,)


@pytest.fixture
def engine(url: str, artifacts: Path) -> Iterator[Engine]:
    opened = connect(url, artifacts)
    yield opened
    opened.close()


def who(engine: Engine, text: str) -> Identity | None:
    return identify(engine.database, text)


def set_to(engine: Engine, **values: Any) -> None:
    """As if time had passed."""
    engine.database.execute(sa.update(token).values(**values))


# -- who calls -------------------------------------------------------------------------------------------------------


def test_a_token_says_who_its_bearer_is_in_which_project_and_what_he_may_do(engine: Engine) -> None:
    text, made = engine.of_project("acme").tokens.create("ci", (Scope.WORK, Scope.READ, Scope.WORK), by="ada")
    assert re.fullmatch(rf"automl_{made.id}_[A-Za-z0-9_-]{{43}}", text)
    assert re.fullmatch("[0-9a-f]{12}", made.id)
    assert (made.project, made.name, made.created_by) == ("acme", "ci", "ada")
    assert made.scopes == (Scope.READ, Scope.WORK)
    assert (made.expires_at, made.revoked_at, made.used_at) == (None, None, None)
    assert abs(made.created_at - engine.clock()) < 60
    # Whoever asks, and through whatever project's engine.
    assert who(engine, text) == Identity("ci", "acme", frozenset({Scope.READ, Scope.WORK}))


def test_nothing_of_the_secret_is_kept(engine: Engine) -> None:
    text, _ = engine.tokens.create("ci", READ)
    secret = text.split("_", 2)[2]
    (row,) = engine.database.all(sa.select(token))
    assert secret not in repr(row)
    assert secret not in repr(engine.tokens.all())
    assert re.fullmatch("[0-9a-f]{64}", row.sha256)


def test_no_two_tokens_are_alike(engine: Engine) -> None:
    texts = {engine.tokens.create(f"t{n}", READ)[0] for n in range(20)}
    assert len({text.split("_", 2)[1] for text in texts}) == len({text.split("_", 2)[2] for text in texts}) == 20


def test_a_token_that_is_nearly_right_is_nobodys(engine: Engine) -> None:
    text, made = engine.tokens.create("ci", READ)
    other, _ = engine.tokens.create("other", READ)
    _, id, secret = text.split("_", 2)
    (row,) = engine.database.all(sa.select(token).where(token.c.id == id))
    wrong = [
        "",
        text[:-1],
        text + "x",
        text + "\n",
        text[:-1] + ("a" if text[-1] != "a" else "b"),
        text.upper(),
        f"automl_{id}_{other.split('_', 2)[2]}",
        f"automl_{'0' * 12}_{secret}",
        f"automl_{id}_{row.sha256}",
        f"automl_{id}_{row.sha256[:43]}",
        f"automl_{id}_",
        f"automl__{secret}",
        f"bearer_{id}_{secret}",
        secret,
        made.id,
        made.name,
        f"automl_{id}_{'é' * 43}",
        f"automl_{id}_{chr(0) * 43}",
        f"automl_%_{secret}",
        "automl_" + "x" * 100_000,
    ]
    assert [who(engine, nearly) for nearly in wrong] == [None] * len(wrong)
    assert who(engine, text) is not None
    assert [item.used_at is None for item in engine.tokens.all()] == [False, True]


def test_the_hash_of_the_secret_is_compared_in_constant_time_also_for_an_id_that_is_unknown(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, _ = engine.tokens.create("ci", READ)
    _, id, secret = text.split("_", 2)
    compared: list[tuple[str, str]] = []
    real = hmac.compare_digest

    def watched(a: Any, b: Any) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr("automl.storage.tokens.hmac.compare_digest", watched)
    assert who(engine, text) is not None
    assert who(engine, f"automl_{id}_{secret[::-1]}") is None
    assert who(engine, f"automl_{'0' * 12}_{secret}") is None
    assert [len(a) == len(b) == 64 for a, b in compared] == [True] * 3


def test_a_scope_that_only_a_newer_version_knows_gives_nothing(engine: Engine) -> None:
    text, _ = engine.tokens.create("ci", READ)
    set_to(engine, scopes=["read", "fly"])
    assert who(engine, text) == Identity("ci", "default", frozenset(READ))
    assert engine.tokens.all()[0].scopes == READ


# -- how long --------------------------------------------------------------------------------------------------------


def test_a_token_ends_at_its_time_by_the_databases_clock(engine: Engine) -> None:
    text, made = engine.tokens.create("ci", READ, expires_s=3600.0)
    assert made.expires_at is not None and abs(made.expires_at - made.created_at - 3600.0) < 1.0
    assert who(engine, text) is not None
    set_to(engine, expires_at=now() + 5.0)
    assert who(engine, text) is not None
    set_to(engine, expires_at=now() - 0.001)
    assert who(engine, text) is None
    assert len(engine.tokens.all()) == 1


@pytest.mark.parametrize("by_name", [False, True])
def test_a_revoked_token_is_nobodys_from_that_moment_on(engine: Engine, by_name: bool) -> None:
    text, made = engine.tokens.create("ci", READ)
    kept, _ = engine.tokens.create("other", READ)
    assert who(engine, text) is not None
    engine.tokens.revoke(made.name if by_name else made.id)
    assert who(engine, text) is None
    assert who(engine, kept) is not None
    revoked_at = engine.tokens.all()[0].revoked_at
    assert revoked_at is not None
    engine.tokens.revoke(made.id)  # once more is no mistake, and changes nothing
    assert engine.tokens.all()[0].revoked_at == revoked_at
    again, _ = engine.tokens.create("ci", READ)  # the name is free again
    assert who(engine, again) is not None and who(engine, text) is None


def test_one_that_is_not_there_or_of_another_project_is_not_revoked(engine: Engine) -> None:
    text, made = engine.of_project("acme").tokens.create("ci", READ)
    for named in (made.id, made.name, "nobody"):
        with pytest.raises(NotFound, match="`automl token ls` lists them") as caught:
            engine.tokens.revoke(named)
        assert caught.value.field == "token"
    assert who(engine, text) is not None


def test_when_it_was_used_is_known_to_the_minute_and_no_write_is_made_for_each_call(engine: Engine) -> None:
    text, _ = engine.tokens.create("ci", READ)
    assert who(engine, text) is not None
    first = engine.tokens.all()[0].used_at
    assert first is not None and abs(first - engine.clock()) < 60
    who(engine, text)
    assert engine.tokens.all()[0].used_at == first
    set_to(engine, used_at=now() - 61.0)
    who(engine, text)
    used = engine.tokens.all()[0].used_at
    assert used is not None and used >= first
    set_to(engine, used_at=now() - 61.0, revoked_at=now())
    who(engine, text)
    used = engine.tokens.all()[0].used_at
    assert used is not None and used < engine.clock() - 60


# -- making them -----------------------------------------------------------------------------------------------------


def test_nobody_gives_a_scope_that_he_has_not(engine: Engine) -> None:
    ada = Identity("ada", "default", frozenset({Scope.SUBMIT, Scope.READ}))
    for scopes in [(Scope.WORK,), (Scope.READ, Scope.ADMIN), (Scope.SUBMIT_CODE,)]:
        with pytest.raises(Forbidden, match=r"'ada' has not .*, and cannot give it"):
            engine.tokens.create("more", scopes, creator=ada)
    assert engine.tokens.all() == []
    _, made = engine.tokens.create("less", READ, creator=ada)
    assert made.created_by == "ada"
    root = Identity("root", "default", frozenset({Scope.ADMIN}))
    _, made = engine.tokens.create("all", tuple(Scope), creator=root)
    assert made.scopes == tuple(Scope)


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"name": ""}, "name", "1 to 60 printable"),
        ({"name": " ci"}, "name", "1 to 60 printable"),
        ({"name": "a\nb"}, "name", "1 to 60 printable"),
        ({"name": "x" * 61}, "name", "1 to 60 printable"),
        ({"name": "0123456789ab"}, "name", "reads like the id"),
        ({"scopes": ()}, "scopes", "none is given; there are read"),
        ({"scopes": ("fly",)}, "scopes", "fly is none; there are read"),
        ({"expires_s": 0.0}, "expires", "give more than 0"),
        ({"expires_s": -1.0}, "expires", "give more than 0"),
        ({"expires_s": float("nan")}, "expires", "give more than 0"),
        ({"expires_s": float("inf")}, "expires", "give more than 0"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_kept(
    engine: Engine, changes: dict[str, Any], field: str, message: str
) -> None:
    arguments: dict[str, Any] = {"name": "ci", "scopes": READ, **changes}
    with pytest.raises(InvalidInput, match=message) as caught:
        engine.tokens.create(**arguments)
    assert caught.value.field == field
    assert engine.tokens.all() == []


def test_two_good_tokens_of_a_project_have_different_names(engine: Engine) -> None:
    engine.tokens.create("ci", READ)
    with pytest.raises(InvalidInput, match="a good token 'ci' already; revoke it first") as caught:
        engine.tokens.create("ci", READ)
    assert caught.value.field == "name"
    engine.of_project("acme").tokens.create("ci", READ)
    set_to(engine, expires_at=now() - 1.0)
    engine.tokens.create("ci", READ)
    assert [item.name for item in engine.tokens.all()] == ["ci", "ci"]


def test_a_project_lists_its_own_tokens_the_oldest_first(engine: Engine) -> None:
    acme = engine.of_project("acme")
    for name in ("b", "a"):
        engine.tokens.create(name, READ)
    acme.tokens.create("c", READ)
    assert [item.name for item in engine.tokens.all()] == ["b", "a"]
    assert [item.name for item in acme.tokens.all()] == ["c"]
