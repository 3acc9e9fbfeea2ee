"""The default sampler: Optuna's own conformance suite, hostile studies, and that it is a function of the history."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna import Study, Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase
from optuna.trial import FrozenTrial, TrialState, create_trial

from automl.core import Attr
from automl.declaration import Choice, Float, Int, Space
from automl.search import BayesianSampler


class TestOptunaContract(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return BayesianSampler


def study_of(trials: list[FrozenTrial], sampler: BaseSampler, direction: str = "minimize") -> Study:
    study = optuna.create_study(sampler=sampler, direction=direction)
    study.add_trials(trials)
    return study


def tree(trial: Trial) -> float:
    """Branches of different parameters, one of them two levels deep."""
    model = trial.suggest_categorical("model", ["linear", "forest", "net"])
    if model == "linear":
        return abs(math.log10(trial.suggest_float("c", 1e-4, 1e4, log=True)) - 1.0)
    if model == "forest":
        return 0.5 + abs(trial.suggest_int("depth", 1, 40) - 12) / 40.0
    width = trial.suggest_int("width", 16, 1024, log=True)
    if trial.suggest_categorical("optimizer", ["sgd", "adam"]) == "sgd":
        return 0.3 + abs(trial.suggest_float("momentum", 0.0, 1.0) - 0.9) + width / 1e5
    return 0.2 + width / 1e4


# -- a function of the history ------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [None, {"x": Float(0, 1), "k": Int(1, 10**9), "c": Choice("a", "b")}])
def test_a_rebuilt_sampler_makes_the_same_suggestion_bit_for_bit(space):
    def objective(trial: Trial) -> float:
        x, k = trial.suggest_float("x", 0, 1), trial.suggest_int("k", 1, 10**9)
        return (x - 0.3) ** 2 + (k / 1e9 - 0.5) ** 2 + (trial.suggest_categorical("c", ["a", "b"]) == "a")

    lasting = optuna.create_study(sampler=BayesianSampler(3, space=space))
    lasting.optimize(objective, n_trials=14)
    rebuilt = optuna.create_study(sampler=BayesianSampler(3, space=space))
    for trial in lasting.trials:
        rebuilt.sampler = BayesianSampler(3, space=space)
        rebuilt.optimize(objective, n_trials=1)
        assert rebuilt.trials[-1].params == trial.params
    why, again = (study.trials[-1].system_attrs[Attr.WHY] for study in (lasting, rebuilt))
    assert {**why, "ms": 0} == {**again, "ms": 0}


def test_two_seeds_differ():
    found = []
    for seed in (0, 1):
        study = optuna.create_study(sampler=BayesianSampler(seed))
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=7)
        found.append([trial.params["x"] for trial in study.trials])
    assert found[0] != found[1]


def test_a_result_that_changes_afterwards_is_read_again():
    sampler = BayesianSampler(0, space={"x": Float(0, 1)})
    study = optuna.create_study(sampler=sampler)
    study.optimize(lambda trial: abs(trial.suggest_float("x", 0, 1) - 0.2), n_trials=12)
    trials = [create_trial(params=t.params, distributions=t.distributions, value=-t.value) for t in study.trials]
    other = study_of(trials, sampler)
    expected = study_of(trials, BayesianSampler(0, space={"x": Float(0, 1)}))
    assert other.ask({"x": FloatDistribution(0, 1)}).params == expected.ask({"x": FloatDistribution(0, 1)}).params


# -- what it learns ------------------------------------------------------------------------------------------------


def test_conditions_that_nobody_declared_are_learnt():
    study = optuna.create_study(sampler=BayesianSampler(0))
    study.optimize(tree, n_trials=60)
    assert study.best_value < 0.1
    # The branch's own parameter came from the model: at random, its best of so few would be 0.2 away.
    away = sorted(abs(math.log10(t.params["c"]) - 1.0) for t in study.trials[10:] if "c" in t.params)
    assert away[0] < 0.05
    assert away[len(away) // 2] < 1.8  # at random 2.2


def test_maximising_is_minimising_the_negative():
    points = []
    for direction, sign in (("minimize", 1.0), ("maximize", -1.0)):
        study = optuna.create_study(sampler=BayesianSampler(0), direction=direction)
        study.optimize(lambda trial, sign=sign: sign * (trial.suggest_float("x", -5, 5) - 1.0) ** 2, n_trials=12)
        points.append([trial.params["x"] for trial in study.trials])
        assert sign * study.trials[-1].system_attrs[Attr.WHY]["best"] == pytest.approx(0.0, abs=1.0)
    assert points[0] == points[1]


def test_an_enqueued_parameter_is_kept_and_the_others_suit_it():
    study = optuna.create_study(sampler=BayesianSampler(0))

    def objective(trial: Trial) -> float:
        return trial.suggest_float("x", 0, 1) / 10 + (trial.suggest_float("y", 0, 1) - 0.7) ** 2

    study.optimize(objective, n_trials=20)
    study.enqueue_trial({"x": 0.1})
    study.optimize(objective, n_trials=1)
    assert study.trials[-1].params["x"] == 0.1
    assert abs(study.trials[-1].params["y"] - 0.7) < 0.1


def test_lost_machines_teach_nothing_and_failures_do():
    distributions = {"x": FloatDistribution(0, 1)}

    def failed(kind: str) -> list[FrozenTrial]:
        return [
            create_trial(
                state=TrialState.FAIL,
                params={"x": 0.5 + i / 40},
                distributions=distributions,
                system_attrs={"automl:failure_kind": kind},
            )
            for i in range(20)
        ]

    done = [create_trial(params={"x": i / 20}, distributions=distributions, value=-i / 20) for i in range(10)]
    lost, broken = (study_of(done + failed(kind), BayesianSampler(0)) for kind in ("lost", "out_of_memory"))
    for study in (lost, broken):
        study.ask(distributions)
    assert "feasible" not in lost.trials[-1].system_attrs[Attr.WHY]
    assert broken.trials[-1].system_attrs[Attr.WHY]["feasible"] < 1.0


# -- hostile studies -----------------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.floats(allow_nan=False, width=64),
    st.sampled_from([math.inf, -math.inf, 1e308, -1e308, 5e-324, 0.0, 1.0]),
)
DISTRIBUTIONS: st.SearchStrategy[BaseDistribution] = st.sampled_from(
    [
        FloatDistribution(-1e9, 1e9),
        FloatDistribution(1e-12, 1e6, log=True),
        FloatDistribution(0.0, 1.0, step=0.25),
        FloatDistribution(2.0, 2.0),
        IntDistribution(0, 10**9),
        IntDistribution(1, 10**9, log=True),
        IntDistribution(-3, 12, step=3),
        CategoricalDistribution(["a", None, 3, True, 2.5]),
        CategoricalDistribution([f"choice {i}" for i in range(40)]),
        CategoricalDistribution(["only"]),
    ]
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    distributions=st.lists(DISTRIBUTIONS, min_size=1, max_size=4),
    values=st.lists(VALUES, min_size=5, max_size=12),
    data=st.data(),
)
def test_whatever_was_measured_the_suggestion_is_inside_the_space(distributions, values, data):
    named = {f"p{i}": distribution for i, distribution in enumerate(distributions)}
    seeded = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials: list[FrozenTrial] = []
    for value in values:
        asked = seeded.ask(named)
        state = data.draw(st.sampled_from([TrialState.COMPLETE] * 4 + [TrialState.FAIL, TrialState.PRUNED]))
        reports = {} if state == TrialState.FAIL else {1: value, 2: math.nan}
        trials.append(
            create_trial(
                state=state,
                value=value if state == TrialState.COMPLETE else None,
                params=asked.params,
                distributions=named,
                intermediate_values=reports,
            )
        )
    study = study_of(trials + trials[:2], BayesianSampler(0), data.draw(st.sampled_from(["minimize", "maximize"])))
    for _ in range(2):  # the second with the first one pending
        asked = study.ask(named)
        for name, distribution in named.items():
            assert distribution._contains(distribution.to_internal_repr(asked.params[name]))


def test_a_range_of_a_billion_whole_numbers_is_searched_to_a_thousandth():
    study = optuna.create_study(sampler=BayesianSampler(0))
    study.optimize(lambda trial: abs(trial.suggest_int("x", 0, 10**9) / 1e9 - 0.7313), n_trials=25)
    assert study.best_value < 1e-3


def test_a_declared_space_may_meet_trials_of_a_wider_one():
    space = Space({"x": Float(0, 1), "c": Choice("a", "b")})
    wider: dict[str, Any] = {"x": FloatDistribution(0, 3), "c": CategoricalDistribution(["a", "b", "gone"])}
    trials = [
        create_trial(params={"x": i / 5, "c": ("a", "b", "gone")[i % 3]}, distributions=wider, value=float(i))
        for i in range(15)
    ]
    study = study_of(trials, BayesianSampler(0, space=space))
    asked = study.ask({"x": FloatDistribution(0, 1), "c": CategoricalDistribution(["a", "b"])})
    assert space.check(asked.params) == asked.params
    assert study.trials[-1].system_attrs[Attr.WHY]["arm"] == "model"
