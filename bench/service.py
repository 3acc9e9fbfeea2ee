"""The service under load: mixed requests, the worker protocol beside its peers, a thousand workers that live.

    python bench/service.py                     # starts a PostgreSQL that keeps what it acknowledges
    python bench/service.py --only protocol     # a part of it: mixed, protocol, workers, heartbeats

Everything runs on this one machine, load included. Optuna's proxy needs grpcio, which automl does not install; without
it that row is left out. The results are written beside this file.

Mixed requests come at fixed times, whether or not earlier ones were answered (an open loop), and their time counts from
the moment at which they should have been sent.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import multiprocessing
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import psutil
import urllib3
from optuna.distributions import distribution_to_json
from optuna.study import StudyDirection
from storage import SPACE, Size, internal_value, open_theirs, optuna_worker, rate, server, worker, worker_rate

from automl.client import Client
from automl.core import Load, Outcome, Report, WorkerRecord
from automl.core import TrialState as State
from automl.declaration import Budget, StudySpec
from automl.engine import Engine
from automl.storage.database import Database
from automl.storage.distributions import Distributions
from automl.storage.studies import Studies
from automl.team import Scope

ROOT = Path(__file__).resolve().parent
CONNECTIONS = 32
STUDIES, TRIALS = 20, 200
PROXY = "Optuna's gRPC proxy"


@dataclass(frozen=True)
class Service:
    """A running `automl serve`."""

    url: str
    database: str
    token: str
    process: subprocess.Popen[bytes]

    @property
    def cpu_s(self) -> float:
        """What its processes have used so far."""
        root = psutil.Process(self.process.pid)
        return sum(sum(item.cpu_times()[:2]) for item in (root, *root.children(recursive=True)))

    @property
    def resident_mib(self) -> float:
        root = psutil.Process(self.process.pid)
        return sum(item.memory_info().rss for item in (root, *root.children(recursive=True))) / 2**20


@contextlib.contextmanager
def serving(database: str, folder: Path, *, duties: bool = False) -> Iterator[Service]:
    """`automl serve` with tokens, without a dashboard and, where what is measured is the API alone, without duties."""
    engine = Engine(database, folder / "artifacts")
    token, _ = engine.tokens.create("bench", tuple(Scope))
    engine.close()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "serve.toml"
    config.write_text('[auth]\nmode = "token"\n[limits]\nrequests_per_s = 100000\nburst = 100000\n')
    command = [sys.executable, "-m", "automl", "serve", "--no-dashboard", "--storage", database]
    if not duties:
        command.append("--no-duties")
    with subprocess.Popen(
        [*command, "--port", str(port), "--config", str(config)], cwd=folder, stdout=subprocess.DEVNULL
    ) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(url)
            yield Service(url, database, token, process)
        finally:
            process.terminate()


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib3.exceptions.HTTPError):
            if urllib3.request("GET", f"{url}/readyz", retries=False).status == 200:
                return
        time.sleep(0.1)
    raise TimeoutError(f"{url} is not ready")


# -- the worker protocol --------------------------------------------------------------------------------------------


def http_rate(service: Service, folder: Path, size: Size, *, buffered: bool) -> float:
    """As `storage.worker_rate`, but what a worker does goes over HTTP; the suggestions are made as there."""

    def start() -> Callable[[], None]:
        client = Client(service.url, service.token, folder / "worker")
        return worker(service.database, buffered=buffered, coordinator=client)

    return rate(start, size)


def proxied_rate(url: str, size: Size) -> float:
    """Optuna's gRPC proxy before the same server."""
    from optuna.storages import GrpcStorageProxy, run_grpc_proxy_server

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    proxy = context.Process(target=serve_proxy, args=(url, port), daemon=True)
    proxy.start()
    try:
        assert run_grpc_proxy_server is not None
        name = uuid.uuid4().hex
        open_theirs(url).create_new_study([StudyDirection.MINIMIZE], name)

        def connect(_: str) -> Any:
            storage = GrpcStorageProxy(host="localhost", port=port)
            storage.wait_server_ready(timeout=60)
            return storage

        return rate(lambda: optuna_worker(connect, url, name), size)
    finally:
        proxy.kill()


