"""How everything looks: colours, marks of trial states, figures, numbers, and users' text that stays text.

Colours come in two palettes, for Streamlit's light and dark theme. Those of the trial states are told apart with every
common kind of colour blindness (after Okabe and Ito, "Color Universal Design", 2008), and each has a shape as well.
Names, messages and values come from users: in HTML they go through `escape`, in Markdown through `markdown_text`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from automl.core import TrialState
from automl.display.progress import clean, format_duration, format_value, param

if TYPE_CHECKING:
    import plotly.graph_objects as go

FONT = (
    "-apple-system, 'Segoe UI', Roboto, 'Noto Sans', Ubuntu, Cantarell, 'Helvetica Neue', "
    "'Liberation Sans', Arial, sans-serif"
)
_HERE = Path(__file__).parent
ICON = str(_HERE / "static" / "icon.svg")
LOGO = str(_HERE / "static" / "logo.svg")


@dataclass(frozen=True)
class Palette:
    """The colours of a theme, as CSS writes them."""

    dark: bool
    text: str
    muted: str  #: second-rate text
    faint: str  #: grid lines, what is dimmed
    line: str  #: borders
    card: str  #: background of cards
    page: str  #: background of the page
    accent: str
    good: str
    warn: str
    bad: str
    waiting: str  #: of trials in this state, as the next ones
    running: str
    paused: str
    complete: str
    pruned: str
    failed: str
    cancelled: str

    def state(self, state: TrialState | str) -> str:
        """The colour of trials in this state."""
        return getattr(self, TrialState(state).value)

    def series(self, index: int) -> str:
        """The colour of the curve with this index, for studies or trials side by side."""
        return _SERIES[self.dark][index % len(_SERIES[self.dark])]


LIGHT = Palette(
    dark=False,
    text="#1b2230",
    muted="#5d6779",
    faint="#e4e8ef",
    line="#dde2ea",
    card="#ffffff",
    page="#f7f8fb",
    accent="#4f46e5",
    good="#0b7a5c",
    warn="#a86400",
    bad="#c23a12",
    waiting="#8893a5",
    running="#0a9a74",
    paused="#b0559b",
    complete="#2b6fce",
    pruned="#d08b00",
    failed="#d4491a",
    cancelled="#a7b0be",
)
DARK = Palette(
    dark=True,
    text="#e8ebf2",
    muted="#9aa5b8",
    faint="#262d3b",
    line="#2c3444",
    card="#171c27",
    page="#0f131b",
    accent="#8f8cff",
    good="#3ccfa4",
    warn="#f2b441",
    bad="#ff8a63",
    waiting="#7d889b",
    running="#34d3a4",
    paused="#dd8fcb",
    complete="#6ba8ff",
    pruned="#f0b13a",
    failed="#ff7b52",
    cancelled="#5d6879",
)
_SERIES = {
    False: ("#4f46e5", "#d08b00", "#0a9a74", "#d4491a", "#b0559b", "#2b9fd0", "#6b7688", "#7a5b1e"),
    True: ("#8f8cff", "#f0b13a", "#34d3a4", "#ff7b52", "#dd8fcb", "#5cc8f2", "#9aa5b8", "#cfae6a"),
}

#: A marker of plotly for each state, so that colour is never all that tells them apart.
SYMBOLS: Mapping[TrialState, str] = {
    TrialState.WAITING: "circle-open",
    TrialState.RUNNING: "diamond",
    TrialState.PAUSED: "square",
    TrialState.COMPLETE: "circle",
    TrialState.PRUNED: "triangle-down",
    TrialState.FAILED: "x",
    TrialState.CANCELLED: "line-ew-open",
}

#: The same shapes as letters.
GLYPHS: Mapping[TrialState, str] = {
    TrialState.WAITING: "○",
    TrialState.RUNNING: "◆",
    TrialState.PAUSED: "■",
    TrialState.COMPLETE: "●",
    TrialState.PRUNED: "▼",
    TrialState.FAILED: "✕",
    TrialState.CANCELLED: "–",
}


def palette() -> Palette:
    """The palette of the theme that this visitor's browser has."""
    return DARK if st.context.theme.type == "dark" else LIGHT


def apply() -> None:
    """Put the style sheet into the page."""
    colours = palette()
    names = "".join(
        f"--am-{field.name}:{getattr(colours, field.name)};" for field in fields(colours) if field.name != "dark"
    )
    st.html(f"<style>:root{{{names}}}{(_HERE / 'static' / 'style.css').read_text()}</style>")


# -- figures ------------------------------------------------------------------------------------------------------

