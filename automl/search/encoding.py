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
from dataclasses import dataclass, field
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
    def is_smooth(self) -> np.ndarray:
        """(d,) Whether a gradient means anything: a continuum."""
        return np.isinf(self.n_values)

    @cached_property
    def is_conditional(self) -> np.ndarray:
        """(d,) Whether the column is inactive at some points."""
        return np.array(
            [bool(held) or name in self.sometimes for name, held in zip(self.names, self.conditions, strict=True)]
        )

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
        return (int(self.n_categories[j]) or 1) + int(self.is_conditional[j])

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
        for k in np.flatnonzero(np.isfinite(self.n_values)).tolist():
            x[:, k] = self._cell(k, x[:, k])
        for j, conditions in enumerate(self.conditions):
            if conditions:
                x[~self._active(j, x), j] = np.nan
        return x

    def _cell(self, j: int, u: np.ndarray) -> np.ndarray:
        """The middle of the cell that `u` lies in."""
        domain, n = self.domains[j], self.n_values[j]
        if n == 1:
            return np.full_like(u, 0.5)
        if getattr(domain, "log", False):
            low, high = math.log(domain.low - 0.5), math.log(domain.high + 0.5)
            value = np.clip(np.rint(np.exp(low + u * (high - low))), domain.low, domain.high)
            return (np.log(value) - low) / (high - low)
        return (np.minimum(np.floor(u * n), n - 1) + 0.5) / n

    def _active(self, j: int, x: np.ndarray) -> np.ndarray:
        active = np.ones(len(x), dtype=bool)
        for parent, values in self.conditions[j]:
            # NaN, an inactive parent, is close to nothing.
            active &= (np.abs(x[:, parent, None] - values) < 1e-9).any(axis=1)
        return active

    # -- features --------------------------------------------------------------------------------------------------

    def features(self, x: np.ndarray) -> np.ndarray:
        """Features (n, p) of points (n, d).

        A number is itself, 0.5 where inactive; choices are one-hot over sqrt(2), so that two different ones are at
        distance 1; a conditional parameter has one more feature, which puts inactive and active at distance 1 or more.
        """
        n = len(x)
        columns: list[np.ndarray] = []
        for j in range(self.d):
            u = x[:, j]
            missing = np.isnan(u)
            if self.is_category[j]:
                k = int(self.n_categories[j])
                code = np.where(missing, k, np.minimum(np.floor(np.nan_to_num(u) * k), k - 1)).astype(int)
                columns.append(np.eye(k + 1)[code][:, : self._width(j)] / math.sqrt(2.0))
            else:
                columns.append(np.where(missing, 0.5, u)[:, None])
                if self.is_conditional[j]:
                    columns.append(missing[:, None].astype(float))
        return np.concatenate(columns, axis=1) if columns else np.zeros((n, 0))
