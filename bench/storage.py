"""The storage against Optuna's own RDBStorage: life-cycles, cold loads, the queue.

    python bench/storage.py                              # starts a PostgreSQL that keeps what it acknowledges
    python bench/storage.py --postgres postgresql://user@host/   # one that is there
    python bench/storage.py --quick                      # a rough look

A life-cycle is a trial as an Optuna program has it: created, 5 parameters, 10 reports, a result. Ours and theirs run
in turn on the same server, and the median of the rounds counts. The results are written beside this file.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import psycopg2
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json
from optuna.storages import BaseStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from automl.core import Coordinator, Outcome, Report
from automl.core import TrialState as State
from automl.declaration import Budget, StudySpec
from automl.storage import OptunaStorage
from automl.storage.database import Database
from automl.storage.distributions import Distributions
from automl.storage.leases import Leases
from automl.storage.schema import ensure_schema
from automl.storage.studies import Studies

ROOT = Path(__file__).resolve().parent
SPACE = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "momentum": FloatDistribution(0.0, 1.0),
    "width": IntDistribution(16, 256),
    "depth": IntDistribution(1, 8),
    "optimizer": CategoricalDistribution(("sgd", "adamw", "lion")),
}
REPORTS = 10
#: For the answer of a process that may have died.
PATIENCE_S = 300.0


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    processes: int = 8
    seconds: float = 6.0
    rounds: int = 3
    trials: int = 10_000


# -- life-cycles through Optuna's interface -----------------------------------------------------------------------


def open_theirs(url: str) -> BaseStorage:
    """As Optuna opens a URL: with its cache before the RDBStorage."""
    # SQLAlchemy 2.1 means psycopg 3 by the plain name.
    return get_storage(url.replace("postgresql://", "postgresql+psycopg2://"))


def optuna_worker(open_storage: Callable[[str], BaseStorage], url: str, name: str) -> Callable[[], None]:
    storage = open_storage(url)
    study_id = storage.get_study_id_from_name(name)
    generator = random.Random(os.getpid())

    def one() -> None:
        trial_id = storage.create_new_trial(study_id)
        for parameter, distribution in SPACE.items():
            storage.set_trial_param(trial_id, parameter, internal_value(distribution, generator), distribution)
        for step in range(REPORTS):
            storage.set_trial_intermediate_value(trial_id, step, generator.random())
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [generator.random()])

    return one


def internal_value(distribution: Any, generator: random.Random) -> float:
    if isinstance(distribution, CategoricalDistribution):
        return generator.randrange(len(distribution.choices))
    if isinstance(distribution, IntDistribution):
        return generator.randint(distribution.low, distribution.high)
    return generator.uniform(distribution.low, distribution.high)


def optuna_rate(open_storage: Callable[[str], BaseStorage], url: str, size: Size) -> float:
    name = uuid.uuid4().hex
    open_storage(url).create_new_study([StudyDirection.MINIMIZE], name)
    return rate(lambda: optuna_worker(open_storage, url, name), size)


def rate(start: Callable[[], Callable[[], None]], size: Size) -> float:
    """Trials per second of all processes together; `start` makes, in each process, what runs one trial."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(size.processes)
    rates = context.Queue()

    def work() -> None:
        one = start()
        one()
        barrier.wait(60)
        began, done = time.perf_counter(), 0
        while (took := time.perf_counter() - began) < size.seconds:
            one()
            done += 1
        rates.put(done / took)

    return sum_of(context, work, rates, size.processes)


def sum_of(context: Any, work: Callable[[], None], results: Any, processes: int) -> float:
    children = [context.Process(target=work) for _ in range(processes)]
    for child in children:
        child.start()
    found = [results.get(timeout=PATIENCE_S) for _ in children]
    for child in children:
        child.join()
    return sum(found)


# -- life-cycles through our workers' path ------------------------------------------------------------------------


def worker(url: str, *, buffered: bool, coordinator: Coordinator | None = None) -> Callable[[], None]:
    """A study of the process's own, which it supplies itself: what is measured is the calls, not the wait for them.

    `coordinator` takes the worker's calls; None: the database itself.
    """
    database = Database(url)
    distributions = Distributions(database)
    studies, leases = Studies(database, distributions), coordinator or Leases(database, distributions)
    spec = StudySpec(name=uuid.uuid4().hex, space=None, metrics={"loss": "min"}, budget=Budget(trials=10_000_000))
    study_id = studies.declare(spec, entrypoint=None, code_sha256=None, queued=True, extend=False).id
    holder, name = uuid.uuid4().hex, f"worker-{os.getpid()}"
    assert studies.hold(study_id, holder, 3600.0) is not None
    bodies = {parameter: distribution_to_json(distribution) for parameter, distribution in SPACE.items()}
    generator = random.Random(os.getpid())
    numbers = count()

    def one() -> None:
        params = {
            parameter: distribution.to_external_repr(internal_value(distribution, generator))
            for parameter, distribution in SPACE.items()
        }
        suggestion = {"params": params, "distributions": bodies, "system_attrs": {}, "basis": 0}
        assert studies.add_suggestion(study_id, holder, next(numbers), suggestion)
        token = uuid.uuid4().hex
        assert leases.claim([study_id], name, token, 30.0) is not None
        reports = [Report(step, generator.random()) for step in range(REPORTS)]
        if not buffered:
            for report in reports:
                leases.report(token, [report])
        leases.finish(token, Outcome(State.COMPLETE, (generator.random(),)), reports if buffered else ())

    return one


