"""Trials: page, read, enqueue, invalidate; and ask, tell, report, for trainers in any language."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from automl.client.shapes import Page
from automl.core import Failure, FailureKind, Outcome, Report, TrialRecord, TrialState
from automl.errors import LeaseLost
from automl.service.answers import answer, says
from automl.service.bodies import MAX_COUNT, Ask, Because, Enqueued, Limit, Reported, Told
from automl.service.callers import Reader, RowId, Submitter, Worker
from automl.service.leases import check_outcome, prefixed

router = APIRouter(tags=["trials"])

Number = Annotated[int, Path(ge=0, le=MAX_COUNT, description="Of the trial in its study.")]

#: Trials that a study is suggested for while somebody asks, and seconds for which one that asks is waited for.
_ASKED_SLOTS, _ASKED_S = 2, 30.0
#: Seconds after which it pays to ask again.
_AGAIN_S = 1.0


@dataclass(frozen=True)
class Made:
    """A trial that was made."""

    number: int


@dataclass(frozen=True)
class Given:
    """A trial to work on, or none for now."""

    token: str | None  #: what `tell` and `report` want to have; None: ask again after `retry_after_s`
    number: int | None = None
    params: Mapping[str, Any] | None = None
    attempt: int | None = None
    lease_s: float | None = None  #: it goes to somebody else when nothing is heard of it for so long
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Kept:
    """What to do after a report."""

    prune: bool  #: the trial is worth ending now: tell "pruned"


@router.get("/studies/{study_id}/trials", responses=says(Page[TrialRecord]))
def page(
    study_id: RowId,
    caller: Reader,
    limit: Annotated[Limit, Query()] = 100,
    after: Annotated[int | None, Query(ge=0, le=MAX_COUNT, description="`next` of the page before.")] = None,
    state: Annotated[list[TrialState] | None, Query(max_length=10, description="Of these states only.")] = None,
) -> Response:
    """Trials by number, page by page."""
    record = caller.engine.study_by_id(study_id)
    found = caller.engine.trials(record, state or None, after=after, limit=limit + 1)
    items = found[:limit]
    return answer(Page(items, items[-1].number if len(found) > limit else None))


@router.get("/studies/{study_id}/trials/{number}", responses=says(TrialRecord))
def one(study_id: RowId, number: Number, caller: Reader) -> Response:
    """A trial with its artifacts."""
    return answer(caller.engine.trial(caller.engine.study_by_id(study_id), number))


@router.get("/studies/{study_id}/invalid-trials", responses=says(list[TrialRecord]))
def invalid(study_id: RowId, caller: Reader) -> Response:
    """Trials whose results were taken out, by number."""
    return answer(caller.engine.invalid_trials(caller.engine.study_by_id(study_id)))


@router.get("/studies/{study_id}/finished-trials", responses=says(list[TrialRecord]))
def finished(study_id: RowId, caller: Reader, since: float) -> Response:
    """Trials that ended at or after `since` (seconds since the epoch, see `/clock`), in that order."""
    return answer(caller.engine.finished_since(caller.engine.study_by_id(study_id), since))


@router.post("/studies/{study_id}/trials", responses=says(Made, 201), status_code=201)
def enqueue(study_id: RowId, body: Enqueued, caller: Submitter) -> Response:
    """Add a trial with these parameters; the search chooses the others."""
    record = caller.engine.study_by_id(study_id)
    return answer(Made(caller.engine.enqueue(record, body.params, extend=body.extend)), 201)


@router.post("/studies/{study_id}/trials/{number}/invalidate", status_code=204)
def invalidate(study_id: RowId, number: Number, body: Because, caller: Submitter) -> None:
    """Take the result of a finished trial out of the search and of the ranking."""
    caller.engine.invalidate(caller.engine.study_by_id(study_id), number, body.reason)


@router.post("/studies/{study_id}/trials/{number}/restore", status_code=204)
def restore(study_id: RowId, number: Number, caller: Submitter) -> None:
    """Let the result of an invalid trial count again."""
    caller.engine.restore(caller.engine.study_by_id(study_id), number)


@router.get("/studies/{study_id}/trials/{number}/log", responses=says(str | None))
def log(
    study_id: RowId,
    number: Number,
    caller: Reader,
    attempt: Annotated[int, Query(ge=1, le=MAX_COUNT)],
    limit_bytes: Annotated[int, Query(ge=1, le=1_000_000)] = 200_000,
) -> Response:
    """The end of what an attempt printed, without escape codes; null when the service does not have it."""
    record = caller.engine.study_by_id(study_id)
    return answer(caller.engine.log_tail(record, number, attempt, limit_bytes))


@router.get("/trials/{trial_id}", responses=says(TrialRecord))
def by_id(trial_id: RowId, caller: Reader) -> Response:
    """A trial with its artifacts, by its id."""
    return answer(caller.engine.trial_by_id(trial_id))


@router.get("/trials/{trial_id}/reports", responses=says(list[Report]))
def reports(trial_id: RowId, caller: Reader) -> Response:
    """What a trial reported, by step."""
    return answer(caller.engine.reports(caller.engine.trial_by_id(trial_id)))


@router.get("/trials/{trial_id}/moves", responses=says(list[dict[str, Any]]))
def moves(trial_id: RowId, caller: Reader) -> Response:
    """A trial's history, move by move."""
    return answer(caller.engine.moves(caller.engine.trial_by_id(trial_id)))


