"""The command line: parse, call, print. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from automl.errors import AutoMLError, DatabaseUnavailable, InvalidInput, StudyFailed

if TYPE_CHECKING:
    from automl.core import StudyRecord, TrialRecord
    from automl.declaration import StudySpec
    from automl.engine import Engine
    from automl.trainers.host import StudyHost
    from automl.trainers.source import FileSource

app = typer.Typer(
    help="Hyperparameter search that needs few trials and loses nothing.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Storage = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="Database; else $AUTOML_STORAGE, else .automl/automl.db."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Target = Annotated[str, typer.Argument(metavar="FILE[:NAME]", help="A study file; NAME where it holds several.")]
Name = Annotated[str, typer.Argument(metavar="STUDY", help="The study's name.")]
LeaseSeconds = Annotated[
    float,
    typer.Option("--lease", metavar="SECONDS", min=0.5, help="A dead process's trials are taken over this long after."),
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Trials at a time (on CPUs).")]
Gpus = Annotated[str, typer.Option("--gpus", metavar="0,1", help="GPUs to use; then --workers does not count.")]
PerGpu = Annotated[int, typer.Option("--slots-per-gpu", min=1, help="Trials at a time on each GPU.")]
Trials = Annotated[int | None, typer.Option("--trials", min=1, help="Budget: how many trials in all.")]
Direction = Annotated[
    str | None, typer.Option("--direction", help="minimize or maximize, for a plain Optuna objective.")
]
Extend = Annotated[bool, typer.Option("--extend", help="Accept a wider space than the study of this name had.")]


def main() -> NoReturn:
    """`automl`: exit status 0 done, 1 the work failed, 2 the user's mistake, 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="automl: %(message)s")
    try:
        sys.exit(app(sys.argv[1:] or ["--help"], standalone_mode=False))  # 130 after Ctrl-C, None when all went well
    except typer.TyperException as error:  # as an unknown option
        _exit(2, f"{error.format_message().rstrip('.')}; see `automl {_command_word()}--help`")
    except StudyFailed as error:
        if error.traceback:
            print(error.traceback.rstrip(), file=sys.stderr)
        _exit(1, str(error))
    except AutoMLError as error:
        _exit(2, str(error))
    except BrokenPipeError:  # `automl ls | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:  # as a full disk
        _exit(1, str(error))


def _command_word() -> str:
    """The command that was typed, with a space; "" when it is none of ours."""
    typed = sys.argv[1] if len(sys.argv) > 1 else ""
    names = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    return f"{typed} " if typed in names else ""