def serve_proxy(url: str, port: int) -> None:
    from optuna.storages import run_grpc_proxy_server

    run_grpc_proxy_server(open_theirs(url), host="localhost", port=port)


def protocol(new_database: Callable[[], str], size: Size) -> dict[str, Any]:
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(new_database(), folder) as service:
            for _ in range(size.rounds):
                for kind, buffered in (("a statement for each report", False), ("reports with the result", True)):
                    direct = worker_rate(service.database, size, buffered=buffered)
                    over = http_rate(service, folder, size, buffered=buffered)
                    found.setdefault(f"direct, {kind}", []).append(direct)
                    found.setdefault(f"HTTP, {kind}", []).append(over)
                    print(f"{kind}: direct {direct:.1f}, HTTP {over:.1f} trials/s", flush=True)
        if importlib.util.find_spec("grpc") is not None:
            for _ in range(size.rounds):
                proxied = proxied_rate(new_database(), size)
                found.setdefault(PROXY, []).append(proxied)
                print(f"{PROXY}: {proxied:.1f} trials/s", flush=True)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    ratios = {
        "HTTP / direct, a statement for each report": medians["HTTP, a statement for each report"]
        / medians["direct, a statement for each report"],
        "HTTP / direct, reports with the result": medians["HTTP, reports with the result"]
        / medians["direct, reports with the result"],
    }
    if proxy := medians.get(PROXY):
        ratios["HTTP, a statement for each report / gRPC proxy"] = medians["HTTP, a statement for each report"] / proxy
    return {"processes": size.processes, "trials_per_s": found, "median": medians, "ratio": ratios}


# -- real workers ---------------------------------------------------------------------------------------------------

NOTHING = """
from automl import Budget, Float, Study

def train(trial):
    for step in range(10):
        trial.report(trial.params["x"], step=step)
    return trial.params["x"]

study = Study("nothing", train, {{"x": Float(0, 1)}}, metrics={{"y": "min"}}, budget=Budget(trials={trials}),
              sampler="random")
"""


