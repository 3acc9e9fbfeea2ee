"""The worker with real trial processes and a coordinator in memory, which loses leases and goes away on command."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from automl.core import Checkpoint, Failure, FailureKind, Lease, Outcome, Report, TrialState
from automl.errors import DatabaseUnavailable, LeaseLost, StorageError
from automl.trainers import supervisor, wire
from automl.trainers.host import StudyHost
from automl.trainers.supervisor import cause_of_death, kernel_oom_kills
from automl.trainers.worker import Assignment, Slot, Worker, slots_for
from tests.unit.trainers.trial_processes import DEADLINE_S, is_running, wait_until

Start = Callable[..., StudyHost]

#: Says its process number, then computes for ever without looking at anything.
ENDLESS = """
import os, time
def train(trial):
    trial.report(0.5, step=0, pid=os.getpid())
    while True:
        time.sleep(60)
"""
#: Takes steps of 10 ms for ever, checkpoints when it is told to stop.
STEPS = """
import os, time, torch
def train(trial):
    state = {"n": 0}
    for step in trial.steps(1_000_000, state=state):
        state["n"] += 1
        trial.report(float(state["n"]), step=step, pid=os.getpid())
        time.sleep(0.01)
"""


@dataclass
class FakeCoordinator:
    """Keeps trials in memory and writes every call down, in order. Shared by the threads of a worker."""

    away: bool = False  #: every call raises DatabaseUnavailable
    refuse: set[str] = field(default_factory=set)  #: calls that raise LeaseLost; "renew" keeps nothing
    unstorable: Exception | None = None  #: what `finish` raises
    prune: bool = False
    tries_again: bool = False  #: what `fail` answers
    calls: list[tuple[str, Any]] = field(default_factory=list)
    refused_calls: list[str] = field(default_factory=list)
    waiting: list[Mapping[str, Any]] = field(default_factory=list)
    on_checkpoint: Callable[[Checkpoint], None] = lambda checkpoint: None

    def __post_init__(self) -> None:
        self._changed = threading.Condition()

    def add(self, *numbers: int, checkpoint: Checkpoint | None = None, attempt: int = 1) -> None:
        with self._changed:
            fields = {"checkpoint": checkpoint, "attempt": attempt}
            self.waiting += [{"number": number, "trial_id": number + 100, **fields} for number in numbers]

    def go_away(self, away: bool = True) -> None:
        with self._changed:
            self.away = away

    def wait_for(self, name: str, count: int = 1) -> list[Any]:
        """The arguments of all calls of that name, once there are `count` of them."""
        return self.wait_until(lambda: len(self.of(name)) >= count and self.of(name), f"{count} calls of {name}")

    def wait_until(self, condition: Callable[[], Any], what: str) -> Any:
        with self._changed:
            found = self._changed.wait_for(condition, DEADLINE_S)
        assert found, f"not within {DEADLINE_S} s: {what}; there were {self.calls}, refused {self.refused_calls}"
        return found

    def of(self, name: str) -> list[Any]:
        return [arguments for called, arguments in self.calls if called == name]

    def names(self) -> list[str]:
        return [name for name, _ in self.calls if name not in ("renew", "claim")]

    def reports(self) -> list[Report]:
        """All that was written, in order."""
        return [report for _, arguments in self.calls for report in getattr(arguments, "reports", ())]

    # -- core.Coordinator ---------------------------------------------------------------------------------------

    def claim(self, study_ids: Sequence[int], worker: str, token: str, lease_s: float) -> Lease | None:
        with self._changed:
            self._answer("claim")
            if not self.waiting:
                return None
            lease = Lease(
                token=token, study_id=study_ids[0], params={"x": 0.5}, distributions={}, **self.waiting.pop(0)
            )
            self._record("claim", Call(lease=lease, worker=worker))
            return lease

    def renew(self, tokens: Iterable[str], lease_s: float) -> frozenset[str]:
        with self._changed:
            self._answer("renewal")
            kept = frozenset() if "renew" in self.refuse else frozenset(tokens)
            self._record("renew", kept)
            return kept

    def report(self, token: str, reports: Sequence[Report]) -> None:
        self._write("report", Call(token, reports=tuple(reports)))

    def describe(self, token: str, params: Mapping[str, Any], distributions: Mapping[str, str]) -> None:
        self._write("describe", Call(token, params=dict(params)))

    def should_prune(self, token: str) -> bool:
        self._write("should_prune", Call(token))
        return self.prune

    def checkpoint(self, token: str, checkpoint: Checkpoint) -> None:
        self.on_checkpoint(checkpoint)
        self._write("checkpoint", Call(token, checkpoint=checkpoint))

    def finish(self, token: str, outcome: Outcome, reports: Sequence[Report] = ()) -> None:
        if self.unstorable is not None:
            raise self.unstorable
        self._write("finish", Call(token, outcome=outcome, reports=tuple(reports)))

    def fail(self, token: str, failure: Failure, reports: Sequence[Report] = ()) -> bool:
        self._write("fail", Call(token, failure=failure, reports=tuple(reports)))
        return self.tries_again

    def release(self, token: str) -> None:
        self._write("release", Call(token))

    def _write(self, name: str, call: Call) -> None:
        with self._changed:
            self._answer(name)
            self._record(name, call)

    def _answer(self, name: str) -> None:
        if self.away or name in self.refuse:
            self.refused_calls.append(name)
            self._changed.notify_all()
            raise DatabaseUnavailable("no answer") if self.away else LeaseLost("another worker has it")

    def _record(self, name: str, arguments: Any) -> None:
        self.calls.append((name, arguments))
        self._changed.notify_all()


@dataclass
class Call:
    """The arguments of one accepted call."""

    token: str = ""
    lease: Lease | None = None
    worker: str = ""
    reports: tuple[Report, ...] = ()
    params: Mapping[str, Any] | None = None
    checkpoint: Checkpoint | None = None
    outcome: Outcome | None = None
    failure: Failure | None = None


@pytest.fixture
def coordinator() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
def work(coordinator: FakeCoordinator, start: Start, artifacts: Path) -> Iterator[Callable[..., Worker]]:
    """Start a worker on the code of a study file (or on a host); it is stopped after the test."""
    with ExitStack() as stack:

        def start_worker(code: str | StudyHost, slots: int | Sequence[Slot] = 1, **options: Any) -> Worker:
            host = start(code) if isinstance(code, str) else code
            places = slots_for(slots) if isinstance(slots, int) else slots
            worker = Worker(coordinator, places, artifacts, **{"lease_s": 30.0, **options})
            stack.callback(worker.stop)
            worker.start()
            worker.assign(Assignment(7, host.spec, host))
            return worker

        yield start_worker


def pid_of_trial(coordinator: FakeCoordinator) -> int:
    """The trial's process, as it told in its first report."""
    coordinator.wait_until(coordinator.reports, "a report")
    return int(coordinator.reports()[0].metrics["pid"])


