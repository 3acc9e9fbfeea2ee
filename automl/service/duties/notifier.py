"""The duty that tells people: it turns what has happened into deliveries, and sends those whose time has come."""

from __future__ import annotations

import contextlib
import logging
import smtplib
import ssl
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from automl import outbound
from automl.engine import Engine
from automl.errors import AutoMLError
from automl.outbound import Answer, Undelivered
from automl.service.config import Smtp
from automl.service.duties import messages
from automl.storage.channels import Outbox, Parcel
from automl.storage.news import Happening, News
from automl.team import ChannelKind

log = logging.getLogger("automl.service")

#: Messages on their way at a time: one slow receiver must not hold up the others.
AT_ONCE = 8
#: A mail server that is silent for so long is given up.
MAIL_S = 10.0
#: Steps between two times that old deliveries are cleared away.
CLEAR_EVERY = 1000


class Post(Protocol):
    def __call__(self, url: str, body: bytes, headers: Mapping[str, str], *, allow_private: bool) -> Answer:
        """See `outbound.post`."""


class Notifier:
    """Tells each channel once of whatever happens, wherever it is killed; should it die while it sends, maybe twice."""

    name = "notifications"
    every_s = 2.0

    def __init__(
        self,
        engine: Engine,
        holder: str,
        *,
        smtp: Smtp | None = None,
        public_url: str | None = None,
        post: Post = outbound.post,
    ):
        """`holder` is whoever holds this duty; `public_url` is where people reach the dashboard."""
        self._engine = engine
        self._holder = holder
        self._smtp = smtp
        self._public_url = public_url
        self._post = post
        self._news = News(engine.database)
        self._outbox = Outbox(engine.database)
        self._steps = 0

    def step(self) -> None:
        """Read the news, then send what is due. Raises `DatabaseUnavailable`."""
        self.read()
        self.send()
        self._steps += 1
        if self._steps % CLEAR_EVERY == 1:
            self._outbox.clear()

    def read(self) -> int:
        """Put what has happened on its way; how many deliveries that makes. The cursor moves only when all are kept."""
        cursor = self._engine.duties.cursor(self.name)
        moved, happenings = self._news.since(cursor)
        listeners = self._outbox.listeners() if happenings else []
        count = 0
        for happening in happenings:
            message: dict[str, Any] | None = None
            for listener in listeners:
                is_for = happening.subject.value in listener.subjects and happening.project == listener.project
                if not is_for or happening.at < listener.created_at:
                    continue
                message = message or messages.payload(happening, self._public_url)
                count += self._put(listener.id, happening, message)
        if moved != cursor:
            self._engine.duties.advance(self.name, self._holder, moved)
        return count

    def _put(self, channel_id: int, happening: Happening, message: Mapping[str, Any]) -> bool:
        if happening.family is not None:
            return self._outbox.put_newest(channel_id, happening.family, happening.key, message)
        return self._outbox.put(channel_id, happening.key, happening.subject, message)

    def send(self) -> int:
        """Send what is due, outside of any transaction; how many messages were tried."""
        parcels = self._outbox.take(AT_ONCE)
        if not parcels:
            return 0
        with ThreadPoolExecutor(len(parcels), "notify") as pool:
            outcomes = list(pool.map(self._outcome, parcels))
        for parcel, error in zip(parcels, outcomes, strict=True):
            if error is None:
                self._outbox.delivered(parcel)
            else:
                log.warning("channel %s: %s", parcel.channel.name, error)
                self._outbox.failed(parcel, error)
        return len(parcels)

    def _outcome(self, parcel: Parcel) -> str | None:
        """None: the other side has taken it; else what went wrong."""
        try:
            self._send(parcel)
        except AutoMLError as error:
            return str(error)
        except Exception as error:  # whatever one message does, the others are sent
            log.exception("channel %s", parcel.channel.name)
            return f"{type(error).__name__}: {error}"
        return None

    def _send(self, parcel: Parcel) -> None:
        channel = parcel.channel
        if channel.kind is ChannelKind.EMAIL:
            self._mail(parcel)
            return
        body, headers = messages.request(parcel, self._engine.clock())
        self._post(channel.address, body, headers, allow_private=channel.allow_private)

    def _mail(self, parcel: Parcel) -> None:
        settings = self._smtp
        if settings is None:
            raise Undelivered("no mail server is set; the configuration of `automl serve` names one under [smtp]")
        message = messages.mail(parcel, settings.sender, self._report(parcel))
        try:
            with _mail_server(settings) as server:
                server.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            raise Undelivered(f"mail server {settings.host}: {outbound.reason(error)}") from error

    def _report(self, parcel: Parcel) -> str | None:
        """The report of the batch that the message is about, if it is about one that is still there."""
        name = parcel.payload["data"].get("batch")
        if name is None:
            return None
        with contextlib.suppress(AutoMLError):
            return self._engine.of_project(parcel.channel.project).batches.report(name)
        return None


@contextlib.contextmanager
def _mail_server(settings: Smtp) -> Iterator[smtplib.SMTP]:
    """A connection to the mail server, logged in if it wants that. Raises `OSError`, `smtplib.SMTPException`."""
    where = (settings.host, settings.port)
    trust = ssl.create_default_context()
    server: smtplib.SMTP
    if settings.tls == "tls":
        server = smtplib.SMTP_SSL(*where, timeout=MAIL_S, context=trust)
    else:
        server = smtplib.SMTP(*where, timeout=MAIL_S)
    with server:
        if settings.tls == "starttls":
            server.starttls(context=trust)
        if settings.user is not None:
            server.login(settings.user, settings.password or "")
        yield server
