"""Whether forecasts come true: what `BayesianSampler` expects of its next trials, and what they brought.

    python bench/search/calibration.py --suites bbob-d5,training --seeds 2 --out forecasts.jsonl
    python bench/search/calibration.py --loader tasks --tasks all --out forecasts.jsonl

With --loader the problems are those of a module on the path that has `load(name)` and, for --tasks all, DEV: objects
that are called with a configuration and have `params` as in problem.py. A line of the file is one run: task, seed,
values (null where a trial has failed) and forecasts, each with the number n of results that it was made after. Runs
that the file has already are not run again; the tables are of all the runs in it, for each family of tasks.

reliability: forecasts by their `p_margin`, and how often more than the margin was gained; how often the gain was within
`sd` of the forecast, and both gains as shares of what the search had gained before. shift and slope: of the log odds of
what came over those that were forecast, 0 and 1 where all is well (Cox 1958, Two further applications of a model for
binary regression). stopping: where `is_converged` first ends the search within --stop-before trials, and what is lost
by then, as a share of all that the run gains.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize

from automl.search.forecast import CONVERGED_BELOW, MARGIN, gained

#: Borders of `p_margin`: convergence, and what a reader tells apart.
BINS = (0.0, 0.05, 0.2, 0.5, 0.8, 1.0)


@dataclass(frozen=True)
class Job:
    """One run."""

    loader: str
    task: str
    seed: int
    trials: int


# -- runs -----------------------------------------------------------------------------------------------------------


def run(job: Job) -> dict[str, Any]:
    """The line of one run, its trials one after the other."""
    import optuna
    from run import automl_space, evaluate, suggest

    from automl.search import BayesianSampler

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    warnings.simplefilter("ignore")
    problem = importlib.import_module(job.loader).load(job.task)
    study = optuna.create_study(sampler=BayesianSampler(job.seed, space=automl_space(problem)))
    values: list[float | None] = []
    forecasts: list[dict[str, Any]] = []
    for _ in range(job.trials):
        trial = study.ask()
        config = suggest(trial, problem)
        why = study._storage.get_trial_system_attrs(trial._trial_id).get("automl:why", {})
        if "forecast" in why:
            forecasts.append({"n": sum(value is not None for value in values), **why["forecast"]})
        values.append(evaluate(problem, config))
        study.tell(trial, values[-1], state=optuna.trial.TrialState.FAIL if values[-1] is None else None)
    return {"task": job.task, "seed": job.seed, "values": values, "forecasts": forecasts}


def wanted(options: argparse.Namespace) -> Iterator[Job]:
    module = importlib.import_module(options.loader)
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        tasks = [name for name in options.tasks.split(",") if name and name != "all"]
        if options.tasks == "all":
            tasks = list(module.DEV)
        for suite in filter(None, options.suites.split(",")):
            tasks += module.names(suite, seed)
        for task in tasks:
            yield Job(options.loader, task, seed, options.trials)


# -- what came of it ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcomes:
    """Forecasts (f,) and what came: `chance` and whether it was a `hit`; `gain`, `sd` and what gain `came`."""

    chance: np.ndarray
    hit: np.ndarray
    gain: np.ndarray
    sd: np.ndarray
    came: np.ndarray

    @classmethod
    def of(cls, lines: Sequence[dict[str, Any]]) -> Outcomes:
        """Of all the forecasts whose trials came. Gains are shares of what each search had gained before."""
        rows = []
        for line in lines:
            results, best = series(line)
            for f in line["forecasts"]:
                end = f["n"] + f["trials"]
                if end <= len(best):
                    unit = gained(results[: f["n"]]) or 1.0
                    came = (best[f["n"] - 1] - best[end - 1]) / unit
                    rows.append((f["p_margin"], came > MARGIN, f["gain"] / unit, f["sd"] / unit, came))
        chance, hit, gain, sd, came = np.array(rows, dtype=float).reshape(-1, 5).T
        return cls(chance, hit > 0.0, gain, sd, came)

    def where(self, chosen: np.ndarray) -> Outcomes:
        return Outcomes(*(getattr(self, name)[chosen] for name in ("chance", "hit", "gain", "sd", "came")))

    @property
    def within(self) -> np.ndarray:
        """(f,) Whether the gain was within one standard deviation of what was forecast."""
        return np.abs(self.came - self.gain) <= self.sd * (1.0 + 1e-9)

    def summary(self) -> dict[str, Any]:
        means = {name: getattr(self, name).mean() for name in ("chance", "hit", "within", "gain", "came")}
        return {"forecasts": len(self.hit), **{name: round(float(mean), 4) for name, mean in means.items()}}


def series(line: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(n,) The results of a run, and the best after each."""
    results = np.array([value for value in line["values"] if value is not None])
    return results, np.minimum.accumulate(results)


