"""Templates and trials as real processes, and what becomes of everybody when one of them dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from automl.core import FailureKind, TrialState
from automl.errors import InvalidStudy, StudyFailed
from automl.trainers import host as host_module
from automl.trainers import wire
from automl.trainers.host import StudyHost
from automl.trainers.source import FileSource, pickle_source
from tests.unit.trainers.trial_processes import DEADLINE_S, is_running, messages_of, wait_until

Start = Callable[..., StudyHost]
Run = Callable[..., list[wire.Message]]

#: Runs until it is killed, and says so first.
ENDLESS = """
import os, time
def train(trial):
    trial.log(pid=os.getpid())
    while True:
        time.sleep(60)
"""
#: The same, with a process of its own.
WITH_GRANDCHILD = """
import os, subprocess, time
def train(trial):
    sleeper = subprocess.Popen(["sleep", "600"])
    trial.log(pid=os.getpid(), sleeper=sleeper.pid)
    while True:
        time.sleep(60)
"""

#: The same, unable to do anything itself when its supervisor goes.
STUCK = "import signal\n" + WITH_GRANDCHILD.replace(
    "    while True:", "    signal.raise_signal(signal.SIGSTOP)\n    while True:"
)


def launch(host: StudyHost, job: wire.Job, tmp_path: Path) -> tuple[host_module.TrialProcess, dict[str, int]]:
    """Start an endless trial; returns it with the process numbers that it tells."""
    process = host.launch(job, tmp_path / "trial.log")
    noted = process.receive(DEADLINE_S)
    assert isinstance(noted, wire.Noted), noted
    return process, dict(noted.facts)


# -- a template ---------------------------------------------------------------------------------------------------


def test_a_template_tells_what_the_study_declares(start: Start) -> None:
    host = start(
        """
        import optuna
        class Mine(optuna.samplers.RandomSampler):
            pass
        def train(trial): return 1.0
        def study_of(train):
            spec = StudySpec("mine", Space({"x": Float(0, 1)}), {"score": "max"}, Budget(trials=3))
            return Declared(spec, train, Mine(seed=1), optuna.pruners.NopPruner())
        """
    )
    assert host.alive and host.spec.name == "mine"
    assert isinstance(host.sampler, optuna.samplers.RandomSampler) and type(host.sampler).__name__ == "Mine"
    assert isinstance(host.pruner, optuna.pruners.NopPruner)


@pytest.mark.parametrize(
    ("code", "error", "says", "traceback"),
    [
        ("import no_such_module", StudyFailed, "line 10: ModuleNotFoundError", "some_study.py"),
        ("def train(t): ...\nFloat(2, 1)", InvalidStudy, "swap them", ""),
        ("print('last words', flush=True)\nimport os; os._exit(3)", StudyFailed, "exit status 3", "last words"),
        ("import os; os.kill(os.getpid(), 11)", StudyFailed, "signal SIGSEGV", ""),
        ("raise SystemExit", StudyFailed, "sys.exit", "SystemExit"),
        (
            "import types, sys\n"
            "fake = sys.modules['torch'] = types.ModuleType('torch')\n"
            "fake.cuda = types.SimpleNamespace(is_initialized=lambda: True)\n"
            "def train(t): ...",
            InvalidStudy,
            "move CUDA work into the training function",
            "",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_reported(
    start: Start, code: str, error: type[Exception], says: str, traceback: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        start(code)
    assert traceback in getattr(caught.value, "traceback", "")


def test_an_import_that_takes_too_long_is_ended(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path = study_file("import os, sys, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\ndef train(t): ...")
    log = tmp_path / "template.log"
    with pytest.raises(StudyFailed, match="took longer than 3 s"):
        StudyHost.start(FileSource(str(path)), log_path=log, timeout_s=3.0)
    assert not is_running(int(log.read_text()))


def test_what_the_import_prints_goes_to_the_log_once(start: Start, run: Run, tmp_path: Path) -> None:
    host = start("print('loading', end=' ')\ndef train(t): return 1.0")
    run(host)
    assert (tmp_path / "template.log").read_text() == "loading "
    assert (tmp_path / "trial.log").read_text() == ""


def test_threads_of_the_import_are_warned_of(start: Start, tmp_path: Path) -> None:
    start(
        "import threading\nthreading.Thread(target=threading.Event().wait, name='watchdog', daemon=True).start()\n"
        "def train(t): return 1.0"
    )
    wait_until(lambda: "(watchdog) do not exist in trials" in (tmp_path / "template.log").read_text(), "warning")


def test_a_pickled_study_runs(tmp_path: Path, run: Run) -> None:
    from automl.declaration import Budget, Float, Space, StudySpec
    from automl.trainers.source import Declared

    spec = StudySpec("pickled", Space({"x": Float(0, 1)}), {"score": "max"}, Budget(trials=1))
    factor = 3
    source = pickle_source(Declared(spec, lambda trial: factor * trial.params["x"]), tmp_path)
    with StudyHost.start(source, log_path=tmp_path / "template.log") as host:
        done, _ = run(host)
    assert isinstance(done, wire.Done) and done.outcome.values == (1.5,)


# -- a trial ------------------------------------------------------------------------------------------------------


def test_a_trial_runs_in_a_process_of_its_own_with_its_resources(start: Start, run: Run, tmp_path: Path) -> None:
    host = start(
        """
        import os, random, sys
        import numpy as np
        def train(trial):
            print("to the log"), print("too", file=sys.stderr)
            os.system("echo from a subprocess")
            names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
            trial.log(env=[os.environ[n] for n in names], draws=[random.random(), np.random.rand()])
            trial.log(pid=os.getpid(), group=os.getpgrp(), device=trial.device)
            return trial.params["x"]
        """
    )
    first, second, done, exited = run(host, cpus=2, gpus=("1", "3"))
    assert isinstance(first, wire.Noted) and isinstance(second, wire.Noted)
    assert first.facts["env"] == ["2", "1,3"]
    assert second.facts["pid"] == second.facts["group"] != os.getpid() and second.facts["device"] == "cuda:0"
    assert isinstance(done, wire.Done) and done.outcome.values == (0.5,)
    assert isinstance(exited, wire.Exited) and (exited.status, exited.signal) == (0, None)
    assert exited.max_rss_kb is not None and exited.max_rss_kb > 1000
    log = (tmp_path / "trial.log").read_text()
    assert "to the log\ntoo\nfrom a subprocess\n" in log
    again = run(host)
    assert isinstance(again[0], wire.Noted) and again[0].facts["draws"] == first.facts["draws"]
    other = run(host, seed=12)
    assert isinstance(other[0], wire.Noted) and other[0].facts["draws"] != first.facts["draws"]


def test_trials_share_nothing(start: Start, run: Run) -> None:
    host = start("calls = []\ndef train(t):\n    calls.append(1)\n    return len(calls)")
    results = [run(host)[0] for _ in range(3)]
    assert [m.outcome.values for m in results if isinstance(m, wire.Done)] == [(1.0,)] * 3


def test_a_plain_optuna_objective_runs(start: Start, run: Run) -> None:
    host = start(
        """
        import optuna
        def objective(trial):
            x = trial.suggest_float("x", -1, 1)
            for step in range(3):
                trial.report(x + step, step)
                if trial.should_prune():
                    raise optuna.TrialPruned()
            return x
        """,
        study=False,
        direction="minimize",
        trials=3,
    )
    *reports, done, _ = run(host, metrics=dict(host.spec.metrics))
    assert isinstance(done, wire.Done) and isinstance(reports[0], wire.Reported)
    assert done.outcome.params == {"x": 0.5} == reports[0].params and done.outcome.values == (0.5,)


def test_the_supervisor_decides_on_pruning(start: Start, job: wire.Job, tmp_path: Path) -> None:
    host = start("def train(t):\n    for s in t.steps():\n        t.report(s / 10)\n    return 1.0")
    process = host.launch(replace(job, prunable=True, max_step=5), tmp_path / "trial.log")
    *_, done, exited = messages_of(process, answer=True)
    assert isinstance(done, wire.Done) and isinstance(exited, wire.Exited)
    assert (done.outcome.state, done.outcome.values) == (TrialState.PRUNED, (0.1,))


def test_a_preempted_trial_goes_on_where_it_was(start: Start, job: wire.Job, tmp_path: Path) -> None:
    host = start(
        """
        import time
        def train(trial):
            state = {"sum": 0}
            for step in trial.steps(state=state):
                state["sum"] += step
                trial.report(state["sum"])
                while trial.attempt == 1 and step == 2 and trial._link.stop is None:
                    time.sleep(0.001)
            return state["sum"]
        """
    )
    process = host.launch(replace(job, max_step=4), tmp_path / "trial.log")
    for step in (1, 2):
        reported = process.receive(DEADLINE_S)
        assert isinstance(reported, wire.Reported) and reported.step == step
    process.stop("preempt")
    saved, interrupted, exited = messages_of(process)
    assert isinstance(saved, wire.Checkpointed) and saved.checkpoint.step == 2
    assert isinstance(interrupted, wire.Interrupted) and isinstance(exited, wire.Exited)
    again = host.launch(replace(job, max_step=4, attempt=2, checkpoint=saved.checkpoint), tmp_path / "trial.log")
    third, _, done, _ = messages_of(again)
    assert isinstance(third, wire.Reported) and (third.step, third.value) == (3, 6.0)
    assert isinstance(done, wire.Done) and done.outcome.values == (10.0,)


def test_ten_thousand_reports_arrive_in_order(start: Start, run: Run) -> None:
    host = start("def train(t):\n    for s in range(10_000):\n        t.report(s, s, loss=s / 7)\n    return 1.0")
    *reports, done, _ = run(host)
    assert isinstance(done, wire.Done)
    assert [m.step for m in reports if isinstance(m, wire.Reported)] == list(range(10_000))


def test_several_threads_share_a_host(start: Start, job: wire.Job, tmp_path: Path) -> None:
    host = start("def train(t): return t.number / 100")
    values: dict[int, Any] = {}

    def slot(index: int) -> None:
        for number in range(index, 40, 4):
            process = host.launch(replace(job, number=number), tmp_path / f"{number}.log")
            done, _ = messages_of(process)
            assert isinstance(done, wire.Done)
            values[number] = done.outcome.values

    threads = [threading.Thread(target=slot, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert values == {number: (number / 100,) for number in range(40)}


# -- deaths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status", "killed_by"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", -11, 11),
        ("os._exit(3)", 3, None),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, 9),
        ("ctypes.string_at(0)", -11, 11),
    ],
)
def test_a_process_that_dies_by_itself_is_told_of_and_harms_nobody(
    start: Start, run: Run, code: str, status: int, killed_by: int | None
) -> None:
    host = start(f"import ctypes, os, signal\ndef train(t):\n    if t.number == 3:\n        {code}\n    return 1.0")
    (exited,) = run(host)
    assert isinstance(exited, wire.Exited) and (exited.status, exited.signal) == (status, killed_by)
    assert isinstance(run(host, number=4)[0], wire.Done)


def test_a_crash_leaves_its_stack_in_the_log(start: Start, run: Run, tmp_path: Path) -> None:
    run(start("import ctypes\ndef train(t):\n    ctypes.string_at(0)"))
    assert "Segmentation fault" in (text := (tmp_path / "trial.log").read_text()) and "some_study.py" in text


def test_an_endless_loop_ends_when_it_is_killed(start: Start, job: wire.Job, tmp_path: Path) -> None:
    host = start("def train(t):\n    t.log(pid=1)\n    while True: pass")
    process, _ = launch(host, job, tmp_path)
    process.kill()
    assert isinstance(exited := process.receive(DEADLINE_S), wire.Exited) and exited.signal == signal.SIGKILL
    assert process.receive(0) == exited  # for ever
    process.kill(), process.stop("preempt"), process.wakeup(), process.answer_prune(True)  # too late, no harm
    assert process.rss_bytes() == 0


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_what_a_trial_started_ends_with_it(start: Start, job: wire.Job, tmp_path: Path, end: str) -> None:
    code = WITH_GRANDCHILD if end == "kill" else WITH_GRANDCHILD.partition("    while")[0] + "    return 1.0"
    process, pids = launch(start(code), job, tmp_path)
    if end == "kill":
        assert is_running(pids["sleeper"])
        process.kill()
    messages_of(process)
    wait_until(lambda: not is_running(pids["sleeper"]), "the subprocess is gone")


def test_a_killed_template_takes_its_trials_along(start: Start, job: wire.Job, tmp_path: Path) -> None:
    host = start(WITH_GRANDCHILD)
    process, pids = launch(host, job, tmp_path)
    host._process.kill()
    (exited,) = messages_of(process)
    assert isinstance(exited, wire.Exited) and exited.signal == signal.SIGKILL
    wait_until(lambda: not any(map(is_running, pids.values())), "child and grandchild are gone")
    assert not host.alive
    with pytest.raises(ChildProcessError, match="the template is dead"):
        host.launch(job, tmp_path / "trial.log")


def test_closing_the_host_ends_everything_and_may_be_repeated(start: Start, job: wire.Job, tmp_path: Path) -> None:
    host = start(WITH_GRANDCHILD)
    process, pids = launch(host, job, tmp_path)
    host.close()
    host.close()
    assert not host.alive and not is_running(host._process.pid)
    wait_until(lambda: not any(map(is_running, pids.values())), "child and grandchild are gone")
    assert isinstance(messages_of(process)[-1], wire.Exited)


SUPERVISOR = """
import sys, time
from pathlib import Path
from automl.trainers import wire
from automl.trainers.host import StudyHost
from automl.trainers.source import FileSource
tmp = Path(sys.argv[1])
host = StudyHost.start(FileSource(str(tmp / "some_study.py")), log_path=tmp / "template.log")
job = wire.Job(
    study_seed=0, trial_id=1, number=0, attempt=1, seed=0, params={"x": 0.5}, distributions={},
    metrics={"score": "max"}, prunable=False, max_step=None, checkpoint=None, artifacts=str(tmp),
)
process = host.launch(job, tmp / "trial.log")
noted = process.receive(30)
print(host._process.pid, *noted.facts.values(), flush=True)
time.sleep(600)
"""


def _supervisor(tmp_path: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(host_module.__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.parametrize("code", [WITH_GRANDCHILD, ENDLESS, STUCK])
def test_no_process_survives_its_supervisor(study_file: Callable[..., Path], tmp_path: Path, code: str) -> None:
    study_file(code)
    with _supervisor(tmp_path) as supervisor:
        assert supervisor.stdout is not None
        pids = [int(word) for word in supervisor.stdout.readline().split()]
        assert len(pids) >= 2 and all(map(is_running, pids))
        supervisor.kill()
    wait_until(lambda: not any(map(is_running, pids)), "no process is left")


def test_a_template_that_is_still_importing_does_not_survive_its_supervisor(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    study_file(
        "import os, subprocess, time\nsleeper = subprocess.Popen(['sleep', '600'])\n"
        "print(os.getpid(), sleeper.pid, flush=True)\ntime.sleep(600)\ndef train(t): ..."
    )
    log = tmp_path / "template.log"
    with _supervisor(tmp_path) as supervisor:
        wait_until(lambda: log.exists() and log.read_text().endswith("\n"), "the template imports")
        supervisor.kill()
    pids = list(map(int, log.read_text().split()))
    wait_until(lambda: not any(map(is_running, pids)), "no process is left")


def test_the_keyboard_does_not_end_an_import(start: Start, run: Run) -> None:
    host = start("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\ndef train(t): return 1.0")
    assert isinstance(run(host)[0], wire.Done)


def test_the_keyboard_does_not_reach_templates_and_trials(start: Start, job: wire.Job, tmp_path: Path) -> None:
    host = start(ENDLESS)
    process, pids = launch(host, job, tmp_path)
    assert os.getsid(host._process.pid) != os.getsid(0)
    for pid in (host._process.pid, pids["pid"]):
        os.kill(pid, signal.SIGINT)
    assert host.alive
    assert process.receive(0.05) is None
    process.kill()
    messages_of(process)
    again, _ = launch(host, job, tmp_path)
    again.kill()
    messages_of(again)


# -- the other end of the socket ----------------------------------------------------------------------------------


def test_receive_returns_none_when_nothing_comes_and_when_it_is_woken(
    start: Start, job: wire.Job, tmp_path: Path
) -> None:
    process, _ = launch(start(ENDLESS), job, tmp_path)
    assert process.receive(0.01) is None
    waker = threading.Timer(0.05, process.wakeup)
    waker.start()
    started = time.monotonic()
    assert process.receive(DEADLINE_S) is None
    assert time.monotonic() - started < DEADLINE_S / 2
    waker.join()
    process.kill()
    messages_of(process)


@pytest.mark.parametrize("rubbish", [b"rubbish\n", b'{"type": "Exited", "status": 0}\n', b"\xff\n"])
def test_rubbish_from_a_trial_fails_it_and_nothing_else(
    start: Start, job: wire.Job, tmp_path: Path, rubbish: bytes
) -> None:
    host = start(
        f"import time\ndef train(t):\n    t._link._connection.sendall({rubbish!r})\n"
        "    t.log(after=1)\n    time.sleep(600)"
    )
    process = host.launch(job, tmp_path / "trial.log")
    failed, *_, exited = messages_of(process)
    assert isinstance(failed, wire.Failed) and failed.failure.kind == FailureKind.ERROR
    assert "not a message" in failed.failure.message or "not JSON" in failed.failure.message
    assert isinstance(exited, wire.Exited) and exited.signal == signal.SIGKILL
    assert host.alive


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        ("object()", FailureKind.ERROR),
        ("(x for x in [1])", FailureKind.ERROR),
        ("lambda: 1", FailureKind.ERROR),
        ("float('nan')", FailureKind.NON_FINITE),
        ("[0] * 10**18", FailureKind.OUT_OF_MEMORY),
        ("t.report(1.0, fact=object())", FailureKind.ERROR),
        ("sys.exit(0)", FailureKind.ERROR),
    ],
)
def test_odd_results_fail_with_a_message(start: Start, run: Run, result: str, kind: FailureKind) -> None:
    failed, exited = run(start(f"import sys\ndef train(t):\n    return {result}"))
    assert isinstance(failed, wire.Failed) and failed.failure.kind == kind and failed.failure.message
    assert isinstance(exited, wire.Exited) and exited.status == 0


def test_the_memory_of_a_trial_is_seen(start: Start, job: wire.Job, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("needs /proc")
    host = start(
        "import time\ndef train(t):\n    kept = bytearray(b'x') * (64 << 20)\n    t.log(pid=1)\n    time.sleep(600)"
    )
    process, _ = launch(host, job, tmp_path)
    assert 64 << 20 < process.rss_bytes() < 1 << 30
    process.kill()
    messages_of(process)


def test_a_supervisor_does_not_import_torch() -> None:
    code = "import sys, automl.trainers.host; print('torch' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(Path(host_module.__file__).parents[2])}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"


def test_no_descriptor_is_left_behind(start: Start, run: Run) -> None:
    if not (descriptors := Path("/proc/self/fd")).is_dir():
        pytest.skip("needs /proc")
    host = start("import os\ndef train(t): return len(os.listdir('/proc/self/fd'))")

    def open_here_and_there() -> tuple[int, object]:
        done = run(host)[0]
        assert isinstance(done, wire.Done)
        return len(list(descriptors.iterdir())), done.outcome.values

    before = open_here_and_there()
    for _ in range(3):
        assert open_here_and_there() == before
