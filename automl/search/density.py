"""Where good points are dense and others are not: suggestions for a long study that see all of it.

| symbol | shape  | meaning                                                                     |
|--------|--------|-----------------------------------------------------------------------------|
| loss   | (n,)   | how good each result is, small is good                                      |
| good   | (g, d) | the best points                                                             |
| rest   | (r, d) | a sample of the others, and of what failed                                  |
| width  | (d,)   | of the kernel around each point, in each coordinate                         |

Its time does not grow with the study. Source: Bergstra et al. 2011, Algorithms for Hyper-Parameter Optimization,
section 4; the kernels are of all coordinates together, as in Falkner et al. 2018 (BOHB), 1807.01774.
"""

from __future__ import annotations

import numpy as np

from automl.core import derived_seed
from automl.search.encoding import Encoding
from automl.search.observations import Observations

#: The share of the results that is good, and how many that is at least and at most.
_GOOD_SHARE, _FEWEST_GOOD, _MOST_GOOD = 0.1, 10, 60
#: How many of the others their density is made of, and how many points are drawn.
_MOST_REST, _DRAWS = 500, 48
#: A drawn point has another choice, and a kernel spreads over the others, with this probability.
_OTHER_CHOICE = 0.2
#: Kernels are never narrower or wider.
_LEAST_WIDTH, _MOST_WIDTH = 0.01, 0.5


def promising(o: Observations, loss: np.ndarray, seed: int, number: int) -> np.ndarray:
    """Points (m, d) for trial `number`, drawn where good results are dense, those first where others are sparse."""
    rng = np.random.default_rng(derived_seed("density", seed, number))
    encoding = o.encoding
    n_good = min(max(int(_GOOD_SHARE * len(o.x)), _FEWEST_GOOD), _MOST_GOOD)
    good, others = np.split(o.x[np.argsort(loss, kind="stable")], [n_good])
    rest = np.concatenate([others, o.failed])
    rest = rest[rng.permutation(len(rest))[:_MOST_REST]]
    kernels = good[rng.integers(len(good), size=_DRAWS)]
    uniform, chance = rng.random((2, *kernels.shape))
    moved = kernels + _widths(good) * rng.standard_normal(kernels.shape)
    moved = np.where(encoding.is_category, np.where(chance < _OTHER_CHOICE, uniform, kernels), moved)
    drawn = encoding.snap(np.where(np.isnan(kernels), uniform, moved))
    ratio = _log_density(encoding, drawn, good) - _log_density(encoding, drawn, rest)
    return drawn[np.argsort(-ratio, kind="stable")]


def _widths(x: np.ndarray) -> np.ndarray:
    """Scott's rule for each coordinate of `x` (n, d), from the points where it is active."""
    n, d = x.shape
    active = ~np.isnan(x)
    counts = np.maximum(active.sum(axis=0), 1)
    away = np.where(active, x - np.where(active, x, 0.0).sum(axis=0) / counts, 0.0)
    spread = np.sqrt((away * away).sum(axis=0) / counts)
    return np.clip(1.06 * spread * n ** (-1.0 / (4 + d)), _LEAST_WIDTH, _MOST_WIDTH)


def _log_density(encoding: Encoding, at: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The log (m,) of the mixture of kernels around `x` (n, d), at points `at` (m, d), up to a constant.

    A parameter that is active in one of two points alone puts them sqrt(2) widths apart.
    """
    widths = _widths(x)
    away = at[:, None] - x
    others = _OTHER_CHOICE / np.maximum(encoding.n_categories, 1)
    choices = np.log(np.where(np.abs(away) < 1e-9, 1.0 - _OTHER_CHOICE + others, others))
    logs = np.where(encoding.is_category, choices, -0.5 * (away / widths) ** 2 - np.log(widths))
    absent, missing = np.isnan(at)[:, None], np.isnan(x)
    logs = np.where(absent & missing, 0.0, np.where(absent | missing, -1.0, logs)).sum(axis=2)
    top = logs.max(axis=1)
    return np.asarray(top + np.log(np.exp(logs - top[:, None]).mean(axis=1)))
