"""The supervisor's side of templates and trials. It imports neither torch nor the study.

::

    with-statement or close()
    StudyHost.start(source) ── template process ── fork ── trial processes
        launch(job) -> TrialProcess                             │
                           receive() <── messages ── socket ────┘
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import pickle
import selectors
import signal
import site
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import automl
from automl.core import Failure, FailureKind
from automl.declaration import StudySpec
from automl.errors import InvalidStudy, StudyFailed
from automl.trainers import wire
from automl.trainers.failures import one_line
from automl.trainers.source import FileSource, Source, source_to_json

#: One thread a library: see template.py. Child processes set their own number.
_TEMPLATE_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
_FORK_TIMEOUT_S = 60.0  # milliseconds as a rule; a swapping machine may take seconds
_CLOSE_TIMEOUT_S = 5.0
_LOG_TAIL_CHARACTERS = 2000


class TrialProcess:
    """The process of one attempt. One thread receives; any thread may stop, kill or wake."""

    def __init__(self, connection: socket.socket):
        self.pid = 0  #: set before `launch` returns
        self._connection = connection
        self._connection.setblocking(False)
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)
        self._lock = threading.Lock()  # of all below
        self._closed = False
        self._exited: wire.Exited | None = None
        self._launched = threading.Event()
        self._launch_error: str | None = None
        self._inbox: deque[wire.Message] = deque()
        self._buffer = wire.LineBuffer()
        self._poll = selectors.PollSelector()
        self._poll.register(self._connection, selectors.EVENT_READ)
        self._poll.register(self._woken, selectors.EVENT_READ)

    def receive(self, timeout_s: float) -> wire.Message | None:
        """The next message, or None when there was none for `timeout_s` seconds or after `wakeup`.

        `Exited` is the last message; from then on every call returns it. A message that makes no sense is
        returned as `Failed`, and the process is killed.
        """
        deadline = time.monotonic() + timeout_s
        while not self._inbox:
            if self._closed:
                return self._exited
            exited = self._exited
            wait_s = 0.0 if exited else max(0.0, deadline - time.monotonic())
            ready = {key.fileobj for key, _ in self._poll.select(wait_s)}
            if self._connection in ready:
                self._read()
            elif exited:  # it is gone and all that it said is read
                self._close()
                return exited
            elif self._woken in ready:
                self._woken.recv(1 << 12)
                if not self._exited:
                    return None
            elif not ready:
                return None
        return self._inbox.popleft()

    def answer_prune(self, prune: bool) -> None:
        """Answer a `PruneAsked`."""
        self._tell({"type": "prune", "value": prune})

    def stop(self, why: str) -> None:
        """Ask the trial to end soon: "preempt" (it checkpoints first, and sends `Interrupted`) or "prune"."""
        self._tell({"type": "stop", "why": why})

    def kill(self) -> None:
        """End the process and all that it started, now. `Exited` follows."""
        with self._lock:
            if self._exited is None and self.pid:  # afterwards the number may be another process's
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)

    def wakeup(self) -> None:
        """Make the present or the next `receive` return None at once, unless a message is there."""
        with self._lock:
            if not self._closed:
                with contextlib.suppress(BlockingIOError):  # so many wakeups are waiting that one more adds nothing
                    self._waker.send(b"w")

    def rss_bytes(self) -> int:
        """The RAM of the process and its descendants, 0 where it is unknown (macOS, ended).

        A page that several processes share, as those of the template are, counts in parts (Linux' PSS): else a
        loader with eight workers would look nine times as large as it is.
        """
        if self._exited is not None or not self.pid:
            return 0
        return sum(_resident_bytes(pid) for pid in _family(self.pid))

    def _read(self) -> None:
        try:
            chunk = self._connection.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:  # what is left to hear is that it has exited, and that comes from the template
            self._poll.unregister(self._connection)
            return
        try:
            for data in self._buffer.feed(chunk):
                self._inbox.append(wire.decode(data))
        except wire.WireError as error:
            self._poll.unregister(self._connection)
            self.kill()
            message = f"the trial's process sent {error}; it must not write to descriptors that it did not open"
            self._inbox.append(wire.Failed(Failure(FailureKind.ERROR, message)))

    def _tell(self, order: Mapping[str, object]) -> None:
        with self._lock:
            if not self._closed:
                with contextlib.suppress(OSError):  # it has just ended, or is so stuck that its buffer is full
                    self._connection.send(wire.line(order))

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            self._poll.close()
            for end in (self._connection, self._woken, self._waker):
                end.close()

    def _forked(self, pid: int, error: str | None) -> None:
        self.pid, self._launch_error = pid, error
        self._launched.set()

    def _set_exited(self, exited: wire.Exited) -> None:
        with self._lock:
            self._exited = self._exited or exited
        self.wakeup()


class StudyHost:
    """A template process and the trials that it forked. Thread-safe."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        control: socket.socket,
        answer: Mapping[str, Any],
        source: Source,
        log_path: Path,
    ):
        self.source = source
        self._log_path = log_path
        self.spec = StudySpec.from_json(answer["spec"])
        self.sampler = _unpickled("sampler", answer["sampler"])  #: an Optuna object, or None
        self.pruner = _unpickled("pruner", answer["pruner"])
        self._process = process
        self._control = control
        self._sending = threading.Lock()  # not the other one: the reader must never wait for a full socket
        self._lock = threading.Lock()  # of all below
        self._alive = True
        self._ids = itertools.count()
        self._launching: dict[int, TrialProcess] = {}
        self._running: dict[int, TrialProcess] = {}
        self._reader = threading.Thread(target=self._read, name=f"automl-host-{self.spec.name}", daemon=True)
        self._reader.start()

    @classmethod
    def start(cls, source: Source, *, log_path: Path, timeout_s: float = 300.0) -> StudyHost:
        """Load a study in a new template process, whose output goes to the end of `log_path`.

        Raises:
            InvalidStudy: the source holds no study that could work; the message says why, and the cure.
            StudyFailed: the file raised (`traceback` shows where), crashed, or took longer than `timeout_s`.
        """
        mine, theirs = socket.socketpair()
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with theirs, log_path.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "automl.trainers.template", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
                start_new_session=True,  # a terminal's signals are for the supervisor
            )
        try:
            answer = _ask(mine, {"load": source_to_json(source)}, timeout_s)
            if answer is None:
                process.kill()
                raise StudyFailed(_how_it_ended(source, process, timeout_s), _tail(log_path))
            if "error" in answer:
                if "traceback" in answer:
                    raise StudyFailed(answer["error"], answer["traceback"])
                raise InvalidStudy(answer["error"], answer["field"])
            return cls(process, mine, answer, source, log_path)
        except BaseException:
            mine.close()
            _end(process)
            raise

    def another(self) -> StudyHost:
        """A new template with the same study, for when this one is dead. Raises as `start` does."""
        return type(self).start(self.source, log_path=self._log_path)

    @property
    def alive(self) -> bool:
        """Whether `launch` can work."""
        return self._alive

    def launch(self, job: wire.Job, log_path: Path) -> TrialProcess:
        """Fork a process for one attempt; what it prints goes to the end of `log_path`.

        Raises:
            ChildProcessError: the template is dead (`alive` is False) or cannot fork; start another.
            OSError: the log cannot be opened.
        """
        log_path.parent.mkdir(parents=True, exist_ok=True)
        log = log_path.open("ab")
        mine, theirs = socket.socketpair()
        trial = TrialProcess(mine)
        with theirs, log:
            with self._lock:
                number = next(self._ids)
                self._launching[number] = trial
                if not self._alive:
                    trial._forked(0, "the template is dead")
            data = wire.line({"fork": number, "job": job.to_json()})
            try:
                with self._sending:
                    sent = socket.send_fds(self._control, [data], [theirs.fileno(), log.fileno()])
                    self._control.sendall(data[sent:])
            except OSError:
                trial._forked(0, "the template is dead")
            if not trial._launched.wait(_FORK_TIMEOUT_S):
                trial._forked(0, f"no answer for {_FORK_TIMEOUT_S:.0f} s")
                self._process.kill()  # it is stuck, and a child that nobody knows of may come yet
        if trial._launch_error is not None:
            with self._lock:
                self._launching.pop(number, None)
            trial._close()
            raise ChildProcessError(f"cannot fork a trial: {trial._launch_error}")
        return trial

    def close(self) -> None:
        """Kill the trials and end the template. Repeating it is harmless."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        _end(self._process)
        self._reader.join()
        self._control.close()

    def __enter__(self) -> StudyHost:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self) -> None:
        """The body of the one thread that hears the template, to its end."""
        buffer = wire.LineBuffer()
        with contextlib.suppress(OSError, wire.WireError):
            while chunk := self._control.recv(1 << 16):
                for data in buffer.feed(chunk):
                    self._take(wire.parse(data))
        with self._lock:
            self._alive = False
            launching, running = list(self._launching.values()), list(self._running.values())
            self._launching.clear()
            self._running.clear()
        _end(self._process)
        for trial in launching:
            trial._forked(0, "the template is dead")
        for trial in running:  # on Linux the kernel has killed the children already, not what they started
            trial.kill()
            trial._set_exited(wire.Exited(-signal.SIGKILL, signal.SIGKILL))

    def _take(self, answer: dict[str, Any]) -> None:
        if "forked" in answer:
            with self._lock:
                trial = self._launching.pop(answer["forked"], None)
                if trial is not None and "pid" in answer:
                    self._running[answer["pid"]] = trial
            if trial is not None:
                trial._forked(answer.get("pid", 0), answer.get("error"))
        elif "exited" in answer:
            with self._lock:
                trial = self._running.pop(answer["exited"], None)
            status = answer["status"]
            if trial is not None:
                trial._set_exited(wire.Exited(status, -status if status < 0 else None, answer["max_rss_kb"]))


def _ask(control: socket.socket, request: Mapping[str, Any], timeout_s: float) -> dict[str, Any] | None:
    """The template's first answer; None when it ended or said nothing for `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    buffer = wire.LineBuffer()
    try:
        control.sendall(wire.line(request))
        while True:
            control.settimeout(max(0.001, deadline - time.monotonic()))
            if not (chunk := control.recv(1 << 16)):
                return None
            for data in buffer.feed(chunk):
                control.settimeout(None)
                return wire.parse(data)
    except OSError:
        return None


