"""Pausing, budgets that change, clones, tags, invalid trials: what people do to a study while others work on it."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState as OptunaState

from automl.core import Attr, Failure, FailureKind, Report, StudyState, TrialState
from automl.declaration import Budget, Float, Space, StudySpec
from automl.engine import connect
from automl.errors import AutoMLError, InvalidInput, NotFound
from automl.storage.sources import Sources
from automl.storage.tables import event
from tests.conformance.lab import LEASE_S, Lab, complete, new_token, spec

BOOM = Failure(FailureKind.NON_FINITE, "loss is NaN")


def finish(lab: Lab, *values: float) -> None:
    """Run trials that come to these values."""
    for value in values:
        lab.engine.finish(lab.claimed().token, complete(value), [Report(1, value)])


def used_up(url: str, artifacts: Path, **changes: object) -> Lab:
    """A study of three trials, all complete, and finished."""
    lab = Lab(url, artifacts, spec(trials=3, **changes))
    finish(lab, 0.1, 0.3, 0.2)
    assert lab.studies.close_if_done(lab.study.id)
    return lab


def state(lab: Lab) -> str:
    return lab.engine.study("lab").state.value


def refused(lab: Lab, act: Callable[[], object]) -> str:
    """What it says; nothing may have changed."""
    before = lab.everything()
    with pytest.raises(InvalidInput) as caught:
        act()
    assert lab.everything() == before
    return str(caught.value)


class TestPause:
    def test_nothing_is_claimed_nor_suggested_until_it_is_resumed(self, lab: Lab) -> None:
        lab.suggest(2)
        running = lab.claimed()
        assert lab.engine.pause("lab") is True
        assert lab.engine.pause("lab") is False
        assert lab.engine.study("lab").paused
        assert lab.claim() is None
        assert lab.engine.claim([lab.study.id, 999], "bob", new_token(), LEASE_S) is None
        assert lab.suggest() == []
        lab.engine.finish(running.token, complete(0.5))  # what runs goes on to its end
        assert lab.engine.resume("lab") is True
        assert lab.engine.resume("lab") is False
        assert lab.claim() is not None
        assert lab.suggest() == [2]
        assert lab.audit() == []

    def test_a_claim_whose_answer_was_lost_finds_its_trial_in_a_paused_study(self, lab: Lab) -> None:
        lease = lab.claimed()
        lab.engine.pause("lab")
        again = lab.claim(token=lease.token)
        assert again is not None and again.number == lease.number

    def test_the_suggester_rests_and_goes_on(self, lab: Lab) -> None:
        suggester = lab.engine.suggester(lab.study)
        lab.engine.pause("lab")
        assert suggester.step(2, LEASE_S) == 0
        assert lab.counts()["total"] == 0
        lab.engine.resume("lab")
        assert suggester.step(2, LEASE_S) == 2

    def test_under_load_nothing_is_claimed_between_the_acknowledged_pause_and_the_resumption(self, lab: Lab) -> None:
        lab.engine.extend("lab", trials=400)
        lab.suggest(400)
        stop = Event()

        def work(index: int) -> None:
            while not stop.is_set():
                lease = lab.claim(f"w{index}")
                if lease is not None:
                    lab.engine.release(lease.token)

        with ThreadPoolExecutor(5) as pool:
            workers = [pool.submit(work, index) for index in range(5)]
            try:
                for _ in range(15):
                    assert lab.engine.pause("lab")
                    here = lab.database.first(sa.select(sa.func.count().label("n")).where(event.c.cause == "claimed"))
                    for _ in range(5):
                        assert lab.claim("me") is None
                    then = lab.database.first(sa.select(sa.func.count().label("n")).where(event.c.cause == "claimed"))
                    assert here == then
                    assert lab.engine.resume("lab")
                    lab.engine.release(lab.claimed("me").token)
            finally:
                stop.set()
        for worker in workers:
            worker.result()
        causes = [row.cause for row in lab.database.all(sa.select(event.c.cause).order_by(event.c.seq))]
        paused = False
        for cause in causes:
            paused = cause == "paused" or (paused and cause != "resumed")
            assert not (paused and cause == "claimed")
        assert causes.count("paused") == causes.count("resumed") == 15
        assert lab.audit() == []

    def test_the_minutes_of_the_budget_stand_still(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(now=100.0)
        monkeypatch.setattr("automl.suggester.time", SimpleNamespace(monotonic=lambda: clock.now))
        lab.engine.extend("lab", minutes=60)
        suggester = lab.engine.suggester(lab.study)

        def after(seconds: float) -> float:
            clock.now += seconds
            suggester.step(1, LEASE_S)
            return lab.engine.study("lab").active_s

        assert after(0) == 0
        assert after(10) == 10
        lab.engine.pause("lab")
        assert after(10) == 10
        assert after(10) == 10
        lab.engine.resume("lab")
        assert after(10) == 10  # this round began while it was paused
        assert after(10) == 20

    def test_a_paused_study_is_finished_when_its_last_trial_is(self, url: str, artifacts: Path) -> None:
        lab = Lab(url, artifacts, spec(trials=1))
        suggester = lab.engine.suggester(lab.study)
        suggester.step(1, LEASE_S)
        lease = lab.claim()
        assert lease is not None
        lab.engine.pause("lab")
        suggester.step(1, LEASE_S)
        assert state(lab) == "open"
        lab.engine.finish(lease.token, complete(0.5))
        suggester.step(1, LEASE_S)
        record = lab.engine.study("lab")
        assert (record.state, record.paused) == (StudyState.FINISHED, False)
        assert lab.audit() == []

    def test_a_stopped_study_is_not_paused_when_it_is_opened_again(self, lab: Lab) -> None:
        lab.engine.pause("lab")
        lab.engine.stop("lab", "paused")
        assert lab.audit() == []
        assert not lab.engine.declare(spec()).paused
        assert lab.audit() == []

    def test_only_open_studies_of_ours_can_be_paused(self, lab: Lab) -> None:
        lab.engine.stop("lab")
        assert "is stopped, not open" in refused(lab, lambda: lab.engine.pause("lab"))
        assert "`automl run`" in refused(lab, lambda: lab.engine.resume("lab"))
        optuna.create_study(storage=lab.engine.optuna, study_name="theirs")
        assert "Optuna program" in refused(lab, lambda: lab.engine.pause("theirs"))
        with pytest.raises(NotFound):
            lab.engine.pause("nobody")

    def test_the_audit_notices_a_pause_without_a_history(self, lab: Lab) -> None:
        lab.database.execute(sa.text("UPDATE study SET paused = true"))
        assert any("paused" in problem for problem in lab.audit())


class TestExtend:
    def test_a_running_study_makes_more_and_the_declaration_says_so(self, url: str, artifacts: Path) -> None:
        lab = Lab(url, artifacts, spec(trials=2, minutes=5.0))
        assert lab.suggest(3) == [0, 1]
        record = lab.engine.extend("lab", trials=4)
        assert StudySpec.from_json(record.spec or {}).budget == Budget(trials=4, minutes=5.0)
        assert lab.suggest(3) == [2, 3]
        assert StudySpec.from_json(lab.engine.extend("lab", minutes=7).spec or {}).budget.minutes == 7
        held = lab.studies.hold(lab.study.id, lab.suggester, LEASE_S)
        assert held is not None and held.seconds_left == 420
        assert held.budget == {"trials": 4, "minutes": 7}
        assert lab.audit() == []

    def test_a_finished_study_goes_on_and_the_old_totals_undo_it(self, url: str, artifacts: Path) -> None:
        lab = used_up(url, artifacts)
        assert lab.engine.extend("lab", trials=5).state is StudyState.OPEN
        assert lab.engine.extend("lab", trials=3).state is StudyState.FINISHED
        lab.engine.extend("lab", trials=5)
        assert lab.suggest(9) == [3, 4]
        assert lab.audit() == []

    def test_minutes_that_ran_over_a_little_can_be_taken_back(self, url: str, artifacts: Path) -> None:
        lab = Lab(url, artifacts, spec(trials=None, minutes=2.0))
        lab.studies.hold(lab.study.id, lab.suggester, LEASE_S, 123.0)
        assert lab.studies.close_if_done(lab.study.id)
        assert lab.engine.extend("lab", minutes=10).state is StudyState.OPEN
        assert lab.engine.extend("lab", minutes=2).state is StudyState.FINISHED
        assert "has searched for 2.0 already" in refused(lab, lambda: lab.engine.extend("lab", minutes=0.5))

    def test_a_stopped_study_goes_on_with_its_numbers(self, lab: Lab) -> None:
        lab.suggest(2)
        lab.engine.stop("lab")
        record = lab.engine.extend("lab", trials=3)
        assert (record.state, record.reason) == (StudyState.OPEN, None)
        assert lab.suggest(9) == [2, 3, 4]  # two were cancelled
        assert lab.audit() == []

    def test_what_cannot_be_is_refused(self, url: str, artifacts: Path) -> None:
        lab = used_up(url, artifacts)
        assert "3 of 'lab' are made already" in refused(lab, lambda: lab.engine.extend("lab", trials=2))
        assert "give trials or minutes" in refused(lab, lambda: lab.engine.extend("lab"))
        for wrong in (0, -1, True, 2.5):
            assert "budget.trials" in refused(lab, lambda wrong=wrong: lab.engine.extend("lab", trials=wrong))
        for wrong in (0.0, float("nan"), "5"):
            assert "budget.minutes" in refused(lab, lambda wrong=wrong: lab.engine.extend("lab", minutes=wrong))
        optuna.create_study(storage=lab.engine.optuna, study_name="theirs")
        assert "Optuna program" in refused(lab, lambda: lab.engine.extend("theirs", trials=2))

    def test_a_failed_study_must_be_mended(self, lab: Lab) -> None:
        lab.studies.end(lab.study.id, StudyState.FAILED, "all alike")
        said = refused(lab, lambda: lab.engine.extend("lab", trials=200))
        assert "all alike" in said and "mend its code" in said

    def test_a_running_suggester_plans_with_the_new_budget_as_a_rebuilt_one_does(
        self, url: str, artifacts: Path
    ) -> None:
        lab = Lab(url, artifacts, spec(trials=12, sampler="tpe"))
        suggester = lab.engine.suggester(lab.study)
        for value in (0.1, 0.5, 0.2, 0.4, 0.3):
            suggester.step(1, LEASE_S)
            finish(lab, value)
        record = lab.engine.extend("lab", trials=60)  # at random for longer: ten trials, not three
        suggester.step(1, LEASE_S)
        rebuilt = connect(url, artifacts)
        made = dict(rebuilt.trial(record, 5).params)
        assert rebuilt.suggester(record)._suggestion(5)["params"] == made
        assert rebuilt.suggester(lab.study)._suggestion(5)["params"] != made
        rebuilt.close()


class TestEnqueue:
    def test_a_used_up_budget_grows_by_one_and_the_study_opens(self, url: str, artifacts: Path) -> None:
        lab = used_up(url, artifacts)
        assert "no trial left" in refused(lab, lambda: lab.engine.enqueue(lab.study, {"x": 0.7}))
        assert lab.engine.enqueue(lab.study, {"x": 0.7}, extend=True) == 3
        record = lab.engine.study("lab")
        assert record.state is StudyState.OPEN
        assert (record.spec or {})["budget"]["trials"] == 4
        lab.studies.let_go(lab.study.id, lab.suggester)
        lab.engine.suggester(record).step(1, LEASE_S)
        lease = lab.claim()
        assert lease is not None and lease.params == {"x": 0.7}
        lab.engine.finish(lease.token, complete(0.9))
        assert lab.studies.close_if_done(lab.study.id)
        assert lab.audit() == []

    def test_a_budget_with_room_stays_as_it_is(self, lab: Lab) -> None:
        assert lab.engine.enqueue(lab.study, {"x": 0.7}, extend=True) == 0
        assert (lab.engine.study("lab").spec or {})["budget"]["trials"] == 100

    def test_what_could_not_run_is_refused(self, url: str, artifacts: Path) -> None:
        lab = Lab(url, artifacts, spec(minutes=1.0))
        assert "outside" in refused(lab, lambda: lab.engine.enqueue(lab.study, {"x": 7.0}, extend=True))
        lab.studies.hold(lab.study.id, lab.suggester, LEASE_S, 61.0)
        assert "--minutes" in refused(lab, lambda: lab.engine.enqueue(lab.study, {"x": 0.7}, extend=True))
        lab.engine.stop("lab")
        assert "is stopped" in refused(lab, lambda: lab.engine.enqueue(lab.study, {"x": 0.7}, extend=True))


class TestClone:
    def test_it_is_the_same_declaration_under_another_name(self, url: str, artifacts: Path) -> None:
        lab = Lab(url, artifacts)
        origin = lab.engine.declare(spec(), entrypoint="/s.py:lab", code_sha256="ab", queued=True)
        finish(lab, 0.5)
        clone = lab.engine.clone("lab", "lab 2", trials=7, seed=3)
        assert clone.spec == {
            **(origin.spec or {}),
            "name": "lab 2",
            "seed": 3,
            "budget": {"trials": 7, "minutes": None},
        }
        assert (clone.entrypoint, clone.code_sha256, clone.queued) == ("/s.py:lab", "ab", True)
        assert lab.engine.counts([clone])[clone.id]["total"] == 0
        assert lab.engine.suggester(clone).step(9, LEASE_S) == 7
        assert lab.engine.audit(clone) == []

    def test_what_cannot_be_is_refused(self, lab: Lab) -> None:
        assert "in no file" in refused(lab, lambda: lab.engine.clone("lab", "other"))
        lab.engine.declare(spec(), entrypoint="/s.py:lab", code_sha256="ab", queued=True)
        assert "there is a study 'lab' already" in refused(lab, lambda: lab.engine.clone("lab", "lab"))
        assert "name: 'a/b'" in refused(lab, lambda: lab.engine.clone("lab", "a/b"))
        assert "budget.trials" in refused(lab, lambda: lab.engine.clone("lab", "b", trials=0))
        assert "seed" in refused(lab, lambda: lab.engine.clone("lab", "b", seed=-1))
        optuna.create_study(storage=lab.engine.optuna, study_name="theirs")
        assert "Optuna program" in refused(lab, lambda: lab.engine.clone("theirs", "mine"))


class TestFiling:
    def test_a_study_is_archived_and_back(self, lab: Lab) -> None:
        lab.engine.archive("lab")
        assert lab.engine.study("lab").archived
        lab.engine.archive("lab", False)
        assert not lab.engine.study("lab").archived

    def test_tags_are_replaced_in_their_order_without_repeats(self, lab: Lab) -> None:
        assert lab.engine.tag("lab", ["b", " a ", "b", "<i>"]).tags == ("b", "a", "<i>")
        assert lab.engine.tag("lab", []).tags == ()

    @pytest.mark.parametrize("tags", ["abc", [""], ["x" * 41], ["a\nb"], [1], [str(i) for i in range(21)]])
    def test_tags_that_cannot_be_are_refused(self, lab: Lab, tags: list[str]) -> None:
        assert refused(lab, lambda: lab.engine.tag("lab", tags)).startswith("tags: ")


class TestInvalid:
    def test_the_best_is_another_until_it_is_restored(self, lab: Lab) -> None:
        finish(lab, 0.1, 0.9, 0.5)
        assert lab.engine.optuna.get_best_trial(lab.study.id).number == 1
        lab.engine.invalidate(lab.study, 1, " trained on the test set ")
        assert [trial.number for trial in lab.engine.best_trials(lab.study, 5)] == [2, 0]
        assert lab.engine.optuna.get_best_trial(lab.study.id).number == 2
        marked = lab.engine.trial(lab.study, 1)
        assert (marked.invalid, marked.value, marked.state) == ("trained on the test set", 0.9, TrialState.COMPLETE)
        assert [trial.number for trial in lab.engine.invalid_trials(lab.study)] == [1]
        lab.engine.restore(lab.study, 1)
        assert lab.engine.best_trials(lab.study)[0].number == 1
        assert lab.causes(1)[-2:] == ["invalidated", "restored"]
        assert lab.audit() == []

    def test_a_trial_that_breaks_constraints_and_is_invalid_is_never_the_best(self, lab: Lab) -> None:
        for value in (0.1, 0.9):
            lab.engine.finish(lab.claimed().token, complete(value, constraints={"ms": 5.0}))
        lab.engine.invalidate(lab.study, 1, "bogus")
        assert [trial.number for trial in lab.engine.best_trials(lab.study, 5)] == [0]

    def test_who_has_read_it_before_sees_it_fail_and_come_back_and_the_others_stay_the_same_objects(
        self, lab: Lab
    ) -> None:
        finish(lab, 0.1, 0.9, 0.5)
        reader = connect(lab.url, lab.engine.artifacts.root)
        before = reader.optuna.snapshot(lab.study.id)
        lab.engine.invalidate(lab.study, 1, "bogus")
        during = reader.optuna.snapshot(lab.study.id)
        assert [trial.state for trial in during] == [OptunaState.COMPLETE, OptunaState.FAIL, OptunaState.COMPLETE]
        assert during[1].values is None
        assert during[1].intermediate_values == {}
        assert during[1].system_attrs[Attr.FAILURE_KIND] == "invalid"
        assert during[0] is before[0] and during[2] is before[2]
        lab.engine.restore(lab.study, 1)
        after = reader.optuna.snapshot(lab.study.id)
        assert after == before
        assert reader.optuna.snapshot(lab.study.id)[1] is after[1]
        assert reader.optuna.get_trial(lab.row(1).id) == after[1]
        reader.close()

    @pytest.mark.parametrize("sampler", ["auto", "tpe"])
    def test_the_next_suggestion_changes_and_comes_back_and_a_rebuilt_sampler_agrees(
        self, url: str, artifacts: Path, sampler: str
    ) -> None:
        space = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
        lab = Lab(url, artifacts, spec(space=space, sampler=sampler, trials=40, seed=5, fidelity=None))
        suggester = lab.engine.suggester(lab.study)

        def waiting() -> dict[str, float]:
            """What is suggested next, which a process that has just started would suggest, too."""
            suggester.step(1, LEASE_S)
            (next_one,) = lab.engine.trials(lab.study, states=[TrialState.WAITING])
            rebuilt = connect(url, artifacts)
            assert rebuilt.suggester(lab.study)._suggestion(next_one.number)["params"] == next_one.params
            rebuilt.close()
            return dict(next_one.params)

        for _ in range(12):
            suggester.step(1, LEASE_S)
            lease = lab.claimed()
            x, y = lease.params["x"], lease.params["y"]
            lab.engine.finish(lease.token, complete(-((x - 0.3) ** 2) - (y - 0.6) ** 2))
        best = lab.engine.best_trials(lab.study)[0].number
        first = waiting()
        lab.engine.invalidate(lab.study, best, "bogus")
        assert waiting() != first
        lab.engine.restore(lab.study, best)
        assert waiting() == first
        assert lab.audit() == []
        lab.close()

    def test_pruned_and_failed_trials_can_be_marked_and_the_budget_gets_nothing_back(
        self, url: str, artifacts: Path
    ) -> None:
        lab = Lab(url, artifacts, spec(trials=2))
        lab.engine.fail(lab.claimed().token, BOOM)
        lab.engine.invalidate(lab.study, 0, "the disk was full")
        assert lab.engine.optuna.snapshot(lab.study.id)[0].system_attrs[Attr.FAILURE_KIND] == "invalid"
        assert lab.suggest(5) == [1]
        lab.engine.restore(lab.study, 0)
        assert lab.engine.optuna.snapshot(lab.study.id)[0].system_attrs[Attr.FAILURE_KIND] == "non_finite"
        assert lab.audit() == []

    def test_what_cannot_be_marked_is_refused(self, lab: Lab) -> None:
        finish(lab, 0.5)
        lab.suggest(2)
        lab.claimed()
        mark, restore = lab.engine.invalidate, lab.engine.restore
        assert "is running and has no result" in refused(lab, lambda: mark(lab.study, 1, "bogus"))
        assert "is waiting" in refused(lab, lambda: mark(lab.study, 2, "bogus"))
        assert "no trial 7" in refused(lab, lambda: mark(lab.study, 7, "bogus"))
        for reason in ("", "  ", "x" * 501):
            assert refused(lab, lambda reason=reason: mark(lab.study, 0, reason)).startswith("reason: ")
        assert "nothing to restore" in refused(lab, lambda: restore(lab.study, 0))
        mark(lab.study, 0, "bogus")
        assert "invalid already (bogus)" in refused(lab, lambda: mark(lab.study, 0, "really"))
        lab.engine.stop("lab")
        assert "is cancelled" in refused(lab, lambda: mark(lab.study, 2, "bogus"))

    def test_of_two_at_once_one_succeeds(self, lab: Lab) -> None:
        finish(lab, 0.5)

        def mark(index: int) -> bool:
            try:
                lab.engine.invalidate(lab.study, 0, f"reason {index}")
            except InvalidInput:
                return False
            return True

        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(mark, range(6))) == 1
        assert lab.audit() == []

    def test_a_later_study_does_not_learn_from_it_and_an_earlier_one_goes_on_as_it_began(self, lab: Lab) -> None:
        finish(lab, 0.1, 0.9, 0.5)
        sources = Sources(lab.database)
        later = spec("later", transfer=("lab",))
        (earlier,) = sources.choose(0, later)
        lab.engine.invalidate(lab.study, 1, "bogus")
        (chosen,) = sources.choose(0, later)
        found = sources.found(chosen)
        assert found is not None and found.values == (-0.1, -0.5)
        known = sources.found(earlier)
        assert known is not None and known.values == (-0.1, -0.9, -0.5)

    @pytest.mark.parametrize("forged", ["UPDATE trial SET invalid = 'x'", "UPDATE trial SET invalid = NULL"])
    def test_the_audit_notices_a_mark_without_a_history(self, lab: Lab, forged: str) -> None:
        finish(lab, 0.5)
        if "NULL" in forged:
            lab.engine.invalidate(lab.study, 0, "bogus")
        lab.database.execute(sa.text(forged))
        assert any("valid" in problem for problem in lab.audit())


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_done_in_whatever_order_numbers_are_dense_and_the_history_is_sound(
    url: str, artifacts: Path, seed: int
) -> None:
    dice = random.Random(seed)
    lab = Lab(url, artifacts, spec(trials=4))
    engine = lab.engine

    def run() -> None:
        if (lease := lab.claim()) is not None:
            dice.choice(
                [lambda: engine.finish(lease.token, complete(dice.random())), lambda: engine.release(lease.token)]
            )()

    def fail() -> None:
        if (lease := lab.claim()) is not None:
            engine.fail(lease.token, BOOM)

    acts: list[Callable[[], object]] = [
        lambda: lab.suggest(2),
        run,
        run,
        run,
        fail,
        lambda: engine.pause("lab"),
        lambda: engine.resume("lab"),
        lambda: engine.extend("lab", trials=dice.randint(1, 20)),
        lambda: engine.enqueue(lab.study, {"x": 0.5}, extend=dice.random() < 0.5),
        lambda: engine.invalidate(lab.study, dice.randrange(8), "bogus"),
        lambda: engine.restore(lab.study, dice.randrange(8)),
        lambda: lab.studies.close_if_done(lab.study.id),
        lambda: dice.random() < 0.2 and engine.stop("lab"),
    ]
    for _ in range(70):
        before = lab.everything()
        try:
            dice.choice(acts)()
        except AutoMLError:
            assert lab.everything() == before
        assert lab.audit() == []
        numbers = [trial.number for trial in engine.trials(lab.study)]
        assert numbers == list(range(len(numbers)))
    counted = [trial.state for trial in engine.optuna.snapshot(lab.study.id)]
    assert counted == [trial.state for trial in connect(url, artifacts).optuna.snapshot(lab.study.id)]
    lab.close()
