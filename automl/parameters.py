"""Parameters and the space that they make: what a trial may try, and where the user believes that it pays.

Everything is checked when it is declared. Frozen values, standard library only; `to_json` and `from_json` are inverses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar

from automl.errors import InvalidStudy

Scalar = str | int | float | bool | None

#: {parent: value or sequence of values}: active when every parent is active and has one of its values.
Condition = Mapping[str, Any]

#: Where the user believes the optimum of a number to be: a value, or (value, spread). The spread is the standard
#: deviation as a share of the range, on the parameter's own scale (of its logarithm with `log=True`).
Belief = float | tuple[float, float]

DEFAULT_SPREAD = 0.15
#: What the value of `Choice(prior=value)` weighs, beside 1 for each of the others.
FAVOUR = 4.0


def reject(field_name: str, problem: str, cure: str) -> InvalidStudy:
    """The error of a wrong field."""
    return InvalidStudy(f"{field_name}: {problem}; {cure}", field=field_name)


def finite(name: str, value: object) -> float:
    """`value` as a finite float. Raises `InvalidStudy`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise reject(name, f"{value!r} is not a finite number", "give an int or a float")
    return float(value)


def whole(name: str, value: object) -> int:
    """`value` as an int. Raises `InvalidStudy`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise reject(name, f"{value!r} is not a whole number", "give an int")
    return value


def _frozen_condition(when: Condition | None) -> Mapping[str, tuple[Scalar, ...]]:
    """`{"a": 1}` and `{"a": [1, 2]}` in one form: parent -> the values that activate."""
    if when is None:
        return MappingProxyType({})
    if not isinstance(when, Mapping):
        raise reject("when", f"{when!r} is not a condition", 'write when={"parent": value}')
    many = (list, tuple, set, frozenset)
    frozen = {k: tuple(v) if isinstance(v, many) else (v,) for k, v in when.items()}
    for parent, values in frozen.items():
        if not values:
            raise reject("when", f"no value of {parent!r} is named", "name one or more")
    return MappingProxyType(frozen)


def _describe(parameter: Parameter) -> str:
    """As the user would write it: what is at its default is left out."""
    if isinstance(parameter, Choice):
        parts = [repr(value) for value in parameter.choices]
    else:
        parts = [f"{parameter.low!r}, {parameter.high!r}"]
        parts += ["log=True"] if parameter.log else []
        parts += [f"step={parameter.step!r}"] if parameter.step not in (None, 1) else []
    if parameter.when:
        parts.append(f"when={ {k: v[0] if len(v) == 1 else list(v) for k, v in parameter.when.items()}!r}")
    if isinstance(parameter, Choice) and parameter.prior is not None:
        parts.append(f"prior={dict(zip(parameter.choices, parameter.prior, strict=True))!r}")
    elif parameter.prior is not None:
        parts.append(f"prior={parameter.prior!r}")
    return f"{type(parameter).__name__}({', '.join(parts)})"


def _reduce(parameter: Parameter) -> tuple[Any, ...]:
    """How to pickle or copy a parameter, whose frozen condition cannot be."""
    return _parameter_from_json, (_parameter_to_json(parameter),)


@dataclass(frozen=True, repr=False)
class Float:
    """A real parameter in [low, high], both included; on a grid low, low + step, ... when `step` is given.

    `prior` is where the user believes the optimum to be, see `Belief`; kept as (value, spread). It moves the search,
    and is no part of what the parameter is: it does not count in comparisons.
    """

    low: float
    high: float
    log: bool = field(default=False, kw_only=True)
    step: float | None = field(default=None, kw_only=True)
    when: Condition | None = field(default=None, kw_only=True)
    prior: Belief | None = field(default=None, kw_only=True, compare=False)
    kind: ClassVar[str] = "float"

    __repr__ = _describe
    __reduce__ = _reduce

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", finite("low", self.low))
        object.__setattr__(self, "high", finite("high", self.high))
        object.__setattr__(self, "when", _frozen_condition(self.when))
        _check_range(self.low, self.high, self.log)
        if self.step is not None:
            object.__setattr__(self, "step", finite("step", self.step))
            if self.log:
                raise reject("step", "a log scale has no even grid", "drop step or log=True")
            if not 0 < self.step <= max(self.high - self.low, self.step):
                raise reject("step", f"{self.step!r} is not above zero", "give a step > 0")
        object.__setattr__(self, "prior", _guess_and_spread(self))

    def contains(self, value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def widens(self, old: object) -> bool:
        return (
            isinstance(old, Float)
            and (self.log, self.step, self.when) == (old.log, old.step, old.when)
            and self.low <= old.low
            and self.high >= old.high
        )


@dataclass(frozen=True, repr=False)
class Int:
    """A whole parameter in [low, high], both included; low, low + step, ... when `step` is above 1.

    `prior`: as that of `Float`.
    """

    low: int
    high: int
    log: bool = field(default=False, kw_only=True)
    step: int = field(default=1, kw_only=True)
    when: Condition | None = field(default=None, kw_only=True)
    prior: Belief | None = field(default=None, kw_only=True, compare=False)
    kind: ClassVar[str] = "int"

    __repr__ = _describe
    __reduce__ = _reduce

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            whole(name, getattr(self, name))
        object.__setattr__(self, "when", _frozen_condition(self.when))
        _check_range(self.low, self.high, self.log)
        if max(abs(self.low), abs(self.high)) > 2**53:
            raise reject("high", "beyond 2**53 neighbouring integers are one float", "rescale the parameter")
        if self.step < 1:
            raise reject("step", f"{self.step!r} is not above zero", "give a step >= 1")
        if self.log and self.step != 1:
            raise reject("step", "a log scale has no even grid", "drop step or log=True")
        object.__setattr__(self, "prior", _guess_and_spread(self))

    def contains(self, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    def widens(self, old: object) -> bool:
        return (
            isinstance(old, Int)
            and (self.log, self.step, self.when) == (old.log, old.step, old.when)
            and self.low <= old.low
            and self.high >= old.high
            and (old.low - self.low) % self.step == 0
        )


@dataclass(frozen=True, init=False, repr=False)
class Choice:
    """One of some unordered values: strings, numbers, booleans or None.

    `prior` says which of them the user believes in: one value, or weights by value (1 where none is given); kept as
    the weights of all values, in their order. It does not count in comparisons.
    """

    choices: tuple[Scalar, ...]
    when: Condition | None
    prior: tuple[float, ...] | None = field(compare=False)
    kind: ClassVar[str] = "choice"

    __repr__ = _describe
    __reduce__ = _reduce

    def __init__(
        self,
        *choices: Scalar,
        when: Condition | None = None,
        prior: Scalar | Mapping[Any, float] = None,
    ):
        if len(choices) == 1 and isinstance(choices[0], list | tuple | set):
            raise reject("choices", f"{choices[0]!r} is one value", "write Choice(*values)")
        if not choices:
            raise reject("choices", "there are none", "give one or more, as in Choice('sgd', 'adamw')")
        for value in choices:
            if not isinstance(value, str | int | float | bool | None):
                raise reject("choices", f"{value!r} is a {type(value).__name__}", "use str, int, float, bool or None")
            if isinstance(value, float) and not math.isfinite(value):
                raise reject("choices", f"{value!r} is not finite", "leave it out")
        if len(set(choices)) != len(choices):
            raise reject("choices", f"{list(choices)!r} holds equal values (1 == True == 1.0)", "keep one of each")
        object.__setattr__(self, "choices", choices)
        object.__setattr__(self, "when", _frozen_condition(when))
        object.__setattr__(self, "prior", None if prior is None else self._weights(prior))

    def _weights(self, prior: Scalar | Mapping[Any, float]) -> tuple[float, ...]:
        if prior == {}:
            raise reject("prior", "it names no value", "name one or more, as in prior={'adamw': 3}")
        weights = [1.0] * len(self.choices)
        for value, weight in prior.items() if isinstance(prior, Mapping) else [(prior, FAVOUR)]:
            if not self.contains(value):
                raise reject("prior", f"{value!r} is none of {list(self.choices)!r}", "name one of them")
            if finite(f"prior[{value!r}]", weight) <= 0:
                raise reject(f"prior[{value!r}]", f"{weight!r} is not above zero", "give more; a value not named has 1")
            weights[self.choices.index(value)] = float(weight)
        return tuple(weights)

    def contains(self, value: object) -> bool:
        return any(value == c and isinstance(value, bool) == isinstance(c, bool) for c in self.choices)

    def widens(self, old: object) -> bool:
        return isinstance(old, Choice) and self.when == old.when and set(old.choices) <= set(self.choices)


Parameter = Float | Int | Choice


def _check_range(low: float, high: float, log: bool) -> None:
    if low > high:
        raise reject("low", f"{low!r} is above high={high!r}", "swap them")
    if log and low <= 0:
        raise reject("low", f"{low!r} has no logarithm", "give low > 0 or drop log=True")


def _guess_and_spread(parameter: Float | Int) -> tuple[float, float] | None:
    """`parameter.prior` in one form. Raises `InvalidStudy`."""
    prior: Any = parameter.prior
    if prior is None:
        return None
    pair = isinstance(prior, list | tuple)
    if pair and len(prior) != 2:
        raise reject("prior", f"{prior!r} is not a pair", "give a value, or (value, spread)")
    guess, spread = prior if pair else (prior, DEFAULT_SPREAD)
    if not parameter.contains(guess):
        inside = f"give a value from {parameter.low!r} to {parameter.high!r}"
        raise reject("prior", f"{guess!r} is outside", f"{inside}{', a whole one' * isinstance(parameter, Int)}")
    if not 0 < finite("prior", spread) <= 1:
        cure = "give a share of the range, above 0 and at most 1, as in prior=(value, 0.15)"
        raise reject("prior", f"{spread!r} is no spread", cure)
    return (guess, float(spread))


class Space(Mapping[str, Parameter]):
    """Parameters by name, parents before children. Conditions form a DAG over Choice and Int parents."""

    def __init__(self, parameters: Mapping[str, Parameter]):
        if not isinstance(parameters, Mapping) or not parameters:
            raise reject("space", "it holds no parameter", 'give one or more, as in {"lr": Float(1e-4, 1e-1)}')
        for name, parameter in parameters.items():
            if not isinstance(name, str) or not name:
                raise reject("space", f"{name!r} is no parameter name", "use a string")
            if not isinstance(parameter, Parameter):
                cure = "use Float, Int or Choice"
                raise reject(f"space[{name!r}]", f"{parameter!r} is no parameter", cure)
            self._check_condition(name, parameter, parameters)
        self._parameters = MappingProxyType({name: parameters[name] for name in _parents_first(parameters)})

    @staticmethod
    def _check_condition(name: str, parameter: Parameter, parameters: Mapping[str, Parameter]) -> None:
        where = f"space[{name!r}].when"
        for parent, values in (parameter.when or {}).items():
            if parent not in parameters:
                raise reject(where, f"there is no parameter {parent!r}", f"name one of {list(parameters)}")
            owner = parameters[parent]
            if not isinstance(owner, Choice | Int):
                raise reject(where, f"{parent!r} is a Float", "a condition needs a Choice or an Int")
            for value in values:
                if not owner.contains(value):
                    raise reject(where, f"{parent!r} never is {value!r}", "name a value that it can take")

    def __getitem__(self, name: str) -> Parameter:
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

    def __reduce__(self) -> tuple[Any, ...]:
        return Space, (dict(self),)

    def is_active(self, name: str, params: Mapping[str, Any]) -> bool:
        """Whether `name` matters, given the values of its parents in `params` (absent = inactive)."""
        when = self[name].when or {}
        return all(parent in params and params[parent] in values for parent, values in when.items())

    def active(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """`params` without those that their parents' values switch off, parents first."""
        kept: dict[str, Any] = {}
        for name in self:
            if name in params and self.is_active(name, kept):
                kept[name] = params[name]
        return kept

    def check(self, params: Mapping[str, Any], *, partial: bool = False) -> dict[str, Any]:
        """`params` if it is a point of this space (or of a part of it); raises `InvalidInput` otherwise."""
        for name, value in params.items():
            if name not in self:
                raise reject(f"params[{name!r}]", "there is no such parameter", f"name one of {list(self)}")
            if not self[name].contains(value):
                raise reject(f"params[{name!r}]", f"{value!r} is outside {self[name]}", "give a value inside")
        if not partial:
            for name in self:
                if self.is_active(name, params) and name not in params:
                    raise reject(f"params[{name!r}]", "it is missing", "give it a value")
        return dict(params)

    def to_json(self) -> dict[str, Any]:
        return {name: _parameter_to_json(parameter) for name, parameter in self.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        return cls({name: _parameter_from_json(parameter) for name, parameter in data.items()})


def _parents_first(parameters: Mapping[str, Parameter]) -> list[str]:
    ordered: list[str] = []
    on_path: list[str] = []

    def visit(name: str) -> None:
        if name in ordered:
            return
        if name in on_path:
            circle = " -> ".join([*on_path[on_path.index(name) :], name])
            raise reject("space", f"conditions run in a circle ({circle})", "break it")
        on_path.append(name)
        for parent in parameters[name].when or {}:
            visit(parent)
        on_path.pop()
        ordered.append(name)

    for name in parameters:
        visit(name)
    return ordered


def _parameter_to_json(parameter: Parameter) -> dict[str, Any]:
    data = {f.name: getattr(parameter, f.name) for f in fields(parameter)}
    data["when"] = {parent: list(values) for parent, values in (parameter.when or {}).items()}
    data["prior"] = None if parameter.prior is None else list(parameter.prior)  # type: ignore[arg-type]  # a pair by now
    if isinstance(parameter, Choice):
        data["choices"] = list(parameter.choices)
    return {"kind": parameter.kind} | data


def _parameter_from_json(data: Mapping[str, Any]) -> Parameter:
    rest = {key: value for key, value in data.items() if key != "kind"}
    if data["kind"] == "choice":
        weights = rest.get("prior")  # older declarations have none
        prior = None if weights is None else dict(zip(rest["choices"], weights, strict=True))
        return Choice(*rest["choices"], when=rest["when"], prior=prior)
    return Float(**rest) if data["kind"] == "float" else Int(**rest)
