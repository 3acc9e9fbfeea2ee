"""A study as an Optuna sampler or pruner sees it: an Optuna storage over trials that somebody else keeps.

Nothing is read from and nothing is written to anywhere. A sampler may leave notes, but only in a `Draft`, which
`suggest` returns with the suggestion. Trial ids are trial numbers, the study's id is 0.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Container, Iterable, Sequence
from typing import Any, NoReturn

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from automl.declaration import Space
from automl.errors import InvalidInput
from automl.search.space import to_distributions

_STUDY_ID = 0

#: Trial system attribute with the study attributes that a sampler set while it made this suggestion (NSGA-II's
#: generations, the counter of quasi-random points). The study shows them merged, the latest trial's on top.
STUDY_ATTRS = "automl:study_attrs"


class History(BaseStorage):
    """The trials of one study, read-only for Optuna.

    What samplers see:

    - a waiting trial with parameters as RUNNING: it is a suggestion, and others keep away from it;
    - a waiting trial without parameters, and a number that was not handed in yet, as WAITING, which samplers ignore;
    - a COMPLETE trial with a NaN as FAIL, which is what Optuna makes of one;
    - with a declared `space`, every trial with the distributions of that space and without foreign parameters, so
      that the trials of a space that was widened still make one joint model.
    """

    def __init__(self, directions: Sequence[str], name: str, space: Space | None = None):
        """`directions`: "minimize" or "maximize", one per metric."""
        for direction in directions:
            if direction not in ("minimize", "maximize"):
                raise InvalidInput(f"directions: {direction!r}; say 'minimize' or 'maximize'", "directions")
        self.directions = tuple(directions)
        self.name = name
        self.space = space
        self._parameters = dict(space or {})  # a plain dict: it is gone through for every trial
        self._distributions = to_distributions(space) if space is not None else {}
        self._trials: list[FrozenTrial] = []
        self._given: dict[int, FrozenTrial] = {}  # what the shown ones were made of

    def update(self, trials: Iterable[FrozenTrial]) -> None:
        """Take these trials in place of those with the same numbers, in any order.

        They are not changed, and must not be from here on: an object that is handed in again is taken for the same
        trial, and what is shown of it stays the same object, which is how samplers know what they have seen.
        """
        for trial in trials:
            if self._given.get(trial.number) is not trial:
                self._given[trial.number] = trial
                self._place(self._as_shown(trial))

    def study(self, pruner: BasePruner | None = None) -> Study:
        """An Optuna study over the trials as they are now: it may cache them, so ask for a new one after `update`."""
        # Both defaults are harmless stand-ins: Study would make a TPESampler and a MedianPruner of its own.
        return Study(self.name, self, sampler=RandomSampler(seed=0), pruner=pruner or NopPruner())

    @property
    def n_finished(self) -> int:
        """Trials with a result, pruned ones included."""
        return sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in self._trials)

    def _place(self, trial: FrozenTrial) -> None:
        while len(self._trials) < trial.number:
            self._trials.append(blank_trial(len(self._trials), TrialState.WAITING))
        self._trials[trial.number : trial.number + 1] = [trial]

    def _as_shown(self, trial: FrozenTrial) -> FrozenTrial:
        shown = copy.copy(trial)
        shown._trial_id = trial.number
        if self.space is not None:
            given = trial.params
            shown.params = {
                name: given[name]
                for name, parameter in self._parameters.items()
                if name in given and parameter.contains(given[name])
            }
            shown.distributions = {name: self._distributions[name] for name in shown.params}
        if trial.state == TrialState.WAITING:
            if not shown.params:
                return blank_trial(trial.number, TrialState.WAITING)
            shown.state = TrialState.RUNNING
        elif trial.state == TrialState.COMPLETE and any(map(math.isnan, trial.values or ())):
            shown.state = TrialState.FAIL
            shown.values = None
        elif trial.values is not None:
            shown.values = [float(value) for value in trial.values]  # TPE fails on whole numbers
        return shown

    # Reading, as Optuna asks for it.

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        _check_study(study_id)
        trials = [t for t in self._trials if t.state in states] if states is not None else list(self._trials)
        return copy.deepcopy(trials) if deepcopy else trials

    def get_trial(self, trial_id: int) -> FrozenTrial:
        if not 0 <= trial_id < len(self._trials):
            raise KeyError(f"No trial with trial_id {trial_id} exists.")  # Optuna's contract
        return self._trials[trial_id]

    def get_study_id_from_name(self, study_name: str) -> int:
        if study_name != self.name:
            raise KeyError(f"No study with name {study_name!r} exists.")
        return _STUDY_ID

    def get_study_name_from_id(self, study_id: int) -> str:
        _check_study(study_id)
        return self.name

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        _check_study(study_id)
        return [StudyDirection[direction.upper()] for direction in self.directions]

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        _check_study(study_id)
        return {}

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        _check_study(study_id)
        merged: dict[str, Any] = {}
        for trial in self._trials:
            merged.update(trial.system_attrs.get(STUDY_ATTRS, {}))
        return merged

    def get_all_studies(self) -> list[FrozenStudy]:
        return [
            FrozenStudy(
                study_name=self.name,
                direction=None,
                directions=self.get_study_directions(_STUDY_ID),
                user_attrs={},
                system_attrs=self.get_study_system_attrs(_STUDY_ID),
                study_id=_STUDY_ID,
            )
        ]

    # Writing: refused.

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        _refuse("create a study")

    def delete_study(self, study_id: int) -> None:
        _refuse("delete the study")

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        _refuse(f"set the study's user attribute {key!r}")

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        _refuse(f"set the study's attribute {key!r}")

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        _refuse("create a trial")

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        _refuse(f"set the parameter {param_name!r} of trial {trial_id}")

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        _refuse(f"finish trial {trial_id}")

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        _refuse(f"report for trial {trial_id}")

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        _refuse(f"set the user attribute {key!r} of trial {trial_id}")

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        _refuse(f"set the attribute {key!r} of trial {trial_id}")


class Draft(History):
    """A history in which one trial is on the desk: its system attributes, and the study's, may be written.

    The trial takes the place of the one with its number; the history that the draft was made of stays as it is.
    """

    def __init__(self, history: History, trial: FrozenTrial):
        super().__init__(history.directions, history.name)
        self.trial = trial
        self.study_attrs: dict[str, Any] = {}
        self._trials = list(history._trials)
        self._place(trial)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return super().get_study_system_attrs(study_id) | self.study_attrs

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        _check_study(study_id)
        self.study_attrs[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if trial_id != self.trial.number:
            super().set_trial_system_attr(trial_id, key, value)
        self.trial.system_attrs[key] = value


def blank_trial(number: int, state: TrialState) -> FrozenTrial:
    """A trial of which nothing is known but its number and state."""
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=None,
        datetime_start=None,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


def _check_study(study_id: int) -> None:
    if study_id != _STUDY_ID:
        raise KeyError(f"No study with study_id {study_id} exists.")


def _refuse(what: str) -> NoReturn:
    raise InvalidInput(
        f"sampler: it tries to {what}, but a history is read-only; keep state in the system attributes of the "
        "trial that is being suggested",
        "sampler",
    )
