"""Which past studies a new one learns from, and that it stays with its choice."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
import sqlalchemy as sa

from automl.core import Attr, Lease, Outcome, StudyRecord, TrialState
from automl.declaration import Choice, Float, Int, Parameter, Space
from automl.engine import Engine
from automl.errors import InvalidStudy
from automl.storage.sources import MAX_SOURCES
from automl.storage.tables import study
from tests.conformance.lab import LEASE_S, Lab, new_token, spec

PARAMETERS: dict[str, Parameter] = {
    "lr": Float(1e-4, 1.0, log=True),
    "width": Int(1, 64),
    "act": Choice("relu", "tanh"),
    "drop": Float(0.0, 0.5),
}


def declared(engine: Engine, name: str, space: dict[str, Parameter], **changes: Any) -> StudyRecord:
    """A study that is not queued, with a sampler that needs no results."""
    fields: dict[str, Any] = {"space": Space(space), "sampler": "random", "fidelity": None}
    return engine.declare(spec(name, **{**fields, **changes}))


def claimed(engine: Engine, record: StudyRecord) -> Lease:
    suggester = engine.suggester(record)
    suggester.step(1, LEASE_S)
    suggester.close()
    lease = engine.claim([record.id], "alice", new_token(), LEASE_S)
    assert lease is not None
    return lease


def done(engine: Engine, record: StudyRecord, *values: float, **further: Any) -> Lease:
    lease = claimed(engine, record)
    engine.finish(lease.token, Outcome(TrialState.COMPLETE, values, **further))
    return lease


def past(lab: Lab, name: str, space: dict[str, Parameter], *results: float, **changes: Any) -> StudyRecord:
    record = declared(lab.engine, name, space, **changes)
    for value in results:
        done(lab.engine, record, value)
    return record


def learner(lab: Lab, transfer: Any, name: str = "new", space: dict[str, Parameter] = PARAMETERS) -> StudyRecord:
    return declared(lab.engine, name, space, transfer=transfer, sampler="auto")


def names(lab: Lab, record: StudyRecord) -> list[str]:
    return [source.name for source in lab.engine.sources(record)]


def test_auto_takes_the_newest_studies_with_half_of_the_parameters_by_name_and_kind(lab: Lab) -> None:
    past(lab, "all", PARAMETERS, 0.1)
    past(lab, "half", {"lr": Float(0.0, 1.0), "width": Int(1, 9), "other": Float(0, 1)}, 0.1)
    past(lab, "a quarter", {"lr": Float(1e-4, 1.0)}, 0.1)
    past(lab, "other kinds", {"lr": Float(1e-4, 1.0), "width": Float(1, 9), "act": Int(1, 2)}, 0.1)
    past(lab, "no result", PARAMETERS)
    past(lab, "several metrics", PARAMETERS, metrics={"a": "min", "b": "min"})
    new = learner(lab, "auto")
    done(lab.engine, new, 0.3)
    past(lab, "newest", PARAMETERS, 0.1)
    assert names(lab, new) == ["half", "all"], "the choice was made when the study began"
    assert names(lab, learner(lab, "auto", "newer")) == ["newest", "new", "half", "all"]
    assert names(lab, learner(lab, None, "alone")) == []


def test_auto_takes_so_many_and_no_more(lab: Lab) -> None:
    for number in range(MAX_SOURCES + 2):
        past(lab, f"past {number}", {"x": Float(0.0, 1.0)}, 0.1)
    new = learner(lab, "auto", space={"x": Float(0.0, 1.0)})
    assert names(lab, new) == [f"past {number}" for number in range(MAX_SOURCES + 1, 1, -1)]


def test_named_studies_come_in_their_order_however_little_they_share(lab: Lab) -> None:
    for name in ("a", "b", "c"):
        past(lab, name, {"lr": Float(1e-4, 1.0, log=True)}, 0.1)
    assert names(lab, learner(lab, ["c", "a"])) == ["c", "a"]


@pytest.mark.parametrize(
    ("transfer", "says"),
    [
        (
            ["b", "gone"],
            r"transfer: study 'gone' is not in .*; there are lab, b, two: name some of them, or say 'auto'",
        ),
        (["two"], "transfer: study 'two' has several metrics; name studies of one metric"),
    ],
)
def test_a_study_that_cannot_be_learnt_from_is_refused_when_it_is_named(lab: Lab, transfer: Any, says: str) -> None:
    past(lab, "b", PARAMETERS, 0.1)
    past(lab, "two", PARAMETERS, metrics={"a": "min", "b": "min"})
    before = lab.everything()
    with pytest.raises(InvalidStudy, match=says) as caught:
        learner(lab, transfer)
    assert caught.value.field == "transfer"
    assert lab.everything() == before


def test_results_are_signed_so_that_small_is_good_and_only_what_is_complete_and_feasible_counts(lab: Lab) -> None:
    record = past(lab, "past", PARAMETERS, 0.1, 0.2)
    done(lab.engine, record, 9.0, constraints={"ms": 1.0})
    lab.engine.finish(claimed(lab.engine, record).token, Outcome(TrialState.PRUNED, (5.0,)))
    kept = done(lab.engine, record, 0.3, constraints={"ms": -1.0})
    past(lab, "minimised", PARAMETERS, 0.5, metrics={"loss": "min"})
    maximised, minimised = lab.engine.sources(learner(lab, ["past", "minimised"]))
    assert maximised.values == (-0.1, -0.2, -0.3)
    assert maximised.params[2] == kept.params
    assert minimised.values == (0.5,)


def test_a_study_of_an_optuna_program_can_be_learnt_from(lab: Lab) -> None:
    program = optuna.create_study(study_name="theirs", storage=lab.engine.optuna)
    program.optimize(lambda trial: trial.suggest_float("lr", 1e-4, 1.0, log=True) + trial.suggest_int("width", 1, 9), 3)
    (source,) = lab.engine.sources(learner(lab, "auto"))
    assert source.name == "theirs"
    assert source.values == tuple(trial.value for trial in program.trials)
    assert lab.engine.sources(lab.engine.study("theirs")) == []


def test_what_a_study_began_with_is_what_it_goes_on_with(lab: Lab) -> None:
    record = past(lab, "past", PARAMETERS, 0.1)
    running = claimed(lab.engine, record)
    done(lab.engine, record, 0.2)
    new = learner(lab, "auto")
    claimed(lab.engine, new)  # the first suggestion: what it learns from is written down
    lab.engine.finish(running.token, Outcome(TrialState.COMPLETE, (0.9,)))
    done(lab.engine, record, 0.8)
    past(lab, "newer", PARAMETERS, 0.1)
    (source,) = lab.engine.sources(new)
    assert (source.name, source.values) == ("past", (-0.1, -0.2))
    noted = lab.engine.optuna.get_study_system_attrs(new.id)[Attr.SOURCES]
    studies = [{"study_id": record.id, "name": "past", "last": 2, "unfinished": [1]}]
    assert noted == {"transfer": "auto", "studies": studies}


def test_another_wish_is_another_choice_and_a_deleted_study_is_passed_over(lab: Lab) -> None:
    past(lab, "a", PARAMETERS, 0.1)
    past(lab, "b", PARAMETERS, 0.2)
    new = learner(lab, "auto")
    claimed(lab.engine, new)
    assert names(lab, new) == ["b", "a"]
    again = learner(lab, ["a"])
    assert again.id == new.id and names(lab, again) == ["a"]
    assert names(lab, learner(lab, "auto")) == ["b", "a"]
    lab.engine.delete("b")
    assert names(lab, learner(lab, "auto")) == ["a"]


def test_who_has_lost_the_study_writes_no_choice_down(lab: Lab) -> None:
    past(lab, "past", PARAMETERS, 0.1)
    new = learner(lab, "auto")
    suggester = lab.engine.suggester(new)
    taken = sa.update(study).where(study.c.id == new.id).values(suggester_token="another")

    class TakenOver(type(lab.studies)):  # type: ignore[misc]
        """Between the look at the lease and the note, another process takes the study over."""

        def unclaimed(self, study_id: int) -> Any:
            lab.database.execute(taken)
            return super().unclaimed(study_id)

    suggester._studies.__class__ = TakenOver
    assert suggester.step(1, LEASE_S) == 0
    assert lab.engine.trials(new) == []
    assert lab.engine.optuna.get_study_system_attrs(new.id) == {}
