"""What happens without anybody asking, and that one process at a time does it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import sqlalchemy as sa

from automl.core import Load, Outcome, StudyRecord, TrialState, WorkerRecord
from automl.declaration import Budget
from automl.engine import Engine, connect
from automl.errors import DatabaseUnavailable, NotFound
from automl.service.config import Role
from automl.service.duties.reaper import Reaper
from automl.service.duties.runner import Runner
from automl.service.duties.suggesting import Suggesting
from automl.service.duties.sweeper import DAY_S, HOUR_S, Sweeper
from automl.service.logins import GOOD_S, RENEW_S, Logins
from automl.service.metrics import Histogram
from automl.service.routes import health
from automl.storage.batches import BatchStudy
from automl.storage.tables import answer, package, study, token
from automl.team import Scope
from tests.unit.searches import spec

LEASE_S = 30.0
PATIENCE_S = 30.0


@pytest.fixture
def engine(url: str, artifacts: Path) -> Iterator[Engine]:
    opened = connect(url, artifacts)
    yield opened
    opened.close()


def until(what: str, condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, f"{what}: not in time"
        time.sleep(0.005)


# -- who does it --------------------------------------------------------------------------------------------------


@dataclass
class Chore:
    """A duty that counts its steps."""

    name: str = "chore"
    every_s: float = 0.01
    wrong: Exception | None = None
    steps: int = 0
    rests: int = 0
    seen: threading.Event = field(default_factory=threading.Event)

    def step(self) -> None:
        self.steps += 1
        self.seen.set()
        if self.wrong is not None:
            wrong, self.wrong = self.wrong, None
            raise wrong

    def rest(self) -> None:
        self.rests += 1


def test_of_two_processes_one_does_a_duty_and_the_other_takes_it_over_when_that_ends(engine: Engine) -> None:
    first, second = Chore(), Chore()
    one, other = (Runner(engine, [chore], name, 0.3) for chore, name in ((first, "one"), (second, "other")))
    one.start()
    assert first.seen.wait(PATIENCE_S)
    other.start()
    until("the first goes on", lambda: first.steps > 20)
    assert second.steps == 0
    assert one.stop(PATIENCE_S)
    assert first.rests == 1
    assert second.seen.wait(PATIENCE_S)
    assert other.stop(PATIENCE_S)
    assert [duty.held for duty in engine.duties.all()] == [False]


def test_a_duty_of_a_process_that_died_is_taken_up_when_its_lease_is_over(engine: Engine) -> None:
    assert engine.duties.hold("chore", "dead", 0.5)
    chore = Chore()
    runner = Runner(engine, [chore], "alive", 0.3)
    runner.start()
    assert chore.seen.wait(PATIENCE_S)
    assert runner.stop(PATIENCE_S)


def test_who_slept_through_his_lease_rests_and_does_not_go_on(engine: Engine) -> None:
    chore = Chore()
    runner = Runner(engine, [chore], "sleeper", 0.6)
    runner.start()
    assert chore.seen.wait(PATIENCE_S)
    engine.duties.let_go("chore", "sleeper")  # as if its lease was over
    assert engine.duties.hold("chore", "another", LEASE_S)
    until("it rests", lambda: chore.rests == 1)
    steps = chore.steps
    assert runner.stop(PATIENCE_S)
    assert chore.steps == steps
    assert engine.duties.hold("chore", "another", LEASE_S), "it gave back what it did not hold"


@pytest.mark.parametrize("wrong", [ValueError("odd"), DatabaseUnavailable("away")])
def test_a_step_that_fails_is_told_and_the_next_one_comes(
    engine: Engine, wrong: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    chore = Chore(wrong=wrong)
    runner = Runner(engine, [chore], "one", LEASE_S)
    runner.start()
    until("it goes on", lambda: chore.steps > 2)
    assert runner.stop(PATIENCE_S)
    assert [record.getMessage() for record in caplog.records] == [f"chore: {wrong}; trying again"]


# -- suggestions --------------------------------------------------------------------------------------------------


@pytest.fixture
def suggesting(engine: Engine) -> Iterator[Suggesting]:
    assert engine.duties.hold("suggesting", "me", LEASE_S)
    made = Suggesting(engine, "me", LEASE_S)
    yield made
    made.rest()


def enroll(engine: Engine, slots: int) -> None:
    engine.enroll(WorkerRecord("box", "host", 1, ((),) * slots, Load(), {}, LEASE_S, False, 0.0, 0.0, None))


def waiting(engine: Engine, record: StudyRecord) -> int:
    return engine.counts([record])[record.id]["waiting"]


def stepped_until(suggesting: Suggesting, what: str, condition: Callable[[], object]) -> None:
    def look() -> object:
        suggesting.step()
        return condition()

    until(what, look)


def finish_one(engine: Engine, record: StudyRecord) -> bool:
    lease = engine.claim([record.id], "box-0", uuid.uuid4().hex, LEASE_S)
    if lease is None:
        return False
    engine.finish(lease.token, Outcome(TrialState.COMPLETE, (lease.params["x"],), {}))
    return True


def test_a_study_that_somebody_wants_is_searched_to_its_end_in_any_project(
    engine: Engine, suggesting: Suggesting
) -> None:
    team = engine.of_project("vision")
    record = team.declare(spec(sampler="auto"))
    team.want(record, 2, 60.0)
    stepped_until(suggesting, "there are as many as it wants", lambda: waiting(team, record) == 2)

    def is_over() -> bool:
        finish_one(team, record)
        return team.study_by_id(record.id).state != "open"

    stepped_until(suggesting, "it is finished", is_over)
    assert team.counts([record])[record.id]["complete"] == 10
    assert team.audit(team.study_by_id(record.id)) == []


def test_a_queued_study_is_supplied_as_soon_as_there_are_workers(engine: Engine, suggesting: Suggesting) -> None:
    record = engine.declare(spec(), queued=True)
    suggesting.step()
    suggesting.rest()
    assert waiting(engine, record) == 0
    enroll(engine, 3)
    stepped_until(suggesting, "each slot has one", lambda: waiting(engine, record) == 3)


def test_studies_of_a_batch_are_supplied_one_after_the_other(engine: Engine, suggesting: Suggesting) -> None:
    enroll(engine, 3)
    members = [BatchStudy(spec(name, budget=Budget(trials=2)), f"/{name}.py:{name}", "a" * 64) for name in "ab"]
    engine.batches.submit("night", members)
    first, second = engine.study("a"), engine.study("b")
    stepped_until(suggesting, "the first one has all of its trials", lambda: waiting(engine, first) == 2)
    suggesting.step()
    suggesting.rest()
    assert waiting(engine, second) == 0
    assert finish_one(engine, first)
    assert finish_one(engine, first)
    stepped_until(suggesting, "then comes the second", lambda: waiting(engine, second) == 2)


def test_nothing_is_suggested_for_studies_that_nobody_wants_or_another_process_holds(
    engine: Engine, suggesting: Suggesting
) -> None:
    enroll(engine, 2)
    nobodys, held = engine.declare(spec("nobodys")), engine.declare(spec("held"), queued=True)
    stopped, control = engine.declare(spec("stopped"), queued=True), engine.declare(spec("control"), queued=True)
    engine.stop("stopped")
    other = engine.suggester(held)
    assert other.step(1, LEASE_S) == 1
    stepped_until(suggesting, "the one that is wanted has some", lambda: waiting(engine, control) == 2)
    suggesting.rest()
    assert [waiting(engine, record) for record in (nobodys, held, stopped)] == [0, 1, 0]
    other.close()
    stepped_until(suggesting, "it was let go", lambda: waiting(engine, held) == 2)


def test_a_sampler_that_is_an_object_of_the_study_is_left_to_who_has_it(
    engine: Engine, suggesting: Suggesting, caplog: pytest.LogCaptureFixture
) -> None:
    enroll(engine, 1)
    record = engine.declare(spec(sampler="custom:CmaEsSampler"), queued=True)
    suggesting.step()
    suggesting.step()
    assert waiting(engine, record) == 0
    (told,) = caplog.records
    assert "CmaEsSampler" in told.getMessage()


def test_it_looks_often_only_while_somebody_searches(engine: Engine, suggesting: Suggesting) -> None:
    suggesting.step()
    idle_s = suggesting.every_s
    record = engine.declare(spec())
    engine.want(record, 1, 60.0)
    suggesting.step()
    assert suggesting.every_s < 0.05 < idle_s


def test_how_long_suggestions_took_is_counted_on_from_one_process_to_the_next(engine: Engine) -> None:
    for process, trials in enumerate((2, 5), start=1):
        assert engine.duties.hold("suggesting", f"process {process}", LEASE_S)
        made = Suggesting(engine, f"process {process}", LEASE_S)
        record = engine.declare(spec(f"study {process}"))
        engine.want(record, trials, 60.0)
        stepped_until(made, "all are there", lambda: waiting(engine, record) == trials)  # noqa: B023
        made.rest()
        engine.duties.let_go("suggesting", f"process {process}")
    took = Histogram.from_json(engine.duties.cursor("suggesting")[health.SUGGESTION_MS])
    assert sum(took.counts) == 7
    assert took.sum > 0


# -- lost trials --------------------------------------------------------------------------------------------------


def test_the_trial_of_a_dead_worker_is_taken_back(sqlite_url: str, artifacts: Path) -> None:
    engine = connect(sqlite_url, artifacts)
    record = engine.declare(spec())
    suggester = engine.suggester(record)
    suggester.step(1, LEASE_S)
    assert engine.claim([record.id], "box-0", "token", 0.01) is not None
    reaper = Reaper(engine, LEASE_S)

    def is_back() -> bool:
        reaper.step()
        return waiting(engine, record) == 1

    until("it is back", is_back)
    engine.close()


class Flickering:
    """A database that goes away once, and how often somebody was taken for dead."""

    def __init__(self) -> None:
        self.reaped = 0
        self.is_there = True

    def clock(self) -> float:
        return 0.0

    def reap(self, grace_s: float) -> list[int]:
        if not self.is_there:
            raise DatabaseUnavailable("away")
        self.reaped += 1
        return []


def test_after_the_database_was_away_nobody_is_taken_for_dead_for_a_while() -> None:
    moment = [0.0]
    database = Flickering()
    reaper = Reaper(cast("Engine", database), 30.0, clock=lambda: moment[0])
    reaper.step()
    assert database.reaped == 1
    database.is_there = False
    with pytest.raises(DatabaseUnavailable):
        reaper.step()
    database.is_there = True
    moment[0] = 29.0
    reaper.step()
    assert database.reaped == 1
    moment[0] = 31.0
    reaper.step()
    assert database.reaped == 2


# -- clearing up --------------------------------------------------------------------------------------------------


def test_what_can_be_brought_back_stays_for_its_time_and_goes_then(engine: Engine) -> None:
    teams = [engine, engine.of_project("vision")]
    for team in teams:
        for name in ("old", "new", "kept"):
            team.declare(spec(name))
        team.delete("old")
        team.delete("new")
    engine.database.execute(sa.update(study).where(study.c.name == "old").values(deleted_at=study.c.deleted_at - DAY_S))
    Sweeper(engine, DAY_S / 2, HOUR_S).step()
    for team in teams:
        with pytest.raises(NotFound):
            team.undelete("old")
        assert team.undelete("new").name == "new"
        assert team.study("kept").name == "kept"


def test_old_answers_go_and_new_ones_stay(engine: Engine) -> None:
    for key in ("old", "new"):
        engine.answers.begin(key, "sha")
        engine.answers.finish(key, 200, "{}")
    engine.database.execute(
        sa.update(answer).where(answer.c.key == "old").values(created_at=answer.c.created_at - 7200)
    )
    Sweeper(engine, DAY_S, HOUR_S).step()
    assert engine.answers.begin("old", "sha") is None
    assert engine.answers.begin("new", "sha") is not None


def test_code_goes_when_no_study_has_it_and_log_ins_when_they_are_over(engine: Engine) -> None:
    used, unused, fresh = (engine.packages.put(body, "ann") for body in ("1", "2", "3"))
    engine.declare(spec(), package_sha256=used)
    older = package.c.created_at - 2 * DAY_S
    engine.database.execute(sa.update(package).where(package.c.sha256 != fresh).values(created_at=older))
    for name, by in (("ann 1", "login"), ("ann 2", "login"), ("robot", "local")):
        engine.tokens.create(name, [Scope.READ], expires_s=60.0, by=by)
    past = sa.update(token).where(token.c.name != "ann 2").values(expires_at=token.c.expires_at - 2 * DAY_S)
    engine.database.execute(past)
    Sweeper(engine, DAY_S, HOUR_S).step()
    assert engine.packages.get(used) == "1"
    assert engine.packages.get(fresh) == "3"
    with pytest.raises(NotFound):
        engine.packages.get(unused)
    assert sorted(token.name for token in engine.tokens.all()) == ["ann 2", "robot"]


# -- log-ins ------------------------------------------------------------------------------------------------------


def test_who_logs_in_gets_one_token_of_his_role_until_he_logs_out(engine: Engine) -> None:
    moment = [100.0]
    roles = {"ann@example.org": Role((Scope.READ, Scope.SUBMIT), "vision")}
    logins = Logins(engine, roles, clock=lambda: moment[0])
    opened = logins.now()
    ann = logins.by_address("ann@example.org", opened)
    assert ann is not None
    assert ann.identity.project == "vision"
    assert ann.may(Scope.SUBMIT) and not ann.may(Scope.PROMOTE)
    assert logins.by_token(ann.token) == ann
    assert logins.by_address("ann@example.org", opened) == ann
    assert logins.by_address("eve@example.org", opened) is None
    moment[0] += 1
    logins.end("ann@example.org")
    assert logins.by_token(ann.token) is None
    assert logins.by_address("ann@example.org", opened) is None, "an old page logged him in again"
    assert logins.has_ended("ann@example.org", opened)
    moment[0] += 1
    again = logins.by_address("ann@example.org", logins.now())
    assert again is not None
    assert again.token != ann.token


def test_a_log_in_gets_another_token_before_its_own_is_over(engine: Engine) -> None:
    moment = [0.0]
    logins = Logins(engine, {"@example.org": Role((Scope.READ,))}, clock=lambda: moment[0])
    first = logins.by_address("bob@example.org", 0.0)
    moment[0] = GOOD_S - RENEW_S + 1
    second = logins.by_address("bob@example.org", 0.0)
    assert first is not None and second is not None
    assert first.token != second.token
    assert logins.by_token(first.token) is not None, "requests under way are not cut off"


def test_no_text_but_a_good_token_lets_anybody_in(engine: Engine) -> None:
    logins = Logins(engine, {})
    text, made = engine.tokens.create("robot", [Scope.READ])
    assert logins.by_token(f"  {text}\n") is not None
    for wrong in ("", "automl_", text[:-1], text.replace("automl_", ""), "'; --"):
        assert logins.by_token(wrong) is None
    engine.tokens.revoke(made.id)
    assert logins.by_token(text) is None
