"""A service that also makes suggestions, for tests of whoever works for it from afar.

In a thread of the test (`served`), or as a process that can be killed: `python -m tests.remote URL ARTIFACTS PORT`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from automl.core import StudyState
from automl.engine import Engine, connect
from automl.errors import DatabaseUnavailable
from automl.service.app import create_app
from automl.service.callers import Authenticator, local
from automl.suggester import Suggester
from tests.service import running

#: Between two rounds, and how long a round's right to suggest lasts.
ROUND_S, LEASE_S = 0.05, 5.0
SLOTS = 4


class Making(threading.Thread):
    """Suggests for every open study of some projects, and takes expired leases back."""

    def __init__(self, engines: list[Engine]):
        super().__init__(name="making", daemon=True)
        self._engines = engines
        self._suggesters: dict[int, Suggester] = {}
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.wait(ROUND_S):
            try:
                for engine in self._engines:
                    self._round(engine)
            except DatabaseUnavailable:
                continue

    def _round(self, engine: Engine) -> None:
        engine.reap(0.0)
        for record in engine.studies():
            if record.state is StudyState.OPEN and record.spec is not None:
                if record.id not in self._suggesters:
                    self._suggesters[record.id] = engine.suggester(record)
                self._suggesters[record.id].step(SLOTS, LEASE_S)

    def end(self) -> None:
        self._ended.set()
        self.join()


@contextmanager
def served(url: str, artifacts: Path, authenticate: Callable[[Engine], Authenticator] | None = None) -> Iterator[Any]:
    """(address, engine) of a service over the default project of a database."""
    engine = connect(url, artifacts)
    making = Making([engine])
    making.start()
    try:
        with running(create_app(engine, authenticate(engine) if authenticate else local)) as address:
            yield address, engine
    finally:
        making.end()
        engine.close()


def main(url: str, artifacts: str, port: str) -> None:
    engine = connect(url, Path(artifacts))
    Making([engine]).start()
    uvicorn.run(create_app(engine), host="127.0.0.1", port=int(port), log_level="warning", lifespan="off")


if __name__ == "__main__":
    main(*sys.argv[1:])
