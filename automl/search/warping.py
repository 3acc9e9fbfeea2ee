"""Targets for the model: the user's values as numbers that a Gaussian process can explain.

| symbol | shape | meaning                                                       |
|--------|-------|---------------------------------------------------------------|
| values | (n,)  | what was measured, signed so that small is good; no NaN       |
| y      | (n,)  | targets of mean 0 and standard deviation 1, in the same order |

Hyperparameter searches have heavy tails on the bad side: a diverged training run is a thousand times worse than a
mediocre one, and both are equally uninteresting. A model of the raw values spends itself on that difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

#: The warped bad half ends at this quantile of a normal distribution: 3.3 standard deviations.
_WORST_QUANTILE = 0.9995


@dataclass(frozen=True)
class Warp:
    """Targets `y` (n,) of measured values, and the way back: a straight line between the pairs, and beyond them."""

    y: np.ndarray
    slope: float  #: units of the values in one unit of y, in the good half
    _knots: tuple[np.ndarray, np.ndarray]

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """The values that targets `y` stand for. Below the best one the line of the good half goes on."""
        targets, values = self._knots
        inside = np.interp(y, targets, values)
        return np.where(y < targets[0], values[0] + self.slope * (y - targets[0]), inside)

    def measured(self, mean: np.ndarray, sd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A normal belief in a target as mean and standard deviation of the value.

        The way back is no straight line. The mean is where the mean of the target leads, which is the value's median;
        the deviation is half of the width of what lies within one deviation of the target, 68 %.
        """
        return self.inverse(mean), (self.inverse(mean + sd) - self.inverse(mean - sd)) / 2.0


def half_rank(values: np.ndarray) -> Warp:
    """The good half as measured, the bad half replaced by normal quantiles of its ranks.

    The bad half then continues the good one with the spread that the good one has around the median. Source: the
    half-rank warping of Google Vizier (Song et al. 2024, 2408.11527, section 4).
    """
    values = finite(values)
    median = float(np.median(values))
    good = values <= median
    away = values[good] - median
    spread = float(np.sqrt(np.mean(away * away))) or float(values.std()) or 1.0
    y = (values - median) / spread
    if not good.all():
        rank = np.unique(values, return_inverse=True)[1]
        last_good = rank[good].max()
        quantile = 0.5 + 0.5 * (rank[~good] - last_good) / (rank.max() - last_good + 0.5)
        y[~good] = ndtri(np.minimum(quantile, _WORST_QUANTILE))
    scale = float(y.std()) or 1.0
    y = (y - y.mean()) / scale
    order = np.argsort(values, kind="stable")
    return Warp(y, spread * scale, (y[order], values[order]))


def as_measured(values: np.ndarray) -> Warp:
    """The values on a scale of mean 0 and deviation 1, and nothing else."""
    values = finite(values)
    y, _, scale = standardise(values)
    order = np.argsort(values, kind="stable")
    return Warp(y, scale, (y[order], values[order]))


def standardise(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(y, shift, scale) with y = (values - shift) / scale of mean 0 and deviation 1; zeros where all are equal."""
    values = finite(values)
    shift, scale = float(values.mean()), float(values.std())
    if scale <= 1e-12 * (1.0 + abs(shift)):
        return np.zeros_like(values), shift, 1.0
    return (values - shift) / scale, shift, scale


def finite(values: np.ndarray) -> np.ndarray:
    """`values` with infinities, and numbers too large to be squared, moved to the ends of the others."""
    usable = np.abs(values) < 1e150
    if not usable.any():
        return np.sign(values)
    return np.clip(values, values[usable].min(), values[usable].max())
