"""Run Optuna samplers on problems; one JSON line a run: the anytime score and the CPU time of a suggestion.

    python bench/search/run.py --algos tpe,gp --suites bbob-d5,mixint-d5 --seeds 3 --out runs.jsonl
    python bench/search/run.py --algos ours=automl.search:BayesianSampler --suites all --seeds 10 --out runs.jsonl
    python bench/search/compare.py runs.jsonl

A sampler is a name of PEERS or label=module:callable, called with seed= and, where it takes them, space= (automl's
parameters by name) and n_trials=. --workers 16 keeps 16 trials pending, as asynchronous workers would. Runs that the
file has already are not run again.

A line has task, algo, seed, workers, ms (CPU of all threads for a suggestion: ask, suggest and tell, the mean),
best (the score after each trial, null as long as there is none), of noisy problems also found (see problem.Score),
and optimum where it is known. A sampler that raises leaves a line with error instead.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import math
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import Trial, TrialState
from problem import FailedError, Param, Problem, Score, active
from suites import SUITES, instance, load, names

PEERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "tpe": lambda seed: TPESampler(seed=seed),
    "tpe_group": lambda seed: TPESampler(seed=seed, multivariate=True, group=True),
    "gp": lambda seed: GPSampler(seed=seed, warn_independent_sampling=False),
    "cmaes": lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "nsga2": lambda seed: NSGAIISampler(seed=seed),
}


@dataclass(frozen=True)
class Job:
    """One run: a sampler on a problem."""

    sampler: str  #: a name of PEERS, or label=module:callable
    task: str
    seed: int
    trials: int
    workers: int

    @property
    def label(self) -> str:
        return self.sampler.partition("=")[0]


# -- the sampler ----------------------------------------------------------------------------------------------------


def make_sampler(job: Job, problem: Problem) -> BaseSampler:
    label, _, target = job.sampler.partition("=")
    if not target:
        return PEERS[label](job.seed)
    module, _, name = target.partition(":")
    factory = getattr(importlib.import_module(module), name)
    offered: dict[str, Callable[[], Any]] = {"space": lambda: automl_space(problem), "n_trials": lambda: job.trials}
    takes = inspect.signature(factory).parameters
    return factory(seed=job.seed, **{key: value() for key, value in offered.items() if key in takes})


def automl_space(problem: Problem) -> dict[str, Any]:
    """The problem's parameters as an automl study declares them."""
    from automl import Choice, Float, Int

    space: dict[str, Any] = {}
    for p in problem.params:
        when = None if p.when is None else {p.when[0]: list(p.when[1])}
        if p.kind == "cat":
            space[p.name] = Choice(*p.choices, when=when)
        elif p.kind == "int":
            space[p.name] = Int(int(p.low), int(p.high), log=p.log, when=when)
        else:
            space[p.name] = Float(p.low, p.high, log=p.log, when=when)
    return space


def suggest(trial: Trial, problem: Problem) -> dict[str, Any]:
    """A configuration, define-by-run: parents first, and what is inactive is never asked for."""
    config: dict[str, Any] = {}
    for p in problem.params:
        if p in active([p], config):
            config[p.name] = suggest_one(trial, p)
    return config


def suggest_one(trial: Trial, p: Param) -> Any:
    if p.kind == "cat":
        return trial.suggest_categorical(p.name, p.choices)
    if p.kind == "int":
        return trial.suggest_int(p.name, int(p.low), int(p.high), log=p.log)
    return trial.suggest_float(p.name, p.low, p.high, log=p.log)


# -- a run ----------------------------------------------------------------------------------------------------------


class CpuClock:
    """Counts this process's CPU seconds, those of all its threads, while it runs."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds += time.process_time() - began


def run(job: Job) -> dict[str, Any]:
    """The line of one run."""
    head = {"task": job.task, "algo": job.label, "seed": job.seed, "workers": job.workers}
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore")
    problem = load(job.task)
    try:
        return {**head, **search(job, problem)}
    except Exception as error:  # one sampler that fails must not end the others' runs
        traceback.print_exc()
        return {**head, "error": repr(error)}


def search(job: Job, problem: Problem) -> dict[str, Any]:
    study = optuna.create_study(directions=["minimize"] * problem.n_objectives, sampler=make_sampler(job, problem))
    clock, score = CpuClock(), Score(problem)
    pending: list[tuple[Trial, dict[str, Any]]] = []
    best: list[float] = []
    found: list[float] = []
    for number in range(job.trials):
        with clock.running():
            trial = study.ask()
            pending.append((trial, suggest(trial, problem)))
        last = number == job.trials - 1
        while pending and (last or len(pending) >= job.workers):
            trial, config = pending.pop(0)
            result = evaluate(problem, config)
            constraints = () if problem.constraints is None else tuple(problem.constraints(config))
            with clock.running():
                for i, value in enumerate(constraints):
                    trial.set_constraint(f"c{i}", value)
                study.tell(trial, result, state=TrialState.FAIL if result is None else None)
            best.append(score.add(config, result, constraints))
            found.append(score.found)
    line: dict[str, Any] = {"ms": round(1e3 * clock.seconds / job.trials, 3), "best": finite(best)}
    if problem.mean is not None:
        line["found"] = finite(found)
    return line if problem.optimum is None else {**line, "optimum": problem.optimum}


def evaluate(problem: Problem, config: Mapping[str, Any]) -> Any:
    """What the function gives, None when it fails."""
    try:
        return problem(config)
    except FailedError:
        return None


def finite(scores: list[float]) -> list[float | None]:
    """JSON has no infinity."""
    return [value if math.isfinite(value) else None for value in scores]


# -- the command line -----------------------------------------------------------------------------------------------


def wanted(options: argparse.Namespace) -> Iterator[Job]:
    """The jobs, seeds first, so that a run that is stopped has compared all samplers."""
    suites = SUITES if options.suites == "all" else [s for s in options.suites.split(",") if s]
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        tasks = [name for suite in suites for name in names(suite, seed)]
        tasks += [instance(name, seed) for name in options.tasks.split(",") if name]
        for task in tasks:
            for sampler in options.algos.split(","):
                yield Job(sampler, task, seed, options.trials, options.workers)


def done_already(path: Path | None) -> set[tuple[Any, ...]]:
    if path is None or not path.exists():
        return set()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(r["task"], r["algo"], r["seed"], r["workers"], len(r["best"])) for r in lines if "best" in r}


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algos", default="tpe", help="names of PEERS or label=module:callable, with commas")
    parser.add_argument("--suites", default="", help="all, or names of suites.py with commas")
    parser.add_argument("--tasks", default="", help="single problems, SUITE:FUNCTION with commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1, help="trials that are pending at a time")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, help="lines are appended; by default they are printed")
    options = parser.parse_args()
    if not options.suites and not options.tasks:
        parser.error("name --suites or --tasks")
    done = done_already(options.out)
    jobs = [job for job in wanted(options) if (job.task, job.label, job.seed, job.workers, job.trials) not in done]
    out = sys.stdout if options.out is None else options.out.open("a")
    # One thread, so that CPU seconds compare; spawned, so that NumPy is not imported before it is told.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    with out, ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        for line in pool.map(run, jobs):
            print(json.dumps(line), file=out, flush=True)


if __name__ == "__main__":
    main()
