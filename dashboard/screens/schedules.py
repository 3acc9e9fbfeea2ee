"""Searches that start by themselves: when each comes next, what came of the last times, and a proposal to promote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from automl.cron import Cron
from automl.errors import AutoMLError, NotFound
from automl.report import firing_text
from automl.team import Firing, FiringState, Schedule
from dashboard import actions, connection, links, live, pieces, theme

#: Times that are shown of one schedule.
SHOWN = 50

_CATCH_UP = {
    "skip": "What came while nobody was there is left out.",
    "one": "Of what came while nobody was there, the last is caught up with.",
    "all": "What came while nobody was there is caught up with.",
}
_OVERLAP = {
    "skip": "What comes while a search runs is skipped.",
    "queue": "What comes while a search runs waits for its end.",
}


def main() -> None:
    wanted = st.query_params.get("schedule")
    if wanted is None:
        drawn = _look()
        _list(*drawn)
        live.follow(_look, drawn)
        return
    firings = connection.engine().schedules.firings(wanted, SHOWN)
    schedule = connection.engine().schedules.get(wanted)
    _schedule(schedule, firings)
    live.follow(lambda: _look_at(wanted), (schedule, firings))


def _look() -> tuple[list[Schedule], dict[int, Firing]]:
    schedules = connection.engine().schedules
    return schedules.all(), schedules.last_firings()


def _look_at(name: str) -> tuple[Schedule, list[Firing]]:
    schedules = connection.engine().schedules
    return schedules.get(name), schedules.firings(name, SHOWN)


# -- the list -----------------------------------------------------------------------------------------------------


def _list(schedules: Sequence[Schedule], last: Mapping[int, Firing]) -> None:
    theme.header("Schedules", detail=f"{len(schedules)} in all" if schedules else "")
    if not schedules:
        theme.empty_state(
            "Nothing starts by itself yet",
            "A schedule searches a study again and again. Each search learns from those before it, and what is better "
            "is proposed.",
        )
        st.code("automl schedule add digits.py --cron '0 2 * * *' --timezone Europe/Paris", language="bash")
        return
    moment = connection.engine().clock()
    for schedule in schedules:
        fired = last.get(schedule.id)
        with st.container(key=f"study-card-schedule-{schedule.name}"):
            st.button(theme.markdown_text(schedule.name), key=f"open-{schedule.name}", on_click=_open, args=(schedule,))
            st.html(
                '<div class="am-study">'
                f"<div><h3>{theme.escape(schedule.name)}</h3>{_words(schedule)}</div>"
                f'<div><span class="am-label">next</span>{_next(schedule, moment)}</div>'
                f'<div><span class="am-label">last</span>{_came(schedule, fired)}</div>'
                f"<div><span>{_chip(fired) if fired is not None else ''}</span></div></div>"
            )


def _open(schedule: Schedule) -> None:
    st.query_params["schedule"] = schedule.name


def _words(schedule: Schedule) -> str:
    cron = Cron(schedule.cron, schedule.timezone)
    return f'<span class="am-muted">{theme.escape(cron.explain())} · {theme.escape(schedule.timezone)}</span>'


def _next(schedule: Schedule, moment: float) -> str:
    if schedule.paused:
        return pieces.chip("paused", "var(--am-paused)", "■")
    cron = Cron(schedule.cron, schedule.timezone)
    coming = next(cron.ticks(max(moment, schedule.seen_until)), None)
    return "never" if coming is None else f"<b>{_local(cron, coming)}</b>"


def _came(schedule: Schedule, fired: Firing | None) -> str:
    if fired is None:
        return '<span class="am-muted">it has not come yet</span>'
    cron = Cron(schedule.cron, schedule.timezone)
    return f'{_local(cron, fired.tick)}<br><small class="am-muted">{theme.escape(firing_text(fired))}</small>'


def _local(cron: Cron, moment: float) -> str:
    return f"{cron.local(moment):%a %d %b, %H:%M}"


# -- one schedule -------------------------------------------------------------------------------------------------


def _schedule(schedule: Schedule, firings: Sequence[Firing]) -> None:
    cron = Cron(schedule.cron, schedule.timezone)
    st.button("← Schedules", key="schedules-back", type="tertiary", on_click=st.query_params.clear)
    chip = pieces.chip("paused", "var(--am-paused)", "■") if schedule.paused else ""
    theme.header(schedule.name, chip, f"{theme.escape(cron.explain())} · {theme.escape(schedule.timezone)}")
    proposal = next((fired for fired in firings if fired.verdict is not None and fired.state == "started"), None)
    if proposal is not None and _is_proposed(proposal):
        _propose(schedule, proposal)
    coming = connection.engine().schedules.next(schedule.name, 3)
    what = f"promoted as {schedule.promote}, if it passes the gates" if schedule.promote else "proposed here"
    told = [
        ("next", "–" if schedule.paused else "<br>".join(_local(cron, moment) for moment in coming)),
        ("a better model is", theme.escape(what)),
        ("since", theme.moment(schedule.created_at)),
        ("by", theme.escape(schedule.created_by)),
    ]
    rules = f"{_CATCH_UP[schedule.catch_up]} {_OVERLAP[schedule.overlap]}"
    with st.container(key="card-schedule", horizontal=True, vertical_alignment="center"):
        st.html(f'{pieces.facts(told)}<p class="am-fine">{rules}</p>', width="stretch")
        if schedule.paused:
            st.button("Resume", key="schedule-resume", on_click=_resume, args=(schedule.name,))
        else:
            st.button("Pause", key="schedule-pause", on_click=_pause, args=(schedule.name,))
    st.html('<h2 class="am-section">Times</h2>')
    if firings:
        st.html(_table(cron, firings))
    else:
        st.html('<p class="am-muted">It has not come yet. <code>automl serve</code> starts it, workers run it.</p>')


def _is_proposed(fired: Firing) -> bool:
    found = fired.verdict or {}
    return bool(found.get("better")) and found.get("promoted") is None


def _propose(schedule: Schedule, fired: Firing) -> None:
    """What came last is better, and nobody has promoted it yet."""
    found = fired.verdict or {}
    engine = connection.engine()
    try:
        record = engine.study(fired.study or "")
    except NotFound:  # it was deleted
        return
    versions = engine.model_versions(schedule.name) if schedule.name in [m.name for m in engine.models()] else []
    if any(item.aliases and (item.study_id, item.number) == (record.id, found["winner"]) for item in versions):
        return
    with st.container(key="card-proposal", horizontal=True, vertical_alignment="center"):
        trial = pieces.link(f"trial {found['winner']} of {record.name}", links.trial_href(record.name, found["winner"]))
        why = f"refused: {found['refused']}" if found.get("refused") else found["reason"]
        st.html(
            f'<div class="am-alias">{pieces.chip("proposed", "var(--am-good)", "★")}<b>{trial}</b>'
            f'<span class="am-muted">{theme.escape(why)}</span></div>',
            width="stretch",
        )
        if st.button("Promote …", key="schedule-promote", type="primary"):
            actions.promote(record, found["winner"], schedule.name)


def _table(cron: Cron, firings: Sequence[Firing]) -> str:
    rows = []
    for fired in firings:
        found = fired.verdict or {}
        study = "–" if fired.study is None else pieces.link(fired.study, links.study_href(fired.study))
        chance = "–" if found.get("p_better") is None else f"{100 * found['p_better']:.0f} %"
        values = [theme.number(found.get(name)) for name in ("incumbent", "best")]
        rows.append([_local(cron, fired.tick), _chip(fired), study, theme.escape(firing_text(fired)), *values, chance])
    head = ["time", "", "study", "what came of it", "incumbent today", "new", "P(better)"]
    return pieces.table(head, rows, numbers=frozenset({4, 5, 6}))


def _chip(fired: Firing) -> str:
    found = fired.verdict or {}
    if fired.state is FiringState.MISSED:
        return pieces.chip("missed", "var(--am-failed)", "✕")
    if fired.state is FiringState.SKIPPED:
        return pieces.chip("skipped", "var(--am-pruned)", "–")
    if not found:
        return pieces.chip("searching", "var(--am-running)", "◆")
    if found.get("promoted") is not None:
        return pieces.chip("promoted", "var(--am-good)", "★")
    if found.get("refused"):
        return pieces.chip("refused", "var(--am-failed)", "✕")
    return pieces.chip("proposed", "var(--am-good)", "★") if found.get("better") else pieces.chip("no change")


# -- what can be done ---------------------------------------------------------------------------------------------


def _pause(name: str) -> None:
    _say(_paused, _resumed, name)


def _resume(name: str) -> None:
    _say(_resumed, _paused, name)


def _say(act: Callable[[str], str], undo: Callable[[str], str], name: str) -> None:
    try:
        actions.say(act(name), lambda: undo(name))
    except AutoMLError as error:
        actions.say(f"Not done: {error}")


def _paused(name: str) -> str:
    connection.engine().schedules.pause(name)
    return f"Schedule {name} is paused: it starts no more searches."


def _resumed(name: str) -> str:
    connection.engine().schedules.resume(name)
    return f"Schedule {name} goes on."


main()
