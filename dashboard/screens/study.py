"""A study: how far it is, what it found, why, and what to do next."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard import connection, links, live, theme
from dashboard.study_views import curves, parameters, pareto, progress, timeline, trials, why
from dashboard.study_views.head import head, tiles
from dashboard.study_views.shared import Look

VIEWS = {
    "Progress": progress.show,
    "Curves": curves.show,
    "Parameters": parameters.show,
    "Trials": trials.show,
    "Pareto": pareto.show,
    "Timeline": timeline.show,
    "Why": why.show,
}
_STYLE = Path(__file__).parents[1] / "static" / "study.css"


def main() -> None:
    name = links.named_study()
    board = connection.board(name)
    look = Look(connection.engine(), board, theme.palette())
    st.html(f"<style>{_STYLE.read_text()}</style>")
    head(look)
    tiles(look)
    offered = [view for view in VIEWS if view != "Pareto" or len(look.record.directions) > 1]
    view = st.segmented_control(
        "View",
        offered,
        default="Progress",
        required=True,
        key="view",
        bind="query-params",
        label_visibility="collapsed",
    )
    st.html(f'<div class="view-{view.lower()}"></div>')
    with st.container(key=f"study-view-{view.lower()}"):
        VIEWS[view](look)
    live.follow(lambda: connection.board(name), board)


main()
