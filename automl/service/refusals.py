"""What the service says when it does not do what was asked: one body for every answer from 400 on.

Secrets never leave: texts that may hold one go through `redacted`, those of errors as well as those of logs.
"""

from __future__ import annotations

import errno
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from automl.errors import AutoMLError, DatabaseUnavailable, StorageError, TooMany
from automl.problems import CODES, problem

logger = logging.getLogger("automl.service")

#: Where the id of a request is kept while it is worked on.
REQUEST_ID = "automl.request_id"
#: Seconds after which a client may ask again when the database did not answer, or its disk was full.
UNAVAILABLE_RETRY_S, FULL_RETRY_S = 2, 60
MAX_MESSAGE_LENGTH = 2000

_SECRETS = (
    (re.compile(r"(automl_[0-9a-f]{12}_)[A-Za-z0-9_-]+"), r"\1***"),
    (re.compile(r"(://[^/\s:@]*:)[^/\s@]*(?=@)"), r"\1***"),
    (re.compile(r"(?i)(\bbearer\s+)[^\s'\",]{16,}"), r"\1***"),
    (re.compile(r"(?i)(\b(?:password|passwd|secret|token)(?:=|['\"]\s*:\s*['\"]))[^\s'\",&;}]+"), r"\1***"),
)
_NAMES = {
    404: ("not_found", "there is nothing at this address; the addresses are in /api/v1/openapi.json"),
    405: ("method_not_allowed", "this address does not know that method; see the header Allow"),
}


def redacted(text: str) -> str:
    """`text` without the secrets of tokens, the passwords of database addresses, and what is called a password."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def keep_logs_clean() -> None:
    """Let no secret into what this process logs. Records are cleaned as they are made, because libraries bring
    handlers of their own along, as Streamlit does for uvicorn's log.
    """
    make, formatter = logging.getLogRecordFactory(), logging.Formatter()

    def clean(*args: Any, **options: Any) -> logging.LogRecord:
        record = make(*args, **options)
        record.msg, record.args = redacted(record.getMessage()), None
        if record.exc_info:  # formatters take this text instead of the exception
            record.exc_text = redacted(formatter.formatException(record.exc_info))
        return record

    logging.setLogRecordFactory(clean)


class Problem(Exception):
    """An answer that is no success and has no error of its own in `automl.errors`."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        self.headers = dict(headers or {})


def refusal(error: Exception, request_id: str) -> Response:
    """The answer to a request that ended with this error. What nobody foresaw is logged, and not told."""
    status, said, headers = _said(error, request_id)
    said["message"] = redacted(said["message"])[:MAX_MESSAGE_LENGTH]
    said["request_id"] = request_id
    return Response(json.dumps({"error": said}), status, headers, "application/json")


def use_refusals(app: FastAPI, methods: Callable[[str], frozenset[str]]) -> None:
    """Let every error that a route raises be answered by `refusal`; those it does not know go further up.

    `methods` says which an address knows.
    """

    async def refuse(request: Request, error: Exception) -> Response:
        answer = refusal(error, request.scope.get(REQUEST_ID, ""))
        if answer.status_code == 405:  # the router names those of the first route that it found
            answer.headers["Allow"] = ", ".join(sorted(methods(request.scope["path"])))
        return answer

    for kind in (AutoMLError, Problem, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, refuse)


def _said(error: Exception, request_id: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    if _is_disk_full(error):
        logger.error("%s: the disk is full: %s", request_id, error)
        message = "the service's disk is full; nothing was stored: free space on it, then try again"
        return 507, {"code": "storage_full", "message": message}, {"Retry-After": str(FULL_RETRY_S)}
    if isinstance(error, RequestValidationError):
        return 422, _invalid(error), {}
    if isinstance(error, Problem):
        said: dict[str, Any] = {"code": error.code, "message": str(error)}
        if error.field is not None:
            said["field"] = error.field
        return error.status, said, error.headers
    if isinstance(error, HTTPException):
        code, message = _NAMES.get(error.status_code, (f"http_{error.status_code}", str(error.detail)))
        return error.status_code, {"code": code, "message": message}, dict(error.headers or {})
    if isinstance(error, StorageError):
        return _unstored(error, request_id)
    if isinstance(error, AutoMLError) and isinstance(error, tuple(kind for kind, _ in CODES.values())):
        return _known(error)
    logger.error("%s: %s", request_id, type(error).__name__, exc_info=error)
    message = f"the service failed; its log says why, under {request_id}"
    return 500, {"code": "internal", "message": message}, {}


def _known(error: AutoMLError) -> tuple[int, dict[str, Any], dict[str, str]]:
    status, said = problem(error)
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="automl"'
    if isinstance(error, TooMany):
        headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
    return status, said, headers


def _unstored(error: StorageError, request_id: str) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Not in the error's own words: they name the database, and where it is."""
    status, said = problem(error)
    logger.error("%s: %s", request_id, error)
    if isinstance(error, DatabaseUnavailable):
        said["message"] = "the service's database does not answer; try again"
    elif status == 500:
        said["message"] = f"the service's database refused a statement; its log says why, under {request_id}"
    return status, said, {"Retry-After": str(UNAVAILABLE_RETRY_S)} if status == 503 else {}


def _invalid(error: RequestValidationError) -> dict[str, Any]:
    """Of the first thing that is wrong. What was sent is not repeated: it may be a secret."""
    first = error.errors()[0]
    cause = (first.get("ctx") or {}).get("error")
    if isinstance(cause, AutoMLError):  # raised by one of our own nouns
        return problem(cause)[1]
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    message = str(first["msg"])
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        message = "there is no such field; leave it out"
    elif first["type"] in ("missing", "missing_argument"):
        message = "is missing"
    return {"code": "invalid_input", "message": f"{field}: {message}", "field": field}


def _is_disk_full(error: Exception) -> bool:
    return any(
        (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT))
        or getattr(cause, "pgcode", None) == "53100"
        or getattr(cause, "sqlite_errorname", None) == "SQLITE_FULL"
        for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        original = getattr(error, "orig", None)  # SQLAlchemy keeps the driver's error there
        if isinstance(original, BaseException):
            yield original
        error = error.__cause__
