"""What a suggestion costs as the history grows, what memory that takes, and how long `automl.search` is imported.

    python bench/search/cost.py                                          # the peers
    python bench/search/cost.py --algos ours=automl.search:BayesianSampler,gp,tpe
    python bench/search/cost.py --trials 100,1000,10000 --asks 10

Nine parameters: four floats on a log scale, two integers with 200 values, three categoricals with four. The history is
random trials of a smooth function. Then trials are asked, suggested and told, one after another, on one thread: the
first one fits a model to a history that the sampler has not seen, as after a restart; the others have it fitted. Each
measurement has an interpreter of its own.

GPSampler is measured up to 1,000 trials: at 10,000 its memory alone would not suffice.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT.parent / "results"
#: Of samplers for which more is not feasible.
MAX_TRIALS = {"gp": 1000}
IMPORTS = ("import numpy, scipy.linalg, scipy.optimize", "import optuna", "import automl.search")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


# -- in an interpreter of its own -----------------------------------------------------------------------------------


def measure(sampler: str, trials: int, asks: int) -> dict[str, Any]:
    """Milliseconds of CPU and of the clock for each of `asks` suggestions after `trials`; MiB of memory."""
    import warnings

    import optuna
    from problem import Param, Problem
    from run import Job, make_sampler, suggest

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore")
    params = (
        *(Param(f"f{i}", "float", 1e-5, 1.0, log=True) for i in range(4)),
        *(Param(f"i{i}", "int", 1, 200) for i in range(2)),
        *(Param(f"c{i}", "cat", choices=("a", "b", "c", "d")) for i in range(3)),
    )

    def value(config: dict[str, Any]) -> float:
        numbers = [(p.unit(config) - 0.3) ** 2 for p in params if p.kind != "cat"]
        return sum(numbers) + sum(0.2 * (config[p.name] == "b") for p in params if p.kind == "cat")

    problem = Problem("cost", params, value)
    job = Job(sampler, "cost", 0, trials + asks, 1)
    first = optuna.create_study(sampler=make_sampler(job, problem))
    first.add_trials(random_history(problem, 20))
    suggest(first.ask(), problem)  # imports what the sampler loads when it is first used
    imported = peak_mib()
    study = optuna.create_study(sampler=make_sampler(job, problem))
    study.add_trials(random_history(problem, trials))
    loaded = peak_mib()
    cpu, wall = [], []
    for _ in range(asks):
        cpu_began, began = time.process_time(), time.perf_counter()
        trial = study.ask()
        config = suggest(trial, problem)
        cpu.append((time.process_time() - cpu_began) * 1e3)
        wall.append((time.perf_counter() - began) * 1e3)
        study.tell(trial, problem(config))
    rest = cpu[1:] or cpu
    return {
        "first_ms": cpu[0],
        "median_ms": statistics.median(rest),
        "max_ms": max(rest),
        "wall_median_ms": statistics.median(wall[1:] or wall),
        "imported_mib": imported,
        "above_import_mib": peak_mib() - imported,
        "above_history_mib": peak_mib() - loaded,
    }


def random_history(problem: Any, trials: int) -> list[Any]:
    """Finished trials of a random sampler."""
    import optuna
    from run import suggest

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    history = []
    for _ in range(trials):
        trial = study.ask()
        value = problem(suggest(trial, problem))
        frozen = optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=value)
        history.append(frozen)
        if len(study.get_trials(deepcopy=False)) >= 100:
            study = optuna.create_study(sampler=study.sampler)  # asking is slower in long studies
    return history


def peak_mib() -> float:
    """The most memory this process had."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024**2)


# -- the others -----------------------------------------------------------------------------------------------------


def in_own_interpreter(sampler: str, trials: int, asks: int) -> dict[str, Any]:
    arguments = ["--measure", sampler, "--trials", str(trials), "--asks", str(asks)]
    environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "cost.py"), *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def import_ms(statement: str, rounds: int = 7) -> dict[str, float]:
    """The median of an import's time after a first one that writes the byte code, by the clock and of CPU."""
    began = "import time; wall, cpu = time.perf_counter(), time.process_time()"
    code = f"{began}; {statement}; print(time.perf_counter() - wall, time.process_time() - cpu)"
    seconds = []
    for _ in range(rounds + 1):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        seconds.append([float(part) for part in done.stdout.split()])
    wall, cpu = (statistics.median(part) * 1e3 for part in zip(*seconds[1:], strict=True))
    return {"wall_ms": wall, "cpu_ms": cpu}


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 2) if isinstance(value, float) and math.isfinite(value) else value


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", default="gp,tpe", help="as run.py takes them")
    parser.add_argument("--trials", default="100,1000,10000", help="lengths of the history")
    parser.add_argument("--asks", type=int, default=10, help="suggestions measured at each length")
    parser.add_argument("--measure", metavar="SAMPLER", help="one measurement, in this process")
    parser.add_argument("--output", type=Path, default=RESULTS / "search-cost.json")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, int(options.trials), options.asks)))
        return
    result: dict[str, Any] = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "imports": rounded({statement: import_ms(statement) for statement in IMPORTS}),
        "suggestion": {},
    }
    print(json.dumps(result["imports"], indent=1), flush=True)
    for sampler in options.algos.split(","):
        label = sampler.partition("=")[0]
        result["suggestion"][label] = {}
        for trials in map(int, options.trials.split(",")):
            if trials <= MAX_TRIALS.get(label, trials):
                found = rounded(in_own_interpreter(sampler, trials, options.asks))
                result["suggestion"][label][str(trials)] = found
                print(label, trials, json.dumps(found), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(options.output)


if __name__ == "__main__":
    main()
