"""Confirmations (docs/adr/0005): which trials of a study race, the study that runs them again, what it has found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

from automl.core import Estimate, StudyRecord, StudyState, derived_seed
from automl.declaration import Budget, Candidate, Confirm, Race, StudySpec
from automl.errors import InvalidInput
from automl.storage.studies import Studies
from automl.storage.trials import Trials

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_NAME_LENGTH = 200
#: Runs that each candidate has at the least, so that there are no more candidates than the budget has room for.
_LEAST_RUNS = 2
#: How many of the best trials are looked at for each candidate: some may be the same point once more.
_LOOKED_AT = 10


class Races:
    """The confirmations of a database."""

    def __init__(self, studies: Studies, trials: Trials, snapshot: Callable[[int], Sequence[FrozenTrial]]):
        """`snapshot` gives the trials of a study by its id, as Optuna sees them."""
        self._studies = studies
        self._trials = trials
        self._snapshot = snapshot

    def declare(self, origin: StudyRecord, confirm: Confirm | None) -> StudyRecord:
        """See `Engine.confirm`."""
        spec = self._wanted(origin, confirm)
        again = next((found for found in self.of(origin) if _is_same(found, origin, spec)), None)
        if again is not None and again.state is not StudyState.FINISHED:
            assert again.spec is not None
            spec = replace(spec, name=again.name, seed=again.spec["seed"])
        else:
            taken = {record.name for record in self._studies.all()}
            k = next(k for k in count(1) if _name(origin, k) not in taken)
            spec = replace(spec, name=_name(origin, k), seed=derived_seed("confirmation", spec.seed, k))
        return self._studies.declare(
            spec,
            entrypoint=origin.entrypoint,
            code_sha256=origin.code_sha256,
            package_sha256=origin.package_sha256,
            queued=origin.queued,
            extend=False,
            origin_id=origin.id,
        )

    def of(self, origin: StudyRecord) -> list[StudyRecord]:
        """The newest first."""
        return [record for record in reversed(self._studies.all()) if record.origin_id == origin.id]

    def is_settled(self, origin: StudyRecord, confirm: Confirm | None) -> bool:
        """See `Engine.is_confirmed`."""
        newest = next(iter(self.of(origin)), None)
        if newest is None or newest.state is not StudyState.FINISHED:
            return False
        return _is_same(newest, origin, self._wanted(origin, confirm))

    def estimates(self, origin: StudyRecord) -> Mapping[int, Estimate]:
        """See `Engine.estimates`."""
        best = self._trials.best(origin, 1)
        for record in self.of(origin):
            if record.state not in (StudyState.FINISHED, StudyState.STOPPED) or record.spec is None:
                continue
            from automl.search.race import estimates

            spec = StudySpec.from_json(record.spec)
            assert spec.race is not None
            if best and all(best[0].number != candidate.number for candidate in spec.race.candidates):
                continue  # it has not seen what is the best now
            found = estimates(spec.race, self._snapshot(record.id), next(iter(spec.metrics.values())))
            if found:
                return found
        return {}

    def _wanted(self, origin: StudyRecord, confirm: Confirm | None) -> StudySpec:
        """The confirmation as it would be declared now, but for its name and its seed."""
        if origin.spec is None:
            cure = "declare an automl.Study of it"
            raise InvalidInput(f"confirm: study {origin.name!r} was made by an Optuna program; {cure}", "confirm")
        if origin.origin_id is not None:
            raise InvalidInput(f"confirm: study {origin.name!r} confirms another one; confirm that one", "confirm")
        spec = StudySpec.from_json(origin.spec)
        if len(spec.metrics) > 1:
            problem = f"confirm: study {origin.name!r} has several metrics and so no one best"
            raise InvalidInput(f"{problem}; choose a trial yourself", "confirm")
        confirm = confirm or spec.confirm or Confirm()
        race = Race(self._candidates(origin, confirm), confirm.sure, spec.held_out)
        return replace(
            spec,
            budget=Budget(trials=confirm.trials),
            sampler="random",
            pruner="none",
            cost=None,
            transfer=None,
            confirm=None,
            race=race,
        )

    def _candidates(self, origin: StudyRecord, confirm: Confirm) -> tuple[Candidate, ...]:
        """The best trials, best first, each point once: equal ones could never be told apart."""
        wanted = min(confirm.top, max(1, confirm.trials // _LEAST_RUNS))
        found: list[Candidate] = []
        for trial in self._trials.best(origin, wanted * _LOOKED_AT):
            if trial.violated or trial.invalid is not None or trial.value is None:
                continue
            if all(trial.params != other.params for other in found):
                found.append(Candidate(trial.number, dict(trial.params), trial.value))
        if not found:
            problem = f"confirm: study {origin.name!r} has no complete trial that keeps its constraints"
            raise InvalidInput(f"{problem}; run it first", "confirm")
        return tuple(found[:wanted])


def _name(origin: StudyRecord, k: int) -> str:
    ending = f" confirmation {k}"
    return origin.name[: _NAME_LENGTH - len(ending)] + ending


def _is_same(found: StudyRecord, origin: StudyRecord, wanted: StudySpec) -> bool:
    """Whether a confirmation is of the same trials, with the same settings and the same code."""
    if found.spec is None:
        return False
    digests = {found.code_sha256, origin.code_sha256} - {None}  # a notebook's code has none
    if len(digests) > 1:
        return False
    spec = StudySpec.from_json(found.spec)
    return (spec.race, spec.budget) == (wanted.race, wanted.budget)
