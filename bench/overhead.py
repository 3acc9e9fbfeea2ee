"""What a trial costs when its function does nothing: here, and with Ray Tune; and how fast the command line answers.

    python bench/overhead.py                                      # ours on SQLite, and the command line
    python bench/overhead.py --postgres postgresql://user@host/   # ours on PostgreSQL too
    python bench/overhead.py --ray-python /path/to/ray/bin/python # Ray Tune too, from a virtual environment of its own

A trial goes the whole way: it is suggested (random sampler), claimed, run in a process of its own, reports once and is
finished, one at a time. Ray's trials are alike: an actor of its own for each, one at a time. README.md says more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from automl.core import TrialState
from automl.dispatch.local import search
from automl.engine import Engine
from automl.trainers.host import StudyHost
from automl.trainers.source import FileSource
from automl.trainers.worker import Slot

ROOT = Path(__file__).resolve().parent

STUDY = """
from automl import Budget, Float, Study
{imports}

def train(trial):
    trial.report(trial.params["x"], step=1)
    return trial.params["x"]

study = Study("noop", train, {{"x": Float(0, 1)}}, metrics={{"y": "min"}}, budget=Budget(trials={trials}),
              sampler="random")
"""

#: Runs in Ray's interpreter, which knows nothing of automl; its last line is the result.
RAY = """
import json, os, sys, time
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would report to its makers
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # files in formats that nobody asked for
import ray
from ray import tune

trials, folder, imports = int(sys.argv[1]), sys.argv[2], sys.argv[3]

def train(config):
    exec(imports)
    tune.report({"y": config["x"], "at": time.time()})

