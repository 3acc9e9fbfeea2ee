"""The worker: claims trials, has each run in a process of its own, and writes down what becomes of them.

It supervises and never runs the user's code (docs/adr/0002). Each slot is a thread that blocks on one trial; one more
thread renews all leases. The system is known through `core.Coordinator` alone. A database that does not answer ends
nothing: calls are repeated until it does, and the training goes on meanwhile.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from automl.core import Checkpoint, Coordinator, Failure, FailureKind, Lease, Report, trial_seed
from automl.declaration import StudySpec
from automl.errors import DatabaseUnavailable, LeaseLost
from automl.trainers import wire
from automl.trainers.host import StudyHost, TrialProcess

log = logging.getLogger("automl.worker")
T = TypeVar("T")

#: Reports wait this long at most for others to be written with them, in one transaction.
FLUSH_S = 0.2
#: So often a running trial is looked at: time, memory, lease, orders.
WATCH_S = 0.25
#: A trial that is told to make way has this long to reach a step's end and write its checkpoint.
GRACE_S = 0.7
#: An idle slot looks for work this often at first and at last; whoever adds work wakes it before.
POLL_S = (0.02, 0.5)
#: A free slot waits for a suggestion that knows the last result, for this share of that trial's duration.
PATIENCE = 0.02


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


@dataclass
class Attempt:
    """A trial in the hands of a slot."""

    lease: Lease
    process: TrialProcess
    started: float  #: monotonic seconds
    reports: list[Report] = field(default_factory=list)
    flushed: float = 0.0
    checkpoint: Checkpoint | None = None
    verdict: Failure | None = None  #: why the supervisor killed it
    stopping: float | None = None  #: monotonic time at which it is killed if it has not made way
    lost: bool = False


class Worker:
    """Runs trials of the assigned studies on its slots until it is told to stop."""

    def __init__(
        self,
        coordinator: Coordinator,
        slots: Sequence[Slot],
        artifacts: Path,
        lease_s: float = 30.0,
        on_result: Callable[[int, float], None] = lambda study_id, patience_s: None,
    ):
        """`on_result(study_id, patience_s)` is called after each trial; it may block for `patience_s` seconds."""
        self._coordinator = coordinator
        self._slots = slots
        self._artifacts = artifacts
        self._lease_s = lease_s
        self._on_result = on_result
        self._assignments: dict[int, Assignment] = {}
        self._attempts: dict[str, Attempt] = {}
        self._claiming: set[str] = set()
        self._lock = threading.Lock()
        self._work_came = threading.Condition(self._lock)
        self._stopping = threading.Event()
        self._name = f"{socket.gethostname()}-{os.getpid()}"
        self._threads: list[threading.Thread] = []
        self.failure: BaseException | None = None  #: what ended a thread of the worker itself

    # -- for the owner ------------------------------------------------------------------------------------------

    def start(self) -> None:
        targets: list[Callable[[], None]] = [self._keep_leases]
        targets += [lambda slot=slot: self._serve(slot) for slot in self._slots]  # type: ignore[misc]
        for target in targets:
            thread = threading.Thread(target=self._guarded, args=(target,), name="automl-worker", daemon=True)
            self._threads.append(thread)
            thread.start()

    def assign(self, assignment: Assignment) -> None:
        """Take up a study (or its next host); the slots look for its trials at once."""
        with self._work_came:
            self._assignments[assignment.study_id] = assignment
            self._work_came.notify_all()

    def drop(self, study_id: int) -> None:
        """Claim no more trials of this study; those that run go on."""
        with self._lock:
            self._assignments.pop(study_id, None)

    def wake(self) -> None:
        """Make idle slots look for work now."""
        with self._work_came:
            self._work_came.notify_all()

    @property
    def busy(self) -> int:
        """Slots with a trial in hand."""
        with self._lock:
            return len(self._attempts)

    def stop(self) -> None:
        """Hand every trial back, with its last checkpoint, within about a second; returns when that is done."""
        self._stopping.set()
        with self._work_came:
            for attempt in self._attempts.values():
                attempt.process.wakeup()
            self._work_came.notify_all()
        for thread in self._threads:
            thread.join()

    # -- slots --------------------------------------------------------------------------------------------------

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            log.exception("a thread of the worker ended")
            self.failure = error

    def _serve(self, slot: Slot) -> None:
        name = f"{self._name}-{slot.index}"
        pause_s = POLL_S[0]
        while not self._stopping.is_set():
            lease = self._claim(name, slot)
            if lease is None:
                with self._work_came:
                    if self._work_came.wait(timeout=pause_s * random.uniform(0.8, 1.2)):
                        pause_s = POLL_S[0]
                    else:
                        pause_s = min(pause_s * 2, POLL_S[1])
                continue
            pause_s = POLL_S[0]
            started = time.monotonic()
            try:
                self._run(lease, slot)
            except LeaseLost:
                log.info("trial %d was taken from this worker", lease.number)
            except _Stopped:
                log.warning("trial %d could not be handed back; its lease will expire", lease.number)
            finally:
                with self._lock:
                    self._attempts.pop(lease.token, None)
            if not self._stopping.is_set():
                self._on_result(lease.study_id, (time.monotonic() - started) * PATIENCE)

    def _claim(self, name: str, slot: Slot) -> Lease | None:
        with self._lock:
            fitting = [a.study_id for a in self._assignments.values() if a.spec.resources.gpus <= len(slot.gpus)]
        if not fitting:
            return None
        token = uuid.uuid4().hex
        # Known before it is asked for: a claim whose answer is lost is renewed, and found again by the next call.
        with self._lock:
            self._claiming.add(token)
        try:
            return self._patiently(lambda: self._coordinator.claim(fitting, name, token, self._lease_s))
        except _Stopped:
            return None
        finally:
            with self._lock:
                self._claiming.discard(token)

    def _run(self, lease: Lease, slot: Slot) -> None:
        """One attempt, from launch to the last word about it."""
        with self._lock:
            assignment = self._assignments.get(lease.study_id)
        if assignment is None or self._stopping.is_set():
            self._coordinator.release(lease.token)
            return
        spec = assignment.spec
        log_path = self._artifacts / "logs" / str(lease.study_id) / f"{lease.number}-{lease.attempt}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        process = assignment.host.launch(self._job(lease, spec, slot), log_path)
        attempt = Attempt(lease, process, time.monotonic(), checkpoint=lease.checkpoint)
        with self._lock:
            self._attempts[lease.token] = attempt
        try:
            self._follow(attempt, spec)
        finally:
            process.kill()
            _wait_for_exit(process)

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
            prunable=spec.pruner != "none" and len(spec.metrics) == 1,
            max_step=spec.fidelity.max if spec.fidelity else None,
            checkpoint=lease.checkpoint,
            artifacts=str(self._artifacts),
            cpus=spec.resources.cpus,
            gpus=slot.gpus,
        )

    def _follow(self, attempt: Attempt, spec: StudySpec) -> None:
        """Listen to the trial's process until its fate is written down."""
        while True:
            message = attempt.process.receive(self._patience(attempt))
            if attempt.lost:
                raise LeaseLost("renewal was refused")
            if message is not None and self._heard(attempt, message):
                return
            if attempt.reports and time.monotonic() - attempt.flushed >= FLUSH_S:
                self._flush(attempt)
            self._watch(attempt, spec)

    @staticmethod
    def _patience(attempt: Attempt) -> float:
        if not attempt.reports:
            return WATCH_S
        return max(0.0, min(WATCH_S, attempt.flushed + FLUSH_S - time.monotonic()))

    def _heard(self, attempt: Attempt, message: wire.Message) -> bool:
        """Act on one message; True when it was the last word."""
        token = attempt.lease.token
        match message:
            case wire.Reported(step, value, metrics, params, distributions):
                if not attempt.reports:
                    attempt.flushed = max(attempt.flushed, time.monotonic() - FLUSH_S / 2)
                attempt.reports.append(Report(step, value, metrics))
                if params is not None:
                    self._patiently(lambda: self._coordinator.describe(token, params, distributions or {}))
            case wire.PruneAsked():
                self._flush(attempt)
                attempt.process.answer_prune(self._patiently(lambda: self._coordinator.should_prune(token)))
            case wire.Checkpointed(checkpoint):
                self._flush(attempt)
                self._patiently(lambda: self._coordinator.checkpoint(token, checkpoint))
                self._forget(attempt.checkpoint, keep=checkpoint)
                attempt.checkpoint = checkpoint
            case wire.Noted():
                pass  # comes again with the outcome; until then it is in the log
            case wire.Done(outcome):
                reports = tuple(attempt.reports)
                self._patiently(lambda: self._coordinator.finish(token, outcome, reports))
                self._forget(attempt.checkpoint)
                return True
            case wire.Failed(failure):
                self._fail(attempt, failure)
                return True
            case wire.Interrupted():
                self._release(attempt)
                return True
            case wire.Exited(status, killed_by):
                if attempt.verdict is None and attempt.stopping is not None:
                    self._release(attempt)
                else:
                    self._fail(attempt, attempt.verdict or _cause_of_death(status, killed_by))
                return True
        return False

    def _watch(self, attempt: Attempt, spec: StudySpec) -> None:
        """Limits and orders. What is killed here is written down when its `Exited` arrives."""
        now = time.monotonic()
        limits = spec.resources
        if attempt.verdict is not None:
            return
        if attempt.stopping is not None:
            if now >= attempt.stopping:
                attempt.process.kill()
        elif self._stopping.is_set():
            attempt.stopping = now + GRACE_S
            attempt.process.stop("preempt")
        elif limits.timeout_s is not None and now - attempt.started > limits.timeout_s:
            message = f"ran longer than resources.timeout_s={limits.timeout_s:g}"
            self._condemn(attempt, Failure(FailureKind.TIMEOUT, message))
        elif limits.memory_gb is not None and attempt.process.rss_bytes() > limits.memory_gb * 2**30:
            message = f"used more than resources.memory_gb={limits.memory_gb:g}"
            self._condemn(attempt, Failure(FailureKind.OUT_OF_MEMORY, message))

    @staticmethod
    def _condemn(attempt: Attempt, failure: Failure) -> None:
        attempt.verdict = failure
        attempt.process.kill()

    # -- writing ------------------------------------------------------------------------------------------------

    def _flush(self, attempt: Attempt) -> None:
        if attempt.reports:
            reports = tuple(attempt.reports)
            self._patiently(lambda: self._coordinator.report(attempt.lease.token, reports))
            attempt.reports.clear()
        attempt.flushed = time.monotonic()

    def _fail(self, attempt: Attempt, failure: Failure) -> None:
        reports = tuple(attempt.reports)
        self._patiently(lambda: self._coordinator.fail(attempt.lease.token, failure, reports))

    def _release(self, attempt: Attempt) -> None:
        if attempt.reports:
            self._flush(attempt)
        self._patiently(lambda: self._coordinator.release(attempt.lease.token))

    def _forget(self, old: Checkpoint | None, keep: Checkpoint | None = None) -> None:
        """Delete a checkpoint's file that the database does not need any more."""
        if old is not None and (keep is None or old.path != keep.path):
            (self._artifacts / old.path).unlink(missing_ok=True)

    def _patiently(self, call: Callable[[], T]) -> T:
        """`call`, again and again while the database does not answer; gives up only when the worker is to stop."""
        pause_s = 0.1
        while True:
            try:
                return call()
            except DatabaseUnavailable as error:
                log.warning("%s; trying again", error)
                if self._stopping.wait(pause_s):
                    raise _Stopped from error
                pause_s = min(pause_s * 2, 2.0) * random.uniform(0.8, 1.2)

    # -- leases -------------------------------------------------------------------------------------------------

    def _keep_leases(self) -> None:
        """Renew all leases three times in each lease's length, also while the slots hand their trials back."""
        slots = self._threads[1:]
        while not self._stopping.is_set() or any(slot.is_alive() for slot in slots):
            with self._lock:
                held = dict(self._attempts)
                asked = set(self._claiming)
            if held or asked:
                try:
                    kept = self._coordinator.renew({*held, *asked}, self._lease_s)
                except DatabaseUnavailable as error:
                    log.warning("%s; leases not renewed", error)
                else:
                    for token in held.keys() - kept:
                        held[token].lost = True
                        held[token].process.wakeup()
            if self._stopping.wait(self._lease_s / 3):
                time.sleep(0.02)


