"""What a point is worth: log expected improvement, log probability of a bound, lower confidence bound.

| symbol | shape | meaning                                                                                        |
|--------|-------|------------------------------------------------------------------------------------------------|
| mean   | (m,)  | posterior means of the m points, small is good                                                 |
| sd     | (m,)  | posterior standard deviations, > 0                                                             |
| best   |       | the value to improve on                                                                        |
| z      | (m,)  | (best - mean) / sd, how many standard deviations the mean is better                            |
| t      | (m,)  | |z|                                                                                            |
| phi    | (m,)  | density of the standard normal at t                                                            |
| Phi    | (m,)  | its distribution function                                                                      |
| R      | (m,)  | Mills ratio Phi(-t) / phi(t) = sqrt(pi/2) erfcx(t / sqrt2)                                     |
| c      | (m,)  | 1 - t R                                                                                        |
| h      | (m,)  | h(z) = phi(z) + z Phi(z), so that the expected improvement is sd h(z)                          |

Every acquisition is a function of the posterior alone and is to be made large. It returns its value (m,) and the
derivatives of the value with respect to mean (m,) and sd (m,).

Sources: Jones, Schonlau and Welch, Efficient Global Optimization of Expensive Black-Box Functions (1998), equation 15;
Ament et al., Unexpected Improvements to Expected Improvement for Bayesian Optimization (2023), arXiv:2310.20708,
section 4. Theirs are three branches. Here everything follows from two numbers that are tame for every t >= 0, R and c:
h(-t) = phi(t) c(t), and h(t) = t + h(-t), which loses no digits.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erfcx

#: A value and its derivatives with respect to mean and sd.
Gradients = tuple[np.ndarray, np.ndarray, np.ndarray]

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
_SQRT_HALF = math.sqrt(0.5)
_SQRT_HALF_PI = math.sqrt(0.5 * math.pi)
#: Beyond it 1 - t R loses its third digit, and the six levels of the continued fraction below are good for 13.
_FAR = 20.0


def log_expected_improvement(mean: np.ndarray, sd: np.ndarray, best: float | np.ndarray) -> Gradients:
    """The log of E[max(best - f, 0)] for f ~ N(mean, sd^2), and its derivatives.

    Finite while z^2 is, and never flat: far above `best` the value falls like -z^2/2, where the expected improvement
    itself would be 0 with a gradient of 0.
    """
    z = (best - mean) / sd
    log_h, slope, density = log_improvement(z)
    # d log(sd h) / d mean = -Phi / (sd h) and d log(sd h) / d sd = phi / (sd h).
    return np.log(sd) + log_h, -slope / sd, density / sd


def log_improvement(z: np.ndarray) -> Gradients:
    """The log of h(z), Phi(z) / h(z) and phi(z) / h(z), of any shape; the second is the derivative of the first."""
    t = np.abs(z)
    mills = _mills(t)
    c = _one_minus_t_mills(t, mills)
    log_phi = -0.5 * t * t - _LOG_SQRT_2PI
    log_h = log_phi + np.log(c)
    slope, density = mills / c, 1.0 / c
    better = z > 0.0
    if better.any():
        phi = np.exp(log_phi)
        h = np.where(better, z, 0.0) + phi * c
        h = np.where(better, h, 1.0)  # where not better, h may underflow, and is not wanted
        log_h = np.where(better, np.log(h), log_h)
        slope = np.where(better, (1.0 - phi * mills) / h, slope)
        density = np.where(better, phi / h, density)
    return log_h, slope, density


def log_probability_below(mean: np.ndarray, sd: np.ndarray, bound: float) -> Gradients:
    """The log of Phi((bound - mean) / sd), the chance that a constraint f <= bound holds, and its derivatives.

    Add it to the log of the expected improvement, and improvement counts only as far as the constraint is likely to
    hold. Source: Gardner et al., Bayesian Optimization with Inequality Constraints (2014), section 3.
    """
    z = (bound - mean) / sd
    t = np.abs(z)
    mills = _mills(t)
    log_phi = -0.5 * t * t - _LOG_SQRT_2PI
    upper = np.exp(log_phi) * mills  # Phi(-t), at most 1/2
    log_p = np.where(z > 0.0, np.log1p(-upper), log_phi + np.log(mills))
    # d log Phi / dz = phi / Phi: 1 / R on the left, where both vanish.
    hazard = np.where(z > 0.0, np.exp(log_phi) / (1.0 - upper), 1.0 / mills)
    return log_p, -hazard / sd, -hazard * z / sd


def lower_confidence_bound(mean: np.ndarray, sd: np.ndarray, weight: float) -> Gradients:
    """Minus the bound, weight * sd - mean, that f undercuts with a chance of Phi(-weight), and its derivatives.

    Source: Srinivas et al., Gaussian Process Optimization in the Bandit Setting (2010), equation 6.
    """
    return weight * sd - mean, np.full_like(mean, -1.0), np.full_like(sd, weight)


def _mills(t: np.ndarray) -> np.ndarray:
    return _SQRT_HALF_PI * erfcx(_SQRT_HALF * t)


def _one_minus_t_mills(t: np.ndarray, mills: np.ndarray) -> np.ndarray:
    """c(t) = 1 - t R(t) > 0, about 1 / t^2 for large t.

    1 / R = t + 1/(t + 2/(t + 3/(t + ...))) (Abramowitz and Stegun, 26.2.14), hence c = R (1/R - t) = R / (t + 2/(t +
    ...)), a quotient of positive numbers that neither cancels nor overflows.
    """
    c = 1.0 - t * mills
    if t.max(initial=0.0) > _FAR:
        far = np.maximum(t, _FAR)
        tail = far
        for k in range(7, 1, -1):
            tail = far + k / tail
        c = np.where(t > _FAR, mills / tail, c)
    return c