# address="local": a cluster that somebody left behind would be joined otherwise.
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
warm = tune.Tuner(train, param_space={"x": 0.5}, run_config=tune.RunConfig(storage_path=folder, verbose=0))
warm.fit()  # Ray's own workers have started when the clock does
tuner = tune.Tuner(
    train,
    param_space={"x": tune.uniform(0, 1)},
    tune_config=tune.TuneConfig(
        num_samples=trials, max_concurrent_trials=1, reuse_actors=False, metric="y", mode="min"
    ),
    run_config=tune.RunConfig(storage_path=folder, verbose=0),
)
began = time.perf_counter()
results = tuner.fit()
total_s = time.perf_counter() - began
ends = sorted(result.metrics["at"] for result in results)
print(json.dumps({"version": ray.__version__, "total_s": total_s, "ends": ends, "errors": results.num_errors}))
"""


# -- ours ---------------------------------------------------------------------------------------------------------


def ours(url: str, folder: Path, trials: int, imports: str = "") -> dict[str, Any]:
    """One search of a function that does nothing, by one worker."""
    path = folder / "noop.py"
    path.write_text(STUDY.format(trials=trials, imports=imports))
    engine = Engine(url, folder / "artifacts")
    began = time.perf_counter()
    host = StudyHost.start(FileSource(str(path)), log_path=folder / "template.log")
    load_s = time.perf_counter() - began
    record = engine.declare(host.spec)
    began = time.perf_counter()
    record = search(engine, record, host, [Slot(0)], 30.0, lambda: None)
    total_s = time.perf_counter() - began
    found = engine.trials(record)
    engine.close()
    assert len(found) == trials and {trial.state for trial in found} == {TrialState.COMPLETE}
    ends = sorted(trial.finished_at for trial in found if trial.finished_at is not None)
    return {
        "trials": trials,
        "load_s": load_s,
        "total_s": total_s,
        "wall_per_trial_ms": total_s / trials * 1e3,
        "from_claim_to_result": spread([trial.duration_s for trial in found if trial.duration_s is not None]),
        "from_result_to_result": spread([after - before for before, after in pairwise(ends)]),
    }


def on_postgres(server: str, folder: Path, trials: int, imports: str = "") -> dict[str, Any]:
    """The same in a new database on a server, which is dropped again."""
    name = f"overhead_{uuid.uuid4().hex[:12]}"
    maintenance = sa.create_engine(
        sa.make_url(server).set(drivername="postgresql+psycopg2", database="postgres"), isolation_level="AUTOCOMMIT"
    )
    with maintenance.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        url = sa.make_url(server).set(database=name).render_as_string(hide_password=False)
        return ours(url, folder, trials, imports)
    finally:
        with maintenance.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        maintenance.dispose()


# -- the others ---------------------------------------------------------------------------------------------------


def with_ray(python: str, folder: Path, trials: int, imports: str = "") -> dict[str, Any]:
    """The same function under Ray Tune, in a process of another interpreter."""
    script = folder / "ray_noop.py"
    script.write_text(RAY)
    # HOME: Ray leaves an authentication token there.
    environment = {**os.environ, "HOME": str(folder), "PYTHONPATH": ""}
    done = subprocess.run(
        [python, str(script), str(trials), str(folder / "results"), imports],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise SystemExit(f"{python} {script} failed:\n{done.stderr[-4000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["errors"] == 0 and len(found["ends"]) == trials
    return {
        "version": found["version"],
        "trials": trials,
        "total_s": found["total_s"],
        "wall_per_trial_ms": found["total_s"] / trials * 1e3,
        "from_result_to_result": spread([after - before for before, after in pairwise(found["ends"])]),
    }


def command_line(folder: Path, url: str, rounds: int = 5) -> dict[str, Any]:
    """Wall time of commands that only look, after one round that fills the caches."""
    environment = {**os.environ, "AUTOML_STORAGE": url, "AUTOML_ARTIFACTS": str(folder / "artifacts")}
    commands = {"python -c pass": ["-c", "pass"], "automl --help": ["-m", "automl", "--help"]}
    commands["automl ls"] = ["-m", "automl", "ls"]
    return {name: wall(arguments, environment, rounds) for name, arguments in commands.items()}


def wall(arguments: Sequence[str], environment: dict[str, str], rounds: int) -> dict[str, float]:
    seconds = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    return spread(seconds[1:])


# -- the result ---------------------------------------------------------------------------------------------------


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """In milliseconds."""
    ordered = sorted(seconds)
    tenth = {"p10_ms": ordered[len(ordered) // 10] * 1e3, "p90_ms": ordered[(len(ordered) * 9) // 10] * 1e3}
    return {"median_ms": statistics.median(ordered) * 1e3, **tenth}


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 2) if isinstance(value, float) else value


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--trials", type=int, default=200, help="of ours, for each database")
    parser.add_argument("--postgres", metavar="URL", help="a server where databases may be created")
    parser.add_argument("--ray-python", metavar="PATH", help="an interpreter that has ray[tune]")
    parser.add_argument("--ray-trials", type=int, default=30)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "overhead.json")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
    }
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        folder = Path(name)
        for label, imports in (("plain", ""), ("torch", "import torch")):
            measured: dict[str, Any] = {}
            measured["sqlite"] = ours(f"sqlite:///{folder}/{label}.db", folder, options.trials, imports)
            if options.postgres:
                measured["postgresql"] = on_postgres(options.postgres, folder, options.trials, imports)
            result[label] = measured
            print(json.dumps({label: rounded(measured)}, indent=1), flush=True)
        result["command_line"] = command_line(folder, f"sqlite:///{folder}/plain.db")
        if options.ray_python:
            result["ray_tune"] = with_ray(options.ray_python, folder, options.ray_trials)
            theirs_ms = result["ray_tune"]["from_result_to_result"]["median_ms"]
            result["ratio"] = {
                label: theirs_ms / result[label]["sqlite"]["from_result_to_result"]["median_ms"]
                for label in ("plain", "torch")
            }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(rounded(result), indent=2) + "\n")
    print(
        json.dumps(
            {key: rounded(result[key]) for key in ("command_line", "ray_tune", "ratio") if key in result}, indent=1
        )
    )
    print(options.output)


if __name__ == "__main__":
    main()
