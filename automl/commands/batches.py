"""Batches: studies that are submitted together, what became of them, and their report."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from automl.commands.shared import AsJson, Storage, app, open_engine, print_json, quoted
from automl.errors import InvalidInput

if TYPE_CHECKING:
    from automl.engine import Engine
    from automl.storage.batches import BatchStudy, Spent
    from automl.storage.batches import Budget as BatchBudget
    from automl.team import Batch
    from automl.trainers.source import FileSource

BatchName = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's name.")]

_ABOUT = "Studies that run one after the other, on one budget. `automl submit a.py b.py --batch NAME` makes a batch."
batch = typer.Typer(help=_ABOUT, rich_markup_mode=None)
app.add_typer(batch, name="batch", epilog="Example: automl batch show night")


@batch.command(epilog="Example: automl batch ls")
def ls(storage: Storage = None, as_json: AsJson = False) -> None:
    """List the batches, the newest first."""
    engine = open_engine(storage)
    found = engine.batches.all()
    if as_json:
        print_json([asdict(item) for item in found])
    else:
        _print_batches(found)


@batch.command(epilog="Example: automl batch show night")
def show(name: BatchName, storage: Storage = None, as_json: AsJson = False) -> None:
    """Show a batch: its studies in their order, and what of its budget is used."""
    engine = open_engine(storage)
    found, spent = engine.batches.get(name), engine.batches.spent(name)
    if as_json:
        print_json(asdict(found) | {"spent": asdict(spent)})
    else:
        _print_batch(engine, found, spent)


@batch.command(epilog="Example: automl batch stop night")
def stop(name: BatchName, storage: Storage = None) -> None:
    """End all studies of a batch: what is unfinished is cancelled."""
    stopped = open_engine(storage).batches.stop(name)
    print(f"batch {name} is stopped" if stopped else f"batch {name} was over already")


@batch.command(epilog="Example: automl batch report night --output night.html --png plots")
def report(
    name: BatchName,
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Else BATCH.html.")] = None,
    png: Annotated[Path | None, typer.Option("--png", metavar="DIR", help="The plots as PNG files, too.")] = None,
    storage: Storage = None,
) -> None:
    """Write the report of a batch: one HTML file, to read or to send, that needs nothing else."""
    engine = open_engine(storage)
    text = engine.batches.report(name)
    path = output or Path(f"{name}.html")
    path.write_text(text, encoding="utf-8")
    print(path)
    if png is not None:
        from automl.batch_report import parts_of, write_plots

        found = engine.batches.get(name)
        for plot in write_plots(parts_of(engine, found, engine.batches.spent(name)), png):
            print(plot)


def _print_batches(found: Sequence[Batch]) -> None:
    """A line for each."""
    from automl.display.progress import clean
    from automl.report import _print_columns

    if not found:
        print("no batches yet; `automl submit a.py b.py --batch NAME` makes one")
        return
    rows = [("BATCH", "STATE", "PRIORITY", "TRIALS", "STUDIES")]
    for item in found:
        state = "finished" if item.finished_at else "open"
        trials = _used(str(item.made), item.max_trials)
        rows.append((clean(item.name), state, str(item.priority), trials, clean(", ".join(item.studies))))
    _print_columns(rows)


def _print_batch(engine: Engine, found: Batch, spent: Spent) -> None:
    """What of its budget is used, and a line for each of its studies."""
    from automl.display.progress import clean
    from automl.report import study_table

    state = "finished" if found.finished_at else "open"
    print(f"batch {clean(found.name)}: {state}, priority {found.priority}")
    print(f"trials: {_used(str(spent.trials), found.max_trials)}")
    print(f"hours: {_used(f'{spent.hours:.2f}', found.max_hours)}")
    print(f"GPU hours: {_used(f'{spent.gpu_hours:.2f}', found.max_gpu_hours)}")
    records = [engine.study(name) for name in found.studies]
    bests = {record.id: next(iter(engine.best_trials(record, 1)), None) for record in records}
    study_table(records, engine.counts(records), bests)


def _used(amount: str, limit: float | None) -> str:
    return amount if limit is None else f"{amount} of {limit:g}"


# -- submitting ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """A study of a batch, before its file is loaded."""

    source: FileSource
    name: str | None = None  #: instead of the one in the file
    trials: int | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Plan:
    """A batch, before its files are loaded."""

    name: str
    entries: Sequence[Entry]
    priority: int = 0
    budget: Mapping[str, Any] | None = None


def submit_batch(plan: Plan, storage: str | None) -> None:
    """Load and check all files, then queue all of their studies, or none of them."""
    from automl.storage.batches import Budget

    engine = open_engine(storage)
    budget = Budget(**(plan.budget or {}))
    studies = _loaded(engine, plan.entries)
    found = engine.batches.submit(plan.name, studies, priority=plan.priority, budget=budget)
    names = ", ".join(found.studies)
    print(f"batch {found.name} is queued: {names}")
    print(f"`automl worker` runs it, `automl batch show {quoted(found.name)}` shows it{_hint(budget)}")


def _hint(budget: BatchBudget) -> str:
    if budget.hours is None and budget.gpu_hours is None:
        return ""
    return "; `automl serve` keeps it within its hours"


def _loaded(engine: Engine, entries: Sequence[Entry]) -> list[BatchStudy]:
    """Each file is loaded, so that a mistake in the last one is known before the first one is queued."""
    from automl.commands.searching import _load
    from automl.session import require_names, send_code
    from automl.storage.batches import BatchStudy
    from automl.trainers.source import code_sha256

    specs = []
    for entry in entries:
        with _load(engine, entry.source) as host:
            require_names(engine, host)
            specs.append(host.spec)
    studies = []
    for entry, spec in zip(entries, specs, strict=True):
        named = entry.source if entry.source.direction else replace(entry.source, name=spec.name, trials=None)
        budget = spec.budget
        if entry.trials is not None:
            budget = replace(budget, trials=entry.trials)
        if entry.minutes is not None:
            budget = replace(budget, minutes=entry.minutes)
        spec = replace(spec, name=entry.name or spec.name, budget=budget)
        package, problem = send_code(engine, entry.source)
        if problem is not None:
            print(problem)
        studies.append(BatchStudy(spec, named.entrypoint, code_sha256(entry.source.path), package))
    return studies


def plan_from_toml(path: Path) -> Plan:
    """A batch as a file says it; files in it are named relative to it. Raises `InvalidInput`.

    ::

        name = "night"
        priority = 5                # optional, as all that follows but [[study]] and its file

        [budget]                    # shared by all studies
        trials = 200
        hours = 8.0                 # of training, added up
        gpu_hours = 20.0

        [[study]]
        file = "digits.py"          # or "digits.py:NAME"
        name = "digits-night"
        trials = 60
        minutes = 30

        [[study]]
        file = "objective.py"
        direction = "minimize"      # of a plain Optuna objective
        trials = 100
    """
    from automl.commands.searching import _source

    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}; give the path of a TOML file", field="file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{path}: {error}", field="file") from error
    top = _table(path, "", data, {"name": str, "priority": int, "budget": dict, "study": list})
    budget = _table(path, "budget.", top.get("budget", {}), {"trials": int, "hours": float, "gpu_hours": float})
    if not top.get("study"):
        raise InvalidInput(f'{path}: it names no study; add [[study]] with file = "..."', field="study")
    entries = []
    kinds = {"file": str, "name": str, "trials": int, "minutes": float, "direction": str}
    for at, given in enumerate(top["study"]):
        one = _table(path, f"study[{at}].", given, kinds)
        if "file" not in one:
            raise InvalidInput(f"{path}: study[{at}].file is missing; name the study's file", field="file")
        target = str(path.parent / one["file"])
        source = _source(target, one.get("direction"), one.get("trials"))
        entries.append(Entry(source, one.get("name"), one.get("trials"), one.get("minutes")))
    return Plan(top.get("name", path.stem), entries, top.get("priority", 0), budget)


def _table(path: Path, where: str, given: Any, kinds: Mapping[str, type]) -> dict[str, Any]:
    """`given` with its values of these kinds; a whole number is good for a float. Raises `InvalidInput`."""
    if not isinstance(given, dict):
        raise InvalidInput(f"{path}: {where.rstrip('.') or 'the file'} is no table", field=where.rstrip(".") or "file")
    found = {}
    for key, value in given.items():
        field = f"{where}{key}"
        if key not in kinds:
            raise InvalidInput(f"{path}: {field} means nothing; there are {', '.join(kinds)}", field=field)
        kind = kinds[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InvalidInput(f"{path}: {field} is {value!r}, where a {_WORDS[kind]} is needed", field=field)
        found[key] = value
    return found


_WORDS = {str: "text", int: "whole number", float: "number", dict: "table", list: "list of tables"}
