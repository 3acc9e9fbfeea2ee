"""The worker protocol: claim, renew, report, checkpoint, finish, fail, release, and that a worker lives.

This is the hot path of the service: what stands here is answered without FastAPI (`direct`).
"""

from __future__ import annotations

from contextlib import suppress

from fastapi import APIRouter, Request

from automl.client import protocol
from automl.core import Checkpoint, Failure, Lease, StudyRecord
from automl.engine import Engine
from automl.errors import InvalidInput, LeaseLost
from automl.service.callers import Worker
from automl.service.direct import DirectRoute
from automl.service.leases import Book, check_outcome, check_params, keep_log, prefixed, stripped
from automl.service.limits import Body, takes
from automl.trainers import checkpoint as checkpoints

#: A trial may report thousands of steps at once, and say a lot when it ends.
_LARGE = Body(max_bytes=32 << 20, max_text=1_000_000)


router = APIRouter(tags=["work"], route_class=DirectRoute)


@router.get("/work/queue")
def queue(request: Request, caller: Worker) -> list[StudyRecord]:
    """Studies that a worker may take up, the first ones first; those that wait for their batch are left out."""
    return caller.engine.queued_studies()


@router.post("/work/claim")
def claim(request: Request, caller: Worker, body: protocol.Claim) -> Lease | None:
    """The next waiting trial of these studies, null when there is none. The same token again: the same lease."""
    token = prefixed(caller, body.token)
    lease = caller.engine.claim(body.study_ids, body.worker, token, body.lease_s)
    if lease is None:
        return None
    _book(request).note(lease)
    return Lease(
        body.token,
        lease.study_id,
        lease.trial_id,
        lease.number,
        lease.attempt,
        lease.params,
        lease.distributions,
        lease.checkpoint,
    )


@router.post("/work/renew")
def renew(request: Request, caller: Worker, body: protocol.Renew) -> list[str]:
    """Those of the leases that are still held, by `lease_s` seconds longer. Stop the trials of the others."""
    kept = caller.engine.renew([prefixed(caller, token) for token in body.tokens], body.lease_s)
    return sorted(stripped(caller, token) for token in kept)


@router.post("/work/report")
@takes(_LARGE)
def report(request: Request, caller: Worker, body: protocol.Reports) -> None:
    """Record reports. The same step again overwrites."""
    caller.engine.report(prefixed(caller, body.token), [item.noun() for item in body.reports])


@router.post("/work/describe")
def describe(request: Request, caller: Worker, body: protocol.Describe) -> None:
    """Record what a define-by-run function really asked for, while it runs."""
    check_params(body.params, body.distributions)
    caller.engine.describe(prefixed(caller, body.token), body.params, body.distributions)


@router.post("/work/should-prune")
def should_prune(request: Request, caller: Worker, body: protocol.Held) -> bool:
    """Whether the trial is worth ending now, by the reports recorded so far."""
    return caller.engine.should_prune(prefixed(caller, body.token))


@router.post("/work/checkpoint")
def checkpoint(request: Request, caller: Worker, body: protocol.Saved) -> None:
    """Acknowledge a checkpoint whose file was sent. An earlier step never replaces a later one."""
    engine, token = caller.engine, prefixed(caller, body.token)
    lease = _book(request).lease(engine, token)
    path = engine.artifacts.checkpoint(lease.trial_id, lease.attempt, body.step, body.sha256)
    if not path.is_file():
        raise InvalidInput("checkpoint: its file is not here; send it first", field="checkpoint")
    saved = Checkpoint(body.step, path.relative_to(engine.artifacts.root).as_posix(), body.sha256)
    engine.checkpoint(token, saved)
    checkpoints.discard(engine.artifacts.root, lease.trial_id, keep=saved)


@router.post("/work/finish")
@takes(_LARGE)
def finish(request: Request, caller: Worker, body: protocol.Finish) -> None:
    """The trial's one result, with its last reports. Its files were sent before. The same again changes nothing."""
    engine, token, outcome = caller.engine, prefixed(caller, body.token), body.outcome.noun()
    lease = _known(request, engine, token)
    if lease is not None:
        check_outcome(outcome, _book(request).metrics(engine, lease.study_id))
        for artifact in outcome.artifacts:
            if not engine.artifacts.path(artifact).is_file():
                raise InvalidInput(f"outcome.artifacts: {artifact.name!r} is not here; send it first", "artifacts")
        keep_log(engine, lease, body.log)
    engine.finish(token, outcome, [item.noun() for item in body.reports])
    if lease is not None:
        checkpoints.discard(engine.artifacts.root, lease.trial_id)
        _book(request).forget(token)


@router.post("/work/fail")
@takes(_LARGE)
def fail(request: Request, caller: Worker, body: protocol.Fail) -> bool:
    """End the attempt. True: the trial waits again, because it has retries left or was not to blame."""
    engine, token = caller.engine, prefixed(caller, body.token)
    lease = _book(request).lease(engine, token)
    failure = Failure(body.kind, body.message, body.traceback)
    waits = engine.fail(token, failure, [item.noun() for item in body.reports])
    keep_log(engine, lease, body.log)
    if not waits:
        checkpoints.discard(engine.artifacts.root, lease.trial_id)
    _book(request).forget(token)
    return waits


@router.post("/work/release")
@takes(_LARGE)
def release(request: Request, caller: Worker, body: protocol.Release) -> None:
    """Hand the trial back with its last checkpoint; costs it nothing."""
    engine, token = caller.engine, prefixed(caller, body.token)
    lease = _book(request).lease(engine, token)
    engine.release(token)
    keep_log(engine, lease, body.log)
    _book(request).forget(token)


@router.post("/work/artifacts")
def artifacts(request: Request, caller: Worker, body: protocol.Files) -> None:
    """Record further files of a finished trial, as its ONNX file. They were sent before."""
    for artifact in body.files:
        if not caller.engine.artifacts.path(artifact).is_file():
            raise InvalidInput(f"files: {artifact.name!r} is not here; send it first", field="files")
    caller.engine.add_artifacts(caller.engine.trial_by_id(body.trial_id), body.files)


@router.post("/work/enroll")
def enroll(request: Request, caller: Worker, body: protocol.Enroll) -> None:
    """A worker has started."""
    caller.engine.enroll(body.noun())


@router.post("/work/beat")
def beat(request: Request, caller: Worker, body: protocol.Beat) -> bool | None:
    """A worker lives; whether it is to drain, null when it is not enrolled."""
    return caller.engine.beat(body.name, body.load)


@router.post("/work/leave")
def leave(request: Request, caller: Worker, body: protocol.Leave) -> None:
    """A worker has ended."""
    caller.engine.leave(body.name)


@router.post("/work/want")
def want(request: Request, caller: Worker, body: protocol.Want) -> int:
    """Have the service suggest for a study that a client searches; how many trials wait to be claimed."""
    return caller.engine.want(caller.engine.study_by_id(body.study_id), body.slots, body.lease_s)


@router.post("/work/confirm")
def confirm(request: Request, caller: Worker, body: protocol.Study) -> StudyRecord:
    """Queue the confirmation that a finished study declares; who may submit asks for others."""
    return caller.engine.confirm_as_declared(caller.engine.study_by_id(body.study_id))


def _book(request: Request) -> Book:
    book: Book = request.app.state.book
    return book


def _known(request: Request, engine: Engine, token: str) -> Lease | None:
    """None where the lease is over: a result that was accepted may come once more."""
    with suppress(LeaseLost):
        return _book(request).lease(engine, token)
    return None
