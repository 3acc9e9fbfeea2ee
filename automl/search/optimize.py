"""Where an acquisition is largest, over spaces of numbers, choices and conditions.

| symbol | shape  | meaning                                                             |
|--------|--------|---------------------------------------------------------------------|
| x      | (m, d) | candidates, points of the unit cube (see `encoding`)                |
| value  | (m,)   | the acquisition there, on a log scale, to be made large             |
| start  | (s, d) | candidates from which separate searches go on, each in its own basin |

Four steps. A uniform pool and mutants of the best known points say where to start. Each start then moves to the best of
its neighbours a few times, over all kinds of parameters at once: whole numbers by a step, choices by a flip, which may
switch a branch on or off. Then L-BFGS follows the gradient over all numbers of all starts together, and the rounding
that whole numbers need is made good by a last look at the neighbours. No step lists the values of a range.

The starts stay apart on purpose: the acquisition has many narrow peaks, and one population would end in one of them
(the same reason for which BoTorch restarts; Balandat et al. 2020, 1910.06403, appendix F).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.optimize import minimize

from automl.search.encoding import Encoding


class Acquisition(Protocol):
    """What is searched: the log of what a point is worth."""

    def value(self, x: np.ndarray) -> np.ndarray:
        """(m,) at points (m, d)."""

    def value_and_gradient(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m,) at points (m, d), and the gradient (m, d); entries of choices and inactive parameters do not count."""


@dataclass(frozen=True)
class Effort:
    """How long to search."""

    pool: int = 512  #: uniform points
    mutants: int = 60  #: around each known point
    starts_from_pool: int = 4
    starts_from_known: int = 3
    neighbours: int = 24  #: of each start in each round
    iterations: int = 30  #: of L-BFGS


#: Mutants are this far away, as a share of each range: far and near.
_MUTATION_SCALES = (0.15, 0.03)
#: The rounds of neighbours, each closer.
_ROUND_SCALES = (0.1, 0.05, 0.02)
#: Starts differ by more than this in one coordinate or more.
_APART = 0.1


def maximise(
    acquisition: Acquisition,
    encoding: Encoding,
    known: np.ndarray,
    rng: np.random.Generator,
    effort: Effort = Effort(),
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (m, d) with their values (m,), the best first. `known` (s, d): points to begin near, may be none."""
    pool = encoding.snap(rng.random((effort.pool, encoding.d)))
    x, value = _starts(acquisition, pool, effort.starts_from_pool)
    if len(known):
        mutants = np.concatenate(
            [
                neighbours(encoding, point, effort.mutants // 2, scale, rng)
                for point in known
                for scale in _MUTATION_SCALES
            ]
        )
        near, near_value = _starts(acquisition, mutants, effort.starts_from_known)
        x, value = np.concatenate([x, near]), np.concatenate([value, near_value])
    for scale in _ROUND_SCALES:
        x, value = _step(acquisition, encoding, x, value, effort.neighbours, scale, rng)
    climbed = _climb(acquisition, encoding, x, effort.iterations)
    x = np.concatenate([x, climbed])
    value = np.concatenate([value, acquisition.value(climbed)])
    last = neighbours(encoding, x[value.argmax()], effort.neighbours, _ROUND_SCALES[-1], rng)
    x, value = np.concatenate([x, last]), np.concatenate([value, acquisition.value(last)])
    order = np.argsort(-value, kind="stable")
    return x[order], value[order]


def neighbours(encoding: Encoding, point: np.ndarray, n: int, scale: float, rng: np.random.Generator) -> np.ndarray:
    """`n` points near `point` (d,): a few coordinates changed, by about `scale` of their range; the others as they are.

    Whole numbers often move by exactly one step. What was inactive gets a random value, in case it becomes active.
    """
    d = encoding.d
    missing = np.isnan(point)
    x = np.where(missing, rng.random((n, d)), point)
    changed = rng.random((n, d)) < max(1.5 / d, 0.25)
    changed[np.arange(n), rng.integers(d, size=n)] = True
    moved = x + scale * rng.standard_normal((n, d))
    moved = 1.0 - np.abs(1.0 - np.abs(moved))  # reflected at both ends
    counted = np.flatnonzero(np.isfinite(encoding.n_values) & ~encoding.is_category)
    if counted.size:
        by_one = x[:, counted] + rng.choice((-1.0, 1.0), (n, counted.size)) / encoding.n_values[counted]
        moved[:, counted] = np.where(rng.random((n, counted.size)) < 0.3, by_one, moved[:, counted])
    flipped = changed & encoding.is_category & (rng.random((n, d)) < 0.5)
    moved = np.where(encoding.is_category, rng.random((n, d)), moved)
    return encoding.snap(np.where(np.where(encoding.is_category, flipped, changed), moved, x))


def _starts(acquisition: Acquisition, x: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `n` of `x` that lie apart from each other."""
    value = acquisition.value(x)
    places = np.nan_to_num(x, nan=-1.0)
    chosen: list[int] = []
    for i in np.argsort(-value, kind="stable"):
        if all(np.abs(places[i] - places[j]).max() > _APART for j in chosen):
            chosen.append(int(i))
        if len(chosen) == n:
            break
    return x[chosen], value[chosen]


def _step(
    acquisition: Acquisition,
    encoding: Encoding,
    x: np.ndarray,
    value: np.ndarray,
    n: int,
    scale: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Each start moves to the best of its neighbours, if that is better."""
    around = np.concatenate([neighbours(encoding, point, n, scale, rng) for point in x])
    values = acquisition.value(around).reshape(len(x), n)
    best = values.argmax(axis=1)
    rows = np.arange(len(x))
    better = values[rows, best] > value
    moved = np.where(better[:, None], around.reshape(len(x), n, -1)[rows, best], x)
    return moved, np.where(better, values[rows, best], value)


def _climb(acquisition: Acquisition, encoding: Encoding, x: np.ndarray, iterations: int) -> np.ndarray:
    """All starts follow the gradient over their numbers at once: one L-BFGS on the sum of separate functions."""
    free = ~encoding.is_category & ~np.isnan(x)
    if not free.any():
        return x

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        here = x.copy()
        here[free] = flat
        value, gradient = acquisition.value_and_gradient(here)
        return -float(value.sum()), -gradient[free]

    bounds = np.broadcast_to([0.0, 1.0], (int(free.sum()), 2))
    found = minimize(loss, x[free], jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations})
    climbed = x.copy()
    climbed[free] = found.x
    return encoding.snap(climbed)
