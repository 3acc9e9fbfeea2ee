"""`Result`: the best trials, and all trials as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from automl.core import StudyState
from automl.declaration import Budget
from automl.engine import Engine, connect
from automl.errors import InvalidInput, StudyFailed
from automl.result import Result, raise_if_failed
from tests.unit.searches import LEASE_S, complete, fail, spec


@pytest.fixture
def engine(url: str, artifacts: Path) -> Iterator[Engine]:
    opened = connect(url, artifacts)
    yield opened
    opened.close()


@pytest.mark.parametrize(("direction", "best"), [("max", 2), ("min", 1)])
def test_the_best_trial_follows_the_direction(engine: Engine, direction: str, best: int) -> None:
    record = engine.declare(spec(metrics={"score": direction}))
    for value in (0.5, 0.1, 0.9):
        complete(engine, record, value)
    result = Result(engine, record)
    assert result.best_trial.number == best
    assert result.best_value == result.trials[best].value
    assert result.best_params == result.trials[best].params
    assert list(result.best_params) == ["x", "kind"]
    assert [trial.number for trial in result.best_trials] == [best]


def test_a_trial_that_violates_constraints_is_best_only_where_all_do(engine: Engine) -> None:
    record = engine.declare(spec(metrics={"score": "max", "size": "min"}))
    complete(engine, record, 0.9, 1.0, constraints={"ms": 3.0})
    assert [trial.number for trial in Result(engine, record).best_trials] == [0]
    complete(engine, record, 0.5, 2.0, constraints={"ms": 0.0})
    complete(engine, record, 0.4, 3.0)
    result = Result(engine, record)
    assert [trial.number for trial in result.best_trials] == [1]
    row = result.to_dataframe().iloc[0]
    assert row["constraints.ms"] == 3.0

    alone = engine.declare(spec("alone"))
    complete(engine, alone, 0.9, constraints={"ms": 3.0})
    complete(engine, alone, 0.5, constraints={"ms": -1.0})
    assert Result(engine, alone).best_trial.number == 1
    assert Result(engine, alone).best_trial.violated == ()


def test_equal_bests_are_told_apart_by_their_number(engine: Engine) -> None:
    record = engine.declare(spec())
    for value in (0.5, 0.9, 0.9):
        complete(engine, record, value)
    assert Result(engine, record).best_trial.number == 1
    assert [trial.number for trial in Result(engine, record).best_trials] == [1, 2]


def test_with_several_metrics_the_best_trials_are_those_that_no_other_beats(engine: Engine) -> None:
    record = engine.declare(spec(metrics={"accuracy": "max", "cost": "min"}))
    for accuracy, cost in ((0.9, 5.0), (0.8, 1.0), (0.8, 2.0), (0.95, 9.0), (0.7, 5.0)):
        complete(engine, record, accuracy, cost)
    result = Result(engine, record)
    assert [trial.number for trial in result.best_trials] == [0, 1, 3]
    with pytest.raises(InvalidInput, match="best_trials"):
        _ = result.best_trial


def test_without_a_complete_trial_there_is_no_best_one(engine: Engine) -> None:
    record = engine.declare(spec())
    fail(engine, record, "boom")
    result = Result(engine, record)
    assert result.best_trials == []
    with pytest.raises(InvalidInput, match="no trial of 'toy' is complete"):
        _ = result.best_value


def test_a_result_does_not_change_when_the_study_goes_on(engine: Engine) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.5)
    result = Result(engine, record)
    complete(engine, record, 0.9)
    assert (len(result.trials), result.best_value) == (1, 0.5)


def test_the_table_has_a_row_for_each_trial(engine: Engine) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.5, loss=2.0)
    fail(engine, record, "boom")
    table = Result(engine, record).to_dataframe()
    assert list(table.number) == [0, 1]
    assert list(table.state) == ["complete", "failed"]
    assert table.score[0] == 0.5
    assert math.isnan(table.score[1])
    assert table["metrics.loss"][0] == 2.0
    assert table["params.x"].between(0, 1).all()
    assert table.failure[1] == "boom"


def test_a_study_whose_trials_failed_alike_raises_with_their_traceback(engine: Engine) -> None:
    record = engine.declare(spec())
    for _ in range(3):
        fail(engine, record, "NameError: scroe", "File 'toy.py', line 3")
    record = engine.study("toy")
    assert record.state is StudyState.FAILED
    with pytest.raises(StudyFailed, match="scroe") as caught:
        raise_if_failed(engine, record)
    assert caught.value.traceback == "File 'toy.py', line 3"
    assert any("line 3" in note for note in caught.value.__notes__)


def test_a_finished_study_of_which_nothing_completed_has_failed_too(engine: Engine) -> None:
    record = engine.declare(spec(budget=Budget(trials=2)))
    for message in ("first", "second"):
        fail(engine, record, message)
    engine.suggester(record).step(1, LEASE_S)  # sees that the budget is used
    assert engine.study("toy").state is StudyState.FINISHED
    with pytest.raises(StudyFailed, match="no trial completed; the last failure was: second"):
        raise_if_failed(engine, engine.study("toy"))


def test_a_study_that_goes_on_or_was_stopped_has_not_failed(engine: Engine) -> None:
    record = engine.declare(spec())
    fail(engine, record, "boom")
    raise_if_failed(engine, engine.study("toy"))
    engine.stop("toy")
    raise_if_failed(engine, engine.study("toy"))
