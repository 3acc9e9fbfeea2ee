"""What past studies over an overlapping space teach a new one.

| symbol  | shape    | meaning                                                                        |
|---------|----------|--------------------------------------------------------------------------------|
| x, z    | (n, d/p) | the target's points and their features (see `encoding`)                        |
| y       | (n,)     | the target's values, warped and standardised; small is good                    |
| M       | (n, s)   | posterior means of the s sources at the target's points                        |
| C       | (n, n)   | covariance of the target's observations, at each draw of its hyperparameters   |
| e       | (n,)     | leave-one-out errors of the target's model, C^-1 y / diag(C^-1)                |
| w       | (s,)     | weights of the sources, not negative                                           |

Three things are learnt, from one Gaussian process a source. First, where to begin: a portfolio of the sources' best
points. Second, which parameters matter: the medians of the sources' lengthscales are the centre of the target's prior.
Third, the shape: the weighted means of the sources are the target's prior mean.

The weights are those that would have predicted each of the target's results best from the others: stacking of
leave-one-out errors, linear in w, so that they are the solution of a least-squares problem with w >= 0. A source that
misleads makes the errors larger and gets no weight; what it costs is the trials of the portfolio, and a prior of the
lengthscales that the results soon overrule.

Sources: Feurer, Letham, Hutter and Bakshy 2018, 1802.02219 (rank-weighted ensembles, the guard against dilution);
Wistuba, Schilling and Schmidt-Thieme 2015, Sequential Model-Free Hyperparameter Tuning (greedy portfolios);
Sundararajan and Keerthi 2001, Predictive Approaches for Choosing Hyperparameters in Gaussian Processes (for e).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.optimize import nnls

from automl.search import gp
from automl.search.cube import unit
from automl.search.encoding import Encoding
from automl.search.warping import half_rank

#: Sources and rows of each that are used at most: models of more cost more than they tell.
MAX_SOURCES, MAX_ROWS = 8, 100
#: A source with fewer usable rows has no shape to speak of.
LEAST_ROWS = 3
#: A number outside the new range is clipped into it when it is nearer than this share of the range; a row with one that
#: is farther away says nothing about the border, and is dropped.
_NEAR = 0.1
_FIT_ITERATIONS = 60
#: What is believed of a new task before its first result: its values are a source's and a difference, as smooth as the
#: sources are, of this share of the distance from the median of a source to its best.
_DIFFERENCE = 0.5
_SAMPLES = 64
#: The prior of the target's lengthscales around the sources': a deviation of about 0.7 on the log scale, both ways.
_STIFFNESS, _SHORTNESS = 0.5, 2.0
#: Prior deviation of a weight, in units of one over the root of the number of sources, and of the constant.
_WEIGHT_SD, _CONSTANT_SD = 1.0, 0.5
#: Times 1 / sqrt(n): the deviation of the agreement with results that a source knows nothing of.
_CHANCE = 2.0 / 3.0
#: A source that moves the prior mean by less, in standard deviations of y, is dropped: it costs and changes nothing.
_LEAST_WEIGHT = 0.02


@dataclass(frozen=True)
class Source:
    """A past study: parameters by name and the value of each trial, signed so that smaller is better.

    Parameters may be missing, unknown to the new space or outside of it; values may be infinite or NaN.
    """

    name: str
    params: tuple[Mapping[str, Any], ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Ensemble:
    """The target's posterior around the weighted means of its sources: a surrogate.

    `base` models what the sources leave open; its standard deviation is the target's own, so that sources never make
    the search bolder than its results do. `z` (n, p): the points of `fitted`.
    """

    base: gp.GaussianProcess
    sources: tuple[gp.GaussianProcess, ...]
    shares: np.ndarray
    constant: float
    z: np.ndarray
    weights: Mapping[str, float]  #: by name: how far each source moves the prior mean; 0 for dropped ones

    @cached_property
    def fitted(self) -> np.ndarray:
        """(k, n) The posterior means at the observed and pending points."""
        return np.asarray(self.base.fitted + self._prior_mean(self.z))

    def given(self, z: np.ndarray) -> Ensemble:
        """The posterior when points `z` (q, p) are under evaluation: more certain near them, with the same mean."""
        return replace(self, base=self.base.given(z), z=np.concatenate([self.z, z]))

    def predict(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (k, m) at features `z` (m, p)."""
        mean, sd = self.base.predict(z)
        return mean + self._prior_mean(z), sd

    def predict_with_gradient(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`predict`, and the gradients of mean and standard deviation with respect to z, (k, m, p) each."""
        mean, sd, mean_slope, sd_slope = self.base.predict_with_gradient(z)
        mean = mean + self.constant
        for source, share in zip(self.sources, self.shares, strict=True):
            theirs, _, slope, _ = source.predict_with_gradient(z)
            mean, mean_slope = mean + share * theirs, mean_slope + share * slope
        return mean, sd, mean_slope, sd_slope

    def _prior_mean(self, z: np.ndarray) -> np.ndarray:
        """(m,)."""
        means = [share * _mean(source, z) for source, share in zip(self.sources, self.shares, strict=True)]
        return np.asarray(self.constant + np.sum(means, axis=0)) if means else np.full(len(z), self.constant)


class Transfer:
    """Past studies as models over the space of a new one. Nothing of it is random: equal sources make equal models."""

    def __init__(self, encoding: Encoding, sources: Sequence[Source]):
        """`sources`: the most related first; of the usable ones the first `MAX_SOURCES` count."""
        self._encoding = encoding
        self._sources = tuple(sources)

    @property
    def names(self) -> tuple[str, ...]:
        """The sources that tell anything about the new space."""
        return tuple(past.name for past in self._past)

    def portfolio(self, k: int) -> np.ndarray:
        """Up to `k` different points (<= k, d) of the space to begin with, the most promising first.

        Chosen one by one from the best third of each source, so that the best of them is expected to be as good as
        possible on a task that resembles one of the sources, and nobody knows which. With one source the points spread
        around its best one, as far as its difference from the new task may reach.
        """
        if not self._past or k < 1:
            return np.empty((0, self._encoding.d))
        x = np.concatenate([past.x[past.order[: math.ceil(len(past.x) / 3)]] for past in self._past])
        x = x[np.sort(np.unique(_places(x), axis=0, return_index=True)[1])]
        z = self._encoding.features(x)
        # The same differences for every call: a generator of its own, not a stream that the calls share.
        noise = np.random.default_rng(0).standard_normal((len(self._past), _SAMPLES, len(x)))
        scale = np.exp(-self._lengths)[self._encoding.group]
        differences = _DIFFERENCE * noise @ np.linalg.cholesky(_correlation(z * scale)).T
        losses = (np.stack([past.loss(z) for past in self._past])[:, None] + differences).reshape(-1, len(x))
        best = np.full(len(losses), np.inf)
        chosen: list[int] = []
        for _ in range(min(k, len(x))):
            expected = np.minimum(best[:, None], losses).mean(axis=0)
            expected[chosen] = np.inf
            chosen.append(int(expected.argmin()))
            best = np.minimum(best, losses[:, chosen[-1]])
        return x[chosen]

    def prior(self, base: gp.Prior) -> gp.Prior:
        """`base` with the sources' lengthscales in its centre; where no source knows a parameter, it stays as it is."""
        if not self._past:
            return base
        centre: Any = np.where(np.isfinite(self._lengths), self._lengths, base.centre)  # (d,) for one number
        return replace(base, centre=centre, stiffness=_STIFFNESS, shortness=_SHORTNESS)

    def ensemble(self, target: gp.GaussianProcess, data: gp.Data) -> Ensemble:
        """`target`, the posterior given `data`, with the sources as its prior mean; itself when none is of use."""
        means = np.stack([_mean(past.model, data.z) for past in self._past], axis=1) if self._past else data.z[:, :0]
        shares, constant = stacked(_precision(target), means, data.y)
        weight = shares * [past.spread for past in self._past]
        shares = np.where(weight < _LEAST_WEIGHT, 0.0, shares)
        weights = dict(zip(self.names, np.where(shares > 0.0, weight, 0.0).tolist(), strict=True))
        used = np.flatnonzero(shares)
        if not used.size:  # as if there were no sources
            return Ensemble(target, (), shares[used], 0.0, data.z, weights)
        base = _with_targets(target, data.z, data.y - means @ shares - constant)
        return Ensemble(base, tuple(self._past[j].model for j in used), shares[used], constant, data.z, weights)

    @cached_property
    def _past(self) -> tuple[_Past, ...]:
        found = (_past(self._encoding, source) for source in self._sources)
        return tuple([past for past in found if past is not None][:MAX_SOURCES])

    @cached_property
    def _lengths(self) -> np.ndarray:
        """(d,) The medians of the log lengthscales over the sources that know a parameter; infinite if none does."""
        lengths = np.stack([past.theta[: self._encoding.d] for past in self._past])
        return np.array(
            [np.median(column[np.isfinite(column)]) if np.isfinite(column).any() else np.inf for column in lengths.T]
        )


def stacked(precision: np.ndarray, means: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights (s,) of the sources' `means` (n, s), none negative, and a constant, as the prior mean of targets `y`.

    `precision` (k, n, n) is C^-1 at each draw. Minimised is the mean over the draws of the squared leave-one-out
    errors, each over its variance, 1 / diag(C^-1). A few results say little: then the weights stay near 1 / s. Before
    that, sources that rank the results the wrong way, by more than chance, are dropped: two that contradict each other
    could else cancel.
    """
    n, s = means.shape
    kept = np.flatnonzero(agreement(means, y) > -_CHANCE / math.sqrt(n))
    deviation = np.sqrt(len(precision) * np.diagonal(precision, axis1=1, axis2=2))[..., None]
    columns = (precision @ np.column_stack([means, np.ones(n), y]) / deviation).reshape(-1, s + 2)
    theirs, level, goal = columns[:, kept], columns[:, s], columns[:, s + 1]
    firmness = math.sqrt(max(len(kept), 1)) / _WEIGHT_SD
    belief = np.zeros((len(kept) + 1, len(kept) + 2))
    belief[:-1, :-2] = firmness * np.eye(len(kept))
    belief[-1, -2:] = 1.0 / _CONSTANT_SD, -1.0 / _CONSTANT_SD
    believed = np.append(np.full(len(kept), firmness / max(len(kept), 1)), 0.0)
    # The constant may have either sign: the difference of two columns.
    problem = np.column_stack([theirs, level, -level])
    found, _ = nnls(np.concatenate([problem, belief]), np.concatenate([goal, believed]), maxiter=1000)
    shares = np.zeros(s)
    shares[kept] = found[:-2]
    return shares, float(found[-2] - found[-1])


def agreement(means: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(s,) Of the pairs of results, those that a column of `means` (n, s) ranks as `y` (n,) does, less those that it
    ranks the other way round, as a share: Kendall's tau, 1 - 2 times the ranking loss of Feurer et al.
    """
    of_y = np.sign(y[:, None] - y)
    right = [float(np.vdot(np.sign(mean[:, None] - mean), of_y)) for mean in means.T]
    return np.array(right) / max(float(np.abs(of_y).sum()), 1.0)


@dataclass(frozen=True)
class _Past:
    """One source: its points in the new space, and the model of its values."""

    name: str
    x: np.ndarray
    theta: np.ndarray
    model: gp.GaussianProcess

    @cached_property
    def order(self) -> np.ndarray:
        """(n,) Rows, the best posterior mean first."""
        return np.argsort(self.model.fitted[0], kind="stable")

    @property
    def spread(self) -> float:
        """The standard deviation of its posterior means: about 1, or near 0 when it found nothing but noise."""
        return float(self.model.fitted.std())

    def loss(self, z: np.ndarray) -> np.ndarray:
        """(m,) Posterior means, 0 at the best of the source's points and 1 at their median."""
        fitted = self.model.fitted[0]
        low, high = float(fitted.min()), float(np.median(fitted))
        return (_mean(self.model, z) - low) / max(high - low, 1e-9)


def _past(encoding: Encoding, source: Source) -> _Past | None:
    """None when the source tells nothing about the space: too few rows, one value only, or no common parameter."""
    rows = [
        (row, float(value))
        for params, value in zip(source.params, source.values, strict=True)
        if math.isfinite(value) and (row := _coordinates(encoding, params)) is not None
    ]
    values = np.array([value for _, value in rows])
    if len(rows) < LEAST_ROWS or values.min() == values.max():
        return None
    x = np.array([row for row, _ in rows])
    known = ~np.isnan(x).all(axis=0)
    if not known.any():
        return None
    x = encoding.snap(_with_parents(encoding, x, known))
    kept = _frozen(encoding.features(x), values)
    x = x[kept]
    data = gp.Data(encoding.features(x), half_rank(values[kept]).y, encoding.group, np.ones(len(x)))
    prior = gp.Prior()
    theta = gp.fit(data, prior, prior.start(encoding.d), _FIT_ITERATIONS)
    theta[: encoding.d][~known] = np.inf  # what never varied there must not matter here
    return _Past(source.name, x, theta, gp.GaussianProcess(data, theta[None]))


def _coordinates(encoding: Encoding, params: Mapping[str, Any]) -> np.ndarray | None:
    """(d,) NaN where the row has no value; None when it has one that the space has not."""
    x = np.full(encoding.d, np.nan)
    for j, (name, domain) in enumerate(zip(encoding.names, encoding.domains, strict=True)):
        if name in params:
            if not _reaches(domain, params[name]):
                return None
            x[j] = unit(domain, params[name])
    return x


def _reaches(domain: Any, value: Any) -> bool:
    """Whether the domain has `value`, or ends near it."""
    if hasattr(domain, "choices"):
        return any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in domain.choices)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    if domain.log:
        if value <= 0:
            return False
        low, high, place = math.log(domain.low), math.log(domain.high), math.log(value)
    else:
        low, high, place = float(domain.low), float(domain.high), float(value)
    near = _NEAR * high - _NEAR * low  # the range itself may be infinite
    return low - near <= place <= high + near


def _with_parents(encoding: Encoding, x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """`x` (n, d) where a parent that the source never had gets a value for which its child, if present, is active."""
    x = x.copy()
    for j in reversed(range(encoding.d)):  # children after parents in the columns, before them here
        for parent, values in encoding.conditions[j]:
            if not known[parent]:
                x[~np.isnan(x[:, j]), parent] = values[0]
    return x


def _frozen(z: np.ndarray, values: np.ndarray) -> np.ndarray:
    """At most `MAX_ROWS` rows, in their order: the best third, then always the one that is farthest from the others."""
    if len(values) <= MAX_ROWS:
        return np.arange(len(values))
    order = np.argsort(values, kind="stable")
    kept = order[: MAX_ROWS // 3].tolist()
    distance = np.min([((z - z[i]) ** 2).sum(axis=1) for i in kept], axis=0)
    distance[kept] = -1.0
    while len(kept) < MAX_ROWS:
        kept.append(int(distance.argmax()))
        distance = np.minimum(distance, ((z - z[kept[-1]]) ** 2).sum(axis=1))
        distance[kept] = -1.0
    return np.sort(kept)


def _correlation(a: np.ndarray) -> np.ndarray:
    """(m, m) The Matern-5/2 correlation of scaled features, with enough on the diagonal to be factorised."""
    squares = (a * a).sum(axis=1)
    r = np.sqrt(5.0 * np.maximum(squares[:, None] + squares - 2.0 * a @ a.T, 0.0))
    np.fill_diagonal(r, 0.0)
    return np.asarray((1.0 + r + r * r / 3.0) * np.exp(-r) + 1e-6 * np.eye(len(a)))


def _places(x: np.ndarray) -> np.ndarray:
    return np.round(np.nan_to_num(x, nan=-1.0), 9)


# -- views of a posterior that cost less than `predict` ------------------------------------------------------------


def _mean(model: gp.GaussianProcess, z: np.ndarray) -> np.ndarray:
    """(m,) The mean at one draw, without the standard deviation, which costs ten times as much."""
    return np.asarray((model._kernel(model._scaled(z)) @ model._alpha)[0, :, 0])


def _precision(model: gp.GaussianProcess) -> np.ndarray:
    """(k, n, n) C^-1."""
    return np.asarray(model._inverse_factor.transpose(0, 2, 1) @ model._inverse_factor)


def _with_targets(model: gp.GaussianProcess, z: np.ndarray, y: np.ndarray) -> gp.GaussianProcess:
    """The posterior with other targets `y` (n,) at its points `z` (n, p), and the same covariance."""
    other = copy.copy(model)
    other._alpha = model._inverse_factor.transpose(0, 2, 1) @ (model._inverse_factor @ y)[..., None]
    other.fitted = (other._kernel(other._scaled(z)) @ other._alpha)[..., 0]
    return other
