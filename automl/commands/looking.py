"""Studies and trials: on the screen, in the browser, out to files and in from Optuna; and what is wrong here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from automl.commands.shared import AsJson, Name, Storage, app, open_engine, print_json, quoted
from automl.errors import InvalidInput

if TYPE_CHECKING:
    from automl.core import StudyRecord, TrialRecord
    from automl.engine import Engine


@app.command(epilog="Example: automl ls")
def ls(
    archived: Annotated[bool, typer.Option("--archived", help="List the archived ones instead.")] = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """List the studies."""
    from automl.report import study_json, study_table

    engine = open_engine(storage)
    records = [record for record in engine.studies() if record.archived == archived]
    counts = engine.counts(records)
    bests = {record.id: next(iter(engine.best_trials(record, 1)), None) for record in records}
    if as_json:
        print_json([study_json(r, counts[r.id], bests[r.id], with_params=False) for r in records])
    else:
        study_table(records, counts, bests)


@app.command(epilog="Example: automl show digits --trial 7 --why")
def show(
    name: Name,
    trial: Annotated[int | None, typer.Option("--trial", metavar="N", min=0, help="Show one trial.")] = None,
    log: Annotated[bool, typer.Option("--log", help="What the trial printed, all attempts.")] = False,
    why: Annotated[bool, typer.Option("--why", help="Why the search suggested the trial.")] = False,
    storage: Storage = None,
    as_json: AsJson = False,
) -> None:
    """Show a study, or one trial of it with its log or its reasons."""
    from automl.report import print_study, print_trial, print_why, study_json, trial_json, why_json

    engine = open_engine(storage)
    record = engine.study(name)
    if trial is None:
        for option, given in (("--log", log), ("--why", why)):
            if given:
                raise InvalidInput(f"{option}: of which trial? add --trial N", field="trial")
        counts = engine.counts([record])[record.id]
        best = engine.best_trials(record, 1)
        if as_json:
            print_json(study_json(record, counts, best[0] if best else None))
        else:
            print_study(engine, record, counts)
        return
    found = engine.trial(record, trial)
    if log:
        _print_log(engine, record, found)
    elif why and as_json:
        print_json(why_json(record, found))
    elif why:
        print_why(record, found)
    elif as_json:
        print_json(trial_json(engine, record, found))
    else:
        print_trial(engine, record, found)


@app.command(epilog="Example: automl dashboard --storage postgresql://user@db/automl")
def dashboard(
    storage: Storage = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="Where it listens.")] = 8501,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open no browser.")] = False,
) -> None:
    """Show the studies and models in a browser, live."""
    from automl.launcher import serve

    open_engine(storage).close()
    serve(storage, host, port, open_browser=not no_browser)


@app.command(epilog="Example: automl export digits --csv digits.csv")
def export(
    name: Name,
    csv: Annotated[str | None, typer.Option("--csv", metavar="FILE", help="Trials as CSV; - for the screen.")] = None,
    optuna: Annotated[str | None, typer.Option("--optuna", metavar="URL", help="Into an Optuna database.")] = None,
    model: Annotated[str | None, typer.Option("--model", metavar="DIR", help="The best trial's files.")] = None,
    storage: Storage = None,
) -> None:
    """Write a study's trials as CSV or into an Optuna database, or its best model's files into a folder."""
    from automl import transfer

    if not (csv or optuna or model):
        raise InvalidInput("export: what? add --csv FILE, --optuna URL or --model DIR", field="csv")
    engine = open_engine(storage)
    record = engine.study(name)
    if csv:
        transfer.write_csv(engine, record, csv)
    if optuna:
        count = transfer.to_optuna(engine, record, optuna)
        print(f"{count} trials of {name} are in {optuna}")
    if model:
        for path in transfer.copy_best_model(engine, record, Path(model)):
            print(path)


@app.command("import", epilog="Example: automl import --optuna sqlite:///old.db --study my-study")
def import_(
    optuna: Annotated[str, typer.Option("--optuna", metavar="URL", help="The Optuna database to read.")],
    study: Annotated[str, typer.Option("--study", metavar="NAME", help="The study in it.")],
    storage: Storage = None,
) -> None:
    """Copy a study from an Optuna database."""
    from automl import transfer

    count = transfer.from_optuna(open_engine(storage), optuna, study)
    print(f"study {study} with {count} trials is imported; `automl show {quoted(study)}` shows it")


@app.command(epilog="Example: automl doctor --study digits")
def doctor(
    storage: Storage = None,
    study: Annotated[str | None, typer.Option("--study", metavar="NAME", help="Audit this study's history.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine, the database and, with --study, a study's history."""
    from automl.doctor import examine

    findings = []
    for finding in examine(storage, study):
        findings.append(finding)
        if not as_json:
            print(finding, flush=True)
    if as_json:
        print_json([finding.to_json() for finding in findings])
    if any(finding.level == "bad" for finding in findings):
        raise typer.Exit(1)


def _print_log(engine: Engine, record: StudyRecord, trial: TrialRecord) -> None:
    found = 0
    for attempt in range(1, trial.attempt + 1):
        path = engine.log_path(record.id, trial.number, attempt)
        # A service may have what is not on this machine: the end of it.
        text = path.read_text(errors="replace") if path.is_file() else engine.log_tail(record, trial.number, attempt)
        if text is None:
            continue
        found += 1
        if trial.attempt > 1:
            print(f"-- attempt {attempt}")
        sys.stdout.write(text)
    if not found:
        print(f"trial {trial.number} left no log on this machine", file=sys.stderr)