def workers(new_database: Callable[[], str], trials: int) -> dict[str, Any]:
    """`automl worker --workers 8` with trials that do nothing: at the database itself, and over the service."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "nothing.py").write_text(NOTHING.format(trials=trials))
        database = new_database()
        found["direct"] = real_rate(folder, database, database, {})
        database = new_database()
        with serving(database, folder, duties=True) as service:
            found["HTTP"] = real_rate(folder, service.url, database, {"AUTOML_TOKEN": service.token})
    print(f"workers: {found} trials/s", flush=True)
    return {"slots": 8, "trials": trials, "trials_per_s": found, "ratio": found["HTTP"] / found["direct"]}


def real_rate(folder: Path, storage: str, database: str, environment: dict[str, str]) -> float:
    """Results per second, between the first and the last one."""
    automl = [sys.executable, "-m", "automl"]
    options: dict[str, Any] = {"cwd": folder, "env": os.environ | environment, "stdout": subprocess.DEVNULL}
    subprocess.run([*automl, "submit", "nothing.py", "--storage", storage], check=True, **options)
    command = [*automl, "worker", "--workers", "8", "--exit-when-idle", "--storage", storage]
    subprocess.run(command, check=True, **options)
    engine = Engine(database, folder / "artifacts")
    ends = sorted(trial.finished_at or 0.0 for trial in engine.trials(engine.study("nothing"), [State.COMPLETE]))
    engine.close()
    return (len(ends) - 1) / (ends[-1] - ends[0])


# -- mixed requests -------------------------------------------------------------------------------------------------


class Connection:
    """A keep-alive connection that asks one thing at a time, with as little of its own work as can be."""

    def __init__(self, port: int, token: str):
        self._port, self._token = port, token
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: Any = None) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        text = b"" if body is None else json.dumps(body).encode()
        kind = "" if body is None else "Content-Type: application/json\r\n"
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self._token}\r\n{kind}"
        writer.write(head.encode() + f"Content-Length: {len(text)}\r\n\r\n".encode() + text)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in answer.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        await reader.readexactly(length)
        return int(answer[9:12])


def prepared(service: Service, folder: Path) -> tuple[list[int], list[str]]:
    """Studies with trials that are over and trials that run; the ids, and the tokens of leases that are held."""
    client = Client(service.url, service.token, folder / "worker")
    database = Database(service.database)
    studies = Studies(database, Distributions(database))
    bodies = {parameter: distribution_to_json(distribution) for parameter, distribution in SPACE.items()}
    generator = random.Random(0)
    ids, held = [], []
    for index in range(STUDIES):
        spec = StudySpec(name=f"study {index}", space=None, metrics={"loss": "min"}, budget=Budget(trials=10_000_000))
        study_id = client.declare(spec, queued=True).id
        ids.append(study_id)
        holder = uuid.uuid4().hex
        assert studies.hold(study_id, holder, 3600.0) is not None
        for number in range(TRIALS):
            params = {
                parameter: distribution.to_external_repr(internal_value(distribution, generator))
                for parameter, distribution in SPACE.items()
            }
            suggestion = {"params": params, "distributions": bodies, "system_attrs": {}, "basis": 0}
            studies.add_suggestion(study_id, holder, number, suggestion)
            token = uuid.uuid4().hex
            assert client.claim([study_id], "prepared", token, 3600.0) is not None
            if number < TRIALS - 5:
                client.finish(token, Outcome(State.COMPLETE, (generator.random(),)), [Report(0, 0.5)])
            else:
                held.append(token)
    database.close()
    return ids, held


def mixture(ids: list[int], held: list[str], names: list[str]) -> Callable[[], tuple[str, str, Any]]:
    """Draws the next request: two of three read, one of three writes."""
    generator = random.Random(1)
    steps = count(1)

    def draw() -> tuple[str, str, Any]:
        study, token = generator.choice(ids), generator.choice(held)
        kind = generator.random()
        root = f"/api/v1/studies/{study}"
        if kind < 0.20:
            return "GET", root, None
        if kind < 0.30:
            return "GET", f"{root}/counts", None
        if kind < 0.40:
            return "GET", f"{root}/best-trials?limit=5", None
        if kind < 0.50:
            return "GET", f"{root}/trials?limit=20", None
        if kind < 0.60:
            return "GET", f"{root}/trials/{generator.randrange(TRIALS)}", None
        if kind < 0.65:
            return "GET", "/api/v1/studies?limit=20", None
        if kind < 0.85:
            return "POST", "/api/v1/work/report", {"token": token, "reports": [{"step": next(steps), "value": 0.5}]}
        if kind < 0.95:
            return "POST", "/api/v1/work/renew", {"tokens": [token], "lease_s": 3600.0}
        load = {"cpu": 0.5, "memory": 0.5, "gpus": []}
        return "POST", "/api/v1/work/beat", {"name": generator.choice(names), "load": load}

    return draw


async def open_loop(port: int, token: str, draw: Callable[[], Any], per_s: float, seconds: float) -> dict[str, Any]:
    times: list[float] = []
    statuses: dict[str, int] = {}
    queue: asyncio.Queue[tuple[float, tuple[str, str, Any]] | None] = asyncio.Queue()

    async def ask() -> None:
        connection = Connection(port, token)
        while (item := await queue.get()) is not None:
            due, request = item
            try:
                status = str(await connection.ask(*request))
            except (OSError, asyncio.IncompleteReadError) as error:
                status, connection = type(error).__name__, Connection(port, token)
            times.append(time.perf_counter() - due)
            statuses[status] = statuses.get(status, 0) + 1

    asking = [asyncio.create_task(ask()) for _ in range(CONNECTIONS)]
    began = time.perf_counter()
    for index in range(int(per_s * seconds)):
        due = began + index / per_s
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        queue.put_nowait((due, draw()))
    for _ in asking:
        queue.put_nowait(None)
    await asyncio.gather(*asking)
    took = time.perf_counter() - began
    cut = statistics.quantiles(times, n=1000)
    return {
        "requests": len(times),
        "per_s": len(times) / took,
        "errors": sum(n for status, n in statuses.items() if not status.startswith(("2", "3"))),
        "statuses": statuses,
        "ms": {"p50": cut[499] * 1e3, "p95": cut[949] * 1e3, "p99": cut[989] * 1e3, "max": max(times) * 1e3},
    }


def enrolled(service: Service, folder: Path, names: list[str]) -> None:
    client = Client(service.url, service.token, folder / "worker")
    for name in names:
        client.enroll(WorkerRecord(name, "bench", 1, ((),), Load(), {}, 30.0, False, 0.0, 0.0, None))


def mixed(new_database: Callable[[], str], seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, serving(new_database(), Path(name)) as service:
        ids, held = prepared(service, Path(name))
        names = [f"worker-{index}" for index in range(50)]
        enrolled(service, Path(name), names)
        port = int(service.url.rpartition(":")[2])
        draw = mixture(ids, held, names)
        asyncio.run(open_loop(port, service.token, draw, 100.0, 5.0))  # what is loaded at the first use is loaded
        before = service.cpu_s
        found = asyncio.run(open_loop(port, service.token, draw, 300.0, seconds))
        found["service_cpu_share"] = (service.cpu_s - before) / seconds
        found["resident_mib"] = service.resident_mib
    print(f"mixed: {found}", flush=True)
    return found


# -- a thousand workers ---------------------------------------------------------------------------------------------


def heartbeats(new_database: Callable[[], str], seconds: float) -> dict[str, Any]:
    """Each of 1,000 workers says every 10 s that it lives; then each of them renews its trial's lease as well."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, serving(new_database(), Path(name)) as service:
        _, held = prepared(service, Path(name))
        names = [f"worker-{index}" for index in range(1000)]
        enrolled(service, Path(name), names)
        port = int(service.url.rpartition(":")[2])
        for kind, share, per_s in (("alive", 1.0, 100.0), ("alive, and leases renewed", 0.5, 200.0)):
            draw = heartbeat(names, held, share)
            asyncio.run(open_loop(port, service.token, draw, per_s, 3.0))
            before = service.cpu_s
            found[kind] = asyncio.run(open_loop(port, service.token, draw, per_s, seconds))
            found[kind]["service_cpu_share"] = (service.cpu_s - before) / seconds
            print(f"heartbeats, {kind}: {found[kind]}", flush=True)
    return found


