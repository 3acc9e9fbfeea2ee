"""What travels and is no noun: pages, boards, curves, surfaces. The service packs it, the client takes it out again.

A board travels as NumPy's `.npz`, uncompressed and without pickles: an array for each column, and the array `header`,
the bytes of a JSON object. Columns are named as in `board.Board`; those of parameters and metrics are `param.0`,
`param.1`, ..., `metric.0`, ... in the order in which the header names them::

    {"study": {...}, "cursor": 7, "workers": ["a-0"],
     "params": [["lr", null], ["opt", ["sgd", "adamw"]]], "metrics": ["loss"]}

Numbers in `param.1` are places in the choices, NaN is "none".
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from automl import wire
from automl.core import Gate, StudyRecord, TrialRecord
from automl.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np

    from automl.board import Board, Column, Curve
    from automl.search.what_if import Surface

T = TypeVar("T")

BOARD = "application/x-npz"

#: The columns of a board but those of parameters and metrics.
_OWN = (
    *("state", "values", "last_value", "step", "excess", "invalid", "attempt", "failure", "worker"),
    *("created", "started", "finished", "mean", "sd"),
)
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a listing."""

    items: list[T]
    next: int | None  #: what to give as `after` for the next part; None: this was the last


@dataclass(frozen=True)
class Changed:
    """What came of a change to a study."""

    changed: bool  #: False: it was so already
    study: StudyRecord


@dataclass(frozen=True)
class Examined:
    """What a promotion would look at."""

    trial: TrialRecord
    gates: tuple[Gate, ...]


@dataclass(frozen=True)
class Points:
    """What one trial reported; NaN is "none"."""

    steps: list[int]
    values: list[float]
    metrics: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Grid:
    """A `search.what_if.Surface`."""

    names: tuple[str, ...]
    axes: tuple[tuple[Any, ...], ...]
    mean: list[Any]  #: numbers, or rows of them
    sd: list[Any]


# -- boards ----------------------------------------------------------------------------------------------------------


def pack_board(board: Board) -> tuple[bytes, str]:
    """The board as it travels, and a digest that is equal for boards of equal content.

    The cursor and the seconds of search are left out of the digest: they alone are no news.
    """
    import numpy as np

    arrays = {name: getattr(board, name) for name in _OWN}
    arrays |= {f"param.{at}": column.values for at, column in enumerate(board.params.values())}
    arrays |= {f"metric.{at}": column.values for at, column in enumerate(board.metrics.values())}
    digest = hashlib.blake2b(_header(board, replace(board.study, active_s=0.0), 0), digest_size=16)
    for values in arrays.values():
        digest.update(np.ascontiguousarray(values).tobytes())
    file = io.BytesIO()
    header = np.frombuffer(_header(board, board.study, board.cursor), dtype=np.uint8)
    np.savez(file, header=header, **arrays)
    return file.getvalue(), digest.hexdigest()


def _header(board: Board, study: StudyRecord, cursor: int) -> bytes:
    said = {
        "study": json.loads(wire.dump(study)),
        "cursor": cursor,
        "workers": list(board.workers),
        "params": [(name, column.choices) for name, column in board.params.items()],
        "metrics": list(board.metrics),
    }
    return json.dumps(said, separators=(",", ":")).encode()


def unpack_board(data: bytes, before: Board | None = None) -> Board:
    """What `pack_board` made. Columns that are as in an earlier board are that board's; the very board if all are."""
    import numpy as np

    from automl.board import Board

    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        header = json.loads(arrays["header"].tobytes())
        own = {name: _shared(arrays[name], getattr(before, name, None)) for name in _OWN}
        params = [(name, arrays[f"param.{at}"], choices) for at, (name, choices) in enumerate(header["params"])]
        metrics = [(name, arrays[f"metric.{at}"], None) for at, name in enumerate(header["metrics"])]
    found = Board(
        study=wire.parse(StudyRecord, json.dumps(header["study"])),
        cursor=header["cursor"],
        **own,
        workers=tuple(header["workers"]),
        params=_columns(params, before.params if before is not None else {}),
        metrics=_columns(metrics, before.metrics if before is not None else {}),
    )
    return before if before is not None and _is_same(found, before) else found


