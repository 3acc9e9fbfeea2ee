"""Searches: run them here, queue them, work on what is queued, end them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from automl.commands.shared import (
    Direction,
    Extend,
    Gpus,
    LeaseSeconds,
    Name,
    PerGpu,
    Storage,
    Target,
    Trials,
    Workers,
    app,
    interrupt_on_signals,
    interruptible,
    open_engine,
    quoted,
    split_names,
)
from automl.errors import InvalidInput, StudyFailed

if TYPE_CHECKING:
    from automl.core import StudyRecord
    from automl.declaration import StudySpec
    from automl.engine import Engine
    from automl.trainers.host import StudyHost
    from automl.trainers.source import FileSource
    from automl.trainers.worker import Slot


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
    from automl.session import Session, Watcher, require_names, study_slots

    source = _source(target, direction, trials)
    engine = open_engine(storage)
    with _load(engine, source) as host:
        slots = study_slots(host.spec, workers, split_names(gpus), slots_per_gpu)
        require_names(engine, host)
        record = _declare(engine, host.spec, source, extend=extend, queued=False)
        if record.state is StudyState.OPEN:
            with interruptible():
                record, watcher = Session(engine, slots, lease, open_display()).run(record, host)
        else:
            watcher = Watcher(engine, record, len(slots))
            watcher.progress = replace(watcher.progress, elapsed_s=record.active_s)
            print(f"study {record.name} is finished: its budget is used. A larger one goes on, as with --trials N.")
    raise_if_failed(engine, record)
    files = _model_files(engine, record)
    print_result(watcher.progress, watcher.top(), files, _next_commands(record, bool(files)))
    if record.state is StudyState.FINISHED and host.spec.confirm is not None:
        _confirm(engine, record, lambda: _load(engine, source), slots, lease)


@app.command(epilog="Example: automl submit studies/digits.py --storage postgresql://user@db/automl")
def submit(
    targets: Annotated[list[str], typer.Argument(metavar="FILE[:NAME]...", help="Study files, or one batch in TOML.")],
    trials: Trials = None,
    storage: Storage = None,
    direction: Direction = None,
    extend: Extend = False,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="NAME", help="Run them one after the other, on one budget.")
    ] = None,
    priority: Annotated[int, typer.Option("--priority", metavar="N", help="Of the batch; higher comes first.")] = 0,
    batch_trials: Annotated[int | None, typer.Option("--batch-trials", metavar="N", help="Of all together.")] = None,
    batch_hours: Annotated[
        float | None, typer.Option("--batch-hours", metavar="H", help="Of training, of all together.")
    ] = None,
    batch_gpu_hours: Annotated[
        float | None, typer.Option("--batch-gpu-hours", metavar="H", help="Of all together.")
    ] = None,
) -> None:
    """Queue a study for the workers, or a batch of studies, and return at once.

    Its file, and the modules beside it that it imports, are kept for workers that accept code.
    """
    from automl.session import require_names, send_code

    budget = {"trials": batch_trials, "hours": batch_hours, "gpu_hours": batch_gpu_hours}
    if batch is not None or len(targets) > 1 or priority or any(value is not None for value in budget.values()):
        from automl.commands.batches import Entry, Plan, submit_batch

        if batch is None:
            cure = "name it, as --batch night"
            raise InvalidInput(f"--batch: several studies, a priority and a shared budget are a batch; {cure}", "batch")
        sources = [_source(target, direction, trials) for target in targets]
        submit_batch(Plan(batch, [Entry(source, trials=trials) for source in sources], priority, budget), storage)
        return
    if targets[0].endswith(".toml"):
        from automl.commands.batches import plan_from_toml, submit_batch

        submit_batch(plan_from_toml(Path(targets[0])), storage)
        return
    source = _source(targets[0], direction, trials)
    engine = open_engine(storage)
    with _load(engine, source) as host:
        require_names(engine, host)
        package, problem = send_code(engine, source)
        record = _declare(engine, host.spec, source, extend=extend, queued=True, package=package)
    if problem is not None:
        print(problem)
    print(f"study {record.name} is queued; `automl worker` runs it, `automl show {quoted(record.name)}` shows it")


@app.command(epilog="Example: automl worker --gpus 0,1 --storage postgresql://user@db/automl")
def worker(
    workers: Workers = 1,
    storage: Storage = None,
    gpus: Gpus = "",
    slots_per_gpu: PerGpu = 1,
    gpus_per_slot: Annotated[int, typer.Option("--gpus-per-slot", min=1, help="GPUs that a trial gets.")] = 1,
    lease: LeaseSeconds = 30.0,
    exit_when_idle: Annotated[bool, typer.Option("--exit-when-idle", help="End when nothing is queued.")] = False,
    accept_code: Annotated[
        bool,
        typer.Option("--accept-code", help="Run code that came with a study: whoever may send code runs it here."),
    ] = False,
) -> None:
    """Run what is queued, here, until stopped; any number of workers on any machines that reach the storage.

    It runs the files that studies name, where they are here and are the ones that were submitted. With --accept-code it
    also takes the code that was submitted with a study, and RUNS IT AS THIS USER: what whoever submits can do here is
    what you can do here.
    """
    from automl.dispatch.queue import QueueWorker
    from automl.session import check_gpus, require_artifacts
    from automl.trainers.worker import slots_for

    names = split_names(gpus)
    check_gpus(names)
    engine = open_engine(storage)
    require_artifacts(engine)
    slots = slots_for(workers, names, per_gpu=slots_per_gpu, gpus_per_slot=gpus_per_slot)
    if not slots:
        raise InvalidInput(f"--gpus-per-slot: {gpus_per_slot} of --gpus {gpus} make no slot; name more", "gpus")
    interrupt_on_signals()
    print(f"worker with {len(slots)} slot(s) on {engine}", flush=True)
    say = partial(print, flush=True)
    try:
        QueueWorker(engine, slots, lease, say, accept_code=accept_code).serve(exit_when_idle=exit_when_idle)
    except KeyboardInterrupt:
        print("worker: trials handed back", flush=True)


@app.command(epilog="Example: automl stop digits")
def stop(name: Name, storage: Storage = None) -> None:
    """End a search: what is unfinished is cancelled. `automl run` opens it again."""
    if open_engine(storage).stop(name):
        print(f"study {name} is stopped")
    else:
        print(f"study {name} was over already")


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


def _declare(
    engine: Engine, spec: StudySpec, source: FileSource, *, extend: bool, queued: bool, package: str | None = None
) -> StudyRecord:
    """Make the study or open it again, with the budget of the command line if that names one."""
    from automl.trainers.source import code_sha256

    if source.trials is not None:
        spec = replace(spec, budget=replace(spec.budget, trials=source.trials))
    wanted = source if source.direction else replace(source, name=spec.name, trials=None)
    digest = code_sha256(source.path)
    return engine.declare(
        spec,
        entrypoint=wanted.entrypoint,
        code_sha256=digest,
        package_sha256=package,
        queued=queued,
        extend=extend,
    )


def _confirm(
    engine: Engine, record: StudyRecord, load: Callable[[], StudyHost], slots: Sequence[Slot], lease: float
) -> None:
    """Run the best trials of a finished study again, and show what they really give."""
    from automl.core import confirmed_best
    from automl.report import print_estimates
    from automl.session import confirm_here

    print()
    if not engine.is_confirmed(record):
        print("Confirming: the best trials run again, with fresh seeds.", flush=True)
    with interruptible():
        estimates = confirm_here(engine, record, load, slots, lease, progress=True)
    print()
    print_estimates(record, estimates)
    if estimates:
        print(f"trial {confirmed_best(estimates)} is the one to take: automl promote {quoted(record.name)}")


def _model_files(engine: Engine, record: StudyRecord) -> list[str]:
    from automl.transfer import show_best_model

    return [os.path.relpath(path) for path in show_best_model(engine, record)]


def _next_commands(record: StudyRecord, has_model: bool) -> list[str]:
    name = quoted(record.name)
    promote = [f"automl promote {name} --confirm"] if has_model else []
    return ["automl dashboard", *promote, f"automl export {name} --csv trials.csv"]
