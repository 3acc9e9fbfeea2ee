"""What has to happen without anybody asking: suggestions, lost leases, schedules, batches, notifications, clearing up.

Each is a duty of its own. Of all the processes that serve one database, one at a time does it: see `runner`.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class Duty(Protocol):
    """Something that is looked after again and again."""

    @property
    def name(self) -> str:
        """Of its lease: the same in every process."""

    @property
    def every_s(self) -> float:
        """Seconds from the end of a step to the next one."""

    def step(self) -> None:
        """Do what there is to do now. What it raises is logged, and the next step comes all the same."""


@runtime_checkable
class Resting(Protocol):
    """A duty that keeps something between its steps."""

    def rest(self) -> None:
        """There is no next step for now: another process has the duty, or this one ends. Give back what is held."""
