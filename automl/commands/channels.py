"""Notifications: who is told of what, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from automl.commands.shared import AsJson, Storage, app, open_engine, print_json, quoted
from automl.errors import InvalidInput

if TYPE_CHECKING:
    from automl.engine import Engine
    from automl.team import Channel, Delivery

ChannelName = Annotated[str, typer.Argument(metavar="NAME", help="The channel's name.")]

#: How often `automl notify test` looks whether its message was sent.
LOOK_S = 0.2

notify = typer.Typer(help="Who is told of what happens.", rich_markup_mode=None)
app.add_typer(notify, name="notify", epilog="Example: automl notify add team --slack https://hooks.slack.com/... ")


@notify.command(epilog="Example: automl notify add team --webhook https://example.com/hook --on finished,failed")
def add(
    name: ChannelName,
    webhook: Annotated[str | None, typer.Option("--webhook", metavar="URL", help="Gets JSON.")] = None,
    slack: Annotated[str | None, typer.Option("--slack", metavar="URL", help="Gets what Slack understands.")] = None,
    email: Annotated[str | None, typer.Option("--email", metavar="ADDRESS", help="Gets mail.")] = None,
    on: Annotated[str | None, typer.Option("--on", metavar="SUBJECT,...", help="Of what; else of everything.")] = None,
    secret_file: Annotated[
        Path | None,
        typer.Option("--secret-file", metavar="FILE", help="Signs messages to a webhook with what it holds."),
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="Also to this machine and to private networks.")
    ] = False,
    storage: Storage = None,
) -> None:
    """Tell somebody of what happens; the service (`automl serve`) sends it.

    Subjects: finished, failed, new-best, promoted, schedule-missed, worker-lost, batch-finished.
    """
    from automl.storage.channels import parse_subjects
    from automl.team import Subject

    given = [(kind, to) for kind, to in (("webhook", webhook), ("slack", slack), ("email", email)) if to is not None]
    if len(given) != 1:
        raise InvalidInput("notify: where to? give one of --webhook URL, --slack URL, --email ADDRESS", field="address")
    subjects = tuple(Subject) if on is None else parse_subjects(on)
    kind, address = given[0]
    secret = None if secret_file is None else _secret(secret_file)
    channels = open_engine(storage).channels
    found = channels.add(name, kind, address, subjects, secret=secret, allow_private=allow_private)
    print(f"channel {found.name}: {found.kind.value}, told of {', '.join(found.subjects)}")
    print(f"`automl notify test {quoted(name)}` tries it")


@notify.command(epilog="Example: automl notify ls")
def ls(storage: Storage = None, as_json: AsJson = False) -> None:
    """List the channels."""
    found = open_engine(storage).channels.all()
    if as_json:
        print_json([asdict(channel) for channel in found])
    else:
        _print_channels(found)


@notify.command(epilog="Example: automl notify rm team")
def rm(name: ChannelName, storage: Storage = None) -> None:
    """Remove a channel, with what is on its way to it."""
    open_engine(storage).channels.remove(name)
    print(f"channel {name} is removed")


@notify.command(epilog="Example: automl notify test team")
def test(
    name: ChannelName,
    wait: Annotated[float, typer.Option("--wait", metavar="SECONDS", min=0, help="For the outcome.")] = 30.0,
    storage: Storage = None,
) -> None:
    """Send a test message through the service, and say what became of it."""
    engine = open_engine(storage)
    sent = _outcome(engine, name, engine.channels.test(name), wait)
    if sent.delivered_at is not None:
        print(f"channel {name}: delivered")
        return
    if sent.error is not None:
        print(f"channel {name}: {sent.error}")
        raise typer.Exit(1)
    print(f"channel {name}: nobody has sent it yet; is `automl serve` running?")
    raise typer.Exit(1)


@notify.command(epilog="Example: automl notify log team")
def log(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of this channel only.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many, at most.")] = 20,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """List what was told lately, and what could not be delivered."""
    engine = open_engine(storage)
    found = engine.channels.deliveries(name, limit)
    if as_json:
        print_json([asdict(item) for item in found])
    else:
        _print_deliveries(found)


def _print_channels(found: Sequence[Channel]) -> None:
    from automl.display.progress import clean
    from automl.report import _print_columns

    if not found:
        print("nobody is told of anything yet; `automl notify add NAME --webhook URL` changes that")
        return
    rows = [("CHANNEL", "KIND", "TO", "SIGNED", "OF")]
    for channel in found:
        signed = "yes" if channel.signed else "no"
        rows.append((channel.name, channel.kind.value, clean(channel.address), signed, ", ".join(channel.subjects)))
    _print_columns(rows)


def _print_deliveries(found: Sequence[Delivery]) -> None:
    from automl.display.progress import clean
    from automl.report import _print_columns

    if not found:
        print("nothing was told yet")
        return
    rows = [("CHANNEL", "STATE", "TRIES", "WHAT")]
    for item in found:
        error = "" if item.error is None else f" ({clean(item.error)})"
        text = clean(str(item.payload.get("text", item.subject.value)))
        rows.append((item.channel, state_of(item), str(item.attempts), text + error))
    _print_columns(rows)


def state_of(item: Delivery) -> str:
    """A delivery's state in a word or two."""
    if item.delivered_at is not None:
        return "delivered"
    if item.given_up_at is not None:
        return "given up"
    return "waits" if item.error is None else "tried again"


def _secret(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"--secret-file: {path} cannot be read ({error})", field="secret") from error


def _outcome(engine: Engine, name: str, sent: Delivery, wait_s: float) -> Delivery:
    """The delivery when it was tried, or when the time is over."""
    deadline = time.monotonic() + wait_s
    while True:
        found = next((item for item in engine.channels.deliveries(name, 1000) if item.id == sent.id), sent)
        if found.delivered_at is not None or found.error is not None or time.monotonic() > deadline:
            return found
        time.sleep(LOOK_S)
