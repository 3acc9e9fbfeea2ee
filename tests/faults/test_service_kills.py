"""The service is killed and started again while workers train: they go on, and nothing is lost or counted twice."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from automl.client.transport import Transport
from automl.errors import AutoMLError
from tests.faults.theatre import DEADLINE_S, Theatre, has_ended


class Stage(Theatre):
    """A theatre whose workers reach it through a service, with a folder of their own."""

    port = 0

    def serve(self) -> subprocess.Popen[str]:
        """Start the service; returns when it answers."""
        if not self.port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
        with (self.directory / f"service-{len(self.processes)}.log").open("w") as log:
            service = subprocess.Popen(
                [sys.executable, "-m", "tests.remote", self.url, str(self.artifacts), str(self.port)],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
            )
        self.processes.append(service)
        self.until("the service answers", self._answers)
        return service

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _answers(self) -> bool:
        transport = Transport(self.address, None)
        try:
            transport.get("/clock", float)
        except AutoMLError:
            return False
        finally:
            transport.close()
        return True

    def act(self, *arguments: str) -> subprocess.Popen[str]:
        """`automl` with these arguments, over the service."""
        database, self.url = self.url, self.address
        kept, self.artifacts = self.artifacts, self.directory / "worker"
        try:
            return self.start(*arguments)
        finally:
            self.url, self.artifacts = database, kept


@contextmanager
def stage(url: str, directory: Path, **options: object) -> Iterator[Stage]:
    opened = Stage(url, directory, **options)  # type: ignore[arg-type]
    try:
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize("command", ["run", "worker"])
def test_workers_go_on_when_a_killed_service_is_back(url: str, tmp_path: Path, command: str) -> None:
    with stage(url, tmp_path, trials=6) as play:
        service = play.serve()
        play.hold()
        if command == "run":
            play.act("run", str(play.file), "--workers", "2")
        else:
            play.submit()
            play.act("worker", "--workers", "2")
        play.until("two trials run", lambda: play.running(2))
        os.kill(service.pid, signal.SIGKILL)
        service.wait(DEADLINE_S)
        play.let_go()  # they finish while nobody listens
        play.serve()
        play.until("the study is over", play.is_over)
        assert play.problems() == []


def test_a_service_that_dies_again_and_again_loses_nothing(url: str, tmp_path: Path) -> None:
    with stage(url, tmp_path, trials=8) as play:
        service = play.serve()
        play.act("run", str(play.file), "--workers", "2")
        for done in (1, 3, 5):
            play.until(f"{done} trials are complete", lambda done=done: play.complete() >= done)  # type: ignore[misc]
            os.kill(service.pid, signal.SIGKILL)
            service.wait(DEADLINE_S)
            service = play.serve()
        play.until("the study is over", play.is_over)
        assert play.problems() == []


def test_a_worker_that_was_killed_is_replaced_by_another_that_goes_on_from_its_checkpoint(
    url: str, tmp_path: Path
) -> None:
    with stage(url, tmp_path, trials=1) as play:
        play.serve()
        play.hold()
        play.submit()
        first = play.act("worker")
        play.until("a trial runs", play.running)
        children = play.trial_processes(first)
        os.kill(first.pid, signal.SIGKILL)
        play.until("its trials end with it", lambda: all(map(has_ended, children)))
        play.act("worker")
        play.until("the trial runs again", lambda: play.trial(0).attempt == 2 and play.running())
        play.let_go()
        play.until("the study is over", play.is_over)
        assert play.problems() == []
