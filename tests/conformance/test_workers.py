"""Workers say that they live and what they are busy with, and stop claiming when they are told to drain."""

from __future__ import annotations

import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from automl.core import Load, WorkerRecord
from automl.dispatch import local, machine
from automl.dispatch.queue import QueueWorker
from automl.engine import Engine
from automl.errors import DatabaseUnavailable, NotFound
from automl.storage.database import now
from automl.storage.tables import worker
from automl.trainers.worker import slots_for
from tests.conformance.lab import Lab, complete
from tests.unit.dispatch.conftest import Lab as Desk
from tests.unit.dispatch.conftest import watched

GPU = {"index": 0, "name": "H200", "memory_used": 2**30, "memory_total": 2**37, "load": 0.5}
RECORD = WorkerRecord(
    name="host-7",
    host="host",
    pid=7,
    slots=(("0", "1"), ()),
    load=Load(),
    environment={"python": "3.11.7", "torch": "2.6"},
    lease_s=30.0,
    draining=False,
    started_at=0.0,
    seen_at=0.0,
    ended_at=None,
)


def silent_for(lab: Lab, seconds: float) -> None:
    """As if the workers had been silent for so long."""
    lab.database.execute(sa.update(worker).values(seen_at=now() - seconds))


# -- what is kept ----------------------------------------------------------------------------------------------------


def test_a_worker_is_listed_as_it_last_said(lab: Lab) -> None:
    assert lab.engine.workers() == []
    lab.engine.enroll(RECORD)
    assert lab.engine.beat("host-7", Load(0.5, 0.25, (GPU,))) is False
    (found,) = lab.engine.workers()
    assert found == replace(RECORD, load=Load(0.5, 0.25, (GPU,)), started_at=found.started_at, seen_at=found.seen_at)
    assert lab.engine.clock() - 5 < found.started_at <= found.seen_at <= lab.engine.clock()


def test_a_worker_that_is_silent_for_three_leases_is_gone(lab: Lab) -> None:
    lab.engine.enroll(RECORD)
    silent_for(lab, 89.0)
    assert len(lab.engine.workers()) == 1
    silent_for(lab, 91.0)
    assert lab.engine.workers() == [] and len(lab.engine.workers(all=True)) == 1
    silent_for(lab, 86_401.0)
    assert lab.engine.workers(all=True) == []
    lab.engine.beat("host-7", Load())
    assert len(lab.engine.workers()) == 1


def test_a_worker_that_has_ended_is_gone_at_once_and_back_when_it_is_heard_of(lab: Lab) -> None:
    lab.engine.enroll(RECORD)
    lab.engine.leave("host-7")
    assert lab.engine.workers() == []
    (gone,) = lab.engine.workers(all=True)
    assert gone.ended_at is not None
    lab.engine.beat("host-7", Load())  # two searches of one process share a name
    assert lab.engine.workers()[0].ended_at is None


def test_who_starts_under_an_old_name_starts_anew(lab: Lab) -> None:
    lab.engine.enroll(RECORD)
    lab.engine.drain("host-7")
    lab.engine.leave("host-7")
    lab.engine.enroll(replace(RECORD, slots=((),), environment={}))
    (found,) = lab.engine.workers()
    assert (found.slots, found.environment, found.draining, found.ended_at) == (((),), {}, False, None)


def test_a_worker_hears_that_it_is_to_drain_and_that_it_is_not(lab: Lab) -> None:
    lab.engine.enroll(RECORD)
    lab.engine.drain("host-7")
    assert lab.engine.workers()[0].draining and lab.engine.beat("host-7", Load()) is True
    lab.engine.drain("host-7", on=False)
    assert lab.engine.beat("host-7", Load()) is False


