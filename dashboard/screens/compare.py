"""Studies beside each other: how fast each got how far, what they came to, and where their best trials lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import numpy as np
import streamlit as st

from automl.board import Overview
from dashboard import connection, links, live, pieces, theme
from dashboard.figures import compare as figures
from dashboard.figures.compare import Group, Run

_STYLE = Path(__file__).parents[1] / "static" / "details.css"
#: More studies than this are too many to tell apart.
_MOST = 40
#: Of so many studies the newest are chosen at first.
_FIRST = 4
#: Columns of the table of parameters.
_COLUMNS = 10
_TAG = "#"
_CHOSEN = "compare-chosen"


def main() -> None:
    st.html(f"<style>{_STYLE.read_text()}</style>")
    found = _look()
    theme.header("Compare", detail="how fast studies got how far; names that differ by a number at their end are runs")
    if len(found) < 2:
        theme.empty_state("Nothing to compare yet", "With two studies or more, they stand here beside each other.")
    else:
        _page(found)
    live.follow(lambda: _signature(_look()), _signature(found))


def _look() -> list[Overview]:
    """All studies, the newest activity first."""
    return connection.engine().overviews(archived=True)


def _signature(found: Sequence[Overview]) -> list[tuple[object, ...]]:
    return [_moment(item) for item in found]


def _moment(item: Overview) -> tuple[object, ...]:
    """What differs as soon as a result came, went or changed."""
    return (
        item.study.id,
        item.study.name,
        item.study.state,
        item.study.tags,
        repr(item.best),
        *sorted(item.counts.items()),
    )


def _page(found: Sequence[Overview]) -> None:
    names = [item.study.name for item in found]
    tags = sorted({tag for item in found for tag in item.study.tags})
    if _CHOSEN not in st.session_state:
        asked = [name for name in st.query_params.get_all("study") if name in names]
        st.session_state[_CHOSEN] = asked or _alike(found)
    st.session_state[_CHOSEN] = [c for c in st.session_state[_CHOSEN] if c in names or c.removeprefix(_TAG) in tags]
    left, right = st.columns([4, 1], vertical_alignment="bottom", gap="medium")
    with left:
        options = [*names, *(_TAG + tag for tag in tags)]
        chosen = st.multiselect("Studies, or #tags", options, key=_CHOSEN, max_selections=_MOST)
    with right:
        by = st.segmented_control("By", ["trials", "time"], default="trials", required=True, key="compare-by")
    wanted = {c.removeprefix(_TAG) for c in chosen if c.startswith(_TAG) and c not in names}
    picked = [item for item in found if item.study.name in chosen or wanted & set(item.study.tags)][:_MOST]
    if not picked:
        theme.empty_state("Choose some studies", "Two or more, or a tag that they share.")
        return
    runs = _of_one_metric([_run(item) for item in picked])
    groups = figures.groups_of(runs)
    _progress(groups, by == "time")
    _finals(groups)
    _parameters(runs)


def _alike(found: Sequence[Overview]) -> list[str]:
    """The newest studies that measure what the newest one does."""
    first = found[0].study
    same = [item.study for item in found if (item.study.metric_names[0], item.study.directions[0]) == _measured(first)]
    return [study.name for study in same[:_FIRST]]


def _measured(study: object) -> tuple[str, str]:
    return study.metric_names[0], study.directions[0]  # type: ignore[attr-defined]


def _of_one_metric(runs: list[Run]) -> list[Run]:
    """Those that measure the same; the reader says what, when there are several."""
    kinds = Counter((run.metric, run.sign) for run in runs)
    if len(kinds) == 1:
        return runs
    words = {f"{metric} ({'min' if sign > 0 else 'max'})": (metric, sign) for (metric, sign), _ in kinds.most_common()}
    chosen = st.segmented_control(
        "They measure different things",
        list(words),
        default=next(iter(words)),
        required=True,
        key="compare-metric",
        format_func=theme.markdown_text,
    )
    return [run for run in runs if (run.metric, run.sign) == words[chosen]]


# -- what it shows -----------------------------------------------------------------------------------------------------


def _progress(groups: Sequence[Group], by_time: bool) -> None:
    with st.container(key="card-compare-progress"):
        if not any(len(run.best) for group in groups for run in group.runs):
            st.html("<h3>Progress</h3><p>None of them has a result yet.</p>")
            return
        st.html("<h3>Progress</h3>")
        drawn = figures.progress(groups, theme.palette(), by_time=by_time)
        alt = f"The best value so far of {len(groups)} studies or groups of runs"
        st.plotly_chart(drawn, key="compare-progress", theme=None, config=dict(theme.PLOT_CONFIG), alt=alt)


def _finals(groups: Sequence[Group]) -> None:
    colours = theme.palette()
    rows = []
    for place, group in enumerate(groups):
        swatch = f'<span class="am-swatch" style="background:{colours.series(place)}"></span>'
        values = group.values
        if len(group.runs) == 1:
            run = group.runs[0]
            name = pieces.link(run.name, links.study_href(run.name))
            best = (
                pieces.link(f"trial {run.number}", links.trial_href(run.name, run.number))
                if run.number is not None
                else "–"
            )
            rows.append([swatch + name, theme.number(run.value), best, f"{run.ended:,}", _span(run)])
            continue
        spread = "–"
        if len(values):
            low, high = np.quantile(values, (0.25, 0.75))
            spread = f'{theme.number(float(low))} <span class="am-muted">to</span> {theme.number(float(high))}'
        middle = theme.number(float(np.median(values))) if len(values) else "–"
        each = np.median([run.ended for run in group.runs])
        rows.append([f"{swatch}{theme.escape(group.name)} × {len(group.runs)}", middle, spread, f"{each:,.0f}", "–"])
    metric = groups[0].runs[0].metric
    head = ["study", f"best {metric}", "by, or quartiles of its runs", "trials", "time"]
    with st.container(key="card-compare-finals"):
        st.html(f"<h3>What they came to</h3>{pieces.table(head, rows, numbers=frozenset({1, 3, 4}))}")


def _span(run: Run) -> str:
    return theme.duration(float(run.seconds[-1])) if len(run.seconds) else "–"


def _parameters(runs: Sequence[Run]) -> None:
    shown = [run for run in runs if run.params][:_COLUMNS]
    if not shown:
        return
    head, rows = figures.parameter_table(shown)
    left_out = sum(bool(run.params) for run in runs) - len(shown)
    more = f"<p>The first {len(shown)}; {left_out} more have a best trial.</p>" if left_out else ""
    table = pieces.table(head, rows)
    with st.container(key="card-compare-parameters"):
        st.html(f"<h3>Parameters of their best trials</h3>{table}{more}")


# -- runs that are kept ------------------------------------------------------------------------------------------------


def _run(item: Overview) -> Run:
    """What the comparison needs of a study: small, and read again only when the study has moved."""
    return _runs(connection.key()).get(item)


class _Runs:
    """The runs that were looked at, for all visitors with one key."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: dict[int, tuple[tuple[object, ...], Run]] = {}

    def get(self, item: Overview) -> Run:
        moment = _moment(item)
        with self._lock:
            kept = self._kept.get(item.study.id)
        if kept is not None and kept[0] == moment:
            return kept[1]
        run = figures.run_of(connection.board(item.study.name))
        with self._lock:
            self._kept[item.study.id] = moment, run
        return run


@st.cache_resource(show_spinner=False)
def _runs(key: str) -> _Runs:
    return _Runs()


main()
