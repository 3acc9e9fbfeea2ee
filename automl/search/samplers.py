"""Samplers by name, behind one seam: `make_sampler` gives a fresh one, `reseed` makes it the trial's own.

Suggestions are pure functions of (seed, number, history), so no sampler lives longer than one suggestion.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.samplers._lazy_random_state import LazyRandomState
from optuna.trial import FrozenTrial

from automl.core import derived_seed
from automl.declaration import SAMPLERS, Choice, Space
from automl.errors import InvalidInput
from automl.search.cube import count, nearest
from automl.search.grid import GridSampler
from automl.search.skopt_sampler import SkoptSampler

#: A Gaussian process costs n**3: beyond this many finished trials TPE finds as much in a fraction of the time.
MAX_GP_TRIALS = 250
#: Random trials before a model is asked, where the budget does not suggest fewer.
STARTUP_TRIALS = 10
#: Optuna's GP lists all values of a whole or stepped parameter. Above this many it gets a continuum instead, and
#: what it suggests is rounded: the error is below a thousandth of the range.
MAX_GP_VALUES = 1000

_SINGLE_OBJECTIVE = ("cmaes", "skopt")


def make_sampler(
    choice: str | BaseSampler,
    *,
    seed: int,
    space: Space | None,
    directions: Sequence[str],
    n_trials: int | None = None,
    n_finished: int = 0,
) -> BaseSampler:
    """A fresh sampler for one suggestion.

    "auto" is the Gaussian process for one metric over numbers without conditions, up to `MAX_GP_TRIALS` finished
    trials (`n_finished`), and TPE for all else. `space` is None for a define-by-run function. `n_trials` is the
    budget: a quarter of it, and no more than `STARTUP_TRIALS`, is spent at random before a model is asked.

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
    startup = STARTUP_TRIALS if n_trials is None else min(STARTUP_TRIALS, max(3, n_trials // 4))
    if choice == "auto":
        choice = "gp" if _suits_gp(space, directions) and n_finished <= MAX_GP_TRIALS else "tpe"
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


def _suits_gp(space: Space | None, directions: Sequence[str]) -> bool:
    plain = space is not None and not any(p.when or isinstance(p, Choice) for p in space.values())
    return plain and len(directions) == 1


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

    (Optuna's own `reseed_rng` draws the new seed from the operating system.) Found are attributes that are Optuna's
    LazyRandomState, NumPy's RandomState or Generator, or `random.Random`. A sampler that keeps randomness elsewhere
    (a scrambled QMCSampler without a seed, an own class in an own object) must be given its seed by whoever makes it,
    and what a sampler learnt in another study stays in it.
    """
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