def test_who_is_not_there_cannot_drain_and_the_error_says_who_is(lab: Lab) -> None:
    with pytest.raises(NotFound, match="there is none now"):
        lab.engine.drain("host-7")
    lab.engine.enroll(RECORD)
    with pytest.raises(NotFound, match=r"'host-8'.*there are host-7"):
        lab.engine.drain("host-8")
    lab.engine.leave("host-7")
    with pytest.raises(NotFound):
        lab.engine.drain("host-7")
    assert lab.engine.beat("nobody", Load()) is None


def test_a_trials_environment_is_that_of_its_last_worker(lab: Lab) -> None:
    lab.engine.enroll(RECORD)
    lab.engine.enroll(replace(RECORD, name="host-8", environment={"python": "3.13"}))
    lab.engine.finish(lab.claimed(worker="host-7-0").token, complete(0.5))
    assert lab.engine.environment(lab.engine.trial(lab.study, 0)) == {"python": "3.11.7", "torch": "2.6"}
    lab.engine.release(lab.claimed(worker="host-7-1").token)
    assert lab.engine.environment(lab.engine.trial(lab.study, 1))["python"] == "3.11.7"
    lab.claimed(worker="host-8-0")
    assert lab.engine.environment(lab.engine.trial(lab.study, 1)) == {"python": "3.13"}
    lab.suggest()
    assert lab.engine.environment(lab.engine.trial(lab.study, 2)) == {}
    lab.claimed(worker="other-9-0")
    assert lab.engine.environment(lab.engine.trial(lab.study, 2)) == {}


# -- the heartbeat of a search ---------------------------------------------------------------------------------------


