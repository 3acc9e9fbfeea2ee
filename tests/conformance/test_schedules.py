"""Schedules in the database and over HTTP: what people do with them, and one search for each tick."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from automl.client import Client
from automl.core import Attr, Outcome, StudyRecord, TrialState
from automl.cron import Plan
from automl.declaration import Budget, Confirm, Float, Space, StudySpec
from automl.engine import Engine, connect
from automl.errors import Forbidden, InvalidInput, NotFound
from automl.service.app import create_app
from automl.service.duties.scheduler import MOST_CAUGHT_UP, ON_TIME_S, Scheduler
from automl.service.duties.verdicts import Judge
from automl.storage.schedules import MAX_SCHEDULES
from automl.storage.tables import firing, schedule, study, trial
from automl.suggester import NO_CHANGE
from automl.team import DEFAULT_PROJECT, FiringState, Identity, Schedule, Scope
from tests.conformance.gallery import write_onnx_model
from tests.service import running
from tests.unit.searches import complete, fail, spec

MINUTE = 60.0
STARTED, SKIPPED, MISSED = FiringState.STARTED, FiringState.SKIPPED, FiringState.MISSED


def plan(name: str = "digits", cron: str = "* * * * *", declared: StudySpec | None = None, **changes: Any) -> Plan:
    return Plan((declared or spec(name)).to_json(), f"{name}.py:{name}", cron, **changes)


@pytest.fixture
def engine(url: str, artifacts: Path) -> Iterator[Engine]:
    opened = connect(url, artifacts)
    yield opened
    opened.close()


@pytest.fixture(params=["database", "service"])
def verbs(request: pytest.FixtureRequest, engine: Engine, tmp_path: Path) -> Iterator[Any]:
    """The verbs of people: the engine's, and the same over HTTP."""
    if request.param == "database":
        yield engine
        return
    with running(create_app(engine)) as address:
        client = Client(address, None, tmp_path / "client")
        yield client
        client.close()


class Clock:
    """A clock that stands still until it is set, beginning a moment after a full minute."""

    def __init__(self, of: Schedule):
        self.moment = of.seen_until - of.seen_until % MINUTE + 0.5

    def __call__(self) -> float:
        return self.moment

    def pass_minutes(self, minutes: int) -> None:
        self.moment += minutes * MINUTE


def started(engine: Engine, name: str = "digits") -> list[str]:
    """The studies of a schedule, the oldest first."""
    found = engine.database.all(
        sa.select(study.c.name)
        .join(schedule, schedule.c.id == study.c.schedule_id)
        .where(schedule.c.name == name)
        .order_by(study.c.id)
    )
    return [row.name for row in found]


def fired(engine: Engine, name: str = "digits") -> list[FiringState]:
    """The oldest first."""
    return [item.state for item in reversed(engine.schedules.firings(name))]


# -- what people do ---------------------------------------------------------------------------------------------------


def test_a_schedule_is_added_listed_paused_resumed_and_removed(verbs: Any) -> None:
    added = verbs.schedules.add(plan(cron="0 2 * * *", timezone="Europe/Paris", catch_up="all", promote="champion"))
    assert (added.name, added.cron, added.timezone, added.catch_up) == ("digits", "0 2 * * *", "Europe/Paris", "all")
    assert (added.overlap, added.promote, added.paused, added.project) == ("skip", "champion", False, "default")
    assert StudySpec.from_json(added.spec) == spec("digits")
    assert verbs.schedules.all() == [added] == [verbs.schedules.get("digits")]
    assert verbs.schedules.by_id(added.id) == added
    assert verbs.schedules.pause("digits") is True
    assert verbs.schedules.pause("digits") is False
    assert verbs.schedules.get("digits").paused
    assert verbs.schedules.resume("digits") is True
    assert verbs.schedules.resume("digits") is False
    verbs.schedules.remove("digits")
    assert verbs.schedules.all() == []
    with pytest.raises(NotFound, match="there is none yet"):
        verbs.schedules.get("digits")


def test_the_next_times_are_told_in_order_and_come_after_now(verbs: Any, engine: Engine) -> None:
    verbs.schedules.add(plan(cron="30 * * * *"))
    times = verbs.schedules.next("digits", 5)
    assert len(times) == 5
    assert all(later - before == 3600.0 for before, later in pairwise(times))
    assert 0.0 < times[0] - engine.clock() <= 3600.0
    assert times[0] % 3600.0 == 1800.0
    for count in (0, 101):
        with pytest.raises(InvalidInput, match="count"):
            verbs.schedules.next("digits", count)


