"""What a user declares: parameters, budget, fidelity, resources, and the study that holds them.

Everything is checked when it is declared, so that no GPU time is spent on a study that cannot work. Frozen
values, standard library only; `to_json` and `from_json` are inverses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from automl.errors import InvalidStudy

Direction = Literal["min", "max"]
Scalar = str | int | float | bool | None

#: {parent: value or sequence of values}: active when every parent is active and has one of its values.
Condition = Mapping[str, Any]

SAMPLERS = ("auto", "tpe", "gp", "cmaes", "skopt", "random", "grid")
PRUNERS = ("auto", "none", "median", "hyperband", "asha")


def _reject(field_name: str, problem: str, cure: str) -> InvalidStudy:
    return InvalidStudy(f"{field_name}: {problem}; {cure}", field=field_name)


def _finite(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _reject(name, f"{value!r} is not a finite number", "give an int or a float")
    return float(value)


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _reject(name, f"{value!r} is not a whole number", "give an int")
    return value


def _frozen_condition(when: Condition | None) -> Mapping[str, tuple[Scalar, ...]]:
    """`{"a": 1}` and `{"a": [1, 2]}` in one form: parent -> the values that activate."""
    if when is None:
        return MappingProxyType({})
    if not isinstance(when, Mapping):
        raise _reject("when", f"{when!r} is not a condition", 'write when={"parent": value}')
    many = (list, tuple, set, frozenset)
    frozen = {k: tuple(v) if isinstance(v, many) else (v,) for k, v in when.items()}
    for parent, values in frozen.items():
        if not values:
            raise _reject("when", f"no value of {parent!r} is named", "name one or more")
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
    return f"{type(parameter).__name__}({', '.join(parts)})"


@dataclass(frozen=True, repr=False)
class Float:
    """A real parameter in [low, high], both included; on a grid low, low + step, ... when `step` is given."""

    low: float
    high: float
    log: bool = field(default=False, kw_only=True)
    step: float | None = field(default=None, kw_only=True)
    when: Condition | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "float"

    def __repr__(self) -> str:
        return _describe(self)

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", _finite("low", self.low))
        object.__setattr__(self, "high", _finite("high", self.high))
        object.__setattr__(self, "when", _frozen_condition(self.when))
        _check_range(self.low, self.high, self.log)
        if self.step is not None:
            object.__setattr__(self, "step", _finite("step", self.step))
            if self.log:
                raise _reject("step", "a log scale has no even grid", "drop step or log=True")
            if not 0 < self.step <= max(self.high - self.low, self.step):
                raise _reject("step", f"{self.step!r} is not above zero", "give a step > 0")

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
    """A whole parameter in [low, high], both included; low, low + step, ... when `step` is above 1."""

    low: int
    high: int
    log: bool = field(default=False, kw_only=True)
    step: int = field(default=1, kw_only=True)
    when: Condition | None = field(default=None, kw_only=True)
    kind: ClassVar[str] = "int"

    def __repr__(self) -> str:
        return _describe(self)

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            _whole(name, getattr(self, name))
        object.__setattr__(self, "when", _frozen_condition(self.when))
        _check_range(self.low, self.high, self.log)
        if max(abs(self.low), abs(self.high)) > 2**53:
            raise _reject("high", "beyond 2**53 neighbouring integers are one float", "rescale the parameter")
        if self.step < 1:
            raise _reject("step", f"{self.step!r} is not above zero", "give a step >= 1")
        if self.log and self.step != 1:
            raise _reject("step", "a log scale has no even grid", "drop step or log=True")

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
    """One of some unordered values: strings, numbers, booleans or None."""

    choices: tuple[Scalar, ...]
    when: Condition | None
    kind: ClassVar[str] = "choice"

    def __repr__(self) -> str:
        return _describe(self)

    def __init__(self, *choices: Scalar, when: Condition | None = None):
        if len(choices) == 1 and isinstance(choices[0], list | tuple | set):
            raise _reject("choices", f"{choices[0]!r} is one value", "write Choice(*values)")
        if not choices:
            raise _reject("choices", "there are none", "give one or more, as in Choice('sgd', 'adamw')")
        for value in choices:
            if not isinstance(value, str | int | float | bool | None):
                raise _reject("choices", f"{value!r} is a {type(value).__name__}", "use str, int, float, bool or None")
            if isinstance(value, float) and not math.isfinite(value):
                raise _reject("choices", f"{value!r} is not finite", "leave it out")
        if len(set(choices)) != len(choices):
            raise _reject("choices", f"{list(choices)!r} holds equal values (1 == True == 1.0)", "keep one of each")
        object.__setattr__(self, "choices", choices)
        object.__setattr__(self, "when", _frozen_condition(when))

    def contains(self, value: object) -> bool:
        return any(value == c and isinstance(value, bool) == isinstance(c, bool) for c in self.choices)

    def widens(self, old: object) -> bool:
        return isinstance(old, Choice) and self.when == old.when and set(old.choices) <= set(self.choices)


Parameter = Float | Int | Choice


def _check_range(low: float, high: float, log: bool) -> None:
    if low > high:
        raise _reject("low", f"{low!r} is above high={high!r}", "swap them")
    if log and low <= 0:
        raise _reject("low", f"{low!r} has no logarithm", "give low > 0 or drop log=True")


@dataclass(frozen=True)
class Budget:
    """When the search ends: after `trials` trials, or when it was active for `minutes`; whichever comes first.

    Trials that run when the minutes are over finish; no new one starts.
    """

    trials: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.trials is None and self.minutes is None:
            raise _reject("budget", "it has no end", "give trials= or minutes=")
        if self.trials is not None and _whole("budget.trials", self.trials) < 1:
            raise _reject("budget.trials", f"{self.trials} is not above zero", "give 1 or more")
        if self.minutes is not None and _finite("budget.minutes", self.minutes) <= 0:
            raise _reject("budget.minutes", f"{self.minutes} is not above zero", "give more")


@dataclass(frozen=True)
class Fidelity:
    """What a trial costs is counted in steps of `name`, from `min` (the first that tells anything) to `max`."""

    name: str
    min: int = 1
    max: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise _reject("fidelity.name", f"{self.name!r} is no name", "say what a step is, as in 'epoch'")
        if not 1 <= _whole("fidelity.min", self.min) <= _whole("fidelity.max", self.max):
            raise _reject("fidelity", f"min={self.min}, max={self.max}", "give 1 <= min <= max")


@dataclass(frozen=True)
class Resources:
    """What one trial may use. A trial above `timeout_s` seconds or `memory_gb` (2**30 bytes, of RAM) is ended."""

    cpus: int = 1
    gpus: int = 0
    timeout_s: float | None = None
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        if _whole("resources.cpus", self.cpus) < 1:
            raise _reject("resources.cpus", f"{self.cpus} is not above zero", "give 1 or more")
        if _whole("resources.gpus", self.gpus) < 0:
            raise _reject("resources.gpus", f"{self.gpus} is below zero", "give 0 or more")
        for name in ("timeout_s", "memory_gb"):
            value = getattr(self, name)
            if value is not None and _finite(f"resources.{name}", value) <= 0:
                raise _reject(f"resources.{name}", f"{value} is not above zero", "give more, or None for no limit")


class Space(Mapping[str, Parameter]):
    """Parameters by name, parents before children. Conditions form a DAG over Choice and Int parents."""

    def __init__(self, parameters: Mapping[str, Parameter]):
        if not isinstance(parameters, Mapping) or not parameters:
            raise _reject("space", "it holds no parameter", 'give one or more, as in {"lr": Float(1e-4, 1e-1)}')
        for name, parameter in parameters.items():
            if not isinstance(name, str) or not name:
                raise _reject("space", f"{name!r} is no parameter name", "use a string")
            if not isinstance(parameter, Parameter):
                cure = "use Float, Int or Choice"
                raise _reject(f"space[{name!r}]", f"{parameter!r} is no parameter", cure)
            self._check_condition(name, parameter, parameters)
        self._parameters = MappingProxyType({name: parameters[name] for name in _parents_first(parameters)})

    @staticmethod
    def _check_condition(name: str, parameter: Parameter, parameters: Mapping[str, Parameter]) -> None:
        where = f"space[{name!r}].when"
        for parent, values in (parameter.when or {}).items():
            if parent not in parameters:
                raise _reject(where, f"there is no parameter {parent!r}", f"name one of {list(parameters)}")
            owner = parameters[parent]
            if not isinstance(owner, Choice | Int):
                raise _reject(where, f"{parent!r} is a Float", "a condition needs a Choice or an Int")
            for value in values:
                if not owner.contains(value):
                    raise _reject(where, f"{parent!r} never is {value!r}", "name a value that it can take")

    def __getitem__(self, name: str) -> Parameter:
        return self._parameters[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parameters)

    def __len__(self) -> int:
        return len(self._parameters)

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
                raise _reject(f"params[{name!r}]", "there is no such parameter", f"name one of {list(self)}")
            if not self[name].contains(value):
                raise _reject(f"params[{name!r}]", f"{value!r} is outside {self[name]}", "give a value inside")
        if not partial:
            for name in self:
                if self.is_active(name, params) and name not in params:
                    raise _reject(f"params[{name!r}]", "it is missing", "give it a value")
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
            raise _reject("space", f"conditions run in a circle ({circle})", "break it")
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
    if isinstance(parameter, Choice):
        data["choices"] = list(parameter.choices)
    return {"kind": parameter.kind} | data


def _parameter_from_json(data: Mapping[str, Any]) -> Parameter:
    rest = {key: value for key, value in data.items() if key != "kind"}
    if data["kind"] == "choice":
        return Choice(*rest["choices"], when=rest["when"])
    return Float(**rest) if data["kind"] == "float" else Int(**rest)


#: Also the name of a folder, and a word in FILE:NAME.
_NAME = re.compile(r"[^\s\x00-\x1f/:.\\-][^\x00-\x1f/:\\]{0,199}")


@dataclass(frozen=True)
class StudySpec:
    """A study's declaration without its code. `space` is None for a define-by-run function."""

    name: str
    space: Space | None
    metrics: Mapping[str, Direction]
    budget: Budget
    fidelity: Fidelity | None = None
    resources: Resources = Resources()
    sampler: str = "auto"
    pruner: str = "auto"
    seed: int = 0
    retries: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise _reject(
                "name",
                f"{self.name!r}",
                "use 1 to 200 printable characters without '/', '\\' and ':', not starting with '.' or '-'",
            )
        if not isinstance(self.metrics, Mapping) or not self.metrics:
            raise _reject("metrics", "there is none", 'name one, as in {"accuracy": "max"}')
        for metric, direction in self.metrics.items():
            if not isinstance(metric, str) or not metric:
                raise _reject("metrics", f"{metric!r} is no metric name", "use a string")
            if direction not in ("min", "max"):
                raise _reject(f"metrics[{metric!r}]", f"{direction!r} is no direction", "say 'min' or 'max'")
        for name, kind in (("budget", Budget), ("resources", Resources)):
            if not isinstance(getattr(self, name), kind):
                raise _reject(name, f"{getattr(self, name)!r}", f"give a {kind.__name__}(...)")
        if self.fidelity is not None and not isinstance(self.fidelity, Fidelity):
            raise _reject("fidelity", f"{self.fidelity!r}", "give a Fidelity(...)")
        for name, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            value = getattr(self, name)
            if value not in known and not (isinstance(value, str) and value.startswith("custom:")):
                raise _reject(name, f"{value!r} is unknown", f"use one of {', '.join(known)}, or an Optuna object")
        if _whole("seed", self.seed) < 0:
            raise _reject("seed", f"{self.seed} is below zero", "give 0 or more")
        if _whole("retries", self.retries) < 0:
            raise _reject("retries", f"{self.retries} is below zero", "give 0 or more")
        object.__setattr__(self, "metrics", MappingProxyType(dict(self.metrics)))

    @property
    def directions(self) -> tuple[str, ...]:
        """In Optuna's words, one per metric."""
        return tuple("maximize" if d == "max" else "minimize" for d in self.metrics.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "space": self.space.to_json() if self.space is not None else None,
            "metrics": dict(self.metrics),
            "budget": asdict(self.budget),
            "fidelity": asdict(self.fidelity) if self.fidelity else None,
            "resources": asdict(self.resources),
            "sampler": self.sampler,
            "pruner": self.pruner,
            "seed": self.seed,
            "retries": self.retries,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StudySpec:
        return cls(
            **{
                **data,
                "space": Space.from_json(data["space"]) if data["space"] is not None else None,
                "budget": Budget(**data["budget"]),
                "fidelity": Fidelity(**data["fidelity"]) if data["fidelity"] else None,
                "resources": Resources(**data["resources"]),
            }
        )

    def differences(self, old: StudySpec) -> tuple[list[str], bool]:
        """What makes this another study than `old`, one line each, and whether it only widens it.

        Budget, resources, sampler, pruner and retries may change from run to run: they are not differences.
        """
        found: list[str] = []
        widens = True
        if dict(self.metrics) != dict(old.metrics):
            found.append(f"metrics were {dict(old.metrics)}, now {dict(self.metrics)}")
            widens = False
        if self.fidelity != old.fidelity:
            found.append(f"fidelity was {old.fidelity}, now {self.fidelity}")
            widens = False
        new_space: Mapping[str, Parameter] = self.space or {}
        old_space: Mapping[str, Parameter] = old.space or {}
        for name in [*old_space, *(n for n in new_space if n not in old_space)]:
            was, now = old_space.get(name), new_space.get(name)
            if was != now:
                found.append(f"{name} was {was or 'absent'}, now {now or 'absent'}")
                widens = widens and was is not None and now is not None and now.widens(was)
        return found, widens and bool(found)


def in_declared_order(spec: StudySpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """Declared parameters first, in their order; then others by name."""
    declared = [name for name in spec.space or () if name in params]
    return {name: params[name] for name in [*declared, *sorted(params.keys() - set(declared))]}
