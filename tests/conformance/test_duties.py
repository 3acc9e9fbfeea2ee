"""Duties: one holder at a time, taken up when he is gone. Answers: what an idempotency key keeps."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from automl.engine import Engine, connect
from automl.errors import InvalidInput, TooMany
from automl.storage.answers import DEAD_AFTER_S, Answer
from automl.storage.database import now
from automl.storage.tables import answer, duty

LEASE_S = 60.0


@pytest.fixture
def engine(url: str, artifacts: Path) -> Iterator[Engine]:
    opened = connect(url, artifacts)
    yield opened
    opened.close()


def expire(engine: Engine) -> None:
    """As if the holders' leases were just over."""
    engine.database.execute(sa.update(duty).values(expires_at=now() - 0.001))


class TestDuties:
    def test_one_holds_it_and_keeps_it_and_another_waits(self, engine: Engine) -> None:
        assert engine.duties.all() == []
        assert engine.duties.hold("reaper", "a", LEASE_S)
        assert not engine.duties.hold("reaper", "b", LEASE_S)
        assert engine.duties.hold("reaper", "a", LEASE_S)
        assert engine.duties.hold("scheduler", "b", LEASE_S)
        found = engine.duties.all()
        assert [(item.name, item.holder, item.held) for item in found] == [
            ("reaper", "a", True),
            ("scheduler", "b", True),
        ]
        assert all(LEASE_S - 10 < item.expires_at - engine.clock() <= LEASE_S for item in found)

    def test_a_renewal_counts_from_now(self, engine: Engine) -> None:
        engine.duties.hold("reaper", "a", LEASE_S)
        assert engine.duties.hold("reaper", "a", 600.0)
        assert engine.duties.all()[0].expires_at > engine.clock() + 500.0
        assert engine.duties.hold("reaper", "a", 10.0)
        assert engine.duties.all()[0].expires_at < engine.clock() + 11.0

    def test_a_lease_that_is_over_is_anybodys_and_its_holder_is_told(self, engine: Engine) -> None:
        engine.duties.hold("reaper", "a", LEASE_S)
        expire(engine)
        assert not engine.duties.all()[0].held
        assert not engine.duties.advance("reaper", "a", {"seen": 1})  # nobody has taken it, but it is over
        assert engine.duties.hold("reaper", "b", LEASE_S)
        assert not engine.duties.hold("reaper", "a", LEASE_S)
        assert not engine.duties.advance("reaper", "a", {"seen": 1})
        assert engine.duties.cursor("reaper") == {}

    def test_who_lets_go_is_followed_at_once_and_nobody_can_for_him(self, engine: Engine) -> None:
        engine.duties.hold("reaper", "a", LEASE_S)
        engine.duties.let_go("reaper", "b")
        engine.duties.let_go("unknown", "a")
        assert not engine.duties.hold("reaper", "b", LEASE_S)
        engine.duties.let_go("reaper", "a")
        assert engine.duties.hold("reaper", "b", LEASE_S)

    def test_how_far_it_has_come_outlives_its_holders(self, engine: Engine) -> None:
        assert engine.duties.cursor("news") == {}
        assert not engine.duties.advance("news", "a", {"seen": 1})  # without holding it
        engine.duties.hold("news", "a", LEASE_S)
        assert engine.duties.advance("news", "a", {"seen": 2**60, "at": 1.5e300, "names": ["x"]})
        assert not engine.duties.advance("news", "b", {"seen": 0})
        engine.duties.let_go("news", "a")
        engine.duties.hold("news", "b", LEASE_S)
        assert engine.duties.cursor("news") == {"seen": 2**60, "at": 1.5e300, "names": ["x"]}
        assert engine.duties.advance("news", "b", {"seen": 3})
        assert engine.duties.all()[0].cursor == engine.duties.cursor("news") == {"seen": 3}

    def test_the_duties_are_those_of_the_whole_database(self, engine: Engine) -> None:
        engine.duties.hold("reaper", "a", LEASE_S)
        assert not engine.of_project("acme").duties.hold("reaper", "b", LEASE_S)

    @pytest.mark.parametrize("fresh", [True, False], ids=["new", "over"])
    def test_of_many_that_come_at_once_one_has_it(self, engine: Engine, fresh: bool) -> None:
        barrier = threading.Barrier(6, timeout=60)

        def race(index: int, name: str) -> bool:
            barrier.wait()
            return engine.duties.hold(name, f"h{index}", LEASE_S)

        with ThreadPoolExecutor(6) as pool:
            for round in range(15):
                name = f"duty {round}"
                if not fresh:
                    engine.duties.hold(name, "before", LEASE_S)
                    expire(engine)
                held = list(pool.map(race, range(6), [name] * 6))
                assert sum(held) == 1
                assert {item.name: item.holder for item in engine.duties.all()}[name] == f"h{held.index(True)}"

    def test_that_of_a_killed_process_is_taken_up_when_its_lease_is_over(self, engine: Engine, url: str) -> None:
        script = (
            "import sys; from automl.engine import connect; engine = connect(sys.argv[1], sys.argv[2]);"
            "print(engine.duties.hold('reaper', 'doomed', 1.0), flush=True); sys.stdin.readline()"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, url, str(engine.artifacts.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "True\n"
        process.kill()
        process.wait()
        process.stdout.close()
        process.stdin.close()
        until = engine.duties.all()[0].expires_at
        deadline = time.monotonic() + 30.0
        taken_at = None
        while taken_at is None and time.monotonic() < deadline:
            before = engine.clock()
            if engine.duties.hold("reaper", "heir", LEASE_S):
                taken_at = (before, engine.clock())
        assert taken_at is not None and taken_at[1] >= until
        assert taken_at[0] <= until + 5.0


class TestAnswers:
    def test_a_request_is_done_once_and_answered_again(self, engine: Engine) -> None:
        assert engine.answers.begin("k", "a" * 64) is None
        engine.answers.finish("k", 201, '{"id": 7}')
        for _ in range(2):
            assert engine.answers.begin("k", "a" * 64) == Answer(201, '{"id": 7}')

    def test_while_it_is_worked_on_another_is_told_to_come_again(self, engine: Engine) -> None:
        engine.answers.begin("k", "a" * 64)
        with pytest.raises(TooMany, match="is being worked on") as caught:
            engine.answers.begin("k", "a" * 64)
        assert caught.value.retry_after_s == 1.0

    @pytest.mark.parametrize("finished", [True, False])
    def test_a_key_that_comes_with_another_request_is_refused(self, engine: Engine, finished: bool) -> None:
        engine.answers.begin("k", "a" * 64)
        if finished:
            engine.answers.finish("k", 200, "")
        engine.database.execute(sa.update(answer).values(created_at=now() - DEAD_AFTER_S - 1.0))
        with pytest.raises(InvalidInput, match="came with another request before; use a new one") as caught:
            engine.answers.begin("k", "b" * 64)
        assert caught.value.field == "Idempotency-Key"
        assert (engine.answers.begin("k", "a" * 64) is None) is not finished

    def test_one_whose_first_worker_died_is_done_after_a_minute(self, engine: Engine) -> None:
        engine.answers.begin("k", "a" * 64)
        engine.database.execute(sa.update(answer).values(created_at=now() - DEAD_AFTER_S + 5.0))
        with pytest.raises(TooMany):
            engine.answers.begin("k", "a" * 64)
        engine.database.execute(sa.update(answer).values(created_at=now() - DEAD_AFTER_S - 0.1))
        assert engine.answers.begin("k", "a" * 64) is None
        with pytest.raises(TooMany):  # it is begun anew
            engine.answers.begin("k", "a" * 64)

    def test_one_that_failed_may_be_tried_again_and_one_that_was_answered_stays(self, engine: Engine) -> None:
        engine.answers.begin("k", "a" * 64)
        engine.answers.forget("k")
        assert engine.answers.begin("k", "a" * 64) is None
        engine.answers.finish("k", 200, "first")
        engine.answers.finish("k", 200, "second")
        engine.answers.forget("k")
        assert engine.answers.begin("k", "a" * 64) == Answer(200, "first")

    def test_of_many_that_come_at_once_one_does_the_work(self, engine: Engine) -> None:
        barrier = threading.Barrier(6, timeout=60)

        def race(key: str) -> str:
            barrier.wait()
            try:
                return "mine" if engine.answers.begin(key, "a" * 64) is None else "answered"
            except TooMany:
                return "later"

        with ThreadPoolExecutor(6) as pool:
            for round in range(10):
                assert sorted(pool.map(race, [f"k{round}"] * 6)) == ["later"] * 5 + ["mine"]

    def test_the_keys_of_a_project_are_its_own(self, engine: Engine) -> None:
        engine.answers.begin("k", "a" * 64)
        engine.answers.finish("k", 200, "ours")
        acme = engine.of_project("acme")
        assert acme.answers.begin("k", "b" * 64) is None
        acme.answers.forget("k")
        assert engine.answers.begin("k", "a" * 64) == Answer(200, "ours")
        acme.answers.begin("k", "b" * 64)
        engine.answers.finish("k", 500, "again")
        with pytest.raises(TooMany):
            acme.answers.begin("k", "b" * 64)

    def test_old_ones_are_cleared_up_in_all_projects(self, engine: Engine) -> None:
        for project in ("default", "acme"):
            engine.of_project(project).answers.begin("old", "a" * 64)
        engine.database.execute(sa.update(answer).values(created_at=now() - 100.0))
        engine.answers.begin("new", "a" * 64)
        assert engine.answers.purge(200.0) == 0
        assert engine.answers.purge(50.0) == 2
        with pytest.raises(TooMany):
            engine.answers.begin("new", "a" * 64)
        assert engine.answers.begin("old", "b" * 64) is None

    @pytest.mark.parametrize("key", ["", "x" * 256, "a\nb", "caf\u00e9", "\0"])
    def test_a_key_that_cannot_be_is_refused(self, engine: Engine, key: str) -> None:
        with pytest.raises(InvalidInput, match="1 to 255 printable ASCII") as caught:
            engine.answers.begin(key, "a" * 64)
        assert caught.value.field == "Idempotency-Key"
