"""The service of a team: API, dashboard and duties, beside its database."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from automl.commands.shared import Storage, app, interrupt_on_signals, open_engine
from automl.errors import InvalidInput


@app.command(epilog="Example: automl serve --storage postgresql://user@db/automl --host 0.0.0.0 --behind-proxy")
def serve(
    storage: Storage = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="Where it listens.")] = 8787,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Logins, mail, limits: see docs/service.md.")
    ] = None,
    no_dashboard: Annotated[bool, typer.Option("--no-dashboard", help="Serve the API only.")] = False,
    no_duties: Annotated[
        bool, typer.Option("--no-duties", help="Leave suggestions, schedules and the like to other servers.")
    ] = False,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key, PEM.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy does TLS, and nobody gets here but through it.")
    ] = False,
    insecure_http: Annotated[
        bool, typer.Option("--insecure-http", help="Let tokens cross the network in clear text.")
    ] = False,
) -> None:
    """Serve a team: HTTP API, dashboard, suggestions, schedules. Any number of them share one database."""
    from automl.launcher import serve_team
    from automl.service.config import Listen, load

    settings = load(config)
    if (storage or os.environ.get("AUTOML_STORAGE") or "").startswith(("http://", "https://")):
        raise InvalidInput("storage: a service serves a database; give the database's URL", field="storage")
    engine = open_engine(storage)
    listen = Listen(host, port, tls_cert, tls_key, behind_proxy, insecure_http)
    interrupt_on_signals()
    try:
        serve_team(engine, storage, listen, settings, dashboard=not no_dashboard, duties=not no_duties)
    except KeyboardInterrupt:
        print("automl: ended; other servers take the duties over", flush=True)