def failure_of(coordinator: FakeCoordinator) -> Failure:
    return coordinator.wait_for("fail")[0].failure


# -- the life of a trial ------------------------------------------------------------------------------------------


def test_a_trial_is_claimed_run_and_finished_with_its_last_reports(coordinator: FakeCoordinator, work: Any) -> None:
    coordinator.add(3)
    work("def train(trial):\n    trial.report(0.25, step=1, loss=2.0)\n    return trial.params['x']")
    (finished,) = coordinator.wait_for("finish")
    (claimed,) = coordinator.of("claim")
    assert finished.token == claimed.lease.token
    assert finished.outcome.state is TrialState.COMPLETE and finished.outcome.values == (0.5,)
    assert finished.reports == (Report(1, 0.25, {"loss": 2.0}),)
    assert coordinator.names() == ["finish"], "a short trial's reports need no transaction of their own"


def test_what_a_trial_prints_last_is_in_its_log(coordinator: FakeCoordinator, work: Any, artifacts: Path) -> None:
    coordinator.add(3)
    worker = work("def train(trial):\n    print('no end of line', end='')\n    return 1.0")
    coordinator.wait_for("finish")
    worker.stop()
    assert (artifacts / "logs" / "7" / "3-1.log").read_text() == "no end of line"


def test_reports_are_written_in_batches_in_order_and_none_is_lost(coordinator: FakeCoordinator, work: Any) -> None:
    coordinator.add(0)
    work(
        """
        import time
        def train(trial):
            for step in range(300):
                trial.report(step / 2, step=step)
                time.sleep(0.002)
            return 1.0
        """
    )
    coordinator.wait_for("finish")
    assert [(r.step, r.value) for r in coordinator.reports()] == [(step, step / 2) for step in range(300)]
    assert 1 <= len(coordinator.of("report")) <= 30


