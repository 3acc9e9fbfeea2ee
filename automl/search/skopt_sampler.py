"""scikit-optimize behind Optuna's sampler interface. It is imported at the first fit: that takes seconds."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from automl.errors import InvalidInput
from automl.search.cube import at, unit

#: scikit-optimize's other estimators (GBRT, DUMMY) fail with scikit-learn 1.6 and later.
ESTIMATORS = ("GP", "RF", "ET")


class SkoptSampler(BaseSampler):
    """Bayesian optimisation by scikit-optimize's `Optimizer`, for one objective.

    Numbers are modelled on the unit interval (on a log scale where declared) and rounded to the grid afterwards,
    choices by their index, one-hot. Parameters that some trials do not have are sampled independently, at random.
    Running trials are told with the mean of the values so far (a constant liar), so that parallel trials differ.
    The optimizer is built anew from the study for each suggestion and keeps nothing in between.
    """

    def __init__(self, seed: int | None = None, base_estimator: str = "GP", n_initial_points: int = 10):
        """`base_estimator`: "GP", "RF" or "ET". The first `n_initial_points` complete trials are random.

        Raises:
            InvalidInput: another estimator, or no initial point.
        """
        if base_estimator not in ESTIMATORS:
            problem = f"base_estimator: {base_estimator!r} is unknown"
            raise InvalidInput(f"{problem}; use one of {', '.join(ESTIMATORS)}", "base_estimator")
        if n_initial_points < 1:
            problem = f"n_initial_points: {n_initial_points} is not above zero"
            raise InvalidInput(f"{problem}; give 1 or more", "n_initial_points")
        self._base_estimator = base_estimator
        self._n_initial_points = n_initial_points
        self._rng = np.random.RandomState(seed)
        self._independent_sampler = RandomSampler(seed=seed)

    def reseed_rng(self) -> None:
        self._rng.seed()
        self._independent_sampler.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        shared = IntersectionSearchSpace().calculate(study)
        return {name: distribution for name, distribution in shared.items() if not distribution.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        self._raise_error_if_multi_objective(study)
        if not search_space:
            return {}
        states = (TrialState.COMPLETE, TrialState.RUNNING)
        trials = study.get_trials(deepcopy=False, states=states)
        trials = [t for t in trials if t.number != trial.number and _covers(t, search_space)]
        complete = [t for t in trials if t.state == TrialState.COMPLETE]
        if len(complete) < self._n_initial_points:
            return {name: at(domain, self._rng.random_sample()) for name, domain in search_space.items()}
        y = _losses(complete, study.direction)
        running = [t for t in trials if t.state == TrialState.RUNNING]
        y += [float(np.mean(y))] * len(running)
        x = [_to_skopt(t, search_space) for t in complete + running]
        return _from_skopt(self._ask(search_space, x, y), search_space)

    def _ask(self, search_space: dict[str, BaseDistribution], x: list[list[Any]], y: list[float]) -> list[Any]:
        with warnings.catch_warnings():
            # Its fits remark on bounds and convergence, and its asks on repeated points: nothing to act on.
            warnings.simplefilter("ignore")
            from skopt import Optimizer
            from skopt.space import Categorical, Dimension, Real

            dimensions: list[Dimension] = [
                Categorical(list(range(len(domain.choices))))
                if isinstance(domain, CategoricalDistribution)
                else Real(0.0, 1.0)
                for domain in search_space.values()
            ]
            optimizer = Optimizer(
                dimensions,
                base_estimator=self._base_estimator,
                n_initial_points=self._n_initial_points,
                random_state=self._rng.randint(2**31 - 1),
            )
            optimizer.tell(x, y)
            return list(optimizer.ask())

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        self._raise_error_if_multi_objective(study)
        return self._independent_sampler.sample_independent(study, trial, param_name, param_distribution)


def _covers(trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> bool:
    return all(trial.distributions.get(name) == domain for name, domain in search_space.items())


def _losses(trials: Sequence[FrozenTrial], direction: StudyDirection) -> list[float]:
    """What to minimise, infinite values replaced by the worst and best finite ones."""
    values = np.array([t.values[0] for t in trials], dtype=float)
    if direction == StudyDirection.MAXIMIZE:
        values = -values
    finite = values[np.isfinite(values)]
    if not finite.size:
        return [0.0] * len(values)
    return [float(v) for v in np.clip(values, finite.min(), finite.max())]


def _to_skopt(trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> list[Any]:
    return [
        domain.choices.index(trial.params[name])
        if isinstance(domain, CategoricalDistribution)
        else unit(domain, trial.params[name])
        for name, domain in search_space.items()
    ]


def _from_skopt(point: list[Any], search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
    return {
        name: domain.choices[int(coordinate)]
        if isinstance(domain, CategoricalDistribution)
        else at(domain, float(coordinate))
        for (name, domain), coordinate in zip(search_space.items(), point, strict=True)
    }
