"""Starts servers: the dashboard alone, or a team's service; all that the first visit needs is loaded before it."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import sys
import threading
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from automl.errors import AutoMLError, InvalidInput
from automl.outbound import is_loopback
from automl.service.config import Config, Listen, asks_for_tokens, check_exposure

if TYPE_CHECKING:
    from automl.engine import Engine

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
    script = _set_up(storage, host, port)
    _warm_up()
    address = Listen(host, port).url
    print(f"dashboard on {address}; Ctrl-C ends it", flush=True)
    if not is_loopback(host):
        print(
            f"automl: anybody who reaches {host}:{port} can see and stop everything; `automl serve` asks who comes",
            file=sys.stderr,
            flush=True,
        )
    if open_browser:
        threading.Thread(target=_open_browser, args=(address, port), name="browser", daemon=True).start()

    from streamlit.web import bootstrap

    from dashboard.settings import options

    bootstrap.run(str(script), False, [], options(host, port))


def serve_team(
    engine: Engine, storage: str | None, listen: Listen, config: Config, *, dashboard: bool, duties: bool
) -> None:
    """Serve the API, the dashboard and the duties until Ctrl-C or SIGTERM, which is raised as KeyboardInterrupt.

    `storage` is what `engine` was opened with. Raises `InvalidInput`, before anything has begun.
    """
    from automl.service.processes import Keeper
    from automl.service.web import serve as answer
    from automl.storage.tokens import is_any_good

    check_exposure(listen, config, is_any_good(engine.database))
    check_port(listen.host, listen.port)
    asks = asks_for_tokens(listen, config)
    script = _set_up(storage, listen.host, listen.port) if dashboard else None
    with Keeper(storage, None, config) if duties else contextlib.nullcontext():
        if script is not None:
            _warm_up(boards=not asks)
        print(f"automl on {listen.url}: {_offer(listen, config, dashboard, duties)}; Ctrl-C ends it", flush=True)
        answer(engine, listen, config, script)


def _offer(listen: Listen, config: Config, dashboard: bool, duties: bool) -> str:
    """What is served, and what is asked of those who come."""
    parts = [*(["dashboard"] if dashboard else []), "API at /api/v1", *([] if duties else ["no duties"])]
    if not asks_for_tokens(listen, config):
        asked = "nobody is asked for a token, because only this machine gets here"
    elif config.oidc is None:
        asked = "with a token, which `automl token create` makes"
    else:
        asked = "the API with a token, the dashboard after a login"
    return f"{', '.join(parts)}; {asked}"


def _set_up(storage: str | None, host: str, port: int) -> Path:
    """Set Streamlit, and only this way: no file that lies about is read.

    The dashboard's script. It can be imported from here on, and will open `storage`.
    """
    folder = dashboard_folder()
    if storage is not None:
        os.environ["AUTOML_STORAGE"] = storage
    sys.path.insert(0, str(folder))
    from streamlit.web import bootstrap

    from dashboard.settings import options

    # First of all that has to do with Streamlit: what changes its settings later on is told to restart it.
    bootstrap.load_config_options({**options(host, port), "secrets.files": []})
    return folder / "dashboard" / "app.py"


def _warm_up(*, boards: bool = True) -> None:
    """Load what the first page needs before there is a visitor, and behind its back what the second one does.

    Without `boards` no study is read: whose it would be is not known before somebody has logged in.
    """
    import narwhals  # noqa: F401  (what Streamlit imports when it is handed a plot, a picture, a table)
    import pandas  # noqa: F401  (plotly uses it as soon as somebody has begun to load it, in whatever thread)
    import PIL.Image  # noqa: F401
    import plotly.graph_objects
    import plotly.io

    from dashboard import actions, connection  # noqa: F401
    from dashboard.study_views import curves, head, parameters, pareto, progress, timeline, trials, why  # noqa: F401

    plotly.io.to_json(plotly.graph_objects.Figure(), validate=False)
    _settle()
    if boards and connection.answers():
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
