"""Keeps a study supplied with suggestions, in the one process that holds the study's lease.

Each round looks at what happened, makes as many waiting trials as there are slots to take them, and makes again what
nobody has claimed while new results came in. All state is in the database: the history is re-read through the change
feed, and a suggestion is a function of (seed, number, history). Whoever holds the lease next goes on with the same
suggestions.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from automl.core import Attr, StudyRecord, StudyState, constraints_of
from automl.declaration import Budget, Candidate, Race, StudySpec
from automl.display import format_forecast
from automl.errors import InvalidInput, LeaseLost
from automl.search import BayesianSampler, GridExhausted, History, make_sampler, suggest
from automl.search.forecast import CONVERGED_BELOW, HORIZON, MARGIN, Forecast, chance_of, gained
from automl.search.race import runs_of, turn
from automl.search.samplers import Context
from automl.search.transfer import Source
from automl.search.warping import finite
from automl.storage.lazy_trial import INVALID
from automl.storage.sources import Past, Sources
from automl.storage.studies import Held, Studies, Unclaimed

log = logging.getLogger("automl.suggester")

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from automl.storage import OptunaStorage

#: These do not look at results, so that new ones give no reason to suggest again.
_BLIND_SAMPLERS = ("random", "grid")

#: A search may have converged when it has as many results, and as many for each parameter, as a forecast takes to be
#: more than a guess: of 54 runs stopped at the first sign after ten results one lost a third of its gain, after twenty
#: none did.
ENOUGH_RESULTS, ENOUGH_FOR_EACH = 20, 2

#: What the reason of a scheduled search that ends early begins with.
NO_CHANGE = "no change worth making"


class _Converged(Exception):
    """More trials are not worth it; the message is the reason."""


class Suggester:
    """The suggestions of one study. Not thread-safe: one thread calls `step` again and again."""

    def __init__(
        self,
        studies: Studies,
        sources: Sources,
        view: OptunaStorage,
        record: StudyRecord,
        sampler: BaseSampler | None = None,
    ):
        """`sampler` is an Optuna sampler to use instead of the one that the study's declaration names."""
        assert record.spec is not None
        self._studies = studies
        self._sources = sources
        self._view = view
        self._study_id = record.id
        self._spec = StudySpec.from_json(record.spec)
        own = sampler if self._spec.race is None else None  # the sampler's part is over
        self._choice: str | BaseSampler = own if own is not None else self._spec.sampler
        self._ours: BayesianSampler | None = None  # kept: it remembers what it has read
        self._history = History(record.directions, record.name, space=self._spec.space)
        self._token = uuid.uuid4().hex
        self._held_at: float | None = None

    def step(self, slots: int, lease_s: float) -> int:
        """One round; how many suggestions were made or made again.

        `slots` is how many trials this process can run. Nothing happens while another process holds the study.
        """
        held = self._hold(lease_s)
        if held is None or held.state is not StudyState.OPEN:
            return 0
        self._follow(held)
        if held.paused:  # what runs goes on to its end, which may be the study's
            self._studies.close_if_done(self._study_id)
            return 0
        if held.seconds_left is not None and held.seconds_left <= 0:
            self._studies.cancel_waiting(self._study_id)
            self._studies.close_if_done(self._study_id)
            return 0
        unclaimed = self._studies.unclaimed(self._study_id)
        try:
            made = self._make_again(unclaimed) + self._fill(held, slots, len(unclaimed))
        except _Converged as reason:
            if self._studies.converge(self._study_id, self._token, str(reason)):
                self._studies.close_if_done(self._study_id)
            return 0
        except LeaseLost:  # this process slept too long: another one suggests
            return 0
        if not made and held.trials_left is not None and held.trials_left <= 0:
            self._studies.close_if_done(self._study_id)
        return made

    def close(self) -> None:
        """Let another process suggest at once."""
        self._studies.let_go(self._study_id, self._token)
        self._held_at = None

    def _hold(self, lease_s: float) -> Held | None:
        now = time.monotonic()
        # Between two rounds of one holder the search was active; the time that nobody held it is not counted.
        active_s = now - self._held_at if self._held_at is not None else 0.0
        held = self._studies.hold(self._study_id, self._token, lease_s, min(active_s, lease_s))
        self._held_at = now if held is not None and not held.paused else None
        return held

    def _follow(self, held: Held) -> None:
        """Take over a budget that was changed: samplers plan with it, and one rebuilt now would know it."""
        if held.budget is not None and held.budget != self._spec.budget.to_json():
            self._spec = replace(self._spec, budget=Budget(**held.budget))
            self._ours = None

    def _fill(self, held: Held, slots: int, waiting: int) -> int:
        """New waiting trials, until every running trial has one that can follow it.

        `waiting` does not count trials that wait for another attempt: they may have to wait long, a slot must not.
        """
        trials = self._look()
        running = sum(trial.state.name == "RUNNING" for trial in trials)
        missing = max(slots, running) - waiting
        if held.trials_left is not None:
            missing = min(missing, held.trials_left)
        for made in range(missing):
            number = held.next_number + made
            try:
                suggestion = self._suggestion(number)
            except GridExhausted:
                self._studies.shrink_budget(self._study_id)
                return made
            if not self._studies.add_suggestion(self._study_id, self._token, number, suggestion):
                return made  # somebody enqueued a trial, or the study ended: the next round sees it
        return max(missing, 0)

    def _make_again(self, unclaimed: Sequence[Unclaimed]) -> int:
        """Complete enqueued trials, and renew the suggestion that is claimed next if new results came since."""
        made = 0
        renewable = self._choice not in _BLIND_SAMPLERS or self._spec.race is not None
        for waiting in unclaimed:
            if waiting.basis is None:
                made += self._complete(waiting)
            elif renewable and waiting.fixed is None and waiting.basis != _results(self._look()):
                made += self._revise(waiting)
                renewable = False  # the others wait longer: the next rounds see to them
        return made

    def _complete(self, waiting: Unclaimed) -> int:
        """Give an enqueued trial its other parameters; one with parameters that cannot be is cancelled."""
        try:
            return self._revise(waiting)
        except InvalidInput as error:
            if not (error.field or "").startswith("params"):
                raise
            log.warning("trial %d was enqueued with parameters that cannot be: %s", waiting.number, error)
            return self._studies.cancel_waiting(self._study_id, waiting.number)

    def _revise(self, waiting: Unclaimed) -> int:
        suggestion = self._suggestion(waiting.number, waiting.fixed)
        return int(self._studies.revise_suggestion(self._study_id, waiting.number, suggestion))

    def _look(self) -> Sequence[FrozenTrial]:
        """The trials as the database has them now, and so the history: nobody's suggestion knows less than that."""
        trials = self._view.snapshot(self._study_id)
        self._history.update(trials)
        return trials

    def _suggestion(self, number: int, fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Trial `number`. Raises `_Converged` when it is not worth making, unless some of it is `fixed`."""
        trials = self._look()
        candidate = None
        if self._spec.race is not None and fixed is None:
            candidate = self._next_candidate(self._spec.race, trials, number)
            fixed = candidate.params
        found = suggest(
            self._history,
            number,
            self._sampler(),
            self._spec.seed,
            space=self._spec.space,
            fixed=fixed,
            n_trials=self._spec.budget.trials,
        )
        if fixed is None:
            why = found.system_attrs.get(Attr.WHY, {})
            self._check_convergence(why.get("forecast") or {})
            self._check_incumbent(why, trials, number)
        return {
            "params": found.params,
            "distributions": found.distributions,
            # Nothing of a candidate is fixed: if results come before it is claimed, it may be another one's turn.
            "system_attrs": found.system_attrs if candidate is None else {Attr.CANDIDATE: candidate.number},
            "basis": _results(trials),
        }

    def _next_candidate(self, race: Race, trials: Sequence[FrozenTrial], number: int) -> Candidate:
        """Who is run again as trial `number` of this confirmation. Raises `_Converged` when the race is over."""
        direction = next(iter(self._spec.metrics.values()))
        names = [candidate.number for candidate in race.candidates]
        found = turn(runs_of(race, trials, but=number), direction, race.sure, names)
        if found.candidate is None:
            raise _Converged(found.reason)
        return race.candidates[found.candidate]

    def _sampler(self) -> str | BaseSampler:
        """What `suggest` is to use. Raises `LeaseLost`."""
        if self._choice != "auto" and not isinstance(self._choice, BayesianSampler):
            return self._choice
        if self._ours is None:
            spec = self._spec
            made = make_sampler(
                self._choice,
                seed=spec.seed,
                space=spec.space,
                directions=spec.directions,
                n_trials=spec.budget.trials,
                context=Context(spec.fidelity, spec.cost, spec.budget.margin, self._learn_from()),
            )
            assert isinstance(made, BayesianSampler)
            self._ours = made
        return self._ours

    def _learn_from(self) -> tuple[Source, ...]:
        """The past studies, the same ones each time that this study is searched. Raises `LeaseLost`."""
        if self._spec.transfer is None:
            return ()
        chosen = self._sources.chosen(self._study_id, self._spec)
        if chosen is None:
            chosen = self._sources.choose(self._study_id, self._spec)
            note = self._sources.to_json(self._spec, chosen)
            if not self._studies.note(self._study_id, self._token, Attr.SOURCES, note):
                raise LeaseLost(f"study {self._spec.name!r} is held by another process")
        return as_sources(self._sources, chosen)

    def _check_convergence(self, forecast: Mapping[str, Any]) -> None:
        """Raises `_Converged`, if the budget asks for it."""
        chance = forecast.get("p_margin")
        if self._spec.budget.stop_when is None or chance is None or not self._has_enough:
            return
        if chance < CONVERGED_BELOW:
            raise _Converged(f"converged: {format_forecast(forecast, next(iter(self._spec.metrics.values())))}")

    def _check_incumbent(self, why: Mapping[str, Any], trials: Sequence[FrozenTrial], number: int) -> None:
        """Raises `_Converged`, if the rest of a scheduled search will hardly find something better than the incumbent.

        The incumbent counts as it was seen today, once and before the others; the best so far as the model sees it, for
        the best of many was lucky, too.
        """
        if "forecast" not in why or "best" not in why or not self._has_enough or self._incumbent is None:
            return
        counted = [t for t in trials if t.state.name == "COMPLETE" and t.value is not None and _keeps_constraints(t)]
        incumbent = next((trial.value for trial in counted if trial.number == self._incumbent), None)
        if incumbent is None:  # it has no result, or none that counts
            return
        sign = -1.0 if self._spec.directions[0] == "maximize" else 1.0
        values = np.array([sign * float(trial.value or 0.0) for trial in counted])
        asked = self._spec.budget.margin
        margin = asked if asked is not None else MARGIN * gained(finite(values))
        missing = margin - sign * (incumbent - why["best"])
        if missing <= 0.0:  # there is something better already
            return
        budget = self._spec.budget.trials
        left = HORIZON if budget is None else max(budget - number, 1)
        if chance_of(values, Forecast(**why["forecast"]), asked, left, missing) < CONVERGED_BELOW:
            raise _Converged(f"{NO_CHANGE} (P(better) < {100 * CONVERGED_BELOW:.0f} %)")

    @property
    def _has_enough(self) -> bool:
        """Whether a forecast is more than a guess."""
        return self._history.n_finished >= max(ENOUGH_RESULTS, ENOUGH_FOR_EACH * len(self._spec.space or ()))

    @cached_property
    def _incumbent(self) -> int | None:
        """The trial that ran again what a scheduled search has to beat; None where there is nothing to beat."""
        noted = self._studies.noted(self._study_id, Attr.INCUMBENT)
        return None if noted is None else int(noted["trial"])


def as_sources(sources: Sources, chosen: Iterable[Past]) -> tuple[Source, ...]:
    """What the past studies found, as the search takes it: points outside of the new space are its business."""
    found = (sources.found(past) for past in chosen)
    return tuple(Source(item.name, item.params, item.values) for item in found if item is not None and item.values)


def _results(trials: Sequence[FrozenTrial]) -> int:
    """How many there are; an invalid one is none."""
    return sum(trial.state.is_finished() and not _is_invalid(trial) for trial in trials)


def _keeps_constraints(trial: FrozenTrial) -> bool:
    return all(value <= 0.0 for value in constraints_of(trial.system_attrs).values())


def _is_invalid(trial: FrozenTrial) -> bool:
    return trial.state.name == "FAIL" and trial.system_attrs.get(Attr.FAILURE_KIND) == INVALID
