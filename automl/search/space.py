"""A declared space in the two forms that samplers work on: Optuna distributions and the unit cube."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from automl.declaration import Choice, Float, Int, Parameter, Space
from automl.errors import InvalidInput
from automl.search.cube import at, top, unit


def to_distribution(parameter: Parameter) -> BaseDistribution:
    """The Optuna distribution over the same values. Its `high` is the last grid point; `when` has no place in it."""
    if isinstance(parameter, Choice):
        return CategoricalDistribution(parameter.choices)
    if isinstance(parameter, Int):
        return IntDistribution(parameter.low, int(top(parameter)), log=parameter.log, step=parameter.step)
    return FloatDistribution(parameter.low, top(parameter), log=parameter.log, step=parameter.step)


def from_distribution(distribution: BaseDistribution) -> Parameter:
    """The parameter with the same values, without a condition.

    Raises:
        InvalidStudy: it holds what no parameter may, as a choice that is a list.
        InvalidInput: it is no kind of distribution that Optuna 5 makes.
    """
    if isinstance(distribution, CategoricalDistribution):
        return Choice(*distribution.choices)
    if isinstance(distribution, IntDistribution):
        return Int(distribution.low, distribution.high, log=distribution.log, step=distribution.step)
    if isinstance(distribution, FloatDistribution):
        return Float(distribution.low, distribution.high, log=distribution.log, step=distribution.step)
    raise InvalidInput(
        f"distribution: {distribution!r} is unknown; use Optuna's float, int or categorical distribution",
        "distribution",
    )


def to_distributions(space: Mapping[str, Parameter]) -> dict[str, BaseDistribution]:
    """Every parameter's distribution, parents first."""
    return {name: to_distribution(parameter) for name, parameter in space.items()}


def to_unit(space: Space, params: Mapping[str, Any]) -> np.ndarray:
    """`params` as a point (d,) of the unit cube, in the order of `space`; NaN where a parameter is inactive."""
    active = space.active(params)
    return np.array([unit(space[name], active[name]) if name in active else np.nan for name in space])


def from_unit(space: Space, u: np.ndarray) -> dict[str, Any]:
    """The point of `space` at `u` (d,), clipped into the cube; inactive parameters are left out.

    Raises:
        InvalidInput: `u` has another shape, or NaN where the parameter is active.
    """
    u = np.asarray(u, dtype=float)
    if u.shape != (len(space),):
        raise InvalidInput(f"u: its shape is {u.shape}; give one coordinate for each of {list(space)}", "u")
    params: dict[str, Any] = {}
    for name, coordinate in zip(space, u.tolist(), strict=True):
        if space.is_active(name, params):
            if coordinate != coordinate:
                raise InvalidInput(f"u: {name!r} is active but its coordinate is NaN; give a number", "u")
            params[name] = at(space[name], coordinate)
    return params
