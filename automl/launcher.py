"""Starts the dashboard's server: finds its script, sets Streamlit, and has everything loaded before the first visit."""

from __future__ import annotations

import contextlib
import gc
import ipaddress
import os
import socket
import sys
import threading
import time
import webbrowser
from pathlib import Path

from automl.errors import AutoMLError, InvalidInput

#: What nobody needs for the first page is loaded so long after the server is there.
_PATIENT_S = 10.0
#: How long the browser waits for the server.
_PATIENCE_S = 60.0


def dashboard_folder() -> Path:
    """The folder above `dashboard/`: a wheel carries it in the package, a checkout has it beside the package.

    Raises `InvalidInput` when this installation has none.
    """
    package = Path(__file__).parent
    for folder in (package / "web", package.parent):
        if (folder / "dashboard" / "app.py").is_file():
            return folder
    raise InvalidInput("dashboard: this installation has none; install automl again", field="dashboard")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_port(host: str, port: int) -> None:
    """Raises `InvalidInput` when no server can listen there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # one that just ended does not count
            probe.bind(address)
    except socket.gaierror as error:
        raise InvalidInput(f"--host: {host!r} is no address of this machine", field="host") from error
    except OSError as error:
        cure = "another program listens there; choose another --port" if error.errno == 98 else error.strerror
        raise InvalidInput(f"--port: {host}:{port} cannot be used: {cure}", field="port") from error


def serve(storage: str | None, host: str, port: int, *, open_browser: bool) -> None:
    """Serve the dashboard until Ctrl-C or SIGTERM. `storage` as in `connect`; raises `InvalidInput`."""
    check_port(host, port)
    folder = dashboard_folder()
    if storage is not None:
        os.environ["AUTOML_STORAGE"] = storage
    sys.path.insert(0, str(folder))
    _warm_up()
    address = f"http://{'localhost' if host in ('0.0.0.0', '::') else f'[{host}]' if ':' in host else host}:{port}"
    print(f"dashboard on {address}; Ctrl-C ends it", flush=True)
    if not is_loopback(host):
        print(
            f"automl: anybody who reaches {host}:{port} can see and stop everything: there is no login yet",
            file=sys.stderr,
            flush=True,
        )
    if open_browser:
        threading.Thread(target=_open_browser, args=(address, port), name="browser", daemon=True).start()

    from streamlit.web.cli import main

    from dashboard.settings import flags

    main(["run", str(folder / "dashboard" / "app.py"), *flags(host, port)], standalone_mode=False)


def _warm_up() -> None:
    """Load what the first page needs before there is a visitor, and behind its back what the second one does."""
    import narwhals  # noqa: F401  (what Streamlit imports when it is handed a plot, a picture, a table)
    import PIL.Image  # noqa: F401
    import plotly.graph_objects
    import plotly.io

    from dashboard import actions, connection  # noqa: F401
    from dashboard.study_views import curves, head, parameters, pareto, progress, timeline, trials, why  # noqa: F401

    plotly.io.to_json(plotly.graph_objects.Figure(), validate=False)
    _settle()
    if connection.answers():
        threading.Thread(target=_warm_up_slowly, name="warm-up", daemon=True).start()


def _warm_up_slowly() -> None:
    """The study that somebody is most likely to look at first, then what asks the search's model."""
    from dashboard import connection

    with contextlib.suppress(AutoMLError):  # whoever looks is told
        if overviews := connection.engine().overviews():  # newest activity first
            connection.board(overviews[0].study.name)
        time.sleep(_PATIENT_S)  # whoever looks in this moment comes first
        import automl.beliefs
        import automl.racing  # noqa: F401
    _settle()


def _settle() -> None:
    """Take what was loaded for lasting: Streamlit collects garbage after each run of a page or fragment, and walking
    through all modules once a second for each visitor takes more than all else that a pulse does.
    """
    gc.collect()
    gc.freeze()


def _open_browser(address: str, port: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            with socket.create_connection((address.split("//")[1].rpartition(":")[0].strip("[]"), port), timeout=1):
                break
        except OSError:
            time.sleep(0.1)
    webbrowser.open(address)
