"""One trial: what it tried and came to, what happened on the way, what it left behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st

from automl.board import Board
from automl.core import Artifact, Estimate, StudyRecord, TrialRecord, TrialState
from automl.display import format_count
from automl.engine import Engine
from dashboard import actions, connection, links, live, pieces, theme
from dashboard.figures import trial as figures

_STYLE = Path(__file__).parents[1] / "static" / "details.css"
#: Bytes of a log that are shown; the whole of it can be downloaded.
_LOG_BYTES = 60_000
#: How the search chose the point, in words.
_ARMS = {
    "design": "a point that fills the space, before the model",
    "portfolio": "a point that was good in past studies",
    "model": "the model's best bet",
    "region": "the model's best bet near a good point",
    "local": "the model's best bet, seen from the best results",
    "global": "the model's best bet, seen from everywhere",
    "direction": "the model's best bet in one direction of the front",
    "density": "where good points are dense and others are not",
}


@dataclass(frozen=True)
class _Look:
    """A moment of a trial."""

    engine: Engine
    board: Board
    trial: TrialRecord
    moves: tuple[dict[str, Any], ...]
    now: float

    @property
    def record(self) -> StudyRecord:
        return self.board.study

    @property
    def row(self) -> int:
        return self.trial.number

    @property
    def is_best(self) -> bool:
        return self.board.best == self.row


def main() -> None:
    name, number = links.named_study(), links.named_trial()
    look = _look(name, number)
    st.html(f"<style>{_STYLE.read_text()}</style>")
    _header(look)
    _buttons(look)
    if look.trial.invalid is not None:
        st.html(f'<p class="am-note am-warn">Counts for nothing: {theme.escape(look.trial.invalid)}</p>')
    if look.trial.failure is not None and look.trial.state is not TrialState.COMPLETE:
        _failure(look)
    left, right = st.columns([3, 2], gap="medium")
    with left:
        _parameters(look)
        _curve(look)
    with right:
        _results(look)
        _reason(look)
    _attempts(look)
    _log(look)
    left, right = st.columns(2, gap="medium")
    with left:
        _artifacts(look)
    with right:
        _environment(look)
    live.follow(lambda: _signature(_look(name, number)), _signature(look))


def _look(name: str, number: int) -> _Look:
    engine, board = connection.engine(), connection.board(name)
    trial = engine.trial(board.study, number)
    if number >= len(board):  # it was made after the board was read
        board = engine.board(board.study, board)
    return _Look(engine, board, trial, tuple(engine.moves(trial)), engine.clock())


def _signature(look: _Look) -> tuple[object, ...]:
    """What this page shows that can change. As text: a NaN differs from itself."""
    best = look.board.best
    log = 0
    if look.trial.state is TrialState.RUNNING:
        path = look.engine.log_path(look.record.id, look.row, look.trial.attempt)
        log = path.stat().st_size if path.is_file() else 0
    return repr(look.trial), len(look.moves), best, log, repr(look.record)


# -- head ------------------------------------------------------------------------------------------------------------


def _header(look: _Look) -> None:
    trial = look.trial
    chips = pieces.trial_chip(trial.state)
    if trial.invalid is not None:
        chips += pieces.chip("invalid", "var(--am-warn)", "✕")
    elif look.is_best:
        chips += pieces.chip("best", "var(--am-good)", "★")
    words = [f"of {pieces.link(look.record.name, links.study_href(look.record.name))}"]
    if trial.started_at is not None:
        words.append(f"started {theme.moment(trial.started_at)}")
        seconds = (trial.finished_at or look.now) - trial.started_at
        words.append(f"{'took' if trial.state.is_finished else 'for'} {theme.duration(seconds)}")
    if trial.worker:
        words.append(f"on {theme.escape(trial.worker)}")
    theme.header(f"Trial {trial.number}", chips, " · ".join(words))


def _buttons(look: _Look) -> None:
    record, trial = look.record, look.trial
    with st.container(key="trial-actions", horizontal=True):
        if st.button("Run again", key="trial-again", help="The same parameters as a new trial"):
            actions.run_again(record, trial)
        if trial.invalid is not None:
            if st.button("Restore", key="trial-restore", help="Let its result count again"):
                actions.restore(record, trial.number)
        elif (
            trial.state.is_finished
            and trial.state is not TrialState.CANCELLED
            and st.button(
                "Mark as invalid", key="trial-invalid", help="Take its result out of the search and of the ranking"
            )
        ):
            actions.invalidate(record, trial.number)
        can = trial.state is TrialState.COMPLETE and trial.invalid is None
        if can and st.button("Promote", key="trial-promote", type="primary" if look.is_best else "secondary"):
            actions.promote(record, trial.number)
        st.space("stretch")
        for word, other in (("←", trial.number - 1), ("→", trial.number + 1)):
            there = 0 <= other < len(look.board)
            if st.button(word, key=f"trial-{word}", help=f"Trial {other}" if there else None, disabled=not there):
                links.to_trial(record.name, other)


def _failure(look: _Look) -> None:
    failure = look.trial.failure
    assert failure is not None
    again = " It waits for another attempt." if look.trial.state is TrialState.WAITING else ""
    trace = f'<pre class="am-log">{theme.html.escape(failure.traceback.strip())}</pre>' if failure.traceback else ""
    kind = failure.kind.value.replace("_", " ")
    with st.container(key="card-trial-failure"):
        st.html(
            f'<h3 class="am-bad">{"Failed" if look.trial.state is TrialState.FAILED else "The last attempt failed"}: '
            f"{theme.escape(kind)}</h3><p>{theme.escape(failure.message)}{again}</p>{trace}"
        )


# -- what it tried, what came ----------------------------------------------------------------------------------------


def _parameters(look: _Look) -> None:
    ordered = {name: look.trial.params[name] for name in look.board.params if name in look.trial.params}
    ordered |= look.trial.params
    with st.container(key="card-trial-parameters"):
        if not ordered:
            st.html("<h3>Parameters</h3><p>None yet: the sampler gives them before it starts.</p>")
            return
        rows = figures.parameter_rows(look.board, look.row, ordered)
        head = ["parameter", "value", "in its range", ""]
        if any(row[3] for row in rows):
            head[3] = f"best, trial {look.board.best}"
        else:
            rows, head = [row[:3] for row in rows], head[:3]
        st.html(f"<h3>Parameters</h3>{pieces.table(head, rows)}")


def _results(look: _Look) -> None:
    trial, board = look.trial, look.board
    with st.container(key="card-trial-results"):
        st.html(f"<h3>Result</h3>{_value(look)}")
        estimate = look.engine.estimates(look.record).get(trial.number)
        if estimate is not None:
            st.html(_honest(estimate, look))
        names = look.record.metric_names
        rows = [[theme.escape(n), theme.number(v)] for n, v in zip(names[1:], (trial.values or ())[1:], strict=False)]
        rows += [
            [theme.escape(name), theme.number(value)] for name, value in trial.metrics.items() if name not in names
        ]
        if rows:
            st.html(pieces.table(["further metrics", ""], rows, numbers=frozenset({1})))
        if trial.constraints:
            kept = [
                [_sign(value), theme.escape(name), theme.number(value)] for name, value in trial.constraints.items()
            ]
            st.html(pieces.table(["", "constraint, kept at 0 or below", ""], kept, numbers=frozenset({2})))
        if trial.facts:
            facts = [[theme.escape(name), theme.escape(theme.value_text(value))] for name, value in trial.facts.items()]
            st.html(pieces.table(["noted", ""], facts))
        if not len(board.ranking) and not trial.state.is_finished:
            st.html("<p>No trial of this study has a result yet.</p>")


def _value(look: _Look) -> str:
    """HTML: the first metric, large, with its place among the others."""
    trial, board = look.trial, look.board
    name = theme.escape(look.record.metric_names[0])
    if trial.value is None:
        last = trial.last_value
        words = "no result" if last is None else f"{theme.number(last)} at step {trial.step}"
        return f'<p class="am-big"><span class="am-muted">{name}</span><b>{words}</b></p>'
    before = np.flatnonzero(board.ranking == look.row)
    rank = f"rank {before[0] + 1:,} of {len(board.ranking):,}" if len(before) else "not ranked"
    best = ""
    if board.best is not None and not look.is_best:
        theirs = float(board.values[board.best, 0])
        href = links.trial_href(look.record.name, board.best)
        best = f"; the best is {pieces.link(theme.number(theirs), href)}"
    number = theme.number(trial.value)
    place = f'<span class="am-muted">{rank}{best}</span>'
    return f'<p class="am-big"><span class="am-muted">{name}</span><b>{number}</b>{place}</p>'


def _honest(estimate: Estimate, look: _Look) -> str:
    """HTML: what is to be expected of it, beside the lucky value."""
    where = "on held-out data" if estimate.held_out else "with fresh seeds"
    sure = f"{100 * estimate.p_best:.0f} %"
    runs = f"{format_count(estimate.runs, 'run')} {where}"
    pairs = [("to be expected", actions.estimate_text(estimate)), ("truly the best", sure), ("told by", runs)]
    return f'<div class="am-honest-card">{pieces.facts(pairs)}</div>'


def _sign(value: float) -> str:
    return '<span class="am-good">✓</span>' if value <= 0 else '<span class="am-bad">✕</span>'


def _reason(look: _Look) -> None:
    why = look.trial.why
    if not why:
        return
    arm = str(why.get("arm", "")).split(",")[0]
    pairs = [("chosen as", theme.escape(_ARMS.get(arm, arm or "a suggestion")))]
    mean, sd = (_finite(why.get(key)) for key in ("mean", "sd"))
    if mean is not None and sd is not None:
        pairs.append(("predicted", f"{theme.number(mean)} ± {sd:.2g}"))
        if look.trial.value is not None and sd > 0:
            off = (look.trial.value - mean) / sd
            pairs.append(("came", f"{theme.number(look.trial.value)} <small class='am-muted'>{off:+.1f} sd</small>"))
    feasible = _finite(why.get("feasible"))
    if feasible is not None:
        pairs.append(("chance of keeping to the constraints", f"{100 * feasible:.0f} %"))
    if _finite(why.get("model_rows")) is not None:
        pairs.append(("learnt from", format_count(why["model_rows"], "result")))
    if _finite(why.get("ms")) is not None:
        pairs.append(("thought for", f"{why['ms']:.0f} ms"))
    with st.container(key="card-trial-reason"):
        st.html(f"<h3>Why this point</h3>{pieces.facts(pairs)}")


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        return None
    return float(value)


def _curve(look: _Look) -> None:
    best = look.board.best
    found = look.engine.curves(look.record, list({look.row, best} if best is not None else {look.row}))
    mine = found[look.row]
    if not len(mine.steps):
        return
    drawn = figures.curve(look.board, look.row, mine, None if best is None else found[best], theme.palette())
    with st.container(key="card-trial-curve"):
        st.html("<h3>Learning curve</h3>")
        st.plotly_chart(
            drawn,
            key="trial-curve",
            theme=None,
            config=dict(theme.PLOT_CONFIG),
            alt=f"What trial {look.row} reported at each of {len(mine.steps)} steps",
        )


# -- what happened, what is left ---------------------------------------------------------------------------------------


def _attempts(look: _Look) -> None:
    found = figures.attempts(look.moves)
    if not found:
        return
    with st.container(key="card-trial-attempts"):
        st.html(f"<h3>Attempts</h3>{figures.attempt_lines(found, look.now)}")


def _log(look: _Look) -> None:
    last = look.trial.attempt
    if last < 1:
        return
    with st.container(key="card-trial-log"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.html("<h3>Log</h3>")
            attempt = last
            if last > 1:
                attempt = st.selectbox(
                    "Attempt",
                    range(last, 0, -1),
                    format_func=lambda n: f"attempt {n}",
                    key=f"trial-log-{look.record.id}-{look.row}-{last}",
                    label_visibility="collapsed",
                    width=150,
                )
            path = look.engine.log_path(look.record.id, look.row, attempt)
            if path.is_file() and path.stat().st_size > _LOG_BYTES:
                st.download_button(
                    "Download all of it",
                    path.read_bytes,
                    file_name=path.name,
                    mime="text/plain",
                    key="trial-log-file",
                    on_click="ignore",
                )
        text = look.engine.log_tail(look.record, look.row, attempt, _LOG_BYTES)
        if text is None:
            st.html("<p>It is on the machine that ran this attempt.</p>")
        elif not text.strip():
            st.html("<p>It printed nothing.</p>")
        else:
            # The last line first: so the browser stays at the end, where the news are.
            st.html(f'<div class="am-tail"><pre class="am-log">{theme.html.escape(text.rstrip())}</pre></div>')


def _artifacts(look: _Look) -> None:
    with st.container(key="card-trial-files"):
        st.html("<h3>Files</h3>")
        if not look.trial.artifacts:
            st.html("<p>It left none.</p>")
        for file in look.trial.artifacts:
            _file(look, file)


def _file(look: _Look, file: Artifact) -> None:
    path = look.engine.artifacts.path(file)
    with st.container(horizontal=True, vertical_alignment="center"):
        digest = theme.escape(file.sha256)
        st.html(
            f'<span class="am-file"><b>{theme.escape(file.name)}</b> {theme.amount(file.size)} '
            f'<code class="am-muted" title="{digest}">{digest[:12]}</code></span>',
            width="stretch",
        )
        there = path.is_file()
        st.download_button(
            "Download",
            path.read_bytes if there else b"",  # read when it is clicked
            file_name=file.name,
            mime="application/octet-stream",
            key=f"trial-file-{file.name}",
            on_click="ignore",
            disabled=not there,
            help=None if there else "It is on another machine, or was deleted",
        )


def _environment(look: _Look) -> None:
    found = dict(look.engine.environment(look.trial))
    with st.container(key="card-trial-environment"):
        known = [word for word in ("python", "platform") if word in found]
        pairs: list[tuple[str, str]] = [(word, theme.escape(found.pop(word))) for word in known]
        if look.record.code_sha256:
            digest = theme.escape(look.record.code_sha256)
            pairs.append(("code", f'<code title="{digest}">{digest[:12]}</code>'))
        if look.record.entrypoint:
            pairs.append(("entry point", theme.escape(look.record.entrypoint)))
        st.html(f"<h3>Environment</h3>{pieces.facts(pairs) if pairs else '<p>Not known.</p>'}")
        if found:
            versions = "".join(f"<li>{theme.escape(k)} <b>{theme.escape(v)}</b></li>" for k, v in sorted(found.items()))
            st.html(f'<details class="am-more"><summary>{len(found)} packages</summary><ul>{versions}</ul></details>')


main()
