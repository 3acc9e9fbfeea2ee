"""Suggestions for everybody who cannot make them himself: workers that reach only the service, programs that ask.

A look tells which studies want some, and whether anything has happened in them since their last round: it takes about a
millisecond, so that a result is followed by a suggestion at once. A study has one round at a time; those of several
studies run in threads side by side, so that a long fit of one does not hold up the others. Each study has a lease of
its own besides the duty's: who holds it suggests, here or in a process that searches it directly.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from automl.core import StudyRecord
from automl.declaration import StudySpec
from automl.engine import Engine
from automl.errors import AutoMLError, DatabaseUnavailable
from automl.service.metrics import Histogram
from automl.storage.demand import Demand, Wanted
from automl.suggester import Suggester

log = logging.getLogger("automl.duties")

#: A look follows a look after so long while somebody searches, and while nobody does.
BUSY_S, IDLE_S = 0.025, 0.25
#: A study has a round at least this often: its minutes count, and its lease is renewed.
TEND_S = 1.0
#: A study that could not be suggested for is tried again after so long.
RETRY_S = 30.0
#: A study that nobody has wanted for so long is let go: to take it up again takes reading all of its trials.
FORGET_S = 10.0
#: How long the suggestions took is written down this often.
WRITE_S = 5.0
#: Where in the duty's cursor it is, in milliseconds: `metrics.Histogram.to_json`. `/metrics` looks there.
SUGGESTION_MS = "suggestion_ms"
_BOUNDS_MS = (1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0)


@dataclass
class _Search:
    """A study that is suggested for here."""

    record: StudyRecord
    suggester: Suggester
    round: Future[None] | None = None
    marker: object = None  # of the last round
    began_at: float = 0.0
    wanted_at: float = 0.0
    failed: bool = False

    @property
    def is_busy(self) -> bool:
        return self.round is not None and not self.round.done()


class Suggesting:
    """See the module. One thread calls `step` and `rest`."""

    name = "suggesting"

    def __init__(self, engine: Engine, holder: str, lease_s: float):
        """`lease_s`: a study whose process died is suggested for by another one this long after."""
        self._engine = engine
        self._holder = holder
        self._lease_s = lease_s
        self._demand = Demand(engine.database)
        self._searches: dict[int, _Search] = {}
        self._refused: dict[int, float] = {}  # study id -> when it is tried again
        self._threads = ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 2)), thread_name_prefix="suggest")
        self._counting = threading.Lock()
        self._took: Histogram | None = None  # each suggestion; None: another process counts
        self._written: Mapping[str, Any] = {}
        self._written_at = 0.0

    @property
    def every_s(self) -> float:
        return BUSY_S if self._searches else IDLE_S

    def step(self) -> None:
        now = time.monotonic()
        if self._took is None:
            kept = self._engine.duties.cursor(self.name).get(SUGGESTION_MS)
            self._took = Histogram.from_json(kept) if kept else Histogram(_BOUNDS_MS)
        for wanted in self._demand.look():
            search = self._search(wanted, now)
            if search is None or search.failed:
                continue
            search.wanted_at = now
            if not search.is_busy and (search.marker != wanted.marker or now - search.began_at > TEND_S):
                search.marker, search.began_at = wanted.marker, now
                search.round = self._threads.submit(self._round, search, wanted.slots)
        for search in list(self._searches.values()):
            if (search.failed or now - search.wanted_at > FORGET_S) and not search.is_busy:
                self._forget(search)
        if now - self._written_at > WRITE_S:
            self._write(now)

    def rest(self) -> None:
        for search in self._searches.values():
            if search.round is not None:
                search.round.cancel()
        wait([search.round for search in self._searches.values() if search.round is not None])
        for search in list(self._searches.values()):
            self._forget(search)
        if self._took is not None:
            self._write(time.monotonic())
            self._took = None

    def _search(self, wanted: Wanted, now: float) -> _Search | None:
        """What suggests for a study here; None when that is not for this process to do."""
        known = self._searches.get(wanted.study_id)
        if known is not None:
            return known
        if wanted.held or now < self._refused.get(wanted.study_id, 0.0):
            return None
        self._refused.pop(wanted.study_id, None)
        # An engine of its own: what it keeps of the study's trials goes with it.
        engine = self._engine.of_project(wanted.project)
        try:
            record = engine.study_by_id(wanted.study_id)
            _check(record)
            made = self._searches[record.id] = _Search(record, engine.suggester(record))
        except DatabaseUnavailable:
            raise
        except Exception as error:
            self._refuse(wanted.study_id, error)
            return None
        return made

    def _round(self, search: _Search, slots: int) -> None:
        began = time.monotonic()
        try:
            made = search.suggester.step(slots, self._lease_s)
        except DatabaseUnavailable as error:  # the next look finds it out, and waits
            log.debug("study %s: %s", search.record.name, error)
            search.marker = None
        except Exception as error:  # of a study that was declared wrongly, or deleted: only its own trouble
            self._refuse(search.record.id, error)
            search.failed = True
        else:
            self._count(made, time.monotonic() - began)

    def _count(self, made: int, took_s: float) -> None:
        with self._counting:
            if self._took is not None:
                for _ in range(made):
                    self._took.add(1000 * took_s / made)

    def _refuse(self, study_id: int, error: Exception) -> None:
        log.warning("study %d: no suggestions: %s", study_id, error, exc_info=not isinstance(error, AutoMLError))
        self._refused[study_id] = time.monotonic() + RETRY_S

    def _forget(self, search: _Search) -> None:
        self._searches.pop(search.record.id, None)
        try:
            search.suggester.close()
        except AutoMLError as error:  # its lease is over soon in any case
            log.debug("study %s: %s", search.record.name, error)

    def _write(self, now: float) -> None:
        assert self._took is not None
        self._written_at = now
        with self._counting:
            told = {SUGGESTION_MS: self._took.to_json()}
        if told != self._written and self._engine.duties.advance(self.name, self._holder, told):
            self._written = told


def _check(record: StudyRecord) -> None:
    """Raises `AutoMLError` for a study whose suggestions can be made only where its code is."""
    assert record.spec is not None
    spec = StudySpec.from_json(record.spec)
    if spec.sampler.startswith("custom:") and spec.race is None:
        kind = spec.sampler.partition(":")[2]
        raise AutoMLError(f"its sampler is an object of its own file ({kind}); a worker on the database makes them")
