"""The head of a study's page: what it is, how it goes, what can be done with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import streamlit as st

from automl.board import Board
from automl.core import Estimate, StudyRecord, StudyState, TrialState
from automl.display import estimate_seconds_left
from dashboard import actions, links, pieces, theme
from dashboard.figures.common import short_params
from dashboard.study_views.shared import Look

_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED)


def head(look: Look) -> None:
    record = look.record
    with st.container(horizontal=True, vertical_alignment="top", key="study-head"):
        with st.container(width="stretch"):
            theme.header(
                record.name,
                chips=pieces.study_chip(record, look.board.counts["running"])
                + (pieces.chip("archived") if record.archived else "")
                + pieces.tags(record.tags),
                detail=_detail(look),
            )
        if record.spec and record.spec.get("space"):
            st.page_link(links.WHAT_IF, label="What if …", query_params={"study": record.name}, width="content")
        _actions(look)


def _detail(look: Look) -> str:
    """HTML: why it is over, or who works at it; what it confirms."""
    record = look.record
    parts = [theme.escape(state_words(look))]
    if record.origin_id is not None:
        origin = look.kept(lambda: look.engine.study_by_id(record.origin_id).name, "origin")  # type: ignore[arg-type]
        parts.append(f"confirms {pieces.link(origin, links.study_href(origin))}")
    spec = record.spec or {}
    if spec:
        parts.append(f"sampler {theme.escape(spec['sampler'])}")
    else:
        parts.append("made by an Optuna program")
    if record.entrypoint:
        parts.append(f"code {theme.escape(record.entrypoint)}")
    return " · ".join(parts)


def state_words(look: Look) -> str:
    """The study's state in a sentence."""
    record, counts = look.record, look.board.counts
    if record.state is StudyState.FINISHED:
        return record.reason or "the budget is used"
    if record.state is StudyState.STOPPED:
        return record.reason or "stopped by the user"
    if record.state is StudyState.FAILED:
        return record.reason or "its trials cannot work"
    if record.paused:
        return "no trial is started" + (f", {counts['running']} go on to their end" if counts["running"] else "")
    if counts["running"]:
        return f"{counts['running']} trials run" if counts["running"] > 1 else "one trial runs"
    if counts["waiting"]:
        return (
            f"{counts['waiting']} trials wait for a worker" if counts["waiting"] > 1 else "one trial waits for a worker"
        )
    return "nobody works at it" if len(look.board) else "waits for a worker to begin"


def _actions(look: Look) -> None:
    record = look.record
    is_open = record.state is StudyState.OPEN
    choices: list[tuple[str, Callable[[StudyRecord], None], bool]] = [
        ("Resume" if record.paused else "Pause", actions.resume if record.paused else actions.pause, is_open),
        ("Stop", actions.stop, is_open),
        ("Extend the budget", actions.extend, bool(record.spec)),
        ("Clone", actions.clone, bool(record.spec)),
        ("Promote the best", actions.promote, bool(len(look.board.ranking))),
        ("Confirm the winner", actions.confirm, _can_confirm(look)),
        ("Tags", actions.tags, True),
        ("Take out of the archive" if record.archived else "Archive", actions.archive, True),
    ]
    possible = {label: act for label, act, can in choices if can}
    chosen = st.menu_button("Actions", list(possible), key="study-actions", width="content")
    if chosen is not None:
        possible[chosen](record)


def _can_confirm(look: Look) -> bool:
    record = look.record
    return (
        bool(record.spec) and record.origin_id is None and len(record.directions) == 1 and len(look.board.ranking) > 1
    )


def tiles(look: Look) -> None:
    """The figures that matter most, side by side."""
    board, record = look.board, look.record
    now = look.kept(look.engine.clock, "now")
    cells = [_best_tile(look), _done_tile(look)]
    counts = board.counts
    if record.state is StudyState.OPEN:
        cells.append(
            _tile("running", str(counts["running"]), f"{counts['waiting']} waiting" if counts["waiting"] else "")
        )
        left = seconds_left(look)
        cells.append(_tile("time left", theme.duration(left), _until(now, left)))
    wall, gpu = spent(board, now)
    if record.active_s > 0:
        wall = max(record.active_s, wall if record.spec is None else 0.0)
    gpu_words = f"{theme.duration(gpu)} of GPU" if gpu else "no GPU"
    cells.append(_tile("time spent", theme.duration(wall), gpu_words))
    share = f"{100 * counts['failed'] / max(len(board), 1):.0f} % of all" if counts["failed"] else ""
    cells.append(_tile("failed", f"{counts['failed']:,}", share, "am-bad" if counts["failed"] else ""))
    st.html(f'<div class="am-tiles">{"".join(cells)}</div>')


