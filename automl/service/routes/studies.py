"""Studies: make, list, read, steer, delete; confirm what they have found."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from automl.client.shapes import Changed, Page
from automl.core import Estimate, StudyRecord, TrialRecord
from automl.declaration import Confirm
from automl.engine import Engine
from automl.errors import InvalidInput
from automl.search.transfer import Source
from automl.service.answers import answer, says
from automl.service.bodies import Clone, Confirmation, Declaration, Named, Purge, StudyChange, StudyQuery
from automl.service.callers import Admin, Reader, RowId, Submitter
from automl.service.etags import require_match
from automl.team import Scope

router = APIRouter(tags=["studies"])

Counts = dict[int, dict[str, int]]


@router.post("/studies", responses=says(StudyRecord))
def declare(body: Declaration, caller: Submitter) -> Response:
    """Make a study, or open the one of that name again."""
    if body.package_sha256 is not None:
        caller.identity.require(Scope.SUBMIT_CODE, "package_sha256")
    made = caller.engine.declare(
        body.spec.spec(),
        entrypoint=body.entrypoint,
        code_sha256=body.code_sha256,
        package_sha256=body.package_sha256,
        queued=body.queued,
        extend=body.extend,
    )
    return answer(made)


@router.get("/studies", responses=says(Page[StudyRecord]))
def page(query: Annotated[StudyQuery, Query()], caller: Reader) -> Response:
    """Studies, page by page."""
    records = caller.engine.studies()
    return answer(_page([record for record in records if query.fits(record)], records, query))


def _page(chosen: list[StudyRecord], records: list[StudyRecord], query: StudyQuery) -> Page[StudyRecord]:
    by_name, backwards = query.order.endswith("name"), query.order.startswith("-")

    def key(record: StudyRecord) -> Any:
        return (record.name, record.id) if by_name else record.id

    if query.after is not None:
        last: Any = query.after
        if by_name:
            last = next((key(record) for record in records if record.id == query.after), None)
        if last is None:
            raise InvalidInput(f"after: study {query.after} is gone; begin again without it", field="after")
        chosen = [record for record in chosen if (key(record) < last if backwards else key(record) > last)]
    chosen.sort(key=key, reverse=backwards)
    items = chosen[: query.limit]
    return Page(items, items[-1].id if len(chosen) > len(items) else None)


@router.get("/studies/{study_id}", responses=says(StudyRecord))
def one(study_id: RowId, caller: Reader) -> Response:
    """A study."""
    return answer(caller.engine.study_by_id(study_id))


@router.patch("/studies/{study_id}", responses=says(Changed))
def change(study_id: RowId, body: StudyChange, request: Request, caller: Submitter) -> Response:
    """Stop a study, pause it, file it away, or give it other tags or another budget.

    With `If-Match` only while it is as it was read.
    """
    record = caller.engine.study_by_id(study_id)
    require_match(request, record)
    changed = _change(caller.engine, record.name, body)
    return answer(Changed(changed, caller.engine.study_by_id(study_id)))


def _change(engine: Engine, name: str, body: StudyChange) -> bool:
    if body.state is not None:
        return engine.stop(name) if body.reason is None else engine.stop(name, body.reason)
    if body.paused is not None:
        return engine.pause(name) if body.paused else engine.resume(name)
    if body.archived is not None:
        engine.archive(name, body.archived)
    elif body.tags is not None:
        engine.tag(name, body.tags)  # type: ignore[arg-type]  # what each of them is the verb looks at
    elif body.budget is not None:
        engine.extend(name, body.budget.trials, body.budget.minutes)
    return True


@router.delete("/studies/{study_id}", status_code=204)
def delete(study_id: RowId, caller: Admin) -> None:
    """Take a study away, with its trials and confirmations; for a week it can be brought back."""
    caller.engine.delete(caller.engine.study_by_id(study_id).name)


@router.post("/studies/undelete", responses=says(StudyRecord))
def undelete(body: Named, caller: Admin) -> Response:
    """Bring back the study that was deleted last under this name."""
    return answer(caller.engine.undelete(body.name))


@router.post("/studies/purge", responses=says(int))
def purge(body: Purge, caller: Admin) -> Response:
    """Remove for good what was deleted longer ago; how many studies."""
    return answer(caller.engine.purge(body.older_than_s))


@router.post("/studies/{study_id}/clone", responses=says(StudyRecord))
def clone(study_id: RowId, body: Clone, caller: Submitter) -> Response:
    """Queue the same declaration and code under another name, with none of the trials."""
    name = caller.engine.study_by_id(study_id).name
    return answer(caller.engine.clone(name, body.name, trials=body.trials, seed=body.seed))


@router.get("/studies/{study_id}/counts", responses=says(dict[str, int]))
def counts(study_id: RowId, caller: Reader) -> Response:
    """Trials by state, and "total"."""
    record = caller.engine.study_by_id(study_id)
    return answer(caller.engine.counts([record])[study_id])


@router.get("/counts", responses=says(Counts))
def counts_of(study: Annotated[list[int], Query(min_length=1, max_length=1000)], caller: Reader) -> Response:
    """Trials by state, and "total", for several studies; those that are gone are left out."""
    wanted = set(study)
    records = [record for record in caller.engine.studies() if record.id in wanted]
    return answer(caller.engine.counts(records))


@router.get("/studies/{study_id}/best-trials", responses=says(list[TrialRecord]))
def best_trials(study_id: RowId, caller: Reader, limit: Annotated[int, Query(ge=1, le=1000)] = 1) -> Response:
    """The best complete trials by the first metric, best first."""
    record = caller.engine.study_by_id(study_id)
    return answer(caller.engine.best_trials(record, limit))


@router.get("/studies/{study_id}/forecast", responses=says(dict[str, Any] | None))
def forecast(study_id: RowId, caller: Reader) -> Response:
    """What the search expects of the trials to come, by its newest suggestion."""
    record = caller.engine.study_by_id(study_id)
    return answer(caller.engine.forecast(record))


@router.get("/studies/{study_id}/sources", responses=says(list[Source]))
def sources(study_id: RowId, caller: Reader) -> Response:
    """The past studies that this one learns from, with their trials."""
    return answer(caller.engine.sources(caller.engine.study_by_id(study_id)))


@router.get("/studies/{study_id}/audit", responses=says(list[str]))
def audit(study_id: RowId, caller: Reader) -> Response:
    """What of its history breaks a guarantee; nothing where all is sound."""
    return answer(caller.engine.audit(caller.engine.study_by_id(study_id)))


# -- confirmation ----------------------------------------------------------------------------------------------------


@router.post("/studies/{study_id}/confirmation", responses=says(StudyRecord))
def confirm(study_id: RowId, body: Confirmation, caller: Submitter) -> Response:
    """Declare the study that runs the best trials of this one again."""
    settings = body.confirm.confirm() if body.confirm is not None else None
    return answer(caller.engine.confirm(caller.engine.study_by_id(study_id), settings))


@router.get("/studies/{study_id}/confirmation", responses=says(StudyRecord | None))
def confirmation(study_id: RowId, caller: Reader) -> Response:
    """The newest study that confirms this one; null when there is none."""
    return answer(caller.engine.confirmation(caller.engine.study_by_id(study_id)))


@router.get("/studies/{study_id}/confirmed", responses=says(bool))
def is_confirmed(
    study_id: RowId,
    caller: Reader,
    top: Annotated[int | None, Query(ge=0, le=1000)] = None,
    trials: Annotated[int | None, Query(ge=0, le=10_000)] = None,
    sure: float | None = None,
) -> Response:
    """Whether the newest confirmation is finished, and of the trials that are the best now."""
    given = {name: value for name, value in (("top", top), ("trials", trials), ("sure", sure)) if value is not None}
    settings = Confirm(**given) if given else None  # type: ignore[arg-type]  # each of its own kind
    return answer(caller.engine.is_confirmed(caller.engine.study_by_id(study_id), settings))


@router.get("/studies/{study_id}/estimates", responses=says(list[tuple[int, Estimate]]))
def estimates(study_id: RowId, caller: Reader) -> Response:
    """What the newest confirmation found: pairs of a trial's number and its estimate.

    In the order of what the search saw, the best first.
    """
    found = caller.engine.estimates(caller.engine.study_by_id(study_id))
    return answer(list(found.items()))
