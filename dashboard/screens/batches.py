"""Batches: what of each budget is used, where its studies are, and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import streamlit as st

from automl.board import Overview
from automl.core import StudyRecord
from automl.display import format_count
from automl.team import Batch
from dashboard import actions, connection, links, live, pieces, theme

if TYPE_CHECKING:
    from automl.storage.batches import Spent

#: Batches that are listed; older ones are reached by their addresses.
SHOWN = 50

#: Pixels of the report in the page; it scrolls.
REPORT_HEIGHT = 900


def main() -> None:
    wanted = st.query_params.get("batch")
    if wanted is None:
        drawn = _look()
        _list(drawn)
        live.follow(_look, drawn)
        return
    found = _look_at(wanted)
    _batch(*found)
    live.follow(lambda: _look_at(wanted), found)


def _look() -> list[Batch]:
    return connection.engine().batches.all()[:SHOWN]


def _look_at(name: str) -> tuple[Batch, list[StudyRecord], dict[int, dict[str, int]]]:
    """The batch, its studies, and their trials by state."""
    engine = connection.engine()
    batch = engine.batches.get(name)
    records = [engine.study(study) for study in batch.studies]
    return batch, records, engine.counts(records)


# -- the list -----------------------------------------------------------------------------------------------------


def _list(batches: Sequence[Batch]) -> None:
    running = sum(batch.finished_at is None for batch in batches)
    detail = f"{len(batches)} in all" + f" · {running} not finished" * bool(running) if batches else ""
    theme.header("Batches", detail=detail)
    if not batches:
        theme.empty_state(
            "No batch yet",
            "A batch runs several studies one after the other, on one budget, and has a report.",
        )
        st.code("automl submit a.py b.py --batch night --batch-hours 8", language="bash")
        return
    now = connection.engine().clock()
    for batch in batches:
        with st.container(key=f"study-card-batch-{batch.name}"):
            st.button(theme.markdown_text(batch.name), key=f"open-{batch.name}", on_click=_open, args=(batch.name,))
            st.html(_card(batch, now))


def _card(batch: Batch, now: float) -> str:
    count = format_count(len(batch.studies), "study", "studies")
    trials = (
        format_count(batch.made, "trial") if batch.max_trials is None else f"{batch.made} of {batch.max_trials} trials"
    )
    when = f"finished {theme.ago(now - batch.finished_at)}" if batch.finished_at else theme.ago(now - batch.created_at)
    names = theme.escape(", ".join(batch.studies))
    return (
        f'<div class="am-model"><h3>{theme.escape(batch.name)}</h3><span>{_chip(batch)}</span>'
        f'<span class="am-muted">{count} · {trials} · priority {batch.priority} · {when}</span>'
        f'<span class="am-muted">{names}</span></div>'
    )


def _chip(batch: Batch) -> str:
    if batch.finished_at is not None:
        return pieces.chip("finished", "var(--am-complete)", "✓")
    return pieces.chip("open", "var(--am-running)", "◆")


def _open(name: str) -> None:
    """Show this batch. No link: one that leads from a page to the same page changes nothing in the browser."""
    st.query_params["batch"] = name


# -- one batch ----------------------------------------------------------------------------------------------------


def _batch(batch: Batch, records: Sequence[StudyRecord], counts: Mapping[int, Mapping[str, int]]) -> None:
    engine = connection.engine()
    st.button("← Batches", key="batches-back", type="tertiary", on_click=st.query_params.clear)
    detail = f"submitted {theme.moment(batch.created_at)} · priority {batch.priority}"
    theme.header(batch.name, chips=_chip(batch), detail=detail)
    spent = engine.batches.spent(batch.name)
    st.html(_budget(batch, spent))
    if batch.finished_at is None and st.button("Stop …", key="batch-stop"):
        actions.stop_batch(batch.name)
    st.html('<h2 class="am-section">Studies, in their order</h2>')
    bests = {item.study.id: item for item in engine.overviews(archived=True)}
    st.html(_studies(records, counts, bests, spent))
    st.html('<h2 class="am-section">Report</h2>')
    _report(batch)


def _budget(batch: Batch, spent: Spent) -> str:
    used = [
        ("trials", float(spent.trials), batch.max_trials, f"{spent.trials}"),
        ("hours of training", spent.hours, batch.max_hours, f"{spent.hours:.2f}"),
        ("GPU hours", spent.gpu_hours, batch.max_gpu_hours, f"{spent.gpu_hours:.2f}"),
    ]
    meters = []
    for label, amount, limit, text in used:
        words = text if limit is None else f"{text} of {limit:g}"
        bar = "" if limit is None else pieces.bar(amount / limit, label=label)
        head = f'<div class="am-row"><span class="am-muted">{label}</span><b>{words}</b></div>'
        meters.append(f"<div>{head}{bar}</div>")
    return f'<div class="am-meters">{"".join(meters)}</div>'


def _studies(
    records: Sequence[StudyRecord],
    counts: Mapping[int, Mapping[str, int]],
    bests: Mapping[int, Overview],
    spent: Spent,
) -> str:
    rows = []
    for place, record in enumerate(records, start=1):
        count, item = counts[record.id], bests.get(record.id)
        budget = ((record.spec or {}).get("budget") or {}).get("trials") or count["total"]
        best = (
            "–"
            if item is None or item.best is None
            else f"{theme.escape(record.metric_names[0])} {theme.number(item.best)}"
        )
        share = spent.studies.get(record.name)
        hours = "–" if share is None else f"{share.hours:.2f}"
        reason = f'<br><small class="am-muted">{theme.escape(record.reason)}</small>' if record.reason else ""
        link = pieces.link(record.name, links.study_href(record.name))
        chip = pieces.study_chip(record, count["running"])
        rows.append([str(place), link, f"{chip}{reason}", pieces.stacked_bar(count, budget), best, hours])
    return pieces.table(["", "study", "state", "trials", "best", "hours"], rows, numbers=frozenset({5}))


def _report(batch: Batch) -> None:
    """Made when it is asked for: it reads all trials of all studies."""
    if not st.toggle("Show the report", key="batch-report"):
        return
    text = connection.engine().batches.report(batch.name)
    st.download_button("Download", text, f"{batch.name}.html", "text/html", key="batch-download", on_click="ignore")
    st.iframe(text, height=REPORT_HEIGHT)


main()
