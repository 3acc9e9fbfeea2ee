"""sampler="grid": every point of a declared space once, in an order shuffled by the seed.

Points are counted, never listed, so a grid may be larger than any memory: each combination of values of the
parameters that others depend on makes a block, within which the active rest is one mixed-radix number.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from random import Random
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from automl.declaration import Choice, Parameter, Space
from automl.errors import AutoMLError
from automl.search.cube import at, count, point
from automl.search.independent import independent
from automl.search.space import to_distributions

#: Points on a continuum, ends included, evenly spread on its scale. Ordered domains with more values than
#: MAX_VALUES are taken for one.
CONTINUUM_POINTS = 10
MAX_VALUES = 1000


class GridExhausted(AutoMLError):
    """Every point of the grid was suggested. `size` is their number."""

    def __init__(self, size: int):
        super().__init__(f"sampler: the grid has {size} points and all were suggested; use fewer trials")
        self.size = size


class GridSampler(BaseSampler):
    """Suggests the point that belongs to the trial's number. A `Choice`, `Int` or stepped `Float` has all its values.

    A `Float` without step has `CONTINUUM_POINTS`, and so has an `Int` or stepped `Float` with more than `MAX_VALUES`.
    """

    def __init__(self, space: Space, seed: int):
        self._space = space
        self._seed = seed
        self._values = {name: grid_values(parameter) for name, parameter in space.items()}
        self._blocks = list(self._enumerate_blocks())
        self.size = sum(math.prod(len(self._values[n]) for n in free) for _, free in self._blocks)

    def _enumerate_blocks(self) -> Iterator[tuple[dict[str, Any], list[str]]]:
        """(values of the active parents, the other active parameters), for each combination of the former."""
        parents = [n for n in self._space if any(n in (p.when or {}) for p in self._space.values())]
        seen = set()
        for values in itertools.product(*(self._values[n] for n in parents)):
            chosen = self._space.active(dict(zip(parents, values, strict=True)))
            if tuple(chosen.items()) not in seen:  # combinations that differ in inactive parents are one
                seen.add(tuple(chosen.items()))
                free = [n for n in self._space if n not in parents and self._space.is_active(n, chosen)]
                yield chosen, free

    def point(self, number: int) -> dict[str, Any]:
        """The point of trial `number`, 0 <= number < size."""
        # k -> (a k + b) mod size runs through all points once when a has no factor in common with size.
        rng = Random(self._seed)
        shift = rng.randrange(self.size)
        factor = rng.randint(1, self.size)
        while math.gcd(factor, self.size) != 1:
            factor = rng.randint(1, self.size)
        rest = (factor * number + shift) % self.size
        for chosen, free in self._blocks:
            size = math.prod(len(self._values[n]) for n in free)
            if rest < size:
                params = dict(chosen)
                for name in free:
                    rest, digit = divmod(rest, len(self._values[name]))
                    params[name] = self._values[name][digit]
                return params
            rest -= size
        raise AssertionError("the blocks make up the whole grid")

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return to_distributions(self._space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if trial.number >= self.size:
            raise GridExhausted(self.size)
        return {name: value for name, value in self.point(trial.number).items() if name in search_space}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        # Only for what a fixed parent switched on beside the grid's point.
        return independent(self._seed, trial.number, param_name, param_distribution)


def grid_values(parameter: Parameter) -> list[Any]:
    """The values that the grid gives to `parameter`."""
    if isinstance(parameter, Choice):
        return list(parameter.choices)
    n = count(parameter)
    if n is not None and n <= MAX_VALUES:
        return [point(parameter, k) for k in range(n)]
    # Two of the ten may be the same whole number at the low end of a log scale.
    return list(dict.fromkeys(at(parameter, k / (CONTINUUM_POINTS - 1)) for k in range(CONTINUUM_POINTS)))