@pytest.fixture
def desk(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(local, "BEAT_S", 0.05)
    with ExitStack() as stack:
        yield Desk(tmp_path, url, stack)


WAITS = """
def train(trial):
    trial.report(0.5, step=0)
    while not pathlib.Path("{gate}").exists():
        time.sleep(0.02)
    return 0.5
"""


def test_a_search_is_listed_while_it_runs_and_says_goodbye(desk: Desk) -> None:
    engine = desk.engine()
    name = f"{socket.gethostname()}-{os.getpid()}"
    seen: list[WorkerRecord] = []
    gate = desk.folder / "gate"

    def watch() -> None:
        seen.extend(engine.workers())
        if seen:
            gate.touch()

    record = desk.search(desk.write(WAITS.format(gate=gate), trials=2), workers=2, watch=watch)
    assert {item.name for item in seen} == {name}
    assert (seen[0].slots, seen[0].pid, seen[0].environment["python"]) == (
        ((), ()),
        os.getpid(),
        platform.python_version(),
    )
    assert engine.workers() == [] and engine.workers(all=True)[0].ended_at is not None
    trial = engine.trial(record, 0)
    assert trial.worker is not None and trial.worker.rpartition("-")[0] == name
    assert "torch" in engine.environment(trial)


def test_a_drained_worker_finishes_its_trial_claims_no_more_and_ends(desk: Desk) -> None:
    engine = desk.engine()
    gate = desk.folder / "gate"
    record, host = desk.declare(engine, desk.write(WAITS.format(gate=gate), trials=3), queued=True)
    host.close()
    lines: list[str] = []
    serving = QueueWorker(desk.engine(), slots_for(1), 30.0, lines.append)
    thread = threading.Thread(target=serving.serve, kwargs={"exit_when_idle": False})
    thread.start()
    overdue = watched(what="a running trial")
    while not engine.counts([record])[record.id]["running"]:
        overdue()
    (found,) = engine.workers()
    engine.drain(found.name)
    overdue = watched(what="the worker's draining")
    while not any("draining" in line for line in lines):
        overdue()
    gate.touch()
    thread.join(60.0)
    assert not thread.is_alive()
    counts = engine.counts([record])[record.id]
    assert counts["complete"] == 1 and counts["running"] == 0
    assert engine.workers() == []


def test_a_database_that_does_not_answer_the_heartbeat_does_not_end_a_search(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def cut_off(*_: Any) -> None:
        asked.set()
        raise DatabaseUnavailable("away")

    for verb in ("enroll", "beat", "leave"):
        monkeypatch.setattr(Engine, verb, cut_off)
    assert desk.search(desk.write("def train(trial): return 0.5", trials=2)).state.value == "finished"
    assert asked.is_set() and desk.engine().workers(all=True) == []


# -- the load --------------------------------------------------------------------------------------------------------


class Nvml:
    """The library, on a machine with a whole GPU and a part of one."""

    def __init__(self) -> None:
        self.open = 0
        self.broken = False

    def nvmlInit(self) -> None:  # noqa: N802
        self.open += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        if self.broken:
            raise RuntimeError("GPU is lost")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, device: int) -> Any:  # noqa: N802
        return b"NVIDIA H200" if device else "NVIDIA A100"

    def nvmlDeviceGetMemoryInfo(self, device: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=2**30, total=2**37)

    def nvmlDeviceGetUtilizationRates(self, device: int) -> Any:  # noqa: N802
        if device:
            raise RuntimeError("Not Supported")
        return SimpleNamespace(gpu=50)


def test_gpus_are_read_by_nvml_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    meter = machine.Meter()
    load = meter.read()
    assert load.gpus == (
        {"index": 0, "name": "NVIDIA A100", "memory_used": 2**30, "memory_total": 2**37, "load": 0.5},
        {"index": 1, "name": "NVIDIA H200", "memory_used": 2**30, "memory_total": 2**37, "load": None},
    )
    assert load.memory is not None and 0 < load.memory < 1 and load.cpu is not None and 0 <= load.cpu <= 1
    nvml.broken = True
    assert meter.read().gpus == ()
    meter.close()
    assert nvml.open == 0


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with `nvidia-smi` and without NVML; the program notes each call in a file."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder / "nvidia-smi"


def program(path: Path, body: str) -> None:
    path.write_text(f'#!/bin/sh\necho "$@" >> "{path}.calls"\n{body}\n')
    path.chmod(0o755)


def test_without_nvml_nvidia_smi_is_asked_every_ten_seconds(smi: Path) -> None:
    program(smi, 'echo "0, NVIDIA H200, 1024, 143771, 37"; echo "1, NVIDIA H200 MIG 1g, 0, [N/A], [N/A]"')
    moment = [100.0]
    meter = machine.Meter(clock=lambda: moment[0])
    first = meter.read().gpus
    assert first[0] == {
        "index": 0, "name": "NVIDIA H200", "memory_used": 2**30, "memory_total": 143771 * 2**20, "load": 0.37
    }  # fmt: skip
    assert first[1]["memory_total"] is None and first[1]["load"] is None and first[1]["memory_used"] == 0
    moment[0] += 9.0
    assert meter.read().gpus == first
    assert len(Path(f"{smi}.calls").read_text().splitlines()) == 1
    moment[0] += 2.0
    meter.read()
    assert len(Path(f"{smi}.calls").read_text().splitlines()) == 2
    assert "index,name,memory.used,memory.total,utilization.gpu" in Path(f"{smi}.calls").read_text()


@pytest.mark.parametrize("body", ["exit 9", "echo nonsense", "sleep 60"], ids=["fails", "babbles", "hangs"])
def test_an_nvidia_smi_that_does_not_work_is_no_trouble(smi: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SMI_LIMIT_S", 0.3)
    program(smi, f"exec {body}" if body.startswith("sleep") else body)
    start = time.monotonic()
    assert machine.Meter().read().gpus == ()
    assert time.monotonic() - start < 10


def test_the_environment_names_python_the_platform_and_what_is_installed() -> None:
    found = machine.environment()
    assert found["python"] == platform.python_version() and found["platform"] == platform.platform()
    assert found["automl"] and found["numpy"] and "catboost" not in found
    assert all(isinstance(value, str) for value in found.values())
