"""What the tests of the trial's processes share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from automl.trainers import wire
from automl.trainers.host import TrialProcess

DEADLINE_S = 30.0


@dataclass
class FakeLink:
    """A supervisor that writes down what it hears. `prune_at` are the questions answered with yes, from 1."""

    stop: str | None = None
    prune_at: tuple[int, ...] = ()
    messages: list[wire.Message] = field(default_factory=list)
    asked: int = 0

    def send(self, message: wire.Message) -> None:
        self.messages.append(wire.decode(wire.encode(message)))

    def ask_prune(self) -> bool:
        self.asked += 1
        return self.asked in self.prune_at

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]


def messages_of(process: TrialProcess, answer: bool = False) -> list[wire.Message]:
    """Everything that a trial still says, answering its questions."""
    found: list[wire.Message] = []
    while not (found and isinstance(found[-1], wire.Exited)):
        message = process.receive(DEADLINE_S)
        assert message is not None, f"nothing for {DEADLINE_S} s, after {found}"
        if isinstance(message, wire.PruneAsked):
            process.answer_prune(answer)
        found.append(message)
    return found


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll a condition of another process, which has no signal to wait on."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.005)
