"""The dashboard's connection: a visitor's engine, one board for each study, and how a page survives errors.

Where nobody is asked who he is, all visitors share one engine over the database. In a service that asks, each has the
service itself, with his own token: what he sees and may do is decided there.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast

import streamlit as st

from automl import connect
from automl.board import Board
from automl.client import Client
from automl.engine import DEFAULT_ARTIFACTS, Engine
from automl.errors import AutoMLError, DatabaseUnavailable, Forbidden, NotFound, Unauthorized
from dashboard import theme

if TYPE_CHECKING:
    from automl.service.logins import Visitor

#: Boards that are kept: a board of 50,000 trials takes some ten megabytes.
KEPT_BOARDS = 8

#: Visitors whose connections are kept.
KEPT_CLIENTS = 200

#: Under this name the service says in Streamlit's secrets how visitors come in.
DOOR = "automl"

#: How often a page without a database looks for it.
RETRY_S = 2


#: Where a session keeps who its visitor is.
VISITOR = "connection.visitor"


@dataclass(frozen=True)
class Door:
    """How visitors come in, as the service says it."""

    login: str  #: "token": they show one; "oidc": they log in through an identity provider
    service: str  #: where the dashboard itself reaches the service
    roles: Mapping[str, Any]  #: of those who log in, see `automl.service.config.parse_roles`


def door() -> Door | None:
    """None: nobody is asked who he is."""
    if not st.secrets.load_if_toml_exists() or (said := st.secrets.get(DOOR)) is None:
        return None
    return Door(said["login"], said["service"], said["roles"].to_dict() if said["roles"] else {})


def engine() -> Engine:
    """The system, as this visitor may see it. Raises `Unauthorized`, and `DatabaseUnavailable`: call it again then."""
    if (found := door()) is None:
        return direct()
    if (visitor := visiting()) is None:
        raise Unauthorized("log in first")
    return _client(found.service, visitor.token)


def visiting() -> Visitor | None:
    """Who this visitor said he is; None before he did, and where nobody is asked."""
    visitor: Visitor | None = st.session_state.get(VISITOR)
    return visitor


def direct() -> Engine:
    """The system that the launcher named (`$AUTOML_STORAGE`, `$AUTOML_ARTIFACTS`), for whoever may do everything.

    Raises `DatabaseUnavailable`, and may be called again.
    """
    return _connected(os.environ.get("AUTOML_STORAGE"), os.environ.get("AUTOML_ARTIFACTS"))


def key() -> str:
    """Under which things are kept for this visitor: his token; the database, where nobody is asked who he is."""
    if door() is None or (visitor := visiting()) is None:
        return os.environ.get("AUTOML_STORAGE", "")
    return visitor.token


@st.cache_resource(show_spinner=False)
def _connected(storage: str | None, artifacts: str | None) -> Engine:
    return connect(storage, artifacts)


@st.cache_resource(show_spinner=False, max_entries=KEPT_CLIENTS)
def _client(service: str, token: str) -> Engine:
    return cast("Engine", Client(service, token, Path(os.environ.get("AUTOML_ARTIFACTS") or DEFAULT_ARTIFACTS)))


def board(name: str) -> Board:
    """The study's trials at this moment; the very same object as long as nothing has changed.

    While the database does not answer it is what was known before. Raises `NotFound`, and `DatabaseUnavailable` when
    nothing is known.
    """
    return _boards(key(), engine()).get(name)


@st.cache_resource(show_spinner=False, max_entries=KEPT_CLIENTS)
def _boards(key: str, _engine: Engine) -> _Boards:
    return _Boards(_engine)


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
    except Unauthorized:  # his token was revoked, or is over
        leave()
    except Forbidden as error:
        theme.empty_state("Not for you", str(error))
    except AutoMLError as error:
        theme.empty_state("That did not work", str(error))


def leave() -> None:
    """Forget who the visitor is, and ask him again."""
    st.session_state.pop(VISITOR, None)
    st.rerun()


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