def test_a_report_is_written_soon_even_when_no_other_follows(coordinator: FakeCoordinator, work: Any) -> None:
    coordinator.add(0)
    work(ENDLESS)
    assert [r.step for r in coordinator.wait_for("report")[0].reports] == [0]


def test_a_prune_question_is_answered_by_what_was_reported_before_it(coordinator: FakeCoordinator, work: Any) -> None:
    coordinator.add(0)
    coordinator.prune = True
    work(
        """
        def study_of(train):
            return Declared(StudySpec("p", Space({"x": Float(0, 1)}), {"score": "max"}, Budget(trials=3),
                                      fidelity=Fidelity("epoch", min=1, max=9)), train)
        def train(trial):
            for step in trial.steps():
                trial.report(0.5, step=step)
            return 1.0
        """
    )
    (finished,) = coordinator.wait_for("finish")
    assert finished.outcome.state is TrialState.PRUNED
    assert coordinator.names() == ["report", "should_prune", "finish"]


def test_what_a_define_by_run_function_asked_for_is_written_while_it_runs(
    coordinator: FakeCoordinator, work: Any
) -> None:
    coordinator.add(0)
    work(
        """
        import time
        def study_of(train):
            return Declared(StudySpec("d", None, {"score": "max"}, Budget(trials=3)), train)
        def train(trial):
            trial.suggest_float("y", 0.0, 1.0)
            trial.report(0.5, 0)
            time.sleep(600)
        """
    )
    assert set(coordinator.wait_for("describe")[0].params) == {"y"}
    coordinator.wait_for("report")


def test_an_older_checkpoint_is_deleted_only_when_the_next_is_acknowledged(
    coordinator: FakeCoordinator, work: Any, artifacts: Path
) -> None:
    folder = artifacts / "checkpoints" / "100"
    folder.mkdir(parents=True)
    older = folder / "a1-s4-0123456789ab.pt"
    older.write_bytes(b"never read: the trial below starts anew")
    there_before: list[bool] = []
    coordinator.on_checkpoint = lambda checkpoint: there_before.append(older.exists())
    coordinator.add(0, attempt=2)
    worker = work(STEPS)
    coordinator.wait_for("report")
    worker.stop()
    (written,) = coordinator.of("checkpoint")
    assert there_before == [True]
    assert [path.name for path in folder.iterdir()] == [Path(written.checkpoint.path).name]
    assert coordinator.names()[-2:] == ["checkpoint", "release"]


def test_an_older_checkpoint_stays_while_the_next_is_not_acknowledged(
    coordinator: FakeCoordinator, work: Any, artifacts: Path
) -> None:
    folder = artifacts / "checkpoints" / "100"
    folder.mkdir(parents=True)
    older = folder / "a1-s4-0123456789ab.pt"
    older.write_bytes(b"the last one that the database knows of")
    coordinator.add(0, attempt=2)
    worker = work(STEPS)
    coordinator.wait_for("report")
    coordinator.refuse.add("checkpoint")
    worker.stop()
    assert older.exists() and "release" not in coordinator.names()


def test_the_checkpoints_of_a_finished_trial_are_deleted(
    coordinator: FakeCoordinator, work: Any, artifacts: Path
) -> None:
    folder = artifacts / "checkpoints" / "100"
    folder.mkdir(parents=True)
    (folder / "a1-s4-0123456789ab.pt").write_bytes(b"used up")
    coordinator.add(0, attempt=2)
    worker = work("def train(trial): return 1.0")
    coordinator.wait_for("finish")
    worker.stop()
    assert not folder.exists()


@pytest.mark.parametrize("tries_again", [True, False])
def test_the_checkpoints_of_a_failed_trial_stay_as_long_as_it_is_tried_again(
    coordinator: FakeCoordinator, work: Any, artifacts: Path, tries_again: bool
) -> None:
    folder = artifacts / "checkpoints" / "100"
    folder.mkdir(parents=True)
    (folder / "a1-s4-0123456789ab.pt").write_bytes(b"where it was")
    coordinator.tries_again = tries_again
    coordinator.add(0, attempt=2)
    worker = work("def train(trial): raise ValueError('no')")
    coordinator.wait_for("fail")
    worker.stop()
    assert folder.exists() == tries_again


