"""Takes back the trials of workers that died."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from automl.engine import Engine
from automl.errors import DatabaseUnavailable


class Reaper:
    """Twice a second."""

    name = "reaping"
    every_s = 0.5

    def __init__(self, engine: Engine, grace_s: float, clock: Callable[[], float] = time.monotonic):
        """`grace_s`: when the database was away, workers have so long to renew before any of them is taken for dead."""
        self._engine = engine
        self._grace_s = grace_s
        self._clock = clock
        self._cut_off_at = -math.inf

    def step(self) -> None:
        if self._clock() - self._cut_off_at < self._grace_s:
            self._engine.clock()  # is it there again?
            return
        try:
            self._engine.reap(self._grace_s)
        except DatabaseUnavailable:
            self._cut_off_at = self._clock()
            raise
