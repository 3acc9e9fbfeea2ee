"""Several objectives: the front, its reference point, the log of the expected hypervolume improvement, and ParEGO.

| symbol    | shape    | meaning                                                                                 |
|-----------|----------|-----------------------------------------------------------------------------------------|
| k         |          | number of objectives, all to be made small, with independent posteriors                 |
| front     | (f, k)   | values that no other observed value dominates                                           |
| reference | (k,)     | hypervolume is the volume between the front and this point                              |
| l, u      | (b, k)   | lower and upper corners of disjoint boxes that fill what the front leaves undominated   |
| s         | (i_j,)   | the intervals (l_j, u_j) of objective j; many boxes share one                           |
| means     | (m, k)   | posterior means of the m points                                                         |
| sds       | (m, k)   | posterior standard deviations, > 0                                                      |
| psi       | (i_j, m) | E[max(u - f, 0)], the expected improvement on a bound; sd h(z) in `acquisition`         |
| gain      | (i_j, m) | psi(u) - psi(l), the expected length of the part of an interval that a point dominates  |

A point f gains the part of each box that it dominates, a product of lengths, so for independent objectives

    EHVI = sum over boxes of prod over j of (psi(u_j) - psi(l_j)).

Everything is in logarithms, for far from the front each product underflows. Inside, arrays have the points last: sums
over boxes are then sums of whole rows.

Sources: Yang, Emmerich, Deutz and Baeck, Multi-Objective Bayesian Global Optimization using expected hypervolume
improvement gradient (2019) (the sum over boxes; psi is their equation 19); Lacour, Klamroth and Fonseca, A Box
Decomposition Algorithm to Compute the Hypervolume Indicator (2017), arXiv:1510.01963 (the boxes); Ament et al. (2023),
arXiv:2310.20708 (logarithms); Knowles, ParEGO (2006), equation 2 (the scalarisation).
"""

from __future__ import annotations

import numpy as np
from optuna._hypervolume.box_decomposition import get_non_dominated_box_bounds
from optuna.study._multi_objective import _is_pareto_front

from automl.search.acquisition import Gradients, log_improvement

#: The longest front for each number of objectives: 300 to 600 boxes, 50 ms to make them, 40 to 70 ms for 1000 points.
_LONGEST_FRONT = {2: 300, 3: 150, 4: 50}
#: Points at a time: the rows of a block of this width stay in the processor's cache, which halves the time.
_BLOCK = 128
#: What is smaller counts as nothing: a tenth of the smallest floating-point numbers is 0.
_TINY = 1e-300
#: Below it the difference of two nearly equal expected improvements is rounding, and so would its logarithm be.
_LEAST_GAIN = 1e-16


def non_dominated(values: np.ndarray) -> np.ndarray:
    """Which rows (n,) of `values` (n, k) no other row dominates; equal rows do not dominate each other."""
    return _is_pareto_front(values, assume_unique_lexsorted=False)


def reference_point(values: np.ndarray) -> np.ndarray:
    """The worst of the front of `values` (n, k), n >= 1, and a tenth of the front's range more: a point (k,).

    The tenth makes the ends of the front worth something without making them worth everything. Where the front has no
    width, `_widths` says what stands for it.

    Source: Ishibuchi, Akedo and Nojima, A Many-Objective Test Problem for Visually Examining Diversity Maintenance
    Behavior in a Decision Space (2011), whose tenth BoTorch's `infer_reference_point` takes too.
    """
    front = values[non_dominated(values)]
    return front.max(axis=0) + 0.1 * _widths(front, values)


