"""Parameters: which of them matter, where the good values are, and how the space hangs together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import streamlit as st

from dashboard import theme
from dashboard.figures.common import Axis, axes
from dashboard.figures.parameters import (
    SLICE_POINTS,
    contour,
    importance_bars,
    parallel,
    shown_rows,
    slice_figure,
)
from dashboard.figures.structure import structure
from dashboard.study_views.shared import Look, draw, need, picked_trial

#: Slices beside each other; on a phone they stand one below the other.
_COLUMNS = 4
#: So many slices are drawn unasked; of more parameters one row, of those that matter most, until the reader asks for
#: all. Each keeps a browser without a graphics card busy for a tenth of a second.
_FEW = 6
#: Parallel axes beyond which their labels collide.
_AXES = 8


def show(look: Look) -> None:
    found = look.kept(lambda: axes(look.board), "axes")
    if not need(look, 3, "How much each parameter matters, and where its good values are,"):
        _space(look, "The space")
        return
    importances = look.kept(lambda: dict(look.engine.importances(look.record, look.board)), "importances")
    ranked = sorted(found, key=lambda axis: -importances.get(axis.name, 0.0))
    _importances(look, importances)
    # One at a time: together they keep a browser without a graphics card busy for seconds.
    parts: dict[str, Callable[[], None]] = {"Slices": lambda: _slices(look, ranked)}
    if len(ranked) > 1:
        parts |= {"Two together": lambda: _contour(look, ranked), "Parallel": lambda: _parallel(look, ranked)}
    parts["Space"] = lambda: _space(look)
    part = st.segmented_control(
        "Part", list(parts), default="Slices", required=True, key="parameters-part", label_visibility="collapsed"
    )
    parts[part]()


def _space(look: Look, title: str = "") -> None:
    tree = look.kept(lambda: structure(look.board), "structure")
    if not tree:
        st.caption("The parameters of this study become known as its trials ask for them.")
        return
    if title:
        _title(title)
    else:
        st.caption("Filled: the best fifth of the trials. Behind it: all trials.")
    st.html(tree)


def _title(text: str) -> None:
    st.html(f'<h3 class="am-section">{theme.escape(text)}</h3>')


def _importances(look: Look, importances: Mapping[str, float]) -> None:
    _title("Importance")
    if not importances:
        st.caption("Too few trials to tell the parameters apart; this fills in as results come.")
        return
    figure = look.kept(lambda: importance_bars(importances, look.colours), "importance-bars")
    draw(figure, "parameters-importance", "How much each parameter matters", pick=False)
    st.caption("The share of each parameter in the differences between the trials' results.")


def _slices(look: Look, ranked: list[Axis]) -> None:
    everything = len(ranked) <= _FEW or st.session_state.get("parameters-all")
    shown = ranked if everything else ranked[:_COLUMNS]
    rows = look.kept(lambda: shown_rows(look.board, SLICE_POINTS), "slice-rows")
    for start in range(0, len(shown), _COLUMNS):
        row = shown[start : start + _COLUMNS]
        columns = st.columns(_COLUMNS if len(shown) > _COLUMNS else max(len(row), 2), gap="small")
        for column, axis in zip(columns, row, strict=False):
            with column:
                figure = look.kept(partial(slice_figure, look.board, axis, rows, look.colours), "slice", axis.name)
                draw(figure, f"slice-{axis.name}", f"Results by {axis.name}")
    note = f"{len(rows):,} of {len(look.board.ranking):,} results are drawn. " * (len(rows) < len(look.board.ranking))
    st.caption(f"{note}The stronger the colour, the better the trial. A click on a point shows its trial.")
    if len(ranked) > _FEW:
        st.toggle(f"Show all {len(ranked)} parameters", key="parameters-all")
    picked_trial(look)


def _contour(look: Look, ranked: list[Axis]) -> None:
    by_name = {axis.name: axis for axis in ranked}
    names = list(by_name)
    with st.container(horizontal=True, key="contour-controls"):
        first = st.selectbox("Across", names, index=0, key="contour-x", width=240)
        others = [name for name in names if name != first]
        second = st.selectbox("Up", others, index=0, key="contour-y", width=240)
    figure = look.kept(
        lambda: contour(look.board, by_name[first], by_name[second], look.colours), "contour", first, second
    )
    draw(figure, f"contour-{first}-{second}", f"Results by {first} and {second}")
    st.caption("The colour is a weighted mean of the trials close by; where no trial is close there is none.")


def _parallel(look: Look, ranked: list[Axis]) -> None:
    total = len(look.board.ranking)
    names = [axis.name for axis in ranked]
    with st.container(horizontal=True, key="parallel-controls", vertical_alignment="bottom"):
        choices = sorted({n for n in (10, 20, 50, 100, 200, 500) if n < total} | {min(total, 1000)})
        default = max(n for n in choices if n <= 50 or n == choices[0])
        best = st.select_slider("How many of the best", choices, value=default, key="parallel-best", width=240)
        chosen = st.multiselect("Axes", names, default=names[:_AXES], key="parallel-axes", width="stretch")
    shown = [axis for axis in ranked if axis.name in chosen]
    figure = look.kept(
        lambda: parallel(look.board, shown, best, look.colours), "parallel", best, *(axis.name for axis in shown)
    )
    with st.container(key="study-wide"):
        draw(figure, "parallel", f"The best {best} trials across their parameters", pick=False)
    st.caption("Drag along an axis to keep only the lines that pass there; “off”: a condition switches it off.")
