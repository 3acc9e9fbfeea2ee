"""What attackers have in common: a request that has to be refused, all that there is, and a service of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import urllib3

import automl.beliefs  # noqa: F401  (as `automl serve` does when it starts: it takes longer than a request may)
from automl.core import StudyRecord
from automl.storage.database import now
from automl.storage.tables import metadata, trial
from tests.conformance.lab import new_token, spec
from tests.unit.service.house import House, suggest

API = "/api/v1"
#: Whatever is asked, a refusal takes no longer, on a busy machine too. How quick they are the fuzzing measures.
SLOWEST_S = 5.0


def refused(
    house: House,
    method: str,
    path: str,
    body: Any = None,
    *,
    who: str | None = "admin",
    headers: Mapping[str, str] | None = None,
) -> tuple[int, str, str | None]:
    """Status, code and field of a refusal, which came within a second and in the one form that there is.

    `body`: bytes as they are, or whatever JSON can say.
    """
    sent: dict[str, Any] = {"body": body, "headers": {"Content-Type": "application/json"}}
    if body is not None and not isinstance(body, bytes):
        sent = {"json": body, "headers": {}}
    sent["headers"] |= dict(headers or {})
    began = time.monotonic()
    answer = house.ask(method, path if path.startswith("/") else f"{API}/{path}", who=who, **sent)
    took = time.monotonic() - began
    said = house.said(answer)
    assert answer.status < 500, said
    assert took < SLOWEST_S, f"{method} {path} took {took:.2f} s"
    assert "Traceback" not in said["message"]
    return answer.status, said["code"], said.get("field")


def everything(house: House) -> dict[str, Any]:
    """All that the database holds, but for tokens: it is noted when they were used last."""
    return {
        table.name: house.engine.database.all(sa.select(table).order_by(*table.primary_key))
        for table in metadata.sorted_tables
        if table.name != "token"
    }


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and "automl.db" not in path.name}


def begun(house: House, name: str = "lab", waiting: int = 1) -> tuple[StudyRecord, str]:
    """A study of one metric, and the token of the lease on its first trial, which a worker claimed over HTTP."""
    record = house.engine.declare(spec(name), queued=True)
    suggest(house.engine, record, waiting)
    return record, claimed(house, record)


def claimed(house: House, record: StudyRecord) -> str:
    token = new_token()
    body = {"study_ids": [record.id], "worker": "alice", "token": token, "lease_s": 60.0}
    answer = house.ask("POST", f"{API}/work/claim", who="work", json=body)
    assert answer.status == 200 and answer.json()["token"] == token
    return token


def lose(house: House) -> list[int]:
    """Let the time of all leases be over, and take them back; the ids of their trials."""
    database = house.engine.database
    database.execute(sa.update(trial).values(lease_expires_at=now() - 1.0).where(trial.c.lease_token.is_not(None)))
    lost = house.engine.reap(0.0)
    database.execute(sa.update(trial).values(run_after=0.0))
    return lost


def result(token: str, value: float = 0.5, **changes: Any) -> dict[str, Any]:
    """The body of `/work/finish`."""
    return {"token": token, "outcome": {"state": "complete", "values": [value], **changes}}


@dataclass(frozen=True)
class Serving:
    """A running `automl serve` that asks for tokens."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path


@contextmanager
def serving(url: str, artifacts: Path, folder: Path, *words: str) -> Iterator[Serving]:
    """A process of its own, without duties, for clients that may ask as often as they like."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "serve.toml"
    config.write_text('[auth]\nmode = "token"\n[limits]\nrequests_per_s = 100000\nburst = 100000\n')
    command = [sys.executable, "-m", "automl", "serve", "--no-duties", "--storage", url, *words]
    command += ["--port", str(port), "--config", str(config)]
    places = {**os.environ, "AUTOML_ARTIFACTS": str(artifacts)}
    log = folder / "log"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=places, cwd=folder) as process:
        found = Serving(f"http://127.0.0.1:{port}", process, log)
        try:
            deadline = time.monotonic() + 60
            while process.poll() is None and time.monotonic() < deadline and not _is_ready(found.url):
                pass
            assert process.poll() is None and _is_ready(found.url), log.read_text()
            yield found
        finally:
            process.terminate()
            process.wait(20)


def _is_ready(url: str) -> bool:
    with suppress(urllib3.exceptions.HTTPError):
        patience = urllib3.Retry(5, backoff_factor=0.05)
        return urllib3.request("GET", f"{url}/readyz", retries=patience).status == 200
    return False
