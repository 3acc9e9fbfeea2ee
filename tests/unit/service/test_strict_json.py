"""What is JSON, and what only looks like it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl.errors import InvalidInput
from automl.service.strict_json import MAX_DEPTH, parse


@pytest.mark.parametrize(
    "body, field, why",
    [
        (b'{"a": {"lr": NaN}}', "a.lr", "NaN is no JSON"),
        (b'{"a": [1, -Infinity]}', "a.1", "-Infinity is no JSON"),
        (b'{"a": 1e999}', "a", "beyond"),
        (b'{"a": -1e999}', "a", "beyond"),
        (b'{"a": ' + b"9" * 400 + b".0}", "a", "beyond"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a", "1000 digits"),
        (b'{"a": 0.' + b"9" * 5000 + b"}", "a", "1000 digits"),
        (b'{"a": {"x": 1, "y": 2, "x": 1}}', "a", "'x' comes twice".replace("'", '"')),
        (b'{"a": "\\u0000"}', "a", "NUL"),
        (b'{"a": {"b\\u0000": 1}}', "a", "NUL"),
        (b'{"a": "\\ud800"}', "a", "half of a character"),
        (b'{"a": ["x", "\\udc00!"]}', "a.1", "half of a character"),
        (b'{"\\udfff": 1}', "body", "half of a character"),
        (b'{"a": "\xff"}', "body", "no UTF-8"),
        (b"[" * 20_000, "body", "levels deep"),
        (b"[" * 20_000 + b"]" * 20_000, "body", "levels deep"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "a.a.a", "levels deep"),
        (b'{"a": "' + b"x" * 65_537 + b'"}', "a", "65537 characters"),
        (b'{"a": [' + b"0," * 10_000 + b"0]}", "a", "10001 items"),
        (b"{", "body", "no JSON"),
        (b"{} {}", "body", "no JSON"),
        (b"", "body", "no JSON"),
        (b"{'a': 1}", "body", "no JSON"),
        (b'{"a": 01}', "body", "no JSON"),
        (b'{"a": "\n"}', "body", "no JSON"),
        (b"\xef\xbb\xbf{}", "body", "no JSON"),
        ("{}".encode("utf-16"), "body", "no UTF-8"),
    ],
)
def test_what_is_refused_is_named(body: bytes, field: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why) as caught:
        parse(body)
    assert caught.value.field == field


def test_what_is_as_large_as_allowed_is_taken() -> None:
    value = {"a": "x" * 65_536, "b": [0] * 10_000, "c": 10**999, "d": "NaN", "e": "\U0001f600 é"}
    assert parse(json.dumps(value).encode()) == value
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse(deep.encode()) == json.loads(deep)


def test_a_million_keys_of_which_one_comes_twice_take_no_time() -> None:
    body = json.dumps({str(n): 0 for n in range(80_000)})[:-1] + ', "79999": 1}'
    with pytest.raises(InvalidInput, match="79999"):
        parse(body.encode(), max_items=1_000_000)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**70), 2**70)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",))), inner)
        ),
    )
)
def test_any_other_value_is_what_it_was(value: object) -> None:
    assert parse(json.dumps(value).encode()) == value
