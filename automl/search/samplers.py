"""Samplers by name, behind one seam: `make_sampler` gives a fresh one, `reseed` makes it the trial's own.

Suggestions are pure functions of (seed, number, history), so no sampler lives longer than one suggestion. The exception
is our own: it keeps arrays of the trials that it has seen, which change nothing but the time that it takes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.trial import FrozenTrial

from automl.core import derived_seed
from automl.declaration import SAMPLERS, Fidelity, Space
from automl.errors import InvalidInput
from automl.search.bayesian import BayesianSampler
from automl.search.cube import count, nearest
from automl.search.grid import GridSampler
from automl.search.skopt_sampler import SkoptSampler

if TYPE_CHECKING:
    from automl.search.transfer import Source

#: Random trials before a model is asked, where the budget does not suggest fewer.
STARTUP_TRIALS = 10
#: Optuna's GP lists all values of a whole or stepped parameter. Above this many it gets a continuum instead, and
#: what it suggests is rounded: the error is below a thousandth of the range.
MAX_GP_VALUES = 1000

_SINGLE_OBJECTIVE = ("cmaes", "skopt")


@dataclass(frozen=True)
class Context:
    """What a study says beyond its space and its budget of trials. Only our own sampler listens."""

    fidelity: Fidelity | None = None
    cost: str | None = None  #: "seconds", or a user attribute of trials: expected improvement is divided by it
    margin: float | None = None  #: an improvement that is worth more trials, in units of the metric
    sources: Sequence[Source] = ()  #: past studies to learn from


def make_sampler(
    choice: str | BaseSampler,
    *,
    seed: int,
    space: Space | None,
    directions: Sequence[str],
    n_trials: int | None = None,
    context: Context = Context(),
) -> BaseSampler:
    """A fresh sampler for one suggestion; for "auto" our own `BayesianSampler`, which is good for all of them.

    `space` is None for a define-by-run function. `n_trials` is the budget: of the others, those with a model spend a
    quarter of it, and no more than `STARTUP_TRIALS`, at random before they ask it.

    An Optuna sampler object is copied and reseeded, see `reseed`.

    Raises:
        InvalidInput: there is no such sampler, or it does not fit the study.
    """
    if isinstance(choice, BaseSampler):
        sampler = copy.deepcopy(choice)
        reseed(sampler, seed)
        return sampler
    if choice not in SAMPLERS:
        known = ", ".join(SAMPLERS)
        raise InvalidInput(f"sampler: {choice!r} is unknown; use one of {known}, or an Optuna sampler", "sampler")
    if choice in _SINGLE_OBJECTIVE and len(directions) > 1:
        raise InvalidInput(f"sampler: {choice!r} is for one metric; use 'auto', 'tpe' or 'gp'", "sampler")
    if choice == "auto":
        return BayesianSampler(
            seed,
            space=space,
            n_trials=n_trials,
            fidelity=context.fidelity,
            cost=context.cost,
            margin=context.margin,
            sources=context.sources,
        )
    startup = STARTUP_TRIALS if n_trials is None else min(STARTUP_TRIALS, max(3, n_trials // 4))
    if choice == "tpe":
        return _tpe(seed, space, len(directions), startup)
    if choice == "gp":
        return ContinuousGPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)
    if choice == "cmaes":
        return CmaEsSampler(seed=seed, n_startup_trials=1, warn_independent_sampling=False)
    if choice == "skopt":
        return SkoptSampler(seed=seed, n_initial_points=startup)
    if choice == "random":
        return RandomSampler(seed=seed)
    if space is None:
        raise InvalidInput("sampler: 'grid' needs a declared space; declare one or use 'auto'", "sampler")
    return GridSampler(space, seed)


def _tpe(seed: int, space: Space | None, n_objectives: int, startup: int) -> TPESampler:
    # Several metrics: one parameter at a time, as Optuna found best; but a define-by-run function is suggested
    # only what is sampled jointly.
    joint = n_objectives == 1 or space is None
    conditional = space is None or any(p.when for p in space.values())
    with quietly():
        return TPESampler(
            seed=seed,
            n_startup_trials=startup,
            multivariate=joint,
            group=joint and conditional,
            constant_liar=True,
        )


def reseed(sampler: BaseSampler, seed: int) -> None:
    """Set every random state of `sampler`, and of the samplers inside it, to a seed derived from `seed`.

    (Optuna's own `reseed_rng` draws the new seed from the operating system.) Found are our own sampler's seed, and
    attributes that are Optuna's LazyRandomState, NumPy's RandomState or Generator, or `random.Random`. A sampler that
    keeps randomness elsewhere (a scrambled QMCSampler without a seed, an own class in an own object) must be given its
    seed by whoever makes it, and what a sampler learnt in another study stays in it.
    """
    if isinstance(sampler, BayesianSampler):
        sampler._seed = seed
        return
    for name, value in vars(sampler).items():
        own = derived_seed(name, seed)
        if isinstance(value, LazyRandomState):
            value.rng.seed(own)
        elif isinstance(value, np.random.RandomState | Random):
            value.seed(own)
        elif isinstance(value, np.random.Generator):
            setattr(sampler, name, np.random.default_rng(own))
        elif isinstance(value, BaseSampler):
            reseed(value, own)


@contextmanager
def quietly() -> Iterator[None]:
    """Without Optuna's remarks that TPE's `group` is experimental and that the GP clips infinite values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Clip non-finite values")
        yield


class ContinuousGPSampler(GPSampler):
    """Optuna's GPSampler with wide countable parameters (see `MAX_GP_VALUES`) as continua, rounded afterwards."""

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        smooth = {name: _smooth(distribution) for name, distribution in search_space.items()}
        found = super().sample_relative(study, trial, smooth)
        return {name: nearest(search_space[name], value) for name, value in found.items()}


def _smooth(distribution: Any) -> BaseDistribution:
    n = count(distribution)
    if n is None or n <= MAX_GP_VALUES or isinstance(distribution, CategoricalDistribution):
        return distribution
    return FloatDistribution(distribution.low, distribution.high, log=distribution.log)