def _environment() -> dict[str, str]:
    """For the template: this package must be found there, wherever it was found here."""
    environment = os.environ | _TEMPLATE_ENVIRONMENT
    root = str(Path(automl.__path__[0]).parent)
    if root not in [*site.getsitepackages(), site.getusersitepackages()]:
        known = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
        environment["PYTHONPATH"] = os.pathsep.join([*known, root])
    return environment


def _how_it_ended(source: Source, process: subprocess.Popen[bytes], timeout_s: float) -> str:
    where = source.path if isinstance(source, FileSource) else "the study"
    status = process.wait()
    if status == -signal.SIGKILL:
        return f"{where}: importing it took longer than {timeout_s:.0f} s, or was killed"
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return f"{where}: importing it ended the process ({how})"


def _tail(log_path: Path) -> str:
    with contextlib.suppress(OSError):
        return log_path.read_text(errors="replace")[-_LOG_TAIL_CHARACTERS:]
    return ""


def _end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a template whose socket is closed, and lose patience."""
    try:
        process.wait(_CLOSE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _unpickled(name: str, pickled: str | None) -> Any:
    try:
        return pickle.loads(base64.b64decode(pickled)) if pickled else None
    except Exception as error:
        raise InvalidStudy(
            f"{name}: it cannot be used here ({one_line(error)}); use a plain Optuna object", name
        ) from error


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:  # grows while it is walked
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _resident_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for row in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if row.startswith("Pss:"):
                return int(row.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
