"""Why: what the search expected of its suggestions, against what came."""

from __future__ import annotations

from typing import Any

import streamlit as st

from automl.core import TrialRecord, TrialState
from automl.display import format_count
from dashboard import links, pieces, theme
from dashboard.figures.reasons import WITHIN_1, WITHIN_2, calibration, predicted_and_came
from dashboard.study_views.shared import Look, draw, picked_trial

#: Suggestions whose reasons are read and listed.
_LISTED = 20
#: What the kinds of suggestions are called, and what they mean.
_ARMS = {
    "design": "start: spread over the space",
    "portfolio": "start: what was good in past studies",
    "density": "where good trials are dense",
    "model": "the model's best bet",
    "global": "the model's best bet, far and wide",
    "local": "the model's best bet near the best",
    "region": "the model's best bet in a region",
    "direction": "one direction of the front",
}


def show(look: Look) -> None:
    if not len(look.board):
        theme.empty_state("No suggestions yet", "The reason for each suggestion appears here as soon as it is made.")
        return
    _calibration(look)
    trials = look.kept(lambda: _newest(look), "newest-reasons")
    explained = [trial for trial in trials if trial.why]
    if not explained:
        sampler = (look.record.spec or {}).get("sampler")
        whose = f"this study's is {sampler!r}" if sampler else "an Optuna program made this study"
        theme.empty_state("No reasons", f"Only the sampler “auto” says why it suggests a trial; {whose}.")
        return
    st.html(
        '<h3 class="am-section">The newest suggestions</h3>' + look.kept(lambda: _table(look, explained), "reasons")
    )


def _calibration(look: Look) -> None:
    found = look.kept(lambda: calibration(look.board), "calibration")
    if found is None:
        st.caption("Once trials that the model predicted have results, the two are compared here.")
        return
    st.html(
        pieces.facts(
            [
                ("predicted trials with a result", f"{found.trials:,}"),
                ("within 1 sd", f"{100 * found.within_1:.0f} % {_ideal(WITHIN_1)}"),
                ("within 2 sd", f"{100 * found.within_2:.0f} % {_ideal(WITHIN_2)}"),
            ]
        )
    )
    figure = look.kept(lambda: predicted_and_came(look.board, look.colours), "predicted")
    draw(figure, "why-calibration", "Predictions against results")
    st.caption(_verdict(found.trials, found.within_1, found.within_2))
    picked_trial(look)


def _ideal(share: float) -> str:
    return f'<span class="am-muted">(ideal {100 * share:.0f} %)</span>'


def _verdict(trials: int, within_1: float, within_2: float) -> str:
    if trials < 20:
        return "Too few results to judge the model by."
    if within_2 < 0.8:
        return "The model is too sure of itself: results are further from its predictions than it says."
    if within_1 > 0.9:
        return "The model is too careful: results are closer to its predictions than it says."
    return "The model's predictions hold as well as it says."


def _newest(look: Look) -> list[TrialRecord]:
    count = len(look.board)
    numbers = range(count - 1, max(count - 1 - _LISTED, -1), -1)
    return [look.engine.trial(look.record, number) for number in numbers]


def _table(look: Look, trials: list[TrialRecord]) -> str:
    """HTML; every cell is escaped."""
    metric = look.record.metric_names[0]
    head = ["trial", "kind of suggestion", f"predicted {metric}", "came", "off by", "feasible", "learnt from"]
    rows = [
        [
            pieces.link(str(trial.number), links.trial_href(look.record.name, trial.number)),
            theme.escape(_arm(trial.why)),
            _predicted(trial.why),
            _came(trial),
            _off(trial),
            _share(trial.why.get("feasible")),
            theme.escape(_learnt_from(trial.why)),
        ]
        for trial in trials
    ]
    shown = [i for i in range(len(head)) if i < 4 or any(row[i] != "–" for row in rows)]
    return pieces.table(
        [head[i] for i in shown],
        [[row[i] for i in shown] for row in rows],
        numbers=frozenset(place for place, i in enumerate(shown) if i in (2, 3, 4, 5)),
    )


def _number(value: Any) -> float | None:
    """What JSON could not say as a number, as infinity, is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _arm(why: Any) -> str:
    arm = str(why.get("arm", "–"))
    return _ARMS.get(arm, arm)


def _predicted(why: Any) -> str:
    mean, sd = _number(why.get("mean")), _number(why.get("sd"))
    return "–" if mean is None or sd is None else f"{theme.number(mean)} ± {sd:.2g}"


def _came(trial: TrialRecord) -> str:
    """The result; that of a trial which ended early is none that the model speaks of."""
    if trial.invalid is not None:
        return pieces.chip("invalid", "var(--am-bad)")
    complete = trial.state is TrialState.COMPLETE and trial.value is not None
    return theme.number(trial.value) if complete else pieces.trial_chip(trial.state)


def _off(trial: TrialRecord) -> str:
    mean, sd = _number(trial.why.get("mean")), _number(trial.why.get("sd"))
    if mean is None or not sd or trial.value is None or trial.state is not TrialState.COMPLETE:
        return "–"
    off = (trial.value - mean) / sd
    kind = "am-bad" if abs(off) > 2 else "am-muted"
    return f'<span class="{kind}">{off:+.1f} sd</span>'


def _share(value: Any) -> str:
    number = _number(value)
    return "–" if number is None else f"{100 * number:.0f} %"


def _learnt_from(why: Any) -> str:
    sources = why.get("sources") or {}
    if sources:
        return ", ".join(f"{name} {100 * float(weight):.0f} %" for name, weight in sources.items())
    rows = _number(why.get("model_rows"))
    return "–" if rows is None else format_count(round(rows), "result")
