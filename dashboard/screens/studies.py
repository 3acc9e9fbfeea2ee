"""All studies: what each has come to, who works at it, how long it will take."""

from __future__ import annotations

import time
from collections.abc import Sequence

import streamlit as st

from automl.board import Overview
from automl.core import StudyState
from automl.display import format_count
from dashboard import connection, example, links, live, login, pieces, theme

#: Cards that are drawn at first; a click brings more.
SHOWN = 40

#: "3 min ago" is written again this often when nothing else changes.
CLOCK_S = 20


def main() -> None:
    everything = _look()
    studies, _, _ = everything
    if not studies and not st.session_state.get("studies-archived"):
        _nothing_yet()
    else:
        _list(studies)
    live.follow(_look, everything)


def _look() -> tuple[list[Overview], str, int]:
    """All that this page is made of."""
    archived = bool(st.session_state.get("studies-archived"))
    run = example.current()
    state = "" if run is None else "failed" if run.failed else "started"
    return connection.engine().overviews(archived=archived), state, int(time.time() // CLOCK_S)


def _list(studies: Sequence[Overview]) -> None:
    searching = sum(_is_busy(item) for item in studies)
    workers = sum(item.workers for item in studies)
    parts = [
        format_count(len(studies), "study", "studies"),
        f"{searching} searching" if searching else "nothing is running",
    ]
    theme.header("Studies", detail=" · ".join(parts + [f"{format_count(workers, 'worker')} at work"] * (workers > 0)))
    known = sorted({tag for item in studies for tag in item.study.tags})
    with st.container(key="studies-controls", horizontal=True, vertical_alignment="center"):
        wanted = st.text_input(
            "Search",
            key="studies-search",
            placeholder="Search by name",
            label_visibility="collapsed",
            live=True,
            width=420,
        )
        chosen = (
            st.multiselect(
                "Tags", known, key="studies-tags", placeholder="All tags", label_visibility="collapsed", width=320
            )
            if known
            else []
        )
        st.toggle("Archive", key="studies-archived", help="Show the studies in the archive as well")
    found = [
        item
        for item in studies
        if (wanted or "").strip().casefold() in item.study.name.casefold() and set(chosen) <= set(item.study.tags)
    ]
    if not found:
        theme.empty_state("Nothing matches", "No study has this name and these tags.")
        return
    found.sort(key=lambda item: (not _is_busy(item), -item.last_active_at))
    now = connection.engine().clock()
    limit = st.session_state.setdefault("studies-limit", SHOWN)
    for item in found[:limit]:
        _card(item, now)
    if len(found) > limit and st.button(f"Show {min(SHOWN, len(found) - limit)} more", key="studies-more"):
        st.session_state["studies-limit"] = limit + SHOWN
        st.rerun()


def _card(item: Overview, now: float) -> None:
    record = item.study
    with st.container(key=f"study-card-{record.id}"):
        links.study_link(theme.markdown_text(record.name), record.name)  # lies over the whole card, see style.css
        st.html(
            f'<div class="am-study{" am-dim" if record.archived else ""}">'
            f"<div><h3>{theme.escape(record.name)}</h3>"
            f"<p>{pieces.study_chip(record, item.counts['running'])} "
            f"{pieces.chip('archived') if record.archived else ''}{pieces.tags(record.tags)}</p></div>"
            f"<div>{_progress(item)}</div>"
            f'<div class="am-best">{_best(item)}</div>'
            f"<div>{_activity(item, now)}</div></div>"
        )


def _progress(item: Overview) -> str:
    counts, record = item.counts, item.study
    budget = (record.spec or {}).get("budget") or {}
    done = counts["complete"] + counts["pruned"] + counts["failed"]
    trials, minutes = budget.get("trials"), budget.get("minutes")
    words = f"<b>{done}</b> of {trials} trials" if trials else f"<b>{done}</b> trials"
    if minutes:
        words += f" · {record.active_s / 60:.0f} of {minutes:g} min"
    failed = f'<span class="am-bad">{counts["failed"]} failed</span>' if counts["failed"] else ""
    if trials or not minutes:
        drawn = pieces.stacked_bar(counts, trials or done)
    else:
        drawn = pieces.bar(record.active_s / (60 * minutes), label="time used")
    return f'<div class="am-row"><span>{words}</span>{failed}</div>{drawn}'


def _best(item: Overview) -> str:
    record = item.study
    arrow = "↑" if record.directions[0] == "maximize" else "↓"
    name = f'<span class="am-label">{theme.escape(record.metric_names[0])} {arrow}</span>'
    if item.best is None:
        return f'<div>{name}<strong class="am-muted">–</strong></div>'
    trend = pieces.sparkline(item.trend, theme.palette().accent)
    return f"<div>{name}<strong>{theme.number(item.best)}</strong></div>{trend}"


def _activity(item: Overview, now: float) -> str:
    state, since = item.study.state, theme.ago(now - item.last_active_at)
    if state is StudyState.FINISHED:
        reason = item.study.reason
        first = f"over: {theme.escape(reason)}" if reason else "over, the budget is used"
    elif state is StudyState.OPEN and item.workers:
        left = f" · {theme.duration(item.seconds_left)} left" if item.seconds_left else ""
        first = format_count(item.workers, "worker") + left
    elif state is StudyState.OPEN:
        first = "paused" if item.study.paused else "nobody works at it"
    else:
        first = theme.escape(item.study.reason or state.value)
    return f'<span class="am-clip">{first}</span><span class="am-muted">{since}</span>'


def _is_busy(item: Overview) -> bool:
    return item.study.state is StudyState.OPEN and item.counts["running"] > 0


def _nothing_yet() -> None:
    theme.header("Welcome")
    st.html(
        '<p class="am-lead">automl searches hyperparameters: you write a training function and say what may vary; it '
        "finds out what works in few trials, on one machine or many, and loses nothing when one of them dies. "
        "This page shows every search as it goes.</p>"
    )
    run = example.current()
    if run is not None and not run.failed:
        with st.container(key="card-starting"):
            st.html(
                f'<div class="am-starting"><i></i><div><b>The digits study is starting</b><br>'
                f'<span class="am-muted">{example.WORKERS} workers are loading torch; '
                "the first trials will show here in some seconds.</span></div></div>"
            )
        return
    if run is not None:
        st.error("The example ended before it began:")
        st.code(run.last_lines(), language=None)
    if not login.is_asked():  # it would run on the service's machine, for whoever may only look
        with st.container(key="card-first"):
            st.html(
                "<h3>See one</h3><p>A small network learns to read digits: 30 trials, two at a time, "
                "about a minute on a laptop, no download.</p>"
            )
            if st.button("Run the digits study", key="run-example", type="primary"):
                example.start()
                st.rerun()
    with st.container(key="card-commands"):
        st.html("<h3>Run your own</h3><p>Each command can be copied; the dashboard shows what they do.</p>")
        st.code("automl run my_study.py --workers 2", language="bash")
        st.code("automl show my-study", language="bash")
        st.code("automl promote my-study --alias champion", language="bash")


main()
