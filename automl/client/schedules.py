"""The schedules of the caller's project, over HTTP: the twin of `automl.storage.schedules.Schedules`."""

from __future__ import annotations

from dataclasses import asdict

from automl.client.transport import Transport
from automl.cron import Plan
from automl.errors import NotFound
from automl.team import Firing, Schedule


class RemoteSchedules:
    """The schedules of one project. What is due, and firing it, is the service's own affair."""

    def __init__(self, transport: Transport):
        self._transport = transport

    def add(self, plan: Plan, *, who: str = "local", replace: bool = False) -> Schedule:
        """A schedule named like its study; `replace` changes the one of that name.

        `who` is for who talks to the database: the service knows whom this caller's token names. Raises
        `InvalidInput`, `Forbidden`.
        """
        return self._transport.send("POST", "/schedules", Schedule, asdict(plan) | {"replace": replace})

    def all(self) -> list[Schedule]:
        """By name."""
        return self._transport.get("/schedules", list[Schedule])

    def get(self, name: str) -> Schedule:
        """Raises `NotFound`, which names some of those that there are."""
        found = self._transport.get("/schedules", list[Schedule], name=name)
        if not found:
            names = [item.name for item in self.all()][:10]
            there = f"there are {', '.join(names)}" if names else "there is none yet"
            raise NotFound(f"schedule {name!r} is not here; {there}", field="schedule")
        return found[0]

    def by_id(self, schedule_id: int) -> Schedule:
        """Raises `NotFound`, also for one of another project."""
        return self._transport.get(f"/schedules/{schedule_id}", Schedule)

    def pause(self, name: str) -> bool:
        """Start nothing until it is resumed; False when it was paused already."""
        return self._transport.send("PATCH", f"/schedules/{self.get(name).id}", bool, {"paused": True})

    def resume(self, name: str) -> bool:
        """Go on with the next tick; False when it was not paused."""
        return self._transport.send("PATCH", f"/schedules/{self.get(name).id}", bool, {"paused": False})

    def remove(self, name: str) -> None:
        """Forget the schedule and its firings. The studies that it has started stay as they are."""
        self._transport.request("DELETE", f"/schedules/{self.get(name).id}")

    def next(self, name: str, count: int = 10) -> tuple[float, ...]:
        """The next times, in seconds since the epoch, also of one that is paused."""
        return tuple(self._transport.get(f"/schedules/{self.get(name).id}/next", list[float], count=count))

    def firings(self, name: str, limit: int = 50) -> list[Firing]:
        """What was done about its ticks, the newest first."""
        return self._transport.get(f"/schedules/{self.get(name).id}/firings", list[Firing], limit=limit)

    def last_firings(self) -> dict[int, Firing]:
        """The newest firing of each schedule that has one, by the schedule's id."""
        return self._transport.get("/schedules/firings", dict[int, Firing])