def _tile(label: str, value: str, below: str = "", kind: str = "") -> str:
    """`value` and `below` are plain text."""
    return (
        f'<div class="am-tile"><span>{theme.escape(label)}</span><b class="{kind}">{theme.escape(value)}</b>'
        f"<small>{theme.escape(below)}</small></div>"
    )


def _best_tile(look: Look) -> str:
    board, record = look.board, look.record
    arrow = "↑" if record.directions[0] == "maximize" else "↓"
    label = f"best {record.metric_names[0]} {arrow}"
    best = board.best
    if best is None:
        empty = f"<span>{theme.escape(label)}</span><b>–</b><small>no result yet</small>"
        return f'<div class="am-tile am-tile-best">{empty}</div>'
    value = theme.number(float(board.values[best, 0]))
    href = theme.escape(links.trial_href(record.name, best))
    found = [f'<a href="{href}">trial {best}</a>', short_params(board, best, most=5, between=", ")]
    if not board.feasible[best]:
        found.insert(1, '<span class="am-bad">violates a constraint</span>')
    if len(record.directions) > 1:
        found.insert(0, f"{len(board.front)} on the front")
    estimate = look.kept(lambda: look.engine.estimates(record), "estimates").get(best)
    honest = "" if estimate is None else _honest(estimate)
    return (
        f'<div class="am-tile am-tile-best"><span>{theme.escape(label)}</span><b>{value}</b>{honest}'
        f"<small>{' · '.join(part for part in found if part)}</small></div>"
    )


def _honest(estimate: Estimate) -> str:
    """HTML: what to expect in truth of the luckiest value."""
    where = "on held-out data" if estimate.held_out else f"by {estimate.runs} fresh runs"
    return (
        f'<em title="The best value is partly luck; this is what another training is expected to give.">'
        f"to be expected {actions.estimate_text(estimate)} {where}, "
        f"{100 * estimate.p_best:.0f} % sure to be the best</em>"
    )


def _done_tile(look: Look) -> str:
    board, record = look.board, look.record
    budget = (record.spec or {}).get("budget") or {}
    done = sum(board.counts[state.value] for state in _ENDED)
    trials, minutes = budget.get("trials"), budget.get("minutes")
    small = f"of {trials:,} trials" if trials else "trials"
    if minutes:
        small += f" · {record.active_s / 60:.0f} of {minutes:g} minutes"
    return (
        f'<div class="am-tile"><span>done</span><b class="trials-done" data-done="{done}">{done:,}</b>'
        f"{pieces.stacked_bar(board.counts, trials or done)}<small>{small}</small></div>"
    )


def seconds_left(look: Look) -> float | None:
    """Until the budget is used at the pace of late; None when nobody works at it or nothing can be told."""
    board, record = look.board, look.record
    budget = (record.spec or {}).get("budget") or {}
    slots = board.counts["running"]
    if not slots or record.state is not StudyState.OPEN or record.paused:
        return None
    guesses = []
    if budget.get("trials"):
        rows = np.flatnonzero(board.is_in(*_ENDED) & ~np.isnan(board.duration_s))
        newest = rows[np.argsort(board.finished[rows], kind="stable")][-50:]
        remaining = budget["trials"] - sum(board.counts[state.value] for state in _ENDED)
        guesses.append(estimate_seconds_left(board.duration_s[newest].tolist(), remaining, slots))
    if budget.get("minutes"):
        guesses.append(max(60.0 * budget["minutes"] - record.active_s, 0.0))
    return min((guess for guess in guesses if guess is not None), default=None)


def _until(now: float, left: float | None) -> str:
    if left is None:
        return ""
    from datetime import UTC, datetime, timedelta

    zone = timedelta(minutes=-(st.context.timezone_offset or 0))
    end = datetime.fromtimestamp(now + left, UTC) + zone
    today = datetime.fromtimestamp(now, UTC) + zone
    return f"until {end:%H:%M}" if end.date() == today.date() else f"until {end:%d %b %H:%M}"


def spent(board: Board, now: float) -> tuple[float, float]:
    """Seconds from the first start to the last end, and of all GPUs together while they ran trials."""
    if not (~np.isnan(board.started)).any():
        return 0.0, 0.0
    ends = np.where(board.is_in(TrialState.RUNNING), now, board.finished)
    spans = np.clip(ends - board.started, 0.0, None)
    gpus = ((board.study.spec or {}).get("resources") or {}).get("gpus") or 0
    return float(np.nanmax(ends, initial=np.nanmin(board.started)) - np.nanmin(board.started)), float(
        gpus * np.nansum(spans)
    )
