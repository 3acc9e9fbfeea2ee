"""What a user declares: every mistake is named with its cure, and every declaration survives JSON."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl.declaration import Budget, Choice, Fidelity, Float, Int, Parameter, Resources, Space, StudySpec
from automl.errors import AutoMLError, InvalidInput, InvalidStudy

SPACE = Space({"x": Float(0.0, 1.0)})


def study(**changes: Any) -> StudySpec:
    fields: dict[str, Any] = {"name": "s", "space": SPACE, "metrics": {"loss": "min"}, "budget": Budget(trials=1)}
    return StudySpec(**{**fields, **changes})


def space(**parameters: Any) -> Callable[[], Space]:
    return lambda: Space(parameters)


MISTAKES: list[tuple[Callable[[], object], str | None, str]] = [
    # ranges
    (lambda: Float(1.0, 0.0), "low", r"1\.0 is above high=0\.0; swap them"),
    (lambda: Int(2, 1), "low", "2 is above high=1; swap them"),
    (lambda: Float(0.0, 1.0, log=True), "low", r"0\.0 has no logarithm; give low > 0 or drop log=True"),
    (lambda: Float(-1.0, 1.0, log=True), "low", "has no logarithm"),
    (lambda: Int(0, 8, log=True), "low", "has no logarithm"),
    (lambda: Float(math.nan, 1.0), "low", "nan is not a finite number; give an int or a float"),
    (lambda: Float(0.0, math.inf), "high", "inf is not a finite number"),
    (lambda: Float("0", 1.0), "low", "'0' is not a finite number"),  # type: ignore[arg-type]
    (lambda: Float(False, 1.0), "low", "False is not a finite number"),
    (lambda: Int(0.5, 2), "low", r"0\.5 is not a whole number; give an int"),  # type: ignore[arg-type]
    (lambda: Int(0, True), "high", "True is not a whole number"),
    (lambda: Int(0, 2**60), "high", "neighbouring integers are one float; rescale"),
    (lambda: Float(0.0, 1.0, step=0.0), "step", "not above zero; give a step > 0"),
    (lambda: Float(0.0, 1.0, step=-0.5), "step", "not above zero"),
    (lambda: Float(0.1, 1.0, step=0.1, log=True), "step", "a log scale has no even grid; drop step or log=True"),
    (lambda: Int(1, 9, step=0), "step", "0 is not above zero; give a step >= 1"),
    (lambda: Int(1, 9, step=2, log=True), "step", "a log scale has no even grid"),
    # choices
    (lambda: Choice(), "choices", r"there are none; give one or more, as in Choice\('sgd', 'adamw'\)"),
    (lambda: Choice(["a", "b"]), "choices", r"is one value; write Choice\(\*values\)"),  # type: ignore[arg-type]
    (lambda: Choice("a", object()), "choices", "is a object; use str, int, float, bool or None"),  # type: ignore[arg-type]
    (lambda: Choice(1.0, math.nan), "choices", "nan is not finite; leave it out"),
    (lambda: Choice(1, True), "choices", r"holds equal values \(1 == True == 1\.0\); keep one of each"),
    (lambda: Choice("a", "a"), "choices", "holds equal values"),
    # priors
    (lambda: Float(0.0, 1.0, prior=1.5), "prior", r"1\.5 is outside; give a value from 0\.0 to 1\.0"),
    (lambda: Float(0.0, 1.0, prior=math.nan), "prior", "nan is outside"),
    (lambda: Float(0.0, 1.0, prior="low"), "prior", "'low' is outside"),  # type: ignore[arg-type]
    (lambda: Float(0.0, 1.0, prior=(0.5, 0.0)), "prior", r"0\.0 is no spread; give a share of the range, above 0"),
    (lambda: Float(0.0, 1.0, prior=(0.5, 1.1)), "prior", r"1\.1 is no spread"),
    (lambda: Float(0.0, 1.0, prior=(0.5, True)), "prior", "True is not a finite number"),
    (lambda: Float(0.0, 1.0, prior=(0.5,)), "prior", r"\(0\.5,\) is not a pair"),  # type: ignore[arg-type]
    (lambda: Int(1, 9, prior=2.5), "prior", "2.5 is outside; give a value from 1 to 9, a whole one"),
    (lambda: Choice("a", "b", prior="c"), "prior", r"'c' is none of \['a', 'b'\]; name one of them"),
    (lambda: Choice("a", "b", prior=["a"]), "prior", r"\['a'\] is none of"),  # type: ignore[arg-type]
    (lambda: Choice(1, 2, prior=True), "prior", "True is none of"),
    (lambda: Choice("a", "b", prior={}), "prior", "it names no value; name one or more"),
    (lambda: Choice("a", "b", prior={"c": 1}), "prior", "'c' is none of"),
    (lambda: Choice("a", "b", prior={"a": 0}), "prior['a']", "0 is not above zero; give more; a value not named has 1"),
    (lambda: Choice("a", "b", prior={"a": math.inf}), "prior['a']", "inf is not a finite number"),
    # conditions
    (lambda: Float(0.0, 1.0, when="sgd"), "when", 'write when={"parent": value}'),  # type: ignore[arg-type]
    (lambda: Float(0.0, 1.0, when={"a": []}), "when", "no value of 'a' is named; name one or more"),
    (space(x=Float(0, 1, when={"no": 1})), "space['x'].when", r"no parameter 'no'; name one of \['x'\]"),
    (space(x=Float(0, 1), y=Float(0, 1, when={"x": 1.0})), "space['y'].when", "'x' is a Float; a condition needs a"),
    (space(c=Choice("a"), y=Float(0, 1, when={"c": "b"})), "space['y'].when", "'c' never is 'b'; name a value that"),
    (space(n=Int(1, 3), y=Float(0, 1, when={"n": [2, 9]})), "space['y'].when", "'n' never is 9"),
    (space(n=Choice(1, 2), y=Float(0, 1, when={"n": True})), "space['y'].when", "'n' never is True"),
    (space(a=Choice(1, when={"a": 1})), "space", r"in a circle \(a -> a\); break it"),
    (
        space(a=Choice(1, when={"b": 1}), b=Choice(1, when={"c": 1}), c=Choice(1, when={"a": 1})),
        "space",
        r"in a circle \(a -> b -> c -> a\)",
    ),
    # spaces
    (space(), "space", "it holds no parameter; give one or more"),
    (lambda: Space(None), "space", "it holds no parameter"),  # type: ignore[arg-type]
    (space(x=3), "space['x']", "3 is no parameter; use Float, Int or Choice"),
    (lambda: Space({3: Float(0, 1)}), "space", "3 is no parameter name; use a string"),  # type: ignore[dict-item]
    (lambda: Space({"": Float(0, 1)}), "space", "'' is no parameter name"),
    # budgets, fidelities, resources
    (lambda: Budget(), "budget", "it has no end; give trials= or minutes= or stop_when='converged'"),
    (lambda: Budget(trials=0), "budget.trials", "0 is not above zero; give 1 or more"),
    (lambda: Budget(trials=1.5), "budget.trials", r"1\.5 is not a whole number"),  # type: ignore[arg-type]
    (lambda: Budget(minutes=0), "budget.minutes", "0 is not above zero; give more"),
    (lambda: Budget(minutes=math.inf), "budget.minutes", "inf is not a finite number"),
    (lambda: Budget(5, stop_when="bored"), "budget.stop_when", "'bored' is unknown; say 'converged'"),  # type: ignore[arg-type]
    (lambda: Budget(trials=5, margin=0.1), "budget.margin", "nothing looks at it; add stop_when='converged'"),
    (lambda: Budget(stop_when="converged", margin=-1), "budget.margin", "-1 is below zero; give 0 or more"),
    (lambda: Budget(stop_when="converged", margin=math.nan), "budget.margin", "nan is not a finite number"),
    (lambda: Fidelity("", max=3), "fidelity.name", "'' is no name; say what a step is"),
    (lambda: Fidelity("epoch", min=0, max=3), "fidelity", "min=0, max=3; give 1 <= min <= max"),
    (lambda: Fidelity("epoch", min=4, max=3), "fidelity", "min=4, max=3"),
    (lambda: Resources(cpus=0), "resources.cpus", "0 is not above zero; give 1 or more"),
    (lambda: Resources(gpus=-1), "resources.gpus", "-1 is below zero; give 0 or more"),
    (lambda: Resources(gpus=0.5), "resources.gpus", r"0\.5 is not a whole number"),  # type: ignore[arg-type]
    (lambda: Resources(timeout_s=0), "resources.timeout_s", "0 is not above zero; give more, or None for no limit"),
    (lambda: Resources(memory_gb=-1), "resources.memory_gb", "-1 is not above zero"),
    # studies
    (lambda: study(name=""), "name", "''; use 1 to 200 printable characters without '/',"),
    (lambda: study(name="a/b"), "name", "'a/b'; use"),
    (lambda: study(name="a:b"), "name", "'a:b'; use"),
    (lambda: study(name="a\nb"), "name", "use 1 to 200 printable"),
    (lambda: study(name="a" * 201), "name", "use 1 to 200 printable"),
    (lambda: study(name=3), "name", "3; use"),
    (lambda: study(metrics={}), "metrics", 'there is none; name one, as in {"accuracy": "max"}'),
    (lambda: study(metrics=["loss"]), "metrics", "there is none; name one"),
    (lambda: study(metrics={"loss": "down"}), "metrics['loss']", "'down' is no direction; say 'min' or 'max'"),
    (lambda: study(metrics={3: "min"}), "metrics", "3 is no metric name; use a string"),
    (lambda: study(budget=10), "budget", r"10; give a Budget\(\.\.\.\)"),
    (lambda: study(resources={"gpus": 1}), "resources", r"give a Resources\(\.\.\.\)"),
    (lambda: study(fidelity=27), "fidelity", r"27; give a Fidelity\(\.\.\.\)"),
    (lambda: study(sampler="magic"), "sampler", "'magic' is unknown; use one of auto, tpe, gp, cmaes, skopt, random"),
    (lambda: study(sampler=None), "sampler", "None is unknown; use one of"),
    (lambda: study(pruner="magic"), "pruner", "'magic' is unknown; use one of auto, none, median, hyperband, asha"),
    (lambda: study(seed=-1), "seed", "-1 is below zero; give 0 or more"),
    (lambda: study(seed=0.5), "seed", r"0\.5 is not a whole number"),
    (lambda: study(retries=-1), "retries", "-1 is below zero"),
    # cost, constraints, transfer, and what only our own sampler listens to
    (lambda: study(cost=""), "cost", "'' is no metric name; say \"seconds\", or name what trials report"),
    (lambda: study(cost=3), "cost", "3 is no metric name"),
    (lambda: study(cost="loss"), "cost", "'loss' is what the study optimises; name what a trial costs"),
    (lambda: study(constraints=["ms"]), "constraints", r"\['ms'\] bounds nothing; write constraints="),
    (lambda: study(constraints={3: {"max": 1}}), "constraints", "3 is no metric name; use a string"),
    (
        lambda: study(constraints={"ms": 20}),
        "constraints['ms']",
        '20 is no bound; give {"max": 20}, {"min": 1} or both',
    ),
    (lambda: study(constraints={"ms": {}}), "constraints['ms']", "{} is no bound"),
    (lambda: study(constraints={"ms": {"below": 2}}), "constraints['ms']", "is no bound"),
    (lambda: study(constraints={"ms": {"max": "2"}}), "constraints['ms']['max']", "'2' is not a finite number"),
    (lambda: study(constraints={"ms": {"min": 2, "max": 1}}), "constraints['ms']", r"min=2\.0 is above max=1\.0; swap"),
    (lambda: study(transfer="digits"), "transfer", "'digits' names no studies; say \"auto\", or name them:"),
    (lambda: study(transfer=[3]), "transfer", r"\[3\] names no studies"),
    (lambda: study(transfer=["s"]), "transfer", "'s' is this study; name others"),
    (lambda: study(cost="seconds", sampler="tpe"), "cost", "sampler 'tpe' does not look at it; use sampler='auto', or"),
    (lambda: study(transfer="auto", sampler="gp"), "transfer", "sampler 'gp' does not look at it"),
    (
        lambda: study(budget=Budget(stop_when="converged"), sampler="random"),
        "budget.stop_when",
        "sampler 'random' makes no forecast; use sampler='auto', or give trials= or minutes= instead",
    ),
    (
        lambda: study(budget=Budget(stop_when="converged"), metrics={"a": "min", "b": "max"}),
        "budget.stop_when",
        "several metrics have no one best; give trials= or minutes= instead",
    ),
]


@pytest.mark.parametrize(("declare", "field", "message"), MISTAKES)
def test_a_declaration_that_cannot_work_is_refused_with_field_and_cure(
    declare: Callable[[], object], field: str, message: str
) -> None:
    with pytest.raises(InvalidStudy, match=message) as caught:
        declare()
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, AutoMLError | ValueError)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"x": 0.5, "c": "a", "nope": 1}, r"params\['nope'\]: there is no such parameter; name one of"),
        ({"x": 1.5, "c": "a"}, r"params\['x'\]: 1\.5 is outside Float\(0\.0, 1\.0\); give a value inside"),
        ({"x": True, "c": "a"}, r"params\['x'\]: True is outside"),
        ({"x": math.nan, "c": "a"}, r"params\['x'\]: nan is outside"),
        ({"x": 0.5, "c": "b"}, r"params\['n'\]: it is missing; give it a value"),
        ({"c": "a"}, r"params\['x'\]: it is missing"),
    ],
)
def test_a_point_outside_the_space_is_refused_with_the_cure(params: dict[str, Any], message: str) -> None:
    here = Space({"x": Float(0.0, 1.0), "c": Choice("a", "b"), "n": Int(1, 9, when={"c": "b"})})
    with pytest.raises(InvalidInput, match=message):
        here.check(params)


def test_a_part_of_a_point_is_enough_where_a_part_is_asked_for() -> None:
    here = Space({"x": Float(0.0, 1.0), "n": Int(1, 9)})
    assert here.check({"n": 3}, partial=True) == {"n": 3}
    assert here.check({"n": 3, "x": 1}) == {"n": 3, "x": 1}


def test_parents_come_before_their_children_and_the_rest_keeps_its_order() -> None:
    here = Space(
        {
            "z": Float(0, 1),
            "leaf": Float(0, 1, when={"middle": 2}),
            "middle": Int(1, 3, when={"root": "a"}),
            "root": Choice("a", "b"),
            "y": Float(0, 1),
        }
    )
    assert list(here) == ["z", "root", "middle", "leaf", "y"]


def test_a_parameter_is_active_when_its_whole_chain_of_parents_says_so() -> None:
    here = Space(
        {
            "root": Choice("a", "b", "c"),
            "middle": Int(1, 3, when={"root": ["a", "b"]}),
            "leaf": Float(0, 1, when={"middle": 2, "root": "a"}),
        }
    )
    full = {"root": "a", "middle": 2, "leaf": 0.5}
    assert here.active(full) == full
    assert here.active({**full, "root": "b"}) == {"root": "b", "middle": 2}
    assert here.active({**full, "root": "c"}) == {"root": "c"}
    assert here.active({**full, "middle": 3}) == {"root": "a", "middle": 3}
    assert here.active({"leaf": 0.5}) == {}


def test_a_parameter_prints_as_the_user_would_write_it() -> None:
    assert repr(Float(0.0, 1.0)) == "Float(0.0, 1.0)"
    assert repr(Float(0.1, 1, log=True)) == "Float(0.1, 1.0, log=True)"
    assert repr(Int(1, 9, step=2, when={"c": "a"})) == "Int(1, 9, step=2, when={'c': 'a'})"
    assert repr(Float(0.0, 1.0, prior=0.25)) == "Float(0.0, 1.0, prior=(0.25, 0.15))"
    assert repr(Choice("a", "b", prior="b")) == "Choice('a', 'b', prior={'a': 1.0, 'b': 4.0})"
    assert repr(Choice("a", 1, None, when={"n": [1, 2]})) == "Choice('a', 1, None, when={'n': [1, 2]})"


def test_a_prior_is_kept_in_one_form() -> None:
    assert Float(0.1, 10, log=True, prior=1).prior == (1, 0.15)
    assert Float(0, 1, prior=(0.5, 1)).prior == Float(0, 1, prior=[0.5, 1.0]).prior == (0.5, 1.0)  # type: ignore[arg-type]
    assert Int(1, 9, prior=(3, 0.3)).prior == (3, 0.3)
    assert Choice("a", "b", "c", prior="b").prior == (1.0, 4.0, 1.0)
    assert Choice("a", None, 1, prior={1: 2, None: 0.5}).prior == (1.0, 0.5, 2.0)
    assert Choice("a", None).prior is Choice("a", None, prior=None).prior is None


def test_a_prior_is_no_part_of_what_a_parameter_is() -> None:
    with_priors = {"x": Float(0, 1, prior=0.5), "n": Int(1, 9, prior=3), "c": Choice("a", "b", prior="a")}
    without = {"x": Float(0, 1), "n": Int(1, 9), "c": Choice("a", "b")}
    assert with_priors == without
    assert study(space=Space(with_priors)).differences(study(space=Space(without))) == ([], False)
    wider = Space({**with_priors, "x": Float(0, 2, prior=1.5)})
    assert study(space=wider).differences(study(space=Space(without)))[1], "it only widens the study"


@pytest.mark.parametrize(
    ("bound", "value", "excess"),
    [
        ({"max": 20}, 25.0, 5.0),
        ({"max": 20}, 20.0, 0.0),
        ({"max": 20}, 5.0, -15.0),
        ({"min": 1}, 0.5, 0.5),
        ({"min": 1}, 4.0, -3.0),
        ({"min": 1, "max": 3}, 2.5, -0.5),
        ({"min": 1, "max": 3}, 4.5, 1.5),
        ({"max": 20}, math.inf, math.inf),
        ({"max": 20}, math.nan, math.inf),
        ({"min": 1}, math.nan, math.inf),
    ],
)
def test_a_bound_is_kept_where_its_excess_is_zero_or_less(bound: dict[str, float], value: float, excess: float) -> None:
    assert study(constraints={"m": bound}).constraints["m"].excess(value) == excess


def test_a_budget_may_end_when_the_search_has_converged() -> None:
    budget = Budget(stop_when="converged", margin=0.5)
    assert study(budget=budget).budget == budget
    assert budget.to_json() == {"trials": None, "minutes": None, "stop_when": "converged", "margin": 0.5}
    assert Budget(trials=3).to_json() == {"trials": 3, "minutes": None}
    assert study(budget=budget, sampler="custom:Mine").budget.stop_when == "converged"


def test_sources_are_named_once_and_none_is_nothing() -> None:
    assert study(transfer=["b", "a", "b"]).transfer == ("b", "a")
    assert study(transfer=["auto"]).transfer == ("auto",)  # a study of that name
    assert study(transfer=[]).transfer is None


def test_a_declaration_of_before_there_were_priors_costs_and_constraints_still_loads() -> None:
    space = {
        "x": {"kind": "float", "low": 0.0, "high": 1.0, "log": False, "step": None, "when": {}},
        "n": {"kind": "int", "low": 1, "high": 9, "log": True, "step": 1, "when": {}},
        "c": {"kind": "choice", "choices": ["a", 1], "when": {}},
    }
    old = {
        "name": "s",
        "space": space,
        "metrics": {"loss": "min"},
        "budget": {"trials": 5, "minutes": None},
        "fidelity": None,
        "resources": {"cpus": 1, "gpus": 0, "timeout_s": None, "memory_gb": None},
        "sampler": "auto",
        "pruner": "auto",
        "seed": 0,
        "retries": 0,
    }
    expected = Space({"x": Float(0, 1), "n": Int(1, 9, log=True), "c": Choice("a", 1)})
    assert StudySpec.from_json(old) == study(space=expected, budget=Budget(trials=5))


def test_a_declaration_cannot_be_changed_afterwards() -> None:
    metrics = {"loss": "min"}
    spec = study(metrics=metrics)
    metrics["other"] = "max"
    assert dict(spec.metrics) == {"loss": "min"}
    with pytest.raises(TypeError):
        spec.metrics["loss"] = "max"  # type: ignore[index]
    with pytest.raises(AttributeError):
        spec.seed = 1  # type: ignore[misc]


# -- JSON -----------------------------------------------------------------------------------------------------------

numbers = st.floats(-1e6, 1e6, allow_nan=False)
scalars = st.one_of(st.text(max_size=5), st.integers(-9, 9), numbers, st.booleans(), st.none())


def beliefs(guesses: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | guesses | st.tuples(guesses, st.floats(0.01, 1.0))


@st.composite
def floats(draw: st.DrawFn) -> Float:
    low, high = sorted((draw(numbers), draw(numbers)))
    prior = draw(beliefs(st.floats(low, high)))
    if draw(st.booleans()) and low > 0:
        return Float(low, high, log=True, prior=prior)
    return Float(low, high, step=draw(st.none() | st.floats(1e-3, 1e3)), prior=prior)


@st.composite
def ints(draw: st.DrawFn) -> Int:
    low, high = sorted((draw(st.integers(-(2**53), 2**53)), draw(st.integers(-(2**53), 2**53))))
    prior = draw(beliefs(st.integers(low, high)))
    if draw(st.booleans()) and low > 0:
        return Int(low, high, log=True, prior=prior)
    return Int(low, high, step=draw(st.integers(1, 9)), prior=prior)


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    values = draw(st.lists(scalars, min_size=1, max_size=4, unique=True))
    weights = st.dictionaries(st.sampled_from(values), st.floats(0.1, 10), min_size=1)
    return Choice(*values, prior=draw(st.none() | st.sampled_from(values) | weights))


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    parent = draw(choices() | ints())
    values = parent.choices if isinstance(parent, Choice) else (parent.low, parent.high)
    when = {"parent": draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))}
    kinds = [floats(), ints(), choices()]
    parameters: dict[str, Parameter] = {"child": Float(0.0, 1.0, when=when), "parent": parent}
    for name in draw(st.lists(st.text(min_size=1, max_size=5), max_size=3, unique=True)):
        parameters.setdefault(name, draw(st.one_of(kinds)))
    return Space(parameters)


@st.composite
def specs(draw: st.DrawFn) -> StudySpec:
    least = draw(st.integers(1, 9))
    metrics = st.dictionaries(st.text(min_size=1, max_size=5), st.sampled_from(["min", "max"]), min_size=1, max_size=3)
    sampler = draw(st.sampled_from(["auto", "tpe", "custom:Mine"]))
    bounds = st.dictionaries(st.sampled_from(["min", "max"]), st.just(0.5), min_size=1)
    ours = sampler == "auto"
    return StudySpec(
        name=draw(st.sampled_from(["s", "études d'été", "a b"])),
        space=draw(st.none() | spaces()),
        metrics=draw(metrics),
        constraints=draw(st.dictionaries(st.text(min_size=1, max_size=5), bounds, max_size=2)),
        cost=draw(st.sampled_from([None, "seconds", "a long name"])) if ours else None,
        transfer=draw(st.sampled_from([None, "auto", ["a", "b"]])) if ours else None,
        budget=draw(st.builds(Budget, trials=st.integers(1, 999), minutes=st.none() | st.floats(0.1, 1e5))),
        fidelity=draw(st.none() | st.just(Fidelity("epoch", min=least, max=least + draw(st.integers(0, 99))))),
        resources=draw(st.builds(Resources, cpus=st.integers(1, 8), gpus=st.integers(0, 8))),
        sampler=sampler,
        pruner=draw(st.sampled_from(["auto", "none"])),
        seed=draw(st.integers(0, 2**40)),
        retries=draw(st.integers(0, 5)),
    )


@given(specs())
def test_a_declaration_survives_json(spec: StudySpec) -> None:
    again = StudySpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False)))
    assert again.to_json() == spec.to_json()
    assert again.differences(spec) == ([], False)
    assert list(again.metrics) == list(spec.metrics)
    assert list(again.space or ()) == list(spec.space or ())


@given(spaces())
def test_a_space_can_be_copied_and_pickled_because_samplers_hold_one(here: Space) -> None:
    for again in (copy.deepcopy(here), pickle.loads(pickle.dumps(here))):
        assert again.to_json() == here.to_json()


@given(spaces())
def test_a_space_prints_what_makes_it_again(here: Space) -> None:
    names = {"Float": Float, "Int": Int, "Choice": Choice}
    for name, parameter in here.items():
        again = eval(repr(parameter), names)
        assert again == parameter, name
        assert again.prior == parameter.prior, name


@given(specs(), specs())
def test_a_difference_is_found_from_both_sides(one: StudySpec, other: StudySpec) -> None:
    assert bool(one.differences(other)[0]) == bool(other.differences(one)[0])


# -- differences ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Float(0.0, 1.0), Float(-1.0, 2.0)),
        (Float(0.1, 1.0, log=True), Float(0.01, 1.0, log=True)),
        (Int(1, 5), Int(0, 9)),
        (Int(1, 5, step=2), Int(-1, 7, step=2)),
        (Choice("a", "b"), Choice("a", "c", "b")),
    ],
)
def test_a_wider_parameter_only_extends_the_study(old: Parameter, new: Parameter) -> None:
    found, extends = study(space=Space({"p": new})).differences(study(space=Space({"p": old})))
    assert found == [f"p was {old}, now {new}"]
    assert extends
    assert not study(space=Space({"p": old})).differences(study(space=Space({"p": new})))[1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (Float(0.1, 1.0), Float(0.1, 1.0, log=True)),
        (Float(0.0, 1.0), Float(0.5, 2.0)),
        (Float(0.0, 1.0), Int(0, 1)),
        (Int(1, 5, step=2), Int(0, 6, step=2)),
        (Int(0, 6), Int(0, 6, step=2)),
        (Choice("a", "b"), Choice("a")),
        (Choice("a", "b"), Int(0, 1)),
    ],
)
def test_another_parameter_makes_another_study(old: Parameter, new: Parameter) -> None:
    found, extends = study(space=Space({"p": new})).differences(study(space=Space({"p": old})))
    assert len(found) == 1
    assert not extends


@pytest.mark.parametrize(
    "changes",
    [
        {"budget": Budget(trials=99)},
        {"resources": Resources(gpus=1)},
        {"sampler": "tpe"},
        {"pruner": "none"},
        {"retries": 9},
        {"cost": "seconds"},
        {"transfer": "auto"},
        {"budget": Budget(stop_when="converged")},
        {"space": Space({"x": Float(0.0, 1.0, prior=0.5)})},
    ],
)
def test_what_may_change_from_run_to_run_is_no_difference(changes: dict[str, Any]) -> None:
    assert study(**changes).differences(study()) == ([], False)


def test_a_parameter_more_or_less_and_another_metric_are_differences_that_cannot_be_extended() -> None:
    more = study(space=Space({"x": Float(0.0, 1.0), "y": Int(1, 2)}))
    assert more.differences(study()) == (["y was absent, now Int(1, 2)"], False)
    assert study().differences(more) == (["y was Int(1, 2), now absent"], False)
    assert study(metrics={"loss": "max"}).differences(study())[1] is False


def test_another_constraint_makes_another_study_because_trials_were_judged_by_the_old_one() -> None:
    bounded, tighter = study(constraints={"ms": {"max": 20}}), study(constraints={"ms": {"max": 10}})
    found, extends = tighter.differences(bounded)
    assert found == ["constraints were {'ms': {'max': 20.0}}, now {'ms': {'max': 10.0}}"]
    assert not extends
    assert bounded.differences(study())[0] and study().differences(bounded)[0]


def test_directions_are_in_optunas_words() -> None:
    assert study(metrics={"a": "min", "b": "max"}).directions == ("minimize", "maximize")
