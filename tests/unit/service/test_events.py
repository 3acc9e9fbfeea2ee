"""What happens, as it happens."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import urllib3

from automl.engine import Engine, connect
from automl.service.server import Patience
from automl.storage.database import Database
from automl.storage.stream import Stream, since
from automl.team import Scope
from tests.conformance.lab import spec
from tests.unit.service.house import House, open_house

EVENTS = "/api/v1/events"


@dataclass
class Ear:
    """Who listens to a stream of events."""

    answer: urllib3.BaseHTTPResponse
    last_id: str | None = None
    comments: list[str] = field(default_factory=list)
    _buffer: str = ""

    def block(self) -> dict[str, str] | None:
        """The next block of the stream by its fields; None when it has ended."""
        while "\n\n" not in self._buffer:
            piece = self.answer.read1()
            if not piece:
                return None
            self._buffer += piece.decode()
        text, _, self._buffer = self._buffer.partition("\n\n")
        self.comments += [line for line in text.split("\n") if line.startswith(":")]
        found = dict(line.split(": ", 1) for line in text.split("\n") if not line.startswith(":"))
        self.last_id = found.get("id", self.last_id)
        return found

    def hear(self, wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """All that is said until `wanted` is."""
        heard: list[dict[str, Any]] = []
        while True:
            block = self.block()
            assert block is not None, f"it ended after {heard}"
            if "data" in block:
                heard.append({"event": block["event"], **json.loads(block["data"])})
                if wanted(heard[-1]):
                    return heard


@contextmanager
def listening(house: House, *, who: str = "read", query: str = "", last_id: str | None = None) -> Iterator[Ear]:
    headers = {} if last_id is None else {"Last-Event-ID": last_id}
    answer = house.ask("GET", EVENTS + query, who=who, headers=headers, preload_content=False)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    ear = Ear(answer)
    assert ear.block() is not None  # it is heard
    try:
        yield ear
    finally:
        answer.close()


def made(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda heard: heard["event"] == "study" and heard["study"] == name


def test_who_listens_hears_of_studies_and_trials_of_his_project(house: House) -> None:
    with listening(house) as ear:
        house.engine.of_project("elsewhere").declare(spec("theirs"))
        study = house.engine.declare(spec("ours"))
        house.engine.enqueue(study, {"x": 0.5})
        heard = ear.hear(lambda heard: heard["event"] == "trial")
    assert {item["study"] for item in heard} == {"ours"}
    assert heard[-1]["trial"] == 0
    assert heard[-1]["state"] == "waiting"
    assert not any("token" in item for item in heard)


def test_one_study_may_be_listened_to_and_a_foreign_one_is_not_there(house: House) -> None:
    first, second = house.engine.declare(spec("first")), house.engine.declare(spec("second"))
    theirs = house.engine.of_project("elsewhere").declare(spec("theirs"))
    with listening(house, query=f"?study={second.id}") as ear:
        house.engine.enqueue(first, {"x": 0.5})
        house.engine.enqueue(second, {"x": 0.5})
        assert {item["study"] for item in ear.hear(lambda heard: heard["event"] == "trial")} == {"second"}
    for query in (f"?study={theirs.id}", "?study=999999"):
        assert house.ask("GET", EVENTS + query).status == 404
    for query in ("?study=0", "?study=x", f"?study={2**70}"):
        assert house.ask("GET", EVENTS + query).status == 422


def test_what_was_missed_is_said_again(house: House) -> None:
    with listening(house) as ear:
        house.engine.declare(spec("one"))
        ear.hear(made("one"))
    house.engine.declare(spec("two"))
    house.engine.of_project("elsewhere").declare(spec("theirs"))
    with listening(house, last_id=ear.last_id) as ear:
        house.engine.declare(spec("three"))
        heard = [item["study"] for item in ear.hear(made("three"))]
    assert [name for name in heard if name != "one"] == ["two", "three"]
    assert len(set(heard)) == len(heard)
    assert house.ask("GET", EVENTS, headers={"Last-Event-ID": "x"}).status == 422


def test_whose_token_is_revoked_hears_nothing_more(house: House) -> None:
    text, token = house.engine.tokens.create("short", [Scope.READ])
    with listening(house, who=text) as ear:
        house.engine.tokens.revoke(token.id)
        revoked_at = time.monotonic()
        while ear.block() is not None:
            pass
        assert time.monotonic() - revoked_at < 5.0


def test_a_listener_does_not_keep_the_server_from_ending(sqlite_url: str, artifacts: Path) -> None:
    with open_house(sqlite_url, artifacts, patience=Patience(stop_s=30)) as house:
        context = listening(house)
        ear = context.__enter__()
        began = time.monotonic()
    assert time.monotonic() - began < 10.0
    with suppress(urllib3.exceptions.HTTPError):
        assert ear.block() is None
    context.__exit__(None, None, None)


def test_many_listeners_cost_one_look_and_too_many_are_refused(hut: House, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    look = Stream.new
    monkeypatch.setattr("automl.service.broadcast.MAX_LISTENERS", 20)
    monkeypatch.setattr(Stream, "new", lambda self: looks.append(1) or look(self))  # type: ignore[func-returns-value]
    answers = [hut.ask("GET", EVENTS, preload_content=False) for _ in range(20)]
    ears = [Ear(answer) for answer in answers]
    for ear in ears:
        ear.block()
    refused = hut.ask("GET", EVENTS)
    assert (refused.status, hut.said(refused)["code"]) == (429, "too_many_requests")
    assert hut.ask("GET", EVENTS, who="foreign", preload_content=False).status == 200
    looks.clear()
    began = time.monotonic()
    hut.engine.declare(spec("heard"))
    with ThreadPoolExecutor(20) as pool:
        assert all(pool.map(lambda ear: ear.hear(made("heard")), ears))
    assert len(looks) <= 2 + time.monotonic() - began
    for answer in answers:
        answer.close()


# -- the stream itself -----------------------------------------------------------------------------------------------


@pytest.fixture
def engine(url: str, artifacts: Path) -> Iterator[Engine]:
    opened = connect(url, artifacts)
    yield opened
    opened.close()


def test_a_stream_says_each_thing_once_and_in_its_order(engine: Engine) -> None:
    engine.declare(spec("before"))
    stream = Stream(engine.database)
    stream.begin()
    assert stream.new() == []
    seen = []
    for n in range(5):
        engine.declare(spec(f"study-{n}"))
        seen += stream.new()
    assert [item.study for item in seen] == [f"study-{n}" for n in range(5)]
    assert stream.new() == []
    assert stream.new() == []
    assert stream.low == seen[-1].seq
    assert [item.study for item in since(engine.database, "default", seen[2].seq)] == ["study-3", "study-4"]
    assert since(engine.database, "elsewhere", 0) == []


def test_what_is_committed_late_is_not_left_out(postgres_url: str, artifacts: Path) -> None:
    """A number that was given out early appears after higher ones."""
    engine = connect(postgres_url, artifacts)
    study = engine.declare(spec("late"))
    stream = Stream(engine.database)
    stream.begin()
    began, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        other = Database(postgres_url)
        with other.transaction() as connection:
            connection.execute(sa.text(_INSERT), {"study": study.id, "state": "slow"})
            began.set()
            assert may_end.wait(30)
        other.close()

    thread = threading.Thread(target=slow)
    thread.start()
    assert began.wait(30)
    with engine.database.transaction() as connection:
        connection.execute(sa.text(_INSERT), {"study": study.id, "state": "fast"})
    first = stream.new()
    assert [item.state for item in first] == ["fast"]
    assert stream.low < first[0].seq  # somebody who goes on from here must hear the slow one
    assert stream.new() == []
    may_end.set()
    thread.join()
    second = stream.new()
    assert [item.state for item in second] == ["slow"]
    assert second[0].seq < first[0].seq
    stream.new()
    stream.new()
    assert stream.low >= first[0].seq
    engine.close()


_INSERT = (
    "INSERT INTO event (position, study_id, state, cause, at) "
    "VALUES (pg_current_xact_id()::text::bigint, :study, :state, 'test', 0)"
)
