"""Tokens, as somebody who looks after a service makes them, lists them and ends them."""

from __future__ import annotations

import re

import pytest

from automl.engine import connect
from automl.storage.tokens import identify
from automl.team import Identity, Scope
from tests.acceptance.desk import Desk


def who(desk: Desk, text: str) -> Identity | None:
    engine = connect(f"sqlite:///{desk.folder}/.automl/automl.db", desk.folder / "artifacts")
    try:
        return identify(engine.database, text)
    finally:
        engine.close()


def test_a_token_is_printed_once_alone_on_the_last_line_and_ends_when_it_is_revoked(desk: Desk) -> None:
    lines = desk.works("token", "create", "ci", "--scopes", "submit,read", "--project", "acme").splitlines()
    text = lines[-1]
    assert re.fullmatch(r"automl_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", text)
    assert "will not be shown again" in lines[-2]
    assert not any(text in line for line in lines[:-1])
    assert who(desk, text) == Identity("ci", "acme", frozenset({Scope.READ, Scope.SUBMIT}))

    table = desk.works("token", "ls", "--project", "acme")
    (listed,) = desk.json("token", "ls", "--project", "acme")
    assert listed["id"] in table and "read,submit" in table
    assert (listed["name"], listed["scopes"], listed["expires_at"]) == ("ci", ["read", "submit"], None)
    secret = text.rpartition(listed["id"])[2].strip("_")
    assert secret not in table and secret not in str(listed)
    assert "no tokens yet" in desk.works("token", "ls")

    mistaken = desk.automl("token", "revoke", "ci")
    assert mistaken.status == 2 and "`automl token ls` lists them" in mistaken.err
    assert who(desk, text) is not None
    assert "is revoked" in desk.works("token", "revoke", listed["id"], "--project", "acme")
    assert who(desk, text) is None


@pytest.mark.parametrize(("span", "seconds"), [("90d", 90 * 86_400.0), ("1.5h", 5400.0), ("30s", 30.0)])
def test_a_token_is_good_for_as_long_as_it_says(desk: Desk, span: str, seconds: float) -> None:
    database = desk.folder / "own.db"
    desk.works("token", "create", "ci", "--scopes", "work", "--expires", span, "--storage", f"sqlite:///{database}")
    engine = connect(f"sqlite:///{database}", desk.folder / "artifacts")
    (made,) = engine.tokens.all()
    engine.close()
    assert made.expires_at is not None and abs(made.expires_at - made.created_at - seconds) < 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create", "ci"], "--scopes"),
        (["create", "ci", "--scopes", "fly"], "'fly' is none; there are read"),
        (["create", "ci", "--scopes", ","], "none is named"),
        (["create", "ci", "--scopes", "read", "--expires", "soon"], "as in 90d"),
        (["create", "ci", "--scopes", "read", "--expires", "0d"], "as in 90d"),
        (["create", "ci", "--scopes", "read", "--project", "Acme"], "use up to 40 of a-z"),
        (["create", " ", "--scopes", "read"], "1 to 60 printable"),
        (["nonsense"], "automl token --help"),
        ([], "automl token --help"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_its_cure(desk: Desk, words: list[str], said: str) -> None:
    done = desk.automl("token", *words)
    assert done.status == 2
    assert said in done.err and done.err.count("\n") == 1 and "Traceback" not in done.err
    assert done.out == ""


def test_what_is_missing_points_at_the_help_of_the_very_command(desk: Desk) -> None:
    for words in (["create"], ["create", "ci"], ["revoke"]):
        assert f"see `automl token {words[0]} --help`" in desk.automl("token", *words).err
    for words in ([], ["make"]):
        assert "see `automl token --help`" in desk.automl("token", *words).err


def test_the_help_of_each_command_gives_an_example(desk: Desk) -> None:
    for words in ([], ["create"], ["ls"], ["revoke"]):
        assert f"Example: automl token {words[0] if words else 'create'}" in desk.works("token", *words, "--help")


def test_a_name_that_a_terminal_would_take_for_more_is_quoted(desk: Desk) -> None:
    desk.works("token", "create", "my ci", "--scopes", "read")
    assert "'my ci' is revoked" in desk.works("token", "revoke", "my ci")
