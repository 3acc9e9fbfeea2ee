"""What a client has already is not sent again, and what it has not seen is not overwritten."""

from __future__ import annotations

import pytest
from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from automl.service.answers import answer
from automl.service.callers import Reader, Submitter
from automl.service.etags import require_match
from tests.unit.service.house import House


@pytest.fixture
def state(hut: House) -> dict[str, int]:
    """What is at /api/v1/state."""
    kept = {"x": 1}

    def read(caller: Reader) -> Response:
        return answer(kept)

    def write(request: Request, caller: Submitter, changes: dict[str, int]) -> Response:
        require_match(request, kept)
        kept.update(changes)
        return answer(kept)

    hut.app.get("/api/v1/state")(read)
    hut.app.patch("/api/v1/state")(write)
    return kept


def test_what_has_not_changed_is_not_sent_again(hut: House, state: dict[str, int]) -> None:
    tag = hut.ask("GET", "/api/v1/state").headers["ETag"]
    for header in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
        known = hut.ask("GET", "/api/v1/state", headers={"If-None-Match": header})
        assert (known.status, known.data, known.headers["ETag"]) == (304, b"", tag)
    state["x"] = 2
    changed = hut.ask("GET", "/api/v1/state", headers={"If-None-Match": tag})
    assert (changed.status, changed.data) == (200, b'{"x":2}')
    assert changed.headers["ETag"] != tag


def test_what_was_changed_since_it_was_read_is_not_overwritten(hut: House, state: dict[str, int]) -> None:
    tag = hut.ask("GET", "/api/v1/state").headers["ETag"]
    assert hut.ask("PATCH", "/api/v1/state", headers={"If-Match": tag}, json={"x": 2}).status == 200
    late = hut.ask("PATCH", "/api/v1/state", headers={"If-Match": tag}, json={"x": 3})
    assert (late.status, hut.said(late)["code"], state) == (412, "precondition_failed", {"x": 2})
    assert hut.ask("PATCH", "/api/v1/state", headers={"If-Match": "*"}, json={"x": 4}).status == 200
    assert hut.ask("PATCH", "/api/v1/state", json={"x": 5}).status == 200


def test_a_tag_of_the_routes_own_stays_and_streams_have_none(hut: House) -> None:
    def own(caller: Reader) -> Response:
        return Response(b"{}", media_type="application/json", headers={"ETag": '"v1"'})

    def stream(caller: Reader) -> Response:
        return StreamingResponse(iter([b"{", b"}"]), media_type="application/json")

    hut.app.get("/api/v1/own")(own)
    hut.app.get("/api/v1/stream")(stream)
    assert hut.ask("GET", "/api/v1/own").headers["ETag"] == '"v1"'
    assert hut.ask("GET", "/api/v1/own", headers={"If-None-Match": '"v1"'}).status == 304
    streamed = hut.ask("GET", "/api/v1/stream")
    assert (streamed.data, "ETag" in streamed.headers) == (b"{}", False)


def test_errors_have_no_tag(hut: House) -> None:
    assert "ETag" not in hut.ask("GET", "/api/v1/nowhere").headers
