"""What can be done from the dashboard: each action asks first, does it, says at once what it did, and offers an undo.

Call one where its button was pressed, as in `if st.button("Pause"): actions.pause(record)`: it opens a dialog. What was
done stands over the page afterwards, on whatever page, until it is read or a minute has passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from automl.core import Estimate, Gate, StudyRecord, TrialRecord
from automl.declaration import StudySpec, in_declared_order
from automl.errors import AutoMLError, DatabaseUnavailable, PromotionRefused
from automl.gates import FILES
from automl.team import Scope
from dashboard import connection, live, login, pieces, theme

#: How long what was done stands over the page.
SHOWN_S = 60.0

_DONE = "actions.done"
_GATES = "actions.gates"


@dataclass
class _Done:
    """Something that was done. `undo` takes it back and says so; None: it cannot be taken back."""

    text: str
    undo: Callable[[], str] | None = None
    at: float = 0.0


def show_done() -> None:
    """The last thing that was done here, with its undo: the frame draws it over each page."""
    done: _Done | None = st.session_state.get(_DONE)
    if done is None:
        return
    if time.monotonic() - done.at > SHOWN_S:
        del st.session_state[_DONE]
        return
    with st.container(key="done", horizontal=True, vertical_alignment="center"):
        st.html(f'<span role="status">{theme.escape(done.text)}</span>', width="stretch")
        if done.undo is not None:
            st.button("Undo", key="done-undo", type="secondary", on_click=_undo, args=(done.undo,))
        st.button("✕", key="done-close", type="tertiary", help="Hide this line", on_click=_forget)


def say(text: str, undo: Callable[[], str] | None = None) -> None:
    """Show at the next run that `text` was done."""
    st.session_state[_DONE] = _Done(text, undo, time.monotonic())


def _undo(undo: Callable[[], str]) -> None:
    try:
        say(undo())
    except DatabaseUnavailable:
        say("Not undone: the database does not answer. Try again when it does.", undo)
    except AutoMLError as error:
        say(f"Not undone: {error}")


def _forget() -> None:
    st.session_state.pop(_DONE, None)


def _ask(label: str, act: Callable[[], None], *, disabled: bool = False, scope: Scope = Scope.SUBMIT) -> None:
    """The two buttons at the end of a dialog; `act` does it and calls `say`. Who has not `scope` is told so."""
    if lacking := login.lacks(scope):
        st.info(lacking)
    with st.container(horizontal=True, horizontal_alignment="right"):
        if st.button("Cancel", key="dialog-cancel"):
            st.rerun()
        pressed = st.button(label, key="dialog-do", type="primary", disabled=disabled or bool(lacking))
    if not pressed:
        return
    try:
        act()
    except PromotionRefused as error:
        st.session_state.pop(_GATES, None)
        st.error(theme.markdown_text(str(error)))
        st.html(gate_list(error.gates))
    except DatabaseUnavailable:
        st.error("The database does not answer, and nothing was done. Try again when it does.")
    except AutoMLError as error:
        st.error(theme.markdown_text(str(error)))
    else:
        st.rerun()


def _name(record: StudyRecord) -> str:
    """The study's name in Markdown."""
    return f"**{theme.markdown_text(record.name)}**"


# -- a study ------------------------------------------------------------------------------------------------------


@st.dialog("Stop this search?", on_dismiss=live.release)
def stop(record: StudyRecord) -> None:
    live.hold()
    st.markdown(
        f"{_name(record)} ends now. What is running is cancelled; finished trials stay. "
        "Extending the budget or running the study file again opens it later."
    )

    def act() -> None:
        if connection.engine().stop(record.name):
            say(f"Study {record.name} is stopped.")
        else:
            say(f"Study {record.name} was over already.")

    _ask("Stop it", act)


@st.dialog("Pause this search?", on_dismiss=live.release)
def pause(record: StudyRecord) -> None:
    live.hold()
    st.markdown(f"{_name(record)} starts no more trials until you resume it. Those that run go on to their end.")
    _ask("Pause", lambda: say(_paused(record.name), lambda: _resumed(record.name)))


@st.dialog("Resume this search?", on_dismiss=live.release)
def resume(record: StudyRecord) -> None:
    live.hold()
    st.markdown(f"{_name(record)} starts trials again, on whatever worker is there.")
    _ask("Resume", lambda: say(_resumed(record.name), lambda: _paused(record.name)))


@st.dialog("Stop this batch?", on_dismiss=live.release)
def stop_batch(name: str) -> None:
    live.hold()
    st.markdown(
        f"All studies of **{theme.markdown_text(name)}** end now. What is running is cancelled; finished trials stay."
    )

    def act() -> None:
        stopped = connection.engine().batches.stop(name)
        say(f"Batch {name} is stopped." if stopped else f"Batch {name} was over already.")

    _ask("Stop it", act)


