"""Rows in files, read and written in pieces: .npy, .csv and .parquet.

Reading gives `Piece`s of a bounded number of rows; writing appends the model's outputs. Every file that cannot be
read is an `InvalidInput` of one line that says why.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import numpy as np

from automl.errors import AutoMLError, InvalidInput
from automl.trainers.recipe import reason

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

KINDS = (".npy", ".csv", ".parquet")


@dataclass(frozen=True)
class Piece:
    """Some rows of a file, in order."""

    values: np.ndarray  #: (rows, features), or (rows, ...) from .npy
    share: float  #: of the file that has been read, in [0, 1]
    skipped: tuple[str, ...] = ()  #: columns that are no numbers


def kind_of(path: Path, field: str) -> str:
    """One of `KINDS`. Raises `InvalidInput` for any other file name."""
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise InvalidInput(f"{field}: {path} is of no known type; use a name that ends in {', '.join(KINDS)}", field)
    return kind


def read_pieces(path: Path, rows: int, columns: Sequence[str] = ()) -> Generator[Piece, None, None]:
    """The file in pieces of up to `rows` rows.

    `columns` are the features, in this order; without it they are all columns of numbers, in the file's order.

    Raises:
        InvalidInput: unreadable, pickled, or without rows; no such column, or one that is not numeric.
    """
    kind = kind_of(path, "input")
    if columns and kind == ".npy":
        raise InvalidInput(f"columns: {path} has no names for its columns; leave --columns out", field="columns")
    read = {".npy": _read_npy, ".csv": _read_csv, ".parquet": _read_parquet}[kind]
    empty = True
    try:
        for piece in read(path, rows, list(columns)):
            empty = False
            yield piece
    except AutoMLError:
        raise
    except (OSError, ValueError, EOFError, NotImplementedError) as error:  # pandas', pyarrow's and NumPy's are these
        raise InvalidInput(f"input: {path} cannot be read ({reason(error)})", field="input") from error
    if empty:
        raise InvalidInput(f"input: {path} has no rows; give it one or more", field="input")


def _read_npy(path: Path, rows: int, columns: list[str]) -> Iterator[Piece]:
    start, total = 0, 1
    while start < total:
        # Opened anew for each piece: pages that one mapping has read stay in memory as long as it does.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.ndim == 0:
            if not isinstance(array, np.ndarray):
                array.close()  # an archive of several
            raise InvalidInput(f"input: {path} is not an array with rows; write it with numpy.save", field="input")
        if (total := len(array)) == 0:
            return
        values = np.array(array[start : start + rows])
        start += len(values)
        yield Piece(values, start / total)


def _read_csv(path: Path, rows: int, columns: list[str]) -> Iterator[Piece]:
    import pandas as pd

    size = path.stat().st_size
    if size == 0:
        return
    with path.open("rb") as file, pd.read_csv(file, chunksize=rows, low_memory=False) as frames:
        features: list[str] = []
        skipped: tuple[str, ...] = ()
        done = 0
        for frame in frames:
            if frame.empty:
                continue
            if not isinstance(frame.index, pd.RangeIndex):  # pandas takes the first cells of such rows for an index
                raise InvalidInput(f"input: rows of {path} have more cells than its first line names", field="input")
            if not features:
                names = [str(name) for name in frame.columns]
                features = columns or _numeric_columns(path, frame)
                _check_columns(path, names, features)
                skipped = () if columns else tuple(name for name in names if name not in features)
            for name in features:
                if not _is_numeric(frame[name].dtype):
                    raise _not_numeric(path, frame[name], done)
            done += len(frame)
            # Column by column: true and false beside numbers would make objects of all.
            values = np.column_stack([frame[name].to_numpy() for name in features])
            yield Piece(values, min(file.tell() / size, 1.0), skipped)


def _numeric_columns(path: Path, frame: pd.DataFrame) -> list[str]:
    """Columns of numbers. A column with some numbers in it is a mistake: left out, the others would move up."""
    import pandas as pd

    first = pd.read_csv(path, header=None, nrows=1)
    # Columns that are named 0, 1, 2, ... are what pandas writes of an array.
    if all(map(_is_numeric, first.dtypes)) and first.iloc[0].tolist() != list(range(first.shape[1])):
        cure = "begin with a line of column names, or name the features with --columns"
        raise InvalidInput(f"input: the first line of {path} holds numbers; {cure}", field="input")
    for name in frame.columns:
        if not _is_numeric(frame[name].dtype) and pd.to_numeric(frame[name], errors="coerce").notna().any():
            raise _not_numeric(path, frame[name], 0)
    return [str(name) for name in frame.columns if _is_numeric(frame[name].dtype)]


def _is_numeric(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") in "biuf"


def _not_numeric(path: Path, column: pd.Series, rows_before: int) -> InvalidInput:
    import pandas as pd

    wrong = column[pd.to_numeric(column, errors="coerce").isna() & column.notna()]
    where = ""
    if len(wrong):
        row = rows_before + column.index.get_loc(wrong.index[0]) + 1
        where = f": {str(wrong.iloc[0])[:40]!r} in row {row}"
    cure = "correct it, or name the features with --columns"
    return InvalidInput(f"columns: {str(column.name)!r} of {path} is not numeric{where}; {cure}", field="columns")


def _check_columns(path: Path, names: Sequence[str], features: Sequence[str]) -> None:
    if missing := [name for name in features if name not in names]:
        known = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise InvalidInput(f"columns: {path} has no column {missing[0]!r}; it has {known}", field="columns")
    if not features:
        cure = "it must have a first line of names and cells apart by commas" if path.suffix == ".csv" else "add one"
        raise InvalidInput(f"input: {path} has no column of numbers; {cure}", field="input")


def _read_parquet(path: Path, rows: int, columns: list[str]) -> Iterator[Piece]:
    import pyarrow as pa
    from pyarrow import parquet

    # A buffer for each column: else whole row groups, which may be the whole file, are read at a time.
    with parquet.ParquetFile(path, buffer_size=1 << 16, pre_buffer=False) as file:
        schema = file.schema_arrow
        numeric = [
            field.name
            for field in schema
            if pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_boolean(field.type)
        ]
        features = columns or numeric
        _check_columns(path, schema.names, features)
        for name in features:
            if name not in numeric:
                what = f"{name!r} of {path} is not numeric but {schema.field(name).type}"
                raise InvalidInput(f"columns: {what}; leave it out of --columns", field="columns")
        skipped = () if columns else tuple(name for name in schema.names if name not in features)
        done = 0
        for batch in file.iter_batches(batch_size=rows, columns=features, use_threads=False):
            done += len(batch)
            if len(batch):
                values = np.column_stack([_numbers(batch.column(name)) for name in features])
                yield Piece(values, done / file.metadata.num_rows, skipped)


def _numbers(column: pa.Array) -> np.ndarray:
    import pyarrow as pa

    if column.null_count:  # a missing number is NaN
        column = column.cast(pa.float64(), safe=False)
    return column.to_numpy(zero_copy_only=False)


class Sink(Protocol):
    """A file that grows. The outputs of each `write` have the same names, row shapes and dtypes."""

    def write(self, outputs: Mapping[str, np.ndarray]) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def open_sink(path: Path) -> Iterator[Sink]:
    """What is written appears as `path` when all of it is there; after an error nothing does.

    .npy holds the one output as it is, the others a column for each number in a row: `output`, or `output_0`, ...
    """
    kind = kind_of(path, "output")
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        with temporary.open("wb") as file:
            sink = _SINKS[kind](file)
            try:
                yield sink
            finally:
                sink.close()
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class _NpySink:
    def __init__(self, file: BinaryIO):
        self._file = file
        self._rows = 0
        self._row: tuple[tuple[int, ...], np.dtype[Any]] = ((), np.dtype("float32"))

    def write(self, outputs: Mapping[str, np.ndarray]) -> None:
        (array,) = outputs.values()
        if not self._rows:
            self._row = (array.shape[1:], array.dtype)
            self._write_header()
        self._file.write(np.ascontiguousarray(array).data)
        self._rows += len(array)

    def close(self) -> None:
        """Write the number of rows, for which NumPy leaves room in the header."""
        self._file.seek(0)
        self._write_header()
        self._file.seek(0, os.SEEK_END)

    def _write_header(self) -> None:
        shape, dtype = self._row
        about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (self._rows, *shape)}
        np.lib.format.write_array_header_1_0(self._file, about)


class _CsvSink:
    def __init__(self, file: BinaryIO):
        self._file = file
        self._begun = False

    def write(self, outputs: Mapping[str, np.ndarray]) -> None:
        import pandas as pd

        frame = pd.DataFrame(_columns(outputs))
        frame.to_csv(self._file, index=False, header=not self._begun, lineterminator="\n", mode="wb")
        self._begun = True

    def close(self) -> None: ...


class _ParquetSink:
    def __init__(self, file: BinaryIO):
        self._file = file
        self._writer: Any = None

    def write(self, outputs: Mapping[str, np.ndarray]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.table(_columns(outputs))
        if self._writer is None:
            self._writer = parquet.ParquetWriter(self._file, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


_SINKS: Mapping[str, Callable[[BinaryIO], Sink]] = {".npy": _NpySink, ".csv": _CsvSink, ".parquet": _ParquetSink}


def _columns(outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    columns = {}
    for name, array in outputs.items():
        flat = array.reshape(len(array), -1)
        for i in range(flat.shape[1]):
            columns[name if flat.shape[1] == 1 else f"{name}_{i}"] = np.ascontiguousarray(flat[:, i])
    # The keys of a user's dict: none may be a formula to a spreadsheet.
    return {f"'{name}" if name.startswith(("=", "+", "-", "@")) else name: column for name, column in columns.items()}
