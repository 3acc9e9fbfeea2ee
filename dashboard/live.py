"""How a page stays up to date: a pulse beats once a second and runs the page again when what it shows has changed.

A fragment clears what it has drawn each time it runs, so a part of a page that drew itself every second would be drawn
again every second, changed or not. Therefore the pulse is a fragment that draws only its own line ("live, updated 2 s
ago"). It looks at what the page is made of, and where that is the very thing that the page has drawn, nothing else
happens: no figure is made, nothing is sent. Otherwise it runs the page again, and Streamlit's browser side keeps what
has not changed, with the reader's tabs, filters and zoom.

While a dialog is open the page rests: a run would close it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import streamlit as st

from automl.errors import DatabaseUnavailable, NotFound, Refused
from dashboard import connection, theme

#: Seconds between two beats: a change is seen after this, and the time to draw it.
BEAT_S = 1.0

_DIALOG = "live.dialog"
_PAUSED = "live.paused"
_DRAWN_AT = "live.drawn_at"


def begin() -> None:
    """At the start of each full run: no dialog is open, because such a run closes them all."""
    st.session_state[_DIALOG] = False


def hold() -> None:
    """Called in the body of a dialog: the page rests until the dialog is closed."""
    st.session_state[_DIALOG] = True


def release() -> None:
    """Called when a dialog is dismissed: `on_dismiss`."""
    st.session_state[_DIALOG] = False


def follow(look: Callable[[], object], drawn: object) -> None:
    """Run this page again as soon as `look()` gives something else than `drawn`. Call it once, at the end of a page.

    As in `follow(lambda: connection.board(name), board)`. Boards are compared by identity, other things by `==`.
    """
    st.session_state[_DRAWN_AT] = time.monotonic()
    _pulse(look, drawn)


@st.fragment(run_every=BEAT_S)
def _pulse(look: Callable[[], object], drawn: object) -> None:
    paused = bool(st.session_state.get(_PAUSED))
    state = "paused" if paused else "live"
    if not paused and not st.session_state.get(_DIALOG):
        try:
            connection.engine().change()  # a board outlives its database: ask for sure
            changed = look() != drawn
        except DatabaseUnavailable:
            state, changed = "offline", False
        except (NotFound, Refused):  # it was deleted, or is not for this visitor any more: the page says so
            changed = True
        if changed:
            st.rerun()
    if state == "offline":
        theme.banner("The database does not answer; trying again every second. What you see is from before.")
    with st.container(key="live", horizontal=True, vertical_alignment="center", gap=None):
        seconds = time.monotonic() - st.session_state.get(_DRAWN_AT, time.monotonic())
        words = {"live": f"live · updated {theme.ago(seconds)}", "paused": "paused", "offline": "offline"}[state]
        st.html(f'<span class="am-live am-live-{state}" role="status"><i></i><b>{words}</b></span>')
        label, help_text = ("▶", "Show changes again") if paused else ("❚❚", "Stop showing changes")
        st.button(label, key="live-switch", type="tertiary", help=help_text, on_click=_switch)


def _switch() -> None:
    st.session_state[_PAUSED] = not st.session_state.get(_PAUSED)