#: How plotly behaves in the page: no row of buttons over the figure, no link, no scrolling that gets stuck in a zoom.
PLOT_CONFIG: Mapping[str, Any] = {"displayModeBar": False, "displaylogo": False, "scrollZoom": False}


def layout(colours: Palette, **changes: Any) -> dict[str, Any]:
    """Plotly's layout as all our figures have it, with `changes`. The page's background shows through."""
    axis = {
        "gridcolor": colours.faint,
        "linecolor": colours.line,
        "zerolinecolor": colours.faint,
        "tickfont": {"color": colours.muted},
        "title": {"font": {"color": colours.muted, "size": 12}, "standoff": 8},
        "automargin": True,
    }
    base = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 12, "color": colours.text},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "xaxis": axis,
        "yaxis": axis,
        "colorway": list(_SERIES[colours.dark]),
        "legend": {
            "orientation": "h",
            "yanchor": "bottom",
            "y": 1.0,
            "xanchor": "left",
            "x": 0.0,
            "font": {"color": colours.muted},
            "itemsizing": "constant",
        },
        "hoverlabel": {
            "bgcolor": colours.card,
            "bordercolor": colours.line,
            "font": {"family": FONT, "color": colours.text},
        },
        "hovermode": "closest",
        "dragmode": "zoom",
        "uirevision": "kept",  # what the reader zoomed into stays when new trials come
    }
    return base | changes


def figure(colours: Palette, height: int = 320, **changes: Any) -> go.Figure:
    """An empty figure of this `height` in pixels."""
    import plotly.graph_objects as go

    return go.Figure(layout=layout(colours, height=height, **changes))


def plot(drawn: go.Figure, key: str, alt: str = "") -> None:
    """Show a figure. `alt` says in a sentence what it shows, for those who do not see it."""
    st.plotly_chart(drawn, key=key, theme=None, config=dict(PLOT_CONFIG), alt=alt or None)


# -- words and numbers --------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """A metric in four significant digits, `–` for none."""
    return "–" if value is None or value != value else format_value(value)


def value_text(value: Any) -> str:
    """A parameter's value or any other fact, on one line."""
    return "–" if value is None else param(value)


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min 5 s`, `–` for none."""
    return "–" if seconds is None or seconds != seconds else format_duration(seconds)


def ago(seconds: float) -> str:
    """`now`, `12 s ago`, `3 min ago`, `2 h ago`, `5 days ago`."""
    if seconds < 1.5:
        return "now"
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size * (2 if unit == "days" else 1):
            return f"{seconds // size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def moment(seconds: float) -> str:
    """`22 Nov 2026 14:31`, by the clock of the visitor's browser."""
    try:
        zone = ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):  # a name that this machine does not know
        zone = ZoneInfo("UTC")
    return datetime.fromtimestamp(seconds, zone).strftime("%-d %b %Y %H:%M")


def amount(size_bytes: float | None) -> str:
    """Bytes for people: `640 kB`, `11.2 GB`; `–` for none."""
    if size_bytes is None:
        return "–"
    size = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit in ("B", "kB") or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def escape(text: object) -> str:
    """`text` for HTML, also inside of quoted attributes."""
    return html.escape(clean(str(text)))


_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|~<>$:&^=\"'@/])")
#: What Streamlit still makes something of after the backslashes are read: emoji names, addresses, arrows, dashes.
_SHORTHAND = re.compile(r"(?<=:)(?=[\w+/\-])|(?<=[<>\-~])(?=[\-=>])|(?<=www)(?=\.)|(?<=@)(?=\w)", re.IGNORECASE)
_WORD_JOINER = "\u2060"  # no width, no break


def markdown_text(text: object) -> str:
    """`text` for Markdown, as a label has it: formulas, colours, links, tags and emoji names show as they are typed."""
    return _MARKDOWN.sub(r"\\\1", _SHORTHAND.sub(_WORD_JOINER, clean(str(text))))


# -- states of a page ---------------------------------------------------------------------------------------------


def banner(text: str) -> None:
    """A line over everything else, for what must not be missed."""
    st.html(f'<div class="am-banner" role="alert">{escape(text)}</div>')


def empty_state(title: str, text: str) -> None:
    """What a page shows that has nothing to show: what is missing, and what to do."""
    st.html(f'<div class="am-empty"><h2>{escape(title)}</h2><p>{escape(text)}</p></div>')


def header(title: str, chips: str = "", detail: str = "") -> None:
    """The head of a page: its title, `chips` (HTML, see pieces.py), a line of `detail` (HTML) under them."""
    below = f'<div class="am-detail">{detail}</div>' if detail else ""
    st.html(f'<header class="am-header"><h1>{escape(title)}</h1>{chips}{below}</header>')
