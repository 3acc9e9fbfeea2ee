"""The notifier: what is told, in which form, how often, and what happens when the other side is not there."""

from __future__ import annotations

import email
import email.policy
import hashlib
import hmac
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

from automl.core import Load, WorkerRecord
from automl.engine import Engine, connect
from automl.service.config import Smtp
from automl.service.duties.notifier import Notifier
from automl.storage.batches import BatchStudy
from automl.storage.database import now
from automl.storage.tables import delivery, firing, schedule, worker
from automl.team import Subject
from tests.unit.searches import complete, spec
from tests.unit.service.receiver import Receiver, receiving

SECRET = "a secret of 32 characters, or so."
HOLDER = "here"


@pytest.fixture
def engine(url: str, artifacts: Any) -> Iterator[Engine]:
    opened = connect(url, artifacts)
    yield opened
    opened.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def notifier(engine: Engine, **options: Any) -> Notifier:
    """That holds its duty, and has taken its first look."""
    made = Notifier(engine, HOLDER, **options)
    assert engine.duties.hold(made.name, HOLDER, 600.0)
    made.read()
    return made


def hook(engine: Engine, receiver: Receiver, *subjects: str, name: str = "team", **options: Any) -> None:
    given = {"kind": "webhook", "address": receiver.url, "allow_private": True} | options
    engine.channels.add(name, subjects=subjects or tuple(Subject), **given)


def bodies(receiver: Receiver) -> list[dict[str, Any]]:
    return [json.loads(came.body) for came in receiver.received]


def hurry(engine: Engine) -> None:
    engine.database.execute(sa.update(delivery).values(next_at=now() - 1.0))


# -- what is told -----------------------------------------------------------------------------------------------------


def test_a_webhook_gets_what_happened_signed_and_with_a_key(engine: Engine, receiver: Receiver) -> None:
    hook(engine, receiver, secret=SECRET)
    duty = notifier(engine, public_url="https://automl.example/")
    record = engine.declare(spec("digits & co"))
    engine.stop("digits & co", "enough <b>now</b>")
    duty.step()
    (came,) = receiver.received
    body = json.loads(came.body)
    assert body["subject"] == "finished" and body["project"] == "default" and body["study"] == "digits & co"
    assert body["text"] == "Study digits & co was stopped: enough <b>now</b>"
    assert body["link"] == "https://automl.example/study?study=digits+%26+co"
    assert body["data"] == {"state": "stopped", "reason": "enough <b>now</b>"}
    assert body["key"].startswith(f"study:{record.id}:") and body["at"] == pytest.approx(engine.clock(), abs=60)
    assert came.headers["idempotency-key"] == body["key"]
    signed = came.headers["x-automl-timestamp"].encode() + b"." + came.body
    expected = "sha256=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert came.headers["x-automl-signature"] == expected
    duty.step()
    assert len(receiver.received) == 1
    assert engine.channels.deliveries()[0].delivered_at is not None


def test_without_a_secret_nothing_is_signed(engine: Engine, receiver: Receiver) -> None:
    hook(engine, receiver)
    duty = notifier(engine)
    engine.declare(spec("digits"))
    engine.stop("digits")
    duty.step()
    (came,) = receiver.received
    assert "x-automl-signature" not in came.headers
    assert bodies(receiver)[0]["link"] is None


def test_slack_gets_a_text_in_which_no_name_becomes_a_link_or_a_mention(engine: Engine, receiver: Receiver) -> None:
    engine.channels.add("slack", "slack", receiver.url, allow_private=True)
    duty = notifier(engine, public_url="https://automl.example")
    engine.declare(spec("<!channel> & <@U1|you>"))
    engine.stop("<!channel> & <@U1|you>")
    duty.step()
    (body,) = bodies(receiver)
    assert body.keys() == {"text"}
    assert "Study &lt;!channel&gt; &amp; &lt;@U1|you&gt; was stopped" in body["text"]
    assert body["text"].count("<") == 1  # our own link


def test_each_channel_is_told_of_its_subjects_and_its_project_only(engine: Engine, receiver: Receiver) -> None:
    hook(engine, receiver, "failed", name="failures")
    hook(engine, receiver, "finished", name="ends")
    other = engine.of_project("other")
    hook(other, receiver, name="foreign")
    duty = notifier(engine)
    engine.declare(spec("digits"))
    engine.stop("digits")
    duty.step()
    assert [item.channel for item in engine.channels.deliveries()] == ["ends"]
    assert other.channels.deliveries() == [] and len(receiver.received) == 1


def test_what_was_before_a_channel_is_not_told_to_it(engine: Engine, receiver: Receiver) -> None:
    duty = notifier(engine)
    engine.declare(spec("digits"))
    engine.stop("digits")
    hook(engine, receiver)
    duty.step()
    assert receiver.received == []


