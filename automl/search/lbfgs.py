"""Several smooth functions in boxes, each of its own coordinates, made small at once: L-BFGS in step.

| symbol  | shape  | meaning                                                         |
|---------|--------|-----------------------------------------------------------------|
| x       | (s, q) | where each of the s searches is                                 |
| loss    | (s,)   | the value there                                                 |
| slope   | (s, q) | its gradient                                                    |
| t       | (s,)   | the share of its direction that each search tries next          |
| step    | (s, q) | how far a search moved; 0 where its last try was refused        |
| bend    | (s, q) | by how much its slope changed on the way; 0 likewise            |
| rho     | (s,)   | 1 / (step . bend); 0 likewise, so that a refused try is no pair |

A function of many points costs little more than a function of one, so the searches are evaluated together. But each
has its own curvature and its own step: one search over all coordinates takes the shortest step that any of them needs.

Source: Nocedal and Wright, Numerical Optimization (2006), algorithm 7.4 for the direction and 3.1 for the step;
coordinates at a bound that the slope points out of are left alone (Bertsekas 1982, Projected Newton Methods).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Pairs of steps and bends that are remembered.
_MEMORY = 5
#: The first step of a search that knows no curvature, in its largest coordinate.
_FIRST_STEP = 0.1
#: A step is good when it gains this share of what the slope promised.
_ARMIJO = 1e-4
#: A step that promises less than this is nothing: losses are logs here. But one such step may only mean that the first
#: curvature that was met is not that of the other coordinates, so it takes as many on end to have arrived.
_LEAST_GAIN, _PATIENCE = 1e-3, 3

Function = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
_Pair = tuple[np.ndarray, np.ndarray, np.ndarray]


def minimise(
    function: Function, start: np.ndarray, low: np.ndarray, high: np.ndarray, evaluations: int
) -> tuple[np.ndarray, np.ndarray]:
    """(x (s, q), loss (s,)) after so many calls of `function`, or when all searches have arrived.

    `function` (s, q) -> (loss, slope); `low` and `high` (q,) or (s, q). No loss is larger than at the start.
    """
    x = np.clip(start, low, high)
    loss, slope = function(x)
    pairs: list[_Pair] = []
    scale = np.zeros(len(x))  # 1 / curvature along the last step, 0 while unknown
    direction, t = _direction(x, slope, low, high, pairs, scale), np.ones(len(x))
    small = 0
    for _ in range(evaluations - 1):
        there = np.clip(x + t[:, None] * direction, low, high)
        step = there - x
        promised = _dot(slope, step)
        small = small + 1 if (promised > -_LEAST_GAIN).all() else 0
        if small == _PATIENCE or not step.any():
            break
        loss_there, slope_there = function(there)
        taken = loss_there <= loss + _ARMIJO * promised  # False for NaN
        bend = slope_there - slope
        curvature, bend2 = _dot(step, bend), _dot(bend, bend)
        known = taken & (curvature > 1e-12 * bend2)
        rho = np.where(known, 1.0 / np.where(known, curvature, 1.0), 0.0)
        scale = np.where(known, curvature / np.where(known, bend2, 1.0), scale)
        pairs = [*pairs[1 - _MEMORY :], (np.where(known[:, None], step, 0.0), np.where(known[:, None], bend, 0.0), rho)]
        # A refused step is shortened to where a parabola through what was seen has its minimum.
        excess = loss_there - loss - promised
        shorter = np.clip(-0.5 * promised / np.where(excess > 0.0, excess, np.inf), 0.1, 0.5)
        t = np.where(taken, 1.0, t * shorter)
        x, slope = np.where(taken[:, None], there, x), np.where(taken[:, None], slope_there, slope)
        loss = np.where(taken, loss_there, loss)
        direction = np.where(taken[:, None], _direction(x, slope, low, high, pairs, scale), direction)
    return x, loss


def _direction(
    x: np.ndarray, slope: np.ndarray, low: np.ndarray, high: np.ndarray, pairs: list[_Pair], scale: np.ndarray
) -> np.ndarray:
    """Downhill (s, q), by the curvature that the pairs show, along the coordinates that are free to move."""
    free = np.where(slope > 0.0, x > low, x < high)
    steepest = np.where(free, slope, 0.0)
    way, shares = steepest, []
    for step, bend, rho in reversed(pairs):
        shares.append(rho * _dot(step, way))
        way = way - shares[-1][:, None] * bend
    plain = _FIRST_STEP / np.maximum(np.abs(steepest).max(axis=1, initial=0.0), _FIRST_STEP)
    way = way * np.where(scale > 0.0, scale, plain)[:, None]
    for (step, bend, rho), share in zip(pairs, reversed(shares), strict=True):
        way = way + (share - rho * _dot(bend, way))[:, None] * step
    way = np.where(free, way, 0.0)
    downhill = _dot(way, slope) > 0.0
    return -np.where(downhill[:, None], way, plain[:, None] * steepest)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("sq,sq->s", a, b)