def test_two_slots_run_two_trials_at_once(coordinator: FakeCoordinator, work: Any, tmp_path: Path) -> None:
    coordinator.add(0, 1)
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    worker = work(
        f"""
        import os, pathlib, time
        def train(trial):
            pathlib.Path({str(meeting)!r}, str(os.getpid())).touch()
            deadline = time.monotonic() + {DEADLINE_S}
            while len(os.listdir({str(meeting)!r})) < 2:
                assert time.monotonic() < deadline, "the other trial never came"
                time.sleep(0.005)
            return 1.0
        """,
        slots=2,
    )
    coordinator.wait_for("finish", 2)
    assert len({call.worker for call in coordinator.of("claim")}) == 2
    worker.stop()
    assert worker.busy == 0 and worker.failure is None


def test_a_slot_is_woken_by_work_that_comes_while_it_looks(coordinator: FakeCoordinator, work: Any) -> None:
    worker = work("def train(trial): return 1.0")
    for number in range(20):  # without the count of wakes, one of them would be slept over
        coordinator.add(number)
        worker.wake()
        coordinator.wait_for("finish", number + 1)


def test_whoever_makes_suggestions_hears_of_each_claim_and_of_each_result(
    coordinator: FakeCoordinator, work: Any
) -> None:
    news: list[float] = []
    heard = threading.Event()

    def on_news(patience_s: float) -> None:
        news.append(patience_s)
        if len(news) == 2:
            heard.set()

    coordinator.add(0)
    work("def train(trial): return 1.0", on_news=on_news)
    assert heard.wait(DEADLINE_S)
    assert news[0] == 0.0 and 0.0 < news[1] < 1.0


def test_a_slot_without_enough_gpus_never_claims(coordinator: FakeCoordinator, start: Start, work: Any) -> None:
    host = start(
        """
        from automl.declaration import Resources
        def study_of(train):
            return Declared(StudySpec("g", Space({"x": Float(0, 1)}), {"score": "max"}, Budget(trials=3),
                                      resources=Resources(gpus=2)), train)
        def train(trial):
            import os
            trial.log(gpus=os.environ["CUDA_VISIBLE_DEVICES"])
            return 1.0
        """
    )
    coordinator.add(0, 1, 2)
    work(host, slots=[Slot(0, ("0",)), Slot(1, ("1", "2")), Slot(2)])
    finished = coordinator.wait_for("finish", 3)
    assert {call.worker.rpartition("-")[2] for call in coordinator.of("claim")} == {"1"}
    assert {call.outcome.facts["gpus"] for call in finished} == {"1,2"}


# -- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        ("raise ValueError('no good')", FailureKind.ERROR, "no good"),
        ("return float('nan')", FailureKind.NON_FINITE, "nan"),
        ("import os; os._exit(3)", FailureKind.ERROR, "ended by itself with status 3"),
        ("import os; os.kill(os.getpid(), 11)", FailureKind.ERROR, "crashed (SIGSEGV)"),
        ("import os; os.kill(os.getpid(), 9)", FailureKind.LOST, "killed (SIGKILL)"),
    ],
)
def test_an_attempt_that_fails_is_of_the_right_kind(
    coordinator: FakeCoordinator, work: Any, code: str, kind: FailureKind, says: str
) -> None:
    coordinator.add(0)
    work(f"def train(trial):\n    trial.report(0.5, step=1)\n    {code}")
    failure = failure_of(coordinator)
    assert failure.kind is kind and says in failure.message.lower() + failure.message
    assert [r.step for r in coordinator.reports()] == [1], "what it reported before counts"


def test_a_trial_that_takes_too_long_is_killed(coordinator: FakeCoordinator, start: Start, work: Any) -> None:
    host = start(limited("timeout_s=0.3") + ENDLESS)
    coordinator.add(0)
    work(host)
    failure = failure_of(coordinator)
    assert failure.kind is FailureKind.TIMEOUT and "resources.timeout_s=0.3" in failure.message
    assert not is_running(pid_of_trial(coordinator))


def test_a_trial_that_uses_too_much_memory_is_killed(coordinator: FakeCoordinator, start: Start, work: Any) -> None:
    host = start(limited("memory_gb=0.2") + ENDLESS.replace("while", "hog = b'x' * 300_000_000\n    while"))
    coordinator.add(0)
    work(host)
    failure = failure_of(coordinator)
    assert failure.kind is FailureKind.OUT_OF_MEMORY and "resources.memory_gb=0.2" in failure.message


