"""A study while it is searched, and after: pause, extend, add and take out trials, clone, archive."""

from __future__ import annotations

from typing import Annotated

import typer

from automl.commands.shared import Name, Reason, Storage, Trials, app, open_engine, quoted
from automl.errors import InvalidInput


@app.command(epilog="Example: automl pause digits")
def pause(name: Name, storage: Storage = None) -> None:
    """Start no more trials of a study until it is resumed; those that run go on to their end."""
    changed = open_engine(storage).pause(name)
    cure = f"`automl resume {quoted(name)}` goes on"
    print(f"study {name} is paused; {cure}" if changed else f"study {name} was paused already; {cure}")


@app.command(epilog="Example: automl resume digits")
def resume(name: Name, storage: Storage = None) -> None:
    """Go on with a study that was paused."""
    changed = open_engine(storage).resume(name)
    print(f"study {name} goes on" if changed else f"study {name} was not paused")


@app.command(epilog="Example: automl extend digits --trials 100")
def extend(
    name: Name,
    trials: Trials = None,
    minutes: Annotated[float | None, typer.Option("--minutes", help="Budget: how many minutes in all.")] = None,
    storage: Storage = None,
) -> None:
    """Give a study another budget, in new totals; one that is finished or was stopped goes on."""
    record = open_engine(storage).extend(name, trials, minutes)
    budget = (record.spec or {})["budget"]
    given = [f"{budget[unit]:g} {unit}" for unit in ("trials", "minutes") if budget[unit] is not None]
    print(f"study {name} is {record.state.value}, its budget is {' and '.join(given)} in all")
    if record.entrypoint is not None and not record.queued:  # its file has another budget, which would be taken
        options = "".join(f" --trials {n}" for n in [budget["trials"]] if n is not None)
        print(f"where it is not running, `automl run {record.entrypoint}{options}` goes on")


@app.command(epilog="Example: automl enqueue digits lr=0.01 width=32 --extend")
def enqueue(
    name: Name,
    params: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="The search chooses the others.")],
    more: Annotated[bool, typer.Option("--extend", help="One trial more, if the budget is used up.")] = False,
    storage: Storage = None,
) -> None:
    """Queue a trial with parameters of your own."""
    from automl.assignments import parse_params

    engine = open_engine(storage)
    record = engine.study(name)
    number = engine.enqueue(record, parse_params(record, params), extend=more)
    print(f"trial {number} of {name} is queued")


@app.command(epilog="Example: automl invalidate digits --trial 7 --reason 'trained on the test set'")
def invalidate(
    name: Name,
    trial: Annotated[int, typer.Option("--trial", metavar="N", min=0, help="Which trial.")],
    reason: Reason = None,
    restore: Annotated[bool, typer.Option("--restore", help="Let the trial count again.")] = False,
    storage: Storage = None,
) -> None:
    """Take a trial's result out of the search and of the ranking, or bring it back."""
    engine = open_engine(storage)
    record = engine.study(name)
    if restore and reason is not None:
        raise InvalidInput("--reason: a restored trial needs none; leave it out", field="reason")
    if restore:
        engine.restore(record, trial)
        print(f"trial {trial} of {name} counts again")
        return
    engine.invalidate(record, trial, reason or "")
    print(f"trial {trial} of {name} counts for nothing; `automl invalidate {quoted(name)} --trial {trial} --restore`")


@app.command(epilog="Example: automl archive digits")
def archive(
    name: Name,
    undo: Annotated[bool, typer.Option("--undo", help="List it again.")] = False,
    storage: Storage = None,
) -> None:
    """Leave a study out of `automl ls`; nothing is removed."""
    open_engine(storage).archive(name, not undo)
    print(f"study {name} is {'listed again' if undo else 'archived; `automl ls --archived` lists it'}")


@app.command(epilog="Example: automl clone digits digits-2 --seed 1")
def clone(
    name: Name,
    new: Annotated[str, typer.Argument(metavar="NEW", help="The new study's name.")],
    trials: Trials = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Another seed.")] = None,
    storage: Storage = None,
) -> None:
    """Queue a study's declaration and code again under another name, without its trials."""
    record = open_engine(storage).clone(name, new, trials=trials, seed=seed)
    print(f"study {record.name} is queued; `automl worker` runs it, `automl show {quoted(record.name)}` shows it")
