"""Predictions for a whole file: read in pieces, predicted, written whole or not at all."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from automl.errors import InvalidInput
from automl.serving.files import Piece, kind_of, open_sink, read_pieces
from automl.serving.predictor import Predictor, row_size
from automl.serving.runtimes import Port

#: Of a piece while it is read, at 8 bytes for each number.
_PIECE_BYTES = 8 << 20
_PIECE_ROWS = 65536

#: Told after each piece: rows so far, and the share of the file that has been read.
Watch = Callable[[int, float], None]


@dataclass(frozen=True)
class Predicted:
    """What was done. `skipped` are the input's columns that are no numbers."""

    rows: int
    seconds: float
    target: Path
    skipped: tuple[str, ...] = ()

    def __str__(self) -> str:
        pace = f"{self.rows / max(self.seconds, 1e-9):,.0f} rows/s"
        skipped = f"; not numeric and left out: {', '.join(self.skipped)}" if self.skipped else ""
        return f"{self.rows:,} rows in {self.seconds:.1f} s ({pace}) are in {self.target}{skipped}"


def predict_file(
    predictor: Predictor,
    source: Path,
    target: Path,
    *,
    columns: Sequence[str] = (),
    overwrite: bool = False,
    watch: Watch | None = None,
) -> Predicted:
    """Predict each row of `source` into `target`, in order; both end in .npy, .csv or .parquet.

    The memory that is needed does not grow with the file. `target` is as `files.open_sink` says: the model's raw
    outputs.

    Raises:
        InvalidInput: a file that cannot be read or written, or rows that the model does not take.
    """
    check_files(source, target, overwrite=overwrite)
    if len(predictor.inputs) != 1:
        names = [port.name for port in predictor.inputs]
        raise InvalidInput(f"input: the model takes {names}, a file holds one; use automl.load_model", field="input")
    if len(predictor.outputs) != 1 and kind_of(target, "output") == ".npy":
        names = [port.name for port in predictor.outputs]
        cure = "write .csv or .parquet"
        raise InvalidInput(f"output: the model gives {names}, and .npy holds one array; {cure}", field="output")
    port = predictor.inputs[0]
    rows_at_a_time = min(max(_PIECE_BYTES // (8 * max(row_size(port), 1)), 1), _PIECE_ROWS)
    started, rows = time.monotonic(), 0
    skipped: tuple[str, ...] = ()
    try:
        with contextlib.closing(read_pieces(source, rows_at_a_time, columns)) as pieces, open_sink(target) as sink:
            for piece in pieces:
                given = predictor(_shaped(piece, port, source))
                sink.write(given if isinstance(given, dict) else {predictor.outputs[0].name: given})
                rows, skipped = rows + len(piece.values), piece.skipped
                if watch is not None:
                    watch(rows, piece.share)
    except PermissionError as error:
        raise InvalidInput(f"output: {target} cannot be written ({error.strerror})", field="output") from error
    return Predicted(rows, time.monotonic() - started, target, skipped)


def check_files(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """What can be said before a model is loaded. Raises `InvalidInput`."""
    kind_of(source, "input")
    kind_of(target, "output")
    if not source.is_file():
        raise InvalidInput(f"input: there is no file {source}; correct the path", field="input")
    if target.exists() and source.samefile(target):
        raise InvalidInput(f"output: {target} is the input; give it another name", field="output")
    if target.is_dir() or not target.parent.is_dir():
        raise InvalidInput(f"output: {target} cannot be written; give a file in a folder that exists", field="output")
    if target.exists() and not overwrite:
        raise InvalidInput(f"output: {target} exists; add --overwrite, or give another name", field="output")


@contextlib.contextmanager
def progress_bar(stream: TextIO) -> Iterator[Watch | None]:
    """A bar on a terminal, gone when it is done; None on anything else."""
    if not stream.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        task = bar.add_task("predicting", total=1.0)
        yield lambda rows, share: bar.update(task, completed=share, description=f"{rows:,} rows")


def _shaped(piece: Piece, port: Port, source: Path) -> np.ndarray:
    """The rows in the shape that the model takes. Raises `InvalidInput` when they have another size."""
    values = piece.values
    wanted, found = port.shape[1:], values.shape[1:]
    if len(wanted) == len(found) and all(size in (None, given) for size, given in zip(wanted, found, strict=True)):
        return values
    if None not in wanted and int(np.prod(found)) == row_size(port):
        return values.reshape(len(values), *wanted)
    message = f"input: {source} has {int(np.prod(found))} features in a row, the model takes {port}"
    if piece.skipped:
        message += f"; not numeric and left out: {', '.join(piece.skipped[:10])}"
    raise InvalidInput(
        f"{message}; choose the features with --columns" if source.suffix != ".npy" else message, "input"
    )
