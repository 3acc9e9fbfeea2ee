"""Curves: how trials got where they are, step by step."""

from __future__ import annotations

import streamlit as st

from automl.display import format_count
from dashboard import theme
from dashboard.figures.curves import BEST, chosen, learning_curves
from dashboard.figures.progress import View
from dashboard.study_views.shared import Look, draw, picked_trial


def show(look: Look) -> None:
    board = look.board
    if not (board.step >= 0).any():
        theme.empty_state(
            "No curves yet",
            "Trials that call trial.report(value, step=...) have a learning curve here, from their second report on.",
        )
        return
    with st.container(horizontal=True, vertical_alignment="center", key="curves-controls"):
        along = st.segmented_control(
            "Along", ["by step", "by time"], default="by step", required=True, key="curves-along",
            label_visibility="collapsed",
        )  # fmt: skip
        log = bool(st.toggle("Log axis", key="curves-log"))
    top, others = chosen(board)
    numbers = [*map(int, top), *map(int, others)]
    curves = look.kept(lambda: look.engine.curves(look.record, numbers), "curves")
    now = look.kept(look.engine.clock, "now")
    view = View(by_time=along == "by time", log=log, now=now)
    figure = look.kept(lambda: learning_curves(board, curves, look.colours, view), "learning", view)
    draw(figure, f"curves-{view.by_time}-{log}", f"Learning curves of {format_count(len(numbers), 'trial')}")
    st.caption(_words(look, len(top), len(others), view.by_time))
    picked_trial(look)


def _words(look: Look, top: int, others: int, by_time: bool) -> str:
    reported = int((look.board.step >= 0).sum())
    words = [f"The best {top} in colour" if top > 1 else "The best in colour"] if top else []
    if others:
        words.append(format_count(others, "other") + " dimmed" if top else format_count(others, "trial"))
    first = ", ".join(words) + (f", out of {reported:,} with reports." if reported > top + others else ".")
    if top >= BEST or others:
        first += " × marks where a trial was ended early."
    if by_time:
        first += " Steps are spread evenly over a trial's time."
    return first
