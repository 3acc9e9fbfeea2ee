"""The terms of an acquisition: what each posterior, cost and belief adds to the log of what a point is worth.

| symbol   | shape  | meaning                                                                        |
|----------|--------|--------------------------------------------------------------------------------|
| x        | (m, d) | candidates                                                                     |
| z        | (m, p) | their features                                                                 |
| value    | (m,)   | the term at the candidates                                                     |
| gradient | (m, p) | its derivative with respect to the features                                    |

The terms are added, because they are logs: expected improvement times the probability that the constraints hold,
divided by the cost, times the user's belief.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from automl.search.acquisition import Gradients, log_expected_improvement, log_probability_below
from automl.search.cube import unit
from automl.search.encoding import Encoding
from automl.search.pareto import LogHypervolumeImprovement


class Surrogate(Protocol):
    """A posterior over one function, at k draws of its hyperparameters."""

    def predict(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, (k, m) each."""

    def predict_with_gradient(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Mean and standard deviation, (k, m) each, and the gradient of each with respect to z, (k, m, p)."""


class Term(Protocol):
    """Something that adds to the log of what a point is worth."""

    def value(self, z: np.ndarray) -> np.ndarray:
        """(m,)."""

    def value_and_gradient(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m,) and (m, p)."""


@dataclass(frozen=True)
class Posterior:
    """The log of the mean over the draws of exp(`of`); `of(mean, sd)` has a value and derivatives by mean and sd."""

    surrogate: Surrogate
    of: Callable[[np.ndarray, np.ndarray], Gradients]

    def value(self, z: np.ndarray) -> np.ndarray:
        return _log_mean(self.of(*self.surrogate.predict(z))[0])

    def value_and_gradient(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, sd, mean_slope, sd_slope = self.surrogate.predict_with_gradient(z)
        values, by_mean, by_sd = self.of(mean, sd)
        value = _log_mean(values)
        share = np.exp(values - value) / len(values)  # of each draw in the mean
        gradient = np.einsum("km,kmp->mp", share * by_mean, mean_slope)
        return value, gradient + np.einsum("km,kmp->mp", share * by_sd, sd_slope)


def improvement(surrogate: Surrogate, best: np.ndarray) -> Posterior:
    """The log of the expected improvement on `best` (k,), each draw's own."""
    return Posterior(surrogate, lambda mean, sd: log_expected_improvement(mean, sd, best[:, None]))


def feasibility(surrogate: Surrogate, bound: float = 0.0) -> Posterior:
    """The log of the probability of being at or below `bound`."""
    return Posterior(surrogate, lambda mean, sd: log_probability_below(mean, sd, bound))


def cheapness(surrogate: Surrogate, weight: float) -> Posterior:
    """Minus `weight` times the predicted log cost. Source: Lee et al. 2020, Cost-aware Bayesian Optimization, 3.2."""
    return Posterior(surrogate, lambda mean, sd: (-weight * mean, np.full_like(mean, -weight), np.zeros_like(sd)))


@dataclass(frozen=True)
class Hypervolume:
    """The log of the expected hypervolume improvement of several posteriors, at the first draw of each."""

    surrogates: Sequence[Surrogate]
    of: LogHypervolumeImprovement

    def value(self, z: np.ndarray) -> np.ndarray:
        found = [surrogate.predict(z) for surrogate in self.surrogates]
        means, sds = (np.stack([draws[0] for draws in pair], axis=1) for pair in zip(*found, strict=True))
        return self.of(means, sds)[0]

    def value_and_gradient(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [surrogate.predict_with_gradient(z) for surrogate in self.surrogates]
        means, sds, mean_slopes, sd_slopes = (
            np.stack([draws[0] for draws in part]) for part in zip(*found, strict=True)
        )
        value, by_mean, by_sd = self.of(means.T, sds.T)
        gradient = np.einsum("mo,omp->mp", by_mean, mean_slopes)
        return value, gradient + np.einsum("mo,omp->mp", by_sd, sd_slopes)


#: The density of the user's belief is nowhere below this share of its highest.
_DOUBT = 0.05


@dataclass(frozen=True)
class Belief:
    """Where the user believes the optimum to be: normal in numbers, weights of choices, and a doubt everywhere.

    `centre` and `precision` (d,) of numbers; `weights`: the logs of each choice's weight, by column. The `strength`
    falls as results come, and the doubt is a floor under what is thought impossible, so that a wrong belief is
    forgotten soon, however firm it was. Source: Hvarfner et al. 2022, 2204.11051 (piBO), equation 6; the floor is ours.
    """

    centre: np.ndarray
    precision: np.ndarray
    weights: Mapping[int, np.ndarray]
    strength: float

    def value_and_gradient(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m,) and (m, d) at points (m, d); an inactive parameter says nothing."""
        away = np.nan_to_num(x - self.centre)
        log_density = -0.5 * (away * away) @ self.precision
        for j, weights in self.weights.items():
            active = ~np.isnan(x[:, j])
            log_density[active] += weights[(x[active, j] * len(weights)).astype(int)]
        density = np.exp(log_density)
        share = self.strength * density / (density + _DOUBT)
        return self.strength * np.log(density + _DOUBT), -share[:, None] * away * self.precision


def belief(encoding: Encoding, strength: float) -> Belief | None:
    """The belief that the `prior`s of declared parameters make together; None when there is none."""
    centre, precision = np.zeros((2, encoding.d))
    weights: dict[int, np.ndarray] = {}
    for j, domain in enumerate(encoding.domains):
        prior = getattr(domain, "prior", None)
        if prior is None:
            continue
        if encoding.is_category[j]:
            weights[j] = np.log(np.array(prior, dtype=float) / max(prior))
        else:
            value, spread = prior
            centre[j], precision[j] = unit(domain, value), 1.0 / spread**2
    return Belief(centre, precision, weights, strength) if weights or precision.any() else None


@dataclass(frozen=True)
class Worth:
    """The sum of `terms`, and of the user's belief, over the points of a space: an `optimize.Acquisition`."""

    encoding: Encoding
    terms: Sequence[Term]
    belief: Belief | None = None

    def value(self, x: np.ndarray) -> np.ndarray:
        z = self.encoding.features(x)
        value = np.sum([term.value(z) for term in self.terms], axis=0)
        return value if self.belief is None else value + self.belief.value_and_gradient(x)[0]

    def value_and_gradient(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = self.encoding.features(x)
        found = [term.value_and_gradient(z) for term in self.terms]
        value = np.sum([value for value, _ in found], axis=0)
        gradient = np.sum([slope for _, slope in found], axis=0)[:, self.encoding.first_feature] * self.encoding.stretch
        if self.belief is not None:
            more, slope = self.belief.value_and_gradient(x)
            value, gradient = value + more, gradient + slope
        return value, gradient


def _log_mean(values: np.ndarray) -> np.ndarray:
    """log(mean(exp(values))) over the first axis."""
    top = values.max(axis=0)
    return top + np.log(np.exp(values - top).mean(axis=0))
