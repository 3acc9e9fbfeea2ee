"""What a display is shown of a search, and what is checked before one starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from automl import session
from automl.core import Report, TrialState
from automl.declaration import Budget, Fidelity, Resources
from automl.engine import Engine, connect
from automl.errors import DatabaseUnavailable, InvalidInput, InvalidStudy
from automl.session import Watcher, check_gpus, require_artifacts, study_slots
from tests.unit.searches import claim, complete, fail, give_reason, spec


@pytest.fixture
def engine(url: str, artifacts: Path) -> Iterator[Engine]:
    opened = connect(url, artifacts)
    yield opened
    opened.close()


def test_each_trial_that_ends_is_shown_once(engine: Engine) -> None:
    record = engine.declare(spec())
    watcher = Watcher(engine, record, 1)
    shown = []
    for round_of_trials in ([0.1, 0.2], [], [0.3]):
        for value in round_of_trials:
            complete(engine, record, value)
        shown.append([trial.number for trial in watcher.look().finished])
    assert shown == [[0, 1], [], [2]]


def test_what_has_not_changed_is_not_asked_for_again(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.5)
    watcher = Watcher(engine, record, 1)
    best, asked = engine.best_trials, []
    monkeypatch.setattr(engine, "best_trials", lambda *given: asked.append(given) or best(*given))
    assert [watcher.look().best_value, watcher.look().best_value] == [0.5, 0.5]
    assert asked == []
    complete(engine, record, 0.7)
    assert [watcher.look().best_value, watcher.look().best_value] == [0.7, 0.7]
    assert len(asked) == 1
    engine.invalidate(record, 1, "a mistake")  # no count changes
    assert watcher.last_look().best_value == 0.5


def test_what_ended_before_the_search_was_watched_is_not_shown_but_counted(engine: Engine) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.1)
    began = engine.clock()
    while engine.clock() <= began:  # SQLite's clock has milliseconds
        pass
    watcher = Watcher(engine, record, 1)
    assert watcher.progress.finished == ()
    assert (watcher.progress.ended, watcher.progress.best_number) == (1, 0)


def test_a_snapshot_has_the_best_trial_its_parameters_in_declared_order_and_the_budget(engine: Engine) -> None:
    record = engine.declare(spec(metrics={"score": "min"}))
    complete(engine, record, 0.5)
    complete(engine, record, 0.1)
    progress = Watcher(engine, record, 1).look()
    assert (progress.metric, progress.direction) == ("score", "min")
    assert (progress.best_number, progress.best_value) == (1, 0.1)
    assert list(progress.best_params) == ["x", "kind"]
    assert (progress.ended, progress.budget_trials, progress.minutes_left) == (2, 10, None)
    assert progress.fraction == 0.2


def test_a_snapshot_has_the_forecast_the_reason_and_what_the_best_violates(engine: Engine) -> None:
    record = engine.declare(spec(metrics={"score": "min"}))
    complete(engine, record, 0.5, constraints={"ms": 2.0})
    watcher = Watcher(engine, record, 1)
    assert (watcher.progress.best_number, watcher.progress.best_violated) == (0, ("ms",))
    assert (watcher.progress.forecast, watcher.progress.reason) == (None, None)
    complete(engine, record, 0.9, constraints={"ms": -2.0})
    give_reason(engine, record, 1, {"forecast": {"trials": 20, "gain": 0.2, "sd": 0.1}})
    engine.stop("toy")
    progress = watcher.look()
    assert (progress.best_number, progress.best_violated) == (1, ())
    assert (progress.forecast, progress.reason) == ("20 more trials: -0.2 ± 0.1", "stopped by the user")
    assert [(trial.number, trial.violated) for trial in watcher.top()] == [(1, ()), (0, ("ms",))]


def test_minutes_that_are_left_are_those_that_nobody_searched_yet(engine: Engine) -> None:
    record = engine.declare(spec(budget=Budget(minutes=5)))
    progress = Watcher(engine, record, 1).look()
    assert progress.minutes_left == pytest.approx(5, abs=0.1)
    assert progress.budget_trials is None
    assert progress.seconds_left is None


def test_running_trials_are_shown_with_their_last_report(engine: Engine) -> None:
    record = engine.declare(spec(fidelity=Fidelity("epoch", min=1, max=9)))
    lease = claim(engine, record)
    engine.report(lease.token, [Report(1, 0.2), Report(4, 0.7)])
    (running,) = Watcher(engine, record, 1).look().running
    assert (running.number, running.step, running.max_step, running.value, running.attempt) == (0, 4, 9, 0.7, 1)
    assert running.elapsed_s >= 0


def test_failures_are_kept_to_the_last_few(engine: Engine) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.5)  # so that the study is not hopeless
    watcher = Watcher(engine, record, 1)
    for message in "abcd":
        fail(engine, record, message)
    assert watcher.look().failures == ("trial 2: b", "trial 3: c", "trial 4: d")


def test_cancelled_trials_are_none_of_the_budgets(engine: Engine) -> None:
    record = engine.declare(spec(budget=Budget(trials=2)))
    claim(engine, record)
    engine.stop("toy")
    record = engine.declare(spec(budget=Budget(trials=2)))
    watcher = Watcher(engine, record, 1)
    assert (watcher.progress.counts["cancelled"], watcher.progress.ended) == (1, 0)
    complete(engine, record, 0.1)
    complete(engine, record, 0.2)
    progress = watcher.look()
    assert (progress.ended, progress.fraction, progress.seconds_left) == (2, 1.0, 0.0)


def test_the_last_look_is_the_one_before_when_the_database_is_away(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.5)
    watcher = Watcher(engine, record, 1)
    seen = watcher.look()

    def away(*_: Any) -> Any:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(engine, "study_by_id", away)
    assert watcher.last_look() is seen


def test_the_best_trials_come_best_first_and_complete_ones_only(engine: Engine) -> None:
    record = engine.declare(spec())
    for value in (0.2, 0.9, 0.5):
        complete(engine, record, value)
    fail(engine, record, "boom")
    top = Watcher(engine, record, 1).top(2)
    assert [(trial.number, trial.value, trial.state) for trial in top] == [
        (1, 0.9, TrialState.COMPLETE.value),
        (2, 0.5, TrialState.COMPLETE.value),
    ]


def test_artifacts_must_be_writable(sqlite_url: str, tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    engine = connect(sqlite_url, in_the_way / "artifacts")
    with pytest.raises(InvalidInput, match="AUTOML_ARTIFACTS") as caught:
        require_artifacts(engine)
    assert caught.value.field == "artifacts"
    engine.close()


def test_a_study_without_gpus_gets_as_many_slots_as_workers() -> None:
    assert [slot.gpus for slot in study_slots(spec(), 3, [])] == [(), (), ()]


def test_slots_hold_the_gpus_that_a_trial_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_has_gpu", lambda name: True)
    needs_two = spec(resources=Resources(gpus=2))
    assert [slot.gpus for slot in study_slots(needs_two, 1, ["0", "1", "2", "3", "4"])] == [("0", "1"), ("2", "3")]
    assert [slot.gpus for slot in study_slots(spec(), 1, ["0"], per_gpu=2)] == [("0",), ("0",)]


@pytest.mark.parametrize(("gpus", "said"), [([], "none is named"), (["0"], "names 1")])
def test_a_study_that_needs_more_gpus_than_were_named_is_refused(gpus: list[str], said: str) -> None:
    with pytest.raises(InvalidStudy, match=said) as caught:
        study_slots(spec(resources=Resources(gpus=2)), 1, gpus)
    assert caught.value.field == "resources.gpus"


@pytest.mark.parametrize(
    ("names", "said"),
    [(["0", "0"], "twice"), (["foo"], "'foo' is no GPU"), (["-1"], "'-1' is no GPU")],
)
def test_names_of_no_gpu_are_refused(names: list[str], said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        check_gpus(names)
    assert caught.value.field == "gpus"


def test_a_gpu_that_this_machine_does_not_show_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    check_gpus(["9999"])
    assert "shows no GPU 9999" in caplog.text


def test_naming_no_gpu_is_no_mistake() -> None:
    check_gpus([])