def test_the_same_schedule_again_is_the_one_that_is_there_and_another_is_refused(verbs: Any) -> None:
    added = verbs.schedules.add(plan())
    assert verbs.schedules.add(plan()) == added
    with pytest.raises(InvalidInput, match=r"another definition \(cron, overlap\)") as refused:
        verbs.schedules.add(plan(cron="5 * * * *", overlap="queue"))
    assert refused.value.field == "schedule"
    assert verbs.schedules.all() == [added]
    changed = verbs.schedules.add(plan(cron="5 * * * *", overlap="queue"), replace=True)
    assert (changed.id, changed.cron, changed.overlap) == (added.id, "5 * * * *", "queue")


@pytest.mark.parametrize("verb", ["get", "pause", "resume", "remove", "next", "firings"])
def test_a_schedule_that_is_not_there_is_told_with_those_that_are(verbs: Any, verb: str) -> None:
    verbs.schedules.add(plan("iris"))
    with pytest.raises(NotFound, match=r"schedule 'digits' is not here; there are iris") as missing:
        getattr(verbs.schedules, verb)("digits")
    assert missing.value.field == "schedule"


def test_what_is_no_plan_is_refused_and_nothing_is_kept(verbs: Any) -> None:
    for wrong in ({"name": "digits"}, {**spec("digits").to_json(), "metrics": {}}, {**spec().to_json(), "name": "a/b"}):
        with pytest.raises(InvalidInput):
            verbs.schedules.add(Plan(wrong, "digits.py", "* * * * *"))
    assert verbs.schedules.all() == []


def test_a_project_sees_its_own_schedules_only(engine: Engine) -> None:
    mine, other = engine.schedules.add(plan()), engine.of_project("other")
    theirs = other.schedules.add(plan(cron="5 * * * *"))
    assert (engine.schedules.all(), other.schedules.all()) == ([mine], [theirs])
    with pytest.raises(NotFound):
        other.schedules.by_id(mine.id)
    other.schedules.remove("digits")
    assert engine.schedules.all() == [mine]


