"""Channels and what is on its way to them.

A delivery is a row with the key of what happened, once for each channel: however often the news are read, a channel is
told once. Who sends one moves the time of its next try forward first, in the statement that finds it, so that two
notifiers do not both send it; one that is killed while it sends leaves it to the next try. A receiver may so see a
message twice, with the same key.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from automl.errors import InvalidInput, NotFound
from automl.outbound import Resolver, Undelivered, checked_addresses, destination, resolve
from automl.storage.database import Database, now
from automl.storage.tables import channel, delivery
from automl.team import Channel, ChannelKind, Delivery, Subject, check_name

MAX_CHANNELS = 100
MAX_SECRET = 500
MAX_DELIVERIES = 1000

#: Who has taken a delivery to send it has it for so long.
SENDING_S = 60.0
#: Until the next try, after the first failure, the second, ...; the last one from then on.
BACKOFF_S = (10.0, 60.0, 300.0, 1800.0, 7200.0)
#: A delivery is given up after so many tries: those that fit into a day.
MAX_TRIES = 16
#: A study's new bests are told this long apart at least.
APART_S = 30.0
#: Deliveries that are over are kept for so long.
KEPT_S = 30 * 86_400.0

_MAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)*[A-Za-z0-9-]{1,63}")

_COLUMNS = (*(column for column in channel.c if column.name != "secret"), channel.c.secret.is_not(None).label("signed"))
_DELIVERY = tuple(delivery.c[name] for name in Delivery.__dataclass_fields__ if name != "channel")
_OPEN = sa.and_(delivery.c.delivered_at.is_(None), delivery.c.given_up_at.is_(None))


class Channels:
    """Where a project's notifications go."""

    def __init__(self, database: Database, project: str, resolver: Resolver = resolve):
        self._database = database
        self._project = project
        self._resolver = resolver

    def add(
        self,
        name: str,
        kind: ChannelKind | str,
        address: str,
        subjects: Sequence[Subject | str] = tuple(Subject),
        *,
        secret: str | None = None,
        allow_private: bool = False,
    ) -> Channel:
        """Tell this address of these subjects from now on; `secret` is what messages to a webhook are signed with.

        Raises `InvalidInput` for a name that is taken, and for an address that no message will ever be sent to.
        """
        check_name("name", name)
        if kind not in set(ChannelKind):
            raise InvalidInput(f"kind: {kind!r} is none; there are {', '.join(ChannelKind)}", field="kind")
        self._check_address(ChannelKind(kind), address, allow_private)
        if secret is not None:
            _check_secret(ChannelKind(kind), secret)
        values = {
            "project": self._project,
            "name": name,
            "kind": ChannelKind(kind).value,
            "address": address,
            "secret": secret,
            "subjects": [subject.value for subject in parse_subjects(subjects)],
            "allow_private": allow_private,
            "created_at": now(),
        }
        if len(self.all()) >= MAX_CHANNELS:
            raise InvalidInput(f"channels: there are {MAX_CHANNELS} already; remove one", field="name")
        try:
            self._database.execute(sa.insert(channel).values(**values))
        except IntegrityError as error:
            cure = "remove it first, or choose another name"
            raise InvalidInput(f"name: there is a channel {name!r} already; {cure}", field="name") from error
        return self.get(name)

    def all(self) -> list[Channel]:
        """By name."""
        wanted = sa.select(*_COLUMNS).where(channel.c.project == self._project).order_by(channel.c.name)
        return [_channel(row._asdict()) for row in self._database.all(wanted)]

    def get(self, name: str) -> Channel:
        """Raises `NotFound`, which names the channels that there are."""
        row = self._database.first(sa.select(*_COLUMNS).where(self._named(name)))
        if row is None:
            names = [found.name for found in self.all()][:10]
            there = f"there are {', '.join(names)}" if names else "there is none yet"
            raise NotFound(f"channel: there is no {name!r}; {there}", field="channel")
        return _channel(row._asdict())

    def remove(self, name: str) -> None:
        """With its deliveries, those on their way too. Raises `NotFound`."""
        if not self._database.execute(sa.delete(channel).where(self._named(name))):
            self.get(name)

    def test(self, name: str) -> Delivery:
        """Put a message on its way that says nothing but that it came; the service sends it. Raises `NotFound`."""
        found = self.get(name)
        key = f"test:{uuid.uuid4().hex}"
        text = f"automl: this is a test of the channel {name!r}"
        about: dict[str, Any] = {"subject": "test", "project": self._project, "study": None, "link": None, "data": {}}
        payload = about | {"text": text, "key": key, "at": None}
        values = {"channel_id": found.id, "key": key, "subject": Subject.FINISHED.value, "payload": payload}
        self._database.execute(sa.insert(delivery).values(**values, next_at=now()))
        return next(item for item in self.deliveries(name) if item.payload["key"] == key)

    def deliveries(self, name: str | None = None, limit: int = 100) -> list[Delivery]:
        """What was sent or is to be sent to a channel, or to all, the newest first. Raises `NotFound`."""
        if not 1 <= limit <= MAX_DELIVERIES:
            raise InvalidInput(f"limit: {limit}; use 1 to {MAX_DELIVERIES}", field="limit")
        of = channel.c.project == self._project
        if name is not None:
            of = sa.and_(of, channel.c.id == self.get(name).id)
        wanted = sa.select(*_DELIVERY, channel.c.name.label("channel")).join(channel).where(of)
        rows = self._database.all(wanted.order_by(delivery.c.id.desc()).limit(limit))
        return [Delivery(**{**row._asdict(), "subject": Subject(row.subject)}) for row in rows]

    def _named(self, name: str) -> sa.ColumnElement[bool]:
        return sa.and_(channel.c.project == self._project, channel.c.name == name)

    def _check_address(self, kind: ChannelKind, address: str, allow_private: bool) -> None:
        if kind is ChannelKind.EMAIL:
            if not isinstance(address, str) or len(address) > 254 or not _MAIL.fullmatch(address):
                raise InvalidInput(f"address: {str(address)[:200]!r} is no e-mail address", field="address")
            return
        goal = destination(address)
        with suppress(Undelivered):  # a name that is not known here may be where it is sent from
            checked_addresses(goal, allow_private, self._resolver)


