"""What is sent twice with one `Idempotency-Key` is done once; the second time the first answer is given again.

Only what was done is kept. A refusal changed nothing, so the same request may be tried again with its key.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from hashlib import sha256

from anyio import to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from automl.engine import Engine
from automl.errors import InvalidInput, StorageError
from automl.service.callers import IDENTITY, SECRET
from automl.service.limits import BODY
from automl.service.refusals import REQUEST_ID, Problem
from automl.storage.answers import Answer, Answers

MAX_KEY_LENGTH = 200
REPLAYED = (b"idempotency-replayed", b"true")

logger = logging.getLogger("automl.service")


class Idempotency:
    """Looks at every POST with a key."""

    def __init__(self, app: ASGIApp, engine_of: Callable[[str], Engine]):
        self._app = app
        self._engine_of = engine_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key(scope)
        if key is None or IDENTITY not in scope:
            await self._app(scope, receive, send)
            return
        answers = self._engine_of(scope[IDENTITY].project).answers
        kept = await to_thread.run_sync(_begin, answers, key, _fingerprint(scope))
        if kept is not None:
            await _replay(kept, send)
            return
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        try:
            await self._app(scope, receive, collect)
        except BaseException:
            await to_thread.run_sync(answers.forget, key)
            raise
        # Before it is sent: who has the answer may ask again at once.
        await to_thread.run_sync(_keep, answers, key, scope, messages)
        for message in messages:
            await send(message)


def _key(scope: Scope) -> str | None:
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    key = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"idempotency-key"), None)
    if key is not None and not (1 <= len(key) <= MAX_KEY_LENGTH and key.isascii() and key.isprintable()):
        message = f"Idempotency-Key: use 1 to {MAX_KEY_LENGTH} printable characters, as a UUID"
        raise InvalidInput(message, field="Idempotency-Key")
    return key


def _fingerprint(scope: Scope) -> str:
    head = f"{scope['method']} {scope['path']}".encode() + b"?" + scope["query_string"] + b"\n"
    return sha256(head + scope.get(BODY, b"")).hexdigest()


def _begin(answers: Answers, key: str, fingerprint: str) -> Answer | None:
    try:
        return answers.begin(key, fingerprint)
    except InvalidInput as error:
        raise Problem(422, "idempotency_mismatch", str(error), "Idempotency-Key") from error


def _keep(answers: Answers, key: str, scope: Scope, messages: list[Message]) -> None:
    status = messages[0]["status"] if messages else 500
    body = b"".join(message.get("body", b"") for message in messages)
    if status >= 400:
        answers.forget(key)
        return
    if scope.get(SECRET):
        status, body = 409, _said_once(scope)
    try:
        answers.finish(key, status, body.decode())
    except StorageError as error:  # it is done all the same, and must be said
        logger.warning("%s: the answer could not be kept: %s", scope.get(REQUEST_ID), error)


def _said_once(scope: Scope) -> bytes:
    message = "this was done, and its answer had a secret, which is said once: revoke what was made, and make another"
    said = {"code": "said_once", "message": message, "request_id": scope.get(REQUEST_ID)}
    return json.dumps({"error": said}).encode()


async def _replay(kept: Answer, send: Send) -> None:
    body = kept.body.encode()
    headers = [(b"content-length", str(len(body)).encode()), REPLAYED]
    if body:
        headers.append((b"content-type", b"application/json"))
    if kept.status == 204:
        headers = [REPLAYED]
    await send({"type": "http.response.start", "status": kept.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
