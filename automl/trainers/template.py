"""The template of a study: `python -m automl.trainers.template FD` imports it once and forks a process per trial.

It serves one supervisor over the socket FD, single-threaded. It hears `{"load": source}` once, then
`{"fork": id, "job": job}` with two descriptors (the trial's socket, its log); it says what the study declares,
then `{"forked": id, "pid": n}` and `{"exited": pid, "status": n, "max_rss_kb": n}`. When the socket closes, it
kills its trials and ends.

Forking copies memory but only one thread, so nothing that lives in threads or in a driver may exist before it:

- an OpenMP or BLAS pool would be a set of threads that the child waits for and does not have: the host starts the
  template with one thread a library, for which they make no pool, and each child sets its own number;
- a CUDA context cannot be used in a forked child at all. `torch.cuda.is_available()` makes one unless
  PYTORCH_NVML_BASED_CUDA_CHECK=1 tells it to ask the driver's management library; anything else that the
  study does on a GPU while it is imported is refused below.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import gc
import os
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from typing import Any

from automl.errors import AutoMLError, InvalidStudy, StudyFailed
from automl.trainers import child, wire
from automl.trainers.failures import one_line
from automl.trainers.source import FileSource, Source, load, source_from_json

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(control: socket.socket) -> None:
    """Load the study that the supervisor names, then fork its trials until the supervisor is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to decide on; children inherit this
    requests = _receive_line(control)
    if requests is None:
        return
    with _ending_with(control):
        declared, answer = _load(source_from_json(wire.parse(requests)["load"]))
    control.sendall(wire.line(answer))
    if declared is not None:
        _warn_of_threads()
        child.seed_everything(0)  # torch reads its own source at the first seeding: 10 ms, once and not in each child
        gc.collect()
        gc.freeze()  # else each child's first collection would touch, and so copy, every object of the template
        _Server(control, declared).serve()


def _receive_line(control: socket.socket) -> bytes | None:
    """The first request, which comes alone; None when the supervisor is gone already."""
    buffer = wire.LineBuffer()
    while chunk := control.recv(1 << 16):
        for data in buffer.feed(chunk):
            return data
    return None


@contextlib.contextmanager
def _ending_with(control: socket.socket) -> Iterator[None]:
    """End the process when the supervisor goes away inside the block, however long the user's imports take.

    A thread watches, and is gone before the first fork. (PR_SET_PDEATHSIG would not do: it fires when the
    supervisor's *thread* that started the template ends.)
    """
    mine, other = socket.socketpair()

    def watch() -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(control, selectors.EVENT_READ)  # silent while it waits for our answer
            selector.register(other, selectors.EVENT_READ)
            if any(key.fileobj is control for key, _ in selector.select()):
                os.killpg(os.getpgrp(), signal.SIGKILL)  # with what the imports started; the group is our own

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        mine.close()
        watcher.join()
        other.close()


def _load(source: Source) -> tuple[Any, dict[str, Any]]:
    """The declared study and what to tell of it; None and the error when it cannot be used."""
    try:
        declared = load(source)
        if declared.spec.space is None:  # its trials will ask for these: import them once, here
            import optuna.distributions  # noqa: F401

            import automl.search.independent  # noqa: F401
        answer = {
            "spec": declared.spec.to_json(),
            "sampler": _pickled(getattr(declared, "sampler_object", None), source),
            "pruner": _pickled(getattr(declared, "pruner_object", None), source),
        }
        _check_forkable(source)
    except AutoMLError as error:
        answer = {"error": str(error), "field": getattr(error, "field", None)}
        if isinstance(error, StudyFailed):
            answer["traceback"] = error.traceback
        return None, answer
    except Exception as error:
        return None, {"error": one_line(error), "traceback": traceback.format_exc()}
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # else each child would print what the import left in the buffers
    return declared, answer


