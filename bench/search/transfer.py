"""What past studies are worth: each member of a family is searched with the others as sources, and from nothing.

    python bench/search/transfer.py --out transfer.jsonl
    python bench/search/transfer.py --out other.jsonl --loader tasks.py --family "a=a:1,a:2,a:3" --family "b=b:1,b:2"

A family is one space and several functions: ten of them are here, six models of scikit-learn on data sets that it
carries, and four functions whose members differ in where the optimum lies and how steep they are. Others come from
--loader, a file with load(name) that gives an object with params (see problem.Param) which can be called with a
configuration.

First each member is searched once, with a seed of its own: these are the histories that the sources have. Then each
member is searched cold, with the other members as sources (real), and with sources that mislead: their values negated
(negated), or in random order (shuffled). Printed are, for each family and all of them:

- to reach: trials until the warm search has what the cold one has at the end; both medians over the seeds;
- regret of cold and warm at a tenth, a fifth, two fifths and all of the trials: 0 is the best value known, 1 what the
  cold search has after a fifth of the trials;
- worst: by how much the search with a kind of sources has a larger regret at the end, the largest over the members.

Lines that the file has already are not run again; a line has family, task, kind, seed, best and, of histories, params
and values.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# One thread, before NumPy is imported: what is compared here is the number of trials.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import numpy as np
import optuna
from problem import Config, Param, Problem
from run import automl_space, suggest
from synthetic import hartmann
from training import FOLDS, MAX_ROWS, MODELS

from automl.search import BayesianSampler
from automl.search.transfer import Source

KINDS = ("cold", "real", "negated", "shuffled")
#: Histories are made with seeds that no search has.
HISTORY_SEED = 1000
#: Members of a synthetic family, and how far their optima lie apart (standard deviation in the unit cube).
MEMBERS, APART = 5, 0.06
DATA_SETS = ("breast_cancer", "digits", "iris", "wine")
#: Of training.MODELS, those that classify; each is tuned on every data set.
TRAINED = ("svm", "forest", "boosting", "neighbours", "network", "logistic")


# -- families -------------------------------------------------------------------------------------------------------


def ackley(u: np.ndarray) -> float:
    x = 20.0 * (u - 0.4)
    return float(20 + math.e - 20 * np.exp(-0.2 * np.sqrt(np.mean(x * x))) - np.exp(np.mean(np.cos(2 * np.pi * x))))


def rosenbrock(u: np.ndarray) -> float:
    x = 3.0 * u - 1.0
    return float(np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2))


def ellipsoid(u: np.ndarray) -> float:
    return float(10.0 ** np.linspace(0.0, 3.0, len(u)) @ (u - 0.45) ** 2)


FUNCTIONS: dict[str, tuple[Callable[[np.ndarray], float], int]] = {
    "hartmann": (hartmann, 6),
    "ackley": (ackley, 5),
    "rosenbrock": (rosenbrock, 4),
    "ellipsoid": (ellipsoid, 8),
}


def moved(function: str, member: int) -> Problem:
    """`function` with its coordinates shifted and stretched a little."""
    value, d = FUNCTIONS[function]
    rng = np.random.default_rng([member, d])
    shift, stretch = rng.normal(0.0, APART, d), np.exp(rng.normal(0.0, 0.15, d))
    params = tuple(Param(f"x{i}", "float") for i in range(d))

    def at(config: Config) -> float:
        u = np.array([config[p.name] for p in params])
        return value((u - 0.5) * stretch + 0.5 - shift)

    return Problem(f"{function}:{member}", params, at)


def trained(model: str, data: str) -> Problem:
    """The cross-validated log loss (of svm, which gives no probabilities, the error) of one model on a data set."""
    from sklearn import datasets
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    build, params, fixed = MODELS[model]
    x, y = getattr(datasets, f"load_{data}")(return_X_y=True)
    splits = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    rows = np.random.default_rng(0).permutation(len(x))[:MAX_ROWS]
    scoring = "accuracy" if model == "svm" else "neg_log_loss"

    def loss(config: Config) -> float:
        pipeline = make_pipeline(StandardScaler(), build(**config, **fixed))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # models that have not converged
            return -float(cross_val_score(pipeline, x[rows], y[rows], scoring=scoring, cv=splits).mean())

    return Problem(f"{model}:{data}", params, loss)


def families(options: argparse.Namespace) -> dict[str, list[Any]]:
    """The members of each family by its name."""
    if options.loader is None:
        ours = {f: [moved(f, i) for i in range(MEMBERS)] for f in FUNCTIONS}
        ours |= {m: [trained(m, data) for data in DATA_SETS] for m in TRAINED}
        return {name: members for name, members in ours.items() if not options.family or name in options.family}
    spec = importlib.util.spec_from_file_location("loader", options.loader)
    assert spec is not None
    assert spec.loader is not None
    loader = importlib.util.module_from_spec(spec)
    sys.modules["loader"] = loader
    spec.loader.exec_module(loader)
    named = (item.partition("=") for item in options.family)
    return {name: [loader.load(task) for task in tasks.split(",")] for name, _, tasks in named}


# -- runs -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    family: str
    task: Any
    kind: str  #: of KINDS, or history
    seed: int

    @property
    def key(self) -> tuple[str, str, str, int]:
        return self.family, self.task.name, self.kind, self.seed


def search(job: Job, trials: int, sources: Sequence[Source] = ()) -> dict[str, Any]:
    """The line of one run."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    sampler = BayesianSampler(seed=job.seed, space=automl_space(job.task), sources=sources)
    study = optuna.create_study(sampler=sampler)
    params, values = [], []
    for _ in range(trials):
        trial = study.ask()
        config = suggest(trial, job.task)
        value = float(job.task(config))
        study.tell(trial, value)
        params.append(config)
        values.append(value)
    line = {"family": job.family, "task": job.task.name, "kind": job.kind, "seed": job.seed}
    line |= {"best": np.minimum.accumulate(values).tolist()}
    return {**line, "params": params, "values": values} if job.kind == "history" else line


