"""Long studies: which results the model sees when there are more than it can see.

| symbol | shape  | meaning                                                      |
|--------|--------|--------------------------------------------------------------|
| z      | (n, p) | features of the distinct points, in the order of their trials |
| loss   | (n,)   | how good they are as one number, small is good               |

The time of a Gaussian process grows with the cube of its rows. Beyond some hundreds of results most suggestions see the
neighbourhood of the best point, where there is something left to refine, and the others the best results of all among
a sample of the rest, which knows every region a little. Both are functions of the results and of the randomness given.

Source: Eriksson et al. 2019, Scalable Global Optimization via Local Bayesian Optimization (TuRBO), 1910.01739: local
models of few rows in place of one of all. Theirs confine the search to a box; here the model's own uncertainty does,
which is large where it has no rows.
"""

from __future__ import annotations

import numpy as np

#: Up to so many points the model sees them all; beyond, it sees so many.
MOST_ROWS = 250
#: The neighbourhood is the best of this many times as many rows that are nearest.
_NEAR = 1.5
#: This share of the suggestions sees the whole space.
_GLOBAL_SHARE = 0.3


def visible(z: np.ndarray, loss: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """The rows to model, in their order, and the name of the choice; all of them while they are few."""
    if len(z) <= MOST_ROWS:
        return np.arange(len(z)), "model"
    if rng.random() < _GLOBAL_SHARE:
        return everywhere(loss, rng), "global"
    return near(z, loss), "local"


def near(z: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The best among the points nearest to the best one."""
    away = z - z[loss.argmin()]
    nearest = np.argsort(np.einsum("np,np->n", away, away), kind="stable")[: int(_NEAR * MOST_ROWS)]
    return np.sort(nearest[np.argsort(loss[nearest], kind="stable")[:MOST_ROWS]])


def everywhere(loss: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The best half of the rows that can be seen, and a sample of the others."""
    best, others = np.split(np.argsort(loss, kind="stable"), [MOST_ROWS // 2])
    return np.sort(np.concatenate([best, rng.choice(others, MOST_ROWS - len(best), replace=False)]))
