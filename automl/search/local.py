"""Long studies: which results the model sees when there are more than it can see, and where it looks.

| symbol | shape  | meaning                                                       |
|--------|--------|---------------------------------------------------------------|
| x      | (n, d) | distinct points, in the order of their trials                 |
| z      | (n, p) | their features                                                |
| loss   | (n,)   | how good they are as one number, small is good                |
| side   |        | the width of the region as a share of each range              |

The time of a Gaussian process grows with the cube of its rows. Beyond some hundreds of results it sees a part of them.

With one metric most suggestions look into a region around a good point. It grows while they succeed and shrinks while
they fail, so it becomes as small as the structure that is left to find. When it is smaller than anybody needs it begins
anew: at the same point if something was gained there, else at the best one that is not near a centre that was done
with. The others look where good points are dense and others are not (`density`). With several metrics, or with learning
curves, the model sees a neighbourhood or a sample of the whole and looks everywhere.

Everything follows from the results, the seed and the number of the trial. The region is not remembered but recomputed:
a trial counts for it when it lies inside, whoever suggested it.

Source: Eriksson et al. 2019, Scalable Global Optimization via Local Bayesian Optimization (TuRBO), 1910.01739.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from automl.core import derived_seed
from automl.search.encoding import Encoding, distinct
from automl.search.observations import Observations
from automl.search.optimize import Region
from automl.search.warping import finite

#: Up to so many points the model sees them all; beyond, it sees so many.
MOST_ROWS = 250
#: Of a region it sees so many: what is far from the centre says little there, and fewer rows follow it sooner.
REGION_ROWS = 150
#: The neighbourhood is the best of this many times as many rows that are nearest.
_NEAR = 1.5
#: This share of the suggestions sees the whole space.
_GLOBAL_SHARE = 0.3
#: The region's side at first, at most, and below which it begins anew.
FIRST_SIDE, LARGEST_SIDE, SMALLEST_SIDE = 0.4, 0.8, 2.0**-8
#: So many successes on end double the side; max(this, d) failures on end halve it.
SUCCESSES, FEWEST_FAILURES = 3, 4
#: A success gains this share of what the median of the last results inside is above the best; less is a failure.
_LEAST_GAIN, _LAST_RESULTS = 1e-3, 32
#: A centre that was done with takes what is so near in every coordinate with it.
_NICHE = 0.1
#: Results looked at at a time: about as many as there are between two centres.
_BLOCK = 64


@dataclass(frozen=True)
class Focus:
    """What the model of a region is shown, with features for which all of that is the unit cube."""

    observations: Observations
    region: Region
    side: float


@dataclass(frozen=True)
class Track:
    """The region after some results: its centre, a row of x, and its side."""

    centre: int
    side: float


def visible(z: np.ndarray, loss: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """The rows to model, in their order, and the name of the choice; all of them while they are few."""
    if len(z) <= MOST_ROWS:
        return np.arange(len(z)), "model"
    if rng.random() < _GLOBAL_SHARE:
        return everywhere(loss, rng), "global"
    return near(z, loss, int(loss.argmin()), MOST_ROWS), "local"


def near(z: np.ndarray, loss: np.ndarray, centre: int, n: int) -> np.ndarray:
    """`n` rows: the best among the points nearest to row `centre`, which is always among them."""
    away = z - z[centre]
    distance = np.einsum("np,np->n", away, away)
    nearest = np.argsort(distance, kind="stable")[: int(_NEAR * n)]
    wanted = np.where(nearest == centre, -np.inf, loss[nearest])
    return np.sort(nearest[np.argsort(wanted, kind="stable")[:n]])


def everywhere(loss: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The best half of the rows that can be seen, and a sample of the others."""
    best, others = np.split(np.argsort(loss, kind="stable"), [MOST_ROWS // 2])
    return np.sort(np.concatenate([best, rng.choice(others, MOST_ROWS - len(best), replace=False)]))


def looks_everywhere(seed: int, number: int) -> bool:
    """Whether suggestion `number` of a long study leaves the region alone."""
    return bool(np.random.default_rng(derived_seed("arm", seed, number)).random() < _GLOBAL_SHARE)


def focus(o: Observations) -> Focus | None:
    """What the model of a study with one metric sees, and where it looks; None while it sees everything."""
    if len(o.x) <= MOST_ROWS:
        return None
    first, owner = distinct(o.x)
    if len(first) <= MOST_ROWS:
        return None
    x, z = o.x[first], o.encoding.features(o.x[first])
    loss = np.bincount(owner, rank(o)) / np.bincount(owner)
    track = follow(x, loss, o.encoding.is_category, MOST_ROWS)
    rows = near(z, loss, track.centre, REGION_ROWS)
    reach = apart(x[rows], x[track.centre], o.encoding.is_category)[:, ~o.encoding.is_category].max(initial=0.0)
    encoding = o.encoding.zoomed(x[track.centre], max(track.side, 2.0 * float(reach)))
    trials = np.isin(owner, rows)
    shown = replace(o, x=o.x[trials], values=o.values[trials], slack=o.slack[trials], cost=o.cost[trials])
    shown = replace(shown, encoding=encoding, failed=o.failed[-MOST_ROWS:])
    return Focus(shown, box(o.encoding, x[track.centre], track.side), track.side)


def rank(o: Observations) -> np.ndarray:
    """How good each result (n,) of one metric is. What breaks a constraint is worse than all that breaks none."""
    loss = finite(o.values[:, 0])
    broken = (
        np.maximum(finite(np.nan_to_num(o.slack, nan=0.0)), 0.0).sum(axis=1) if o.slack.size else np.zeros(len(loss))
    )
    if not broken.any():
        return loss
    return np.where(broken > 0.0, loss.max() + (float(np.ptp(loss)) or 1.0) * broken / broken.max(), loss)


def follow(x: np.ndarray, loss: np.ndarray, is_category: np.ndarray, start: int) -> Track:
    """The region after all results, of which the first `start` >= 1 only say where it begins."""
    numbers = np.nan_to_num(x[:, ~is_category], nan=0.5)
    losses = loss.tolist()
    failures_to_shrink = max(FEWEST_FAILURES, x.shape[1])
    top = centre = int(np.argmin(loss[:start]))
    side, successes, failures, has_gained = FIRST_SIDE, 0, 0, False
    inside: list[float] = []
    done_with = np.zeros(len(x), dtype=bool)
    i = start
    while i < len(losses):
        seen_from = centre
        for away in np.abs(numbers[i : i + _BLOCK] - numbers[centre]).max(axis=1, initial=0.0).tolist():
            value, best = losses[i], losses[centre]
            if away <= 0.5 * side + 1e-9:
                inside.append(value)
                if value < best:
                    centre = i
                if value < best and best - value >= _LEAST_GAIN * (float(np.median(inside[-_LAST_RESULTS:])) - best):
                    successes, failures, has_gained = successes + 1, 0, True
                else:
                    successes, failures = 0, failures + 1
                if successes == SUCCESSES:
                    side, successes = min(2.0 * side, LARGEST_SIDE), 0
                elif failures == failures_to_shrink:
                    side, failures = 0.5 * side, 0
            elif value < losses[top]:  # found elsewhere: the region goes there
                centre, side, successes, failures, has_gained, inside = i, FIRST_SIDE, 0, 0, False, []
            if value < losses[top]:
                top = i
            i += 1
            if side < SMALLEST_SIDE:
                if not has_gained:
                    done_with |= apart(x, x[centre], is_category).max(axis=1) <= _NICHE
                    left = np.flatnonzero(~done_with[:i])
                    centre = int(left[np.argmin(loss[left])]) if left.size else top
                side, successes, failures, has_gained, inside = FIRST_SIDE, 0, 0, False, []
            if centre != seen_from:
                break
    return Track(centre, side)


def box(encoding: Encoding, centre: np.ndarray, side: float) -> Region:
    """The region of this side around `centre` (d,), inside the cube. A whole number can move by one step at least."""
    half = np.maximum(0.5 * side, np.where(encoding.is_ordinal, 1.0 / encoding.n_values, 0.0))
    half = np.where(encoding.is_category | np.isnan(centre), 1.0, half)
    middle = np.nan_to_num(centre, nan=0.5)
    return Region(centre, np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0))


def apart(x: np.ndarray, point: np.ndarray, is_category: np.ndarray) -> np.ndarray:
    """How far (n, d) points are from `point` (d,) in each coordinate; another choice is 1 away."""
    away = np.abs(np.nan_to_num(x, nan=0.5) - np.nan_to_num(point, nan=0.5))
    return np.where(is_category, away > 1e-9, away)
