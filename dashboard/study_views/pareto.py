"""Pareto: what no other trial beats in every metric, to choose from."""

from __future__ import annotations

import streamlit as st

from dashboard import actions, theme
from dashboard.figures.common import plain_text
from dashboard.figures.pareto import pareto
from dashboard.study_views.shared import Look, draw, need, picked_trial
from dashboard.study_views.tables import front_table

#: Rows of the front's table.
_SHOWN = 200


def show(look: Look) -> None:
    names = look.record.metric_names
    if len(names) < 2:
        theme.empty_state("One metric, one best", "A front appears here for studies with several metrics.")
        return
    if not need(look, 1, "The front of trials that no other beats in every metric"):
        return
    if not len(look.board.front):
        theme.empty_state("Nothing on the front yet", "Each trial so far violates a constraint.")
        return
    pair = (0, 1)
    if len(names) > 2:
        with st.container(horizontal=True, key="pareto-controls"):
            first = st.selectbox("Across", range(len(names)), format_func=lambda i: names[i], key="pareto-x", width=220)
            rest = [i for i in range(len(names)) if i != first]
            second = st.selectbox("Up", rest, format_func=lambda i: names[i], key="pareto-y", width=220)
        pair = (first, second)
    figure = look.kept(lambda: pareto(look.board, pair, look.colours), "pareto", pair)
    draw(figure, f"pareto-{pair[0]}-{pair[1]}", f"The front of {names[pair[0]]} and {names[pair[1]]}")
    picked_trial(look)
    _front(look)


def _front(look: Look) -> None:
    front = look.board.front
    words = f"{len(front)} trials" if len(front) > 1 else "One trial"
    st.html(f'<h3 class="am-section">The front: {words}</h3>')
    table, config = look.kept(lambda: front_table(look.board, front[:_SHOWN]), "front-table")
    chosen = st.dataframe(
        table,
        column_config=config,
        hide_index=True,
        key="pareto-front",
        on_select="rerun",
        selection_mode="single-row",
        placeholder="",
        height=min(38 + 35 * len(table), 420),
        alt="The trials of the front",
    )
    rows = chosen["selection"]["rows"]
    number = int(front[rows[0]]) if rows and rows[0] < len(front) else None
    with st.container(horizontal=True, vertical_alignment="center", key="pareto-promote"):
        if number is None:
            st.caption("Choose a row to promote its model, as fast, accurate, small or any other alias.")
        else:
            for alias in ("fast", "accurate", "small"):
                if st.button(f"Promote as {alias}", key=f"promote-{alias}"):
                    _promote(look, number, alias)
            st.caption(f"Trial {number}: {plain_text(_values(look, number), 80)}")


def _promote(look: Look, number: int, alias: str) -> None:
    st.session_state["promote-alias"] = alias
    actions.promote(look.record, number)


def _values(look: Look, number: int) -> str:
    values = look.board.values[number]
    return ", ".join(
        f"{name} {theme.number(float(value))}" for name, value in zip(look.record.metric_names, values, strict=True)
    )
