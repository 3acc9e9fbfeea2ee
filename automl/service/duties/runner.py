"""Does duties, each in a thread of its own, while it holds their leases; other processes do the others.

The lease of a duty makes several processes share the work; a duty of one that died is taken up when its lease is over.
It makes nothing exact: a process may sleep through its lease and wake up in the middle of a step.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence

from automl.engine import Engine
from automl.errors import AutoMLError, DatabaseUnavailable
from automl.service.duties import Duty, Resting

log = logging.getLogger("automl.duties")

#: A duty whose step failed is tried again after so long, then after twice of it, up to the second one.
RETRY_S, MAX_RETRY_S = 0.5, 30.0
#: Steps are early or late by so much of their interval, so that many processes do not knock in the same moment.
JITTER = 0.1


class Runner:
    """The duties of one process. `start` it, then `stop` it."""

    def __init__(self, engine: Engine, duties: Sequence[Duty], holder: str, lease_s: float):
        """`holder` is the name of this process, like no other's."""
        self._engine = engine
        self._holder = holder
        self._lease_s = lease_s
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._look_after, args=(duty,), name=f"duty-{duty.name}", daemon=True)
            for duty in duties
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, patience_s: float) -> bool:
        """Begin no more steps, and give the duties back; False when a step goes on for longer than `patience_s`."""
        self._ending.set()
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _look_after(self, duty: Duty) -> None:
        held, renew_at, failures = False, 0.0, 0
        while not self._ending.is_set():
            pause_s = duty.every_s
            try:
                if time.monotonic() >= renew_at:
                    held = self._hold(duty, before=held)
                    renew_at = time.monotonic() + self._lease_s / 3
                if held:
                    duty.step()
                else:
                    pause_s = self._lease_s / 3
                failures = 0
            except Exception as error:
                failures += 1
                pause_s = max(pause_s, min(RETRY_S * 2 ** (failures - 1), MAX_RETRY_S))
                renew_at = 0.0  # who knows how long this took: ask before the next step
                self._tell(duty, error)
            self._ending.wait(pause_s * random.uniform(1 - JITTER, 1 + JITTER))
        if held:
            self._give_back(duty)

    def _hold(self, duty: Duty, before: bool) -> bool:
        held = self._engine.duties.hold(duty.name, self._holder, self._lease_s)
        if held and not before:
            log.info("%s: done here from now on", duty.name)
        elif before and not held:
            log.warning("%s: another process has it now", duty.name)
            _rest(duty)
        return held

    def _give_back(self, duty: Duty) -> None:
        try:
            _rest(duty)
            self._engine.duties.let_go(duty.name, self._holder)
        except AutoMLError as error:  # its lease is over soon in any case
            log.debug("%s: %s", duty.name, error)

    @staticmethod
    def _tell(duty: Duty, error: Exception) -> None:
        if isinstance(error, DatabaseUnavailable):
            log.warning("%s: %s; trying again", duty.name, error)
        else:
            log.error("%s: %s; trying again", duty.name, error, exc_info=error)


def _rest(duty: Duty) -> None:
    if isinstance(duty, Resting):
        duty.rest()
