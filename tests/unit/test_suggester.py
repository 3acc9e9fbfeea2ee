"""Suggestions made ahead: what is made, what is made again, and that nothing is kept that the database lacks."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from automl.core import Attr, Lease, Outcome, Report, StudyRecord, StudyState, TrialState
from automl.declaration import Budget, Choice, Fidelity, Float, Int, Space, StudySpec
from automl.engine import Engine
from automl.search import BayesianSampler, samplers
from automl.storage.tables import study
from automl.suggester import Suggester

LEASE_S = 30.0
SPACE = Space({"x": Float(0, 1), "lr": Float(1e-4, 1.0, log=True), "c": Choice("a", "b")})


def spec_of(sampler: str = "random", trials: int | None = 40, space: Space | None = SPACE) -> StudySpec:
    return StudySpec("s", space, {"y": "min"}, Budget(trials=trials), sampler=sampler, seed=7)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Open an engine on a database file, as another process would: `opened()`, `opened("other")`."""
    with ExitStack() as stack:

        def open_engine(name: str = "automl") -> Engine:
            engine = Engine(f"sqlite:///{tmp_path}/{name}.db", tmp_path / "artifacts")
            stack.callback(engine.close)
            return engine

        yield open_engine


def claim(engine: Engine, record: StudyRecord, token: str) -> Lease:
    lease = engine.claim([record.id], "worker", token, LEASE_S)
    assert lease is not None
    return lease


def run_trial(engine: Engine, record: StudyRecord, token: str) -> Lease:
    """Claim the next trial and finish it."""
    lease = claim(engine, record, token)
    value = (float(lease.params["x"]) - 0.3) ** 2
    engine.finish(lease.token, Outcome(TrialState.COMPLETE, (value,)), [Report(1, value)])
    return lease


def points(engine: Engine, record: StudyRecord) -> list[dict[str, Any]]:
    return [dict(trial.params) for trial in engine.trials(record)]


def system_attrs(engine: Engine, record: StudyRecord) -> list[dict[str, Any]]:
    """Without the times that suggestions took."""
    found = [dict(trial.system_attrs) for trial in engine.optuna.snapshot(record.id)]
    return [attrs | ({Attr.WHY: attrs[Attr.WHY] | {"ms": 0}} if Attr.WHY in attrs else {}) for attrs in found]


# -- the same from the database -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "trials"), [("auto", 14), ("random", 14), ("tpe", 14), ("gp", 12), ("cmaes", 14), ("skopt", 12)]
)
def test_a_sampler_rebuilt_from_the_database_goes_on_as_the_one_that_was_killed(
    opened: Callable[..., Engine], sampler: str, trials: int
) -> None:
    """The same search twice, on two databases: in one, each suggestion comes from a process of its own."""
    space = Space({"x": Float(0, 1), "lr": Float(1e-4, 1.0, log=True)}) if sampler == "cmaes" else SPACE
    steady = opened("steady")
    record = steady.declare(spec_of(sampler, space=space))
    suggester = steady.suggester(record)
    killed = opened("killed")
    assert killed.declare(spec_of(sampler, space=space)).id == record.id
    for number in range(trials):
        assert suggester.step(1, LEASE_S) >= 1
        killed.database.execute(sa.update(study).values(suggester_expires_at=1.0))
        killed = opened("killed")
        assert killed.suggester(record).step(1, LEASE_S) >= 1
        leases = [run_trial(engine, record, f"token-{number}") for engine in (steady, killed)]
        assert leases[0].params == leases[1].params, f"trial {number}"
    assert points(steady, record) == points(killed, record)
    assert system_attrs(steady, record) == system_attrs(killed, record)


def test_a_suggestion_is_the_same_however_the_suggester_came_to_know_the_history(
    opened: Callable[..., Engine],
) -> None:
    engine = opened()
    record = engine.declare(spec_of("tpe"))
    suggester = engine.suggester(record)
    for number in range(12):
        suggester.step(1, LEASE_S)
        run_trial(engine, record, f"token-{number}")
    suggester._look()
    fresh = opened().suggester(record)
    assert suggester._suggestion(12) == fresh._suggestion(12)


def test_suggestions_of_one_round_know_of_each_other_as_those_of_two_processes_do(
    opened: Callable[..., Engine],
) -> None:
    at_once, one_by_one = opened("at_once"), opened("one_by_one")
    for engine in (at_once, one_by_one):
        record = engine.declare(spec_of("gp"))
        for number in range(11):
            suggester = engine.suggester(record)
            suggester.step(1, LEASE_S)
            suggester.close()
            run_trial(engine, record, f"token-{number}")
    at_once.suggester(record).step(2, LEASE_S)
    for slots in (1, 2):
        suggester = one_by_one.suggester(record)
        suggester.step(slots, LEASE_S)
        suggester.close()
    assert points(at_once, record) == points(one_by_one, record)


