"""Clears up: what was deleted and not brought back, old answers, log-ins that are over, code that nobody needs."""

from __future__ import annotations

import logging

from automl.engine import Engine
from automl.storage.leftovers import Leftovers

log = logging.getLogger("automl.duties")

DAY_S, HOUR_S = 86_400.0, 3600.0

#: Code that was sent and belongs to no study is kept for so long: its study may be about to be made.
KEEP_PACKAGES_S = DAY_S
#: Log-ins that are over are shown in listings of tokens for so long.
KEEP_LOGINS_S = DAY_S


class Sweeper:
    """Every ten minutes."""

    name = "sweeping"
    every_s = 600.0

    def __init__(self, engine: Engine, keep_deleted_s: float, keep_answers_s: float):
        self._engine = engine
        self._leftovers = Leftovers(engine.database)
        self._keep_deleted_s = keep_deleted_s
        self._keep_answers_s = keep_answers_s

    def step(self) -> None:
        projects = self._leftovers.projects_with_deleted()
        counts = {
            "studies": sum(self._engine.of_project(name).purge(self._keep_deleted_s) for name in projects),
            "answers": self._engine.answers.purge(self._keep_answers_s),
            "log-ins": self._leftovers.forget_logins(KEEP_LOGINS_S),
            "packages": self._leftovers.forget_packages(KEEP_PACKAGES_S),
        }
        if any(counts.values()):
            log.info("removed for good: %s", ", ".join(f"{n} {what}" for what, n in counts.items() if n))
