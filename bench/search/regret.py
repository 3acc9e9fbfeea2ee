"""Runs read and made comparable: normalised regret, ranks, and what a bootstrap says of their means.

| name | shape | what |
|---|---|---|
| `scores` | (runs, algorithms, trials) | the score after each trial; infinite as long as there is none |
| `regret` | the same | 0 at the best known score, 1 at what ten trials give, clipped |
| `families` | (runs,) | the function that a run is of: its instances and seeds are of one family |

A run here is a (task, seed) pair that every algorithm ran. Best known is the optimum, or the best score of any run in
the files. What ten trials give is the median, over all runs on the task, of the score after ten trials.

Seeds and instances of one function are not independent. So the bootstrap draws families, not runs, with replacement,
and every family counts the same.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

N_RESAMPLES = 2000
REFERENCE_TRIALS = 10


@dataclass(frozen=True)
class Runs:
    """What the algorithms found on the same tasks with the same seeds."""

    algos: tuple[str, ...]
    families: np.ndarray
    scores: np.ndarray
    regret: np.ndarray

    def family_means(self, values: np.ndarray) -> np.ndarray:
        """Means over the runs of each family: (runs, ...) to (families, ...)."""
        return np.stack([values[self.families == f].mean(axis=0) for f in np.unique(self.families)])

    def band(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean over families, and its 95 % confidence band: each (runs, ...) to (...)."""
        means = self.family_means(values)
        low, high = np.quantile(resampled(means), [0.025, 0.975], axis=0)
        return means.mean(axis=0), low, high


def resampled(means: np.ndarray) -> np.ndarray:
    """(families, ...) to (N_RESAMPLES, ...): means of families drawn with replacement, the same for equal input."""
    n = len(means)
    weights = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), N_RESAMPLES) / n
    return np.tensordot(weights, means, axes=1)


def read(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The lines of runs, those of samplers that raised included."""
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def suite_of(task: str) -> str:
    return task.partition(":")[0]


def family_of(task: str) -> str:
    """Suite and function of SUITE:FUNCTION:iN."""
    return ":".join(task.split(":")[:2])


def label_of(line: dict[str, Any]) -> str:
    workers = line.get("workers", 1)
    return line["algo"] if workers == 1 else f"{line['algo']}/{workers}"


def gather(lines: Sequence[dict[str, Any]], algos: Sequence[str], trials: int, field: str = "best") -> Runs | None:
    """The runs of `algos` with `trials` trials or more; None when they have none in common.

    `field` is "best", or "found" for the smallest mean of noisy problems (others have it not, and "best" counts).
    """
    known = [line for line in lines if "best" in line]
    cells: dict[tuple[str, int], dict[str, np.ndarray]] = defaultdict(dict)
    by_task: dict[str, list[np.ndarray]] = defaultdict(list)
    least: dict[str, float] = defaultdict(lambda: np.inf)
    for line in known:
        scores = np.array([np.inf if value is None else value for value in line.get(field, line["best"])])
        task = line["task"]
        by_task[task].append(scores)
        least[task] = min(least[task], scores.min(), line.get("optimum", np.inf))
        if len(scores) >= trials and label_of(line) in algos:
            cells[task, line["seed"]][label_of(line)] = scores[:trials]
    common = {key: cell for key, cell in sorted(cells.items()) if len(cell) == len(algos)}
    if not common:
        return None
    scores = np.array([[cell[algo] for algo in algos] for cell in common.values()])
    regret = np.empty_like(scores)
    for i, (task, _) in enumerate(common):
        regret[i] = normalised(scores[i], least[task], by_task[task])
    return Runs(tuple(algos), np.array([family_of(task) for task, _ in common]), scores, regret)


def normalised(scores: np.ndarray, least: float, runs: Sequence[np.ndarray]) -> np.ndarray:
    """0 at `least`, 1 at what ten trials of `runs` give; also where no run has a score after ten."""
    early = np.array([run[min(REFERENCE_TRIALS, len(run)) - 1] for run in runs])
    reference = np.median(early[np.isfinite(early)]) if np.isfinite(early).any() else np.inf
    if not np.isfinite(reference):
        finite = scores[np.isfinite(scores)]
        reference = finite.max() if len(finite) else least + 1.0
    spread = max(reference - least, 1e-12)
    return np.clip((scores - least) / spread, 0.0, 1.0)


def ranks(scores: np.ndarray) -> np.ndarray:
    """(runs, algorithms) to ranks from 1, ties shared."""
    below = (scores[:, None, :] < scores[:, :, None]).sum(axis=2)
    equal = (scores[:, None, :] == scores[:, :, None]).sum(axis=2)
    return 1 + below + (equal - 1) / 2


def trials_to_reach(own: np.ndarray, level: np.ndarray) -> np.ndarray:
    """The number of trials after which `own` (..., trials) is at `level` (...) or below; infinite when it never is."""
    reached = own <= level[..., None]
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1) + 1.0, np.inf)
