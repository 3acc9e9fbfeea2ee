"""What happens, told to everybody who listens: one look at the database a second, however many they are."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread

from automl.errors import StorageError, TooMany
from automl.storage.database import Database
from automl.storage.stream import Happening, Stream

#: Seconds between two looks.
EVERY_S = 1.0
#: Who is further behind than this is cut off: he comes again, and says what he has seen.
MAX_BEHIND = 10_000
MAX_LISTENERS = 100  #: of one project

logger = logging.getLogger("automl.service")


class Listener:
    """One who listens: to a project, or to one of its studies."""

    def __init__(self, project: str, study_id: int | None):
        self.project = project
        self.study_id = study_id
        self.is_behind = False
        self._queue: asyncio.Queue[tuple[int, Happening]] = asyncio.Queue(MAX_BEHIND)

    async def next(self, timeout_s: float) -> tuple[int, Happening] | None:
        """What happened next, and the number to go on from; None when nothing did for so long."""
        try:
            return await asyncio.wait_for(self._queue.get(), timeout_s)
        except TimeoutError:
            return None

    def tell(self, mark: int, happened: Happening) -> None:
        if happened.project != self.project or self.study_id not in (None, happened.study_id):
            return
        try:
            self._queue.put_nowait((mark, happened))
        except asyncio.QueueFull:
            self.is_behind = True


class Broadcaster:
    """Looks while somebody listens. Used in one event loop only."""

    def __init__(self, database: Database):
        self._stream = Stream(database)
        self._listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None
        self._has_begun = asyncio.Event()

    @property
    def mark(self) -> int:
        """The number that a listener who comes now has seen everything up to."""
        return self._stream.low

    @asynccontextmanager
    async def listening(self, project: str, study_id: int | None) -> AsyncIterator[Listener]:
        """Hears what happens from now on. Raises `TooMany`."""
        if Counter(listener.project for listener in self._listeners)[project] >= MAX_LISTENERS:
            raise TooMany(f"events: {MAX_LISTENERS} listen to this project already; end one of them", retry_after_s=30)
        listener = Listener(project, study_id)
        self._listeners.add(listener)
        try:
            if self._task is None or self._task.done():
                self._has_begun.clear()
                self._task = asyncio.create_task(self._look())
            await self._has_begun.wait()
            yield listener
        finally:
            self._listeners.discard(listener)

    async def _look(self) -> None:
        is_new = True
        while self._listeners:
            try:
                if is_new:
                    await to_thread.run_sync(self._stream.begin)
                    is_new = False
                    self._has_begun.set()
                for happened in await to_thread.run_sync(self._stream.new):
                    for listener in self._listeners:
                        listener.tell(self._stream.low, happened)
            except StorageError as error:  # it will be there again, and nothing is left out
                logger.warning("events: %s", error)
            await asyncio.sleep(EVERY_S)
