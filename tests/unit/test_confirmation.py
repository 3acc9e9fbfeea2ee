"""A confirmation is a study: which trials it runs again, with which seeds, what it finds, and that it goes on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from automl import Study
from automl.confirmation import confirm_study
from automl.core import (
    BURDEN_OF_PROOF,
    Attr,
    Estimate,
    Failure,
    FailureKind,
    Lease,
    Outcome,
    StudyRecord,
    StudyState,
    TrialState,
    confirmed_best,
    derived_seed,
    trial_seed,
)
from automl.declaration import Bound, Budget, Candidate, Choice, Confirm, Float, Space, StudySpec
from automl.engine import Engine
from automl.errors import InvalidInput, InvalidStudy
from automl.result import Result
from automl.storage.tables import study

LEASE_S = 30.0
SPACE = Space({"kind": Choice("a", "b"), "x": Float(0, 1), "only_b": Float(0, 1, when={"kind": "b"})})


@pytest.fixture
def opened(url: str, tmp_path: Path) -> Iterator[Callable[[], Engine]]:
    """Open an engine on the database, as another process would."""
    with ExitStack() as stack:

        def open_engine() -> Engine:
            engine = Engine(url, tmp_path / "artifacts")
            stack.callback(engine.close)
            return engine

        yield open_engine


@pytest.fixture
def engine(opened: Callable[[], Engine]) -> Engine:
    return opened()


def spec_of(**changes: Any) -> StudySpec:
    fields: dict[str, Any] = {"space": SPACE, "metrics": {"loss": "min"}, "budget": Budget(trials=40), "seed": 7}
    return StudySpec("s", **{**fields, "sampler": "random", **changes})


def claim(engine: Engine, record: StudyRecord, token: str) -> Lease:
    lease = engine.claim([record.id], "worker", token, LEASE_S)
    assert lease is not None
    return lease


def searched(engine: Engine, *values: float, **changes: Any) -> StudyRecord:
    """A finished study whose trials came to these values."""
    record = engine.declare(spec_of(**{"budget": Budget(trials=len(values)), **changes}))
    suggester = engine.suggester(record)
    for number, value in enumerate(values):
        suggester.step(1, LEASE_S)
        engine.finish(claim(engine, record, f"s{number}").token, Outcome(TrialState.COMPLETE, (value,)))
    suggester.step(1, LEASE_S)
    suggester.close()
    return engine.study_by_id(record.id)


def candidates(record: StudyRecord) -> list[int]:
    assert record.spec is not None
    return [item["number"] for item in record.spec["race"]["candidates"]]


def raced(engine: Engine, confirmation: StudyRecord, truth: dict[int, float], noise: float = 0.1) -> StudyRecord:
    """Run the confirmation to its end, one run at a time; the noise of a run is a function of its seed."""
    assert confirmation.spec is not None
    suggester = engine.suggester(confirmation)
    for _ in range(100):
        suggester.step(1, LEASE_S)
        if engine.study_by_id(confirmation.id).state is not StudyState.OPEN:
            break
        run(engine, confirmation, truth, noise)
    suggester.close()
    return engine.study_by_id(confirmation.id)


def run(engine: Engine, confirmation: StudyRecord, truth: dict[int, float], noise: float) -> None:
    assert confirmation.spec is not None
    lease = claim(engine, confirmation, f"c{confirmation.id}-{random.random()}")
    trials = engine.optuna.snapshot(confirmation.id)
    candidate = trials[lease.number].system_attrs[Attr.CANDIDATE]
    error = random.Random(trial_seed(confirmation.spec["seed"], lease.number)).gauss(0, noise)
    engine.finish(lease.token, Outcome(TrialState.COMPLETE, (truth[candidate] + error,)))


# -- the study that confirms ----------------------------------------------------------------------------------------


def test_the_best_trials_are_declared_as_another_study(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1, 0.3, 0.2, 0.4, held_out=True, retries=2)
    found = engine.confirm(origin, Confirm(top=3, trials=12, sure=0.9))
    assert (found.name, found.origin_id, found.state) == ("s confirmation 1", origin.id, StudyState.OPEN)
    assert found.spec is not None
    spec = StudySpec.from_json(found.spec)
    trials = {trial.number: trial for trial in engine.trials(origin)}
    assert spec.race is not None
    assert spec.race.candidates == tuple(
        Candidate(number, dict(trials[number].params), value) for number, value in ((1, 0.1), (3, 0.2), (2, 0.3))
    )
    assert (spec.race.sure, spec.race.held_out) == (0.9, True)
    assert (spec.budget, spec.pruner, spec.confirm, spec.retries) == (Budget(trials=12), "none", None, 2)
    assert engine.confirmation(origin) == found
    assert [record.name for record in engine.studies()] == ["s", "s confirmation 1"]


def test_its_code_and_its_queue_are_those_of_the_study(engine: Engine) -> None:
    record = engine.declare(spec_of(), entrypoint="/a/b.py:s", code_sha256="ab", queued=True)
    suggester = engine.suggester(record)
    suggester.step(1, LEASE_S)
    engine.finish(claim(engine, record, "one").token, Outcome(TrialState.COMPLETE, (0.5,)))
    found = engine.confirm(record)
    assert (found.entrypoint, found.code_sha256, found.queued) == ("/a/b.py:s", "ab", True)


def test_no_seed_of_the_search_or_of_another_confirmation_comes_again(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1)
    first = engine.confirm(origin)
    second = engine.confirm(origin, Confirm(top=2, trials=30))
    specs = [record.spec or {} for record in (origin, first, second)]
    assert specs[1]["seed"] == derived_seed("confirmation", 7, 1)
    seeds = [{trial_seed(spec["seed"], number) for number in range(50)} for spec in specs]
    assert len(seeds[0] | seeds[1] | seeds[2]) == 150


def test_a_deleted_study_takes_its_confirmations_along(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1)
    engine.confirm(origin)
    engine.delete(origin.name)
    assert engine.studies() == []


def test_one_that_is_not_over_is_opened_again_and_one_with_other_settings_is_another(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1, 0.3)
    first = engine.confirm(origin)
    engine.stop(first.name)
    again = engine.confirm(origin)
    assert (again.id, again.state, (again.spec or {})["seed"]) == (
        first.id,
        StudyState.OPEN,
        (first.spec or {})["seed"],
    )
    other = engine.confirm(origin, Confirm(top=2))
    assert (other.name, other.origin_id) == ("s confirmation 2", origin.id)
    raced(engine, first, {0: 0.5, 1: 0.1, 2: 0.3})
    assert engine.confirm(origin).name == "s confirmation 3"


def test_there_are_no_more_candidates_than_the_budget_can_run_twice(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1, 0.3, 0.2)
    assert candidates(engine.confirm(origin, Confirm(top=4, trials=5))) == [1, 3]


def test_a_point_that_was_tried_twice_races_once(engine: Engine) -> None:
    record = engine.declare(spec_of(budget=Budget(trials=3)))
    for _ in range(2):
        engine.enqueue(record, {"kind": "a", "x": 0.5})
    engine.enqueue(record, {"kind": "a", "x": 0.25})
    suggester = engine.suggester(record)
    suggester.step(3, LEASE_S)
    for number, value in enumerate((0.3, 0.1, 0.2)):
        engine.finish(claim(engine, record, f"{number}").token, Outcome(TrialState.COMPLETE, (value,)))
    assert candidates(engine.confirm(record)) == [1, 2]


def test_neither_violating_nor_invalid_trials_race(engine: Engine) -> None:
    record = engine.declare(spec_of(constraints={"ms": Bound(max=20)}, budget=Budget(trials=3)))
    suggester = engine.suggester(record)
    suggester.step(3, LEASE_S)
    for number, excess in enumerate((1.0, -1.0, -1.0)):
        outcome = Outcome(TrialState.COMPLETE, (number / 10,), constraints={"ms": excess})
        engine.finish(claim(engine, record, f"{number}").token, outcome)
    assert candidates(engine.confirm(record)) == [1, 2]
    engine.invalidate(record, 1, "trained on the test set")
    assert candidates(engine.confirm(record)) == [2]
    engine.invalidate(record, 2, "likewise")
    with pytest.raises(InvalidInput, match="no complete trial that keeps its constraints"):
        engine.confirm(record)


def test_what_cannot_be_confirmed_says_why(engine: Engine) -> None:
    with pytest.raises(InvalidInput, match=r"^confirm: .*run it first"):
        engine.confirm(engine.declare(spec_of()))
    several = engine.declare(replace(spec_of(), name="two", metrics={"a": "min", "b": "min"}))
    with pytest.raises(InvalidInput, match="several metrics and so no one best"):
        engine.confirm(several)
    engine.optuna.create_new_study([__import__("optuna").study.StudyDirection.MINIMIZE], "plain")
    with pytest.raises(InvalidInput, match="Optuna program"):
        engine.confirm(engine.study("plain"))
    engine.delete("s")
    with pytest.raises(InvalidInput, match="confirm that one"):
        engine.confirm(engine.confirm(searched(engine, 0.5)))


# -- the race -------------------------------------------------------------------------------------------------------


def test_trials_run_the_candidates_again_with_their_conditional_parameters(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1, 0.3)
    confirmation = engine.confirm(origin)
    engine.suggester(confirmation).step(6, LEASE_S)
    made = engine.trials(confirmation)
    of = [trial.system_attrs[Attr.CANDIDATE] for trial in engine.optuna.snapshot(confirmation.id)]
    assert of == [1, 2, 0, 1, 2, 0]
    assert [trial.params for trial in made] == [engine.trial(origin, number).params for number in of]


def test_a_define_by_run_study_gets_the_parameters_that_its_function_asked_for(engine: Engine) -> None:
    record = engine.declare(spec_of(space=None))
    engine.suggester(record).step(1, LEASE_S)
    outcome = Outcome(TrialState.COMPLETE, (0.5,), params={"depth": 3, "x": 0.25}, distributions={})
    engine.finish(claim(engine, record, "one").token, outcome)
    confirmation = engine.confirm(record)
    engine.suggester(confirmation).step(1, LEASE_S)
    assert claim(engine, confirmation, "two").params == {"depth": 3, "x": 0.25}


def test_the_race_ends_with_a_reason_and_finds_the_truly_best_one(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1, 0.3)
    truth = {1: 0.9, 2: 0.2, 0: 0.8}  # trial 1 was lucky
    over = raced(engine, engine.confirm(origin), truth)
    assert over.state is StudyState.FINISHED
    assert over.reason is not None and over.reason.startswith("trial 2 is the best with P = ")
    assert len(engine.trials(over)) < 25
    found = engine.estimates(origin)
    assert list(found) == [1, 2, 0] and confirmed_best(found) == 2
    assert found[1].observed == 0.1 and found[1].low < 0.9 < found[1].high
    assert found[2].p_best > 0.95 and sum(item.runs for item in found.values()) == len(engine.trials(over))
    assert engine.is_confirmed(origin) and not engine.is_confirmed(origin, Confirm(top=2))
    result = Result(engine, origin)
    assert (result.best_trial.number, result.best_value, result.estimates) == (2, 0.3, found)
    assert engine.audit(over) == []


def test_it_is_never_longer_than_its_budget(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1, 0.3)
    over = raced(engine, engine.confirm(origin, Confirm(trials=8)), {0: 0.0, 1: 0.0, 2: 0.0}, noise=1.0)
    assert (over.state, len(engine.trials(over))) == (StudyState.FINISHED, 8)


def test_where_the_seed_does_not_matter_it_ends_after_two_runs_of_each(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1, 0.3)
    over = raced(engine, engine.confirm(origin), {0: 0.5, 1: 0.1, 2: 0.3}, noise=0.0)
    assert len(engine.trials(over)) == 6
    assert engine.estimates(origin)[1] == Estimate(0.1, 0.1, 0.1, 0.1, 1.0, 2, held_out=False)


def test_what_waits_is_chosen_again_when_results_come(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1)
    confirmation = engine.confirm(origin)
    suggester = engine.suggester(confirmation)
    suggester.step(1, LEASE_S)
    lease = claim(engine, confirmation, "one")
    suggester.step(1, LEASE_S)
    engine.finish(lease.token, Outcome(TrialState.COMPLETE, (0.5,)))
    assert suggester.step(1, LEASE_S) >= 1
    assert [unclaimed.basis for unclaimed in engine._studies.unclaimed(confirmation.id)] == [1]
    of = [trial.system_attrs[Attr.CANDIDATE] for trial in engine.optuna.snapshot(confirmation.id)]
    assert of == [1, 0], "what is chosen again does not count as a run that is pending"


def test_a_suggester_rebuilt_from_the_database_goes_on_as_the_one_that_was_killed(opened: Callable[[], Engine]) -> None:
    """Each run is suggested by another process; it is the run that one process would have suggested all along."""
    engine = opened()
    origin = searched(engine, 0.5, 0.1, 0.3)
    truth = {0: 0.3, 1: 0.25, 2: 0.2}
    steady = raced(engine, engine.confirm(origin), truth, noise=0.2)
    seed = (steady.spec or {})["seed"]
    wanted = [trial.system_attrs[Attr.CANDIDATE] for trial in engine.optuna.snapshot(steady.id)]
    engine.delete(steady.name)
    confirmation = engine.confirm(origin)
    assert (confirmation.spec or {})["seed"] == seed
    for _ in wanted:
        engine.database.execute(sa.update(study).values(suggester_expires_at=1.0))
        engine = opened()
        engine.suggester(confirmation).step(1, LEASE_S)
        run(engine, confirmation, truth, 0.2)
    assert [trial.system_attrs[Attr.CANDIDATE] for trial in engine.optuna.snapshot(confirmation.id)] == wanted


def test_a_candidate_that_fails_is_dropped_and_the_others_go_on(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1, 0.3)
    confirmation = engine.confirm(origin)
    suggester = engine.suggester(confirmation)
    for number in range(25):
        suggester.step(1, LEASE_S)
        if engine.study_by_id(confirmation.id).state is not StudyState.OPEN:
            break
        lease = claim(engine, confirmation, f"f{number}")
        candidate = engine.optuna.snapshot(confirmation.id)[lease.number].system_attrs[Attr.CANDIDATE]
        if candidate == 1:
            engine.fail(lease.token, Failure(FailureKind.OUT_OF_MEMORY, "too large"))
        else:
            engine.finish(lease.token, Outcome(TrialState.COMPLETE, (candidate + number / 1000,)))
    assert engine.study_by_id(confirmation.id).state is StudyState.FINISHED
    assert engine.counts([confirmation])[confirmation.id]["failed"] == 2
    assert list(engine.estimates(origin)) == [2, 0]
    assert Result(engine, origin).best_trial.number == 0


def test_estimates_are_of_the_newest_confirmation_that_is_over_and_has_runs(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1, 0.3)
    assert engine.estimates(origin) == {} and engine.confirmation(origin) is None
    raced(engine, engine.confirm(origin), {0: 0.5, 1: 0.1, 2: 0.3})
    before = engine.estimates(origin)
    later = engine.confirm(origin, Confirm(top=2))
    assert engine.estimates(origin) == before and not engine.is_confirmed(origin)
    engine.stop(later.name)
    assert engine.estimates(origin) == before, "it was stopped before anything ran"
    assert engine.confirmation(origin) == engine.study(later.name)


def test_estimates_of_what_is_not_the_best_any_more_are_none(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1, 0.3)
    raced(engine, engine.confirm(origin), {0: 0.5, 1: 0.1, 2: 0.3})
    engine.extend("s", trials=4)
    suggester = engine.suggester(origin)
    suggester.step(1, LEASE_S)
    engine.finish(claim(engine, origin, "more").token, Outcome(TrialState.COMPLETE, (0.01,)))
    assert engine.estimates(origin) == {} and not engine.is_confirmed(origin)
    assert candidates(engine.confirm(origin)) == [3, 1, 2, 0]


# -- which one to take ----------------------------------------------------------------------------------------------


def estimate(p_best: float) -> Estimate:
    return Estimate(0.1, 0.2, 0.1, 0.3, p_best, 3, False)


def test_another_trial_takes_the_place_of_the_best_observed_one_when_that_is_proven() -> None:
    first = 0.15
    short, enough = BURDEN_OF_PROOF * first - 0.01, BURDEN_OF_PROOF * first + 0.01
    assert confirmed_best({5: estimate(first), 3: estimate(short)}) == 5
    assert confirmed_best({5: estimate(first), 3: estimate(enough)}) == 3
    assert confirmed_best({5: estimate(0.6), 3: estimate(0.4)}) == 5


# -- declared with the study, and run here --------------------------------------------------------------------------


def train(trial: Any) -> float:
    return float(trial.params["x"])


def declared(**options: Any) -> Study:
    return Study("s", train, {"x": Float(0, 1)}, metrics={"loss": "min"}, budget=Budget(trials=2), **options)


def test_a_study_declares_its_confirmation_and_its_held_out_function() -> None:
    assert (declared().spec.confirm, declared().spec.held_out, declared().evaluate) == (None, False, None)
    assert declared(confirm=True).spec.confirm == Confirm()
    own = declared(confirm=Confirm(top=3), evaluate=train)
    assert (own.spec.confirm, own.spec.held_out, own.evaluate) == (Confirm(top=3), True, train)
    assert StudySpec.from_json(own.spec.to_json()) == own.spec


@pytest.mark.parametrize(("options", "field"), [({"evaluate": 3}, "evaluate"), ({"confirm": 5}, "confirm")])
def test_a_wrong_declaration_names_its_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidStudy) as caught:
        declared(**options)
    assert caught.value.field == field


def test_code_that_is_in_no_file_cannot_be_confirmed_from_elsewhere_and_the_cure_is_named(engine: Engine) -> None:
    origin = searched(engine, 0.5, 0.1)
    with pytest.raises(InvalidStudy, match="confirm=True"):
        confirm_study(engine, origin, display=False)
    assert engine.confirmation(origin) is None


def test_a_file_that_has_changed_is_refused_before_anything_is_declared(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "s.py"
    file.write_text("x = 1")
    origin = searched(engine, 0.5, 0.1)
    record = engine.declare(spec_of(budget=Budget(trials=2)), entrypoint=f"{file}:s", code_sha256="0" * 64)
    with pytest.raises(InvalidStudy, match="not the file that was submitted"):
        confirm_study(engine, record, display=False)
    file.unlink()
    with pytest.raises(InvalidStudy, match="not on this machine"):
        confirm_study(engine, record, display=False)
    assert engine.confirmation(origin) is None
