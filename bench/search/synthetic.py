"""Functions that cost nothing and have what searches meet: conditions, categories, failures, noise, limits, trade-offs.

Optima are known. An instance differs from another in where they are; limits and their functions are as published.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from problem import Config, FailedError, Param, Problem

#: A tree of choices; a number is a leaf with as many parameters.
TREE: Mapping[str, object] = {"a": {"x": 2, "y": 3}, "b": {"x": 2, "y": {"p": 2, "q": 1, "r": 3}}, "c": 3}
N_LEVELS, N_GROUPS = 40, 8
N_DIMENSIONS = 6  #: of the problems with two objectives

#: Hartmann's function of six parameters (Dixon and Szegö, "The global optimization problem", 1978): minimum -3.32237.
HARTMANN_WEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])
HARTMANN_SCALES = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
HARTMANN_CENTRES = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)
HARTMANN_OPTIMUM = -3.32237


def make(suite: str, function: str, instance: int, name: str) -> Problem:
    """`suite` and `function` are keys of SUITES."""
    return SUITES[suite][function](np.random.default_rng([instance, len(function)]), name)


# -- conditions and categories --------------------------------------------------------------------------------------


def tree(rng: np.random.Generator, name: str) -> Problem:
    """Up to three choices deep, seven leaves: the best leaf is the steepest, so that it looks bad at first."""
    params = [Param("shared0", "float"), Param("shared1", "float", 1e-4, 1.0, log=True), *_branch("", TREE, None)]
    numbers = [p for p in params if p.kind == "float"]
    leaves = sorted({p.name.rpartition(".")[0] for p in numbers if p.when is not None})
    offsets = dict(zip(leaves, rng.permutation(np.linspace(0.0, 1.0, len(leaves))), strict=True))
    centres = {p.name: rng.uniform(0.1, 0.9) for p in numbers}

    def value(config: Config) -> float:
        squares = {p.name: (p.unit(config) - centres[p.name]) ** 2 for p in numbers if p.name in config}
        shared = [squares.pop("shared0"), squares.pop("shared1")]
        offset = offsets[next(iter(squares)).rpartition(".")[0]]
        return float(offset + 2 * np.mean(shared) + (8 - 7 * offset) * np.mean(list(squares.values())))

    return Problem(name, tuple(params), value, optimum=0.0)


def _branch(at: str, node: Mapping[str, object], when: tuple[str, tuple[str, ...]] | None) -> Iterator[Param]:
    choice = f"{at}choice"
    yield Param(choice, "cat", choices=tuple(node), when=when)
    for key, child in node.items():
        below = (choice, (key,))
        if isinstance(child, Mapping):
            yield from _branch(f"{at}{key}.", child, below)
        else:
            yield from (Param(f"{at}{key}.u{i}", "float", when=below) for i in range(int(str(child))))


def categories(rng: np.random.Generator, name: str) -> Problem:
    """Forty levels with an effect each, eight groups with an optimum each, and three numbers."""
    levels = tuple(f"level{i}" for i in range(N_LEVELS))
    groups = tuple(f"group{i}" for i in range(N_GROUPS))
    params = (Param("level", "cat", choices=levels), Param("group", "cat", choices=groups), *_floats(3))
    of_level = dict(zip(levels, rng.permutation(np.linspace(0.0, 1.0, N_LEVELS)), strict=True))
    of_group = dict(zip(groups, rng.permutation(np.linspace(0.0, 0.5, N_GROUPS)), strict=True))
    centres = dict(zip(groups, rng.uniform(0.1, 0.9, (N_GROUPS, 3)), strict=True))

    def value(config: Config) -> float:
        distance = np.sum((_numbers(config, 3) - centres[config["group"]]) ** 2)
        return float(of_level[config["level"]] + of_group[config["group"]] + distance)

    return Problem(name, params, value, optimum=0.0)


# -- failures and noise ---------------------------------------------------------------------------------------------


def failing(rng: np.random.Generator, name: str) -> Problem:
    """Hartmann's function, which fails in half of the space; the optimum is near the border."""
    flip = rng.integers(0, 2, 6)

    def value(config: Config) -> float:
        x = np.abs(flip - _numbers(config, 6))
        if x[2] + x[5] > 1.1 or x[0] > 0.8:
            raise FailedError
        return hartmann(x)

    return Problem(name, _floats(6), value, optimum=HARTMANN_OPTIMUM)


def noisy(rng: np.random.Generator, name: str) -> Problem:
    """Hartmann's function with a normal error of a tenth of its range."""
    flip = rng.integers(0, 2, 6)

    def mean(config: Config) -> float:
        return hartmann(np.abs(flip - _numbers(config, 6)))

    return Problem(
        name, _floats(6), lambda config: mean(config) + 0.33 * rng.standard_normal(), mean, optimum=HARTMANN_OPTIMUM
    )


def hartmann(x: np.ndarray) -> float:
    """Of a point in the unit cube of six dimensions."""
    return float(-HARTMANN_WEIGHTS @ np.exp(-np.sum(HARTMANN_SCALES * (x - HARTMANN_CENTRES) ** 2, axis=1)))


# -- limits ---------------------------------------------------------------------------------------------------------


