"""What the commands share: the application, the options that several of them take, how they begin and end."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from automl.errors import DatabaseUnavailable
from automl.team import DEFAULT_PROJECT

if TYPE_CHECKING:
    from automl.engine import Engine

app = typer.Typer(
    help="Hyperparameter search that needs few trials and loses nothing.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Storage = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="Database or service; else $AUTOML_STORAGE, else .automl/automl.db."),
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
Alias = Annotated[str, typer.Option("--alias", metavar="NAME", help="Which name of the model.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; the history keeps it.")]
Extend = Annotated[bool, typer.Option("--extend", help="Accept a wider space than the study of this name had.")]


def open_engine(storage: str | None, project: str = DEFAULT_PROJECT) -> Engine:
    from automl.engine import connect

    try:
        return connect(storage, project=project)
    except DatabaseUnavailable as error:  # later on one waits for it; here it may be a mistake
        cure = "is it running, and is --storage (or AUTOML_STORAGE) right?"
        raise DatabaseUnavailable(f"storage: no answer from {error}; {cure}") from error


@contextmanager
def interruptible() -> Iterator[None]:
    """What runs inside goes on with the same command after Ctrl-C or SIGTERM, and says so."""
    interrupt_on_signals()
    try:
        yield
    except KeyboardInterrupt:
        print("\nInterrupted. What was running is saved; the same command goes on from here.", flush=True)
        raise


def interrupt_on_signals() -> None:
    """SIGTERM means what Ctrl-C means; the second of either ends the process at once."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_DFL)
        raise KeyboardInterrupt

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, interrupt)


def split_names(commas: str) -> list[str]:
    return [name.strip() for name in commas.split(",") if name.strip()]


def quoted(name: str) -> str:
    import shlex

    return shlex.quote(name)


def print_json(data: Any) -> None:
    from automl.report import plain

    print(json.dumps(plain(data), indent=2, allow_nan=False))
