"""What the service says of itself: OpenAPI 3.1, with the errors, the token and an example of each body."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from automl.service.limits import Body

ABOUT = """
The verbs of automl: declare studies, run their trials, keep their models.

Every call but `/healthz` and `/readyz` carries a token, as `Authorization: Bearer automl_...`; it belongs to one
project, and everything of another project is a 404. Errors have one form: `code` never changes, `message` says the
cure, `field` names what was wrong. JSON has no NaN and no infinities; where a number may be one, it is the text
"NaN", "Infinity" or "-Infinity". A POST with an `Idempotency-Key` is done once, however often it is sent. Every JSON
answer to a GET has an `ETag`.
""".strip()

TAGS = [
    {"name": "studies", "description": "What is searched: make, list, read, steer, delete."},
    {"name": "trials", "description": "What was tried: page, read, enqueue, invalidate; ask, tell, report."},
    {"name": "views", "description": "What pages show: boards, curves, timelines, what the model says."},
    {"name": "models", "description": "What came of it: versions, aliases, promotion, roll back, files."},
    {"name": "work", "description": "The worker protocol: claim, renew, report, checkpoint, finish, fail, release."},
    {"name": "workers", "description": "Who works."},
    {"name": "files", "description": "Artifacts and packages of code, by their sha256."},
    {"name": "schedules", "description": "What starts by itself."},
    {"name": "batches", "description": "What is run together, on one budget."},
    {"name": "channels", "description": "Who is told."},
    {"name": "events", "description": "What happens, as it happens."},
    {"name": "tokens", "description": "Who may call."},
    {"name": "health", "description": "Whether the service lives, and its figures."},
]

ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "request_id"],
            "properties": {
                "code": {"type": "string", "description": "For programs; never changes."},
                "message": {"type": "string", "description": "For people; names the cure."},
                "field": {"type": "string", "description": "What was wrong, in dotted form."},
                "request_id": {"type": "string", "description": "To find it in the service's log."},
                "data": {"type": "object", "description": "What a program may want to know besides."},
            },
        }
    },
    "examples": [
        {
            "error": {
                "code": "not_found",
                "message": "study: there is no study 'digit'; there is 'digits'",
                "field": "study",
                "request_id": "5f3a9c1e2b7d8046",
            }
        }
    ],
}
_WHY = {
    "401": "No token, or one that is not good (any more).",
    "403": "The token has not the scope that this takes.",
    "404": "There is no such thing in the token's project.",
    "409": "Something else happened in between, or has the name; or the same request is being worked on.",
    "413": "The body is too large.",
    "415": "The body is not of the type that this takes.",
    "422": "What was sent cannot be; `field` names it.",
    "429": "Too many requests; `Retry-After` says when to come again.",
    "500": "The service failed; its log says why, under the request's id.",
    "503": "The database does not answer; try again.",
    "507": "The service's disk is full.",
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "What is sent twice with one key is done once.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200},
    "example": "0b9e6a5c-6f0e-4e0b-9a60-9f2d0c2a7f11",
}
_LEASE = "9f8b6c1d2e3f4a5b8c7d6e5f4a3b2c1d"
_REPORTS = [{"step": 3, "value": 0.91, "metrics": {"loss": 0.31}}]
_LOAD = {"cpu": 0.4, "memory": 0.5, "gpus": []}
#: Of the bodies whose routes have none of their own, by operation.
EXAMPLES: Mapping[str, Any] = {
    "work_claim": {"study_ids": [1], "worker": "gpu-0", "token": _LEASE, "lease_s": 30.0},
    "work_renew": {"tokens": [_LEASE], "lease_s": 30.0},
    "work_report": {"token": _LEASE, "reports": _REPORTS},
    "work_describe": {"token": _LEASE, "params": {"lr": 0.01}, "distributions": {}},
    "work_should_prune": {"token": _LEASE},
    "work_checkpoint": {"token": _LEASE, "step": 3, "sha256": "5" * 64},
    "work_finish": {"token": _LEASE, "outcome": {"state": "complete", "values": [0.93]}, "reports": _REPORTS},
    "work_fail": {"token": _LEASE, "kind": "error", "message": "RuntimeError: out of memory"},
    "work_release": {"token": _LEASE},
    "work_artifacts": {"trial_id": 17, "files": [{"name": "model.onnx", "sha256": "5" * 64, "size": 51_200}]},
    "work_enroll": {
        "name": "gpu",
        "host": "node-1",
        "pid": 4711,
        "slots": [["0"]],
        "load": _LOAD,
        "environment": {"python": "3.11.7"},
        "lease_s": 30.0,
    },
    "work_beat": {"name": "gpu", "load": _LOAD},
    "work_leave": {"name": "gpu"},
    "files_put_package": {
        "environment": {"python": "3.11.7"},
        "files": {"digits.py": "study = ..."},
        "main": "digits.py",
    },
    "work_confirm": {"study_id": 1},
    "work_want": {"study_id": 1, "slots": 2, "lease_s": 30.0},
}
_METHODS = ("get", "head", "put", "post", "delete", "patch")


def operation_id(route: APIRoute) -> str:
    """`studies_create`: the resource, then what the route's function is called."""
    return f"{route.tags[0] if route.tags else 'root'}_{route.name}"


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document; made once for each application."""
    made: dict[str, Any] | None = getattr(app.state, "document", None)
    if made is None:
        made = app.state.document = _made(deepcopy(app.openapi()), app.state.bodies)
    return made


def operations(found: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and operation, for all of a document."""
    for path, item in found["paths"].items():
        for method in _METHODS:
            if method in item:
                yield method.upper(), path, item[method]


