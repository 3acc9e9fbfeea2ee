"""Where an acquisition is largest, over spaces of numbers, choices and conditions.

| symbol | shape  | meaning                                                             |
|--------|--------|---------------------------------------------------------------------|
| x      | (m, d) | candidates, points of the unit cube (see `encoding`)                |
| value  | (m,)   | the acquisition there, on a log scale, to be made large             |
| start  | (s, d) | candidates from which separate searches go on, each in its own basin |

Four steps. A uniform pool and mutants of the best known points say where to start. Each start then moves to the best of
its neighbours a few times, over all kinds of parameters at once: whole numbers by a step, choices by a flip, which may
switch a branch on or off. Then L-BFGS follows the gradient over the numbers of each start, and the rounding that whole
numbers need is made good by a last look at the neighbours. No step lists the values of a range.

The starts stay apart on purpose: the acquisition has many narrow peaks, and one population would end in one of them
(the same reason for which BoTorch restarts; Balandat et al. 2020, 1910.06403, appendix F).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from automl.search.encoding import Encoding
from automl.search.lbfgs import minimise


class Acquisition(Protocol):
    """What is searched: the log of what a point is worth."""

    def value(self, x: np.ndarray) -> np.ndarray:
        """(m,) at points (m, d)."""

    def value_and_gradient(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(m,) at points (m, d), and the gradient (m, d); entries of choices and inactive parameters do not count."""


@dataclass(frozen=True)
class Region:
    """The part of the space that is searched, around a `centre` (d,): numbers between `low` and `high` (d,).

    Choices are free, but most candidates have most of the centre's.
    """

    centre: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Effort:
    """How long to search."""

    pool: int = 512  #: uniform points
    mutants: int = 60  #: around each known point
    starts_from_pool: int = 4
    starts_from_known: int = 3
    neighbours: int = 24  #: of each start in each round
    evaluations: int = 20  #: of the gradient


#: Mutants are this far away, as a share of each range: far and near.
_MUTATION_SCALES = (0.15, 0.03)
#: The rounds of neighbours, each closer.
_ROUND_SCALES = (0.1, 0.05, 0.02)
#: Starts differ in a choice, or by more than this share of the range of a number.
_APART = 0.1
#: Candidates in a region keep each of the centre's choices with this probability.
_KEPT_CHOICES = 0.8
#: So many points are evaluated at a time: larger intermediate arrays fall out of the processor's cache.
_BLOCK = 128


def maximise(
    acquisition: Acquisition,
    encoding: Encoding,
    known: np.ndarray,
    rng: np.random.Generator,
    effort: Effort = Effort(),
    region: Region | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (m, d) with their values (m,), the best first. `known` (s, d): points to begin near, may be none."""
    inside = region or Region(np.full(encoding.d, np.nan), np.zeros(encoding.d), np.ones(encoding.d))
    pool = _pool(encoding, inside, effort.pool, rng)
    x, value = _starts(acquisition, encoding, inside, pool, effort.starts_from_pool)
    if len(known):
        scales = np.repeat(_MUTATION_SCALES, effort.mutants // 2)
        mutants = neighbours(encoding, inside, known, scales, rng)
        near, near_value = _starts(acquisition, encoding, inside, mutants, effort.starts_from_known)
        x, value = np.concatenate([x, near]), np.concatenate([value, near_value])
    for scale in _ROUND_SCALES:
        around = neighbours(encoding, inside, x, np.full(effort.neighbours, scale), rng)
        x, value = _step(acquisition, x, value, around)
    climbed = _climb(acquisition, encoding, inside, x, effort.evaluations)
    x, value = np.concatenate([x, climbed]), np.concatenate([value, acquisition.value(climbed)])
    last = neighbours(encoding, inside, x[[value.argmax()]], np.full(effort.neighbours, _ROUND_SCALES[-1]), rng)
    x, value = np.concatenate([x, last]), np.concatenate([value, acquisition.value(last)])
    order = np.argsort(-value, kind="stable")
    return x[order], value[order]


def neighbours(
    encoding: Encoding, inside: Region, points: np.ndarray, scales: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Points (s * n, d), n near each of `points` (s, d): a few coordinates changed, the others as they are.

    `scales` (n,): by which share of the range. Whole numbers often move by exactly one step. What was inactive gets a
    random value, in case it becomes active.
    """
    d, n = encoding.d, len(points) * len(scales)
    chance, new, one = rng.random((3, n, d))
    x = np.repeat(points, len(scales), axis=0)
    x = np.where(np.isnan(x), new, x)
    changed = chance < max(1.5 / d, 0.25)
    changed[np.arange(n), rng.integers(d, size=n)] = True
    width = inside.high - inside.low
    moved = x + (np.tile(scales, len(points))[:, None] * width) * rng.standard_normal((n, d))
    moved = inside.low + np.abs(moved - inside.low)  # reflected at both ends
    moved = np.clip(inside.high - np.abs(inside.high - moved), inside.low, inside.high)
    counted = encoding.is_ordinal
    by_one = x[:, counted] + np.where(one[:, counted] < 0.15, 1.0, -1.0) / encoding.n_values[counted]
    moved[:, counted] = np.where(one[:, counted] < 0.3, by_one, moved[:, counted])
    moved[:, encoding.is_category] = new[:, encoding.is_category]
    changed[:, encoding.is_category] &= one[:, encoding.is_category] < 0.5
    return encoding.snap(np.where(changed, moved, x))


def _pool(encoding: Encoding, inside: Region, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` points all over the region."""
    x = inside.low + rng.random((n, encoding.d)) * (inside.high - inside.low)
    kept = encoding.is_category & ~np.isnan(inside.centre) & (rng.random((n, encoding.d)) < _KEPT_CHOICES)
    return encoding.snap(np.where(kept, inside.centre, x))


def _starts(
    acquisition: Acquisition, encoding: Encoding, inside: Region, x: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """The best `n` of `x` that lie apart from each other."""
    value = np.concatenate([acquisition.value(x[i : i + _BLOCK]) for i in range(0, len(x), _BLOCK)])
    apart = np.where(encoding.is_category, 1e-9, _APART * (inside.high - inside.low))
    places = np.nan_to_num(x, nan=-1.0)
    chosen: list[int] = []
    order = np.argsort(-value, kind="stable")
    while len(order) and len(chosen) < n:
        chosen.append(int(order[0]))
        order = order[(np.abs(places[order] - places[chosen[-1]]) > apart).any(axis=1)]
    return x[chosen], value[chosen]


def _step(
    acquisition: Acquisition, x: np.ndarray, value: np.ndarray, around: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Each start moves to the best of its neighbours, if that is better."""
    values = acquisition.value(around).reshape(len(x), -1)
    best = values.argmax(axis=1)
    rows = np.arange(len(x))
    better = values[rows, best] > value
    moved = np.where(better[:, None], around.reshape(*values.shape, -1)[rows, best], x)
    return moved, np.where(better, values[rows, best], value)


def _climb(acquisition: Acquisition, encoding: Encoding, inside: Region, x: np.ndarray, evaluations: int) -> np.ndarray:
    """Every start follows the gradient over its numbers."""
    free = ~encoding.is_category & ~np.isnan(x)
    if not free.any():
        return x

    def loss(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, gradient = acquisition.value_and_gradient(np.where(free, numbers, x))
        return -value, np.where(free, -gradient, 0.0)

    found, _ = minimise(loss, np.where(free, x, 0.5), inside.low, inside.high, evaluations)
    return encoding.snap(np.where(free, found, x))
