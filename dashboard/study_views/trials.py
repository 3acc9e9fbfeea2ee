"""Trials: all of them in a table, some of them side by side, and out as CSV."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import streamlit as st

from automl.board import STATES, Board
from automl.display import format_count
from automl.errors import InvalidInput
from automl.transfer import write_rows
from dashboard import links, pieces, theme
from dashboard.figures.curves import overlaid
from dashboard.study_views.shared import Look, draw
from dashboard.study_views.tables import TrialTable, column_config

#: Rows that a table carries to the browser at once, where they can be chosen by a click; a longer one is read in parts
#: from here as it is scrolled and sorted, and its trials are chosen by their numbers.
CARRIED = 5000
#: Columns that are shown until the reader picks others.
_FIRST_COLUMNS = 12
#: Trials side by side.
_COMPARED = 8
#: A table of so many rows stays as it was opened until it is asked: seven megabytes are not sent anew each second.
_STILL_FROM = 2000
_OPENED = "trials.opened"


@dataclass(frozen=True, eq=False)
class _Wanted:
    """What the reader wants to see."""

    mask: np.ndarray
    columns: tuple[str, ...]


def show(look: Look) -> None:
    if not len(look.board):
        theme.empty_state("No trials yet", "Each trial is a row here, from the moment it is suggested.")
        return
    board = _still(look)
    look = Look(look.engine, board, look.colours)
    table = look.kept(lambda: TrialTable(board), "table")
    wanted = _filter(look, table)
    rows = np.flatnonzero(wanted.mask)
    shown = rows[::-1]  # the newest first
    carried = look.kept(lambda: table.arrow.take(pa.array(shown)), "carried", wanted.mask.tobytes())
    options: dict[str, Any] = {
        "column_order": wanted.columns,
        "column_config": look.kept(lambda: column_config(table), "config"),
        "hide_index": True,
        "height": min(38 + 35 * max(len(shown), 1), 460),
        "placeholder": "",
        "alt": "Trials",
    }
    if len(shown) > CARRIED:
        st.dataframe(carried, lazy=True, key="trials-long", **options)
        chosen = _below(look, table, rows, wanted)
    else:
        state = st.dataframe(
            carried, lazy=False, key="trials-table", on_select="rerun", selection_mode="multi-row", **options
        )
        _below(look, table, rows, wanted)
        chosen = [int(shown[row]) for row in state["selection"]["rows"] if row < len(shown)]
    _selected(look, chosen)


def _still(look: Look) -> Board:
    """The board to show: a long table must not be set anew under the reader's hands each second."""
    newest = look.board
    if len(newest) < _STILL_FROM:
        return newest
    opened: Board | None = st.session_state.get(_OPENED)
    if opened is None or opened.study.id != newest.study.id:
        st.session_state[_OPENED] = opened = newest
    if opened is not newest:
        moved = int((opened.state != newest.state[: len(opened)]).sum())
        more = len(newest) - len(opened) + moved
        if st.button(f"Show {more:,} changes" if more else "Show the changes", key="trials-newer", type="tertiary"):
            st.session_state[_OPENED] = opened = newest
    return opened


def _filter(look: Look, table: TrialTable) -> _Wanted:
    counts = look.board.counts
    with st.container(horizontal=True, vertical_alignment="center", key="trials-controls"):
        text = st.text_input(
            "Filter",
            key="trials-filter",
            placeholder="Filter, as in: lr < 0.01, optimizer = sgd",
            label_visibility="collapsed",
            width=380,
        )
        present = [state.value for state in STATES if counts[state.value]]
        states = st.pills(
            "States",
            present,
            selection_mode="multi",
            key="trials-states",
            label_visibility="collapsed",
            format_func=lambda state: f"{state} {counts[state]:,}",
        )
        with st.popover("Columns", key="trials-columns-menu"):
            names = table.filled
            columns = st.multiselect(
                "Columns", names, default=_first_columns(table), key="trials-columns", label_visibility="collapsed"
            )
    mask = np.ones(len(look.board), dtype=bool)
    try:
        mask = table.matching(text or "", states or ())
    except InvalidInput as error:
        st.caption(f":red[{theme.markdown_text(str(error))}]")
    ordered = [name for name in names if name in columns or name == "number"]
    return _Wanted(mask, tuple(ordered))