def test_new_bests_promotions_missed_ticks_lost_workers_and_batches_are_told(
    engine: Engine, receiver: Receiver
) -> None:
    hook(engine, receiver)
    duty = notifier(engine)
    record = engine.declare(spec("digits"))
    complete(engine, record, 0.5)
    _miss_a_tick(engine)
    _lose_a_worker(engine)
    engine.batches.submit("night", [BatchStudy(spec("a"), "a.py:a")])
    engine.batches.stop("night")
    duty.read()
    while duty.send():
        pass
    told = {body["subject"]: body["text"] for body in bodies(receiver)}
    assert told["new best"] == "Study digits has a new best: score 0.5000, trial 0"
    assert told["schedule missed"] == "Schedule nightly missed 2026-11-22 02:00 UTC: nobody was there to start it"
    assert told["worker lost"].startswith("Worker tower-7 on tower was not heard of since 20")
    assert told["batch finished"] == "Batch night is finished: 0 trials, studies: 1 stopped"
    assert told["finished"] == "Study a was stopped: the batch was stopped by the user"
    duty.read()
    assert duty.send() == 0


def _miss_a_tick(engine: Engine) -> None:
    values: dict[str, Any] = {"name": "nightly", "cron": "0 2 * * *", "timezone": "UTC", "spec": {}, "entrypoint": "a"}
    values |= {"catch_up": "skip", "overlap": "skip", "created_by": "me", "created_at": 0.0, "seen_until": 0.0}
    engine.database.execute(sa.insert(schedule).values(id=1, **values))
    tick = {"schedule_id": 1, "tick": 1_795_312_800.0, "state": "missed", "at": now()}
    engine.database.execute(sa.insert(firing).values(**tick))


def _lose_a_worker(engine: Engine) -> None:
    engine.enroll(WorkerRecord("tower-7", "tower", 7, ((),), Load(), {}, 10.0, False, 0.0, 0.0, None))
    engine.enroll(WorkerRecord("gone-8", "gone", 8, ((),), Load(), {}, 10.0, False, 0.0, 0.0, None))
    engine.leave("gone-8")  # it has said goodbye
    engine.database.execute(sa.update(worker).values(seen_at=worker.c.seen_at - 30.0))


def test_two_notifiers_tell_a_thing_once(engine: Engine, receiver: Receiver) -> None:
    hook(engine, receiver)
    first = notifier(engine)
    engine.declare(spec("digits"))
    engine.stop("digits")
    # The second one believes that it has the duty, reads the same news, and cannot move the cursor.
    second = Notifier(engine, "there")
    assert first.read() == 1
    assert second.read() == 0
    assert first.send() + second.send() == 1
    assert len(receiver.received) == 1