@router.get("/trials/{trial_id}/environment", responses=says(dict[str, str]))
def environment(trial_id: RowId, caller: Reader) -> Response:
    """What the trial's last worker runs in: versions by package."""
    return answer(caller.engine.environment(caller.engine.trial_by_id(trial_id)))


# -- trainers in any language ----------------------------------------------------------------------------------------


@router.post("/studies/{study_id}/ask", responses=says(Given))
def ask(study_id: RowId, body: Ask, caller: Worker) -> Response:
    """Get a trial to work on: its parameters, and the token with which to report and to tell.

    Where none waits the service makes one: `token` is null then, ask again after `retry_after_s` seconds.
    """
    record = caller.engine.study_by_id(study_id)
    token = uuid.uuid4().hex
    caller.engine.want(record, _ASKED_SLOTS, _ASKED_S)
    lease = caller.engine.claim([record.id], body.worker, prefixed(caller, token), body.lease_s)
    if lease is None:
        return answer(Given(None, retry_after_s=_AGAIN_S))
    return answer(Given(token, lease.number, lease.params, lease.attempt, body.lease_s))


@router.post("/tell", status_code=204)
def tell(body: Told, caller: Worker) -> None:
    """What a trial came to. Said twice with one token it counts once."""
    token = prefixed(caller, body.token)
    if body.state == "failed":
        caller.engine.fail(token, Failure(FailureKind.ERROR, body.message or "failed"))
        return
    values = tuple(body.values) if body.values is not None else None
    outcome = Outcome(TrialState(body.state), values, body.metrics, constraints=body.constraints)
    with suppress(LeaseLost):  # it may be said a second time, when the lease is over: `finish` knows
        study_id = caller.engine.lease(token).study_id
        check_outcome(outcome, len(caller.engine.study_by_id(study_id).directions))
    caller.engine.finish(token, outcome)


@router.post("/report", responses=says(Kept))
def report(body: Reported, caller: Worker) -> Response:
    """What a trial has come to so far; whether it is worth going on, and (`lease_s`) that it does."""
    token = prefixed(caller, body.token)
    caller.engine.report(token, [Report(body.step, body.value, body.metrics)])
    if body.lease_s is not None:
        caller.engine.renew([token], body.lease_s)
    return answer(Kept(caller.engine.should_prune(token)))
