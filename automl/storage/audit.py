"""Reads a study's rows and its append-only history, and says where a guarantee was broken.

The rows are what the system believes, the history is what the database's triggers saw. Every check compares the two,
or the history with `core.MOVES`; none trusts the code that wrote them. See docs/guarantees.md.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import sqlalchemy as sa

from automl.core import MOVES, FailureKind, StudyState, TrialState
from automl.errors import NotFound
from automl.storage.database import Database, now
from automl.storage.tables import event, report, study, trial

#: A lease that is over for longer than this was forgotten: somebody looks twice a second, if anybody runs at all.
OVERDUE_S = 60.0

_WITH_RESULT = {TrialState.COMPLETE.value, TrialState.PRUNED.value}
#: What happens to a result that stays as it is, and to which trials.
_MARKS = {"invalidated", "restored"}
_MARKABLE = {*_WITH_RESULT, TrialState.FAILED.value}
#: First moves of trials that the budget counts. Optuna programs add others, and ask nobody.
_BUDGETED = {"suggested", "enqueued"}
#: Columns that count moves: the causes that each of them counts.
_COUNTERS = {
    "errors": {FailureKind.ERROR.value},
    "lost": {FailureKind.LOST.value, "poison"},
    "preempted": {FailureKind.PREEMPTED.value},
}

_Move = Any  # a row of `event`
_Trial = Any  # a row of `trial`


def audit(database: Database, study_id: int, overdue_s: float = OVERDUE_S) -> list[str]:
    """What is wrong with a study, one line each; empty when it is sound. Reads one moment's state and writes nothing.

    `overdue_s`: seconds for which a lease may be over without anybody having taken the trial back.

    Raises `NotFound` when there is no such study.
    """
    # One moment: row and history of a trial that moves meanwhile would disagree.
    with database.snapshot() as connection:
        row = connection.execute(sa.select(study, now().label("clock")).where(study.c.id == study_id)).first()
        trials = connection.execute(sa.select(trial).where(trial.c.study_id == study_id).order_by(trial.c.number)).all()
        events = connection.execute(sa.select(event).where(event.c.study_id == study_id).order_by(event.c.seq)).all()
        of_trial = trial.c.id == report.c.trial_id
        written = sa.select(report.c.trial_id, report.c.attempt).join(trial, of_trial)
        written = written.where(trial.c.study_id == study_id)
        reports = connection.execute(written.distinct()).all()
    if row is None:
        raise NotFound(f"study {study_id} is gone", field="study")

    history: dict[int | None, list[_Move]] = defaultdict(list)
    for move in events:
        history[move.trial_id].append(move)
    reported: dict[int, set[int]] = defaultdict(set)
    for item in reports:
        reported[item.trial_id].add(item.attempt)

    found = [*_study_problems(row, trials, history), *_token_problems(events)]
    for item in trials:
        moves = history.get(item.id, [])
        problems = list(_trial_problems(item, moves, reported[item.id]))
        if item.lease_expires_at is not None and row.clock - item.lease_expires_at > overdue_s:
            over_s = row.clock - item.lease_expires_at
            problems.append(f"its lease was over {over_s:.0f} s ago and nobody took it back: is a worker running?")
        found += [f"trial {item.number}: {problem}" for problem in problems]
    return found


def _study_problems(row: Any, trials: Sequence[_Trial], history: dict[int | None, list[_Move]]) -> Iterator[str]:
    numbers = [item.number for item in trials]
    if numbers != list(range(len(numbers))):
        yield f"numbers are not 0 to {len(numbers) - 1}, each once: {_some(_off(numbers))}"
    if row.next_number != len(numbers):
        yield f"next number is {row.next_number}, but {len(numbers)} trials were made"
    cancelled = sum(item.state == TrialState.CANCELLED.value for item in trials)
    if row.cancelled != cancelled:
        yield f"{row.cancelled} numbers were given back to the budget, but {cancelled} trials are cancelled"
    if row.max_trials is not None:
        counted = [item for item in trials if item.state != TrialState.CANCELLED.value]
        beyond = [t.number for t in counted[row.max_trials :] if (history.get(t.id) or [t])[0].cause in _BUDGETED]
        if beyond:
            yield f"the budget of {row.max_trials} trials is exceeded by {_some(beyond)} (or was lowered since)"
    own = history.get(None, [])
    if not own or own[-1].state != row.state:
        yield f"is {row.state}, its history says {own[-1].state if own else 'nothing'}"
    paused = False
    for move in own:
        paused = move.state == StudyState.OPEN.value and move.cause != "resumed" and (paused or move.cause == "paused")
    if row.paused != paused:
        yield f"is {'' if row.paused else 'not '}paused, its history says otherwise"
    if row.state != StudyState.OPEN.value:
        unfinished = [item for item in trials if not TrialState(item.state).is_finished]
        left = [t.number for t in unfinished if (history.get(t.id) or [t])[0].cause == "suggested"]
        if left:
            yield f"is {row.state}, but these trials are not over: {_some(left)}"
    unknown = set(history) - {item.id for item in trials} - {None}
    if unknown:
        yield f"the history tells of trials that are gone: ids {_some(sorted(unknown, key=str))}"


def _token_problems(events: Sequence[_Move]) -> Iterator[str]:
    claims = Counter(move.token for move in events if move.cause == "claimed" and move.token is not None)
    for token, count in claims.items():
        if count > 1:
            yield f"token {token} was used for {count} claims"


def _trial_problems(item: _Trial, moves: Sequence[_Move], reported: set[int]) -> Iterator[str]:
    if not moves:
        yield "has no history"
        return
    yield from _chain_problems(item, moves)
    yield from _claim_problems(item, moves)
    yield from _result_problems(item, moves)
    yield from _mark_problems(item, moves)
    yield from _checkpoint_problems(item, moves)
    for column, causes in _COUNTERS.items():
        counted = sum(move.cause in causes for move in moves)
        if getattr(item, column) != counted:
            yield f"{column} is {getattr(item, column)}, its history tells of {counted}"
    for attempt in sorted(reported):
        if attempt > item.attempt:
            yield f"a report is of attempt {attempt}, but there were only {item.attempt}"
        elif attempt not in {move.attempt for move in moves}:
            yield f"a report is of attempt {attempt}, of which the history knows nothing"


def _chain_problems(item: _Trial, moves: Sequence[_Move]) -> Iterator[str]:
    for before, after in pairwise(moves):
        allowed = TrialState(after.state) in MOVES[TrialState(before.state)]
        in_place = after.cause == "revised" or (after.cause in _MARKS and before.state in _MARKABLE)
        if not allowed and not (before.state == after.state and in_place):
            yield f"moved from {before.state} to {after.state} ({after.cause}), which is no move"
        if after.at < before.at - 1.0:  # clocks are set now and then; a second is within reason
            yield f"moved to {after.state} {before.at - after.at:.1f} s before it was {before.state}"
    if moves[-1].state != item.state:
        yield f"is {item.state}, its history says {moves[-1].state}"
    if TrialState(item.state).is_finished:
        if item.lease_token is not None or item.lease_expires_at is not None:
            yield f"is {item.state} and still has a lease"
        if item.finished_at is None:
            yield f"is {item.state}, but not since when"
    elif item.finished_at is not None:
        yield f"is {item.state}, but ended"


def _claim_problems(item: _Trial, moves: Sequence[_Move]) -> Iterator[str]:
    for before, after in pairwise(moves):
        step = 1 if after.cause == "claimed" else 0
        if after.attempt != before.attempt + step:
            yield f"went from attempt {before.attempt} to {after.attempt} when it was {after.cause}"
        if after.cause == "claimed" and before.state != TrialState.WAITING.value:
            yield f"attempt {after.attempt} was claimed while it was {before.state}"
        if before.state == TrialState.RUNNING.value and after.token != before.token:
            yield f"{after.cause} in attempt {after.attempt} came with another lease than was claimed"
    if moves[-1].attempt != item.attempt:
        yield f"is at attempt {item.attempt}, its history says {moves[-1].attempt}"
    if item.state == TrialState.RUNNING.value and item.lease_token != moves[-1].token:
        yield "runs under another lease than was claimed"


def _result_problems(item: _Trial, moves: Sequence[_Move]) -> Iterator[str]:
    results = [move for move in moves if move.state in _WITH_RESULT and move.cause not in _MARKS]
    if len(results) > 1:
        yield f"has {len(results)} accepted results"
    claims = [move for move in moves if move.cause == "claimed"]
    current = claims[-1].token if claims else None
    if item.state in _WITH_RESULT and item.result_token != current:
        yield f"its result came from lease {item.result_token}, current was {current}"
    if item.state in _WITH_RESULT and claims and claims[-1].attempt != item.attempt:
        yield f"its result is of attempt {claims[-1].attempt}, it is at {item.attempt}"
    if item.state not in _WITH_RESULT and item.result_token is not None:
        yield f"is {item.state} and has a result"
    if item.value is not None and math.isnan(item.value):
        yield "its value is NaN"


def _mark_problems(item: _Trial, moves: Sequence[_Move]) -> Iterator[str]:
    marks = [move.cause for move in moves if move.cause in _MARKS]
    if marks != (["invalidated", "restored"] * len(marks))[: len(marks)]:
        yield f"was {', '.join(marks)}, in an order that cannot be"
    if (item.invalid is not None) != (marks[-1:] == ["invalidated"]):
        yield f"is {'in' if item.invalid is not None else ''}valid, its history says otherwise"


def _checkpoint_problems(item: _Trial, moves: Sequence[_Move]) -> Iterator[str]:
    steps = [-1 if move.checkpoint_step is None else move.checkpoint_step for move in moves]
    for move, (before, after) in zip(moves[1:], pairwise(steps), strict=True):
        if after < before:
            yield f"attempt {move.attempt} ({move.cause}) has checkpoint {after}, acknowledged was {before}"
    if (-1 if item.checkpoint_step is None else item.checkpoint_step) < steps[-1]:
        yield f"its checkpoint is of step {item.checkpoint_step}, acknowledged was {steps[-1]}"
    if item.checkpoint_attempt is not None and item.checkpoint_attempt > item.attempt:
        yield f"its checkpoint is of attempt {item.checkpoint_attempt}, but there were only {item.attempt}"


def _off(numbers: Sequence[int]) -> list[int]:
    """Those that are missing or come twice."""
    twice = [number for number, count in Counter(numbers).items() if count > 1]
    return sorted(set(range(len(numbers))) - set(numbers)) + twice


def _some(items: Sequence[Any]) -> str:
    """The first few of them."""
    shown = ", ".join(map(str, items[:5]))
    return f"{shown}, ... ({len(items)})" if len(items) > 5 else shown
