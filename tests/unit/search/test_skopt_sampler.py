"""scikit-optimize as an Optuna sampler: Optuna's own conformance suite, and what is ours."""

from __future__ import annotations

import functools

import optuna
import pytest
from optuna.testing import pytest_samplers as suite
from optuna.trial import TrialState

from automl.declaration import Choice, Float, Int, Space
from automl.errors import InvalidInput
from automl.search import History, SkoptSampler, suggest
from tests.unit.search.trials import MIXED, frozen, search, spread


@pytest.fixture(scope="module", autouse=True)
def _quiet_optuna():
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(level)


class TestBasics(suite.BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return functools.partial(SkoptSampler, seed=0, base_estimator="ET")


class TestJointSampling(suite.RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return functools.partial(SkoptSampler, seed=0, base_estimator="ET")


class TestSingleObjectiveOnly(suite.SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return SkoptSampler


@pytest.mark.parametrize("estimator", ["GP", "RF", "ET"])
def test_each_estimator_models_every_kind_of_parameter_and_returns_plain_values(estimator):
    space = Space(
        {
            "lr": Float(1e-4, 1, log=True),
            "q": Float(0, 1, step=0.1),
            "n": Int(1, 64, log=True),
            "o": Choice("a", None, True, 3),
        }
    )
    sampler = SkoptSampler(base_estimator=estimator, n_initial_points=4)
    for trial in search(sampler, space, spread, 7):
        assert {type(v) for v in space.check(trial.params).values()} <= {float, int, str, bool, type(None)}


def test_it_finds_a_minimum_from_plain_optuna():
    study = optuna.create_study(direction="maximize", sampler=SkoptSampler(seed=1, n_initial_points=5))
    study.optimize(lambda t: -((t.suggest_float("x", -5, 5) - 2) ** 2), n_trials=12)
    assert study.best_value > -0.01


def test_parameters_that_some_trials_lack_are_drawn_independently():
    trials = search(SkoptSampler(n_initial_points=3, base_estimator="ET"), MIXED, spread, 6)
    assert all(MIXED.check(t.params) for t in trials)
    assert len({len(t.params) for t in trials}) > 1


def test_pending_trials_are_told_as_liars():
    space = Space({"x": Float(0, 1)})
    sampler = SkoptSampler(n_initial_points=4)
    history = History(["minimize"], "study", space)
    history.update(search("random", space, lambda p: (p["x"] - 0.7) ** 2, 8))
    alone = suggest(history, 8, sampler, 0)
    history.update([frozen(8, alone, state=TrialState.WAITING)])
    seen = []
    asked = SkoptSampler._ask

    class Spy(SkoptSampler):
        def _ask(self, search_space, x, y):
            seen.append((x, y))
            return asked(self, search_space, x, y)

    suggest(history, 9, Spy(n_initial_points=4), 0)
    ((x, y),) = seen
    assert x[-1] == [pytest.approx(alone.params["x"])]
    assert y[-1] == pytest.approx(sum(y[:-1]) / 8)


@pytest.mark.parametrize(("values", "losses"), [([1.0, float("inf"), -2.0], [-1.0, -1.0, 2.0])])
def test_infinite_values_become_the_best_or_worst_finite_ones(values, losses):
    space = Space({"x": Float(0, 1)})
    seen = []

    class Spy(SkoptSampler):
        def _ask(self, search_space, x, y):
            seen.append(y)
            return [0.5]

    history = History(["maximize"], "study", space)
    for number, value in enumerate(values):
        history.update([frozen(number, suggest(history, number, "random", 0), values=[value])])
    suggest(history, 3, Spy(n_initial_points=3), 0)
    assert seen == [losses]


def test_a_wrong_estimator_or_number_of_initial_points_is_refused():
    with pytest.raises(InvalidInput, match="'GBRT' is unknown; use one of GP, RF, ET"):
        SkoptSampler(base_estimator="GBRT")
    with pytest.raises(InvalidInput, match="give 1 or more"):
        SkoptSampler(n_initial_points=0)
