"""A search space as arrays: what the model, the acquisition search and the local search compute on.

| symbol | shape  | meaning                                                                                  |
|--------|--------|------------------------------------------------------------------------------------------|
| x      | (n, d) | points of the unit cube, one column for each parameter; NaN where a parameter is inactive |
| z      | (n, p) | features of points: Euclidean distances between them are what the kernel sees             |
| group  | (p,)   | the parameter that a feature belongs to                                                   |

Values that can be counted sit in the middle of their cells (see `cube`), so equal values have equal coordinates.
Nothing here ever lists the values of a range: whole numbers may be as wide as they like.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from automl.declaration import Space
from automl.search.cube import at, count, unit

#: (parent column, the coordinates of the parent's values for which the child is active).
Condition = tuple[int, np.ndarray]


@dataclass(frozen=True)
class Encoding:
    """`domains` by name, parents before children. `conditions[j]` holds for column j when all of its parents agree."""

    names: tuple[str, ...]
    domains: tuple[Any, ...]
    conditions: tuple[tuple[Condition, ...], ...]
    #: Parameters that some trials lack although no condition says which.
    sometimes: frozenset[str] = frozenset()
    #: Coordinates that are given, by column: every point is snapped to them.
    pinned: Mapping[int, float] = field(default_factory=dict)
    #: The numbers (d,) that have the feature 1/2, and how many units of feature there are to a unit of each.
    middle: np.ndarray | float = 0.5
    stretch: np.ndarray | float = 1.0

    def same_as(self, other: Encoding) -> bool:
        """Whether points mean the same in both."""
        return (
            self.names == other.names
            and self.domains == other.domains
            and self.sometimes == other.sometimes
            and all(
                len(mine) == len(theirs)
                and all(i == j and np.array_equal(u, v) for (i, u), (j, v) in zip(mine, theirs, strict=True))
                for mine, theirs in zip(self.conditions, other.conditions, strict=True)
            )
        )

    @classmethod
    def of(cls, space: Space) -> Encoding:
        """The encoding of a declared space."""
        names = tuple(space)
        conditions = tuple(
            tuple(
                (names.index(parent), np.array([unit(space[parent], value) for value in values]))
                for parent, values in (space[name].when or {}).items()
            )
            for name in names
        )
        return cls(names, tuple(space.values()), conditions)

    def zoomed(self, centre: np.ndarray, side: float) -> Encoding:
        """The same points with other features: the cube of this side around `centre` (d,) becomes the unit cube.

        Choices, and parameters that are inactive at the centre, stay as they are.
        """
        kept = self.is_category | np.isnan(centre)
        return replace(self, middle=np.where(kept, 0.5, centre), stretch=np.where(kept, 1.0, 1.0 / side))

    @property
    def d(self) -> int:
        return len(self.names)

    @cached_property
    def n_categories(self) -> np.ndarray:
        """(d,) The number of choices, 0 for numbers."""
        return np.array([len(p.choices) if hasattr(p, "choices") else 0 for p in self.domains])

    @cached_property
    def n_values(self) -> np.ndarray:
        """(d,) How many values there are, as floats; infinite for a continuum."""
        return np.array([float(count(p) or math.inf) for p in self.domains])

    @cached_property
    def is_category(self) -> np.ndarray:
        """(d,) Whether the column holds one of several unordered choices."""
        return self.n_categories > 0

    @cached_property
    def is_ordinal(self) -> np.ndarray:
        """(d,) Whether the column holds a number that can be counted."""
        return np.isfinite(self.n_values) & ~self.is_category

    @cached_property
    def is_smooth(self) -> np.ndarray:
        """(d,) Whether a gradient means anything: a continuum."""
        return np.isinf(self.n_values)

    @cached_property
    def group(self) -> np.ndarray:
        """(p,) The parameter of each feature."""
        widths = [self._width(j) for j in range(self.d)]
        return np.repeat(np.arange(self.d), widths)

    @cached_property
    def first_feature(self) -> np.ndarray:
        """(d,) The first feature of each parameter: of a number, the one that moves with it."""
        return np.searchsorted(self.group, np.arange(self.d))

    def _width(self, j: int) -> int:
        return (int(self.n_categories[j]) or 1) + int(self.names[j] in self.sometimes)

    # -- values and coordinates ------------------------------------------------------------------------------------

    def encode(self, params: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """Points (n, d) of parameters by name; absent ones are inactive. Values outside are clipped into the range."""
        x = np.full((len(params), self.d), np.nan)
        for j, (name, domain) in enumerate(zip(self.names, self.domains, strict=True)):
            rows = [i for i, p in enumerate(params) if name in p]
            x[rows, j] = [unit(domain, params[i][name]) for i in rows]
        return x

    def decode(self, x: np.ndarray) -> dict[str, Any]:
        """The parameters of one point (d,); inactive ones are left out."""
        return {
            name: at(domain, u) for name, domain, u in zip(self.names, self.domains, x.tolist(), strict=True) if u == u
        }

    def snap(self, x: np.ndarray) -> np.ndarray:
        """`x` (n, d) moved to the nearest points of the space, inactive coordinates set to NaN.

        An active coordinate that is NaN gets the middle of its range.
        """
        x = np.where(np.isnan(x), 0.5, np.clip(x, 0.0, 1.0))
        for j, u in self.pinned.items():
            x[:, j] = u
        columns, n = self._cells
        if columns.size:
            x[:, columns] = (np.minimum(np.floor(x[:, columns] * n), n - 1.0) + 0.5) / n
        for j in self._log_integers:
            domain = self.domains[j]
            low, high = math.log(domain.low - 0.5), math.log(domain.high + 0.5)
            value = np.clip(np.rint(np.exp(low + x[:, j] * (high - low))), domain.low, domain.high)
            x[:, j] = (np.log(value) - low) / (high - low)
        for children, conditions in self._branches:
            off = np.zeros(len(x), dtype=bool)
            for parent, values in conditions:
                # NaN, an inactive parent, is close to nothing.
                off |= ~(np.abs(x[:, parent, None] - values) < 1e-9).any(axis=1)
            x[off[:, None] & children] = np.nan
        return x

    @cached_property
    def _log_integers(self) -> list[int]:
        """Columns of whole numbers whose cells differ in size."""
        counted = np.flatnonzero(np.isfinite(self.n_values) & (self.n_values > 1)).tolist()
        return [j for j in counted if getattr(self.domains[j], "log", False)]

    @cached_property
    def _cells(self) -> tuple[np.ndarray, np.ndarray]:
        """The other columns that can be counted, and how many values each has."""
        counted = np.setdiff1d(np.flatnonzero(np.isfinite(self.n_values)), self._log_integers)
        return counted, self.n_values[counted]

    @cached_property
    def _branches(self) -> list[tuple[np.ndarray, tuple[Condition, ...]]]:
        """Which columns (d,) have the same conditions, and those conditions; parents come before their children."""
        together: dict[Any, list[int]] = {}
        for j, conditions in enumerate(self.conditions):
            if conditions:
                together.setdefault(tuple((i, values.tobytes()) for i, values in conditions), []).append(j)
        return [(np.isin(np.arange(self.d), columns), self.conditions[columns[0]]) for columns in together.values()]

    # -- features --------------------------------------------------------------------------------------------------

    def features(self, x: np.ndarray) -> np.ndarray:
        """Features (n, p) of points (n, d).

        A number is itself; choices are one-hot over sqrt(2), so that two different ones are at distance 1. What is
        inactive is in the middle of its values: the parents tell the branches apart, and a distance of its own for
        every parameter of a branch would make the branches strangers. Only where no parent is known there is one more
        feature, which puts inactive and active at distance 1.
        """
        columns, first, indicators = self._numbers
        z = np.zeros((len(x), len(self.group) + 1))  # one more, for what no feature says
        missing = np.isnan(x)
        if columns.size:
            u = 0.5 + (x - self.middle) * self.stretch
            z[:, first] = np.where(missing, 0.5, u)[:, columns]
        z[:, indicators] = missing
        columns, sizes, slots = self._choices
        if columns.size:
            absent = missing[:, columns]
            code = np.minimum(np.floor(np.where(absent, 1.0, x[:, columns]) * sizes), sizes - 1.0 + absent)
            z[np.arange(len(x))[:, None], slots[np.arange(len(columns)), code.astype(int)]] = math.sqrt(0.5)
            if absent.any():
                middle, owner, share = self._middles
                z[:, middle] += absent[:, owner] * share
        return z[:, :-1]

    @cached_property
    def _numbers(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The columns of numbers, their features, and (d,) the feature that says that a parameter is inactive."""
        columns = np.flatnonzero(~self.is_category)
        last = np.searchsorted(self.group, np.arange(self.d), side="right") - 1
        is_told = np.array([name in self.sometimes for name in self.names], dtype=bool)
        return columns, self.first_feature[columns], np.where(is_told, last, len(self.group))

    @cached_property
    def _choices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The columns of choices (c,), how many each has, and the feature of each choice (c, largest + 1).

        The last code, one beyond the choices, stands for inactive, which has none.
        """
        columns = np.flatnonzero(self.is_category)
        sizes = self.n_categories[columns]
        slots = np.full((len(columns), int(sizes.max(initial=0)) + 1), len(self.group))
        for row, (j, size) in enumerate(zip(columns.tolist(), sizes.tolist(), strict=True)):
            slots[row, :size] = self.first_feature[j] + np.arange(size)
        return columns, sizes, slots

    @cached_property
    def _middles(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the features of choices: where they are, whose they are, and their values in the middle of the choices."""
        columns, sizes, slots = self._choices
        owner = np.repeat(np.arange(len(columns)), sizes)
        return slots[slots < len(self.group)], owner, math.sqrt(0.5) / sizes[owner]


def places(x: np.ndarray) -> np.ndarray:
    """Points (n, d) such that the same ones are equal byte for byte."""
    return np.round(np.nan_to_num(x, nan=-1.0), 9) + 0.0


def distinct(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows of the distinct points of `x` in the order of their first trial, the distinct point of each trial)."""
    index: dict[bytes, int] = {}
    owner = np.array([index.setdefault(place.tobytes(), len(index)) for place in places(x)], dtype=int)
    return np.unique(owner, return_index=True)[1], owner