def _shared(new: np.ndarray, old: np.ndarray | None) -> np.ndarray:
    import numpy as np

    if old is not None and old.dtype == new.dtype and np.array_equal(old, new, equal_nan=True):
        return old
    return new


def _columns(
    given: Sequence[tuple[str, np.ndarray, list[Any] | None]], before: Mapping[str, Column]
) -> dict[str, Column]:
    from automl.board import Column

    found = {}
    for name, values, listed in given:
        choices = None if listed is None else tuple(listed)
        old = before.get(name)
        # By what they look like: (1,) == (True,).
        if old is not None and repr(old.choices) == repr(choices):
            kept = _shared(values, old.values)
            found[name] = old if kept is old.values else Column(kept, choices)
        else:
            found[name] = Column(values, choices)
    return found


def _is_same(board: Board, other: Board) -> bool:
    def same(mine: Mapping[str, Column], others: Mapping[str, Column]) -> bool:
        return list(mine) == list(others) and all(mine[name] is others[name] for name in mine)

    return (
        replace(board.study, active_s=0.0) == replace(other.study, active_s=0.0)
        and board.workers == other.workers
        and all(getattr(board, name) is getattr(other, name) for name in _OWN)
        and same(board.params, other.params)
        and same(board.metrics, other.metrics)
    )


# -- curves, surfaces ------------------------------------------------------------------------------------------------


def pack_curves(curves: Mapping[int, Curve]) -> dict[int, Points]:
    """Those that have points, by the number of the trial."""
    return {
        number: Points(
            curve.steps.tolist(),
            curve.values.tolist(),
            {name: values.tolist() for name, values in curve.metrics.items()},
        )
        for number, curve in curves.items()
        if len(curve.steps)
    }


def unpack_curves(numbers: Sequence[int], packed: Mapping[int, Points]) -> dict[int, Curve]:
    """A curve for each of `numbers`, an empty one where there are no points."""
    import numpy as np

    from automl.board import Curve

    def curve(points: Points) -> Curve:
        metrics = {name: np.array(values, dtype=np.float64) for name, values in points.metrics.items()}
        return Curve(np.array(points.steps, dtype=np.int64), np.array(points.values, dtype=np.float64), metrics)

    empty = curve(Points([], []))
    return {number: curve(packed[number]) if number in packed else empty for number in numbers}


def pack_surface(surface: Surface) -> Grid:
    return Grid(surface.names, surface.axes, surface.mean.tolist(), surface.sd.tolist())


def unpack_surface(grid: Grid) -> Surface:
    import numpy as np

    from automl.search.what_if import Surface

    return Surface(grid.names, grid.axes, np.array(grid.mean, dtype=np.float64), np.array(grid.sd, dtype=np.float64))


# -- numbers ---------------------------------------------------------------------------------------------------------


def ranges(numbers: Sequence[int]) -> str:
    """`[0, 1, 2, 7]` as "0-2,7"."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)


def in_ranges(text: str, most: int) -> list[int]:
    """What `ranges` wrote. Raises `InvalidInput` for something else, and for more than `most` numbers."""
    found: list[int] = []
    for part in filter(None, text.split(",")):
        said = _RANGE.fullmatch(part)
        if said is None:
            raise InvalidInput(f"numbers: {part[:40]!r} is neither a number nor a range; write 0-9,12", "numbers")
        low, high = int(said[1]), int(said[2] or said[1])
        if high - low + len(found) >= most:
            raise InvalidInput(f"numbers: more than {most}; ask several times", "numbers")
        found += range(low, high + 1)
    return found


def in_requests(numbers: Sequence[int], length: int = 4000, most: int = 50_000) -> list[list[int]]:
    """`numbers` in parts of which each fits into one request, as `ranges`."""
    parts: list[list[int]] = []
    used = 0
    for number in sorted(set(numbers)):
        if not parts or len(parts[-1]) == most or used > length:
            parts.append([])
            used = 0
        if not parts[-1] or parts[-1][-1] != number - 1:
            used += 2 * len(f"{number},")
        parts[-1].append(number)
    return parts
