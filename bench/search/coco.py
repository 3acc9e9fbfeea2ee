"""Problems of the COCO platform: `bbob`, `bbob-mixint`, and `bbob` with noise of our own.

24 functions in any dimension that COCO has (5 and 10 here), each with 15 instances: shifted, rotated, and with another
optimum. Of `bbob-mixint`, four fifths of the parameters are integers with 2, 4, 8 and 16 values.

COCO's own `bbob-noisy` does not tell the mean of what it disturbs. `noisy` here adds a normal error to functions of
`bbob`, a fifth as large as the way from the median of random points to their best twentieth.

Source: N. Hansen et al., "COCO: a platform for comparing continuous optimizers in a black-box setting", 2021;
T. Tušar, D. Brockhoff and N. Hansen, "Mixed-integer benchmark problems for single- and bi-objective optimization",
2019.
"""

from __future__ import annotations

import contextlib
import tempfile
import zlib

import cocoex
import numpy as np
from problem import Config, Param, Problem

FUNCTIONS = range(1, 25)
#: One of each kind: separable, moderate, ill-conditioned, with many optima, and with weak structure.
NOISY = (1, 3, 8, 10, 13, 15, 17, 20, 21, 23)
#: A noisy function's error, as a part of (median - 5 % quantile) of random points.
NOISE = 0.2


def make(suite: str, dimension: int, function: int, instance: int, name: str) -> Problem:
    """`suite` is "bbob", "mixint" or "noisy"."""
    coco = _coco("bbob-mixint" if suite == "mixint" else "bbob", dimension, function, instance)
    n_integers = coco.number_of_integer_variables
    params = tuple(
        Param(f"x{i}", "int" if i < n_integers else "float", float(low), float(high))
        for i, (low, high) in enumerate(zip(coco.lower_bounds, coco.upper_bounds, strict=True))
    )

    def mean(config: Config) -> float:
        return float(coco(np.array([config[p.name] for p in params], dtype=float)))

    optimum = _optimum(coco)
    if suite != "noisy":
        return Problem(name, params, mean, optimum=optimum)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    points = rng.uniform(coco.lower_bounds, coco.upper_bounds, (1000, dimension))
    twentieth, median = np.quantile([coco(x) for x in points], [0.05, 0.5])
    sd = NOISE * (median - twentieth)
    return Problem(name, params, lambda config: mean(config) + sd * rng.standard_normal(), mean=mean, optimum=optimum)


def _coco(suite: str, dimension: int, function: int, instance: int) -> cocoex.Problem:
    wanted = f"dimensions:{dimension} function_indices:{function} instance_indices:{instance}"
    found = cocoex.Suite(suite, "", wanted)
    assert len(found) == 1, f"{suite} has no {wanted}"
    return found[0]


def _optimum(coco: cocoex.Problem) -> float:
    """The smallest value; COCO tells where it is by a file in the working directory only."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        coco._best_parameter("print")
        return float(coco(np.loadtxt("._bbob_problem_best_parameter.txt")))