def limited(resources: str) -> str:
    return f"""
from automl.declaration import Resources
def study_of(train):
    return Declared(StudySpec("l", Space({{"x": Float(0, 1)}}), {{"score": "max"}}, Budget(trials=3),
                              resources=Resources({resources})), train)
"""


def test_a_kill_by_a_kernel_that_is_short_of_memory_is_told_from_another(
    coordinator: FakeCoordinator, work: Any
) -> None:
    counts = iter([4, 5])
    coordinator.add(0)
    work("import os\ndef train(trial): os.kill(os.getpid(), 9)", oom_kills=lambda: next(counts))
    failure = failure_of(coordinator)
    assert failure.kind is FailureKind.OUT_OF_MEMORY and "ran out of memory" in failure.message


@pytest.mark.parametrize(
    ("exited", "oom_killed", "kind"),
    [
        (wire.Exited(-9, 9), False, FailureKind.LOST),
        (wire.Exited(-9, 9), True, FailureKind.OUT_OF_MEMORY),
        (wire.Exited(-11, 11), True, FailureKind.ERROR),
        (wire.Exited(-64, 64), False, FailureKind.ERROR),
        (wire.Exited(0), True, FailureKind.ERROR),
    ],
)
def test_only_a_sigkill_can_come_from_outside(exited: wire.Exited, oom_killed: bool, kind: FailureKind) -> None:
    assert cause_of_death(exited, oom_killed=oom_killed).kind is kind


def test_the_kernels_count_of_kills_is_read_and_is_zero_where_there_is_none() -> None:
    def no_such_file() -> str:
        raise FileNotFoundError

    assert kernel_oom_kills(lambda: "nr_free_pages 12\noom_kill 3\nother 5\n") == 3
    assert kernel_oom_kills(lambda: "nr_free_pages 12\n") == 0
    assert kernel_oom_kills(lambda: "garbage\n") == 0
    assert kernel_oom_kills(no_such_file) == 0
    assert kernel_oom_kills() >= 0


@pytest.mark.parametrize("error", [StorageError("a NUL"), ValueError("a NUL"), OverflowError("a NUL")], ids=repr)
def test_a_result_that_cannot_be_stored_fails_the_trial_and_not_the_worker(
    coordinator: FakeCoordinator, work: Any, error: Exception
) -> None:
    coordinator.add(0, 1)
    coordinator.unstorable = error
    worker = work("def train(trial): return 1.0")
    failures = [call.failure for call in coordinator.wait_for("fail", 2)]
    assert {failure.kind for failure in failures} == {FailureKind.ERROR}
    assert "cannot be stored: a NUL" in failures[0].message
    assert worker.failure is None


def test_what_an_exception_says_can_be_stored_whatever_it_says(coordinator: FakeCoordinator, work: Any) -> None:
    coordinator.add(0)
    work(r"def train(trial): raise ValueError('a\0b\udc80')")
    failure = failure_of(coordinator)
    assert r"a\x00b\udc80" in failure.message
    assert "\0" not in failure.traceback and failure.traceback.encode()


# -- leases -------------------------------------------------------------------------------------------------------


def test_leases_are_renewed_while_a_trial_runs(coordinator: FakeCoordinator, work: Any) -> None:
    coordinator.add(0)
    work(ENDLESS, lease_s=0.3)
    token = coordinator.wait_for("claim")[0].lease.token
    coordinator.wait_until(lambda: sum(token in kept for kept in coordinator.of("renew")) >= 3, "three renewals")


def test_a_trial_whose_renewal_is_refused_is_killed_and_nothing_more_is_written(
    coordinator: FakeCoordinator, work: Any
) -> None:
    coordinator.add(0)
    worker = work(STEPS, lease_s=0.3)
    pid = pid_of_trial(coordinator)
    coordinator.refuse |= {"renew", "report"}
    wait_until(lambda: worker.busy == 0, "an idle worker")
    assert not is_running(pid)
    assert set(coordinator.names()) == {"report"} and worker.failure is None


def test_a_result_that_comes_with_a_stale_lease_is_dropped_and_the_slot_goes_on(
    coordinator: FakeCoordinator, work: Any
) -> None:
    coordinator.add(0, 1)
    coordinator.refuse.add("finish")
    worker = work("def train(trial): return 1.0")
    coordinator.wait_until(lambda: coordinator.refused_calls.count("finish") == 2, "two refused results")
    assert coordinator.names() == [] and worker.failure is None


