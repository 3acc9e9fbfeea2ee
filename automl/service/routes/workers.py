"""Workers: who is there, drain."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from automl.core import WorkerRecord
from automl.service.answers import answer, says
from automl.service.bodies import Drain
from automl.service.callers import Admin, Reader

router = APIRouter(tags=["workers"])


@router.get("/workers", responses=says(list[WorkerRecord]))
def every(
    caller: Reader, gone: Annotated[bool, Query(alias="all", description="Also those of the last day.")] = False
) -> Response:
    """Workers that were heard of lately, by name."""
    return answer(caller.engine.workers(gone))


@router.post("/workers/drain", status_code=204)
def drain(body: Drain, caller: Admin) -> None:
    """Let a worker finish its running trials and claim no more; or (`on`: false) go on."""
    caller.engine.drain(body.name, body.on)