def test_our_own_sampler_is_kept_because_it_remembers_what_it_has_read(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(spec_of("auto"))
    suggester = engine.suggester(record)
    kept = set()
    for number in range(4):
        suggester.step(1, LEASE_S)
        kept.add(id(suggester._sampler()))
        run_trial(engine, record, f"token-{number}")
    assert len(kept) == 1
    assert isinstance(suggester._sampler(), BayesianSampler)
    assert engine.suggester(engine.declare(spec_of("tpe")))._sampler() == "tpe"


def test_our_own_sampler_is_told_what_the_study_declares(
    opened: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    class Told(BayesianSampler):
        def __init__(self, seed: int, **rest: Any):
            super().__init__(seed, space=rest["space"])
            told.append({"seed": seed, **rest})

    monkeypatch.setattr(samplers, "BayesianSampler", Told)
    engine = opened()
    past = engine.declare(replace(spec_of(), name="past"))
    engine.suggester(past).step(1, LEASE_S)
    lease = run_trial(engine, past, "past")
    budget = Budget(trials=30, stop_when="converged", margin=0.5)
    fidelity = Fidelity("epoch", max=9)
    declared = replace(spec_of("auto"), budget=budget, cost="seconds", transfer="auto", fidelity=fidelity)
    engine.suggester(engine.declare(declared)).step(1, LEASE_S)
    ((source,),) = (item.pop("sources") for item in told)
    assert (source.name, source.params, len(source.values)) == ("past", (lease.params,), 1)
    told[0].pop("space")
    assert told == [{"seed": 7, "n_trials": 30, "fidelity": fidelity, "cost": "seconds", "margin": 0.5}]


# -- made again ---------------------------------------------------------------------------------------------------


def test_an_unclaimed_suggestion_is_made_again_when_a_result_arrives(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(spec_of("tpe"))
    suggester = engine.suggester(record)
    for number in range(11):  # TPE's first ten are random
        suggester.step(1, LEASE_S)
        run_trial(engine, record, f"token-{number}")
    suggester.step(1, LEASE_S)
    running = claim(engine, record, "token-11")
    suggester.step(1, LEASE_S)
    before = points(engine, record)[12]
    assert suggester.step(1, LEASE_S) == 0, "without news nothing is made again"
    assert points(engine, record)[12] == before
    engine.finish(running.token, Outcome(TrialState.COMPLETE, (0.01,)))
    assert suggester.step(1, LEASE_S) == 1
    assert points(engine, record)[12] != before
    assert [unclaimed.basis for unclaimed in engine._studies.unclaimed(record.id)] == [12]


def test_a_claimed_suggestion_is_never_changed(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(spec_of("tpe"))
    suggester = engine.suggester(record)
    suggester.step(3, LEASE_S)
    first, second = claim(engine, record, "one"), claim(engine, record, "two")
    engine.finish(first.token, Outcome(TrialState.COMPLETE, (0.5,)))
    suggester.step(3, LEASE_S)
    assert points(engine, record)[1] == second.params
    engine.release(second.token)  # back to the queue, and still the same trial
    suggester.step(3, LEASE_S)
    assert points(engine, record)[1] == second.params


def test_a_random_suggestion_is_not_made_again_because_results_do_not_matter(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(spec_of("random"))
    suggester = engine.suggester(record)
    suggester.step(2, LEASE_S)
    run_trial(engine, record, "token")
    before = points(engine, record)[1]
    suggester.step(1, LEASE_S)
    assert points(engine, record)[1] == before
    assert [unclaimed.basis for unclaimed in engine._studies.unclaimed(record.id)] == [0]


def test_a_suggestion_knows_of_the_one_that_was_made_again_before_it(opened: Callable[..., Engine]) -> None:
    """Else it could come out at the same point, and another process would make another one."""
    engine = opened()
    record = engine.declare(spec_of("tpe"))
    suggester = engine.suggester(record)
    for number in range(11):
        suggester.step(1, LEASE_S)
        run_trial(engine, record, f"token-{number}")
    suggester.step(1, LEASE_S)
    suggester.step(2, LEASE_S)  # makes trial 12
    claim(engine, record, "token-11")
    engine.finish("token-11", Outcome(TrialState.COMPLETE, (0.0,)))
    suggester.step(2, LEASE_S)  # makes trial 12 again, then 13
    shown = {trial.number: trial.params for trial in suggester._history.get_all_trials(0)}
    assert shown[12] == points(engine, record)[12]


# -- how many -----------------------------------------------------------------------------------------------------


def test_there_are_as_many_suggestions_as_slots_and_never_more_than_the_budget(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(spec_of(trials=5))
    suggester = engine.suggester(record)
    assert suggester.step(3, LEASE_S) == 3
    assert suggester.step(3, LEASE_S) == 0
    assert suggester.step(9, LEASE_S) == 2
    assert suggester.step(9, LEASE_S) == 0
    assert [trial.number for trial in engine.trials(record)] == list(range(5))


def test_running_trials_of_other_processes_count_as_slots(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(spec_of())
    suggester = engine.suggester(record)
    suggester.step(2, LEASE_S)
    for token in ("one", "two"):
        claim(engine, record, token)
    assert suggester.step(1, LEASE_S) == 2


def test_a_trial_that_waits_for_another_attempt_keeps_no_slot_waiting(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(spec_of())
    suggester = engine.suggester(record)
    suggester.step(1, LEASE_S)
    engine.release(claim(engine, record, "one").token)
    assert suggester.step(1, LEASE_S) == 1


def test_the_study_is_finished_when_the_budget_is_used_and_every_trial_is_over(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(spec_of(trials=1))
    suggester = engine.suggester(record)
    suggester.step(1, LEASE_S)
    lease = claim(engine, record, "one")
    suggester.step(1, LEASE_S)
    assert engine.study_by_id(record.id).state is StudyState.OPEN
    engine.finish(lease.token, Outcome(TrialState.COMPLETE, (0.5,)))
    suggester.step(1, LEASE_S)
    assert engine.study_by_id(record.id).state is StudyState.FINISHED
    assert suggester.step(1, LEASE_S) == 0


def test_a_grid_closes_the_study_at_its_last_point(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(spec_of("grid", trials=50, space=Space({"n": Int(1, 3)})))
    suggester = engine.suggester(record)
    assert [suggester.step(9, LEASE_S), suggester.step(9, LEASE_S)] == [3, 0]
    assert sorted(point["n"] for point in points(engine, record)) == [1, 2, 3]
    for number in range(3):
        engine.finish(claim(engine, record, f"{number}").token, Outcome(TrialState.COMPLETE, (0.5,)))
    suggester.step(2, LEASE_S)
    assert engine.study_by_id(record.id).state is StudyState.FINISHED


def test_the_minutes_of_a_budget_are_counted_while_somebody_searches(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(StudySpec("s", SPACE, {"y": "min"}, Budget(minutes=1.0), sampler="random"))
    suggester = engine.suggester(record)
    suggester.step(2, LEASE_S)
    claim(engine, record, "one")
    suggester.step(1, LEASE_S)
    assert 0.0 < engine.study_by_id(record.id).active_s < 60.0
    engine.database.execute(sa.update(study).values(active_s=60.0))
    suggester.step(1, LEASE_S)
    assert [trial.state.value for trial in engine.trials(record)] == ["running", "cancelled"]
    engine.finish("one", Outcome(TrialState.COMPLETE, (0.5,)))
    suggester.step(1, LEASE_S)
    assert engine.study_by_id(record.id).state is StudyState.FINISHED


# -- converged ----------------------------------------------------------------------------------------------------


class Oracle(BayesianSampler):
    """Suggests at random, and forecasts what it is told to, by the number of results."""

    def __init__(self, *chances: float):
        super().__init__(0, space=SPACE)
        self._chances = chances

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        n = sum(other.state.is_finished() for other in study.get_trials(deepcopy=False))
        chance = self._chances[min(n, len(self._chances) - 1)]
        forecast = {"trials": 20, "gain": 0.25, "sd": 0.125, "p_margin": chance}
        trial.system_attrs[Attr.WHY] = {"arm": "oracle", "forecast": forecast}
        return {"x": random.Random(trial.number).random(), "lr": 0.5, "c": "a"}


def converging(engine: Engine, **budget: Any) -> StudyRecord:
    budget = {"trials": 40, "stop_when": "converged", **budget}
    return engine.declare(replace(spec_of("auto"), budget=Budget(**budget)))


def test_a_search_that_has_converged_starts_nothing_more_and_finishes_what_runs(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = converging(engine)
    suggester = engine.suggester(record, Oracle(*[0.5] * 22, 0.04))
    for number in range(21):
        suggester.step(1, LEASE_S)
        run_trial(engine, record, f"token-{number}")
    suggester.step(3, LEASE_S)
    running = [claim(engine, record, token) for token in ("one", "two")]
    suggester.step(2, LEASE_S)
    assert engine.counts([record])[record.id]["waiting"] >= 1
    engine.finish(running[0].token, Outcome(TrialState.COMPLETE, (0.5,)))
    assert suggester.step(2, LEASE_S) == 0
    counts = engine.counts([record])[record.id]
    assert (counts["running"], counts["waiting"]) == (1, 0)
    assert engine.study("s").state is StudyState.OPEN
    engine.finish(running[1].token, Outcome(TrialState.COMPLETE, (0.5,)))
    suggester.step(2, LEASE_S)
    over = engine.study("s")
    assert (over.state, over.reason) == (StudyState.FINISHED, "converged: 20 more trials: -0.25 ± 0.12")
    assert engine.audit(record) == []


def test_a_search_that_converged_is_over_at_once_when_it_is_run_again_unless_it_need_not_converge(
    opened: Callable[..., Engine],
) -> None:
    engine = opened()
    record = converging(engine)
    oracle = Oracle(*[0.5] * 20, 0.0)
    suggester = engine.suggester(record, oracle)
    for number in range(20):
        suggester.step(1, LEASE_S)
        run_trial(engine, record, f"token-{number}")
    suggester.step(1, LEASE_S)
    assert engine.study("s").state is StudyState.FINISHED
    suggester.close()
    assert converging(engine).state is StudyState.OPEN
    again = opened().suggester(record, oracle)
    assert again.step(4, LEASE_S) == 0
    assert engine.study("s").state is StudyState.FINISHED
    assert len(engine.trials(record)) == 20
    again.close()
    goes_on = engine.declare(spec_of("auto"))
    assert engine.suggester(goes_on, oracle).step(4, LEASE_S) == 4


@pytest.mark.parametrize(
    ("chances", "results", "budget"),
    [
        ([0.0], 19, {}),  # too few results to believe a forecast
        ([0.05], 25, {}),  # one chance in twenty is worth a trial
        ([0.0], 25, {"stop_when": None}),
    ],
)
def test_a_search_goes_on(
    opened: Callable[..., Engine], chances: list[float], results: int, budget: dict[str, Any]
) -> None:
    engine = opened()
    record = converging(engine, **budget)
    suggester = engine.suggester(record, Oracle(*chances))
    for number in range(results):
        assert suggester.step(1, LEASE_S) == 1
        run_trial(engine, record, f"token-{number}")
    assert suggester.step(1, LEASE_S) == 1


def test_an_enqueued_trial_is_completed_whatever_the_forecast(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = converging(engine)
    suggester = engine.suggester(record, Oracle(*[0.5] * 20, 0.0))
    for number in range(19):
        suggester.step(1, LEASE_S)
        run_trial(engine, record, f"token-{number}")
    engine.enqueue(record, {"x": 0.125})
    suggester.step(1, LEASE_S)
    assert claim(engine, record, "enqueued").params["x"] == 0.125


# -- enqueued trials ----------------------------------------------------------------------------------------------


def test_an_enqueued_trial_gets_its_other_parameters_and_keeps_its_own(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(spec_of())
    number = engine.enqueue(record, {"x": 0.25})
    assert engine.claim([record.id], "worker", "early", LEASE_S) is None, "it is not complete yet"
    suggester: Suggester = engine.suggester(record)
    assert suggester.step(1, LEASE_S) == 1
    lease = claim(engine, record, "one")
    assert lease.number == number and lease.params["x"] == 0.25 and set(lease.params) == set(SPACE)


def test_an_enqueued_trial_is_not_made_again(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(spec_of("tpe"))
    suggester = engine.suggester(record)
    suggester.step(1, LEASE_S)
    engine.enqueue(record, {"x": 0.25})
    suggester.step(1, LEASE_S)
    before = points(engine, record)[1]
    run_trial(engine, record, "one")
    suggester.step(1, LEASE_S)
    assert points(engine, record)[1] == before


def test_an_enqueued_trial_that_cannot_be_is_cancelled(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(spec_of(trials=2))
    engine._studies.enqueue(record.id, {"x": 7.0})  # as an Optuna program could
    suggester = engine.suggester(record)
    suggester.step(1, LEASE_S)
    suggester.step(2, LEASE_S)
    assert [trial.state.value for trial in engine.trials(record)] == ["cancelled", "waiting", "waiting"]


# -- one at a time ------------------------------------------------------------------------------------------------


def test_only_the_holder_of_the_study_suggests(opened: Callable[..., Engine]) -> None:
    one, other = opened(), opened()
    record = one.declare(spec_of())
    first, second = one.suggester(record), other.suggester(record)
    assert first.step(1, LEASE_S) == 1
    assert second.step(5, LEASE_S) == 0
    first.close()
    assert second.step(5, LEASE_S) == 4
    assert first.step(9, LEASE_S) == 0


def test_a_study_that_is_gone_is_no_error(opened: Callable[..., Engine]) -> None:
    engine = opened()
    record = engine.declare(spec_of())
    suggester = engine.suggester(record)
    suggester.step(1, LEASE_S)
    engine.delete("s")
    assert suggester.step(1, LEASE_S) == 0
    suggester.close()