def parse_subjects(given: Sequence[Subject | str] | str) -> tuple[Subject, ...]:
    """Subjects by their names, or in one text with commas; each once. Raises `InvalidInput`."""
    names = given.split(",") if isinstance(given, str) else given
    found = []
    for name in names:
        word = str(name).strip().replace("-", " ").replace("_", " ")
        if word not in set(Subject):
            raise InvalidInput(f"subjects: {str(name)!r} is none; there are {', '.join(Subject)}", field="subjects")
        found.append(Subject(word))
    if not found:
        raise InvalidInput(f"subjects: none is named; there are {', '.join(Subject)}", field="subjects")
    return tuple(dict.fromkeys(found))


def _check_secret(kind: ChannelKind, secret: str) -> None:
    if kind is not ChannelKind.WEBHOOK:
        raise InvalidInput(f"secret: only messages to a webhook are signed, not {kind.value} ones", field="secret")
    if not 16 <= len(secret) <= MAX_SECRET or not secret.isprintable():
        raise InvalidInput(f"secret: use 16 to {MAX_SECRET} printable characters", field="secret")


def _channel(row: Mapping[str, Any]) -> Channel:
    subjects = tuple(map(Subject, row["subjects"]))
    return Channel(**{**row, "kind": ChannelKind(row["kind"]), "subjects": subjects})


# -- sending -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listener:
    """A channel, as far as it matters for what it is told."""

    id: int
    project: str
    subjects: frozenset[str]
    created_at: float


@dataclass(frozen=True, slots=True)
class Parcel:
    """A delivery that is to be sent now, by whoever has it."""

    id: int
    attempt: int  #: 1, 2, ...
    channel: Channel
    secret: str | None  #: what a message to it is signed with
    key: str
    payload: Mapping[str, Any]


