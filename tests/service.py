"""A running service for tests: the server that `automl serve` runs, in a thread, on a port of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI

from automl.service.server import Patience, Tls, make_server


@contextmanager
def running(app: FastAPI, *, patience: Patience | None = None, tls: Tls | None = None) -> Iterator[str]:
    """Serve `app` until the end of the block; its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = make_server(app, "127.0.0.1", port, patience=patience, tls=tls)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="service", daemon=True)
        # Connections wait in the listener's queue until the server takes them.
        listener.listen(128)
        thread.start()
        try:
            yield f"{'http' if tls is None else 'https'}://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(15)
