"""What the engine says of untried points, on each kind of database: the posterior of the sampler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
import pytest

from automl.core import Report, StudyRecord, TrialState
from automl.declaration import Choice, Float, Int, Space
from automl.engine import Engine
from automl.errors import InvalidInput
from tests.conformance.lab import LEASE_S, Lab, complete, new_token, spec

SPACE = Space(
    {
        "lr": Float(1e-4, 1.0, log=True),
        "width": Int(1, 64),
        "act": Choice("relu", "tanh"),
        "slope": Float(0.0, 1.0, when={"act": "relu"}),
    }
)


def score(params: Mapping[str, Any]) -> float:
    return float(params["width"] / 64 - abs(params["lr"] - 0.01) + 0.2 * params.get("slope", 0.0))


def searched(lab: Lab, trials: int, name: str = "searched", **changes: Any) -> StudyRecord:
    """A study of which so many trials are done, each a minute long, and one more is suggested."""
    record = lab.engine.declare(spec(name, space=SPACE, **changes))
    suggester = lab.engine.suggester(record)
    for _ in range(trials):
        suggester.step(1, LEASE_S)
        lease = lab.engine.claim([record.id], "alice", new_token(), LEASE_S)
        assert lease is not None
        lab.engine.finish(lease.token, complete(score(lease.params)))
    suggester.step(1, LEASE_S)
    suggester.close()
    return record


def test_of_the_suggested_point_it_says_what_the_sampler_said(lab: Lab) -> None:
    record = searched(lab, 14)
    suggested = lab.engine.trial(record, 14)
    assert suggested.state is TrialState.WAITING
    said = lab.engine.what_if(record, [suggested.params])[0]
    assert said.mean == pytest.approx(suggested.why["mean"], rel=1e-6)
    assert said.sd == pytest.approx(suggested.why["sd"], rel=1e-6)
    assert said.feasible is None
    assert said.minutes is not None and said.minutes > 0


def test_it_is_asked_again_for_next_to_nothing_and_anew_when_a_trial_ended(lab: Lab) -> None:
    record = searched(lab, 8)
    point = lab.engine.trial(record, 0).params
    first = lab.engine.what_if(record, [point])
    lease = lab.engine.claim([record.id], "alice", new_token(), LEASE_S)
    assert lease is not None
    lab.engine.report(lease.token, [Report(1, 100.0)])
    assert lab.engine.what_if(record, [point]) == first  # a report alone is no result
    lab.engine.finish(lease.token, complete(-9.0))
    changed = lab.engine.what_if(record, [point])
    assert changed != first
    lab.engine.invalidate(record, lease.number, "a broken disk")
    assert lab.engine.what_if(record, [point])[0].mean == pytest.approx(first[0].mean, abs=0.05)


def test_a_board_at_hand_spares_reading_the_trials(lab: Lab) -> None:
    record = searched(lab, 8)
    board = lab.engine.board(record)
    point = lab.engine.trial(record, 0).params
    assert lab.engine.what_if(record, [point], board=board) == lab.engine.what_if(record, [point])
    assert lab.engine.surface(record, point, "lr", size=7, board=board).mean.shape == (7,)
    assert lab.engine.space(record, board) == SPACE


def test_constraints_and_other_samplers(lab: Lab) -> None:
    record = lab.engine.declare(spec("random", space=SPACE, sampler="random"))
    suggester = lab.engine.suggester(record)
    for _ in range(40):
        suggester.step(1, LEASE_S)
        lease = lab.engine.claim([record.id], "alice", new_token(), LEASE_S)
        assert lease is not None
        size = {"size": lease.params["width"] - 32.0}
        lab.engine.finish(lease.token, complete(score(lease.params), constraints=size))
    suggester.close()
    narrow, wide = lab.engine.what_if(record, [{"lr": 0.01, "width": width, "act": "tanh"} for width in (4, 60)])
    assert narrow.feasible is not None and narrow.feasible > 0.95
    assert wide.feasible is not None and wide.feasible < 0.05
    found = lab.engine.importances(record)
    assert next(iter(found)) in ("width", "lr")
    assert sum(found.values()) == pytest.approx(1.0)


def test_a_program_of_optunas_has_a_space_and_predictions_too(lab: Lab) -> None:
    study = optuna.create_study(storage=lab.engine.optuna, study_name="plain", direction="maximize")

    def objective(trial: optuna.Trial) -> float:
        act = trial.suggest_categorical("act", ["relu", "tanh"])
        lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
        slope = trial.suggest_float("slope", 0.0, 1.0) if act == "relu" else 0.0
        return slope - abs(lr - 0.01)

    study.optimize(objective, n_trials=20)
    record = lab.engine.study("plain")
    space = lab.engine.space(record)
    assert space is not None
    assert space["slope"] == Float(0.0, 1.0, when={"act": "relu"})
    assert space["lr"] == Float(1e-4, 1.0, log=True)
    said = lab.engine.what_if(record, [study.best_params])[0]
    assert said.mean == pytest.approx(study.best_value, abs=0.2)
    assert lab.engine.importances(record)


def test_without_results_it_says_how_many_it_takes(lab: Lab) -> None:
    record = searched(lab, 2)
    with pytest.raises(InvalidInput, match="2 complete trials, a prediction needs 5"):
        lab.engine.what_if(record, [{"lr": 0.01, "width": 4, "act": "tanh"}])
    assert lab.engine.importances(record) == {}
    empty = lab.engine.optuna.create_new_study([optuna.study.StudyDirection.MINIMIZE], "empty")
    plain = lab.engine.study_by_id(empty)
    assert lab.engine.space(plain) is None
    assert lab.engine.importances(plain) == {}
    with pytest.raises(InvalidInput, match="0 complete trials"):
        lab.engine.what_if(plain, [{}])


def test_another_engine_says_the_same(lab: Lab, url: str) -> None:
    record = searched(lab, 14)
    point = lab.engine.trial(record, 3).params
    other = Engine(url, lab.engine.artifacts.root)
    assert other.what_if(record, [point])[0].mean == pytest.approx(lab.engine.what_if(record, [point])[0].mean)
    other.close()