# -- a database that does not answer ------------------------------------------------------------------------------


def test_training_goes_on_while_the_database_is_away_and_is_written_when_it_is_back(
    coordinator: FakeCoordinator, work: Any, tmp_path: Path
) -> None:
    done = tmp_path / "done"
    coordinator.add(0)
    worker = work(
        f"""
        import pathlib, time
        def study_of(train):
            return Declared(StudySpec("p", Space({{"x": Float(0, 1)}}), {{"score": "max"}}, Budget(trials=3),
                                      fidelity=Fidelity("epoch", min=1, max=9)), train)
        def train(trial):
            trial.report(0.0, step=0)
            while not pathlib.Path({str(tmp_path / "away")!r}).exists():
                time.sleep(0.005)
            for step in range(1, 3000):  # more than a socket holds
                trial.report(float(step), step=step, note=1.0)
            assert not trial.should_prune()
            pathlib.Path({str(done)!r}).touch()
            return 1.0
        """,
        lease_s=0.3,
    )
    coordinator.wait_for("report")
    coordinator.prune = True  # which it will not hear
    coordinator.go_away()
    (tmp_path / "away").touch()
    coordinator.wait_until(lambda: "finish" in coordinator.refused_calls, "the result of the trial")
    assert done.exists()
    coordinator.wait_until(lambda: "renewal" in coordinator.refused_calls, "a renewal that nobody answers")
    coordinator.go_away(False)
    (finished,) = coordinator.wait_for("finish")
    assert finished.outcome.state is TrialState.COMPLETE
    assert [r.step for r in coordinator.reports()] == list(range(3000))
    assert worker.failure is None


def test_a_trial_is_killed_on_time_while_the_database_is_away(
    coordinator: FakeCoordinator, start: Start, work: Any
) -> None:
    host = start(limited("timeout_s=1.0") + STEPS)
    coordinator.add(0)
    work(host)
    pid = pid_of_trial(coordinator)
    coordinator.go_away()
    wait_until(lambda: not is_running(pid), "its end")
    coordinator.go_away(False)
    assert failure_of(coordinator).kind is FailureKind.TIMEOUT


def test_an_idle_worker_outlives_a_database_that_is_away(coordinator: FakeCoordinator, work: Any) -> None:
    coordinator.go_away()
    work("def train(trial): return 1.0")
    coordinator.wait_until(lambda: coordinator.refused_calls.count("claim") >= 2, "two tries")
    coordinator.add(0)
    coordinator.go_away(False)
    coordinator.wait_for("finish")


# -- stopping -----------------------------------------------------------------------------------------------------


#: A busy machine may stand still for so long; nobody who waits for a lease or a database is back by then.
STALL_S = 5.0


def seconds_to_stop(worker: Worker) -> float:
    started = time.monotonic()
    worker.stop()
    return time.monotonic() - started


def test_stop_hands_a_trial_back_with_its_checkpoint(
    coordinator: FakeCoordinator, work: Any, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "GRACE_S", DEADLINE_S)  # it needs a moment only
    coordinator.add(0)
    worker = work(STEPS)
    pid = pid_of_trial(coordinator)
    assert seconds_to_stop(worker) < DEADLINE_S
    (written,) = coordinator.of("checkpoint")
    assert (artifacts / written.checkpoint.path).is_file()
    assert coordinator.names()[-2:] == ["checkpoint", "release"]
    assert coordinator.reports()[-1].step <= written.checkpoint.step
    assert not is_running(pid) and worker.failure is None


def test_stop_hands_back_a_trial_that_does_not_listen(coordinator: FakeCoordinator, work: Any) -> None:
    coordinator.add(0)
    worker = work(ENDLESS.replace("time.sleep(60)", "pass"))
    pid = pid_of_trial(coordinator)
    assert supervisor.GRACE_S < 1.0  # within a second, as it was promised
    assert supervisor.GRACE_S <= seconds_to_stop(worker) < supervisor.GRACE_S + STALL_S
    assert coordinator.names()[-1] == "release" and not is_running(pid)


@pytest.mark.parametrize("code", [STEPS, ENDLESS], ids=["steps", "endless"])
def test_stop_does_not_wait_for_a_database_that_is_away(coordinator: FakeCoordinator, work: Any, code: str) -> None:
    coordinator.add(0)
    worker = work(code)
    pid = pid_of_trial(coordinator)
    coordinator.go_away()
    assert seconds_to_stop(worker) < supervisor.GRACE_S + STALL_S
    assert not is_running(pid) and worker.failure is None
    assert {"release", "fail", "finish"}.isdisjoint(coordinator.names()), "its lease expires by itself"


