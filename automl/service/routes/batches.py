"""Batches: submit, list, read, stop, the report."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import HTMLResponse, Response
from pydantic import Field, StrictInt

from automl.service.answers import answer, says
from automl.service.bodies import MAX_COUNT, Body, Number, Sha256, SpecBody, example
from automl.service.callers import Reader, Submitter
from automl.storage.batches import MAX_PRIORITY, MAX_STUDIES, BatchStudy, Budget, Spent
from automl.team import Batch, Scope

router = APIRouter(tags=["batches"])

Name = Annotated[str, Path(max_length=80, description="The batch's.")]

#: What a report may do in the browser that shows it: nothing but be looked at.
_HARMLESS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"}


class BatchStudyBody(Body):
    """A study of a batch."""

    spec: SpecBody
    entrypoint: Annotated[str, Field(max_length=4096, description="FILE:NAME that workers load.")]
    code_sha256: Sha256 | None = None
    package_sha256: Annotated[Sha256 | None, Field(description="The code that was uploaded for it.")] = None


class SharedBudget(Body):
    """What the studies may use together; null: as much as their own budgets allow."""

    trials: Annotated[StrictInt | None, Field(le=MAX_COUNT)] = None
    hours: Annotated[Number | None, Field(description="Of all attempts, added up.")] = None
    gpu_hours: Number | None = None


_STUDY = {"name": "digits", "space": None, "metrics": {"accuracy": "max"}, "budget": {"trials": 60}}


class NewBatch(Body):
    """Studies that run one after the other, on one budget."""

    model_config = example(
        name="night",
        priority=5,
        budget={"trials": 100, "hours": 8.0},
        studies=[{"spec": _STUDY, "entrypoint": "digits.py:digits"}],
    )

    name: Annotated[str, Field(max_length=80)]
    studies: Annotated[list[BatchStudyBody], Field(min_length=1, max_length=MAX_STUDIES)]
    priority: Annotated[StrictInt, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    budget: SharedBudget = SharedBudget()


class Stopped(Body):
    """Whether there was anything left to stop."""

    stopped: bool


@router.post("/batches", status_code=201, responses=says(Batch, 201))
def submit(body: NewBatch, caller: Submitter) -> Response:
    """Queue new studies as a batch: all of them, or none."""
    if any(item.package_sha256 is not None for item in body.studies):
        caller.identity.require(Scope.SUBMIT_CODE, "package_sha256")
    studies = [
        BatchStudy(item.spec.spec(), item.entrypoint, item.code_sha256, item.package_sha256) for item in body.studies
    ]
    budget = Budget(**body.budget.model_dump())
    return answer(caller.engine.batches.submit(body.name, studies, priority=body.priority, budget=budget), 201)


@router.get("/batches", responses=says(list[Batch]))
def every(caller: Reader) -> Response:
    """All batches, the newest first."""
    return answer(caller.engine.batches.all())


@router.get("/batches/{name}", responses=says(Batch))
def read(name: Name, caller: Reader) -> Response:
    """One batch, with its studies in their order."""
    return answer(caller.engine.batches.get(name))


@router.get("/batches/{name}/spent", responses=says(Spent))
def spent(name: Name, caller: Reader) -> Response:
    """What its studies have used of the budget so far."""
    return answer(caller.engine.batches.spent(name))


@router.get("/batches/{name}/report", response_class=HTMLResponse)
def report(name: Name, caller: Reader) -> HTMLResponse:
    """The report: one HTML file that needs nothing else."""
    return HTMLResponse(caller.engine.batches.report(name), headers=_HARMLESS)


@router.post("/batches/{name}/stop", responses=says(Stopped))
def stop(name: Name, caller: Submitter) -> Response:
    """End all its studies; what is unfinished is cancelled."""
    return answer(Stopped(stopped=caller.engine.batches.stop(name)))
