"""The next suggestion as a pure function of seed, number and history."""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
import warnings

import optuna
import pytest
from optuna.distributions import json_to_distribution
from optuna.trial import TrialState

from automl.declaration import Choice, Float, Int, Space
from automl.errors import InvalidInput
from automl.search import BayesianSampler, History, SkoptSampler, suggest, to_distributions
from automl.search.history import STUDY_ATTRS
from tests.unit.search.trials import MIXED, NUMBERS, frozen, search, spread


def experimental(sampler, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return sampler(**options)


SAMPLERS = {
    "auto": "auto",
    "tpe": "tpe",
    "gp": "gp",
    "cmaes": "cmaes",
    "skopt": "skopt",
    "random": "random",
    "grid": "grid",
    "TPESampler": optuna.samplers.TPESampler(n_startup_trials=4),
    "NSGAIISampler": optuna.samplers.NSGAIISampler(population_size=4),
    "CmaEsSampler": optuna.samplers.CmaEsSampler(with_margin=False, warn_independent_sampling=False),
    "SkoptSampler": SkoptSampler(base_estimator="ET", n_initial_points=5),
    "BruteForceSampler": experimental(optuna.samplers.BruteForceSampler),
    "QMCSampler": experimental(optuna.samplers.QMCSampler, warn_independent_sampling=False),
}


def suggested(history, sampler, number, **options):
    """The suggestion, without the time that it took."""
    suggestion = suggest(history, number, sampler, 3, n_trials=16, **options)
    suggestion.system_attrs.get("automl:why", {}).pop("ms", None)
    return suggestion


@pytest.mark.parametrize("space", [NUMBERS, MIXED], ids=["numbers", "mixed"])
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_a_rebuilt_history_gives_the_same_suggestion(sampler, space):
    if isinstance(sampler, optuna.samplers.BruteForceSampler):
        space = Space({"n": Int(1, 9), "o": Choice(*"abcd")})
    grown = History(["minimize"], "study", space)
    for number in range(9):
        suggestion = suggested(grown, sampler, number)
        grown.update([frozen(number, suggestion, state=TrialState.WAITING)])
        state = TrialState.RUNNING if number > 6 else TrialState.COMPLETE
        values = [spread(suggestion.params)] if state is TrialState.COMPLETE else None
        grown.update([frozen(number, suggestion, state=state, values=values)])
    rebuilt = History(["minimize"], "study", space)
    rebuilt.update(random.Random(1).sample(grown.study().trials, 9))
    expected = suggested(grown, sampler, 9)
    assert suggested(rebuilt, sampler, 9) == expected
    # ... and with the trial itself in the history, which is how a suggestion is made again in place.
    rebuilt.update([frozen(9, suggestion, state=TrialState.WAITING)])
    assert suggested(rebuilt, sampler, 9) == expected
    # The seed counts, but for points of a fixed sequence, and a model that is sure whatever it drew.
    if sampler not in ("auto", SAMPLERS["QMCSampler"]):
        assert suggest(rebuilt, 9, sampler, 4, n_trials=16).params != expected.params
    assert expected.params == space.check(expected.params) == space.active(expected.params)
    json.dumps([expected.params, expected.system_attrs], allow_nan=False)


def test_another_process_with_another_hash_seed_makes_the_same_suggestion():
    code = (
        "from tests.unit.search.trials import *\n"
        "for sampler, space in (('tpe', MIXED), ('gp', NUMBERS)):\n"
        "    print([t.params for t in search(sampler, space, spread, 12, n_trials=16)])"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(printed) == 1


@pytest.mark.parametrize("sampler", ["tpe", "gp", "skopt"])
def test_parallel_suggestions_differ(sampler):
    history = History(["minimize"], "study", NUMBERS)
    history.update(search("random", NUMBERS, spread, 10))
    points = []
    for number in range(10, 14):
        suggestion = suggested(history, sampler, number)
        history.update([frozen(number, suggestion, state=TrialState.WAITING)])
        points.append(tuple(suggestion.params.values()))
    assert min(math.dist(a, b) for i, a in enumerate(points) for b in points[:i]) > 1e-3


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_thirty_trials_beat_random_ones_clearly(sampler):
    def bowl(params):
        return (params["x"] - 3) ** 2 + (params["y"] - 4) ** 2

    def best(name, seed):
        return min(t.value for t in search(name, NUMBERS, bowl, 30, seed=seed))

    seeds = range(5)
    at_random = statistics.median(best("random", seed) for seed in seeds)
    assert statistics.median(best(sampler, seed) for seed in seeds) < at_random / 2


HARD_SPACES = {
    "wide": Space({"a": Int(1, 10**9), "b": Int(1, 10**9, log=True), "c": Float(0, 1, step=1e-5)}),
    "single": Space({"a": Choice("x"), "b": Int(3, 3), "c": Float(1, 1), "d": Float(0.5, 0.5, log=True)}),
    "one": Space({"a": Float(0, 1)}),
    "mixed": MIXED,
}
HARD_VALUES = {
    "constant": lambda p: 1.0,
    "nan": lambda p: math.nan,
    "infinite": lambda p: math.inf if len(str(p)) % 2 else 1,
    "only_infinite": lambda p: -math.inf,
}


@pytest.mark.parametrize("objective", HARD_VALUES.values(), ids=HARD_VALUES)
@pytest.mark.parametrize("space", HARD_SPACES.values(), ids=HARD_SPACES)
@pytest.mark.parametrize("sampler", ["auto", "tpe", "gp", "cmaes", "skopt", "random"])
def test_no_objective_and_no_space_stops_the_search(sampler, space, objective):
    n = 8 if sampler != "skopt" else 6
    for trial in search(sampler, space, objective, n, n_trials=n):
        assert space.check(trial.params) == trial.params


@pytest.mark.parametrize("objective", HARD_VALUES.values(), ids=HARD_VALUES)
@pytest.mark.parametrize("sampler", ["auto", "tpe", "gp", "random", "NSGAIISampler"])
def test_nor_do_several_metrics(sampler, objective):
    def pair(params):
        return [objective(params), spread(params)]

    options = {"directions": ("minimize", "maximize"), "n_trials": 8}
    for trial in search(SAMPLERS[sampler], MIXED, pair, 8, **options):
        assert MIXED.check(trial.params) == trial.params


def test_fixed_values_win_and_the_rest_follows_them():
    history = History(["minimize"], "study", MIXED)
    history.update(search("tpe", MIXED, spread, 12))
    for sampler in ("auto", "tpe", "gp", "skopt", "random", "grid"):
        fixed = {"optimizer": "sgd", "lr": 0.05, "momentum": 0.1 + 0.2, "blocks": 1, "skip": True}
        params = suggest(history, 12, sampler, 0, fixed=fixed).params
        assert params.items() >= {"optimizer": "sgd", "lr": 0.05, "blocks": 1}.items()
        assert params["momentum"] == pytest.approx(0.3)
        assert "skip" not in params  # blocks=1 switches it off
        assert MIXED.check(params)


@pytest.mark.parametrize("sampler", ["auto", "tpe", "random"])
def test_a_fixed_parent_switches_its_children_on(sampler):
    history = History(["minimize"], "study", MIXED)
    history.update(search("random", MIXED, spread, 12))
    for number in range(12, 16):
        suggestion = suggest(history, number, sampler, 0, fixed={"optimizer": "sgd", "blocks": 3})
        assert suggestion.params.keys() == set(MIXED)
        assert MIXED.check(suggestion.params)
        assert suggestion.system_attrs["fixed_params"] == {"optimizer": "sgd", "blocks": 3}
    without = suggest(history, 16, sampler, 0, fixed={"optimizer": "adamw", "blocks": 1}).params
    assert without.keys() == set(MIXED) - {"momentum", "skip"}


def test_a_sampler_knows_the_fixed_values_before_it_chooses_the_others():
    class Spy(optuna.samplers.RandomSampler):
        def sample_relative(self, study, trial, search_space):
            seen.append(trial.system_attrs.get("fixed_params"))
            return super().sample_relative(study, trial, search_space)

    seen = []
    history = History(["minimize"], "study", NUMBERS)
    suggest(history, 0, Spy(), 0, fixed={"x": 1.0})
    assert "fixed_params" not in suggest(history, 0, Spy(), 0).system_attrs
    assert seen == [{"x": 1.0}, None]


def test_our_own_sampler_is_used_as_it_is_and_others_are_copied():
    class Ours(BayesianSampler):
        def sample_relative(self, study, trial, search_space):
            used.append(self)
            return {}

    class Theirs(optuna.samplers.RandomSampler):
        sample_relative = Ours.sample_relative

    history = History(["minimize"], "study", NUMBERS)
    for made in (Ours(0, space=NUMBERS), Theirs()):
        used = []
        for number in range(2):
            suggest(history, number, made, 0)
        assert [sampler is made for sampler in used] == [isinstance(made, Ours)] * 2


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        ({"lr": 5.0}, "outside"),
        ({"depth": 3}, "no such parameter"),
        ({"optimizer": "lion"}, "outside"),
        ({"momentum": 0.25}, "between the grid points"),
    ],
)
def test_a_fixed_value_outside_the_space_is_refused(fixed, message):
    with pytest.raises(InvalidInput, match=message):
        suggest(History(["minimize"], "study", MIXED), 0, "tpe", 0, fixed=fixed)


