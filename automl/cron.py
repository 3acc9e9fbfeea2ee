"""When a schedule comes: five fields of cron in a time zone, as moments in seconds since the epoch.

Twice a year a day has 23 or 25 hours. Which rule holds is decided by the field of the hour alone:

- It allows every hour (`15 * * * *`): the job belongs to real hours. It comes in each of them, twice where a clock time
  comes twice; nothing is made up for the hour that is left out.
- It names hours (`30 2 * * *`, `0 */6 * * *`): the job belongs to times of the day. One that does not exist that day
  comes when the clocks have been put forward (02:30 becomes 03:00), together with others of the same gap. One that
  comes twice comes the first time.

Standard library and cronsim, no I/O but for the tables of time zones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError

from automl.errors import InvalidInput

#: What becomes of ticks that came while nobody ran schedules.
CATCH_UP = ("skip", "one", "all")
#: What becomes of a tick while the search of the last one is not over.
OVERLAP = ("skip", "queue")

_LONGEST, _LONGEST_PATH = 200, 4096
_FORM = 'give minute, hour, day of the month, month and day of the week, as in "0 2 * * *" for two at night'
#: The first look back for the newest ticks; each further one is twice as long.
_LOOK_BACK_S = 3600.0
#: Clocks are put back by an hour; by two or three at some places and times.
_LONGEST_FOLD = timedelta(hours=3)
_ALIAS = re.compile(r"[A-Za-z_][\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class Cron:
    """An expression in a time zone. Raises `InvalidInput` for one that is wrong or never comes."""

    expression: str
    timezone: str = "UTC"
    _is_hourly: bool = field(init=False, repr=False, compare=False)
    _zone: ZoneInfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_zone", _zone(self.timezone))
        object.__setattr__(self, "_is_hourly", len(_parsed(self.expression).hours) == 24)
        if next(CronSim(self.expression, datetime(2000, 1, 1, tzinfo=UTC)), None) is None:
            cure = "no month has that day; name another"
            raise InvalidInput(f"cron: {self.expression!r} never comes: {cure}", field="cron")

    def ticks(self, after: float) -> Iterator[float]:
        """The moments after `after`, rising; there is no last one but for want of a calendar."""
        # The clocks may have gone back just now, or be about to: what comes twice then began before.
        since = datetime.fromtimestamp(after, self._zone).replace(tzinfo=UTC) - _LONGEST_FOLD
        walls = (wall.replace(tzinfo=None) for wall in CronSim(self.expression, since))
        last = after
        for moment in self._each_time(walls) if self._is_hourly else map(self._first_time, walls):
            if moment > last:
                last = moment
                yield moment

    def _first_time(self, wall: datetime) -> float:
        """When clocks show `wall` or, on a day that leaves it out, have just been put forward over it."""
        while not (moments := self._moments(wall)):
            wall += timedelta(minutes=1)
        return moments[0]

    def _each_time(self, walls: Iterator[datetime]) -> Iterator[float]:
        """The moments at which clocks show one of `walls`, rising: all first times of a fold, then all second ones."""
        later: list[float] = []
        for wall in walls:
            if moments := self._moments(wall):
                yield from (moment for moment in later if moment < moments[0])
                yield moments[0]
                later = [moment for moment in later if moment > moments[0]] + moments[1:]

    def _moments(self, wall: datetime) -> list[float]:
        """The one moment at which clocks show `wall`; two where they are put back over it, none where forward."""
        moments = sorted({wall.replace(tzinfo=self._zone, fold=fold).timestamp() for fold in (0, 1)})
        return [moment for moment in moments if self.local(moment).replace(tzinfo=None) == wall]

    def newest(self, after: float, until: float, most: int) -> tuple[list[float], bool]:
        """The last ticks in (after, until], rising, `most` of them; and whether these are all.

        Takes no longer for a long time than for a short one: it looks back further and further from `until`.
        """
        reach = _LOOK_BACK_S
        while True:
            start = max(after, until - reach)
            found = []
            for tick in self.ticks(start):
                if tick > until:
                    break
                found.append(tick)
            if start == after or len(found) > most:
                return found[-most:], start == after and len(found) <= most
            reach *= 2

    def local(self, tick: float) -> datetime:
        """The moment on the clocks of the time zone."""
        return datetime.fromtimestamp(tick, self._zone)

    def explain(self) -> str:
        """In words: "At 02:00 every day"."""
        return _parsed(self.expression).explain()


@dataclass(frozen=True)
class Plan:
    """All of a schedule that its user decides: what is searched, when, and what becomes of the result.

    Raises `InvalidInput`, which names the field and the cure.
    """

    spec: dict[str, Any]  #: `declaration.StudySpec` as JSON; its name is the schedule's
    entrypoint: str
    cron: str
    timezone: str = "UTC"
    code_sha256: str | None = None
    package_sha256: str | None = None  #: the code itself, where it was sent along
    catch_up: str = "one"  #: see `team.Schedule`
    overlap: str = "skip"
    promote: str | None = None  #: the alias that a better model gets by itself; None: it is only proposed

    def __post_init__(self) -> None:
        Cron(self.cron, self.timezone)
        if not 1 <= len(self.entrypoint) <= _LONGEST_PATH or not self.entrypoint.isprintable():
            cure = "give FILE or FILE:NAME, a path that a worker could load"
            raise InvalidInput(f"entrypoint: {self.entrypoint[:60]!r}; {cure}", field="entrypoint")
        for name, value, known in (("catch_up", self.catch_up, CATCH_UP), ("overlap", self.overlap, OVERLAP)):
            if value not in known:
                raise InvalidInput(f"{name}: {value!r} is unknown; say {' or '.join(known)}", field=name)
        if self.promote is not None and not _ALIAS.fullmatch(self.promote):
            cure = "use letters, digits, '_', '.' and '-', not beginning with a digit"
            raise InvalidInput(f"promote: {self.promote!r} is no name of an alias; {cure}", field="promote")


@lru_cache(maxsize=1024)
def _parsed(expression: str) -> CronSim:
    if not isinstance(expression, str) or len(expression) > _LONGEST or not expression.isprintable():
        raise InvalidInput(f"cron: {str(expression)[:40]!r}; {_FORM}", field="cron")
    fields = len(expression.split())
    if fields == 6:
        raise InvalidInput(f"cron: {expression!r} has six fields; searches start on full minutes: {_FORM}", "cron")
    if fields != 5:
        raise InvalidInput(f"cron: {expression!r} has {fields} of five fields; {_FORM}", field="cron")
    try:
        return CronSim(expression, datetime(2000, 1, 1, tzinfo=UTC))
    except (CronSimError, AssertionError, ValueError) as error:  # it asserts what a strange step is taken from
        wrong = str(error).removeprefix("Bad ") or "one field"
        raise InvalidInput(f"cron: {expression!r}: the {wrong} is wrong or never comes; {_FORM}", "cron") from error


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    known = _zones()
    if name in known:
        return ZoneInfo(name)
    like = sorted(zone for zone in known if zone.endswith(f"/{name}")) or get_close_matches(str(name)[:60], known, n=1)
    hint = f"did you mean {like[0]!r}?" if like else 'give one as "Europe/Paris", or "UTC"'
    raise InvalidInput(f"timezone: {str(name)[:60]!r} is unknown; {hint}", field="timezone")


@lru_cache(maxsize=1)
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())