def test_there_is_an_end_to_the_number_of_schedules(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_SCHEDULES == 1000
    monkeypatch.setattr("automl.storage.schedules.MAX_SCHEDULES", 2)
    added = engine.schedules.add(plan())
    engine.schedules.add(plan("last"))
    with pytest.raises(InvalidInput, match="2 are the most") as refused:
        engine.schedules.add(plan("too-many"))
    assert refused.value.field == "schedule"
    assert engine.schedules.add(plan()) == added
    engine.of_project("other").schedules.add(plan("elsewhere"))


def test_code_and_promotion_take_the_scopes_that_they_take_elsewhere(engine: Engine, tmp_path: Path) -> None:
    submitter = Identity("sue", DEFAULT_PROJECT, frozenset({Scope.READ, Scope.SUBMIT}))
    with running(create_app(engine, lambda request: submitter)) as address:
        client = Client(address, None, tmp_path / "client")
        for field, value in (("promote", "champion"), ("package_sha256", "0" * 64)):
            with pytest.raises(Forbidden, match=field):
                client.schedules.add(plan(**{field: value}))
        assert client.schedules.add(plan()).created_by == "sue"
        client.close()


# -- ticks ------------------------------------------------------------------------------------------------------------


def test_a_tick_starts_a_study_that_is_queued_and_named_by_the_local_time(engine: Engine) -> None:
    added = engine.schedules.add(
        plan(cron="0 2 * * *", timezone="Europe/Paris", code_sha256="c" * 64, package_sha256="d" * 64)
    )
    tick = engine.schedules.next("digits", 1)[0]
    record = engine.schedules.fire(added, tick, STARTED)
    assert record is not None
    assert record.name.startswith("digits 20")
    assert record.name.endswith(" 02.00")
    assert (record.queued, record.entrypoint, record.code_sha256) == (True, "digits.py:digits", "c" * 64)
    assert record.package_sha256 == "d" * 64
    assert StudySpec.from_json(record.spec or {}).name == record.name
    assert record.spec["seed"] != added.spec["seed"]  # other points than last time
    assert [item.name for item in engine.queued_studies()] == [record.name]
    (seen,) = engine.schedules.firings("digits")
    assert (seen.tick, seen.state, seen.study, seen.study_id) == (tick, STARTED, record.name, record.id)
    assert engine.schedules.get("digits").seen_until == tick
    assert engine.schedules.fire(added, tick, STARTED) is None
    assert engine.trials(record) == []


def test_the_hour_that_comes_twice_gives_two_names(engine: Engine) -> None:
    added = engine.schedules.add(plan(cron="30 * * * *", timezone="Europe/Paris", overlap="queue"))
    first = 1_919_291_400.0  # 2030-10-27 02:30 +0200
    names = [engine.schedules.fire(added, first + hour * 3600.0, STARTED).name for hour in range(2)]  # type: ignore[union-attr]
    assert names == ["digits 2030-10-27 02.30", "digits 2030-10-27 02.30 +0100"]


def test_a_name_that_is_taken_gets_a_number(engine: Engine) -> None:
    added = engine.schedules.add(plan())
    tick = engine.schedules.next("digits", 1)[0]
    record = engine.schedules.fire(added, tick, STARTED)
    assert record is not None
    engine.schedules.remove("digits")
    again = engine.schedules.fire(replace_seen(engine, engine.schedules.add(plan()), tick - 1.0), tick, STARTED)
    assert again is not None
    assert again.name == f"{record.name} 2"
    assert engine.study(record.name).id == record.id  # the first one stayed


def replace_seen(engine: Engine, of: Schedule, moment: float) -> Schedule:
    engine.database.execute(sa.update(schedule).where(schedule.c.id == of.id).values(seen_until=moment))
    return engine.schedules.get(of.name)


@pytest.mark.parametrize(
    ("overlap", "states", "searches"), [("skip", [STARTED, SKIPPED], 1), ("queue", [STARTED, STARTED], 2)]
)
def test_a_tick_that_comes_while_the_last_search_runs_is_skipped_or_queued(
    engine: Engine, overlap: str, states: list[FiringState], searches: int
) -> None:
    clock = Clock(engine.schedules.add(plan(overlap=overlap)))
    scheduler = Scheduler(engine, clock)
    for _ in range(2):
        clock.pass_minutes(1)
        scheduler.step()
    assert fired(engine) == states
    assert len(started(engine)) == searches
    engine.stop(started(engine)[0])
    if overlap == "skip":
        clock.pass_minutes(1)
        scheduler.step()
        assert fired(engine) == [*states, STARTED]


def test_nothing_starts_while_a_schedule_is_paused_and_what_came_then_is_left_out(engine: Engine) -> None:
    replace_seen(engine, engine.schedules.add(plan(cron="0 0 29 2 *")), 1.5e9)  # in 2017: two leap days ago
    engine.schedules.pause("digits")
    Scheduler(engine).step()
    engine.schedules.resume("digits")
    Scheduler(engine).step()
    assert engine.schedules.firings("digits") == []
    engine.schedules.pause("digits")
    replace_seen(engine, engine.schedules.get("digits"), 1.5e9)
    Scheduler(engine).step()
    assert engine.schedules.firings("digits") == []


def test_a_schedule_that_is_paused_or_removed_between_the_look_and_the_start_starts_nothing(engine: Engine) -> None:
    added = engine.schedules.add(plan())
    tick = engine.schedules.next("digits", 1)[0]
    engine.schedules.pause("digits")
    assert engine.schedules.fire(added, tick, STARTED) is None
    engine.schedules.remove("digits")
    assert engine.schedules.fire(added, tick, STARTED) is None
    assert engine.studies() == []


@pytest.mark.parametrize(
    ("catch_up", "states"),
    [("one", [SKIPPED, STARTED]), ("all", [STARTED] * 7), ("skip", [MISSED])],
)
def test_what_came_while_nobody_was_there_is_caught_up_with_as_the_schedule_says(
    engine: Engine, catch_up: str, states: list[FiringState]
) -> None:
    added = engine.schedules.add(plan(cron="0 * * * *", catch_up=catch_up, overlap="queue"))
    hour = added.seen_until - added.seen_until % 3600.0
    Scheduler(engine, lambda: hour + 7 * 3600.0 + ON_TIME_S + 1.0).step()
    assert fired(engine) == states
    told = engine.schedules.firings("digits")[-1].verdict
    if catch_up == "all":
        assert told is None
    else:
        count = 7 if catch_up == "skip" else 6
        assert (told["ticks"], told["since"], told["more"]) == (count, hour + 3600.0, False)  # type: ignore[index]
    assert engine.schedules.get("digits").seen_until == hour + 7 * 3600.0
    Scheduler(engine, lambda: hour + 7 * 3600.0 + ON_TIME_S + 2.0).step()
    assert len(fired(engine)) == len(states)


def test_a_tick_that_is_seen_a_little_late_is_on_time(engine: Engine) -> None:
    added = engine.schedules.add(plan(cron="0 * * * *", catch_up="skip"))
    hour = added.seen_until - added.seen_until % 3600.0
    Scheduler(engine, lambda: hour + 3 * 3600.0 + ON_TIME_S - 1.0).step()
    assert fired(engine) == [MISSED, STARTED]


def test_after_a_long_time_not_more_than_a_hundred_are_caught_up_with_and_the_rest_is_one_row(engine: Engine) -> None:
    clock = Clock(engine.schedules.add(plan(catch_up="all", overlap="queue")))
    clock.pass_minutes(60 * 24)
    Scheduler(engine, clock).step()
    firings = engine.schedules.firings("digits", 500)
    assert Counter(item.state for item in firings) == {STARTED: MOST_CAUGHT_UP, MISSED: 1}
    assert firings[-1].verdict is not None
    assert firings[-1].verdict["more"] is True
    assert len(started(engine)) == MOST_CAUGHT_UP


def test_one_schedule_that_cannot_be_started_does_not_keep_the_others(engine: Engine) -> None:
    broken, clock = engine.schedules.add(plan("broken")), Clock(engine.schedules.add(plan("digits")))
    wrong = {**broken.spec, "metrics": {}}
    engine.database.execute(sa.update(schedule).where(schedule.c.id == broken.id).values(spec=wrong))
    clock.pass_minutes(1)
    Scheduler(engine, clock).step()
    assert (len(started(engine, "broken")), len(started(engine))) == (0, 1)


def test_the_duty_looks_after_the_schedules_of_all_projects(engine: Engine) -> None:
    other = engine.of_project("other")
    clock = Clock(other.schedules.add(plan("theirs")))
    clock.pass_minutes(1)
    Scheduler(engine, clock).step()
    assert [record.name.split()[0] for record in other.studies()] == ["theirs"]
    assert engine.studies() == []


# -- what a search learns, and what comes of it ------------------------------------------------------------------------


def finish(engine: Engine, record: StudyRecord, *scores: float) -> None:
    """Run the study's trials to these results, then end it as a budget that is used does."""
    for score in scores:
        complete(engine, record, score)
    left = sa.update(study).where(study.c.id == record.id).values(max_trials=study.c.next_number)
    engine.database.execute(left)
    with_suggester = engine.suggester(record)
    with_suggester.step(1, 60.0)
    with_suggester.close()
    assert engine.study_by_id(record.id).state.value == "finished"


def bowl(engine: Engine, record: StudyRecord, centre: float, noise: float = 0.0) -> StudyRecord:
    """Search for the maximum of a parabola until the study is over."""
    suggester = engine.suggester(record)
    while True:
        suggester.step(1, 60.0)
        lease = engine.claim([record.id], "alice", uuid.uuid4().hex, 60.0)
        if lease is None:
            break
        x = float(lease.params["x"])
        score = -((x - centre) ** 2) + noise * ((lease.number * 7919 % 13) / 6 - 1)
        engine.finish(lease.token, Outcome(TrialState.COMPLETE, (score,)))
    suggester.step(1, 60.0)
    suggester.close()
    return engine.study_by_id(record.id)


def bowls(**changes: Any) -> StudySpec:
    fields: dict[str, Any] = {"space": Space({"x": Float(0.0, 1.0)}), "sampler": "auto", "budget": Budget(trials=12)}
    return spec("digits", **(fields | changes))


class Nights:
    """A schedule, and its searches one after the other."""

    def __init__(self, engine: Engine, declared: StudySpec | None = None, **changes: Any):
        self.engine = engine
        self.schedule = engine.schedules.add(plan(declared=declared or spec("digits"), **changes))
        self._tick = self.schedule.seen_until

    def start(self) -> StudyRecord:
        self._tick += MINUTE
        record = self.engine.schedules.fire(self.schedule, self._tick, STARTED)
        assert record is not None
        return record

    def verdict(self) -> dict[str, Any] | None:
        Judge(self.engine).step()
        found = self.engine.schedules.firings("digits", 1)[0].verdict
        return None if found is None else dict(found)


def test_the_first_search_has_nothing_to_beat_and_is_proposed(engine: Engine) -> None:
    nights = Nights(engine)
    record = nights.start()
    assert nights.verdict() is None
    finish(engine, record, 0.1, 0.7, 0.3)
    found = nights.verdict()
    assert found is not None
    assert (found["better"], found["p_better"], found["winner"], found["best"]) == (True, None, 1, 0.7)
    assert "promoted" not in found
    assert nights.verdict() == found


def test_a_search_runs_the_last_winner_again_first_and_learns_from_the_searches_before(engine: Engine) -> None:
    nights = Nights(engine, bowls())
    first = bowl(engine, nights.start(), 0.3)
    nights.verdict()
    best = engine.best_trials(first, 1)[0]
    second = nights.start()
    (incumbent,) = engine.trials(second)
    assert (incumbent.number, incumbent.state, dict(incumbent.params)) == (0, TrialState.WAITING, dict(best.params))
    assert engine.schedules.incumbent(second) == 0
    assert second.spec["transfer"] == [first.name]
    bowl(engine, second, 0.3)
    assert engine.trial(second, 0).params == best.params
    third = nights.start()
    assert set(third.spec["transfer"]) == {first.name, second.name}
    engine.delete(first.name)
    bowl(engine, third, 0.3)
    assert first.name not in nights.start().spec["transfer"]


def test_the_champion_is_what_has_to_be_beaten_where_there_is_one(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("weights")
    other = engine.declare(spec("digits by hand"))
    number = complete(engine, other, 0.5, artifacts=[engine.artifacts.put(tmp_path / "model.safetensors")])
    engine.promote(other, number, model="digits", reason="no framework loads it", force=True)
    nights = Nights(engine, spec("digits", sampler="random"))
    record = nights.start()
    assert dict(engine.trials(record)[0].params) == dict(engine.trial(other, number).params)
    source = engine.database.all(sa.select(study.c.system_attrs).where(study.c.id == record.id))[0].system_attrs
    assert source[Attr.INCUMBENT]["source"] == "digits@champion, version 1"
    assert record.spec["transfer"] is None  # a random search learns from nothing


def test_parameters_that_the_space_has_lost_are_left_out_and_values_outside_are_not_run(engine: Engine) -> None:
    nights = Nights(engine, bowls())
    bowl(engine, nights.start(), 0.3)
    for space, waiting in (({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)}, 1), ({"x": Float(2.0, 3.0)}, 0)):
        wider = plan(declared=bowls(space=Space(space)))
        nights.schedule = replace_seen(engine, engine.schedules.add(wider, replace=True), 0.0)
        record = nights.start()
        assert len(engine.trials(record)) == waiting
        engine.stop(record.name)


def test_a_search_ends_early_when_nothing_better_is_to_be_expected(engine: Engine) -> None:
    nights = Nights(engine, bowls(budget=Budget(trials=60)))
    bowl(engine, nights.start(), 0.3)
    assert nights.verdict() is not None
    second = bowl(engine, nights.start(), 0.3)
    assert second.reason == "no change worth making (P(better) < 5 %)"
    made = engine.counts([second])[second.id]["complete"]
    assert 20 <= made < 60
    found = nights.verdict()
    assert found is not None
    assert (found["better"], found["winner"]) == (False, 0)
    assert found["reason"].startswith(NO_CHANGE)


def test_a_search_of_which_the_data_has_changed_goes_on_and_finds_the_better_one(engine: Engine) -> None:
    nights = Nights(engine, bowls(budget=Budget(trials=40)))
    bowl(engine, nights.start(), 0.3)
    nights.verdict()
    second = bowl(engine, nights.start(), 0.8)
    assert second.reason is None
    found = nights.verdict()
    assert found is not None
    assert found["better"]
    assert found["p_better"] > 0.95
    assert found["winner"] == engine.best_trials(second, 1)[0].number
    assert found["incumbent"] == pytest.approx(-0.25, abs=0.02)


def test_a_result_that_is_only_lucky_is_not_called_better(engine: Engine) -> None:
    nights = Nights(engine, bowls(budget=Budget(trials=25)))
    bowl(engine, nights.start(), 0.3)
    nights.verdict()
    second = nights.start()
    for index in range(24):  # so that chance has no say in where the luck falls
        engine.enqueue(second, {"x": index * 7 % 24 / 24})
    bowl(engine, second, 0.3, noise=0.05)
    best, incumbent = engine.best_trials(second, 1)[0].value, engine.trial(second, 0).value
    assert best is not None
    assert incumbent is not None
    assert best > incumbent
    found = nights.verdict()
    assert found is not None
    assert not found["better"]
    assert found["winner"] == 0


def test_an_incumbent_without_a_result_is_compared_with_nothing(engine: Engine) -> None:
    nights = Nights(engine)
    finish(engine, nights.start(), 0.1, 0.7)
    nights.verdict()
    second = nights.start()
    fail(engine, second, "no such file")
    finish(engine, second, 0.9, 0.8)
    found = nights.verdict()
    assert found is not None
    assert not found["better"]
    assert "no result today (failed)" in found["reason"]


def test_searches_that_failed_were_stopped_or_deleted_get_a_verdict_too(engine: Engine) -> None:
    nights = Nights(engine, overlap="queue")
    stopped, deleted = nights.start(), nights.start()
    engine.stop(stopped.name, "enough")
    engine.delete(deleted.name)
    Judge(engine).step()
    second, first = engine.schedules.firings("digits")
    assert (first.verdict["better"], first.verdict["reason"]) == (False, "stopped: enough")  # type: ignore[index]
    assert second.verdict["reason"] == "its study was deleted"  # type: ignore[index]


def test_a_winner_that_is_to_be_confirmed_is_judged_by_its_confirmation(engine: Engine) -> None:
    nights = Nights(engine, bowls(confirm=Confirm(top=2, trials=4), budget=Budget(trials=6)))
    record = bowl(engine, nights.start(), 0.3)
    assert nights.verdict() is None
    confirmation = engine.confirmation(record)
    assert confirmation is not None  # nobody else has queued it
    assert confirmation.queued
    bowl(engine, confirmation, 0.3)
    found = nights.verdict()
    assert found is not None
    assert found["winner"] in engine.estimates(record)


def test_a_promotion_that_a_gate_refuses_is_written_down(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    nights = Nights(engine, promote="champion")
    record = nights.start()
    complete(engine, record, 0.5)
    finish(engine, record, 0.1)
    found = nights.verdict()
    assert found is not None
    assert found["better"]
    assert found["promoted"] is None
    assert "files" in found["refused"]  # the trial has saved none
    assert engine.models() == []


def test_a_better_model_is_promoted_once_whoever_dies_before_it_is_written_down(engine: Engine, tmp_path: Path) -> None:
    stored = [engine.artifacts.put(path) for path in write_onnx_model(tmp_path)]
    nights = Nights(engine, promote="champion")
    record = nights.start()
    complete(engine, record, 0.5, artifacts=stored)
    finish(engine, record, 0.1)
    found = nights.verdict()
    assert found is not None
    assert found.get("refused") is None, found
    assert (found["better"], found["promoted"]) == (True, 1)
    by_hand = complete(engine, engine.declare(spec("by hand")), 0.9, artifacts=stored)
    engine.promote(engine.study("by hand"), by_hand, model="digits", alias="champion")
    engine.database.execute(sa.update(firing).values(verdict=None))  # as if the judge had died in between
    assert nights.verdict() == found
    moves = engine.promotions("digits", "champion")
    assert [(move.to_version, move.who) for move in moves[1:]] == [(1, "schedule digits")]
    assert engine.model_version("digits@champion").study == "by hand"  # what people did since stands


def test_several_metrics_have_no_one_best(engine: Engine) -> None:
    nights = Nights(engine, spec("digits", metrics={"score": "max", "cost": "min"}))
    record = nights.start()
    complete(engine, record, 0.5, 1.0)
    engine.stop(record.name)
    engine.database.execute(sa.update(study).where(study.c.id == record.id).values(state="finished", reason=None))
    found = nights.verdict()
    assert found is not None
    assert "several metrics" in found["reason"]


def test_removing_a_schedule_leaves_its_studies(verbs: Any, engine: Engine) -> None:
    added = engine.schedules.add(plan())
    record = engine.schedules.fire(added, added.seen_until + MINUTE, STARTED)
    assert record is not None
    assert verbs.schedules.firings("digits") == engine.schedules.firings("digits")
    assert verbs.schedules.last_firings() == {added.id: engine.schedules.firings("digits")[0]}
    verbs.schedules.remove("digits")
    assert engine.study(record.name).id == record.id
    assert engine.database.all(sa.select(firing)) == []
    assert engine.database.all(sa.select(trial)) == []