def test_channel(name: str) -> None:
    """Put a test message on its way."""
    try:
        connection.engine().channels.test(name)
        say(f"A test message to {name} is on its way.")
    except AutoMLError as error:
        say(f"Not sent: {error}")
    st.rerun()


def _paused(name: str) -> str:
    changed = connection.engine().pause(name)
    return f"Study {name} is paused." if changed else f"Study {name} was paused already."


def _resumed(name: str) -> str:
    changed = connection.engine().resume(name)
    return f"Study {name} goes on." if changed else f"Study {name} was not paused."


@st.dialog("Extend the budget", on_dismiss=live.release)
def extend(record: StudyRecord) -> None:
    live.hold()
    budget = (record.spec or {}).get("budget") or {}
    old_trials, old_minutes = budget.get("trials"), budget.get("minutes")
    st.markdown(f"How much {_name(record)} may use in all, what it has used included.")
    trials = minutes = None
    if old_trials is not None:
        trials = int(st.number_input("Trials", min_value=1, value=int(old_trials * 1.5 + 0.5), key="extend-trials"))
    if old_minutes is not None:
        minutes = float(st.number_input("Minutes", min_value=0.1, value=old_minutes * 1.5, key="extend-minutes"))
    if old_trials is None and old_minutes is None:
        st.info("This study has no budget that ends it.")

    def act() -> None:
        extended = connection.engine().extend(record.name, trials=trials, minutes=minutes)
        say(f"The budget of {record.name} is {_budget(extended)} now.", undo)

    def undo() -> str:
        back = connection.engine().extend(record.name, trials=old_trials, minutes=old_minutes)
        return f"The budget of {record.name} is {_budget(back)} again."

    _ask("Extend", act, disabled=trials == old_trials and minutes == old_minutes)


def _budget(record: StudyRecord) -> str:
    budget = (record.spec or {}).get("budget") or {}
    parts = [f"{budget[unit]:g} {unit}" for unit in ("trials", "minutes") if budget.get(unit) is not None]
    return " and ".join(parts) or "without an end"


@st.dialog("Clone this study", on_dismiss=live.release)
def clone(record: StudyRecord) -> None:
    live.hold()
    st.markdown(f"A new study with the declaration of {_name(record)} and none of its trials.")
    budget = (record.spec or {}).get("budget") or {}
    new_name = st.text_input("Name", value=f"{record.name}-2", key="clone-name").strip()
    trials = None
    if budget.get("trials") is not None:
        trials = int(st.number_input("Trials", min_value=1, value=budget["trials"], key="clone-trials"))
    seed = int(st.number_input("Seed", min_value=0, value=1, key="clone-seed", help="Another seed, another search."))

    def act() -> None:
        made = connection.engine().clone(record.name, new_name, trials=trials, seed=seed)
        say(f"Study {made.name} is made; workers take it up.")

    _ask("Clone", act, disabled=not new_name)


@st.dialog("Archive", on_dismiss=live.release)
def archive(record: StudyRecord) -> None:
    """Or take it out of the archive."""
    live.hold()
    if record.archived:
        st.markdown(f"{_name(record)} comes back into the list.")
    else:
        st.markdown(f"{_name(record)} leaves the list; nothing of it is deleted.")
    _ask(
        "Take it out" if record.archived else "Archive",
        lambda: say(_archived(record.name, not record.archived), lambda: _archived(record.name, record.archived)),
    )


def _archived(name: str, on: bool) -> str:
    connection.engine().archive(name, on)
    return f"Study {name} is in the archive." if on else f"Study {name} is in the list again."


@st.dialog("Tags", on_dismiss=live.release)
def tags(record: StudyRecord, known: Sequence[str] = ()) -> None:
    """`known` are those of other studies."""
    live.hold()
    written = st.text_input("Tags", ", ".join(record.tags), key="tags-written", help="Words, with commas between them.")
    chosen = [tag.strip() for tag in written.split(",") if tag.strip()]
    if others := sorted({*known} - {*chosen}):
        st.caption(f"In use elsewhere: {theme.markdown_text(', '.join(others))}")

    def act() -> None:
        say(_tagged(record.name, chosen), lambda: _tagged(record.name, record.tags))

    _ask("Save", act)


def _tagged(name: str, names: Sequence[str]) -> str:
    connection.engine().tag(name, tuple(names))
    return f"Study {name} has the tags {', '.join(names)}." if names else f"Study {name} has no tags."


