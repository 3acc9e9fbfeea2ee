"""Whether the service lives and is ready, and its metrics."""

from __future__ import annotations

import time
from typing import Any

from anyio import fail_after, to_thread
from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response

from automl.engine import Engine
from automl.errors import AutoMLError, DatabaseUnavailable
from automl.service.answers import answer
from automl.service.callers import Reader
from automl.service.metrics import Histogram, Labels, family, histograms
from automl.storage.vitals import Vitals, check_ready, vitals
from automl.team import DEFAULT_PROJECT, Scope

router = APIRouter(tags=["health"])

#: Seconds for which figures are not counted again, and an answer about the database is taken for true.
FIGURES_S, READY_S = 5.0, 1.0
#: The database has so long to answer whether it is there.
ANSWER_S = 3.0
#: A duty that measures suggestions keeps `Histogram.to_json` under this key of its cursor, in milliseconds.
SUGGESTION_MS = "suggestion_ms"
_QUANTILES = (0.5, 0.9, 0.99)


@router.get("/healthz", response_model=dict[str, str])
async def healthz() -> Response:
    """Whether the process lives. It asks nobody else."""
    return answer({"status": "ok"})


@router.get("/readyz", response_model=dict[str, str])
async def readyz(request: Request) -> Response:
    """Whether requests can be answered: the database answers, and is the one that this version knows."""
    state, now = request.app.state, time.monotonic()
    at, error = getattr(state, "ready", (-READY_S, None))
    if now - at >= READY_S:
        database = state.engine_of(DEFAULT_PROJECT).database
        error = None
        try:
            with fail_after(ANSWER_S):
                await to_thread.run_sync(check_ready, database, abandon_on_cancel=True)
        except TimeoutError:
            error = DatabaseUnavailable(f"the database did not answer within {ANSWER_S:.0f} s")
        except AutoMLError as found:
            error = found
        state.ready = (now, error)
    if error is not None:
        raise error
    return answer({"status": "ready"})


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(request: Request, caller: Reader) -> Response:
    """Figures of the caller's project, for Prometheus; an admin sees those of the service as well."""
    lines = _of_project(caller.engine.project, _vitals(request.app.state, caller.engine))
    if caller.identity.may(Scope.ADMIN):
        lines += request.app.state.requests.lines()
        lines += _of_duties(caller.engine)
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


def _vitals(state: Any, engine: Engine) -> Vitals:
    """Counting all trials takes the longer the more there are: once for all who ask within some seconds."""
    kept: dict[str, tuple[float, Vitals]] | None = getattr(state, "vitals", None)
    if kept is None:
        kept = state.vitals = {}
    at, found = kept.get(engine.project, (0.0, None))
    if found is None or time.monotonic() - at > FIGURES_S:
        found = vitals(engine.database, engine.project)
        kept[engine.project] = (time.monotonic(), found)
    return found


def _of_project(project: str, found: Vitals) -> list[str]:
    here: Labels = {"project": project}
    by_state = [({**here, "state": state}, n) for state, n in found.trials.items()]
    lines = family("automl_trials", "gauge", "Trials by state.", by_state)
    for name, about, value in (
        ("automl_queue_depth", "Trials that wait for a worker.", found.trials["waiting"]),
        ("automl_oldest_expired_lease_seconds", "For how long the oldest lease is over.", found.expired_lease_s),
        ("automl_workers", "Workers that are alive.", found.workers),
        ("automl_gpus", "GPUs of these whose load is known.", found.gpus),
        ("automl_gpu_idle_share", "The share of their time that these GPUs are idle.", found.gpu_idle),
    ):
        if value is not None:
            lines += family(name, "gauge", about, [(here, value)])
    took = found.suggestion_ms
    at = {q: took[min(len(took) - 1, int(q * len(took)))] for q in _QUANTILES if took}
    quantiles = [({**here, "quantile": str(q)}, ms) for q, ms in at.items()]
    about = "What the newest suggestions took, in milliseconds."
    return lines + family("automl_suggestion_milliseconds", "gauge", about, quantiles)


def _of_duties(engine: Engine) -> list[str]:
    duties = engine.duties.all()
    states = [({"duty": duty.name}, float(duty.held)) for duty in duties]
    held = family("automl_duty_held", "gauge", "Whether somebody does it.", states)
    kept = [
        ({"duty": duty.name}, Histogram.from_json(duty.cursor[SUGGESTION_MS]))
        for duty in duties
        if SUGGESTION_MS in duty.cursor
    ]
    return held + histograms("automl_suggest_milliseconds", "What suggestions took, since they were counted.", kept)