def _exit(status: int, message: str) -> NoReturn:
    print("automl: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(status)


# -- searching ----------------------------------------------------------------------------------------------------


@app.command(epilog="Example: automl run studies/digits.py --workers 2")
def run(
    target: Target,
    workers: Workers = 1,
    trials: Trials = None,
    storage: Storage = None,
    direction: Direction = None,
    gpus: Gpus = "",
    slots_per_gpu: PerGpu = 1,
    lease: LeaseSeconds = 30.0,
    extend: Extend = False,
) -> None:
    """Search here until the budget is used. Ctrl-C at any time; the same command goes on where it was."""
    from automl.core import StudyState
    from automl.display import open_display, print_result
    from automl.result import raise_if_failed
    from automl.session import Session, Watcher, study_slots

    source = _source(target, direction, trials)
    engine = _connect(storage)
    with _load(engine, source) as host:
        slots = study_slots(host.spec, workers, _names(gpus), slots_per_gpu)
        record = _declare(engine, host.spec, source, extend=extend, queued=False)
        if record.state is StudyState.OPEN:
            _interrupt_on_signals()
            try:
                record, watcher = Session(engine, slots, lease, open_display()).run(record, host)
            except KeyboardInterrupt:
                print("\nInterrupted. What was running is saved; the same command goes on from here.", flush=True)
                raise
        else:
            watcher = Watcher(engine, record, len(slots))
            watcher.progress = replace(watcher.progress, elapsed_s=record.active_s)
            print(f"study {record.name} is finished: its budget is used. A larger one goes on, as with --trials N.")
    raise_if_failed(engine, record)
    files = _model_files(engine, record)
    print_result(watcher.progress, watcher.top(), files, _next_commands(record, bool(files)))


@app.command(epilog="Example: automl submit studies/digits.py --storage postgresql://user@db/automl")
def submit(
    target: Target,
    trials: Trials = None,
    storage: Storage = None,
    direction: Direction = None,
    extend: Extend = False,
) -> None:
    """Queue a study for the workers and return at once."""
    source = _source(target, direction, trials)
    engine = _connect(storage)
    with _load(engine, source) as host:
        record = _declare(engine, host.spec, source, extend=extend, queued=True)
    print(f"study {record.name} is queued; `automl worker` runs it, `automl show {_quoted(record.name)}` shows it")


@app.command(epilog="Example: automl worker --gpus 0,1 --storage postgresql://user@db/automl")
def worker(
    workers: Workers = 1,
    storage: Storage = None,
    gpus: Gpus = "",
    slots_per_gpu: PerGpu = 1,
    gpus_per_slot: Annotated[int, typer.Option("--gpus-per-slot", min=1, help="GPUs that a trial gets.")] = 1,
    lease: LeaseSeconds = 30.0,
    exit_when_idle: Annotated[bool, typer.Option("--exit-when-idle", help="End when nothing is queued.")] = False,
) -> None:
    """Run what is queued, here, until stopped; any number of workers on any machines that reach the database."""
    from automl.dispatch.queue import QueueWorker
    from automl.session import check_gpus, require_artifacts
    from automl.trainers.worker import slots_for

    names = _names(gpus)
    check_gpus(names)
    engine = _connect(storage)
    require_artifacts(engine)
    slots = slots_for(workers, names, per_gpu=slots_per_gpu, gpus_per_slot=gpus_per_slot)
    if not slots:
        raise InvalidInput(f"--gpus-per-slot: {gpus_per_slot} of --gpus {gpus} make no slot; name more", "gpus")
    _interrupt_on_signals()
    print(f"worker with {len(slots)} slot(s) on {engine.database}", flush=True)
    try:
        QueueWorker(engine, slots, lease, lambda line: print(line, flush=True)).serve(exit_when_idle=exit_when_idle)
    except KeyboardInterrupt:
        print("worker: trials handed back", flush=True)


@app.command(epilog="Example: automl stop digits")
def stop(name: Name, storage: Storage = None) -> None:
    """End a search: what is unfinished is cancelled. `automl run` opens it again."""
    if _connect(storage).stop(name):
        print(f"study {name} is stopped")
    else:
        print(f"study {name} was over already")


# -- looking ------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: automl ls")
def ls(storage: Storage = None, as_json: AsJson = False) -> None:
    """List the studies."""
    from automl.report import study_json, study_table

    engine = _connect(storage)
    records = engine.studies()
    counts = engine.counts(records)
    bests = {record.id: next(iter(engine.best_trials(record, 1)), None) for record in records}
    if as_json:
        _print_json([study_json(r, counts[r.id], bests[r.id], with_params=False) for r in records])
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

    engine = _connect(storage)
    record = engine.study(name)
    if trial is None:
        for option, given in (("--log", log), ("--why", why)):
            if given:
                raise InvalidInput(f"{option}: of which trial? add --trial N", field="trial")
        counts = engine.counts([record])[record.id]
        best = engine.best_trials(record, 1)
        if as_json:
            _print_json(study_json(record, counts, best[0] if best else None))
        else:
            print_study(engine, record, counts)
        return
    found = engine.trial(record, trial)
    if log:
        _print_log(engine, record, found)
    elif why and as_json:
        _print_json(why_json(record, found))
    elif why:
        print_why(record, found)
    elif as_json:
        _print_json(trial_json(engine, record, found))
    else:
        print_trial(engine, record, found)


# -- moving -------------------------------------------------------------------------------------------------------


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
    engine = _connect(storage)
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

    count = transfer.from_optuna(_connect(storage), optuna, study)
    print(f"study {study} with {count} trials is imported; `automl show {_quoted(study)}` shows it")


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
        _print_json([finding.to_json() for finding in findings])
    if any(finding.level == "bad" for finding in findings):
        raise typer.Exit(1)


# -- helpers ------------------------------------------------------------------------------------------------------


def _connect(storage: str | None) -> Engine:
    from automl.engine import connect

    try:
        return connect(storage)
    except DatabaseUnavailable as error:  # later on one waits for it; here it may be a mistake
        cure = "is it running, and is --storage (or AUTOML_STORAGE) right?"
        raise DatabaseUnavailable(f"storage: no answer from {error}; {cure}") from error


def _source(target: str, direction: str | None, trials: int | None) -> FileSource:
    """Raises `InvalidStudy` when there is no such file, before a database is made for it."""
    from automl.trainers.source import FileSource, code_sha256

    path, _, name = target.partition(":")
    code_sha256(path)
    return FileSource(str(Path(path).absolute()), name or None, direction, trials)


def _load(engine: Engine, source: FileSource) -> StudyHost:
    """Load the file in a template process."""
    from automl.session import require_artifacts
    from automl.trainers.host import StudyHost

    require_artifacts(engine)
    if sys.stderr.isatty():
        print(f"loading {source.path} ...", end="\r", file=sys.stderr, flush=True)
    try:
        return StudyHost.start(source, log_path=engine.artifacts.root / "logs" / "loading.log")
    except StudyFailed as error:  # the file itself is broken: the user's mistake, and no search has failed yet
        raise InvalidInput(str(error), field="file") from error


def _declare(engine: Engine, spec: StudySpec, source: FileSource, *, extend: bool, queued: bool) -> StudyRecord:
    """Make the study or open it again, with the budget of the command line if that names one."""
    from automl.trainers.source import code_sha256

    if source.trials is not None:
        spec = replace(spec, budget=replace(spec.budget, trials=source.trials))
    wanted = source if source.direction else replace(source, name=spec.name, trials=None)
    digest = code_sha256(source.path)
    return engine.declare(spec, entrypoint=wanted.entrypoint, code_sha256=digest, queued=queued, extend=extend)


def _interrupt_on_signals() -> None:
    """SIGTERM means what Ctrl-C means; the second of either ends the process at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_DFL)
        raise KeyboardInterrupt

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, interrupt)


def _names(commas: str) -> list[str]:
    return [name.strip() for name in commas.split(",") if name.strip()]


def _model_files(engine: Engine, record: StudyRecord) -> list[str]:
    from automl.transfer import show_best_model

    return [os.path.relpath(path) for path in show_best_model(engine, record)]


def _next_commands(record: StudyRecord, has_model: bool) -> list[str]:
    name = _quoted(record.name)
    commands = [f"automl show {name}", f"automl export {name} --csv trials.csv"]
    return [*commands, f"automl export {name} --model best/"] if has_model else commands


def _quoted(name: str) -> str:
    import shlex

    return shlex.quote(name)


def _print_json(data: Any) -> None:
    from automl.report import plain

    print(json.dumps(plain(data), indent=2, allow_nan=False))


def _print_log(engine: Engine, record: StudyRecord, trial: TrialRecord) -> None:
    paths = [engine.log_path(record.id, trial.number, attempt) for attempt in range(1, trial.attempt + 1)]
    found = [path for path in paths if path.is_file()]
    if not found:
        print(f"trial {trial.number} left no log on this machine", file=sys.stderr)
    for path in found:
        if len(paths) > 1:
            print(f"-- attempt {path.stem.rpartition('-')[2]}")
        sys.stdout.write(path.read_text(errors="replace"))


if __name__ == "__main__":
    main()
