"""The dashboard's connection: one engine for all visitors, one board for each study, and how a page survives errors."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

import streamlit as st

from automl import connect
from automl.board import Board
from automl.engine import Engine
from automl.errors import AutoMLError, DatabaseUnavailable, NotFound
from dashboard import theme

#: Boards that are kept: a board of 50,000 trials takes some ten megabytes.
KEPT_BOARDS = 8

#: How often a page without a database looks for it.
RETRY_S = 2


def engine() -> Engine:
    """The system that the launcher named (`$AUTOML_STORAGE`, `$AUTOML_ARTIFACTS`); the same for every visitor.

    Raises `DatabaseUnavailable`, and may be called again.
    """
    return _connected(os.environ.get("AUTOML_STORAGE"), os.environ.get("AUTOML_ARTIFACTS"))


@st.cache_resource(show_spinner=False)
def _connected(storage: str | None, artifacts: str | None) -> Engine:
    return connect(storage, artifacts)


def board(name: str) -> Board:
    """The study's trials at this moment; the very same object as long as nothing has changed.

    While the database does not answer it is what was known before. Raises `NotFound`, and `DatabaseUnavailable` when
    nothing is known.
    """
    return _boards(engine()).get(name)


@st.cache_resource(show_spinner=False, hash_funcs={Engine: id})
def _boards(engine: Engine) -> _Boards:
    return _Boards(engine)


@dataclass
class _Slot:
    lock: Lock = field(default_factory=Lock)
    board: Board | None = None


class _Boards:
    """The boards that were looked at last. Sessions that look at one study wait for each other and share it."""

    def __init__(self, engine: Engine):
        self._engine = engine
        self._lock = Lock()
        self._slots: OrderedDict[str, _Slot] = OrderedDict()

    def get(self, name: str) -> Board:
        with self._lock:
            slot = self._slots.setdefault(name, _Slot())
            self._slots.move_to_end(name)
            while len(self._slots) > KEPT_BOARDS:
                self._slots.popitem(last=False)
        with slot.lock:
            try:
                record = self._engine.study(name)
                old = slot.board if slot.board is not None and slot.board.study.id == record.id else None
                slot.board = self._engine.board(record, old)
            except DatabaseUnavailable:
                if slot.board is None:
                    raise
            except NotFound:
                slot.board = None
                raise
            return slot.board


@contextmanager
def guard() -> Iterator[None]:
    """What is drawn inside survives a database that goes away and things that are not there.

    The whole page runs inside of one already; a fragment or a dialog that runs again on its own takes its own.
    """
    try:
        yield
    except DatabaseUnavailable:
        theme.banner("The database does not answer; trying again every 2 s.")
        _wait_for_database()
    except NotFound as error:
        theme.empty_state("Not here", str(error))
        st.page_link("screens/studies.py", label="All studies")
    except AutoMLError as error:
        theme.empty_state("That did not work", str(error))


@st.fragment(run_every=RETRY_S)
def _wait_for_database() -> None:
    if answers():
        st.rerun()


def answers() -> bool:
    """Whether the database does."""
    try:
        engine().change()
    except DatabaseUnavailable:
        return False
    return True