def heartbeat(names: list[str], held: list[str], share: float) -> Callable[[], tuple[str, str, Any]]:
    """Draws requests of which `share` say that a worker lives, the others that its lease goes on."""
    turn = count()
    generator = random.Random(2)
    load = {"cpu": 0.5, "memory": 0.5, "gpus": [{"name": "GPU", "index": 0, "load": 0.9}]}

    def draw() -> tuple[str, str, Any]:
        index = next(turn)
        if generator.random() < share:
            return "POST", "/api/v1/work/beat", {"name": names[index % len(names)], "load": load}
        return "POST", "/api/v1/work/renew", {"tokens": [held[index % len(held)]], "lease_s": 3600.0}

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", metavar="URL", help="use this server, with the right to make databases")
    parser.add_argument("--quick", action="store_true", help="a rough look: short rounds")
    parser.add_argument("--only", choices=("mixed", "protocol", "workers", "heartbeats"), help="a part of it")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "service.json", help="default: %(default)s")
    options = parser.parse_args()
    size = Size(seconds=3.0, rounds=1) if options.quick else Size()
    seconds = 10.0 if options.quick else 60.0
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    results |= {
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "optuna": optuna.__version__,
    }
    with server(options.postgres) as new_database:
        parts: dict[str, Callable[[], Any]] = {
            "mixed": lambda: mixed(new_database, seconds),
            "protocol": lambda: protocol(new_database, size),
            "workers": lambda: workers(new_database, 100 if options.quick else 1000),
            "heartbeats": lambda: heartbeats(new_database, seconds),
        }
        for name, part in parts.items():
            if options.only in (None, name):
                results[name] = part()
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
