"""The script that Streamlit runs for each visit and each click: the frame around the pages, then the page."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

ROOT = str(Path(__file__).parents[1])
if ROOT not in sys.path:  # as when it is run without the launcher
    sys.path.insert(0, ROOT)

from dashboard import actions, connection, live, login, theme  # noqa: E402


def main() -> None:
    st.set_page_config(page_title="automl", page_icon=theme.ICON, layout="wide", initial_sidebar_state="collapsed")
    st.logo(theme.LOGO, size="large")
    theme.apply()
    live.begin()
    page = st.navigation(
        [
            st.Page("screens/studies.py", title="Studies", default=True),
            st.Page("screens/compare.py", title="Compare", url_path="compare"),
            st.Page("screens/schedules.py", title="Schedules", url_path="schedules"),
            st.Page("screens/batches.py", title="Batches", url_path="batches"),
            st.Page("screens/workers.py", title="Workers", url_path="workers"),
            st.Page("screens/models.py", title="Models", url_path="models"),
            st.Page("screens/notifications.py", title="Notifications", url_path="notifications"),
            # Reached by links, which say which one: see links.py.
            st.Page("screens/study.py", title="Study", url_path="study", visibility="hidden"),
            st.Page("screens/trial.py", title="Trial", url_path="trial", visibility="hidden"),
            st.Page("screens/what_if.py", title="What if", url_path="what_if", visibility="hidden"),
        ],
        position="top",
    )
    with connection.guard():
        if login.admit():
            actions.show_done()
            page.run()


main()
