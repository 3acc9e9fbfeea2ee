"""Keeps a study supplied with suggestions, in the one process that holds the study's lease.

Each round looks at what happened, makes as many waiting trials as there are slots to take them, and makes again what
nobody has claimed while new results came in. All state is in the database: the history is re-read through the change
feed, the sampler is built anew for each suggestion from (seed, number, history). Whoever holds the lease next goes on
with the same suggestions.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from automl.core import StudyRecord, StudyState
from automl.declaration import StudySpec
from automl.errors import InvalidInput
from automl.search import GridExhausted, History, suggest
from automl.storage.studies import Held, Studies, Unclaimed

log = logging.getLogger("automl.suggester")

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from automl.storage import OptunaStorage

#: These do not look at results, so that new ones give no reason to suggest again.
_BLIND_SAMPLERS = ("random", "grid")


class Suggester:
    """The suggestions of one study. Not thread-safe: one thread calls `step` again and again."""

    def __init__(self, studies: Studies, view: OptunaStorage, record: StudyRecord, sampler: BaseSampler | None = None):
        """`sampler` is an Optuna sampler to use instead of the one that the study's declaration names."""
        assert record.spec is not None
        self._studies = studies
        self._view = view
        self._study_id = record.id
        self._spec = StudySpec.from_json(record.spec)
        self._sampler = sampler if sampler is not None else self._spec.sampler
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
        if held.seconds_left is not None and held.seconds_left <= 0:
            self._studies.cancel_waiting(self._study_id)
            self._studies.close_if_done(self._study_id)
            return 0
        unclaimed = self._studies.unclaimed(self._study_id)
        made = self._make_again(unclaimed) + self._fill(held, slots, len(unclaimed))
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
        self._held_at = now if held is not None else None
        return held

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
        renewable = self._sampler not in _BLIND_SAMPLERS
        for waiting in unclaimed:
            if waiting.basis is None:
                made += self._complete(waiting)
            elif renewable and waiting.fixed is None and waiting.basis < _results(self._look()):
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
        if waiting.fixed is not None:
            suggestion["system_attrs"] = {**suggestion["system_attrs"], "fixed_params": waiting.fixed}
        return int(self._studies.revise_suggestion(self._study_id, waiting.number, suggestion))

    def _look(self) -> Sequence[FrozenTrial]:
        """The trials as the database has them now, and so the history: nobody's suggestion knows less than that."""
        trials = self._view.snapshot(self._study_id)
        self._history.update(trials)
        return trials

    def _suggestion(self, number: int, fixed: Mapping[str, Any] | None = None) -> dict[str, Any]:
        trials = self._look()
        found = suggest(
            self._history,
            number,
            self._sampler,
            self._spec.seed,
            space=self._spec.space,
            fixed=fixed,
            n_trials=self._spec.budget.trials,
        )
        return {
            "params": found.params,
            "distributions": found.distributions,
            "system_attrs": found.system_attrs,
            "basis": _results(trials),
        }


def _results(trials: Sequence[FrozenTrial]) -> int:
    return sum(trial.state.is_finished() for trial in trials)
