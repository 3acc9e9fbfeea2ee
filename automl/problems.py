"""Errors as the service says them, and back: every error of `errors.py` crosses the network as itself.

The body of an answer that is no success::

    {"error": {"code": "not_found", "message": "...", "field": "study", "request_id": "...", "data": {...}}}

`code` never changes, `message` is for people and names the cure, `field` is absent where no one field is to blame.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from automl import errors
from automl.core import Gate
from automl.errors import AutoMLError, InvalidInput, PromotionRefused, StudyConflict, TooMany

#: Code -> (error, HTTP status). A subclass comes before its base: the first that fits is said.
CODES: Mapping[str, tuple[type[AutoMLError], int]] = {
    "not_found": (errors.NotFound, 404),
    "invalid_study": (errors.InvalidStudy, 422),
    "invalid_target": (errors.InvalidTarget, 422),
    "too_large": (errors.TooLarge, 413),
    "unsafe_format": (errors.UnsafeFormat, 415),
    "invalid_input": (errors.InvalidInput, 422),
    "study_conflict": (errors.StudyConflict, 409),
    "promotion_refused": (errors.PromotionRefused, 422),
    "promotion_conflict": (errors.PromotionConflict, 409),
    "study_failed": (errors.StudyFailed, 409),
    "lease_lost": (errors.LeaseLost, 409),
    "artifact_corrupt": (errors.ArtifactCorrupt, 422),
    "model_unusable": (errors.ModelUnusable, 422),
    "unauthorized": (errors.Unauthorized, 401),
    "insufficient_scope": (errors.Forbidden, 403),
    "too_many_requests": (errors.TooMany, 429),
    "storage_full": (errors.StorageFull, 507),
    "database_unavailable": (errors.DatabaseUnavailable, 503),
    "schema_mismatch": (errors.SchemaMismatch, 503),
    "storage_error": (errors.StorageError, 500),
}
#: What a code that is not above is, where its status says more than that something went wrong.
_BY_STATUS: Mapping[int, type[AutoMLError]] = {
    400: errors.InvalidInput,
    412: errors.InvalidInput,
    413: errors.InvalidInput,
    415: errors.InvalidInput,
    422: errors.InvalidInput,
    500: errors.StorageError,
    503: errors.DatabaseUnavailable,
    507: errors.StorageError,
}
_GATES = TypeAdapter(tuple[Gate, ...])


def problem(error: AutoMLError) -> tuple[int, dict[str, Any]]:
    """The HTTP status of an error, and what is under "error" in the body but for the request's id."""
    code, status = next((code, status) for code, (kind, status) in CODES.items() if isinstance(error, kind))
    said: dict[str, Any] = {"code": code, "message": str(error)}
    if isinstance(error, InvalidInput) and error.field is not None:
        said["field"] = error.field
    if isinstance(error, StudyConflict):
        data = {"name": error.name, "differences": error.differences, "extendable": error.extendable}
        said["data"] = data
    elif isinstance(error, PromotionRefused):
        said["data"] = {"gates": _GATES.dump_python(error.gates, mode="json")}
    elif isinstance(error, errors.StudyFailed):
        said["data"] = {"traceback": error.traceback}
    elif isinstance(error, TooMany):
        said["data"] = {"retry_after_s": error.retry_after_s}
    return status, said


def error_of(status: int, said: Mapping[str, Any]) -> AutoMLError:
    """The error that the service said, as if it had been raised here. An unknown one is an `AutoMLError`."""
    kind = CODES.get(str(said.get("code")), (_BY_STATUS.get(status, AutoMLError), status))[0]
    message, data = str(said.get("message", f"the service answered {status}")), said.get("data") or {}
    if kind is StudyConflict and {"name", "differences", "extendable"} <= data.keys():
        return StudyConflict(data["name"], data["differences"], data["extendable"])
    if kind is PromotionRefused:
        return PromotionRefused(message, _GATES.validate_python(data.get("gates", ())))
    if kind is errors.StudyFailed:
        return errors.StudyFailed(message, data.get("traceback", ""))
    if kind is TooMany:
        return TooMany(message, data.get("retry_after_s", 1.0))
    if issubclass(kind, InvalidInput):
        return kind(message, said.get("field"))
    return kind(message)