def himmelblau(rng: np.random.Generator, name: str) -> Problem:
    """Himmelblau's design problem, 1972 (G4 of the CEC 2006 collection): five numbers, three quantities in limits."""
    low, high = (78.0, 33.0, 27.0, 27.0, 27.0), (102.0, 45.0, 45.0, 45.0, 45.0)
    params = tuple(Param(f"x{i}", "float", *bounds) for i, bounds in enumerate(zip(low, high, strict=True)))

    def value(config: Config) -> float:
        x1, _, x3, _, x5 = _numbers(config, 5)
        return float(5.3578547 * x3**2 + 0.8356891 * x1 * x5 + 37.293239 * x1 - 40792.141)

    def constraints(config: Config) -> tuple[float, ...]:
        x1, x2, x3, x4, x5 = _numbers(config, 5)
        u = 85.334407 + 0.0056858 * x2 * x5 + 0.0006262 * x1 * x4 - 0.0022053 * x3 * x5
        v = 80.51249 + 0.0071317 * x2 * x5 + 0.0029955 * x1 * x2 + 0.0021813 * x3**2
        w = 9.300961 + 0.0047026 * x3 * x5 + 0.0012547 * x1 * x3 + 0.0019085 * x3 * x4
        limits = (-u, u - 92, 90 - v, v - 110, 20 - w, w - 25)
        return tuple(float(limit) for limit in limits)

    return Problem(name, params, value, constraints=constraints, optimum=-30665.5387)


def spring(rng: np.random.Generator, name: str) -> Problem:
    """The lightest spring (Arora, "Introduction to Optimum Design", 1989): wire, coil, whole number of coils."""
    params = (
        Param("wire", "float", 0.05, 2.0, log=True),
        Param("coil", "float", 0.25, 1.3),
        Param("n_coils", "int", 2, 15),
    )

    def value(config: Config) -> float:
        return math.log((config["n_coils"] + 2) * config["coil"] * config["wire"] ** 2)

    def constraints(config: Config) -> tuple[float, ...]:
        d, c, n = config["wire"], config["coil"], config["n_coils"]
        deflection = 1 - c**3 * n / (71785 * d**4)
        stress = (4 * c**2 - d * c) / (12566 * abs(c * d**3 - d**4) + 1e-12) + 1 / (5108 * d**2) - 1
        surge = 1 - 140.45 * d / (c**2 * n)
        return deflection, stress, surge, (c + d) / 1.5 - 1

    return Problem(name, params, value, constraints=constraints)


# -- trade-offs -----------------------------------------------------------------------------------------------------


def zdt1(rng: np.random.Generator, name: str) -> Problem:
    """A convex front (Zitzler, Deb and Thiele, "Comparison of multiobjective evolutionary algorithms", 2000)."""
    first, second = 1.1, 6.0
    # All below the reference but what the front second = 1 - sqrt(first) leaves under it, an area of 1/3.
    return _zdt(rng, name, math.sqrt, (first, second), first * second - 1 / 3)


def zdt2(rng: np.random.Generator, name: str) -> Problem:
    """The same with a concave front."""
    first, second = 1.1, 6.0
    return _zdt(rng, name, lambda ratio: ratio**2, (first, second), first * second - 2 / 3)


def _zdt(rng: np.random.Generator, name: str, bend, reference: tuple[float, float], volume: float) -> Problem:
    centres, flip = rng.uniform(0.2, 0.8, N_DIMENSIONS - 1), rng.integers(0, 2)

    def value(config: Config) -> tuple[float, float]:
        x = _numbers(config, N_DIMENSIONS)
        first = abs(flip - x[0])
        g = 1 + 9 * np.mean(np.abs(x[1:] - centres) / np.maximum(centres, 1 - centres))
        return float(first), float(g * (1 - bend(first / g)))

    return Problem(name, _floats(N_DIMENSIONS), value, reference=reference, optimum=-volume)


def dtlz2(rng: np.random.Generator, name: str) -> Problem:
    """A quarter of a circle (Deb, Thiele, Laumanns and Zitzler, "Scalable test problems", 2005)."""
    centres = rng.uniform(0.2, 0.8, N_DIMENSIONS - 1)

    def value(config: Config) -> tuple[float, float]:
        x = _numbers(config, N_DIMENSIONS)
        radius, angle = 1 + np.sum((x[1:] - centres) ** 2), x[0] * np.pi / 2
        return float(radius * np.cos(angle)), float(radius * np.sin(angle))

    return Problem(name, _floats(N_DIMENSIONS), value, reference=(2.0, 2.0), optimum=-(4 - math.pi / 4))


# -- parts ----------------------------------------------------------------------------------------------------------

SUITES = {
    "synthetic": {"tree": tree, "categories": categories, "failing": failing, "noisy": noisy},
    "constrained": {"himmelblau": himmelblau, "spring": spring},
    "multi": {"zdt1": zdt1, "zdt2": zdt2, "dtlz2": dtlz2},
}


def _floats(n: int) -> tuple[Param, ...]:
    return tuple(Param(f"x{i}", "float") for i in range(n))


def _numbers(config: Config, n: int) -> np.ndarray:
    return np.array([config[f"x{i}"] for i in range(n)])
