"""One module for each kind of resource. A route finds out who calls, calls one verb of the engine, and hands over."""

from __future__ import annotations

from automl.service.routes import (
    batches,
    channels,
    events,
    files,
    health,
    models,
    schedules,
    studies,
    tokens,
    trials,
    views,
    work,
    workers,
)

ROUTERS = (
    studies.router,  # first: these are asked most often, and routes are looked through in their order
    trials.router,
    batches.router,
    channels.router,
    events.router,
    files.router,
    health.router,
    models.router,
    schedules.router,
    tokens.router,
    views.router,
    work.router,
    workers.router,
)