def worker_rate(url: str, size: Size, *, buffered: bool) -> float:
    return rate(lambda: worker(url, buffered=buffered), size)


# -- cold loads ---------------------------------------------------------------------------------------------------

FRACTION = "((i * 0.6180339887 + {0} * 0.7548776662)::numeric %% 1)::double precision"

FILL_THEIRS = f"""
INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete)
    SELECT 1000000 + i, i, %(study)s, 'COMPLETE', timestamp '2026-01-01', timestamp '2026-01-01 00:01'
    FROM generate_series(0, %(trials)s - 1) i;
INSERT INTO trial_values (trial_id, objective, value, value_type)
    SELECT 1000000 + i, 0, {FRACTION.format(0)}, 'FINITE' FROM generate_series(0, %(trials)s - 1) i;
INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)
    SELECT 1000000 + i, 'p' || p, {FRACTION.format("p")}, %(distribution)s
    FROM generate_series(0, %(trials)s - 1) i, generate_series(1, 5) p;
INSERT INTO trial_intermediate_values (trial_id, step, intermediate_value, intermediate_value_type)
    SELECT 1000000 + i, s, {FRACTION.format("s")}, 'FINITE'
    FROM generate_series(0, %(trials)s - 1) i, generate_series(0, {REPORTS - 1}) s;
ANALYZE
"""
FILL_OURS = f"""
INSERT INTO distribution (study_id, name, body)
    SELECT %(study)s, 'p' || p, %(distribution)s FROM generate_series(1, 5) p;
INSERT INTO trial (study_id, number, state, cause, attempt, params, distributions, objectives, value,
                   created_at, started_at, finished_at)
    SELECT %(study)s, i, 'complete', 'added', 1,
        (SELECT json_object_agg('p' || p, {FRACTION.format("p")} ORDER BY p) FROM generate_series(1, 5) p),
        (SELECT jsonb_object_agg(name, id) FROM distribution WHERE study_id = %(study)s),
        jsonb_build_array({FRACTION.format(0)}), {FRACTION.format(0)},
        %(began)s, %(began)s, %(began)s + 60
    FROM generate_series(0, %(trials)s - 1) i;
INSERT INTO report (trial_id, step, attempt, value)
    SELECT trial.id, s, 1, {FRACTION.format("s")}
    FROM generate_series(0, %(trials)s - 1) i JOIN trial ON number = i AND study_id = %(study)s,
         generate_series(0, {REPORTS - 1}) s;
UPDATE study SET next_number = %(trials)s WHERE id = %(study)s;
ANALYZE
"""


def fill(open_storage: Callable[[str], BaseStorage], statements: str, url: str, trials: int) -> str:
    """A study of finished trials, the same ones in both storages; its name."""
    storage = open_storage(url)
    name = uuid.uuid4().hex
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], name)
    began = time.mktime((2026, 1, 1, 0, 0, 0, 0, 0, -1))
    body = distribution_to_json(FloatDistribution(0.0, 1.0))
    with contextlib.closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        arguments = {"study": study_id, "trials": trials, "distribution": body, "began": began}
        for statement in statements.split(";"):
            connection.cursor().execute(statement, arguments)
    return name


def measure_load(open_storage: Callable[[str], BaseStorage], url: str, name: str, answer: Any) -> None:
    """Runs in a fresh process: seconds and MiB for all trials of a study, and for a look at all of each of them."""
    storage = open_storage(url)
    study_id = storage.get_study_id_from_name(name)
    other = storage.create_new_study([StudyDirection.MINIMIZE])  # what a first load of anything brings with it
    storage.create_new_trial(other, create_trial(value=0.0))
    storage.get_all_trials(other, deepcopy=False)
    gc.collect()
    before = resident_mib()
    began = time.perf_counter()
    trials = storage.get_all_trials(study_id, deepcopy=False)
    loaded_s, loaded_mib = time.perf_counter() - began, resident_mib() - before
    began = time.perf_counter()
    total = 0.0
    for trial in trials:
        total += sum(trial.params.values()) + sum(trial.intermediate_values.values()) + trial.value
        total += len(trial.distributions) + len(trial.user_attrs) + len(trial.system_attrs)
        total += trial.datetime_complete.timestamp() - trial.datetime_start.timestamp()
    seen_s, seen_mib = time.perf_counter() - began, resident_mib() - before
    answer.put(
        {"seconds": loaded_s, "mib": loaded_mib, "seconds_seen": loaded_s + seen_s, "mib_seen": seen_mib, "sum": total}
    )


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def cold_load(open_storage: Callable[[str], BaseStorage], url: str, name: str) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    child = context.Process(target=measure_load, args=(open_storage, url, name, answer))
    child.start()
    found = answer.get(timeout=PATIENCE_S)
    child.join()
    return found