# -- trials -------------------------------------------------------------------------------------------------------


@st.dialog("Run these parameters?", on_dismiss=live.release)
def enqueue(record: StudyRecord, params: Mapping[str, Any]) -> None:
    """`params` may be some of the study's parameters; the search chooses the others."""
    live.hold()
    ordered = in_declared_order(StudySpec.from_json(record.spec), params) if record.spec else params
    rows = [(theme.escape(name), theme.escape(theme.value_text(value))) for name, value in ordered.items()]
    st.html(pieces.table(["parameter", "value"], rows))
    st.markdown(f"They become the next trial of {_name(record)}.")
    more = st.checkbox("Raise the budget by this trial", value=True, key="enqueue-extend")

    def act() -> None:
        number = connection.engine().enqueue(record, dict(params), extend=more)
        say(f"Trial {number} of {record.name} waits for a worker.")

    _ask("Run it", act)


def run_again(record: StudyRecord, trial: TrialRecord) -> None:
    """The same parameters as a new trial."""
    enqueue(record, trial.params)


@st.dialog("Mark this trial as invalid?", on_dismiss=live.release)
def invalidate(record: StudyRecord, number: int) -> None:
    live.hold()
    st.markdown(
        f"Trial {number} of {_name(record)} leaves the ranking, and the search takes it for a failed one. "
        "Nothing is deleted, and you can take the mark back."
    )
    reason = st.text_input("Why", key="invalid-reason", placeholder="as: the labels leaked into the input").strip()

    def act() -> None:
        connection.engine().invalidate(record, number, reason)
        say(f"Trial {number} of {record.name} counts for nothing now.", lambda: _restored(record, number))

    _ask("Mark as invalid", act, disabled=not reason)


@st.dialog("Let this trial count again?", on_dismiss=live.release)
def restore(record: StudyRecord, number: int) -> None:
    live.hold()
    before = connection.engine().trial(record, number).invalid or "marked by hand"
    st.markdown(f"Trial {number} of {_name(record)} was marked as invalid: {theme.markdown_text(before)}")

    def undo() -> str:
        connection.engine().invalidate(record, number, before)
        return f"Trial {number} of {record.name} counts for nothing again."

    _ask("Let it count", lambda: say(_restored(record, number), undo))


def _restored(record: StudyRecord, number: int) -> str:
    connection.engine().restore(record, number)
    return f"Trial {number} of {record.name} counts again."


# -- workers ------------------------------------------------------------------------------------------------------


@st.dialog("Drain this worker?", on_dismiss=live.release)
def drain(worker: str) -> None:
    live.hold()
    st.markdown(f"**{theme.markdown_text(worker)}** takes no new trials and ends when those it runs have ended.")
    _ask("Drain", lambda: say(_drained(worker, True), lambda: _drained(worker, False)), scope=Scope.ADMIN)


@st.dialog("Let this worker go on?", on_dismiss=live.release)
def keep_working(worker: str) -> None:
    live.hold()
    st.markdown(f"**{theme.markdown_text(worker)}** takes new trials again.")
    _ask("Go on", lambda: say(_drained(worker, False), lambda: _drained(worker, True)), scope=Scope.ADMIN)


def _drained(worker: str, on: bool) -> str:
    connection.engine().drain(worker, on)
    return f"Worker {worker} takes no new trials." if on else f"Worker {worker} takes trials again."


# -- models -------------------------------------------------------------------------------------------------------


@st.dialog("Find out which is truly the best", on_dismiss=live.release)
def confirm(record: StudyRecord) -> None:
    live.hold()
    st.markdown(
        f"The best value of {_name(record)} is partly luck: it is the highest of many draws. A confirmation runs the "
        "best trials again with fresh seeds, and stops early when one is clearly ahead."
    )

    def act() -> None:
        made = connection.engine().confirm(record)
        say(f"The confirmation runs as study {made.name}; workers take it up.")

    _ask("Confirm", act)


