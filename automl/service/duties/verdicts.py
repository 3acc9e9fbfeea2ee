"""What came of scheduled searches: whether the new one is better than the incumbent on today's data, and promotion.

The best of many trials was lucky, too. So it is not the two results that are compared, but what is to be expected of
either: by the confirmation, where the study declares one, else by what the search's model says of both points.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

from automl.core import Estimate, StudyRecord, StudyState, TrialRecord, TrialState, confirmed_best
from automl.cron import Cron
from automl.engine import Engine
from automl.errors import AutoMLError, DatabaseUnavailable, InvalidInput, NotFound, PromotionConflict
from automl.search.encoding import Encoding
from automl.search.seen import representatives
from automl.search.threads import one_thread
from automl.search.what_if import Known, Posterior, require
from automl.suggester import NO_CHANGE
from automl.team import Firing, Schedule

log = logging.getLogger("automl.duties")

#: From this probability on the new one is better. Below, the old one stays: it is known to work.
BETTER_FROM = 0.95
#: Trials among which the best one is looked for: some violate constraints.
_LOOKED_AT = 10


class Judge:
    """Writes a verdict for each search that a schedule has started and that is over, and promotes where it is to."""

    name = "verdicts"
    every_s = 10.0

    def __init__(self, engine: Engine):
        self._engine = engine
        self._engines: dict[str, Engine] = {}

    def step(self) -> None:
        for schedule, firing in self._engine.schedules.ended():
            if schedule.project not in self._engines:
                self._engines[schedule.project] = self._engine.of_project(schedule.project)
            engine = self._engines[schedule.project]
            try:
                verdict = verdict_on(engine, schedule, firing)
            except DatabaseUnavailable:
                raise
            except AutoMLError as error:
                verdict = {"better": False, "reason": f"it could not be judged: {error}"}
            if verdict is not None and engine.schedules.judge(firing, verdict):
                log.info("schedule %s: %s: %s", schedule.name, firing.study, verdict["reason"])


def verdict_on(engine: Engine, schedule: Schedule, firing: Firing) -> dict[str, Any] | None:
    """What came of a firing; None while its winner is being confirmed, or somebody else moves the alias.

    `better`, `reason`; `p_better` (None without an incumbent); `winner`, the number of the trial to take; `incumbent`
    and `best`, what to expect of both; `promoted`, the version, or `refused`, why it is none.

    It may be asked for again and again: it promotes once.
    """
    try:
        record = engine.study_by_id(firing.study_id or 0)
    except NotFound:
        return {"better": False, "reason": "its study was deleted"}
    if record.state is StudyState.OPEN:
        return None
    if record.state is not StudyState.FINISHED:
        return {"better": False, "reason": record.state.value + (f": {record.reason}" if record.reason else "")}
    if _is_being_confirmed(engine, record):
        return None
    found = compared(engine, record)
    if not found["better"] or schedule.promote is None:
        return found
    promoted = _promoted(engine, schedule, firing, record, found["winner"])
    return None if promoted is None else found | promoted


def _is_being_confirmed(engine: Engine, record: StudyRecord) -> bool:
    """Whether to wait. A confirmation that nobody has begun is queued here."""
    if not record.is_to_be_confirmed:
        return False
    try:
        newest = engine.confirmation(record) or engine.confirm(record)
    except InvalidInput:  # there is nothing to confirm
        return False
    return newest.state is StudyState.OPEN


def compared(engine: Engine, record: StudyRecord) -> dict[str, Any]:
    """Whether a finished search has found something better than what it was given to beat."""
    if len(record.directions) > 1:
        return {"better": False, "reason": "several metrics have no one best; choose a trial yourself"}
    best = [trial for trial in engine.best_trials(record, _LOOKED_AT) if not trial.violated]
    if not best:
        return {"better": False, "reason": "no trial is complete and keeps its constraints"}
    estimates = engine.estimates(record)
    number = engine.schedules.incumbent(record)
    if number is None:
        winner = confirmed_best(estimates) if estimates else best[0].number
        value = _value(engine.trial(record, winner), estimates)
        return {"better": True, "p_better": None, "reason": "it is the first one", "winner": winner, "best": value}
    incumbent = engine.trial(record, number)
    others = [trial for trial in best if trial.number != number]
    if estimates:  # the likeliest best of those that were confirmed
        ranked = sorted(estimates, key=lambda n: estimates[n].p_best, reverse=True)
        others = [engine.trial(record, n) for n in ranked if n != number] or others
    if not others:
        return {"better": False, "reason": "nothing but the incumbent has a result", "winner": number}
    new = others[0]
    told = {"incumbent": _value(incumbent, estimates), "best": _value(new, estimates)}
    if incumbent.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        why = f"the incumbent has no result today ({incumbent.state.value}), so there is nothing to compare with"
        return {"better": False, "p_better": None, "reason": why, **told}
    p_better = 1.0 if incumbent.violated else _p_better(engine, record, incumbent, new, estimates)
    if p_better is None:
        return {"better": False, "p_better": None, "reason": "too few results to tell", "winner": number, **told}
    better = p_better >= BETTER_FROM
    if incumbent.violated:
        reason = f"the incumbent violates {', '.join(incumbent.violated)} today"
    elif better:
        reason = f"better than the incumbent (P = {100 * p_better:.0f} %)"
    else:
        early = record.reason if (record.reason or "").startswith(NO_CHANGE) else None
        reason = early or f"not clearly better than the incumbent (P = {100 * p_better:.0f} %)"
    winner = new.number if better else number
    return {"better": better, "p_better": p_better, "reason": reason, "winner": winner, **told}


def _p_better(
    engine: Engine, record: StudyRecord, old: TrialRecord, new: TrialRecord, estimates: Mapping[int, Estimate]
) -> float | None:
    """The probability that more is to be expected of `new` than of `old`; None when there are too few results."""
    if old.number in estimates and new.number in estimates:
        (was, was_sd), (now, now_sd) = (
            (estimate.value, (estimate.high - estimate.low) / (2 * 1.96))
            for estimate in (estimates[old.number], estimates[new.number])
        )
        gain = (now - was) * (1.0 if record.directions[0] == "maximize" else -1.0)
        sd = math.hypot(was_sd, now_sd)
        return NormalDist().cdf(gain / sd) if sd > 0 else float(gain > 0)
    board = engine.board(record)
    space = engine.space(record, board)
    try:
        require(board)
        assert space is not None
        # Of today's trials alone: the searches before this one saw other data.
        with one_thread():
            rows = representatives(board, Encoding.of(space))
            return Posterior(board, space, rows, Known()).p_better(old.params, new.params)
    except InvalidInput:
        return None


def _value(trial: TrialRecord, estimates: Mapping[int, Estimate]) -> float | None:
    """What is to be expected where it is known, else what was seen."""
    return estimates[trial.number].value if trial.number in estimates else trial.value


def _promoted(
    engine: Engine, schedule: Schedule, firing: Firing, record: StudyRecord, winner: int
) -> dict[str, Any] | None:
    """Let the alias name the winner, once, through the gates; None when somebody else is moving the alias."""
    local = Cron(schedule.cron, schedule.timezone).local(firing.tick)
    reason = f"schedule {schedule.name}, {local:%Y-%m-%d %H:%M %z}"
    try:
        history = engine.promotions(schedule.name, schedule.promote)
    except NotFound:  # the model's first version
        history = []
    for move in history:  # this process, or another, died before it could say so; who took it back since, meant it
        if move.kind == "promote" and move.reason == reason:
            return {"promoted": move.to_version}
    options = {"alias": schedule.promote, "model": schedule.name, "reason": reason, "who": f"schedule {schedule.name}"}
    try:
        return {"promoted": engine.promote(record, winner, **options).to_version}
    except PromotionConflict:
        return None
    except DatabaseUnavailable:
        raise
    except AutoMLError as error:  # a gate failed, a file is not on this machine
        return {"promoted": None, "refused": str(error)}
