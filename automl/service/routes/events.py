"""What happens, as it happens: server-sent events.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse

from automl import wire
from automl.errors import Refused
from automl.service.auth import identified
from automl.service.broadcast import Broadcaster, Listener
from automl.service.callers import Caller, Reader
from automl.service.server import ENDLESS
from automl.storage.stream import PAGE, PAGES, Happening, since
from automl.team import Scope

router = APIRouter(tags=["events"])

#: A silent stream says so often that it is there: proxies close what is silent.
HEARTBEAT_S = 15.0
#: Whose token is revoked hears nothing more after so long.
CHECK_S = 1.0
#: Milliseconds after which a client comes again when its stream ended.
RETRY_MS = 2000
_EXAMPLE = (
    'id: 4711\nevent: trial\ndata: {"seq":4712,"project":"default","study_id":1,"study":"digits","trial":3,'
    '"state":"complete","cause":"finished","attempt":1,"worker":"gpu-0","at":1795000000.0}\n\n'
)
_STREAM = {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}}}


@router.get("/events", response_class=StreamingResponse, responses={200: _STREAM})
async def listen(
    request: Request,
    caller: Reader,
    study: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="The id of one study; else all.")] = None,
    last_event_id: Annotated[str | None, Header(pattern="^[0-9]{1,18}$", description="The last id seen.")] = None,
) -> StreamingResponse:
    """The moves of the project's studies and trials, as server-sent events.

    With `Last-Event-ID` it goes on where another stream ended; what was said last may then be said again, and has
    the same `seq`. After an event `reset` too much has happened: read the state anew.
    """
    if study is not None:
        await to_thread.run_sync(caller.engine.study_by_id, study)
    state = request.app.state
    if getattr(state, "broadcaster", None) is None:
        state.broadcaster = Broadcaster(caller.engine.database)
    request.scope.setdefault("state", {})[ENDLESS] = True
    stack = AsyncExitStack()
    listener = await stack.enter_async_context(state.broadcaster.listening(caller.identity.project, study))
    seen = None if last_event_id is None else int(last_event_id)
    return StreamingResponse(
        _told(request, caller, listener, seen, stack),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _told(
    request: Request, caller: Caller, listener: Listener, seen: int | None, stack: AsyncExitStack
) -> AsyncIterator[bytes]:
    async with stack:
        state = request.app.state
        yield f"retry: {RETRY_MS}\nid: {state.broadcaster.mark}\n: listening\n\n".encode()
        told: set[int] = set()
        if seen is not None:
            database = caller.engine.database
            missed = await to_thread.run_sync(since, database, listener.project, seen, listener.study_id)
            if len(missed) == PAGE * PAGES:
                yield b"event: reset\ndata: {}\n\n"
                missed = []
            told = {happened.seq for happened in missed}
            for happened in missed:
                yield _event(seen, happened)
        checked = spoke = time.monotonic()
        while not listener.is_behind:
            heard = await listener.next(CHECK_S)
            now = time.monotonic()
            if now - checked >= CHECK_S:
                if not await _is_welcome(request):
                    return
                checked = now
            if heard is not None and heard[1].seq not in told:
                yield _event(*heard)
                spoke = now
            elif now - spoke >= HEARTBEAT_S:
                yield b": still here\n\n"
                spoke = now


async def _is_welcome(request: Request) -> bool:
    try:
        return (await identified(request.app.state.authenticate, request)).may(Scope.READ)
    except Refused:
        return False


def _event(mark: int, happened: Happening) -> bytes:
    kind = "study" if happened.trial is None else "trial"
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (mark, kind.encode(), wire.dump(happened))
