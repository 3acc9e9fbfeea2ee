"""What comes of a training function. The process around it is tested in test_host.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from automl.core import Artifact, FailureKind, Outcome, TrialState
from automl.declaration import Budget, Float, Space, StudySpec
from automl.trainers import wire
from automl.trainers.child import attempt
from automl.trainers.context import Trial
from automl.trainers.source import Declared
from tests.unit.trainers.trial_processes import FakeLink

Train = Callable[[Trial], Any]


@pytest.fixture
def end(job: wire.Job, link: FakeLink) -> Callable[..., Any]:
    """Run a training function; `space=None` for a define-by-run one."""

    def run(train: Train, space: Space | None = Space({"x": Float(0, 1)}), **changes: Any) -> Any:  # noqa: B008
        changed = replace(job, **changes)
        spec = StudySpec("s", space, changed.metrics, Budget(trials=1))  # type: ignore[arg-type]
        return attempt(Declared(spec, train), changed, link)

    return run


def test_a_result_is_complete(end: Callable[..., Any]) -> None:
    assert end(lambda trial: trial.params["x"]) == wire.Done(Outcome(TrialState.COMPLETE, (0.5,)))


def test_further_metrics_and_facts_come_along(end: Callable[..., Any]) -> None:
    def train(trial: Trial) -> dict[str, float]:
        trial.log(rows=3)
        return {"score": 1.0, "time": 2.0}

    assert end(train) == wire.Done(Outcome(TrialState.COMPLETE, (1.0,), {"time": 2.0}, facts={"rows": 3}))


def test_what_was_only_reported_is_a_metric_as_last_reported(end: Callable[..., Any]) -> None:
    def train(trial: Trial) -> dict[str, float]:
        trial.report(0.5, loss=3.0, gap=1.0)
        trial.report(0.6, loss=2.0)
        return {"score": 1.0, "gap": 0.0}

    assert end(train).outcome.metrics == {"loss": 2.0, "gap": 0.0}


BOUNDS = {"constraints": {"latency_ms": {"max": 20.0}, "score": {"min": 0.25}}}


def test_declared_constraints_are_computed_from_whatever_the_trial_reported(end: Callable[..., Any]) -> None:
    def reported(trial: Trial) -> float:
        trial.report(0.5, latency_ms=50)
        trial.report(0.5, latency_ms=15)
        return 0.5

    def noted(trial: Trial) -> float:
        trial.log(latency_ms=15)
        return 0.5

    for train in (reported, noted, lambda trial: {"score": 0.5, "latency_ms": 15}):
        assert end(train, **BOUNDS).outcome.constraints == {"latency_ms": -5.0, "score": -0.25}
    assert end(lambda trial: {"score": 0.0, "latency_ms": 30}, **BOUNDS).outcome.constraints == {
        "latency_ms": 10.0,
        "score": 0.25,
    }


def test_what_the_function_says_of_a_constraint_counts_and_needs_no_metric(end: Callable[..., Any]) -> None:
    def train(trial: Trial) -> float:
        trial.set_constraint("latency_ms", 7.0)
        trial.set_constraint("size", -1.0)
        return 0.5

    assert end(train, **BOUNDS).outcome.constraints == {"score": -0.25, "latency_ms": 7.0, "size": -1.0}


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        (..., FailureKind.ERROR, "reported no such metric; report it, as in trial.report(latency_ms=...)"),
        ("fast", FailureKind.ERROR, "the trial reported 'fast' (str); report a number"),
        (math.nan, FailureKind.NON_FINITE, "constraints['latency_ms']: the trial reported nan"),
    ],
)
def test_a_trial_that_leaves_a_declared_constraint_unknown_fails(
    end: Callable[..., Any], value: Any, kind: FailureKind, says: str
) -> None:
    def train(trial: Trial) -> Any:
        if isinstance(value, float):
            return {"score": 0.5, "latency_ms": value}
        if value is not ...:
            trial.log(latency_ms=value)
        return 0.5

    failure = end(train, **BOUNDS).failure
    assert (failure.kind, failure.traceback) == (kind, "")
    assert says in failure.message


def test_a_pruned_trial_has_the_constraints_that_are_known(end: Callable[..., Any]) -> None:
    def train(trial: Trial) -> float:
        trial.report(0.125)
        trial.set_constraint("size", 2.0)
        raise optuna.TrialPruned

    outcome = end(train, **BOUNDS).outcome
    assert outcome.state is TrialState.PRUNED
    assert outcome.constraints == {"score": 0.125, "size": 2.0}


def test_several_metrics_come_in_the_studys_order(end: Callable[..., Any]) -> None:
    done = end(lambda trial: {"b": 2, "a": 1}, metrics={"a": "min", "b": "max"})
    assert done.outcome.values == (1.0, 2.0)


def test_a_define_by_run_function_tells_what_it_asked_for(end: Callable[..., Any]) -> None:
    done = end(lambda trial: trial.suggest_float("x", 0, 2), space=None, params={"x": 1.5})
    assert done.outcome.values == (1.5,) and done.outcome.params == {"x": 1.5}
    assert '"high": 2.0' in done.outcome.distributions["x"]


@pytest.mark.parametrize(
    ("result", "kind", "says"),
    [
        (None, FailureKind.ERROR, "`return` missing"),
        ("good", FailureKind.ERROR, "'good' (str)"),
        (math.nan, FailureKind.NON_FINITE, "score = nan"),
        (math.inf, FailureKind.NON_FINITE, "score = inf"),
    ],
)
def test_what_is_no_result_fails(end: Callable[..., Any], result: Any, kind: FailureKind, says: str) -> None:
    failed = end(lambda trial: result)
    assert failed.failure.kind == kind and says in failed.failure.message and failed.failure.traceback == ""


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(3), KeyboardInterrupt("ctrl")])
def test_what_the_function_raises_fails_with_the_users_frames_only(
    end: Callable[..., Any], error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(trial: Trial) -> float:
        raise error

    failure = end(train).failure
    assert failure.kind == FailureKind.ERROR and type(error).__name__ in failure.message
    assert "test_child.py" in failure.traceback and "trainers/child.py" not in failure.traceback
    assert failure.traceback in capsys.readouterr().err


def test_a_reported_nan_fails_whatever_the_function_does_next(end: Callable[..., Any]) -> None:
    def train(trial: Trial) -> float:
        try:
            trial.report(math.nan)
        finally:
            return 1.0  # noqa: B012

    assert end(train).failure.kind == FailureKind.NON_FINITE


def test_optunas_way_to_prune_works(end: Callable[..., Any], link: FakeLink) -> None:
    link.prune_at = (2,)

    def train(trial: Trial) -> float:
        for step in range(5):
            trial.report(step / 10, step)
            if trial.should_prune():
                raise optuna.TrialPruned()
        return 1.0

    assert end(train, prunable=True) == wire.Done(Outcome(TrialState.PRUNED, (0.1,)))


def test_a_trial_may_prune_itself_without_a_report(end: Callable[..., Any]) -> None:
    def train(trial: Trial) -> float:
        raise optuna.exceptions.TrialPruned("hopeless")

    assert end(train) == wire.Done(Outcome(TrialState.PRUNED, None))


@pytest.mark.parametrize(("result", "value"), [(None, 0.3), (0.7, 0.7)])
def test_returning_after_being_told_to_prune_is_pruned(
    end: Callable[..., Any], link: FakeLink, result: Any, value: float
) -> None:
    link.prune_at = (1,)

    def train(trial: Trial) -> Any:
        trial.report(0.3)
        return result if trial.should_prune() else 1.0

    assert end(train, prunable=True) == wire.Done(Outcome(TrialState.PRUNED, (value,)))


def _swallow(trial: Trial) -> float:
    try:
        for _ in trial.steps(3):
            trial.report(0.4)
    except BaseException:
        pass
    return 1.0


def test_a_function_that_swallows_its_end_has_ended_all_the_same(end: Callable[..., Any], link: FakeLink) -> None:
    link.stop = "preempt"
    assert end(_swallow) == wire.Interrupted()
    link.stop, link.prune_at = None, (1,)
    assert end(_swallow, prunable=True, max_step=3) == wire.Done(Outcome(TrialState.PRUNED, (0.4,)))


def test_a_saved_model_is_stored_and_named_in_the_outcome(
    end: Callable[..., Any], job: wire.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    from automl.trainers import models

    def save_model(model: Any, directory: Path, *, name: str, **_: Any) -> list[Path]:
        path = directory / f"{name}.json"
        path.write_text(model)
        return [path]

    monkeypatch.setattr(models, "save_model", save_model)

    def train(trial: Trial) -> float:
        trial.save_model("early", name="net")
        trial.save_model("late", name="net")
        return 1.0

    (artifact,) = end(train).outcome.artifacts
    assert isinstance(artifact, Artifact) and (artifact.name, artifact.size) == ("net.json", 4)
    assert (Path(job.artifacts) / artifact.sha256[:2] / artifact.sha256 / "net.json").read_text() == "late"
