"""Pruners by name, and the one question to them: is this running trial worth ending now?

Optuna's successive halving notes on a trial that it passed a rung, and compares a trial with the notes on the others.
A history has no such notes: they follow from the reports, so they are derived from them for each question. The answer
is then the same for every process that asks.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Container, Sequence

from optuna import Study
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, PatientPruner, SuccessiveHalvingPruner
from optuna.trial import FrozenTrial, TrialState

from automl.declaration import PRUNERS, Fidelity
from automl.errors import InvalidInput
from automl.search.history import Draft, History

#: A third of the trials goes on at each rung: the value of the Hyperband paper (Li et al. 2018, section 2.6).
REDUCTION_FACTOR = 3


class WithinFidelity(BasePruner):
    """`pruner` for steps from `fidelity.min` to below `fidelity.max`: a trial at its last step is done, not pruned."""

    def __init__(self, pruner: BasePruner, fidelity: Fidelity):
        self.pruner = pruner
        self.fidelity = fidelity

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or not self.fidelity.min <= step < self.fidelity.max:
            return False
        return self.pruner.prune(study, trial)


def make_pruner(choice: str | BasePruner, fidelity: Fidelity | None, directions: Sequence[str]) -> BasePruner:
    """The pruner of that name.

    "auto" is Hyperband where there is a fidelity; without one Optuna's own default, the median rule, for the functions
    that ask `trial.should_prune()`; and none for several metrics.

    Raises:
        InvalidInput: there is no such pruner, or it needs a fidelity or a single metric that the study has not.
    """
    if isinstance(choice, str) and choice not in PRUNERS:
        known = ", ".join(PRUNERS)
        raise InvalidInput(f"pruner: {choice!r} is unknown; use one of {known}, or an Optuna pruner", "pruner")
    if choice == "auto":
        choice = "none" if len(directions) > 1 else "median" if fidelity is None else "hyperband"
    if choice == "none":
        return NopPruner()
    if len(directions) > 1:
        raise InvalidInput("pruner: pruning is for one metric; use 'none' or 'auto'", "pruner")
    if isinstance(choice, BasePruner):
        return choice if fidelity is None else WithinFidelity(choice, fidelity)
    if choice == "median":
        return MedianPruner() if fidelity is None else WithinFidelity(MedianPruner(), fidelity)
    if fidelity is None:
        problem = f"pruner: {choice!r} needs the steps of a trial"
        raise InvalidInput(f"{problem}; give fidelity=Fidelity('epoch', min=1, max=...)", "pruner")
    if choice == "asha":
        halving = SuccessiveHalvingPruner(min_resource=fidelity.min, reduction_factor=REDUCTION_FACTOR)
        return WithinFidelity(halving, fidelity)
    hyperband = HyperbandPruner(fidelity.min, fidelity.max, REDUCTION_FACTOR)
    return WithinFidelity(hyperband, fidelity)


def should_prune(history: History, number: int, pruner: BasePruner) -> bool:
    """Whether the running trial `number` is worth ending, by the reports in `history`. False for several metrics.

    Ask after every report: a rung is judged at the report that reaches it. Asking twice changes nothing.
    """
    if len(history.directions) > 1:
        return False
    trial = copy.copy(history.get_trial(number))
    trial._system_attrs = dict(trial.system_attrs)
    pruner = copy.deepcopy(pruner)  # they cache what they saw first
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="All-NaN slice")  # MedianPruner prunes such a trial, rightly
        return bool(pruner.prune(_RungView(history, trial, pruner).study(), trial))


def _innermost(pruner: BasePruner | None) -> BasePruner | None:
    if isinstance(pruner, WithinFidelity):
        return _innermost(pruner.pruner)
    return _innermost(pruner._wrapped_pruner) if isinstance(pruner, PatientPruner) else pruner


class _RungView(Draft):
    """A history with the rungs that each trial has passed, as successive halving would have noted them."""

    def __init__(self, history: History, trial: FrozenTrial, pruner: BasePruner):
        super().__init__(history, trial)
        self._pruner = _innermost(pruner)
        self._study = self.study()
        if isinstance(self._pruner, HyperbandPruner) and not self._pruner._pruners:
            self._pruner._try_initialization(self._study)  # no brackets before a trial is complete if max is "auto"
        elif isinstance(self._pruner, SuccessiveHalvingPruner) and self._pruner._min_resource is None:
            self._pruner._min_resource = self._estimated_first_rung()
        # The last report is the one that is judged.
        trial.system_attrs.update(self._passed(trial, -1))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [self._with_rungs(t) for t in super().get_all_trials(study_id, deepcopy, states)]

    def _with_rungs(self, trial: FrozenTrial) -> FrozenTrial:
        # Of the judged trial a copy, or the note that its pruner makes now would count its value twice.
        passed = self._passed(trial) if trial.number != self.trial.number else {}
        if not passed and trial.number != self.trial.number:
            return trial
        shown = copy.copy(trial)
        shown._system_attrs = trial.system_attrs | passed
        return shown

    def _passed(self, trial: FrozenTrial, end: int | None = None) -> dict[str, float]:
        """{rung: the value at the first report that reached it}, by the reports before `end`."""
        halving = self._halving_of(trial)
        if halving is None or halving._min_resource is None:
            return {}
        low, factor, rate = halving._min_resource, halving._reduction_factor, halving._min_early_stopping_rate
        passed: dict[str, float] = {}
        for step in sorted(trial.intermediate_values)[:end]:
            value = trial.intermediate_values[step]
            while not math.isnan(value) and step >= low * factor ** (rate + len(passed)):
                passed[f"completed_rung_{len(passed)}"] = value
        return passed

    def _halving_of(self, trial: FrozenTrial) -> SuccessiveHalvingPruner | None:
        if isinstance(self._pruner, HyperbandPruner):
            brackets = self._pruner._pruners
            return brackets[self._pruner._get_bracket_id(self._study, trial)] if brackets else None
        return self._pruner if isinstance(self._pruner, SuccessiveHalvingPruner) else None

    def _estimated_first_rung(self) -> int | None:
        """Optuna's rule for min_resource="auto": a hundredth of the longest trial that is complete."""
        last = [t.last_step for t in self._trials if t.state == TrialState.COMPLETE and t.last_step is not None]
        return max(max(last) // 100, 1) if last else None