def test_distributions_are_those_of_the_declared_space():
    suggestion = suggest(History(["minimize"], "study"), 0, "random", 0, space=MIXED)
    declared = to_distributions(MIXED)
    assert suggestion.distributions.keys() == suggestion.params.keys()
    assert all(json_to_distribution(text) == declared[name] for name, text in suggestion.distributions.items())


def test_a_define_by_run_suggestion_is_the_joint_part_of_what_earlier_trials_asked():
    history = History(["minimize"], "study")
    assert suggest(history, 0, "tpe", 0).params == {}
    history.update(search("random", MIXED, spread, 20))
    suggestion = suggest(history, 20, "tpe", 0, fixed={"lr": 0.01, "unheard": 7})
    assert suggestion.params.keys() == {*MIXED, "unheard"}
    assert suggestion.params.items() >= {"lr": 0.01, "unheard": 7}.items()
    assert suggestion.distributions.keys() == set(MIXED)
    assert suggest(history, 20, "random", 0).params == {}
    two = History(["minimize", "minimize"], "study")
    two.update(search("random", MIXED, lambda p: [spread(p), 1], 20, directions=("minimize", "minimize")))
    assert suggest(two, 20, "auto", 0).params.keys() == set(MIXED)


def test_the_state_of_cmaes_travels_with_the_trials():
    trials = search("cmaes", NUMBERS, spread, 30)
    assert any(key.startswith("cma:optimizer") for t in trials for key in t.system_attrs)
    assert trials[-1].system_attrs["cma:generation"] >= 3


def test_what_a_sampler_notes_on_the_study_travels_with_the_trials():
    trials = search(SAMPLERS["QMCSampler"], NUMBERS, spread, 8)
    assert all(STUDY_ATTRS in t.system_attrs for t in trials[2:])
    assert len({tuple(t.params.values()) for t in trials}) == 8


def test_what_is_in_the_parameters_is_not_noted_twice():
    trials = search("gp", NUMBERS, spread, 6, n_trials=12) + search("tpe", NUMBERS, spread, 6, n_trials=12)
    assert not any(t.system_attrs for t in trials)
