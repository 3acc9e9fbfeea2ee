"""The worker: claims trials, has each run in a process of its own, and writes down what becomes of them.

It supervises and never runs the user's code (docs/adr/0002). Each slot is a thread that blocks on one trial, which
`supervisor.py` follows; one more thread renews all leases. The system is known through `core.Coordinator` alone.
"""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl.core import Coordinator, Failure, FailureKind, Lease, trial_seed
from automl.declaration import StudySpec
from automl.errors import DatabaseUnavailable, LeaseLost
from automl.trainers import wire
from automl.trainers.host import StudyHost
from automl.trainers.supervisor import Attempt, Stopped, Supervisor, kernel_oom_kills

log = logging.getLogger("automl.worker")

#: An idle slot looks for work this often at first and at last; whoever adds work wakes it before.
POLL_S = (0.02, 0.5)
#: A free slot waits for a suggestion that knows the last result, for this share of that trial's duration.
PATIENCE = 0.02
#: After a renewal without an answer: soon, because the lease may be over already when the database comes back.
RENEW_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one trial, with the GPUs that are its own (as CUDA_VISIBLE_DEVICES names them)."""

    index: int
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Assignment:
    """A study that this worker can run: its declaration and the process that has its code loaded."""

    study_id: int
    spec: StudySpec
    host: StudyHost


class Worker:
    """Runs trials of the assigned studies on its slots until it is told to stop."""

    def __init__(
        self,
        coordinator: Coordinator,
        slots: Sequence[Slot],
        artifacts: Path,
        lease_s: float = 30.0,
        on_news: Callable[[float], None] = lambda patience_s: None,
        oom_kills: Callable[[], int] = kernel_oom_kills,
    ):
        """`on_news(patience_s)` is called when a trial was claimed or has ended; it may block for so many seconds.

        `oom_kills` counts the processes that the kernel has killed for want of memory.
        """
        self._coordinator = coordinator
        self._slots = slots
        self._artifacts = artifacts
        self._lease_s = lease_s
        self._on_news = on_news
        self._oom_kills = oom_kills
        self._assignments: dict[int, Assignment] = {}
        self._held: dict[str, Attempt | None] = {}  # by token; None: claimed, or about to be, and not started
        self._lock = threading.Lock()
        self._work_came = threading.Condition(self._lock)
        self._wakes = 0
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._supervisor = Supervisor(coordinator, artifacts, self._stopping, oom_kills)
        self.name = f"{socket.gethostname()}-{os.getpid()}"  #: its slots are this, "-" and their number
        self._keeper = threading.Thread(target=self._guarded, args=(self._keep_leases,), name="lease", daemon=True)
        self._servers = [
            threading.Thread(target=self._guarded, args=(self._serve, slot), name=f"slot-{slot.index}", daemon=True)
            for slot in slots
        ]
        self.failure: BaseException | None = None  #: what ended a thread of the worker itself

    # -- for the owner ------------------------------------------------------------------------------------------

    def start(self) -> None:
        for thread in [self._keeper, *self._servers]:
            thread.start()

    def assign(self, assignment: Assignment) -> None:
        """Take up a study (or its next host); the slots look for its trials at once."""
        with self._lock:
            self._assignments[assignment.study_id] = assignment
        self.wake()

    def drop(self, study_id: int) -> None:
        """Claim no more trials of this study; those that run go on."""
        with self._lock:
            self._assignments.pop(study_id, None)

    def wake(self) -> None:
        """Make idle slots look for work now."""
        with self._work_came:
            self._wakes += 1
            self._work_came.notify_all()

    @property
    def busy(self) -> int:
        """Slots with a trial in hand."""
        with self._lock:
            return sum(attempt is not None for attempt in self._held.values())

    def stop(self) -> None:
        """Hand every trial back, with its last checkpoint, within about a second; returns when that is done."""
        self._stopping.set()
        with self._lock:
            attempts = [attempt for attempt in self._held.values() if attempt is not None]
        for attempt in attempts:
            attempt.process.wakeup()
        self.wake()
        for thread in self._servers:
            thread.join()
        self._stopped.set()
        self._keeper.join()

    # -- slots --------------------------------------------------------------------------------------------------

    def _guarded(self, target: Callable[..., None], *arguments: Any) -> None:
        try:
            target(*arguments)
        except BaseException as error:
            log.debug("a thread of the worker ended", exc_info=True)
            self.failure = error

    def _serve(self, slot: Slot) -> None:
        pause_s = POLL_S[0]
        while not self._stopping.is_set():
            seen = self._wakes  # before the look: work that comes during it must not be slept over
            if self._work(slot):
                pause_s = POLL_S[0]
                continue
            with self._work_came:
                woken = self._work_came.wait_for(
                    lambda seen=seen: self._wakes != seen,  # type: ignore[misc]
                    timeout=pause_s * random.uniform(0.8, 1.2),
                )
            pause_s = POLL_S[0] if woken else min(pause_s * 2, POLL_S[1])

    def _work(self, slot: Slot) -> bool:
        """Run one trial; False when there is none for this slot."""
        with self._lock:
            able = [a for a in self._assignments.values() if a.host.alive]
        fitting = [a.study_id for a in able if a.spec.resources.gpus <= len(slot.gpus)]
        if not fitting:
            return False
        token, name = uuid.uuid4().hex, f"{self.name}-{slot.index}"
        # Known before it is asked for: a claim whose answer is lost is renewed, and found again by the next call.
        with self._lock:
            self._held[token] = None
        lease, started = None, time.monotonic()
        try:
            lease = self._supervisor.patiently(lambda: self._coordinator.claim(fitting, name, token, self._lease_s))
            if lease is not None:
                self._on_news(0.0)
                self._run(lease, slot)
        except LeaseLost as error:
            log.info("a trial was taken from this worker: %s", error)
        except Stopped as error:
            log.warning("%s; what could not be handed back is taken over when its lease expires", error)
        finally:
            with self._lock:
                del self._held[token]
        if lease is not None and not self._stopping.is_set():
            self._on_news((time.monotonic() - started) * PATIENCE)
        return lease is not None

    def _run(self, lease: Lease, slot: Slot) -> None:
        """One attempt, from launch to the last word about it."""
        with self._lock:
            assignment = self._assignments.get(lease.study_id)
        if assignment is None or self._stopping.is_set():
            self._supervisor.patiently(lambda: self._coordinator.release(lease.token))
            return
        log_path = self._artifacts / "logs" / str(lease.study_id) / f"{lease.number}-{lease.attempt}.log"
        oom_kills = self._oom_kills()
        try:
            process = assignment.host.launch(self._job(lease, assignment.spec, slot), log_path)
        except OSError as error:  # ChildProcessError is one
            self._not_started(lease, assignment.host, error)
            return
        limits = assignment.spec.resources
        attempt = Attempt(lease, limits, assignment.host, process, time.monotonic(), oom_kills)
        with self._lock:
            self._held[lease.token] = attempt
        self._supervisor.follow(attempt)

    def _not_started(self, lease: Lease, host: StudyHost, error: OSError) -> None:
        """Give back a trial that has no process. It waits longer each time, unless it was for a dead template."""
        log.warning("trial %d: %s", lease.number, error)
        if host.alive:
            failure = Failure(FailureKind.LOST, f"its process could not be started: {error}")
            self._supervisor.patiently(lambda: self._coordinator.fail(lease.token, failure))
        else:  # this study is not claimed from again until it has another host
            self._supervisor.patiently(lambda: self._coordinator.release(lease.token))

    def _job(self, lease: Lease, spec: StudySpec, slot: Slot) -> wire.Job:
        return wire.Job(
            study_seed=spec.seed,
            trial_id=lease.trial_id,
            number=lease.number,
            attempt=lease.attempt,
            seed=trial_seed(spec.seed, lease.number),
            params=lease.params,
            distributions=lease.distributions,
            metrics=spec.metrics,
            constraints={name: bound.to_json() for name, bound in spec.constraints.items()},
            prunable=spec.pruner != "none" and len(spec.metrics) == 1,
            max_step=spec.fidelity.max if spec.fidelity else None,
            checkpoint=lease.checkpoint,
            artifacts=str(self._artifacts),
            cpus=spec.resources.cpus,
            gpus=slot.gpus,
            held_out=spec.race is not None and spec.race.held_out,
        )

    # -- leases -------------------------------------------------------------------------------------------------

    def _keep_leases(self) -> None:
        """Renew all leases three times in each lease's length, also while the slots hand their trials back."""
        pause_s = self._lease_s / 3
        while not self._stopped.wait(pause_s):
            pause_s = self._lease_s / 3
            with self._lock:
                held = dict(self._held)
            if not held:
                continue
            try:
                kept = self._coordinator.renew(held, self._lease_s)
            except DatabaseUnavailable as error:
                log.warning("%s; leases not renewed", error)
                pause_s = min(pause_s, RENEW_AGAIN_S)
                continue
            for token, attempt in held.items():
                if attempt is not None and token not in kept:
                    attempt.lost = True
                    attempt.process.wakeup()


def slots_for(workers: int, gpus: Sequence[str] = (), *, per_gpu: int = 1, gpus_per_slot: int = 1) -> list[Slot]:
    """`workers` slots on CPUs; or on GPUs, `gpus_per_slot` of them together, each group shared by `per_gpu` slots."""
    if not gpus:
        return [Slot(index) for index in range(workers)]
    groups = [tuple(gpus[i : i + gpus_per_slot]) for i in range(0, len(gpus) - gpus_per_slot + 1, gpus_per_slot)]
    return [Slot(index, group) for index, group in enumerate(g for g in groups for _ in range(per_gpu))]
