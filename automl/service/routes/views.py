"""What pages show: boards, curves, timelines, overviews, what the model says; the clock, and whether there is news."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from automl.board import Overview, Prediction, Segment
from automl.client.shapes import BOARD, Grid, in_ranges, pack_curves, pack_surface
from automl.client.shapes import Points as CurvePoints
from automl.service.answers import answer, says
from automl.service.boards import is_known, shelf_of
from automl.service.bodies import Over, Points
from automl.service.callers import Anyone, Reader, RowId

router = APIRouter(tags=["views"])

#: Curves that one request may ask for.
MAX_CURVES = 50_000

_BOARD: dict[int | str, dict[str, Any]] = {
    200: {"description": "A NumPy .npz file, see the text above.", "content": {BOARD: {}}},
    304: {"description": "It is as it was."},
}


@router.get("/project", responses=says(str))
def project(caller: Anyone) -> Response:
    """The project of the caller's token."""
    return answer(caller.identity.project)


@router.get("/clock", responses=says(float))
def clock(caller: Reader) -> Response:
    """The database's clock, seconds since the epoch."""
    return answer(caller.engine.clock())


@router.get("/change", responses=says(int))
def change(caller: Reader) -> Response:
    """A number that grows whenever a study or a trial moved."""
    return answer(caller.engine.change())


@router.get("/overviews", responses=says(list[Overview]))
def overviews(caller: Reader, archived: bool = False) -> Response:
    """All studies at a glance, newest activity first; without confirmations, and without archived ones."""
    return answer(caller.engine.overviews(archived))


@router.get("/studies/{study_id}/board", response_class=Response, responses=_BOARD)
def board(study_id: RowId, request: Request, caller: Reader) -> Response:
    """All trials of a study as columns, in a NumPy .npz file without pickles.

    The array `header` is JSON: the study, `workers`, and the names of `params` (with their choices) and `metrics`.
    Their columns are `param.0`, ..., `metric.0`, ...; of a parameter with choices places in them. NaN is "none".
    The other columns have the names of `automl.board.Board`.
    """
    packed = shelf_of(request).packed(caller.engine, caller.engine.study_by_id(study_id))
    headers = {"ETag": packed.etag, "Cache-Control": "no-cache"}
    if is_known(request, packed):
        return Response(status_code=304, headers=headers)
    return Response(packed.body, media_type=BOARD, headers=headers)


@router.get("/studies/{study_id}/curves", responses=says(dict[int, CurvePoints]))
def curves(
    study_id: RowId,
    caller: Reader,
    numbers: Annotated[str, Query(max_length=8000, examples=["0-9,12"], description="Of trials: 0-9,12")],
) -> Response:
    """What these trials reported, step by step; those that have reported nothing are left out."""
    record = caller.engine.study_by_id(study_id)
    found = caller.engine.curves(record, in_ranges(numbers, MAX_CURVES))
    return answer(pack_curves(found))


@router.get("/studies/{study_id}/timeline", responses=says(list[Segment]))
def timeline(study_id: RowId, caller: Reader, limit: Annotated[int, Query(ge=1, le=50_000)] = 5000) -> Response:
    """The newest attempts, in the order in which they started."""
    return answer(caller.engine.timeline(caller.engine.study_by_id(study_id), limit))


# -- what the model says ---------------------------------------------------------------------------------------------


@router.get("/studies/{study_id}/space", responses=says(dict[str, Any] | None))
def space(study_id: RowId, request: Request, caller: Reader) -> Response:
    """The declared search space, else what the trials say of it; null before one of them has ended."""
    record = caller.engine.study_by_id(study_id)
    found = caller.engine.space(record, shelf_of(request).board(caller.engine, record))
    return answer(found.to_json() if found is not None else None)


@router.post("/studies/{study_id}/what-if", responses=says(list[Prediction]))
def what_if(study_id: RowId, body: Points, request: Request, caller: Reader) -> Response:
    """What the study's trials say of points that nobody has tried."""
    record = caller.engine.study_by_id(study_id)
    seen = shelf_of(request).board(caller.engine, record)
    return answer(caller.engine.what_if(record, body.points, seen))


@router.post("/studies/{study_id}/surface", responses=says(Grid))
def surface(study_id: RowId, body: Over, request: Request, caller: Reader) -> Response:
    """Predictions along one parameter or over two, the others fixed."""
    record = caller.engine.study_by_id(study_id)
    seen = shelf_of(request).board(caller.engine, record)
    names: Any = body.names[0] if len(body.names) == 1 else tuple(body.names)
    return answer(pack_surface(caller.engine.surface(record, body.fixed, names, body.size, seen)))


@router.get("/studies/{study_id}/importances", responses=says(dict[str, float]))
def importances(study_id: RowId, request: Request, caller: Reader) -> Response:
    """The share of each parameter in what made the best tenth, the largest first."""
    record = caller.engine.study_by_id(study_id)
    seen = shelf_of(request).board(caller.engine, record)
    return answer(dict(caller.engine.importances(record, seen)))
