"""What a problem of the benchmark is: parameters, a function to minimise, and the score of a run on it.

A configuration is a dictionary of the active parameters' values. Scores are minimised, and become smaller only when
the run's result does (a noisy problem apart, see `Score`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Config = Mapping[str, Any]


class FailedError(Exception):
    """This configuration cannot be evaluated, like one that runs out of memory."""


@dataclass(frozen=True)
class Param:
    """One parameter: "float" and "int" have bounds, both included; "cat" has choices."""

    name: str
    kind: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[str, ...] = ()
    when: tuple[str, tuple[str, ...]] | None = None  #: (parent, the values of it for which this one is active)

    def unit(self, config: Config) -> float:
        """A number's place in its range, 0 to 1."""
        low, high, value = self.low, self.high, config[self.name]
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return (value - low) / (high - low)


def active(params: Sequence[Param], config: Config) -> list[Param]:
    """The parameters that `config` needs; parents come before their children in `params`."""
    return [p for p in params if p.when is None or config.get(p.when[0]) in p.when[1]]


@dataclass(frozen=True)
class Problem:
    """A function to minimise over `params`.

    `function` gives a number, or one for each objective; it raises `FailedError` where it cannot be evaluated.
    `constraints` gives numbers that a feasible configuration has at zero or below.
    """

    name: str  #: suite:function, and :i and a number when there are several instances
    params: tuple[Param, ...]
    function: Callable[[Config], Any]
    mean: Callable[[Config], float] | None = None  #: what a noisy function has without the noise
    constraints: Callable[[Config], Sequence[float]] | None = None
    reference: tuple[float, ...] = ()  #: of several objectives: hypervolume is measured up to here
    optimum: float | None = None  #: the smallest score there can be, where it is known

    def __call__(self, config: Config) -> Any:
        return self.function(config)

    @property
    def n_objectives(self) -> int:
        return len(self.reference) or 1


@dataclass
class Score:
    """How good a run's result is; add its trials in the order of their results.

    `value` is the smallest feasible value, or minus the hypervolume of several objectives. Of a noisy problem it is
    the mean at the trial with the best observation, which a user takes, and can become worse; `found` is the smallest
    mean that any trial had.
    """

    problem: Problem
    value: float = math.inf
    found: float = math.inf
    observed: float = math.inf
    front: list[tuple[float, float]] = field(default_factory=list)

    def add(self, config: Config, result: Any, constraints: Sequence[float] = ()) -> float:
        """`value` after a trial; `result` is None when it failed."""
        if result is None or any(c > 0 for c in constraints):
            return self.value
        if self.problem.reference:
            self.front.append(tuple(result))
            self.value = -hypervolume(self.front, self.problem.reference)
            return self.value
        mean = result if self.problem.mean is None else self.problem.mean(config)
        self.found = min(self.found, mean)
        if result < self.observed:
            self.observed, self.value = result, mean
        return self.value


def hypervolume(points: Sequence[tuple[float, float]], reference: Sequence[float]) -> float:
    """The area that points of two minimised objectives dominate, up to `reference`: a sweep along the first one."""
    area, height = 0.0, reference[1]
    for first, second in sorted(points):
        if first < reference[0] and second < height:
            area += (reference[0] - first) * (height - second)
            height = second
    return area
