"""Samplers by name and by object."""

from __future__ import annotations

import random
import warnings

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from automl.declaration import Choice, Fidelity, Float, Int, Space
from automl.errors import InvalidInput
from automl.search import BayesianSampler, History, SkoptSampler, make_sampler, reseed, samplers, suggest
from automl.search.samplers import Context, ContinuousGPSampler
from tests.unit.search.trials import MIXED, NUMBERS, search, spread

ONE = ("minimize",)
TWO = ("minimize", "maximize")


def made(choice, space=NUMBERS, directions=ONE, **options):
    return make_sampler(choice, seed=0, space=space, directions=directions, **options)


@pytest.mark.parametrize(("space", "directions"), [(NUMBERS, ONE), (MIXED, TWO), (None, ONE), (None, TWO)])
def test_auto_is_our_own_for_every_study(space, directions):
    assert isinstance(made("auto", space, directions), BayesianSampler)


def test_our_own_sampler_is_told_all_that_the_study_says(monkeypatch):
    told = {}
    monkeypatch.setattr(samplers, "BayesianSampler", lambda seed, **rest: told.update(seed=seed, **rest))
    context = Context(Fidelity("epoch", max=9), "seconds", 0.1, ("a source",))
    make_sampler("auto", seed=7, space=MIXED, directions=ONE, n_trials=40, context=context)
    assert told == {
        "seed": 7,
        "space": MIXED,
        "n_trials": 40,
        "fidelity": Fidelity("epoch", max=9),
        "cost": "seconds",
        "margin": 0.1,
        "sources": ("a source",),
    }


def test_a_sampler_of_ours_that_somebody_made_gets_the_seed_of_the_study():
    first, again = made(BayesianSampler()), made(BayesianSampler())
    history = History(["minimize"], "study", NUMBERS)
    suggestions = [suggest(history, 3, sampler, 99).params for sampler in (first, again)]
    assert suggestions[0] == suggestions[1]


@pytest.mark.parametrize(
    ("choice", "kind"),
    [
        ("tpe", optuna.samplers.TPESampler),
        ("gp", optuna.samplers.GPSampler),
        ("cmaes", optuna.samplers.CmaEsSampler),
        ("skopt", SkoptSampler),
        ("random", optuna.samplers.RandomSampler),
    ],
)
def test_every_name_means_its_sampler(choice, kind):
    assert isinstance(made(choice), kind)


def test_a_small_budget_is_not_spent_on_random_trials():
    counts = [made("gp", n_trials=n)._n_startup_trials for n in (None, 8, 20, 400)]
    assert counts == [10, 3, 5, 10]


@pytest.mark.parametrize("choice", ["bayes", "custom:TPESampler"])
def test_an_unknown_name_is_refused_with_the_known_ones(choice):
    with pytest.raises(InvalidInput, match="use one of auto, tpe") as caught:
        made(choice)
    assert caught.value.field == "sampler"


@pytest.mark.parametrize("choice", ["cmaes", "skopt"])
def test_a_sampler_for_one_metric_is_refused_for_two(choice):
    with pytest.raises(InvalidInput, match="for one metric"):
        made(choice, directions=TWO)


def test_a_sampler_object_is_copied_and_the_copy_seeded():
    original = optuna.samplers.TPESampler(n_startup_trials=3)
    first, again = made(original), made(original)
    assert first is not original
    assert first._n_startup_trials == 3
    assert first._rng.rng.random_sample() == again._rng.rng.random_sample()
    assert original._rng._rng is None  # still unseeded: Optuna makes the state at its first use


def test_every_random_state_of_a_sampler_gets_a_seed_of_its_own():
    class Patchwork(optuna.samplers.RandomSampler):
        def __init__(self):
            super().__init__()
            self.state = np.random.RandomState()
            self.generator = np.random.default_rng()
            self.plain = random.Random()
            self.inner = optuna.samplers.PartialFixedSampler({}, optuna.samplers.RandomSampler())

        def draw(self):
            inner = self.inner._base_sampler._rng.rng.random_sample()
            own = (self._rng.rng.random_sample(), self.state.random_sample())
            return (*own, self.generator.random(), self.plain.random(), inner)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        one, two = Patchwork(), Patchwork()
    reseed(one, 5)
    reseed(two, 5)
    draw = one.draw()
    assert draw == two.draw()
    assert len(set(draw)) == 5
    reseed(two, 6)
    assert not set(draw) & set(two.draw())


def test_the_gaussian_process_takes_wide_whole_numbers_for_a_continuum():
    space = Space({"n": Int(1, 10**9), "m": Int(1, 10**9, log=True), "g": Float(0, 1, step=1e-7)})
    for trial in search("gp", space, lambda p: abs(p["n"] - 5e8) / 1e9 + p["g"], 8, n_trials=8):
        assert type(trial.params["n"]) is type(trial.params["m"]) is int
        assert space.check(trial.params)


def test_narrow_parameters_reach_the_gaussian_process_as_they_are():
    seen = {}

    class Spy(ContinuousGPSampler):
        def _sample_relative_impl(self, study, completed_trials, running_trials, search_space):
            seen.update(search_space)
            return super()._sample_relative_impl(study, completed_trials, running_trials, search_space)

    space = Space({"n": Int(1, 1000), "w": Int(0, 1001), "o": Choice("a", "b"), "x": Float(0, 1)})
    search(Spy(n_startup_trials=3), space, spread, 5)
    assert seen["n"] == IntDistribution(1, 1000)
    assert seen["w"] == FloatDistribution(0, 1001)