class _Stopped(Exception):
    """The worker was told to stop while the database did not answer. The lease will expire by itself."""


def _wait_for_exit(process: TrialProcess) -> None:
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline and not isinstance(process.receive(0.5), wire.Exited):
        pass


def _cause_of_death(status: int, killed_by: int | None) -> Failure:
    """What to make of a process that ended without a word."""
    if killed_by == signal.SIGKILL:
        # Only somebody outside sends this: the kernel short of memory, or a person.
        return Failure(FailureKind.LOST, "its process was killed (SIGKILL)")
    if killed_by is not None:
        name = signal.Signals(killed_by).name if killed_by in set(signal.Signals) else str(killed_by)
        return Failure(FailureKind.ERROR, f"its process crashed ({name})")
    return Failure(FailureKind.ERROR, f"its process ended by itself with status {status}, without a result")


def slots_for(workers: int, gpus: Sequence[str] = (), *, per_gpu: int = 1, gpus_per_slot: int = 1) -> list[Slot]:
    """`workers` slots on CPUs; or on GPUs, `gpus_per_slot` of them together, each group shared by `per_gpu` slots."""
    if not gpus:
        return [Slot(index) for index in range(workers)]
    groups = [tuple(gpus[i : i + gpus_per_slot]) for i in range(0, len(gpus) - gpus_per_slot + 1, gpus_per_slot)]
    return [Slot(index, group) for index, group in enumerate(g for g in groups for _ in range(per_gpu))]
