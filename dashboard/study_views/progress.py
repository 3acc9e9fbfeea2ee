"""Progress: what the search has found, trial by trial, and what more of it would bring."""

from __future__ import annotations

import streamlit as st

from automl.core import TrialState
from automl.display import format_count
from dashboard import theme
from dashboard.figures.progress import View, can_be_log, progress
from dashboard.study_views.shared import Look, all_failed, draw, picked_trial


def show(look: Look) -> None:
    if all_failed(look):
        return
    board = look.board
    seen = (~board.is_in(TrialState.FAILED, TrialState.CANCELLED, TrialState.WAITING)).any()
    if not seen:
        counts = board.counts
        waiting = f" {format_count(counts['waiting'], 'trial')} waiting for a worker." if counts["waiting"] else ""
        theme.empty_state(
            "No trials yet",
            f"Each trial becomes a point here, from its first report on.{waiting} Start workers to begin.",
        )
        return
    view = _controls(look)
    forecast = look.engine.forecast(look.record)
    drawn = look.kept(lambda: progress(board, look.colours, view, forecast), "progress", view, str(forecast))
    metric = look.record.metric_names[view.metric]
    draw(drawn.figure, f"progress-{view.metric}-{view.by_time}-{view.log}", f"Values of {metric} and the best so far")
    if drawn.notes:
        st.caption(theme.markdown_text("  ".join(drawn.notes)))
    picked_trial(look)


def _controls(look: Look) -> View:
    names = look.record.metric_names
    with st.container(horizontal=True, vertical_alignment="center", key="progress-controls"):
        metric = 0
        if len(names) > 1:
            metric = st.selectbox(
                "Metric", range(len(names)), format_func=lambda i: names[i], key="progress-metric", width=220,
                label_visibility="collapsed",
            )  # fmt: skip
        along = st.segmented_control(
            "Along", ["by trial", "by time"], default="by trial", required=True, key="progress-along",
            label_visibility="collapsed",
        )  # fmt: skip
        possible = can_be_log(look.board, metric)
        log = st.toggle(
            "Log axis",
            key="progress-log",
            disabled=not possible,
            help=None if possible else "Some values are zero or below, and have no logarithm.",
        )
    now = look.kept(look.engine.clock, "now") if along == "by time" else None
    return View(metric=metric, by_time=along == "by time", log=bool(log and possible), now=now)
