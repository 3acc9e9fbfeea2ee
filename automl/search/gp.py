"""Exact Gaussian-process regression, a quadratic trend and a Matern-5/2 kernel, fitted by gradients.

| symbol | shape    | meaning                                                                           |
|--------|----------|-----------------------------------------------------------------------------------|
| z      | (n, p)   | features of the observed points (see `encoding`)                                  |
| group  | (p,)     | the parameter of each feature                                                     |
| y      | (n,)     | targets, of mean 0 and standard deviation 1; small is good                        |
| repeats| (n,)     | how many measurements each target is the mean of                                  |
| l      | (d,)     | lengthscale of each parameter, shared by its features                             |
| a      | (n, p)   | scaled features (z - 1/2) / l                                                     |
| t, c   |          | variances of the trend's slopes and of its curvatures, in units of a              |
| q      | (n, n)   | inner products a_i . a_j                                                          |
| s      |          | signal variance                                                                   |
| v      |          | noise variance of one measurement                                                 |
| r      | (n, n)   | distances, r_ij = || a_i - a_j ||                                                 |
| K      | (n, n)   | t q + c q^2 + s (1 + sqrt5 r + 5/3 r^2) exp(-sqrt5 r)                             |
| L      | (n, n)   | Cholesky factor of C = K + diag(v / repeats)                                      |
| theta  | (d + 4,) | (log l_1, ..., log l_d, log t, log c, log s, log v)                               |

The trend is what extrapolates: most of what hyperparameters do is a slope or a bowl in one or two of them, which a
stationary kernel forgets a lengthscale away from the data. Halving the trials that a search needs (docs/log.md), it
costs next to nothing: its products are needed for the distances anyhow.

Source: Rasmussen and Williams, Gaussian Processes for Machine Learning (2006), algorithm 2.1, sections 2.7 and 5.4.
The gradient for all lengthscales together costs one matrix product: the sum over pairs of G_ij (a_ik - a_jk)^2 equals
2 sum_i a_ik^2 (G 1)_i - 2 sum_i a_ik (G a_k)_i, so no (n, n, d) tensor of differences is ever made.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cholesky, lapack
from scipy.optimize import minimize

_SQRT5 = np.sqrt(5.0)
#: Added to the noise: below it the factorisation loses its last digits.
_JITTER = 1e-6
#: Variances are not below this: the difference that makes them has lost its digits there.
_LEAST_VARIANCE = 1e-10
#: Hyperparameters that are not lengthscales: log t, log c, log s and log v.
N_VARIANCES = 4
#: Bounds of log l, of log t and log c, of log s and of log v.
_LENGTH_BOUNDS, _TREND_BOUNDS, _SIGNAL_BOUNDS, _NOISE_BOUNDS = (-4.0, 6.0), (-8.0, 3.0), (-4.0, 4.0), (-13.0, 1.0)
#: The least curvature of the posterior that a draw believes in: a standard deviation of 2 on the log scale.
_LEAST_CURVATURE = 0.25


@dataclass(frozen=True)
class Prior:
    """What is known before the first result. Densities of l, t, c, s and v:

    - log l: exp(-stiffness (e^(2 a) + e^(-shortness a))) with a = log l - centre: nearly flat where l is between a
      third of exp(centre) and three times that, steep above, where a parameter would not matter anyhow, and a gentle
      slope below. A steep one has a sharp minimum taken for noise (docs/log.md).
    - log t and log c: normal around `slope` and `bend` with deviation 1: a trend of less than the targets' variance.
    - s: Gamma(2, 1), since targets have variance 1.
    - v: Gamma(1.1, noise_rate), small unless the data insist.

    Source: with a shortness of 2, these are the priors of Optuna's GPSampler (optuna/_gp/prior.py).
    """

    centre: float | np.ndarray = 0.0  #: of all parameters, or of each
    stiffness: float = 0.1
    shortness: float = 1.0
    slope: float = -1.0
    bend: float = -2.0
    noise_rate: float = 30.0

    def start(self, d: int) -> np.ndarray:
        """Where a fit begins (d + 4,)."""
        return np.concatenate([np.full(d, self.centre), [self.slope, self.bend, 0.0, -4.0]])

    def penalty(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Minus the log density at `theta` (d + 4,), up to a constant, and its gradient."""
        away = theta[:-4] - self.centre
        long, short = np.exp(2.0 * away), np.exp(-self.shortness * away)
        steeper, rounder = theta[-4] - self.slope, theta[-3] - self.bend
        signal, noise = np.exp(theta[-2:])
        value = self.stiffness * float((long + short).sum()) + 0.5 * (steeper * steeper + rounder * rounder)
        value += signal - theta[-2] + self.noise_rate * noise - 0.1 * theta[-1]
        gradient = np.empty_like(theta)
        gradient[:-4] = self.stiffness * (2.0 * long - self.shortness * short)
        gradient[-4:] = steeper, rounder, signal - 1.0, self.noise_rate * noise - 0.1
        return float(value), gradient


