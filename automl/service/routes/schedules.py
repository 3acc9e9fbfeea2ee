"""Schedules: add, list, pause, remove, the next times, what was done about the last ones."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import Field, StrictBool

from automl.cron import Plan
from automl.service.answers import answer, says
from automl.service.bodies import Body, Sha256, SpecBody, Text, example
from automl.service.callers import Reader, RowId, Submitter
from automl.storage.schedules import MOST_FIRINGS, MOST_TICKS
from automl.team import Firing, Schedule, Scope

router = APIRouter(tags=["schedules"])

_SPEC = {
    "name": "digits",
    "space": {"lr": {"kind": "float", "low": 0.0001, "high": 0.1, "log": True}},
    "metrics": {"accuracy": "max"},
    "budget": {"trials": 60, "minutes": None},
}


class NewSchedule(Body):
    """A study to search again and again; the schedule has its name."""

    model_config = example(spec=_SPEC, entrypoint="studies/digits.py:digits", cron="0 2 * * *", timezone="Europe/Paris")

    spec: SpecBody
    entrypoint: Annotated[str, Field(max_length=4096, description="FILE:NAME that workers load.")]
    cron: Annotated[Text, Field(description="Minute, hour, day of the month, month, day of the week.")]
    timezone: Text = "UTC"
    catch_up: Annotated[
        Literal["skip", "one", "all"], Field(description="What becomes of ticks at which nobody was there.")
    ] = "one"
    overlap: Annotated[
        Literal["skip", "queue"], Field(description="What becomes of a tick while the last search is not over.")
    ] = "skip"
    promote: Annotated[
        Text | None, Field(description="The alias that a better model gets by itself; needs the scope 'promote'.")
    ] = None
    code_sha256: Sha256 | None = None
    package_sha256: Annotated[Sha256 | None, Field(description="The code that was uploaded for it.")] = None
    replace: Annotated[StrictBool, Field(description="Change the schedule of this name.")] = False

    def plan(self) -> Plan:
        """Raises `InvalidInput`."""
        given = {name: getattr(self, name) for name in Plan.__dataclass_fields__}
        return Plan(**{**given, "spec": self.spec.spec().to_json()})


class ScheduleChange(Body):
    model_config = example(paused=True)

    paused: StrictBool


@router.post("/schedules", responses=says(Schedule))
def add(body: NewSchedule, caller: Submitter) -> Response:
    """Search a study again and again; the same schedule again is the one that is there."""
    if body.package_sha256 is not None:
        caller.identity.require(Scope.SUBMIT_CODE, "package_sha256")
    if body.promote is not None:
        caller.identity.require(Scope.PROMOTE, "promote")
    added = caller.engine.schedules.add(body.plan(), who=caller.identity.who, replace=body.replace)
    return answer(added)


@router.get("/schedules", responses=says(list[Schedule]))
def ls(caller: Reader, name: Annotated[str | None, Query(max_length=1000)] = None) -> Response:
    """All schedules of the project by name, or the one of this name."""
    found = caller.engine.schedules.all()
    return answer([item for item in found if name in (None, item.name)])


@router.get("/schedules/firings", responses=says(dict[int, Firing]))
def last_firings(caller: Reader) -> Response:
    """What was done about the last time of each schedule, by the schedule's id."""
    return answer(caller.engine.schedules.last_firings())


@router.get("/schedules/{schedule_id}", responses=says(Schedule))
def one(schedule_id: RowId, caller: Reader) -> Response:
    """A schedule."""
    return answer(caller.engine.schedules.by_id(schedule_id))


@router.patch("/schedules/{schedule_id}", responses=says(bool))
def change(schedule_id: RowId, body: ScheduleChange, caller: Submitter) -> Response:
    """Pause it, or let it go on; whether that changed anything."""
    schedules = caller.engine.schedules
    name = schedules.by_id(schedule_id).name
    return answer(schedules.pause(name) if body.paused else schedules.resume(name))


@router.delete("/schedules/{schedule_id}", status_code=204)
def remove(schedule_id: RowId, caller: Submitter) -> None:
    """Forget it. The studies that it has started stay."""
    caller.engine.schedules.remove(caller.engine.schedules.by_id(schedule_id).name)


@router.get("/schedules/{schedule_id}/next", responses=says(list[float]))
def coming(schedule_id: RowId, caller: Reader, count: Annotated[int, Query(ge=1, le=MOST_TICKS)] = 10) -> Response:
    """The next times, in seconds since the epoch."""
    schedules = caller.engine.schedules
    return answer(list(schedules.next(schedules.by_id(schedule_id).name, count)))


@router.get("/schedules/{schedule_id}/firings", responses=says(list[Firing]))
def firings(schedule_id: RowId, caller: Reader, limit: Annotated[int, Query(ge=1, le=MOST_FIRINGS)] = 50) -> Response:
    """What was done about its times, the newest first."""
    schedules = caller.engine.schedules
    return answer(schedules.firings(schedules.by_id(schedule_id).name, limit))