def _pickled(thing: Any, source: Source) -> str | None:
    """An Optuna object for the supervisor, which does not have the study's module: its classes go by value."""
    import cloudpickle

    if thing is None:
        return None
    module = sys.modules.get(type(thing).__module__)
    if isinstance(source, FileSource) and getattr(module, "__file__", None) == os.path.realpath(source.path):
        cloudpickle.register_pickle_by_value(module)
    try:
        return base64.b64encode(cloudpickle.dumps(thing)).decode()
    except Exception as error:
        name = type(thing).__name__
        raise InvalidStudy(f"{name}: it cannot be pickled ({one_line(error)}); use a plain Optuna object") from error


def _check_forkable(source: Source) -> None:
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None and cuda.is_initialized():
        cure = "move CUDA work into the training function, where trial.device says which device to use"
        raise InvalidStudy(f"{source.path}: it uses CUDA while it is imported, which no trial could share; {cure}")


def _warn_of_threads() -> None:
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        print(f"automl: threads started by the import ({', '.join(others)}) do not exist in trials", file=sys.stderr)


class _Server:
    """The loop that forks and reaps."""

    def __init__(self, control: socket.socket, declared: Any):
        self._control = control
        self._declared = declared
        self._children: set[int] = set()
        self._descriptors: deque[int] = deque()  # received, not yet claimed by their request
        self._buffer = wire.LineBuffer()
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)

    def serve(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once more: the import may have changed it
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler the wakeup below is not written
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._control, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            try:
                while True:
                    ready = {key.fileobj for key, _ in selector.select()}
                    if self._woken in ready:
                        self._woken.recv(1 << 12)
                        self._reap()
                    if self._control in ready and not self._take_requests():
                        return
            except BrokenPipeError:
                return
            finally:
                self._kill_all()

    def _take_requests(self) -> bool:
        """Serve what has arrived; False when the supervisor is gone."""
        try:
            chunk, descriptors, _, _ = socket.recv_fds(self._control, 1 << 16, 64)
        except ConnectionResetError:
            return False
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        self._descriptors.extend(descriptors)
        for data in self._buffer.feed(chunk):
            request = wire.parse(data)
            connection_fd, log_fd = self._descriptors.popleft(), self._descriptors.popleft()
            self._send(self._fork(request, connection_fd, log_fd))
        return bool(chunk)

    def _fork(self, request: dict[str, Any], connection_fd: int, log_fd: int) -> dict[str, Any]:
        template = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # no memory, too many processes
            return {"forked": request["fork"], "error": str(error)}
        finally:
            if os.getpid() == template:
                os.close(connection_fd)
                os.close(log_fd)
        if pid == 0:
            try:
                self._become_child(template)
                connection = socket.socket(fileno=connection_fd)
                child.run(self._declared, wire.Job.from_json(request["job"]), connection, log_fd)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        with contextlib.suppress(OSError):  # the child does it too; whoever comes first, the group is there
            os.setpgid(pid, pid)
        self._children.add(pid)
        return {"forked": request["fork"], "pid": pid}

    def _become_child(self, template: int) -> None:
        os.setpgid(0, 0)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != template:  # it died before the call
                os._exit(1)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # A copy of the control socket in a child would hide the template's death from the supervisor.
        for end in (self._control, self._woken, self._waker):
            end.close()
        for descriptor in self._descriptors:
            os.close(descriptor)

    def _reap(self) -> None:
        for pid in list(self._children):
            done, status, usage = os.wait4(pid, os.WNOHANG)
            if done == 0:
                continue
            self._children.discard(pid)
            # Whatever the trial left running goes too: it may hold the GPU. The number cannot be another group's
            # yet, processes are numbered in a circle.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            rss_kb = usage.ru_maxrss if sys.platform == "linux" else usage.ru_maxrss // 1024
            self._send({"exited": pid, "status": os.waitstatus_to_exitcode(status), "max_rss_kb": rss_kb})

    def _send(self, answer: dict[str, Any]) -> None:
        self._control.sendall(wire.line(answer))

    def _kill_all(self) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        for pid in self._children:  # leave no zombies to an init process that may not care
            os.waitpid(pid, 0)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)  # no exit handlers of the user's libraries: some of them wait for threads or networks