# -- the queue ----------------------------------------------------------------------------------------------------


def popped_twice(open_storage: Callable[[str], BaseStorage], url: str, waiting: int = 40, processes: int = 4) -> int:
    """How often a waiting trial was given to one process too many."""
    name = uuid.uuid4().hex
    study = optuna.create_study(storage=open_storage(url), study_name=name)
    for index in range(waiting):
        study.enqueue_trial({"x": index})
    context = multiprocessing.get_context("fork")
    barrier, numbers = context.Barrier(processes), context.Queue()

    def work() -> None:
        own = optuna.load_study(storage=open_storage(url), study_name=name)
        barrier.wait(60)
        got = []
        # Theirs may find SQLite locked, which is another matter.
        with contextlib.suppress(optuna.exceptions.StorageInternalError):
            while len(got) < waiting and (number := own.ask().number) < waiting:
                got.append(number)
        numbers.put(len(got))

    return int(sum_of(context, work, numbers, processes)) - waiting


# -- all of it ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(url: str | None) -> Iterator[Callable[[], str]]:
    """Makes databases."""
    from tests.postgres import ExternalServer, PostgresServer

    if url is not None:
        yield ExternalServer(url).create_database
    else:
        with PostgresServer(durable=True) as own:
            yield own.create_database


def life_cycles(new_database: Callable[[], str], size: Size) -> dict[str, Any]:
    ours, theirs, workers = new_database(), new_database(), new_database()
    for url in (ours, workers):
        ensure_schema(Database(url))
    contenders: dict[str, Callable[[], float]] = {
        "RDBStorage": lambda: optuna_rate(open_theirs, theirs, size),
        "OptunaStorage": lambda: optuna_rate(OptunaStorage, ours, size),
        "workers, a statement for each report": lambda: worker_rate(workers, size, buffered=False),
        "workers, reports with the result": lambda: worker_rate(workers, size, buffered=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(size.rounds):
        for name, run in contenders.items():
            rates[name].append(run())
            print(f"{name}: {rates[name][-1]:.1f} trials/s", flush=True)
    medians = {name: statistics.median(found) for name, found in rates.items()}
    base = medians["RDBStorage"]
    return {"trials_per_s": rates, "median": medians, "ratio": {name: found / base for name, found in medians.items()}}


def cold_loads(new_database: Callable[[], str], size: Size) -> dict[str, Any]:
    found = {}
    for name, open_storage, statements in (
        ("RDBStorage", open_theirs, FILL_THEIRS),
        ("OptunaStorage", OptunaStorage, FILL_OURS),
    ):
        url = new_database()
        found[name] = cold_load(open_storage, url, fill(open_storage, statements, url, size.trials))
        print(f"{name}: {found[name]}", flush=True)
    theirs, ours = found["RDBStorage"], found["OptunaStorage"]
    sums = [loaded.pop("sum") for loaded in (theirs, ours)]
    assert abs(sums[0] - sums[1]) < 1e-6 * abs(sums[0]), f"the same trials were loaded differently: {sums}"
    return {**found, "ratio": {key: theirs[key] / ours[key] for key in ours}}


def queues(new_database: Callable[[], str]) -> dict[str, int]:
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, open_storage in (("RDBStorage", open_theirs), ("OptunaStorage", OptunaStorage)):
            found[f"{name}, SQLite"] = popped_twice(open_storage, f"sqlite:///{folder}/{name}.db")
            found[f"{name}, PostgreSQL"] = popped_twice(open_storage, new_database())
    print(f"popped twice: {found}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", metavar="URL", help="use this server, with the right to make databases")
    parser.add_argument("--quick", action="store_true", help="a rough look: short rounds, 2,000 trials to load")
    parser.add_argument("--only", choices=("life-cycles", "cold-loads", "queues"), help="a part of it")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "storage.json", help="default: %(default)s")
    options = parser.parse_args()
    size = Size(seconds=3.0, rounds=1, trials=2_000) if options.quick else Size()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "optuna": optuna.__version__,
        "size": asdict(size),
    }
    with server(options.postgres) as new_database:
        parts: dict[str, Callable[[], Any]] = {
            "life-cycles": lambda: life_cycles(new_database, size),
            "cold-loads": lambda: cold_loads(new_database, size),
            "queues": lambda: queues(new_database),
        }
        for name, part in parts.items():
            if options.only in (None, name):
                results[name] = part()
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
