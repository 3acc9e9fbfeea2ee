"""Timeline: what the slots of the workers did, and where they did nothing."""

from __future__ import annotations

import streamlit as st

from automl.display import format_count
from dashboard import pieces, theme
from dashboard.figures.timeline import idle_shares, legend, timeline
from dashboard.study_views.shared import Look, draw, picked_trial

_WINDOWS = (100, 500, 2000, 5000)


def show(look: Look) -> None:
    limit = st.session_state.get("timeline-limit") or 500
    segments = look.kept(lambda: look.engine.timeline(look.record, limit), "segments", limit)
    if not segments:
        theme.empty_state(
            "No attempt yet",
            "Once a worker takes up a trial, each slot has a row here: what it ran, how that ended, where it idled.",
        )
        return
    with st.container(horizontal=True, vertical_alignment="center", key="timeline-controls"):
        st.segmented_control(
            "Newest attempts",
            _WINDOWS,
            default=500,
            required=True,
            key="timeline-limit",
            format_func=lambda n: f"newest {n:,}" if n == _WINDOWS[0] else f"{n:,}",
            label_visibility="collapsed",
        )
    now = look.kept(look.engine.clock, "now")
    offset_s = -60.0 * (st.context.timezone_offset or 0)
    figure = look.kept(lambda: timeline(segments, look.colours, now, offset_s), "timeline", limit, offset_s)
    idle = look.kept(lambda: idle_shares(segments, now), "idle", limit)
    mean = sum(idle.values()) / len(idle)
    retried = sum(segment.attempt > 1 for segment in segments)
    st.html(" ".join(pieces.chip(name, colour, "■") for name, colour in legend(segments, look.colours)))
    draw(figure, f"timeline-{limit}", f"What {format_count(len(idle), 'slot')} did")
    words = f"{format_count(len(segments), 'attempt')} on {format_count(len(idle), 'slot')}, {100 * mean:.0f} % idle."
    if retried:
        words += f" {retried:,} of them a trial's second or later (▾)."
    st.caption(f"{words} A slot's time begins with its first attempt here.")
    picked_trial(look)
