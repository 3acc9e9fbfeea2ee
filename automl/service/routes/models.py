"""The registry: models, versions, aliases, promotion, files."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse, Response

from automl.client.shapes import Examined
from automl.core import Model, ModelVersion, Promotion
from automl.errors import NotFound
from automl.service.answers import answer, says
from automl.service.bodies import PromotionBody, Rollback
from automl.service.callers import LOCAL, Caller, Promoter, Reader, RowId

router = APIRouter(tags=["models"])

# In queries, not in paths: a name may hold anything.
Name = Annotated[str, Query(max_length=1000, description="The model's name.")]
Reference = Annotated[str, Query(max_length=1000, examples=["digits@champion"], description="As digits@champion.")]


@router.get("/models", responses=says(list[Model]))
def every(caller: Reader) -> Response:
    """Models by name."""
    return answer(caller.engine.models())


@router.get("/models/versions", responses=says(list[ModelVersion]))
def versions(name: Name, caller: Reader) -> Response:
    """The versions of a model, newest first."""
    return answer(caller.engine.model_versions(name))


@router.get("/models/version", responses=says(ModelVersion))
def version(reference: Reference, caller: Reader) -> Response:
    """What `digits@champion`, `digits@3`, or `digits` (its champion) names."""
    return answer(caller.engine.model_version(reference))


@router.get("/models/promotions", responses=says(list[Promotion]))
def promotions(
    name: Name, caller: Reader, alias: Annotated[str | None, Query(max_length=200, description="Of this one.")] = None
) -> Response:
    """The moves of a model's aliases, or of one of them, newest first."""
    return answer(caller.engine.promotions(name, alias))


@router.get("/models/files", response_class=FileResponse)
def file(
    reference: Reference, name: Annotated[str, Query(max_length=255, examples=["model.onnx"])], caller: Reader
) -> FileResponse:
    """A file of a version, after it was compared with its recorded sha256."""
    stored = {item.name: item for item in caller.engine.model_version(reference).files}
    if name not in stored:
        raise NotFound(f"{reference} has no file {name!r}; there are {', '.join(stored)}", field="name")
    item = stored[name]
    headers = {"ETag": f'"{item.sha256}"'}
    path = caller.engine.artifacts.verify(item)
    return FileResponse(path, media_type="application/octet-stream", filename=item.name, headers=headers)


@router.post("/studies/{study_id}/gates", responses=says(Examined))
def gates(study_id: RowId, body: PromotionBody, caller: Reader) -> Response:
    """What a promotion would look at, without promoting."""
    record = caller.engine.study_by_id(study_id)
    trial, found = caller.engine.check_gates(record, body.number, **body.options(_who(caller, body.who)))
    return answer(Examined(trial, found))


@router.post("/studies/{study_id}/promotions", responses=says(Promotion))
def promote(study_id: RowId, body: PromotionBody, caller: Promoter) -> Response:
    """Let an alias name a trial's model, if it passes the gates."""
    record = caller.engine.study_by_id(study_id)
    return answer(caller.engine.promote(record, body.number, **body.options(_who(caller, body.who))))


@router.post("/models/rollback", responses=says(Promotion))
def rollback(body: Rollback, caller: Promoter) -> Response:
    """Let an alias name what it named before."""
    who = _who(caller, body.who)
    return answer(caller.engine.rollback(body.name, body.alias, reason=body.reason, who=who))


def _who(caller: Caller, said: str | None) -> str | None:
    """Whom the history names: the bearer of the token, then what he says of himself."""
    if caller.identity == LOCAL:
        return said
    who = caller.identity.who
    return who if said in (None, who) else f"{who} ({said})"
