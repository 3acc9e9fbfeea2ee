"""The handle that a training function gets."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from optuna.distributions import FloatDistribution, IntDistribution, distribution_to_json

from automl.errors import InvalidInput
from automl.search.independent import independent
from automl.trainers import wire
from automl.trainers.context import Ledger, Trial
from automl.trainers.failures import Interrupted, NonFinite, Pruned
from automl.trainers.suggestions import Suggestions
from tests.unit.trainers.trial_processes import FakeLink

Make = Callable[..., Trial]


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def make(job: wire.Job, link: FakeLink, ledger: Ledger) -> Make:
    """A trial of a declared study; with `declared=False` of a define-by-run one."""

    def make_trial(declared: bool = True, clock: Callable[[], float] = lambda: 0.0, **changes: Any) -> Trial:
        changed = replace(job, **changes)
        return Trial(changed, link, Suggestions(changed, declared=declared), ledger, clock)

    return make_trial


def test_the_trial_says_what_its_job_says(make: Make) -> None:
    trial = make(max_step=9)
    assert (trial.number, trial.seed, trial.attempt, trial.max_step, trial.device) == (3, 11, 1, 9, "cpu")
    assert make(gpus=("5",)).device == "cuda:0"


def test_params_are_a_dict_that_cannot_be_changed(make: Make) -> None:
    params: Any = make().params
    assert json.loads(json.dumps(params)) == {"x": 0.5} == dict(**params)
    assert pickle.loads(pickle.dumps(params)) == params
    changes: list[Callable[[], Any]] = [
        lambda: params.update(x=1),
        lambda: params.pop("x"),
        lambda: params.__setitem__("x", 1),
        lambda: params.__delitem__("x"),
        params.clear,
        params.popitem,
        lambda: params.setdefault("y", 1),
    ]
    for change in changes:
        with pytest.raises(TypeError, match="read-only"):
            change()
    assert params == {"x": 0.5}


# -- report ---------------------------------------------------------------------------------------------------


def test_a_report_carries_the_objective_and_further_metrics(make: Make, link: FakeLink, ledger: Ledger) -> None:
    trial = make()
    trial.report(torch.tensor(0.25), step=np.int64(4), loss=np.float32(2), gap=math.nan)  # type: ignore[arg-type]
    (reported,) = link.of(wire.Reported)
    assert (reported.step, reported.value, reported.metrics["loss"]) == (4, 0.25, 2.0)
    assert math.isnan(reported.metrics["gap"])
    assert ledger.last_value == 0.25


def test_the_objective_may_be_named_instead(make: Make, link: FakeLink) -> None:
    make().report(score=0.5)
    assert link.of(wire.Reported) == [wire.Reported(1, 0.5)]


def test_steps_are_counted_where_they_are_not_given(make: Make, link: FakeLink) -> None:
    trial = make()
    for value in (0.1, 0.2):
        trial.report(value)
    trial.report(0.3, step=10)
    trial.report(0.4)
    trial.report(0.5, 0)
    assert [message.step for message in link.of(wire.Reported)] == [1, 2, 10, 11, 0]


def test_several_metrics_are_reported_by_name_only(make: Make, link: FakeLink, ledger: Ledger) -> None:
    trial = make(metrics={"a": "min", "b": "max"})
    trial.report(a=1, b=2, c=3)
    assert link.of(wire.Reported) == [wire.Reported(1, None, {"a": 1.0, "b": 2.0, "c": 3.0})]
    assert ledger.last_value is None
    with pytest.raises(InvalidInput, match=r"trial\.report\(a=\.\.\., b=\.\.\.\)"):
        trial.report(0.5)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"value": "0.5"}, r"report\(value\): '0.5' is a str; give a number"),
        ({"value": 1.0, "loss": None}, r"report\(loss=\.\.\.\): None"),
        ({"value": torch.ones(2)}, "is a Tensor"),
        ({"value": 1.0, "step": -1}, r"step=-1\): no step; give a whole number >= 0"),
        ({"value": 1.0, "step": 1.5}, "step=1.5"),
        ({"value": 1.0, "step": "a"}, "step='a'"),
        ({"value": 1.0, "step": math.nan}, "step=nan"),
        ({"value": 1.0, "step": True}, "step=True"),
    ],
)
def test_wrong_reports_are_refused(make: Make, link: FakeLink, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        make().report(**arguments)
    assert link.messages == []


@pytest.mark.parametrize("value", [math.nan, math.inf, torch.tensor(float("nan"))])
def test_an_objective_that_is_not_finite_ends_the_trial(make: Make, link: FakeLink, ledger: Ledger, value: Any) -> None:
    with pytest.raises(NonFinite, match=r"score = (nan|inf) was reported at step 7"):
        make().report(value, step=7)
    assert isinstance(ledger.ended, NonFinite) and link.messages == []
    with pytest.raises(NonFinite, match="b = "):
        make(metrics={"a": "min", "b": "max"}).report(a=1, b=value)


# -- pruning and stopping ---------------------------------------------------------------------------------------


def test_should_prune_asks_only_where_yes_is_possible(make: Make, link: FakeLink) -> None:
    link.prune_at = (2,)
    assert not make(prunable=False).should_prune() and link.asked == 0
    trial = make(prunable=True)
    assert [trial.should_prune() for _ in range(4)] == [False, True, True, True]
    assert link.asked == 2


def test_a_stop_to_prune_is_an_answer(make: Make, link: FakeLink) -> None:
    link.stop = "prune"
    assert make().should_prune() and link.asked == 0


@pytest.mark.parametrize("act", [lambda trial: trial.report(1.0), lambda trial: trial.should_prune()])
def test_a_preempted_trial_without_steps_makes_way_when_it_speaks(
    make: Make, link: FakeLink, ledger: Ledger, act: Callable[[Trial], Any]
) -> None:
    link.stop = "preempt"
    with pytest.raises(Interrupted):
        act(make())
    assert isinstance(ledger.ended, Interrupted)


def test_steps_prune_after_a_step_with_a_report(make: Make, link: FakeLink) -> None:
    link.prune_at = (2,)
    trial, seen = make(prunable=True, max_step=9), []
    with pytest.raises(Pruned):
        for step in trial.steps():
            seen.append(step)
            if step in (2, 5, 7):
                trial.report(step / 10)
    assert seen == [1, 2, 3, 4, 5]
    assert [message.step for message in link.of(wire.Reported)] == [2, 5]


def test_steps_ask_nothing_about_further_metrics_and_the_last_step(make: Make, link: FakeLink) -> None:
    trial = make(prunable=True, max_step=3)
    for step in trial.steps():
        trial.report(loss=1.0) if step < 3 else trial.report(0.5)
    assert link.asked == 0


def test_steps_without_a_fidelity_leave_the_question_to_the_function(make: Make, link: FakeLink) -> None:
    trial = make(prunable=True)
    for _ in trial.steps(3):
        trial.report(0.5)
    assert link.asked == 0
    trial.should_prune()
    assert link.asked == 1


def test_steps_end_when_told_to_prune(make: Make, link: FakeLink) -> None:
    seen = []
    with pytest.raises(Pruned):
        for step in make(max_step=5).steps():
            seen.append(step)
            link.stop = "prune" if step == 2 else None
    assert seen == [1, 2]


def test_steps_make_way_between_steps_but_not_behind_the_last(make: Make, link: FakeLink) -> None:
    trial, seen = make(), []
    with pytest.raises(Interrupted):
        for step in trial.steps(3):
            seen.append(step)
            link.stop = "preempt"
            trial.report(0.1)  # in mid-step: the step's end is near
    assert seen == [1]
    link.stop = None
    other = make()
    for step in other.steps(3):
        link.stop = "preempt" if step == 3 else None
    other.report(0.5)  # what is left is nearer than doing it again
    assert step == 3


@pytest.mark.parametrize(
    ("job_max", "total", "says"),
    [
        (None, None, r"pass steps\(total\) or declare fidelity"),
        (None, 0, "give a whole number >= 1"),
        (None, 2.5, "give a whole number >= 1"),
        (None, True, "give a whole number >= 1"),
        (5, 6, "the study's fidelity has max=5; leave one out"),
    ],
)
def test_a_wrong_number_of_steps_is_refused_at_the_call(make: Make, job_max: Any, total: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        make(max_step=job_max).steps(total)


def test_there_is_one_loop_over_steps(make: Make) -> None:
    trial = make()
    list(trial.steps(2))
    with pytest.raises(InvalidInput, match="called twice"):
        trial.steps(2)


def test_a_loop_may_be_left_early(make: Make, link: FakeLink) -> None:
    trial = make(max_step=9)
    for step in trial.steps():
        trial.report(step / 10)
        if step == 3:
            break
    trial.report(0.9)
    assert [message.step for message in link.of(wire.Reported)] == [1, 2, 3, 4]


# -- notes --------------------------------------------------------------------------------------------------------


def test_log_prints_a_line_and_keeps_facts(
    make: Make, link: FakeLink, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    make().log("loaded", rows=np.int64(5), message="m", share=torch.tensor(0.5), gap=math.nan, tags=["a", None])
    facts = {"rows": 5, "message": "m", "share": 0.5, "gap": "nan", "tags": ["a", None]}
    assert link.messages == [wire.Noted(facts)] and ledger.facts == facts
    line = capsys.readouterr().out
    assert line.endswith("loaded rows=5 message=m share=0.5 gap=nan tags=['a', None]\n") and line[:2] == "20"


def test_a_line_without_facts_is_only_printed(make: Make, link: FakeLink) -> None:
    make().log("hello")
    assert link.messages == []


@pytest.mark.parametrize("value", [object(), torch.ones(2), {1, 2}, b"a", [object()]])
def test_a_fact_that_json_cannot_hold_is_refused(make: Make, link: FakeLink, value: Any) -> None:
    with pytest.raises(InvalidInput, match=r"log\(thing=\.\.\.\): .* is no JSON value; give strings"):
        make().log(thing=value)
    assert link.messages == []


# -- constraints --------------------------------------------------------------------------------------------------


def test_the_first_value_of_a_constraint_counts(make: Make, ledger: Ledger) -> None:
    trial = make()
    trial.set_constraint("memory", np.float32(-0.5))
    trial.set_constraint("size", torch.tensor(2.0))  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"set_constraint\('memory'\) is ignored: it was set to -0\.5 before"):
        trial.set_constraint("memory", 3.0)
    assert trial.constraints == ledger.constraints == {"memory": -0.5, "size": 2.0}
    trial.constraints["size"] = 0.0
    assert trial.constraints["size"] == 2.0


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (math.nan, r"set_constraint\('c'\): nan says nothing; give a number, 0 or less where the constraint is kept"),
        ("0", r"set_constraint\('c'\): '0' is a str; give a number"),
        (None, "None is a NoneType"),
        (True, "True is a bool"),
    ],
)
def test_a_constraint_that_is_no_number_is_refused(make: Make, value: Any, says: str) -> None:
    trial = make()
    with pytest.raises(InvalidInput, match=says):
        trial.set_constraint("c", value)
    assert trial.constraints == {}


def test_further_metrics_are_kept_as_last_reported(make: Make, ledger: Ledger) -> None:
    trial = make(metrics={"a": "min", "b": "max"})
    trial.report(a=1.0, latency_ms=30.0, step=1)
    trial.report(b=2.0, latency_ms=20.0, memory_mb=5, step=2)
    assert ledger.metrics == {"latency_ms": 20.0, "memory_mb": 5.0}


# -- suggestions --------------------------------------------------------------------------------------------------


def test_a_declared_study_answers_with_its_parameters(make: Make, link: FakeLink) -> None:
    trial = make(distributions={"x": distribution_to_json(FloatDistribution(0, 1))})
    assert trial.suggest_float("x", 0, 1) == 0.5
    with pytest.raises(InvalidInput, match=r"suggest\('x'\): declared as .*high=1.0.* asked for as .*high=2.0"):
        trial.suggest_float("x", 0, 2)
    with pytest.raises(InvalidInput, match="no such"):
        trial.suggest_int("y", 0, 2)
    trial.report(0.5)
    assert link.of(wire.Reported)[0].params is None


def test_a_define_by_run_study_takes_hints_that_fit_and_draws_the_rest(make: Make, link: FakeLink) -> None:
    trial = make(declared=False, params={"x": 0.5, "n": 99, "c": "gone", "unused": 1})
    assert trial.params == {}
    assert trial.suggest_float("x", 0, 1) == 0.5
    n = trial.suggest_int("n", 1, 10)
    assert n == independent(7, 3, "n", IntDistribution(1, 10)) and 1 <= n <= 10
    c = trial.suggest_categorical("c", ["a", "b", None])
    assert c in ("a", "b", None)
    assert trial.params == {"x": 0.5, "n": n, "c": c}
    trial.report(0.1)
    trial.report(0.2)
    first, second = link.of(wire.Reported)
    assert first.params == trial.params and set(first.distributions) == {"x", "n", "c"}
    assert second.params is None


def test_asking_again_gives_the_same_value(make: Make) -> None:
    trial = make(declared=False, params={})
    value = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    assert trial.suggest_float("lr", 1e-5, 1e-1, log=True) == value
    assert make(declared=False, params={}).suggest_float("lr", 1e-5, 1e-1, log=True) == value
    with pytest.raises(InvalidInput, match="use one name for one parameter"):
        trial.suggest_int("lr", 1, 2)


def test_an_optuna_objective_finds_what_it_knows(make: Make, link: FakeLink) -> None:
    trial = make(declared=False, params={}, prunable=True)
    trial.suggest_float("a", 0, 1, step=0.25)
    trial.suggest_int("b", 1, 64, log=True)
    trial.suggest_categorical("c", (True, False))
    trial.set_user_attr("note", {"deep": [1, 2]})
    assert trial.user_attrs == {"note": {"deep": [1, 2]}}
    trial.report(0.5, 3)
    assert not trial.should_prune()
    assert trial.number == 3 and set(trial.params) == {"a", "b", "c"}
