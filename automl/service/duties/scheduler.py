"""Starts searches when their time has come. What came while nobody was there is dealt with as each schedule says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from automl.cron import Cron
from automl.engine import Engine
from automl.errors import AutoMLError, DatabaseUnavailable
from automl.team import FiringState, Schedule

log = logging.getLogger("automl.duties")

#: A tick is on time when it is seen so soon: a process that took over, or was restarted, takes less.
ON_TIME_S = 300.0
#: No more ticks than these are caught up with; the older ones were missed.
MOST_CAUGHT_UP = 100

#: A tick, what is done about it, and why.
Answer = tuple[float, FiringState, Mapping[str, Any] | None]


class Scheduler:
    """Every few seconds. Any number of them may think that it is theirs: a tick can be seen to once."""

    name = "schedules"
    every_s = 5.0

    def __init__(self, engine: Engine, clock: Callable[[], float] | None = None):
        """`clock` gives seconds since the epoch; None: the database's."""
        self._engine = engine
        self._clock = clock or engine.clock
        self._engines: dict[str, Engine] = {}

    def step(self) -> None:
        moment = self._clock()
        for due in self._engine.schedules.due(moment, limit=1000):
            try:
                self._see_to(due, moment)
            except DatabaseUnavailable:
                raise
            except AutoMLError as error:  # a schedule's own trouble is not its neighbours'
                log.error("schedule %s of project %s: %s", due.name, due.project, error)

    def _see_to(self, due: Schedule, moment: float) -> None:
        if due.project not in self._engines:
            self._engines[due.project] = self._engine.of_project(due.project)
        schedules = self._engines[due.project].schedules
        ticks, is_all = Cron(due.cron, due.timezone).newest(due.seen_until, moment, MOST_CAUGHT_UP + 1)
        for tick, state, verdict in answers(ticks, is_all, due.catch_up, moment):
            started = schedules.fire(due, tick, state, verdict)
            if started is not None:
                log.info("schedule %s: %s is queued", due.name, started.name)


def answers(ticks: Sequence[float], is_all: bool, catch_up: str, moment: float) -> list[Answer]:
    """What is done at `moment` about `ticks`, the newest that nobody has seen to, rising.

    Those that are not started get one row together, at the last of them: "ticks" says how many there were, "since"
    which was the first, and "more" (where not `is_all`) that there were others before.
    """
    if catch_up == "all":
        started, state, reason = ticks[-MOST_CAUGHT_UP:], FiringState.MISSED, "too many to catch up with"
    elif catch_up == "one":
        started, state, reason = ticks[-1:], FiringState.SKIPPED, "a later one was caught up with"
    else:
        started = [tick for tick in ticks if moment - tick <= ON_TIME_S]
        state, reason = FiringState.MISSED, "nobody was there at the time"
    others = ticks[: len(ticks) - len(started)]
    found: list[Answer] = []
    if others:
        told = {"reason": reason, "ticks": len(others), "since": others[0], "more": not is_all}
        found.append((others[-1], state, told))
    return found + [(tick, FiringState.STARTED, None) for tick in started]
