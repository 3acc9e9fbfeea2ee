"""Boards that were asked for lately: bringing one up to date is far quicker than making it anew."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from threading import Lock

from fastapi import Request

from automl.board import Board
from automl.client.shapes import pack_board
from automl.core import StudyRecord
from automl.engine import Engine

#: A board of 50,000 trials takes some ten megabytes, and as much again as it travels.
KEPT = 8


@dataclass(frozen=True)
class Packed:
    """A board as it travels."""

    body: bytes
    etag: str


@dataclass
class _Slot:
    lock: Lock = field(default_factory=Lock)
    board: Board | None = None
    packed: Packed | None = None


class Shelf:
    """The newest board of each study. Thread-safe."""

    def __init__(self, kept: int = KEPT):
        self._kept = kept
        self._lock = Lock()
        self._slots: OrderedDict[int, _Slot] = OrderedDict()

    def board(self, engine: Engine, record: StudyRecord) -> Board:
        """As of now; the very same object while nothing has changed. Raises `NotFound`."""
        slot = self._slot(record.id)
        with slot.lock:
            return self._newest(engine, record, slot)

    def packed(self, engine: Engine, record: StudyRecord) -> Packed:
        """The same as it travels. Raises `NotFound`."""
        slot = self._slot(record.id)
        with slot.lock:
            board = self._newest(engine, record, slot)
            if slot.packed is None:
                body, digest = pack_board(board)
                slot.packed = Packed(body, f'"{digest}"')
            return slot.packed

    def _newest(self, engine: Engine, record: StudyRecord, slot: _Slot) -> Board:
        board = engine.board(record, slot.board)
        if board is not slot.board:
            slot.board, slot.packed = board, None
        return board

    def _slot(self, study_id: int) -> _Slot:
        with self._lock:
            slot = self._slots.setdefault(study_id, _Slot())
            self._slots.move_to_end(study_id)
            if len(self._slots) > self._kept:
                self._slots.popitem(last=False)
            return slot


def shelf_of(request: Request) -> Shelf:
    """The application's shelf; made when it is first asked for."""
    state = request.app.state
    if not hasattr(state, "shelf"):
        state.shelf = Shelf()
    found: Shelf = state.shelf
    return found


def is_known(request: Request, packed: Packed) -> bool:
    """Whether the sender has this very board."""
    known = request.headers.get("if-none-match", "")
    return packed.etag in {item.strip().removeprefix("W/") for item in known.split(",")}
