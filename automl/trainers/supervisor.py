"""What a slot of the worker does with one attempt: listen to its process until its fate is written down.

A database that does not answer never holds up the training: what the trial says is kept until it can be written, only
its last word waits. Processes are killed when they go beyond their limits, or do not make way when they are told to.
"""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from automl.core import Checkpoint, Coordinator, Failure, FailureKind, Lease, Outcome, Report
from automl.declaration import Resources
from automl.errors import DatabaseUnavailable, LeaseLost, StorageError
from automl.trainers import checkpoint as checkpoints
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
#: A trial that has said its last word has this long to end by itself, so that its log is complete.
LEAVE_S = 1.0
#: A database that does not answer is asked again after so long, at first and at last.
RETRY_S = (0.1, 2.0)


@dataclass
class Attempt:
    """A trial in the hands of a slot. Times are monotonic seconds."""

    lease: Lease
    limits: Resources
    host: StudyHost
    process: TrialProcess
    started: float
    oom_kills: int  #: of this machine's kernel before it started
    # What was heard and is not written yet, and when it is to be.
    reports: list[Report] = field(default_factory=list)
    described: tuple[dict[str, Any], dict[str, str]] | None = None
    checkpoint: Checkpoint | None = None
    write_at: float = 0.0
    retry_s: float = RETRY_S[0]  #: how long to wait when the database does not answer
    memory_at: float = 0.0  #: when its memory is to be measured
    verdict: Failure | None = None  #: why the supervisor killed it
    stopping: float | None = None  #: when it is killed if it has not made way
    lost: bool = False

    @property
    def has_unwritten(self) -> bool:
        return bool(self.reports or self.described or self.checkpoint)


class Stopped(Exception):
    """The worker was told to stop while the database did not answer. The leases will expire by themselves."""


class Supervisor:
    """Follows attempts, one in each thread that calls it."""

    def __init__(
        self, coordinator: Coordinator, artifacts: Path, stopping: threading.Event, oom_kills: Callable[[], int]
    ):
        """When `stopping` is set, trials are told to make way."""
        self._coordinator = coordinator
        self._artifacts = artifacts
        self._stopping = stopping
        self._oom_kills = oom_kills

    def follow(self, attempt: Attempt) -> None:
        """Listen to the trial's process until its fate is written down and it is gone.

        Raises `LeaseLost` when another worker has the trial, `Stopped`.
        """
        try:
            self._listen(attempt)
        except (StorageError, ValueError, OverflowError) as error:  # drivers raise the latter two as they are
            # It said what no database takes, as a NUL in a name: its fault, and no end of the worker.
            attempt.process.kill()
            failure = storable(Failure(FailureKind.ERROR, f"what it reported cannot be stored: {error}"))
            self.patiently(lambda: self._coordinator.fail(attempt.lease.token, failure))
        except BaseException:
            attempt.process.kill()
            raise
        finally:
            _see_off(attempt.process)

    def _listen(self, attempt: Attempt) -> None:
        while True:
            message = attempt.process.receive(self._patience_s(attempt))
            if attempt.lost:
                raise LeaseLost(f"trial {attempt.lease.number}: the renewal was refused")
            if message is not None and self._heard(attempt, message):
                return
            if attempt.has_unwritten and time.monotonic() >= attempt.write_at:
                self._try_to_write(attempt)
            self._watch(attempt)

    @staticmethod
    def _patience_s(attempt: Attempt) -> float:
        """How long there is nothing to do but listen."""
        now = time.monotonic()
        wait_s = WATCH_S
        if attempt.has_unwritten:
            wait_s = min(wait_s, attempt.write_at - now)
        if attempt.stopping is not None:
            wait_s = min(wait_s, attempt.stopping - now)
        return max(0.0, wait_s)

    def _heard(self, attempt: Attempt, message: wire.Message) -> bool:
        """Act on one message; True when it was the last word."""
        match message:
            case wire.Reported(step, value, metrics, params, distributions):
                if not attempt.has_unwritten:
                    attempt.write_at = time.monotonic() + FLUSH_S
                attempt.reports.append(Report(step, value, metrics))
                if params is not None:
                    attempt.described = (dict(params), dict(distributions or {}))
            case wire.PruneAsked():
                attempt.process.answer_prune(self._should_prune(attempt))
            case wire.Checkpointed(checkpoint):
                attempt.checkpoint = checkpoint
                self._try_to_write(attempt)
            case wire.Noted():
                pass  # comes again with the outcome; until then it is in the log
            case wire.Done(outcome):
                self._finish(attempt, outcome)
                return True
            case wire.Failed(failure):
                self._fail(attempt, failure)
                return True
            case wire.Interrupted():
                self._release(attempt)
                return True
            case wire.Exited():
                if attempt.verdict is None and attempt.stopping is not None:
                    self._release(attempt)
                else:
                    self._fail(attempt, attempt.verdict or self._cause_of_death(attempt, message))
                return True
        return False

    def _watch(self, attempt: Attempt) -> None:
        """Limits and orders. What is killed here is written down when its `Exited` arrives."""
        now = time.monotonic()
        limits = attempt.limits
        if attempt.verdict is not None:
            return
        if attempt.stopping is not None:
            if now >= attempt.stopping:
                attempt.process.kill()
                attempt.stopping = now + WATCH_S  # once more then, instead of a loop that waits for nothing
        elif self._stopping.is_set():
            attempt.stopping = now + GRACE_S
            attempt.process.stop("preempt")
        elif limits.timeout_s is not None and now - attempt.started > limits.timeout_s:
            message = f"ran longer than resources.timeout_s={limits.timeout_s:g}"
            self._condemn(attempt, Failure(FailureKind.TIMEOUT, message))
        elif limits.memory_gb is not None and now >= attempt.memory_at:
            attempt.memory_at = now + WATCH_S
            if attempt.process.rss_bytes() > limits.memory_gb * 2**30:
                message = f"used more than resources.memory_gb={limits.memory_gb:g}"
                self._condemn(attempt, Failure(FailureKind.OUT_OF_MEMORY, message))

    @staticmethod
    def _condemn(attempt: Attempt, failure: Failure) -> None:
        attempt.verdict = failure
        attempt.process.kill()

    def _cause_of_death(self, attempt: Attempt, exited: wire.Exited) -> Failure:
        # The kernel's count is the machine's: a template that dies takes its trials along, whoever used the memory.
        oom_killed = self._oom_kills() > attempt.oom_kills and attempt.host.alive
        return cause_of_death(exited, oom_killed=oom_killed)

    # -- writing ------------------------------------------------------------------------------------------------

    def _write(self, attempt: Attempt) -> None:
        """Write what was heard: as much as can be, when the database goes away in between."""
        token = attempt.lease.token
        if attempt.described is not None:
            self._coordinator.describe(token, *attempt.described)
            attempt.described = None
        if attempt.reports:
            self._coordinator.report(token, tuple(attempt.reports))
            attempt.reports.clear()
        if attempt.checkpoint is not None:
            self._coordinator.checkpoint(token, attempt.checkpoint)
            # Only now: until it is acknowledged, the older one is where the next attempt would go on from.
            checkpoints.discard(self._artifacts, attempt.lease.trial_id, keep=attempt.checkpoint)
            attempt.checkpoint = None

    def _try_to_write(self, attempt: Attempt) -> bool:
        """`_write`, or put it off: the training must not wait for the database."""
        try:
            self._write(attempt)
        except DatabaseUnavailable as error:
            log.warning("%s; trying again", error)
            attempt.write_at = time.monotonic() + attempt.retry_s * random.uniform(0.8, 1.2)
            attempt.retry_s = min(attempt.retry_s * 2, RETRY_S[1])
            return False
        attempt.retry_s = RETRY_S[0]
        return True

    def _should_prune(self, attempt: Attempt) -> bool:
        if not self._try_to_write(attempt):
            return False  # it waits for the answer; when in doubt, training goes on
        try:
            return self._coordinator.should_prune(attempt.lease.token)
        except DatabaseUnavailable as error:
            log.warning("%s; trial %d is not pruned", error, attempt.lease.number)
            return False

    def _finish(self, attempt: Attempt, outcome: Outcome) -> None:
        lease, reports = attempt.lease, tuple(attempt.reports)
        self.patiently(lambda: self._coordinator.finish(lease.token, outcome, reports))
        checkpoints.discard(self._artifacts, lease.trial_id)

    def _fail(self, attempt: Attempt, failure: Failure) -> None:
        self.patiently(lambda: self._write(attempt))
        if not self.patiently(lambda: self._coordinator.fail(attempt.lease.token, storable(failure))):
            checkpoints.discard(self._artifacts, attempt.lease.trial_id)  # it is over

    def _release(self, attempt: Attempt) -> None:
        self.patiently(lambda: self._write(attempt))
        self.patiently(lambda: self._coordinator.release(attempt.lease.token))

    def patiently(self, call: Callable[[], T]) -> T:
        """`call`, again and again while the database does not answer; once only when the worker is to stop.

        Raises `Stopped`.
        """
        pause_s = RETRY_S[0]
        while True:
            try:
                return call()
            except DatabaseUnavailable as error:
                log.warning("%s; trying again", error)
                if self._stopping.wait(pause_s * random.uniform(0.8, 1.2)):
                    raise Stopped(str(error)) from error
                pause_s = min(pause_s * 2, RETRY_S[1])