def _made(found: dict[str, Any], bodies: Mapping[tuple[str, str], Body]) -> dict[str, Any]:
    found["info"]["description"] = ABOUT
    components = found.setdefault("components", {})
    bearer = {"type": "http", "scheme": "bearer", "description": "See `automl token`."}
    components["securitySchemes"] = {"token": bearer}
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Error"] = ERROR
    found["security"] = [{"token": []}]
    for method, path, operation in operations(found):
        _describe(operation)
        if path in ("/healthz", "/readyz"):
            operation["security"] = []
        if method == "POST" and "/work/" not in path:
            operation.setdefault("parameters", []).append(_KEY)
        if "requestBody" not in operation and (body := bodies.get((method, path))) is not None:
            operation["requestBody"] = {"required": True, "content": {body.media: {"schema": _read_by_the_route(body)}}}
        if (example := EXAMPLES.get(operation["operationId"])) is not None:
            operation["requestBody"]["content"]["application/json"].setdefault("example", example)
        responses = operation.setdefault("responses", {})
        for status in _statuses(method, path, "requestBody" in operation):
            schema = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
            responses[status] = {"description": _WHY[status], "content": schema}
    return found


def _read_by_the_route(body: Body) -> dict[str, Any]:
    """Of a body that FastAPI does not look at."""
    if body.media == "application/json":
        return {"type": "object", "additionalProperties": True}
    return {"type": "string", "format": "binary", "maxLength": body.max_bytes}


def _describe(operation: dict[str, Any]) -> None:
    """The first line of the function's docstring says it better than its name."""
    first, _, rest = operation.get("description", "").partition("\n")
    if first:
        operation["summary"] = first.rstrip(".")
    if rest.strip():
        operation["description"] = rest.strip()
    else:
        operation.pop("description", None)


def _statuses(method: str, path: str, has_body: bool) -> list[str]:
    if path == "/healthz":
        return ["500"]
    if path == "/readyz":
        return ["500", "503"]
    found = ["401", "403", "422", "429", "500", "503"]
    if "{" in path or method != "GET":
        found.append("404")
    if method != "GET":
        found += ["409", "507"]
    if has_body:
        found += ["413", "415"]
    return sorted(found)