def _first_columns(table: TrialTable) -> list[str]:
    late = ("step", "attempt", "worker", "invalid")
    wanted = [name for name in table.filled if name not in late]
    return wanted[:_FIRST_COLUMNS]


def _below(look: Look, table: TrialTable, rows: np.ndarray, wanted: _Wanted) -> list[int]:
    """How many there are, the way out as CSV, and for a long table the trials that the reader names."""
    total = len(look.board)
    named = ""
    with st.container(horizontal=True, vertical_alignment="center", key="trials-below"):
        words = f"{len(rows):,} of {total:,} trials" if len(rows) < total else format_count(total, "trial")
        how = "name trials to compare them" if len(rows) > CARRIED else "click rows to compare them"
        st.caption(f"{words}. Click a header to sort, {how}.")
        if len(rows) > CARRIED:
            named = st.text_input(
                "Compare", key="trials-named", placeholder="Compare, as in: 3, 17, 250", label_visibility="collapsed",
                width=240,
            )  # fmt: skip
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in look.record.name)
        st.download_button(
            f"CSV of {len(rows):,}",
            data=lambda: csv_text(table, wanted.mask),
            file_name=f"{name}.csv",
            mime="text/csv",
            key="trials-csv",
            on_click="ignore",
            disabled=not len(rows),
            help="These trials with all columns. Cells that a spreadsheet would run as formulas are defused.",
        )
    return [int(word) for word in re.findall(r"\d+", named or "") if int(word) < total]


def csv_text(table: TrialTable, mask: np.ndarray) -> str:
    """The trials of a mask as CSV."""
    file = io.StringIO(newline="")
    write_rows(file, table.filled, table.rows(mask))
    return file.getvalue()


def _selected(look: Look, chosen: list[int]) -> None:
    if not chosen:
        return
    numbers = chosen[:_COMPARED]
    word = f"Trial {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} trials side by side"
    st.html(f'<h3 class="am-section">{word}</h3>')
    if len(chosen) > _COMPARED:
        st.caption(f"The first {_COMPARED} of the {len(chosen)} that you chose.")
    with st.container(horizontal=True, key="trials-open"):
        for number in numbers:
            links.trial_link(f"Open trial {number}", look.record.name, number)
    st.html(side_by_side(look.board, numbers))
    curves = look.engine.curves(look.record, numbers)
    if any(len(curve.steps) > 1 for curve in curves.values()):
        draw(overlaid(look.board, curves, numbers, look.colours), "trials-curves", "Their learning curves", pick=False)


def side_by_side(board: Board, numbers: list[int]) -> str:
    """HTML: a column for each trial; rows in which they differ stand out. Every cell is escaped."""
    table = TrialTable(board)
    head = ["", *(f"trial {number}" for number in numbers)]
    rows = []
    for name in table.filled:
        if name == "number":
            continue
        field = table.fields[name]
        if field.words is not None:
            cells = [str(field.words[number]) or "–" for number in numbers]
        else:
            assert field.numbers is not None
            cells = [theme.number(float(field.numbers[number])) for number in numbers]
            if name in ("step", "attempt"):
                cells = [
                    cell if cell == "–" else f"{field.numbers[n]:.0f}" for cell, n in zip(cells, numbers, strict=True)
                ]
        if set(cells) == {"–"}:
            continue
        differ = len(set(cells)) > 1 and len(numbers) > 1
        mark = "am-differs" if differ else "am-same" if len(numbers) > 1 else ""
        label = f'<span class="{mark}">{theme.escape(name)}</span>'
        rows.append([label, *(f'<span class="{mark}">{theme.escape(cell)}</span>' for cell in cells)])
    return pieces.table(head, rows, numbers=frozenset(range(1, len(head))))