def test_leases_are_kept_until_the_last_trial_is_handed_back(coordinator: FakeCoordinator, work: Any) -> None:
    coordinator.add(0)
    worker = work(ENDLESS, lease_s=0.3)
    pid_of_trial(coordinator)
    before = len(coordinator.of("renew"))
    worker.stop()
    renewals = len(coordinator.of("renew")) - before
    assert 2 <= renewals <= 12, "each third of the lease"


def test_stopping_twice_is_harmless(coordinator: FakeCoordinator, work: Any) -> None:
    worker = work("def train(trial): return 1.0")
    worker.stop()
    worker.stop()
    assert coordinator.calls == []


# -- the worker's own trouble -------------------------------------------------------------------------------------


def test_a_worker_outlives_its_template(coordinator: FakeCoordinator, start: Start, work: Any) -> None:
    host = start(ENDLESS)
    coordinator.add(0)
    worker = work(host)
    pid = pid_of_trial(coordinator)
    kill_template(host)
    assert failure_of(coordinator).kind is FailureKind.LOST
    assert not host.alive
    wait_until(lambda: not is_running(pid), "the end of the trial's process")
    claims = len(coordinator.of("claim"))
    coordinator.add(1)
    worker.wake()
    worker.assign(Assignment(7, host.spec, start("def train(trial): return 1.0")))
    coordinator.wait_for("finish")
    assert len(coordinator.of("claim")) == claims + 1, "without a template nothing is claimed"
    assert worker.failure is None


def test_a_trial_whose_template_dies_before_the_launch_is_released(
    coordinator: FakeCoordinator, start: Start, work: Any
) -> None:
    host = start("def train(trial): return 1.0")

    def kill_on_claim(patience_s: float) -> None:
        if host.alive:
            kill_template(host)

    coordinator.add(0)
    worker = work(host, on_news=kill_on_claim)
    coordinator.wait_for("release")
    assert coordinator.names() == ["release"] and worker.failure is None


def test_a_trial_that_cannot_be_launched_is_lost_and_waits(
    coordinator: FakeCoordinator, work: Any, artifacts: Path
) -> None:
    (artifacts / "logs").write_text("a file where a folder must be")
    coordinator.add(0)
    worker = work("def train(trial): return 1.0")
    failure = failure_of(coordinator)
    assert failure.kind is FailureKind.LOST and "could not be started" in failure.message
    assert worker.failure is None


def test_a_study_that_is_dropped_is_claimed_from_no_more(coordinator: FakeCoordinator, work: Any) -> None:
    heard = threading.Event()
    worker = work("def train(trial): return 1.0", on_news=lambda patience_s: patience_s and heard.set())
    coordinator.add(0)
    worker.wake()
    assert heard.wait(DEADLINE_S)
    worker.drop(7)
    coordinator.add(1)
    worker.wake()
    worker.stop()
    assert len(coordinator.of("finish")) == 1
    assert len(coordinator.of("release")) == len(coordinator.of("claim")) - 1, "a claim that was on its way"


def test_what_ends_a_thread_of_the_worker_is_in_failure(coordinator: FakeCoordinator, work: Any) -> None:
    ended = RuntimeError("a bug in the coordinator")

    def raise_it(*_: Any) -> Lease | None:
        raise ended

    coordinator.claim = raise_it  # type: ignore[method-assign]
    worker = work("def train(trial): return 1.0")
    worker._servers[0].join(DEADLINE_S)
    assert worker.failure is ended


def kill_template(host: StudyHost) -> None:
    os.kill(host._process.pid, signal.SIGKILL)
    host._reader.join(DEADLINE_S)


# -- slots --------------------------------------------------------------------------------------------------------


def test_slots_share_gpus_as_they_are_told() -> None:
    assert slots_for(2) == [Slot(0), Slot(1)]
    assert slots_for(9, ["0", "1"]) == [Slot(0, ("0",)), Slot(1, ("1",))]
    assert slots_for(1, ["0"], per_gpu=2) == [Slot(0, ("0",)), Slot(1, ("0",))]
    assert slots_for(1, ["0", "1", "2"], gpus_per_slot=2) == [Slot(0, ("0", "1"))]