def test_one_that_is_killed_between_reading_and_moving_on_tells_nothing_twice(
    engine: Engine, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook(engine, receiver)
    duty = notifier(engine)
    engine.declare(spec("digits"))
    engine.stop("digits")
    monkeypatch.setattr(type(engine.duties), "advance", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        duty.read()
    monkeypatch.undo()
    assert duty.read() == 0
    duty.send()
    assert len(receiver.received) == 1


def test_a_flood_of_new_bests_is_told_once(engine: Engine, receiver: Receiver) -> None:
    hook(engine, receiver, "new best")
    duty = notifier(engine)
    record = engine.declare(spec("digits"))
    for value in (0.1, 0.2, 0.3):
        complete(engine, record, value)
        duty.step()
    assert [body["data"]["value"] for body in bodies(receiver)] == [0.1]
    hurry(engine)
    duty.step()
    assert [body["data"]["value"] for body in bodies(receiver)] == [0.1, 0.3]


# -- trouble ----------------------------------------------------------------------------------------------------------


def test_a_failure_is_kept_and_tried_again(engine: Engine, receiver: Receiver) -> None:
    hook(engine, receiver)
    duty = notifier(engine)
    engine.declare(spec("digits"))
    engine.stop("digits")
    receiver.status = 503
    duty.step()
    (item,) = engine.channels.deliveries()
    assert item.delivered_at is None and item.attempts == 1 and item.error == "127.0.0.1 answered 503"
    duty.step()
    assert len(receiver.received) == 1  # not at once
    receiver.status = 204
    hurry(engine)
    duty.step()
    (item,) = engine.channels.deliveries()
    assert item.delivered_at is not None and item.error is None
    assert receiver.received[0].headers["idempotency-key"] == receiver.received[1].headers["idempotency-key"]


def test_an_address_that_has_become_private_gets_nothing(engine: Engine, receiver: Receiver) -> None:
    hook(engine, receiver)
    from automl.storage.tables import channel

    engine.database.execute(sa.update(channel).values(allow_private=False))
    duty = notifier(engine)
    engine.declare(spec("digits"))
    engine.stop("digits")
    duty.step()
    (item,) = engine.channels.deliveries()
    assert item.error is not None and "this machine itself" in item.error
    assert receiver.connections == 0


def test_a_message_that_breaks_something_does_not_keep_the_others(engine: Engine, receiver: Receiver) -> None:
    hook(engine, receiver, name="good")
    hook(engine, receiver, name="bad")
    told: list[str] = []

    def post(url: str, body: bytes, headers: Any, *, allow_private: bool) -> Any:
        told.append(url)
        if len(told) == 1:
            raise RuntimeError("out of order")

    duty = notifier(engine, post=post)
    engine.channels.test("good")
    engine.channels.test("bad")
    duty.send()
    assert sorted(bool(item.delivered_at) for item in engine.channels.deliveries()) == [False, True]
    errors = [item.error for item in engine.channels.deliveries() if item.error]
    assert errors == ["RuntimeError: out of order"]


def test_a_test_message_is_sent_and_says_what_it_is(engine: Engine, receiver: Receiver) -> None:
    hook(engine, receiver, "failed")
    put = engine.channels.test("team")
    assert put.delivered_at is None
    notifier(engine).send()
    assert bodies(receiver)[0]["text"] == "automl: this is a test of the channel 'team'"
    assert engine.channels.deliveries("team")[0].delivered_at is not None


# -- mail -------------------------------------------------------------------------------------------------------------


@dataclass
class Mailbox:
    """What came to a mail server, as it came."""

    envelopes: list[Envelope] = field(default_factory=list)
    refuse: bool = False

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.refuse:
            return "451 try again later"
        if not session.authenticated:
            return "530 log in first"
        self.envelopes.append(envelope)
        return "250 taken"

    @property
    def mails(self) -> list[email.message.EmailMessage]:
        return [
            email.message_from_bytes(envelope.original_content or b"", policy=email.policy.default)  # type: ignore[misc]
            for envelope in self.envelopes
        ]


def _login(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"automl", b"secret")
    return AuthResult(success=good, handled=False)


@pytest.fixture
def mailbox() -> Iterator[tuple[Mailbox, Smtp]]:
    box = Mailbox()
    options = {"auth_require_tls": False, "authenticator": _login}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Controller(box, hostname="127.0.0.1", port=port, **options)
    server.start()
    yield box, Smtp("127.0.0.1", "automl@example.com", port, "automl", "secret", "none")
    server.stop()


def test_a_mail_comes_with_the_report_of_the_batch(engine: Engine, mailbox: tuple[Mailbox, Smtp]) -> None:
    box, settings = mailbox
    engine.channels.add("mail", "email", "team@example.com", ["batch finished"])
    duty = notifier(engine, smtp=settings, public_url="https://automl.example")
    engine.batches.submit("night", [BatchStudy(spec("a <script>"), "a.py:a")])
    complete(engine, engine.study("a <script>"), 0.75)
    engine.batches.stop("night")
    duty.step()
    (envelope,), (mail,) = box.envelopes, box.mails
    assert (envelope.mail_from, envelope.rcpt_tos) == ("automl@example.com", ["team@example.com"])
    assert mail["Subject"] == "[automl] Batch night is finished: 1 trials, studies: 1 stopped"
    body = mail.get_body(("plain",))
    assert body is not None and "https://automl.example/batches?batch=night" in body.get_content()
    (attached,) = mail.iter_attachments()
    assert attached.get_filename() == "night.html"
    report = attached.get_content()
    assert "0.7500" in report and "a &lt;script&gt;" in report and "<script" not in report


def test_a_name_cannot_add_a_header_to_a_mail(engine: Engine, mailbox: tuple[Mailbox, Smtp]) -> None:
    box, settings = mailbox
    engine.channels.add("mail", "email", "team@example.com")
    duty = notifier(engine, smtp=settings)
    engine.declare(spec("a"))
    engine.stop("a", "x\r\nBcc: all@example.com\r\n\r\nbody")
    duty.step()
    (mail,) = box.mails
    assert mail["Bcc"] is None and box.envelopes[0].rcpt_tos == ["team@example.com"]


def test_a_mail_server_that_refuses_is_asked_again(engine: Engine, mailbox: tuple[Mailbox, Smtp]) -> None:
    box, settings = mailbox
    engine.channels.add("mail", "email", "team@example.com")
    duty = notifier(engine, smtp=settings)
    engine.channels.test("mail")
    box.refuse = True
    duty.send()
    (item,) = engine.channels.deliveries()
    assert item.error is not None and "451" in item.error
    box.refuse = False
    hurry(engine)
    duty.send()
    assert len(box.mails) == 1


def test_a_wrong_password_and_a_missing_mail_server_are_said(engine: Engine, mailbox: tuple[Mailbox, Smtp]) -> None:
    box, settings = mailbox
    engine.channels.add("mail", "email", "team@example.com")
    engine.channels.test("mail")
    wrong = Smtp(settings.host, settings.sender, settings.port, "automl", "wrong", "none")
    notifier(engine, smtp=wrong).send()
    assert "535" in (engine.channels.deliveries()[0].error or "")
    hurry(engine)
    notifier(engine).send()
    assert "under [smtp]" in (engine.channels.deliveries()[0].error or "")
    assert box.mails == []