def _see_off(process: TrialProcess) -> None:
    """Wait until a trial's process is gone, and with it what it held on a GPU."""
    if not _exits_within(process, LEAVE_S):
        process.kill()
        _exits_within(process, 5.0)


def _exits_within(process: TrialProcess, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not isinstance(process.receive(max(0.0, deadline - time.monotonic())), wire.Exited):
        if time.monotonic() >= deadline:
            return False
    return True


def cause_of_death(exited: wire.Exited, *, oom_killed: bool) -> Failure:
    """What to make of a process that ended without a word. `oom_killed`: the kernel was short of memory meanwhile."""
    if exited.signal == signal.SIGKILL:  # only somebody outside sends this
        if oom_killed:
            return Failure(FailureKind.OUT_OF_MEMORY, "its process was killed because the machine ran out of memory")
        return Failure(FailureKind.LOST, "its process was killed (SIGKILL)")
    if exited.signal is not None:
        known = exited.signal in set(signal.Signals)
        name = signal.Signals(exited.signal).name if known else f"signal {exited.signal}"
        return Failure(FailureKind.ERROR, f"its process crashed ({name})")
    message = f"its process ended by itself with status {exited.status}, without a result"
    return Failure(FailureKind.ERROR, message)


def storable(failure: Failure) -> Failure:
    """With NULs and lone surrogates, which an exception's text may have and PostgreSQL's may not, as escapes."""

    def escaped(text: str) -> str:
        return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()

    return Failure(failure.kind, escaped(failure.message), escaped(failure.traceback))


def kernel_oom_kills(read: Callable[[], str] = Path("/proc/vmstat").read_text) -> int:
    """How many processes this machine's kernel has killed for want of memory; 0 where it does not say."""
    try:
        counters = dict(line.split(" ", 1) for line in read().splitlines())
        return int(counters.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0
