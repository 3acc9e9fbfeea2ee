"""Addresses of services, and how requests are said."""

from __future__ import annotations

import numpy as np
import pytest

from automl.client.shapes import in_ranges, in_requests, ranges
from automl.client.transport import Transport, checked_url
from automl.engine import connect
from automl.errors import DatabaseUnavailable, InvalidInput, InvalidTarget

TOKEN = "automl_0123456789ab_secret"


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://automl.example.org", "https://automl.example.org"),
        ("https://example.org:8443/automl/", "https://example.org:8443/automl"),
        ("http://127.0.0.1:8500", "http://127.0.0.1:8500"),
        ("http://localhost:8500/", "http://localhost:8500"),
        ("http://[::1]:8500", "http://[::1]:8500"),
        ("http://10.0.0.7:8500?insecure=1", "http://10.0.0.7:8500"),
    ],
)
def test_an_address_is_kept_without_what_does_not_belong_to_it(url: str, kept: str) -> None:
    assert checked_url(url, TOKEN) == kept


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://", "no address"),
        ("https://:8500", "no address"),
        ("https://host:99999", "no address"),
        ("https://host\n.org", "no address"),
        (f"https://{'x' * 64}.org", "no address"),
        ("https://ada:secret@host", "AUTOML_TOKEN"),
        ("https://host/#x", "leave out"),
        ("https://host/?project=x", "leave out"),
        ("http://10.0.0.7:8500", "use https://"),
        ("http://127.0.0.1.example.org", "use https://"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_with_the_cure(url: str, said: str) -> None:
    with pytest.raises(InvalidTarget, match=said) as refused:
        checked_url(url, TOKEN)
    assert refused.value.field == "storage" and "secret" not in str(refused.value)


def test_without_a_token_there_is_nothing_to_read_on_the_way() -> None:
    assert checked_url("http://10.0.0.7:8500", None) == "http://10.0.0.7:8500"


@pytest.mark.parametrize("token", ["automl_0\r\nX-Evil: 1", "tökën", ""])
def test_a_token_that_is_none_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(InvalidTarget, match="AUTOML_TOKEN") as refused:
        Transport("https://host", token)
    assert "Evil" not in str(refused.value)


def test_a_service_says_its_project_itself() -> None:
    with pytest.raises(InvalidInput, match="project: a service takes it from the token"):
        connect("https://host", project="vision")


def test_nobody_there_is_a_database_that_is_away() -> None:
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:9"):
        connect("http://127.0.0.1:9")


def test_what_json_does_not_know_is_refused_before_it_is_sent() -> None:
    with pytest.raises(InvalidInput, match="use plain numbers"):
        Transport("http://127.0.0.1:9", None).send("POST", "/studies", object, {"x": np.int64(1)})


def test_numbers_travel_as_ranges() -> None:
    assert ranges([7, 0, 1, 2, 2]) == "0-2,7" and ranges([]) == ""
    assert in_ranges("0-2,7", 10) == [0, 1, 2, 7] and in_ranges("", 1) == []
    for wrong in ("a", "1-", "-1", "1--2", "1.5", "9" * 12):
        with pytest.raises(InvalidInput, match="neither a number nor a range"):
            in_ranges(wrong, 10)
    assert len(in_ranges("0-9", 10)) == 10
    for much in ("0-10", "0-5,0-5", "0-999999999"):
        with pytest.raises(InvalidInput, match="more than 10"):
            in_ranges(much, 10)


def test_many_numbers_are_asked_for_in_several_requests() -> None:
    for numbers in (list(range(70_000)), list(range(0, 60_000, 2)), [5], []):
        parts = in_requests(numbers)
        assert [number for part in parts for number in part] == numbers
        assert all(len(part) <= 50_000 and len(ranges(part)) < 8000 for part in parts)
