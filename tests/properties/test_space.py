"""Round trips of random conditional spaces: to Optuna's distributions, to JSON, to the unit cube."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import distribution_to_json, json_to_distribution

from automl.declaration import Choice, Float, Int, Space
from automl.search import from_distribution, from_unit, to_distribution, to_distributions, to_unit

decimals = st.integers(-(10**6), 10**6).map(lambda k: k / 1000)
positive = st.integers(1, 10**9).map(lambda k: k / 1000)
scalars = st.one_of(st.text(max_size=3), st.integers(-5, 5), st.booleans(), st.none(), decimals)


@st.composite
def floats(draw, when=None):
    kind = draw(st.sampled_from(["linear", "log", "step"]))
    low, high = sorted((draw(positive), draw(positive)) if kind == "log" else (draw(decimals), draw(decimals)))
    step = draw(st.integers(1, 10**6)) / 1000 if kind == "step" else None
    return Float(low, high, log=kind == "log", step=step, when=when)


@st.composite
def ints(draw, when=None, width=10**9):
    kind = draw(st.sampled_from(["linear", "log", "step"]))
    low = draw(st.integers(1, 10**6)) if kind == "log" else draw(st.integers(-(10**6), 10**6))
    step = draw(st.integers(1, 1000)) if kind == "step" else 1
    return Int(low, low + draw(st.integers(0, width)), log=kind == "log", step=step, when=when)


@st.composite
def choices(draw, when=None):
    return Choice(*draw(st.lists(scalars, min_size=1, max_size=4, unique=True)), when=when)


@st.composite
def spaces(draw):
    """Up to six parameters; each may depend on values of one or two earlier ones."""
    parameters = {}
    for i in range(draw(st.integers(1, 6))):
        parents = [name for name, p in parameters.items() if isinstance(p, Choice | Int)]
        when = {}
        for parent in draw(st.lists(st.sampled_from(parents), max_size=2, unique=True)) if parents else ():
            owner = parameters[parent]
            options = (
                owner.choices if isinstance(owner, Choice) else range(owner.low, min(owner.high, owner.low + 3) + 1)
            )
            when[parent] = draw(st.lists(st.sampled_from(list(options)), min_size=1, max_size=2))
        kind = draw(st.sampled_from([floats, ints, choices]))
        parameters[f"p{i}"] = draw(ints(when=when, width=5) if kind is ints and i < 2 else kind(when=when))
    return Space(parameters)


@st.composite
def spaces_and_points(draw):
    space = draw(spaces())
    return space, np.array(draw(st.lists(st.floats(0, 1), min_size=len(space), max_size=len(space))))


@given(spaces())
def test_distributions_survive_the_way_to_parameters_and_to_json(space):
    for distribution in to_distributions(space).values():
        assert to_distribution(from_distribution(distribution)) == distribution
        assert json_to_distribution(distribution_to_json(distribution)) == distribution


@given(spaces_and_points())
def test_every_point_of_the_cube_is_a_valid_point_of_the_space(space_and_point):
    space, u = space_and_point
    params = from_unit(space, u)
    assert space.check(params) == params == space.active(params)
    for name, distribution in to_distributions(space).items():
        if name in params:
            assert distribution._contains(distribution.to_internal_repr(params[name]))
            assert type(params[name]) in (int, float, str, bool, type(None))


@given(spaces_and_points())
def test_points_survive_the_way_through_the_cube(space_and_point):
    space, u = space_and_point
    params = from_unit(space, u)
    again = from_unit(space, to_unit(space, params))
    assert list(again) == list(params)
    for name, value in params.items():
        parameter = space[name]
        if isinstance(parameter, Float) and parameter.step is None:
            # On an even scale the cube resolves the range, on a log scale the value.
            scale = 0.0 if parameter.log else max(abs(parameter.low), abs(parameter.high))
            assert again[name] == pytest.approx(value, rel=1e-12, abs=1e-12 * scale)
        else:
            assert again[name] == value
            assert type(again[name]) is type(value)
