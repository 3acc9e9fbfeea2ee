"""What people read: a happening as a message, and a message in the form of each kind of channel."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any
from urllib.parse import urlencode

from automl import wire
from automl.display import format_value
from automl.display.progress import clean
from automl.storage.channels import Parcel
from automl.storage.news import Happening
from automl.team import ChannelKind, Subject


def payload(happening: Happening, public_url: str | None) -> dict[str, Any]:
    """The message as it is kept, and as a webhook gets it."""
    return {
        "subject": happening.subject.value,
        "project": happening.project,
        "study": happening.study,
        "text": text(happening),
        "link": _link(happening, public_url),
        "data": dict(happening.data),
        "key": happening.key,
        "at": happening.at,
    }


def text(happening: Happening) -> str:
    """One line for people. Names are as users gave them, without what a terminal or a mail would act on."""
    data, study = happening.data, clean(happening.study or "")
    match happening.subject:
        case Subject.FINISHED | Subject.FAILED:
            word = {"finished": "is finished", "stopped": "was stopped", "failed": "has failed"}[data["state"]]
            return f"Study {study} {word}" + (f": {clean(str(data['reason']))}" if data["reason"] else "")
        case Subject.NEW_BEST:
            value = f"{clean(data['metric'])} {format_value(data['value'])}"
            return f"Study {study} has a new best: {value}, trial {data['trial']}"
        case Subject.PROMOTED:
            verb = "was rolled back" if data["kind"] == "rollback" else "was promoted"
            why = f": {clean(data['reason'])}" if data["reason"] else ""
            name = f"{clean(data['model'])}@{clean(data['alias'])}"
            return f"Model {name} {verb} to version {data['to_version']} by {clean(data['who'])}{why}"
        case Subject.SCHEDULE_MISSED:
            tick = datetime.fromtimestamp(data["tick"], UTC).strftime("%Y-%m-%d %H:%M UTC")
            return f"Schedule {clean(data['schedule'])} missed {tick}: nobody was there to start it"
        case Subject.WORKER_LOST:
            seen = datetime.fromtimestamp(data["seen_at"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
            return f"Worker {clean(data['worker'])} on {clean(data['host'])} was not heard of since {seen}"
        case Subject.BATCH_FINISHED:
            states = list(data["studies"].values())
            count = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
            return f"Batch {clean(data['batch'])} is finished: {data['trials']} trials, studies: {count}"


def _link(happening: Happening, public_url: str | None) -> str | None:
    """Where the dashboard shows it."""
    if public_url is None:
        return None
    pages = {"batch": "batches", "model": "models", "worker": "workers", "schedule": "schedules"}
    page, query = "", {}
    if happening.study is not None:
        page, query = "study", {"study": happening.study}
    else:
        for name, where in pages.items():
            if name in happening.data:
                page, query = where, {name: happening.data[name]}
                break
    return f"{public_url.rstrip('/')}/{page}?{urlencode(query)}"


def request(parcel: Parcel, moment: float) -> tuple[bytes, dict[str, str]]:
    """Body and headers of what is posted to a webhook or to Slack at `moment` (seconds since the epoch).

    A webhook's signature is `hmac_sha256(secret, "<timestamp>.<body>")`, so that an old message cannot be sent again.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "automl", "Idempotency-Key": parcel.key}
    if parcel.channel.kind is ChannelKind.SLACK:
        return json.dumps({"text": slack_text(parcel.payload)}).encode(), headers
    body = wire.dump(dict(parcel.payload))
    timestamp = f"{moment:.0f}"
    headers["X-Automl-Timestamp"] = timestamp
    if parcel.secret is not None:
        headers["X-Automl-Signature"] = signature(parcel.secret, timestamp, body)
    return body, headers


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """What a receiver compares with the header, in constant time."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def slack_text(message: Mapping[str, Any]) -> str:
    """Nobody's name may become a link or a mention: `&`, `<` and `>` are escaped, as Slack asks for."""
    escaped = str(message["text"]).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{escaped} (<{message['link']}|open>)" if message["link"] else escaped


def mail(parcel: Parcel, sender: str, report: str | None) -> EmailMessage:
    """The message as a mail, with a batch's report (HTML) as a file of its own."""
    message = EmailMessage(policy=SMTP)
    line = " ".join(str(parcel.payload["text"]).split())
    message["Subject"] = f"[automl] {line}"[:200]
    message["From"] = sender
    message["To"] = parcel.channel.address
    # The same for each try: a mail program shows it once.
    message["Message-ID"] = f"<{hashlib.sha256(f'{parcel.id}:{parcel.key}'.encode()).hexdigest()[:32]}@automl>"
    lines = [line, "", *([str(parcel.payload["link"]), ""] if parcel.payload["link"] else [])]
    lines.append(
        f"You get this because of the channel {parcel.channel.name!r} of the project {parcel.channel.project}."
    )
    message.set_content("\n".join(lines))
    if report is not None:
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in str(parcel.payload["data"].get("batch")))
        message.add_attachment(report, subtype="html", filename=f"{name}.html")
    return message