@st.dialog("Promote", width="medium", on_dismiss=live.release)
def promote(record: StudyRecord, number: int | None = None, model: str | None = None) -> None:
    """Let an alias of `model` (None: of the study's name) name this trial's model; None: that of the best one."""
    live.hold()
    engine = connection.engine()
    known = [alias for found in engine.models() for alias in found.aliases]
    options = list(dict.fromkeys(["champion", "challenger", *known]))
    alias = st.selectbox("Alias", options, key="promote-alias", accept_new_options=True)
    if not alias:
        return
    try:
        trial, gates = _checked(record, number, alias, model)
    except AutoMLError as error:  # as a name that no alias can have, or no trial that is complete
        st.error(theme.markdown_text(str(error)))
        return
    _show_candidate(record, trial, engine.estimates(record).get(trial.number))
    st.html(gate_list(gates))
    refused = [gate for gate in gates if not gate.passed]
    force = False
    if refused and not any(gate.name == FILES for gate in refused):
        force = st.checkbox("Promote it all the same; this is written down", key="promote-force")
    hint = "needed when a gate is overruled" if refused else "optional; it stays in the history"
    reason = st.text_input("Reason", key="promote-reason", placeholder=hint).strip()

    def act() -> None:
        began_at = engine.clock()
        options = {"alias": alias, "model": model, "reason": reason or None, "force": force}
        moved = engine.promote(record, trial.number, **options)
        st.session_state.pop(_GATES, None)
        named = f"{moved.model}@{alias}"
        if moved.at < began_at:
            say(f"{named} was trial {trial.number} of {record.name} already.")
            return
        undo = (lambda: _rolled_back(moved.model, alias, "undone")) if moved.from_version is not None else None
        say(f"{named} is version {moved.to_version} now, trial {trial.number} of {record.name}.", undo)

    _ask("Promote", act, disabled=bool(refused) and not (force and reason), scope=Scope.PROMOTE)


def _checked(
    record: StudyRecord, number: int | None, alias: str, model: str | None
) -> tuple[TrialRecord, tuple[Gate, ...]]:
    """What the gates say; asked once for a dialog, because it takes seconds."""
    wanted = (record.id, number, alias, model)
    kept = st.session_state.get(_GATES)
    if kept is None or kept[0] != wanted:
        with st.spinner("Loading the model in a process of its own and checking it ..."):
            kept = (wanted, connection.engine().check_gates(record, number, alias=alias, model=model))
        st.session_state[_GATES] = kept
    return kept[1]


def _show_candidate(record: StudyRecord, trial: TrialRecord, estimate: Estimate | None) -> None:
    metric = record.metric_names[0]
    pairs = [("trial", str(trial.number)), (f"{metric}, as the search saw it", theme.number(trial.value))]
    if estimate is not None:
        pairs += [("to be expected", estimate_text(estimate)), ("truly the best", f"{100 * estimate.p_best:.0f} %")]
    st.html(pieces.facts(pairs))
    if estimate is None:
        st.caption("Not confirmed: the value is the luckiest of many. A confirmation tells what to expect.")


def estimate_text(estimate: Estimate) -> str:
    """`0.9712 (0.9655 to 0.9770)`, in HTML."""
    return (
        f"{theme.number(estimate.value)} "
        f'<span class="am-muted">({theme.number(estimate.low)} to {theme.number(estimate.high)})</span>'
    )


def gate_list(gates: Sequence[Gate]) -> str:
    """HTML: each gate with its figure, and what is wrong where it failed."""
    rows = []
    for gate in gates:
        sign = '<span class="am-good">✓</span>' if gate.passed else '<span class="am-bad">✕</span>'
        why = f'<span class="am-why am-bad">{theme.escape(gate.why)}</span>' if gate.why and not gate.passed else ""
        word = "passed" if gate.passed else "failed"
        rows.append(
            f'<li aria-label="{word}">{sign}<b>{theme.escape(gate.name)}</b>'
            f"<span>{theme.escape(gate.figure)}</span>{why}</li>"
        )
    return f'<ul class="am-gates">{"".join(rows)}</ul>'


@st.dialog("Roll back", on_dismiss=live.release)
def rollback(model: str, alias: str, now: int, before: int | None) -> None:
    """Let an alias name again what it named before: version `before` instead of `now`."""
    live.hold()
    whole = f"**{theme.markdown_text(f'{model}@{alias}')}**"
    if before is None:
        st.markdown(f"{whole} has named no other version before; there is nothing to go back to.")
    else:
        st.markdown(f"{whole} goes back from version {now} to version {before}.")
    reason = st.text_input("Reason", key="rollback-reason", placeholder="optional; it stays in the history").strip()
    version = connection.engine().model_version(f"{model}@{now}")

    def again() -> str:
        record = connection.engine().study(version.study)
        options = {"alias": alias, "model": model, "reason": "undone", "force": True}
        moved = connection.engine().promote(record, version.number, **options)
        return f"{model}@{alias} is version {moved.to_version} again."

    def act() -> None:
        say(_rolled_back(model, alias, reason or None), again)

    _ask("Roll back", act, disabled=before is None, scope=Scope.PROMOTE)


def _rolled_back(model: str, alias: str, reason: str | None) -> str:
    moved = connection.engine().rollback(model, alias=alias, reason=reason)
    return f"{model}@{alias} is version {moved.to_version} now."
