"""The space that nobody declared, learnt from the trials that were drawn from it.

It is the union of their parameters. A parameter that some trials lack is conditional: its parent is another one, some
of whose values come with it and the others without it. Where no parent is found, nothing is known of when it is active.

Only trials that are over count, each once: one that is running may not have asked for all of its parameters. The order
in which they ended does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial

from automl.search.cube import unit
from automl.search.encoding import Condition, Encoding

#: A parent of which more values than this come with its child is no switch.
_MAX_SWITCH_VALUES = 64
#: A parameter that was seen with more values than this is no parent: they are not remembered.
_MAX_VALUES = 1024


@dataclass
class _Name:
    """A parameter: the first trial that asked for it and its place there, its latest distribution and that trial."""

    first: tuple[int, int]
    latest: int
    domain: BaseDistribution


@dataclass
class _Group:
    """The trials with the same parameters: how many, and the values of those that may be parents."""

    n: int = 0
    values: dict[str, set[Any]] = field(default_factory=dict)


class LearntSpace:
    """What the trials that were shown say about their space."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._names: dict[str, _Name] = {}
        self._groups: dict[frozenset[str], _Group] = {}
        self._encoding: Encoding | None = None

    def after(self, trials: Iterable[FrozenTrial]) -> Encoding | None:
        """The space, with what `trials` say in addition; None while nothing is known."""
        seen = self._seen
        new = [trial for trial in trials if trial.number not in seen and trial.state.is_finished()]
        for trial in new:
            self._see(trial)
        if new and self._names:
            self._encoding = self._conclude()
        return self._encoding

    def _see(self, trial: FrozenTrial) -> None:
        self._seen.add(trial.number)
        for place, (name, domain) in enumerate(trial.distributions.items()):
            known = self._names.setdefault(name, _Name((trial.number, place), trial.number, domain))
            known.first = min(known.first, (trial.number, place))
            if trial.number > known.latest:
                known.latest, known.domain = trial.number, domain
        if not trial.params:
            return
        group = self._groups.setdefault(frozenset(trial.params), _Group())
        group.n += 1
        for name, value in trial.params.items():
            if isinstance(trial.distributions[name], CategoricalDistribution | IntDistribution):
                values = group.values.setdefault(name, set())
                if len(values) <= _MAX_VALUES:
                    values.add(value)

    def _conclude(self) -> Encoding:
        # A parent is asked for before its child.
        names = sorted(self._names, key=lambda name: self._names[name].first)
        conditions: list[tuple[Condition, ...]] = []
        sometimes = set()
        for j, name in enumerate(names):
            is_always = all(name in group for group in self._groups)
            switch = None if is_always else self._switch(name, names[:j])
            conditions.append(() if switch is None else (switch,))
            if not is_always and switch is None:
                sometimes.add(name)
        return Encoding(
            tuple(names), tuple(self._names[name].domain for name in names), tuple(conditions), frozenset(sometimes)
        )

    def _switch(self, name: str, parents: list[str]) -> Condition | None:
        """The first of `parents` of which some values come with `name` and the others without it."""
        with_name = [group for names, group in self._groups.items() if name in names]
        without = [group for names, group in self._groups.items() if name not in names]
        for i, parent in enumerate(parents):
            if not all(parent in group.values for group in with_name):
                continue
            present = set().union(*(group.values[parent] for group in with_name))
            absent = set().union(*(group.values.get(parent, ()) for group in without))
            if absent and len(present) <= _MAX_SWITCH_VALUES and len(absent) <= _MAX_VALUES and not present & absent:
                domain = self._names[parent].domain
                inside = [unit(domain, value) for value in present if _holds(domain, value)]
                if inside:
                    return i, np.sort(np.array(inside))
        return None


def _holds(domain: Any, value: Any) -> bool:
    return value in domain.choices if hasattr(domain, "choices") else domain.low <= value <= domain.high
