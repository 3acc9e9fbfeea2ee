"""What the views of a study share: the moment that they draw, figures that are kept, the trial that was clicked."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, TypeVar

import streamlit as st

from automl.board import STATES, Board
from automl.core import Failure, StudyRecord, TrialState
from automl.display import format_count
from automl.engine import Engine
from dashboard import links, pieces, theme
from dashboard.figures.common import short_params
from dashboard.theme import Palette

#: Failed trials that are read to find what most of them have in common.
_READ_FAILURES = 8
_PICKED = "study.picked"

Made = TypeVar("Made")


@dataclass(frozen=True)
class Look:
    """A moment of a study, and who looks at it."""

    engine: Engine
    board: Board
    colours: Palette

    @property
    def record(self) -> StudyRecord:
        return self.board.study

    def kept(self, make: Callable[[], Made], *options: Any) -> Made:
        """What `make` gives for this very board and these `options`, in these colours; made once for all visitors."""
        return _shelf().get(self.board, (*options, self.colours.dark), make)


class _Shelf:
    """Figures and tables by the board that they were made of; they go when their board does."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._made: weakref.WeakKeyDictionary[Board, dict[tuple[Any, ...], Any]] = weakref.WeakKeyDictionary()

    def get(self, board: Board, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        with self._lock:
            of_board = self._made.setdefault(board, {})
        if key not in of_board:
            of_board[key] = make()  # two visitors at once make it twice, and neither waits for the other
        return of_board[key]


@st.cache_resource(show_spinner=False)
def _shelf() -> _Shelf:
    return _Shelf()


def draw(figure: dict[str, Any], key: str, alt: str, *, pick: bool = True) -> None:
    """Show a figure; with `pick` a click on a point shows its trial, see `picked_trial`."""
    options: dict[str, Any] = {"on_select": "rerun", "selection_mode": "points"} if pick else {}
    state = st.plotly_chart(figure, key=key, theme=None, config=dict(theme.PLOT_CONFIG), alt=alt, **options)
    if not pick:
        return
    numbers = [point.get("customdata") for point in state["selection"]["points"]]
    if numbers and numbers[0] is not None:
        number = numbers[0][0] if isinstance(numbers[0], list) else numbers[0]
        st.session_state[_PICKED] = int(number)


def picked_trial(look: Look) -> None:
    """A line about the trial that was clicked last, with the way to it."""
    number = st.session_state.get(_PICKED)
    if number is None or number >= len(look.board):
        return
    board = look.board
    state = STATES[board.state[number]]
    value = board.values[number, 0]
    words = f"{theme.escape(look.record.metric_names[0])} <b>{theme.number(float(value))}</b>" if value == value else ""
    params = short_params(board, number, most=6, between=", ")  # escaped by it
    with st.container(key="study-picked", horizontal=True, vertical_alignment="center"):
        links.trial_link(f"Open trial {number}", look.record.name, number)
        st.html(f"{pieces.trial_chip(state)} {words} <span class='am-muted'>{params}</span>", width="stretch")
        st.button("✕", key="study-picked-close", type="tertiary", help="Hide this line", on_click=forget_pick)


def forget_pick() -> None:
    st.session_state.pop(_PICKED, None)


def need(look: Look, results: int, what: str) -> bool:
    """Whether there are `results` counted trials; else a panel says what will appear here and when."""
    have = len(look.board.ranking)
    if have >= results:
        return True
    counts = look.board.counts
    if not len(look.board):
        title = "No trials yet"
    elif have == 0:
        title = "No results yet"
    else:
        title = f"{format_count(have, 'result')} so far"
    after = "the first trial has" if results == 1 else f"{results} trials have"
    going = f" {counts['running']} running now." if counts["running"] else ""
    theme.empty_state(title, f"{what} appears here as soon as {after} a result.{going}")
    return False


@dataclass(frozen=True)
class CommonFailure:
    """What most of the failed trials have in common."""

    failure: Failure
    number: int  #: of the newest trial with it
    times: int  #: how many of the `read` ones have it
    read: int
    numbers: tuple[int, ...] = field(default=())


def common_failure(look: Look) -> CommonFailure | None:
    """The most frequent failure among the newest failed trials; None without one."""
    failed = look.board.is_in(TrialState.FAILED).nonzero()[0][-_READ_FAILURES:]
    groups: dict[str, list[tuple[int, Failure]]] = {}
    for number in map(int, failed):
        failure = look.engine.trial(look.record, number).failure
        if failure is not None:
            groups.setdefault(failure.digest, []).append((number, failure))
    if not groups:
        return None
    largest = max(groups.values(), key=len)
    number, failure = largest[-1]
    return CommonFailure(failure, number, len(largest), len(failed), tuple(n for n, _ in largest))


def all_failed(look: Look) -> bool:
    """Show why, where trials have failed and none has a result; whether that is so."""
    counts = look.board.counts
    if not counts["failed"] or counts["complete"] or counts["pruned"]:
        return False
    found = look.kept(lambda: common_failure(look), "failure")
    with st.container(key="card-all-failed"):
        st.html(
            f'<h3 class="am-section am-bad">No trial has worked: {counts["failed"]} of {counts["total"]} failed</h3>'
            + ("" if found is None else _failure_html(found))
        )
        if found is not None:
            links.trial_link(f"Open trial {found.number}: its log and attempts", look.record.name, found.number)
    return True


def _failure_html(found: CommonFailure) -> str:
    lines = found.failure.traceback.strip().splitlines()[-12:]
    trace = f"<pre class='am-trace'>{theme.html.escape(chr(10).join(lines))}</pre>" if lines else ""
    often = f"{found.times} of the last {found.read}" if found.read > 1 else "It"
    return (
        f"<p>{often} ended with <b>{theme.escape(found.failure.kind.value.replace('_', ' '))}</b>: "
        f"{theme.escape(found.failure.message)}</p>{trace}"
    )