def _widths(front: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A width (k,) > 0 of each objective: the range of the front.

    Where that is nothing, how much better the best of all values is than the median, which a diverged run does not
    stretch; then the range of all values; then, where no two values differ, their size, 1 if that is nothing too.
    """
    best = front.min(axis=0)
    width = np.where(np.abs(best) > _TINY, np.abs(best), 1.0)
    for worst in (values.max(axis=0), np.median(values, axis=0), front.max(axis=0)):
        # A difference in the last digits is rounding.
        differ = worst - best > np.maximum(1e-12 * np.maximum(np.abs(worst), np.abs(best)), _TINY)
        width = np.where(differ, worst - best, width)
    return width


def scalarisation(values: np.ndarray, weights: np.ndarray, augmentation: float = 0.05) -> np.ndarray:
    """The augmented Tchebycheff loss (n,) of `values` (n, k): one objective for one direction `weights` (k,).

    Objectives are measured from the best of each, in units of the front's range. The largest weighted one counts, so
    that each point of the front, of a concave one too, is the best for some weights; the sum, times `augmentation`,
    tells apart points that are equal in it.
    """
    front = values[non_dominated(values)]
    weighted = weights * (values - front.min(axis=0)) / _widths(front, values)
    return weighted.max(axis=1) + augmentation * weighted.sum(axis=1)


def random_weights(k: int, rng: np.random.Generator) -> np.ndarray:
    """Weights (k,), uniform on the simplex."""
    return rng.dirichlet(np.ones(k))


class LogHypervolumeImprovement:
    """The log of the expected hypervolume improvement over a front (f, k), seen from `reference` (k,).

    There may be no front yet, f = 0, but at least two objectives, k >= 2. Dominated rows of `front`, and rows that are
    not below `reference` everywhere, change nothing.
    """

    def __init__(self, front: np.ndarray, reference: np.ndarray):
        lower, upper = get_non_dominated_box_bounds(front, reference)
        self.n_boxes = len(lower)
        self._objectives = [_Intervals(lower[:, j], upper[:, j]) for j in range(len(reference))]

    @staticmethod
    def suits(front: np.ndarray) -> bool:
        """Whether the boxes over `front` (f, k) are few enough; `scalarisation` is for the others."""
        return len(front) <= _LONGEST_FRONT.get(front.shape[1], 0)

    def __call__(self, means: np.ndarray, sds: np.ndarray) -> Gradients:
        """The value (m,) and its derivatives with respect to `means` and `sds`, (m, k) each."""
        value, d_means, d_sds = np.empty(len(means)), np.empty_like(means), np.empty_like(sds)
        for start in range(0, len(means), _BLOCK):
            rows = slice(start, start + _BLOCK)
            value[rows], d_means[rows], d_sds[rows] = self._block(means[rows], sds[rows])
        return value, d_means, d_sds

    def _block(self, means: np.ndarray, sds: np.ndarray) -> Gradients:
        gains = [o.log_gain(means[:, j], sds[:, j]) for j, o in enumerate(self._objectives)]
        boxes = np.zeros((self.n_boxes, len(means)))
        for objective, (log_gain, _, _) in zip(self._objectives, gains, strict=True):
            boxes += log_gain[objective.of_box]
        peak = boxes.max(axis=0)
        share = np.exp(boxes - peak)
        total = share.sum(axis=0)
        share /= total
        # The derivative of the log of a sum is the average of the derivatives of the logs, by share.
        d_means, d_sds = np.empty_like(means), np.empty_like(sds)
        for j, (objective, (_, d_mean, d_sd)) in enumerate(zip(self._objectives, gains, strict=True)):
            d_means[:, j] = np.einsum("bm,bm->m", share, d_mean[objective.of_box])
            d_sds[:, j] = np.einsum("bm,bm->m", share, d_sd[objective.of_box])
        return peak + np.log(total), d_means, d_sds


class _Intervals:
    """The distinct intervals of one objective, those that reach down to minus infinity first."""

    def __init__(self, lower: np.ndarray, upper: np.ndarray):
        intervals, of_box = np.unique(np.stack([lower, upper], axis=1), axis=0, return_inverse=True)
        #: (b,) the interval of each box
        self.of_box = of_box.reshape(-1)
        self._bounds = np.unique(intervals[np.isfinite(intervals)])
        self._n_open = int(np.isneginf(intervals[:, 0]).sum())
        self._upper = np.searchsorted(self._bounds, intervals[:, 1])
        self._lower = np.searchsorted(self._bounds, intervals[self._n_open :, 0])

    def log_gain(self, mean: np.ndarray, sd: np.ndarray) -> Gradients:
        """log(psi(u) - psi(l)) of each interval (i, m), and its derivatives with respect to mean and sd."""
        log_h, slope, density = log_improvement((self._bounds[:, None] - mean) / sd)
        gain, d_mean, d_sd = log_h[self._upper], slope[self._upper], density[self._upper]
        if len(self._lower):
            closed = slice(self._n_open, None)
            # psi(l) / psi(u), in [0, 1]; rounding must not make it more.
            ratio = np.exp(np.minimum(log_h[self._lower] - gain[closed], 0.0))
            rest = np.maximum(1.0 - ratio, _LEAST_GAIN)
            gain[closed] += np.log(rest)
            d_mean[closed] = (d_mean[closed] - ratio * slope[self._lower]) / rest
            d_sd[closed] = (d_sd[closed] - ratio * density[self._lower]) / rest
        gain += np.log(sd)
        d_mean /= -sd
        d_sd /= sd
        return gain, d_mean, d_sd