def reliability(outcomes: Outcomes) -> dict[str, Any]:
    """For each bin of the chance, and in all."""
    table = {}
    for low, high in pairwise(BINS):
        inside = (outcomes.chance >= low) & ((outcomes.chance < high) | (high == BINS[-1]))
        if inside.any():
            table[f"{low:g}-{high:g}"] = outcomes.where(inside).summary()
    return {**table, "all": {**outcomes.summary(), **recalibration(outcomes)}}


def recalibration(outcomes: Outcomes) -> dict[str, float]:
    """The most likely log odds, shift + slope * those of the forecast.

    A pinch of belief in a slope of 1 keeps it finite where few forecasts came out as if they were certain.
    """
    chance = np.clip(outcomes.chance, 1e-6, 1.0 - 1e-6)
    odds = np.log(chance / (1.0 - chance))
    sign = np.where(outcomes.hit, 1.0, -1.0)

    def loss(b: np.ndarray) -> float:
        return float(np.logaddexp(0.0, -sign * (b[0] + b[1] * odds)).sum() + 0.5 * (b[1] - 1.0) ** 2)

    found = minimize(loss, np.array([0.0, 1.0])).x
    return {"shift": round(float(found[0]), 2), "slope": round(float(found[1]), 2)}


def stopping(lines: Sequence[dict[str, Any]], before: int) -> dict[str, Any]:
    """Where the rule ends runs that would go on until `before`, and what that loses."""
    ends, lost, more = [], [], []
    for line in lines:
        results, best = (array[:before] for array in series(line))
        stops = (f["n"] for f in line["forecasts"] if f["n"] < len(best) and f["p_margin"] < CONVERGED_BELOW)
        end = next(stops, len(best))
        missed = best[end - 1] - best[-1]
        ends.append(end)
        lost.append(missed / (gained(results) or 1.0))
        if end < len(best):
            more.append(missed > MARGIN * gained(results[:end]))
    return {
        "runs": len(ends),
        "stopped": len(more),
        "median_trials": float(np.median(ends)),
        "mean_trials": round(float(np.mean(ends)), 1),
        "mean_lost": round(float(np.mean(lost)), 4),
        "gave_up_more_than_the_margin": round(float(np.mean(more)), 3) if more else 0.0,
    }


def show(family: str, table: dict[str, Any]) -> None:
    print(f"\n{family}: shift {table['reliability']['all']['shift']}, slope {table['reliability']['all']['slope']}")
    for name, row in table["reliability"].items():
        print(
            f"  p {name:9s} {row['forecasts']:6d} forecasts: chance {row['chance']:.3f}, came {row['hit']:.3f}; "
            f"gain {row['gain']:.3f}, came {row['came']:.3f}, within the sd {row['within']:.2f}"
        )
    stop = table["stopping"]
    print(
        f"  stops {stop['stopped']} of {stop['runs']} runs; trials {stop['median_trials']:.0f} at the median, "
        f"{stop['mean_trials']} at the mean; loses {100 * stop['mean_lost']:.2f} % of the gain; "
        f"{100 * stop['gave_up_more_than_the_margin']:.0f} % of the stops gave up more than the margin"
    )


# -- the command line -----------------------------------------------------------------------------------------------


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", default="", help="names of suites.py with commas")
    parser.add_argument("--tasks", default="", help="single problems with commas, or all of a --loader")
    parser.add_argument("--loader", default="suites", help="a module that has load(name)")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--stop-before", type=int, default=100, help="trials that a run without the rule has")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="lines are appended")
    parser.add_argument("--output", type=Path, help="the tables as JSON")
    options = parser.parse_args()
    lines = [json.loads(text) for text in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(line["task"], line["seed"], len(line["values"])) for line in lines}
    jobs = [job for job in wanted(options) if (job.task, job.seed, job.trials) not in done]
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    with options.out.open("a") as out, ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        for line in pool.map(run, jobs):
            print(json.dumps(line), file=out, flush=True)
            lines.append(line)
    families = sorted({line["task"].partition(":")[0] for line in lines})
    tables = {}
    for family in [*families, "all"]:
        chosen = [line for line in lines if family in ("all", line["task"].partition(":")[0])]
        table = {"reliability": reliability(Outcomes.of(chosen)), "stopping": stopping(chosen, options.stop_before)}
        tables[family] = table
        show(family, table)
    if options.output is not None:
        options.output.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
