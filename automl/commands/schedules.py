"""Schedules: searches that start by themselves, and what came of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from automl.commands.shared import (
    Alias,
    AsJson,
    Direction,
    Storage,
    Target,
    Trials,
    app,
    open_engine,
    print_json,
    quoted,
)

if TYPE_CHECKING:
    from automl.cron import Cron

ScheduleName = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name: its study's.")]

schedule = typer.Typer(help="Searches that start by themselves.", rich_markup_mode=None)
app.add_typer(schedule, name="schedule", epilog="Example: automl schedule add digits.py --cron '0 2 * * *'")


@schedule.command(epilog="Example: automl schedule add digits.py --cron '0 2 * * *' --timezone Europe/Paris")
def add(
    target: Target,
    cron: Annotated[str, typer.Option("--cron", metavar="EXPR", help="Minute, hour, day, month, day of the week.")],
    timezone: Annotated[str, typer.Option("--timezone", metavar="ZONE", help="As Europe/Paris.")] = "UTC",
    catch_up: Annotated[
        Literal["skip", "one", "all"], typer.Option("--catch-up", help="Times that came while nobody was there.")
    ] = "one",
    overlap: Annotated[
        Literal["skip", "queue"], typer.Option("--overlap", help="A time that comes while the last search runs.")
    ] = "skip",
    promote: Annotated[
        bool, typer.Option("--promote-if-better", help="Promote a better model by itself, through the gates.")
    ] = False,
    alias: Alias = "champion",
    replace: Annotated[bool, typer.Option("--replace", help="Change the schedule of this name.")] = False,
    trials: Trials = None,
    direction: Direction = None,
    storage: Storage = None,
) -> None:
    """Search a study again and again; each search learns from those before it."""
    from automl.commands.searching import _load, _source
    from automl.cron import Cron
    from automl.session import plan_of, require_names

    told = Cron(cron, timezone)  # a mistake in them is told before the file is loaded
    source = _source(target, direction, trials)
    engine = open_engine(storage)
    with _load(engine, source) as host:
        require_names(engine, host)
        timing = {"cron": cron, "timezone": timezone, "catch_up": catch_up, "overlap": overlap}
        plan = plan_of(engine, host.spec, source, promote=alias if promote else None, **timing)
    found = engine.schedules.add(plan, replace=replace)
    print(f"schedule {found.name}: {told.explain()}, {timezone}; the next times are")
    _print_times(engine.schedules.next(found.name, 3), told)
    print(f"`automl serve` starts it, workers run it, `automl schedule show {quoted(found.name)}` says what came of it")


@schedule.command(epilog="Example: automl schedule ls")
def ls(storage: Storage = None, as_json: AsJson = False) -> None:
    """List the schedules."""
    from automl.report import schedule_table

    engine = open_engine(storage)
    found, last = engine.schedules.all(), engine.schedules.last_firings()
    if as_json:
        print_json([asdict(item) | {"last": asdict(last[item.id]) if item.id in last else None} for item in found])
    else:
        schedule_table(found, last, engine.clock())


@schedule.command(epilog="Example: automl schedule show digits")
def show(
    name: ScheduleName,
    limit: Annotated[int, typer.Option("--limit", min=1, max=500, help="How many of the last times.")] = 10,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Show a schedule, and what was done about its last times."""
    from automl.report import print_schedule

    engine = open_engine(storage)
    found, firings = engine.schedules.get(name), engine.schedules.firings(name, limit)
    if as_json:
        print_json(asdict(found) | {"firings": [asdict(item) for item in firings]})
    else:
        print_schedule(found, firings)


@schedule.command(epilog="Example: automl schedule pause digits")
def pause(name: ScheduleName, storage: Storage = None) -> None:
    """Start no more searches until it is resumed; one that runs goes on."""
    changed = open_engine(storage).schedules.pause(name)
    cure = f"`automl schedule resume {quoted(name)}` goes on"
    print(f"schedule {name} is paused; {cure}" if changed else f"schedule {name} was paused already; {cure}")


@schedule.command(epilog="Example: automl schedule resume digits")
def resume(name: ScheduleName, storage: Storage = None) -> None:
    """Go on with the next time; those that came meanwhile are left out."""
    changed = open_engine(storage).schedules.resume(name)
    print(f"schedule {name} goes on" if changed else f"schedule {name} was not paused")


@schedule.command(epilog="Example: automl schedule rm digits")
def rm(name: ScheduleName, storage: Storage = None) -> None:
    """Remove a schedule; the studies that it has started stay."""
    open_engine(storage).schedules.remove(name)
    print(f"schedule {name} is removed; its studies stay")


@schedule.command("next", epilog="Example: automl schedule next digits")
def coming(
    name: ScheduleName,
    count: Annotated[int, typer.Option("--count", min=1, max=100, help="How many.")] = 10,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Say when it comes next."""
    from automl.cron import Cron

    engine = open_engine(storage)
    found = engine.schedules.get(name)
    times = engine.schedules.next(name, count)
    if as_json:
        print_json(list(times))
        return
    if found.paused:
        print(f"schedule {name} is paused; without that it would come at")
    _print_times(times, Cron(found.cron, found.timezone))


def _print_times(times: tuple[float, ...], cron: Cron) -> None:
    for time in times:
        print(f"  {cron.local(time):%a %Y-%m-%d %H:%M %Z}")
