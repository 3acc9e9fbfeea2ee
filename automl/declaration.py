"""What a user declares: budget, fidelity, resources, and the study that holds them and the space of parameters.

Everything is checked when it is declared, so that no GPU time is spent on a study that cannot work. Frozen
values, standard library only; `to_json` and `from_json` are inverses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from automl.parameters import Choice, Condition, Float, Int, Parameter, Scalar, Space, finite, reject, whole

__all__ = [
    "PRUNERS",
    "SAMPLERS",
    "Bound",
    "Budget",
    "Candidate",
    "Choice",
    "Condition",
    "Confirm",
    "Direction",
    "Fidelity",
    "Float",
    "Int",
    "Parameter",
    "Race",
    "Resources",
    "Scalar",
    "Space",
    "StudySpec",
    "in_declared_order",
]

Direction = Literal["min", "max"]

SAMPLERS = ("auto", "tpe", "gp", "cmaes", "skopt", "random", "grid")
PRUNERS = ("auto", "none", "median", "hyperband", "asha")


@dataclass(frozen=True)
class Budget:
    """When the search ends: after `trials` trials, when it was active for `minutes`, or when it has converged.

    Whichever comes first; trials that run then finish, no new one starts. `stop_when="converged"`: when the search
    expects no more than a chance of 1 in 20 that the trials to come improve the best by more than `margin` (in units
    of the metric; None: as much as the search takes to be worth mentioning).
    """

    trials: int | None = None
    minutes: float | None = None
    stop_when: Literal["converged"] | None = None
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.stop_when not in (None, "converged"):
            raise reject("budget.stop_when", f"{self.stop_when!r} is unknown", "say 'converged', or leave it out")
        if self.trials is None and self.minutes is None and self.stop_when is None:
            raise reject("budget", "it has no end", "give trials= or minutes= or stop_when='converged'")
        if self.trials is not None and whole("budget.trials", self.trials) < 1:
            raise reject("budget.trials", f"{self.trials} is not above zero", "give 1 or more")
        if self.minutes is not None and finite("budget.minutes", self.minutes) <= 0:
            raise reject("budget.minutes", f"{self.minutes} is not above zero", "give more")
        if self.margin is not None and self.stop_when is None:
            raise reject("budget.margin", "nothing looks at it", "add stop_when='converged'")
        if self.margin is not None and finite("budget.margin", self.margin) < 0:
            raise reject("budget.margin", f"{self.margin} is below zero", "give 0 or more")

    def to_json(self) -> dict[str, Any]:
        always = {"trials": self.trials, "minutes": self.minutes}
        return always if self.stop_when is None else always | {"stop_when": self.stop_when, "margin": self.margin}


@dataclass(frozen=True)
class Fidelity:
    """What a trial costs is counted in steps of `name`, from `min` (the first that tells anything) to `max`."""

    name: str
    min: int = 1
    max: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise reject("fidelity.name", f"{self.name!r} is no name", "say what a step is, as in 'epoch'")
        if not 1 <= whole("fidelity.min", self.min) <= whole("fidelity.max", self.max):
            raise reject("fidelity", f"min={self.min}, max={self.max}", "give 1 <= min <= max")


@dataclass(frozen=True)
class Resources:
    """What one trial may use. A trial above `timeout_s` seconds or `memory_gb` (2**30 bytes, of RAM) is ended."""

    cpus: int = 1
    gpus: int = 0
    timeout_s: float | None = None
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        if whole("resources.cpus", self.cpus) < 1:
            raise reject("resources.cpus", f"{self.cpus} is not above zero", "give 1 or more")
        if whole("resources.gpus", self.gpus) < 0:
            raise reject("resources.gpus", f"{self.gpus} is below zero", "give 0 or more")
        for name in ("timeout_s", "memory_gb"):
            value = getattr(self, name)
            if value is not None and finite(f"resources.{name}", value) <= 0:
                raise reject(f"resources.{name}", f"{value} is not above zero", "give more, or None for no limit")


@dataclass(frozen=True)
class Bound:
    """Where a metric has to stay: at `min` or above it, at `max` or below it."""

    min: float | None = None
    max: float | None = None

    @classmethod
    def parse(cls, where: str, given: object) -> Bound:
        """From `{"max": 20}`, `{"min": 1}` or both, given as the field `where`. Raises `InvalidStudy`."""
        if isinstance(given, Bound):
            return given
        if not isinstance(given, Mapping) or not given or given.keys() - {"min", "max"}:
            raise reject(where, f"{given!r} is no bound", 'give {"max": 20}, {"min": 1} or both')
        bounds = {key: finite(f"{where}[{key!r}]", value) for key, value in given.items()}
        if bounds.get("min", -math.inf) > bounds.get("max", math.inf):
            raise reject(where, f"min={bounds['min']!r} is above max={bounds['max']!r}", "swap them")
        return cls(**bounds)

    def to_json(self) -> dict[str, float]:
        return {key: value for key, value in asdict(self).items() if value is not None}

    def excess(self, value: float) -> float:
        """How far `value` is outside; 0 or less inside, which is how Optuna writes constraints. NaN is far outside."""
        if math.isnan(value):
            return math.inf
        above = -math.inf if self.max is None else value - self.max
        below = -math.inf if self.min is None else self.min - value
        return max(above, below)


def _bounds(field: str, given: Any) -> dict[str, Bound]:
    if not isinstance(given, Mapping):
        raise reject(field, f"{given!r} bounds nothing", f'write {field}={{"latency_ms": {{"max": 20}}}}')
    for name in given:
        if not isinstance(name, str) or not name:
            raise reject(field, f"{name!r} is no metric name", "use a string")
    return {name: Bound.parse(f"{field}[{name!r}]", bound) for name, bound in given.items()}


@dataclass(frozen=True)
class Confirm:
    """How the winner is confirmed: the `top` trials run again with fresh seeds, until one of them is the best with a
    probability of `sure`, or after `trials` runs in all.
    """

    top: int = 4
    trials: int = 25
    sure: float = 0.95

    def __post_init__(self) -> None:
        if whole("confirm.top", self.top) < 1:
            raise reject("confirm.top", f"{self.top} is not above zero", "give 1 or more")
        if whole("confirm.trials", self.trials) < 2:
            raise reject("confirm.trials", f"{self.trials} tells nothing", "give 2 or more")
        if not 0.5 <= finite("confirm.sure", self.sure) < 1:
            raise reject("confirm.sure", f"{self.sure} is no such probability", "give one from 0.5 to below 1")


@dataclass(frozen=True)
class Candidate:
    """A trial that may be the best."""

    number: int
    params: Mapping[str, Any]
    value: float  #: what the search saw


@dataclass(frozen=True)
class Race:
    """What makes a study the confirmation of another: its trials are the candidates again, with fresh seeds."""

    candidates: tuple[Candidate, ...]
    sure: float
    held_out: bool  #: trials run `Study(evaluate=...)`

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Race:
        return cls(**{**data, "candidates": tuple(Candidate(**item) for item in data["candidates"])})


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
    cost: str | None = None
    constraints: Mapping[str, Bound] = field(default_factory=dict)
    transfer: Literal["auto"] | tuple[str, ...] | None = None
    gates: Mapping[str, Bound] = field(default_factory=dict)  #: what a model must reach to be promoted
    confirm: Confirm | None = None  #: the winner, when the search is over
    race: Race | None = None  #: this study confirms another
    held_out: bool = False  #: there is a function for data that the search never sees, `Study(evaluate=...)`

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise reject(
                "name",
                f"{self.name!r}",
                "use 1 to 200 printable characters without '/', '\\' and ':', not starting with '.' or '-'",
            )
        if not isinstance(self.metrics, Mapping) or not self.metrics:
            raise reject("metrics", "there is none", 'name one, as in {"accuracy": "max"}')
        for metric, direction in self.metrics.items():
            if not isinstance(metric, str) or not metric:
                raise reject("metrics", f"{metric!r} is no metric name", "use a string")
            if direction not in ("min", "max"):
                raise reject(f"metrics[{metric!r}]", f"{direction!r} is no direction", "say 'min' or 'max'")
        for name, kind in (("budget", Budget), ("resources", Resources)):
            if not isinstance(getattr(self, name), kind):
                raise reject(name, f"{getattr(self, name)!r}", f"give a {kind.__name__}(...)")
        if self.fidelity is not None and not isinstance(self.fidelity, Fidelity):
            raise reject("fidelity", f"{self.fidelity!r}", "give a Fidelity(...)")
        for name, known in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            value = getattr(self, name)
            if value not in known and not (isinstance(value, str) and value.startswith("custom:")):
                raise reject(name, f"{value!r} is unknown", f"use one of {', '.join(known)}, or an Optuna object")
        if whole("seed", self.seed) < 0:
            raise reject("seed", f"{self.seed} is below zero", "give 0 or more")
        if whole("retries", self.retries) < 0:
            raise reject("retries", f"{self.retries} is below zero", "give 0 or more")
        object.__setattr__(self, "metrics", MappingProxyType(dict(self.metrics)))
        object.__setattr__(self, "constraints", MappingProxyType(_bounds("constraints", self.constraints)))
        object.__setattr__(self, "gates", MappingProxyType(_bounds("gates", self.gates)))
        if self.confirm is not None and not isinstance(self.confirm, Confirm):
            raise reject("confirm", f"{self.confirm!r}", "give True, or a Confirm(...)")
        if self.confirm is not None and len(self.metrics) > 1:
            raise reject("confirm", "several metrics have no one best", "leave it out")
        object.__setattr__(self, "transfer", self._sources())
        self._check_cost()
        self._check_sampler()

    def _sources(self) -> Literal["auto"] | tuple[str, ...] | None:
        given: Any = self.transfer
        if given is None or given == "auto":
            return given
        if not isinstance(given, list | tuple) or not all(isinstance(name, str) and name for name in given):
            raise reject("transfer", f"{given!r} names no studies", 'say "auto", or name them: ["digits", "digits-2"]')
        if self.name in given:
            raise reject("transfer", f"{self.name!r} is this study", "name others")
        return tuple(dict.fromkeys(given)) or None

    def _check_cost(self) -> None:
        if self.cost is None:
            return
        if not isinstance(self.cost, str) or not self.cost:
            raise reject("cost", f"{self.cost!r} is no metric name", 'say "seconds", or name what trials report')
        if self.cost in self.metrics:
            raise reject("cost", f"{self.cost!r} is what the study optimises", "name what a trial costs")

    def _check_sampler(self) -> None:
        """What only our own sampler listens to is refused with others, which would pass it over in silence."""
        for name, value in (("cost", self.cost), ("transfer", self.transfer)):
            if value is not None and self.sampler != "auto":
                raise reject(name, f"sampler {self.sampler!r} does not look at it", "use sampler='auto', or drop it")
        if self.budget.stop_when is None:
            return
        if len(self.metrics) > 1:
            raise reject("budget.stop_when", "several metrics have no one best", "give trials= or minutes= instead")
        if self.sampler in SAMPLERS and self.sampler != "auto":
            cure = "use sampler='auto', or give trials= or minutes= instead"
            raise reject("budget.stop_when", f"sampler {self.sampler!r} makes no forecast", cure)

    @property
    def directions(self) -> tuple[str, ...]:
        """In Optuna's words, one per metric."""
        return tuple("maximize" if d == "max" else "minimize" for d in self.metrics.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "space": self.space.to_json() if self.space is not None else None,
            "metrics": dict(self.metrics),
            "budget": self.budget.to_json(),
            "fidelity": asdict(self.fidelity) if self.fidelity else None,
            "resources": asdict(self.resources),
            "sampler": self.sampler,
            "pruner": self.pruner,
            "seed": self.seed,
            "retries": self.retries,
            "cost": self.cost,
            "constraints": {name: bound.to_json() for name, bound in self.constraints.items()},
            "transfer": list(self.transfer) if isinstance(self.transfer, tuple) else self.transfer,
            "gates": {name: bound.to_json() for name, bound in self.gates.items()},
            "confirm": asdict(self.confirm) if self.confirm else None,
            "race": asdict(self.race) if self.race else None,
            "held_out": self.held_out,
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
                "confirm": Confirm(**data["confirm"]) if data.get("confirm") else None,
                "race": Race.from_json(data["race"]) if data.get("race") else None,
            }
        )

    def differences(self, old: StudySpec) -> tuple[list[str], bool]:
        """What makes this another study than `old`, one line each, and whether it only widens it.

        Budget, resources, sampler, pruner, retries, cost, transfer, gates, confirm and the priors of parameters may
        change from run to run: they are not differences.
        """
        found: list[str] = []
        widens = True
        if dict(self.metrics) != dict(old.metrics):
            found.append(f"metrics were {dict(old.metrics)}, now {dict(self.metrics)}")
            widens = False
        if self.fidelity != old.fidelity:
            found.append(f"fidelity was {old.fidelity}, now {self.fidelity}")
            widens = False
        if dict(self.constraints) != dict(old.constraints):  # what trials have violated is in their rows
            was, now = ({name: bound.to_json() for name, bound in spec.constraints.items()} for spec in (old, self))
            found.append(f"constraints were {was}, now {now}")
            widens = False
        new_space: Mapping[str, Parameter] = self.space or {}
        old_space: Mapping[str, Parameter] = old.space or {}
        for name in [*old_space, *(n for n in new_space if n not in old_space)]:
            before, after = old_space.get(name), new_space.get(name)
            if before != after:
                found.append(f"{name} was {before or 'absent'}, now {after or 'absent'}")
                widens = widens and before is not None and after is not None and after.widens(before)
        return found, widens and bool(found)


def in_declared_order(spec: StudySpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """Declared parameters first, in their order; then others by name."""
    declared = [name for name in spec.space or () if name in params]
    return {name: params[name] for name in [*declared, *sorted(params.keys() - set(declared))]}