class Outbox:
    """All deliveries of a database, whatever the project: for whoever sends them."""

    def __init__(self, database: Database):
        self._database = database

    def listeners(self) -> list[Listener]:
        columns = (channel.c.id, channel.c.project, channel.c.subjects, channel.c.created_at)
        rows = self._database.all(sa.select(*columns).order_by(channel.c.id))
        return [Listener(row.id, row.project, frozenset(row.subjects), row.created_at) for row in rows]

    def put(self, channel_id: int, key: str, subject: Subject, payload: Mapping[str, Any]) -> bool:
        """Put a message on its way to a channel; False when the channel has been told of it, or is gone."""
        row = self._database.insert(delivery).values(
            channel_id=channel_id, key=key, subject=subject.value, payload=dict(payload), next_at=now()
        )
        try:
            return bool(self._database.execute(row.on_conflict_do_nothing(index_elements=["channel_id", "key"])))
        except IntegrityError:  # the channel was removed
            return False

    def put_newest(self, channel_id: int, family: str, key: str, payload: Mapping[str, Any]) -> bool:
        """`put` for new bests: of a `family`, what begins the keys of one study's, one goes out in `APART_S` seconds.

        One that is still to be sent is replaced: the newest wins.
        """
        of_family = sa.and_(delivery.c.channel_id == channel_id, delivery.c.key.startswith(family, autoescape=True))
        newest = sa.select(delivery.c.id, delivery.c.attempts, delivery.c.next_at, delivery.c.delivered_at)
        newest = newest.where(of_family).order_by(delivery.c.id.desc()).limit(1).with_for_update()
        told = sa.select(delivery.c.id).where(delivery.c.channel_id == channel_id, delivery.c.key == key)
        values = {"key": key, "payload": dict(payload)}
        try:
            with self._database.transaction() as connection:
                # Whoever puts into this channel waits: two of a family must not come into being at once.
                channels = sa.select(channel.c.id).where(channel.c.id == channel_id).with_for_update()
                if connection.execute(channels).first() is None or connection.execute(told).first() is not None:
                    return False
                last = connection.execute(newest).first()
                if last is not None and last.attempts == 0:
                    connection.execute(sa.update(delivery).where(delivery.c.id == last.id).values(**values))
                    return True
                # The time of the last one is known when it was delivered; while it is tried again, it is not yet told.
                after = now() if last is None else _later(now(), (last.delivered_at or last.next_at) + APART_S)
                new = {"channel_id": channel_id, "subject": Subject.NEW_BEST.value, "next_at": after}
                connection.execute(sa.insert(delivery).values(**new, **values))
                return True
        except IntegrityError:
            return False

    def take(self, limit: int) -> list[Parcel]:
        """Up to `limit` deliveries whose time has come, for `SENDING_S` seconds this caller's alone."""
        due = sa.select(delivery.c.id).where(_OPEN, delivery.c.next_at <= now()).order_by(delivery.c.next_at)
        due = due.limit(limit).with_for_update(skip_locked=True)
        taken = (
            sa.update(delivery)
            .where(delivery.c.id.in_(due.scalar_subquery()), delivery.c.next_at <= now())
            .values(attempts=delivery.c.attempts + 1, next_at=now() + SENDING_S)
            .returning(delivery.c.id)
        )
        with self._database.connection() as connection:
            ids = list(connection.scalars(taken))
        if not ids:
            return []
        columns = (delivery.c.key, delivery.c.payload, delivery.c.attempts, channel.c.secret)
        parcels = sa.select(*columns, delivery.c.id.label("delivery_id"), *_COLUMNS)
        rows = self._database.all(parcels.select_from(delivery.join(channel)).where(delivery.c.id.in_(ids)))
        return [_parcel(row) for row in sorted(rows, key=lambda row: ids.index(row.delivery_id))]

    def delivered(self, parcel: Parcel) -> None:
        """It was taken by the other side."""
        mine = sa.update(delivery).where(delivery.c.id == parcel.id)
        self._database.execute(mine.values(delivered_at=now(), error=None))

    def failed(self, parcel: Parcel, error: str) -> None:
        """Another try later, unless there were enough of them. Whoever took it over meanwhile is not disturbed."""
        mine = sa.update(delivery).where(delivery.c.id == parcel.id, delivery.c.attempts == parcel.attempt, _OPEN)
        wait_s = BACKOFF_S[min(parcel.attempt, len(BACKOFF_S)) - 1]
        given_up = {"given_up_at": now()} if parcel.attempt >= MAX_TRIES else {}
        self._database.execute(mine.values(error=error[:500], next_at=now() + wait_s, **given_up))

    def clear(self) -> int:
        """Forget what has been over for long; how many."""
        over = sa.func.coalesce(delivery.c.delivered_at, delivery.c.given_up_at)
        return self._database.execute(sa.delete(delivery).where(over < now() - KEPT_S))


def _later(first: Any, second: float) -> Any:
    return sa.case((first > second, first), else_=second)


def _parcel(row: sa.Row[Any]) -> Parcel:
    data = row._asdict()
    number, key, payload = data.pop("delivery_id"), data.pop("key"), data.pop("payload")
    attempts, secret = data.pop("attempts"), data.pop("secret")
    return Parcel(number, attempts, _channel(data), secret, key, payload)
