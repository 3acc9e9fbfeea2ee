"""Two services on one database: whichever is killed, the other one does what it did."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import psutil

from tests.faults.theatre import DEADLINE_S, Theatre, has_ended, theatre

#: Seconds: of a duty's lease, and of a study's.
DUTY_LEASE_S = 2.0


def serve(play: Theatre) -> subprocess.Popen[str]:
    """A service that hands its duties over quickly."""
    config = play.directory / "serve.toml"
    config.write_text(f"[duties]\nlease_s = {DUTY_LEASE_S}\ngrace_s = {DUTY_LEASE_S}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return play.start_service("--port", port, "--no-dashboard", "--config", str(config))


def does_all(play: Theatre, process: subprocess.Popen[str]) -> bool:
    """Whether this service, and no other one, does the duties: their holders are named host-pid-word."""
    holders = [duty.holder.split("-")[-2] for duty in play.engine.duties.all() if duty.held]
    return len(holders) >= 3 and set(holders) == {str(process.pid)}


def begin(play: Theatre) -> subprocess.Popen[str]:
    """A study whose suggestions come from the service, because it held the study first; and a worker that runs it."""
    play.submit()
    play.engine.want(play.engine.study("play"), 2, 600.0)
    play.until("a suggestion is there", play.all)
    worker = play.worker()
    play.until("some trials are complete", lambda: play.complete() >= 2)
    return worker


def kill(process: subprocess.Popen[str]) -> None:
    """With all that it started."""
    for member in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        member.kill()
    process.wait(DEADLINE_S)


def test_when_a_service_is_killed_in_mid_study_the_other_one_takes_its_duties_over(
    postgres_url: str, tmp_path: Path
) -> None:
    with theatre(postgres_url, tmp_path, trials=8) as play:
        first = serve(play)
        play.until("the first does the duties", lambda: does_all(play, first))
        second = serve(play)
        worker = begin(play)
        play.hold()
        play.until("one is under way", lambda: play.running() or play.is_over())
        assert not play.is_over()
        (duties,) = psutil.Process(first.pid).children()
        os.kill(first.pid, signal.SIGKILL)
        first.wait(DEADLINE_S)
        play.until("its other process ends with it", lambda: has_ended(duties))
        play.until("the duties are taken over", lambda: does_all(play, second))
        # No other worker is there to take the trial back: whoever does the duties has to.
        kill(worker)
        play.until("the dead worker's trial is back", lambda: "lost" in play.causes())
        play.let_go()
        play.worker()
        play.until("the study is over", play.is_over)
        assert play.problems() == []


def test_when_the_process_of_the_duties_is_killed_a_study_goes_on(postgres_url: str, tmp_path: Path) -> None:
    with theatre(postgres_url, tmp_path, trials=8) as play:
        service = serve(play)
        play.until("it does the duties", lambda: does_all(play, service))
        begin(play)
        (duties,) = psutil.Process(service.pid).children()
        duties.kill()
        play.until("the study is over", play.is_over)
        assert play.problems() == []
        service.send_signal(signal.SIGTERM)
        assert service.wait(DEADLINE_S) == 0
