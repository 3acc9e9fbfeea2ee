"""The process that does the duties, as the process that answers keeps it: started, started again, ended with it."""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from types import TracebackType

from automl import wire
from automl.service.config import Config

log = logging.getLogger("automl.service")

#: Its steps may take so long to end; then it is killed, and another process takes its duties up a lease later.
STOP_S = 4.0
#: After it died it is started again this long after, then after twice of it, up to the second one.
BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
#: One that has lived for so long has not failed at its start.
LIVED_S = 60.0


@dataclass(frozen=True)
class Job:
    """What the process is told at its start."""

    storage: str | None
    artifacts: str | None
    config: Config
    holder: str  #: the name under which it holds duties


class Keeper:
    """Keeps one process doing the duties. Use as a context manager."""

    def __init__(self, storage: str | None, artifacts: str | None, config: Config):
        """`storage` and `artifacts` as in `connect`."""
        self._storage, self._artifacts, self._config = storage, artifacts, config
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="duties", daemon=True)

    def __enter__(self) -> Keeper:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._ending.set()
        with self._lock:
            process = self._process
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_S + 1)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def pid(self) -> int | None:
        """Of the process that is there now."""
        with self._lock:
            return None if self._process is None else self._process.pid

    def _keep(self) -> None:
        backoff_s = BACKOFF_S
        while not self._ending.is_set():
            began = time.monotonic()
            process = self._start()
            if process is None:
                return
            status = process.wait()
            if self._ending.is_set():
                return
            backoff_s = BACKOFF_S if time.monotonic() - began > LIVED_S else min(2 * backoff_s, MAX_BACKOFF_S)
            log.warning("the process that does the duties ended (status %d); another in %.1f s", status, backoff_s)
            self._ending.wait(backoff_s)

    def _start(self) -> subprocess.Popen[bytes] | None:
        """None: it is to start no more."""
        holder = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
        job = Job(self._storage, self._artifacts, self._config, holder)
        with self._lock:
            if self._ending.is_set():
                return None
            if self._process is not None and self._process.stdin is not None:
                self._process.stdin.close()
            # Passwords go through the pipe: arguments are for everybody on the machine to read.
            self._process = subprocess.Popen([sys.executable, "-m", "automl.service.duties"], stdin=subprocess.PIPE)
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(wire.dump(job) + b"\n")
                self._process.stdin.flush()
            except BrokenPipeError:  # it died at once, and is waited for
                pass
            return self._process