def sources_for(job: Job, histories: Sequence[dict[str, Any]]) -> list[Source]:
    """The other members' histories, as `job.kind` wants them."""
    found = []
    for i, line in enumerate(histories):
        values = np.array(line["values"])
        if job.kind == "negated":
            values = -values
        if job.kind == "shuffled":
            values = np.random.default_rng([job.seed, i]).permutation(values)
        if line["task"] != job.task.name:
            found.append(Source(line["task"], tuple(line["params"]), tuple(values.tolist())))
    return found


def jobs(options: argparse.Namespace, all_families: dict[str, list[Any]]) -> Iterator[Job]:
    """Histories first; then seed by seed, so that a run that is stopped has compared everything."""
    members = [(name, task) for name, tasks in all_families.items() for task in tasks]
    for i, (name, task) in enumerate(members):
        yield Job(name, task, "history", HISTORY_SEED + i)
    for seed in range(options.seeds):
        for name, task in members:
            for kind in options.kinds.split(","):
                yield Job(name, task, kind, seed)


# -- what came out --------------------------------------------------------------------------------------------------


def report(lines: Sequence[dict[str, Any]]) -> None:
    lines = [line for line in lines if line["kind"] != "history"]
    names = list(dict.fromkeys(line["family"] for line in lines))
    kinds = [kind for kind in KINDS if any(line["kind"] == kind for line in lines)]
    print(f"{'family':14s} to reach   regret of {', of '.join(kinds)}; worst of each but cold")
    to_reach: list[float] = []
    for name in names:
        regrets, worst, reached = summary([line for line in lines if line["family"] == name], kinds)
        to_reach += [float(np.median(reached))] if reached else []
        shown = "; ".join(" ".join(f"{r:.3f}" for r in regrets[kind]) for kind in kinds)
        print(f"{name:14s} {np.median(reached) if reached else math.nan:8.1f}   {shown}; {worst}")
    if to_reach:
        print(f"{'median':14s} {np.median(to_reach):8.1f}")


def summary(lines: Sequence[dict[str, Any]], kinds: Sequence[str]) -> tuple[dict[str, Any], str, list[float]]:
    """Of one family: mean regrets by kind, the worst regret over the cold one's, trials to reach of each member."""
    regrets: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    reached = []
    for task in dict.fromkeys(line["task"] for line in lines):
        own = [line for line in lines if line["task"] == task]
        runs = {kind: np.array([line["best"] for line in own if line["kind"] == kind]) for kind in kinds}
        trials = runs["cold"].shape[1]
        marks = [trials // 10, trials // 5, 2 * trials // 5, trials]
        least = min(min(line["best"]) for line in own)
        unit = np.median(runs["cold"][:, marks[1] - 1]) - least or 1.0
        for kind in kinds:
            at_marks = (runs[kind][:, [mark - 1 for mark in marks]] - least) / unit
            regrets[kind].append(np.minimum(at_marks, 1.0).mean(axis=0))
        if "real" in kinds:
            there = np.append(np.median(runs["real"], axis=0) <= np.median(runs["cold"][:, -1]), True)
            reached.append(float(there.argmax() + 1))  # one more than the trials when it never is
    worst = {k: max(warm[-1] - cold[-1] for warm, cold in zip(regrets[k], regrets["cold"], strict=True)) for k in kinds}
    shown = ", ".join(f"{kind} {worst[kind]:+.3f}" for kind in kinds if kind != "cold")
    return {kind: np.mean(found, axis=0) for kind, found in regrets.items()}, shown, reached


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="lines are appended")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=50, help="of each search and each history")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of sources, with commas; cold is always needed")
    parser.add_argument("--loader", type=Path, help="a file with load(name)")
    parser.add_argument("--family", action="append", default=[], help="one of ours, or with --loader NAME=TASK,TASK")
    options = parser.parse_args()
    if options.loader is not None and not all("=" in item for item in options.family):
        parser.error("with --loader a family is NAME=TASK,TASK")
    if "cold" not in options.kinds.split(","):
        parser.error("--kinds: cold is what the others are compared with; add it")
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(line["family"], line["task"], line["kind"], line["seed"]) for line in lines}
    with options.out.open("a") as out:
        for job in jobs(options, families(options)):
            if job.key in done:
                continue
            histories = [line for line in lines if line["kind"] == "history" and line["family"] == job.family]
            warm = job.kind not in ("history", "cold")
            lines.append(search(job, options.trials, sources_for(job, histories) if warm else ()))
            print(json.dumps(lines[-1]), file=out, flush=True)
    report(lines)


if __name__ == "__main__":
    main()
