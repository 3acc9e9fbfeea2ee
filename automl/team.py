"""The nouns of a team: who may call, what starts by itself, what is run together, who is told.

Standard library only, no I/O, like `core.py`. Times are seconds since the epoch, by the database's clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from automl.errors import Forbidden, InvalidInput

#: Seconds for which a study that was deleted can be brought back.
UNDO_S = 7 * 86_400.0
#: The project of everybody who talks to a database directly and says nothing else.
DEFAULT_PROJECT = "default"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._ -]{0,78}[A-Za-z0-9])?")


class Scope(StrEnum):
    """What the bearer of a token may do in its project."""

    READ = "read"  # look at everything but tokens
    SUBMIT = "submit"  # make and steer studies, schedules, batches
    SUBMIT_CODE = "submit-code"  # send the code of a study along, for workers that accept code
    WORK = "work"  # the worker protocol, ask, tell; read
    PROMOTE = "promote"  # move the aliases of models
    ADMIN = "admin"  # tokens, channels; delete; all of the above


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls."""

    who: str  #: for histories: a token's name, an address of a login, "local"
    project: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Admins may do everything, and who works may read: a worker has to see what there is to do."""
        if scope is Scope.READ and Scope.WORK in self.scopes:
            return True
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def require(self, scope: Scope, field: str | None = None) -> None:
        """Raises `Forbidden` for who may not; `field`: what of a request takes the scope."""
        if not self.may(scope):
            what = "this" if field is None else f"{field}: this"
            raise Forbidden(
                f"{what} takes the scope {scope.value!r}, which {self.who!r} has not; use a token that has it"
            )


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept. Its secret is not."""

    id: str
    project: str
    name: str
    scopes: tuple[Scope, ...]
    created_at: float
    created_by: str
    expires_at: float | None = None
    revoked_at: float | None = None
    used_at: float | None = None  #: to the minute


@dataclass(frozen=True, slots=True)
class Package:
    """The code of a study as it travels: relative names (with "/") -> texts, and where the study is in them."""

    files: Mapping[str, str]
    main: str  #: the study's file, one of `files`
    environment: Mapping[str, str] = field(default_factory=dict)  #: "python", versions of packages, where it was packed


class FiringState(StrEnum):
    STARTED = "started"  # its study is there
    SKIPPED = "skipped"  # the last one's search was not over, or a later tick was caught up with instead
    MISSED = "missed"  # nobody was there at its time, and it was not to be caught up with


@dataclass(frozen=True, slots=True)
class Schedule:
    """A study that is searched again and again."""

    id: int
    project: str
    name: str
    cron: str
    timezone: str
    catch_up: str  #: after a time in which nobody ran schedules: "skip" all missed ticks, start "one", or "all"
    overlap: str  #: while the last tick's search is not over: "skip" the tick, or "queue" another search
    promote: str | None  #: the alias that a better model gets by itself; None: it is only proposed
    spec: Mapping[str, Any]
    entrypoint: str
    code_sha256: str | None
    package_sha256: str | None
    paused: bool
    seen_until: float  #: ticks up to then have been dealt with
    created_at: float
    created_by: str


@dataclass(frozen=True, slots=True)
class Firing:
    """A tick of a schedule, and what was done about it."""

    schedule_id: int
    tick: float
    state: FiringState
    study_id: int | None
    study: str | None
    verdict: Mapping[str, Any] | None  #: when its search is over: "better" or not, "p_better", "reason", "promoted"
    at: float


@dataclass(frozen=True, slots=True)
class Batch:
    """Studies that are run one after the other, on one budget."""

    id: int
    project: str
    name: str
    priority: int
    max_trials: int | None
    max_hours: float | None
    max_gpu_hours: float | None
    made: int  #: trials, in all of its studies
    created_at: float
    finished_at: float | None
    studies: tuple[str, ...] = ()  #: in their order


class Subject(StrEnum):
    """What people are told of."""

    FINISHED = "finished"
    FAILED = "failed"
    NEW_BEST = "new best"
    PROMOTED = "promoted"
    SCHEDULE_MISSED = "schedule missed"
    WORKER_LOST = "worker lost"
    BATCH_FINISHED = "batch finished"


class ChannelKind(StrEnum):
    WEBHOOK = "webhook"
    SLACK = "slack"
    EMAIL = "email"


@dataclass(frozen=True, slots=True)
class Channel:
    """Where notifications go. Its secret is kept, and never shown."""

    id: int
    project: str
    name: str
    kind: ChannelKind
    address: str  #: a URL, or an e-mail address
    subjects: tuple[Subject, ...]
    allow_private: bool  #: also to addresses of this machine and of private networks
    created_at: float
    signed: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notification on its way to one channel."""

    id: int
    channel: str
    subject: Subject
    payload: Mapping[str, Any]
    attempts: int
    next_at: float
    delivered_at: float | None
    given_up_at: float | None
    error: str | None


def check_project(name: str) -> str:
    """`name`, if it can be a project's: up to 40 of a-z, 0-9 and "-" between them. Raises `InvalidInput`."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"project: {name!r}; use up to 40 of a-z, 0-9 and '-'", field="project")
    return name


def check_name(field: str, name: object) -> None:
    """Raises `InvalidInput` for what no batch and no channel can be called; its message begins with `field`."""
    if not isinstance(name, str) or not _LABEL.fullmatch(name):
        raise InvalidInput(f"{field}: {name!r}; use 1 to 80 letters, digits, '-', '_', '.' and blanks", field="name")


def parse_scopes(names: str) -> tuple[Scope, ...]:
    """`"read,submit"` as scopes, each once. Raises `InvalidInput`."""
    found = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name not in set(Scope):
            raise InvalidInput(f"scopes: {name!r} is none; there are {', '.join(Scope)}", field="scopes")
        found.append(Scope(name))
    if not found:
        raise InvalidInput(f"scopes: none is named; there are {', '.join(Scope)}", field="scopes")
    return tuple(dict.fromkeys(found))
