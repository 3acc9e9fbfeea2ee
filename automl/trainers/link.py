"""The trial's end of its socket to the supervisor."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from typing import Protocol

from automl.trainers import wire


class Link(Protocol):
    """What `trial` needs of the supervisor."""

    stop: str | None  #: "preempt" or "prune" once the supervisor has said so

    def send(self, message: wire.Message) -> None:
        """Hand a message over, in order."""

    def ask_prune(self) -> bool:
        """Ask whether the trial should end, and wait for the answer."""


class SocketLink:
    """A `Link` over a socket. A daemon thread reads it, so that a stop is seen while the user's code computes.

    Without a supervisor nobody can use what the trial finds: `on_lost` is called as soon as the socket closes.
    """

    def __init__(self, connection: socket.socket, on_lost: Callable[[], None]):
        self.stop: str | None = None
        self._connection = connection
        self._on_lost = on_lost
        self._sending = threading.Lock()  # user code may report from threads
        self._asking = threading.Lock()
        self._answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="automl-supervisor", daemon=True).start()

    def send(self, message: wire.Message) -> None:
        data = wire.encode(message)
        try:
            with self._sending:
                self._connection.sendall(data)
        except OSError:
            self._on_lost()

    def ask_prune(self) -> bool:
        with self._asking:
            self.send(wire.PruneAsked())
            return self._answers.get()

    def _read(self) -> None:
        buffer = wire.LineBuffer()
        try:
            while chunk := self._connection.recv(1 << 16):
                for data in buffer.feed(chunk):
                    self._take(wire.parse(data))
        except (OSError, wire.WireError):
            pass  # no better than a closed socket
        self._on_lost()

    def _take(self, order: dict[str, object]) -> None:
        if order.get("type") == "prune":
            self._answers.put(bool(order.get("value")))
        elif order.get("type") == "stop":
            self.stop = str(order.get("why"))