@dataclass(frozen=True)
class Data:
    """What a Gaussian process is fitted to; symbols as above."""

    z: np.ndarray
    y: np.ndarray
    group: np.ndarray
    repeats: np.ndarray

    @property
    def d(self) -> int:
        return int(self.group[-1]) + 1


def negative_log_posterior(theta: np.ndarray, data: Data, prior: Prior) -> tuple[float, np.ndarray]:
    """Minus the log of likelihood times prior at `theta` (d + 4,), up to a constant, and its gradient."""
    n, d = len(data.y), len(theta) - N_VARIANCES
    a = (data.z - 0.5) * np.exp(-theta[data.group])
    trend, bend, signal, noise = np.exp(theta[d:])
    q = a @ a.T
    squares = np.diagonal(q)
    r2 = np.maximum(squares[:, None] + squares - 2.0 * q, 0.0)
    r = np.sqrt(r2) * _SQRT5
    slope = (signal * 5.0 / 6.0) * (1.0 + r) * np.exp(-r)  # -dK / d(r^2)
    kernel = 1.2 * slope + (2.0 * r2) * (slope / (1.0 + r))
    covariance = kernel + (trend + bend * q) * q
    covariance.flat[:: n + 1] += noise / data.repeats + _JITTER
    factor, failed = lapack.dpotrf(covariance, lower=1, overwrite_a=1)
    if failed:
        return 1e10, np.zeros_like(theta)
    log_det = float(np.log(factor.flat[:: n + 1]).sum())
    inverse, _ = lapack.dpotri(factor, lower=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    alpha = inverse @ data.y
    loss = 0.5 * float(data.y @ alpha) + log_det
    weight = inverse - np.outer(alpha, alpha)
    gradient = np.empty_like(theta)
    gradient[d] = 0.5 * trend * float(np.vdot(weight, q))
    gradient[d + 1] = 0.5 * bend * float(np.vdot(weight, q * q))
    gradient[d + 2] = 0.5 * float(np.vdot(weight, kernel))
    gradient[d + 3] = 0.5 * noise * float((weight.flat[:: n + 1] / data.repeats).sum())
    slope *= weight
    slope *= 2.0
    by_feature = (a * a * slope.sum(axis=1)[:, None]).sum(axis=0)
    slope += (trend + 2.0 * bend * q) * weight
    by_feature -= (a * (slope @ a)).sum(axis=0)
    gradient[:d] = np.bincount(data.group, by_feature, minlength=d)
    penalty, penalty_slope = prior.penalty(theta)
    return loss + penalty, gradient + penalty_slope


def fit(data: Data, prior: Prior, start: np.ndarray, max_iterations: int) -> np.ndarray:
    """The most probable theta (d + 4,), by L-BFGS from `start`."""
    found = minimize(
        negative_log_posterior,
        start,
        (data, prior),
        jac=True,
        method="L-BFGS-B",
        bounds=_bounds(len(start) - N_VARIANCES),
        options={"maxiter": max_iterations},
    )
    return np.asarray(found.x)


def draw(theta: np.ndarray, data: Data, prior: Prior, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` draws (n, d + 4) of the hyperparameters from Laplace's approximation around the mode `theta`.

    Averaging over them is what keeps the model honest while there are few points (Snoek et al. 2012, 1206.2944,
    section 3.2). The curvature comes from differences of the gradient, d + 4 evaluations.
    """
    step = 1e-3
    slope = negative_log_posterior(theta, data, prior)[1]
    hessian = np.array(
        [(negative_log_posterior(theta + step * e, data, prior)[1] - slope) / step for e in np.eye(len(theta))]
    )
    curvature, axes = np.linalg.eigh(0.5 * (hessian + hessian.T))
    scale = axes / np.sqrt(np.maximum(curvature, _LEAST_CURVATURE))
    low, high = np.array(_bounds(len(theta) - N_VARIANCES)).T
    return np.clip(theta + rng.standard_normal((n, len(theta))) @ scale.T, low, high)


class GaussianProcess:
    """The posterior at k draws of the hyperparameters (k, d + 4): a surrogate.

    `fitted` (k, n): the posterior means at the observed points.
    """

    def __init__(self, data: Data, thetas: np.ndarray):
        n = len(data.y)
        self._inverse_lengths = np.exp(-thetas[:, None, data.group])  # (k, 1, p)
        self._trend = np.exp(thetas[:, -4])[:, None, None]
        self._bend = np.exp(thetas[:, -3])[:, None, None]
        self._signal = np.exp(thetas[:, -2])[:, None, None]
        noise = np.exp(thetas[:, -1])
        self._noise = noise + _JITTER
        self._a = self._scaled(data.z)  # (k, n, p)
        self._a2 = np.einsum("knp,knp->kn", self._a, self._a)[:, None]
        kernel = self._kernel(self._a)
        covariance = kernel.copy()
        covariance[:, np.arange(n), np.arange(n)] += noise[:, None] / data.repeats + _JITTER
        self._inverse_factor = np.array([_inverse_factor(c) for c in covariance])  # (k, n, n)
        self._alpha = self._inverse_factor.transpose(0, 2, 1) @ (self._inverse_factor @ data.y)[..., None]  # (k, n, 1)
        self.fitted = (kernel @ self._alpha)[..., 0]

    def given(self, z: np.ndarray) -> GaussianProcess:
        """The posterior when points `z` (q, p) are under evaluation: more certain near them, with the same mean.

        Rows are appended to the factor; the values do not matter to the standard deviation. `fitted` gets the means at
        these points too. Source: Desautels, Krause and Burdick 2014, Parallelizing Exploration-Exploitation Tradeoffs
        in Gaussian Process Bandit Optimization, section 4.1.
        """
        (k, n, _), q = self._a.shape, len(z)
        b = self._scaled(z)
        posterior = copy.copy(self)
        posterior._a = b
        posterior._a2 = np.einsum("kqp,kqp->kq", b, b)[:, None]
        cross = self._kernel(b)  # (k, q, n)
        rows = cross @ self._inverse_factor.transpose(0, 2, 1)  # what is appended to L
        covariance = posterior._kernel(b) - rows @ rows.transpose(0, 2, 1)
        covariance[:, np.arange(q), np.arange(q)] += self._noise[:, None]
        inverse = np.array([_inverse_factor(c) for c in covariance])
        posterior._a = np.concatenate([self._a, b], axis=1)
        posterior._a2 = np.concatenate([self._a2, posterior._a2], axis=2)
        posterior._alpha = np.concatenate([self._alpha, np.zeros((k, q, 1))], axis=1)
        posterior._inverse_factor = np.zeros((k, n + q, n + q))
        posterior._inverse_factor[:, :n, :n] = self._inverse_factor
        posterior._inverse_factor[:, n:, :n] = -inverse @ (rows @ self._inverse_factor)
        posterior._inverse_factor[:, n:, n:] = inverse
        posterior.fitted = np.concatenate([self.fitted, (cross @ self._alpha)[..., 0]], axis=1)
        return posterior

    def predict(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (k, m) of the function, without noise, at features `z` (m, p)."""
        b = self._scaled(z)
        kernel = self._kernel(b)
        whitened = kernel @ self._inverse_factor.transpose(0, 2, 1)
        return (kernel @ self._alpha)[..., 0], self._sd(b, whitened)

    def predict_with_gradient(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`predict`, and the gradients of mean and standard deviation with respect to z, (k, m, p) each."""
        b = self._scaled(z)
        q, r2 = self._products_and_squares(b)
        r = np.sqrt(r2) * _SQRT5
        # (k, m, n): the Matern part's derivative with respect to b is slope (b - a), the trend's is rise a.
        slope = (self._signal * (-5.0 / 3.0)) * ((1.0 + r) * np.exp(-r))
        rise = self._trend + 2.0 * self._bend * q
        kernel = self._matern(r2) + (self._trend + self._bend * q) * q
        whitened = kernel @ self._inverse_factor.transpose(0, 2, 1)
        sd = self._sd(b, whitened)
        alpha = self._alpha.transpose(0, 2, 1)
        pull = whitened @ self._inverse_factor  # (k, m, n) kernel C^-1
        mean_slope = (slope * alpha).sum(axis=2)[..., None] * b - ((slope - rise) * alpha) @ self._a
        # Of half of the variance.
        own = (
            self._trend
            + 2.0 * self._bend * np.einsum("kmp,kmp->km", b, b)[..., None]
            - (slope * pull).sum(axis=2)[..., None]
        )
        variance_slope = own * b + ((slope - rise) * pull) @ self._a
        mean = (kernel @ self._alpha)[..., 0]
        return mean, sd, mean_slope * self._inverse_lengths, variance_slope / sd[..., None] * self._inverse_lengths

    def _scaled(self, z: np.ndarray) -> np.ndarray:
        return np.asarray((z - 0.5) * self._inverse_lengths)

    def _products_and_squares(self, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inner products and squared distances (k, m, n) of scaled features `b` (k, m, p) and the observed ones."""
        q = b @ self._a.transpose(0, 2, 1)
        squares = -2.0 * q
        squares += np.einsum("kmp,kmp->km", b, b)[..., None]
        squares += self._a2
        return q, np.maximum(squares, 0.0, out=squares)

    def _kernel(self, b: np.ndarray) -> np.ndarray:
        q, r2 = self._products_and_squares(b)
        q *= self._trend + self._bend * q
        q += self._matern(r2)
        return q

    def _matern(self, r2: np.ndarray) -> np.ndarray:
        r = np.sqrt(r2)
        r *= _SQRT5
        kernel = r2 * (5.0 / 3.0)
        kernel += 1.0
        kernel += r
        kernel *= self._signal
        np.negative(r, out=r)
        kernel *= np.exp(r, out=r)
        return kernel

    def _sd(self, b: np.ndarray, whitened: np.ndarray) -> np.ndarray:
        q = np.einsum("kmp,kmp->km", b, b)
        variance = self._signal[..., 0] + (self._trend[..., 0] + self._bend[..., 0] * q) * q
        variance -= np.einsum("kmn,kmn->km", whitened, whitened)
        return np.sqrt(np.maximum(variance, _LEAST_VARIANCE))


def _inverse_factor(covariance: np.ndarray) -> np.ndarray:
    """The inverse of the lower Cholesky factor."""
    return np.asarray(lapack.dtrtri(cholesky(covariance, lower=True, check_finite=False), lower=1)[0])


def _bounds(d: int) -> list[tuple[float, float]]:
    return [_LENGTH_BOUNDS] * d + [_TREND_BOUNDS, _TREND_BOUNDS, _SIGNAL_BOUNDS, _NOISE_BOUNDS]
