"""What a confirmation is worth: the trial that it chooses beside the trial that the search saw as best.

    python bench/winners_curse.py                       # 20 studies, 200 more for the intervals; results/
    python bench/winners_curse.py --first 1000 --studies 40 --intervals 0     # others, as to choose the defaults with

A study is a smooth function of 2 to 5 parameters with a normal, a heavy-tailed (Student's t with 3 degrees of freedom)
or an uneven noise (larger on one side of the space), of a size between a thirtieth of and as large as the spread of the
function. 60 to 100 trials are searched, in every second study by `BayesianSampler`, else at random; the noise is what
every search sees. Then the best trials race as `Study(confirm=True)` has them race, with two runs at a time, by the
very code that does it (`automl.search.race`, `automl.core.confirmed_best`), and the true values are compared.

better_or_equal: studies in which the chosen trial is truly as good as or better than the best observed one. regret: how
much worse than the best of all trials, as a share of the noise. luck_of_the_search: how much better than its true value
the best observed trial seemed, likewise. covered: how often the 95 % interval of the chosen trial
holds its true value, over these and as many other studies as --intervals says, which are searched at random.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray

from automl.core import Attr, confirmed_best
from automl.declaration import Candidate, Confirm, Race
from automl.search import BayesianSampler
from automl.search.race import estimates, runs_of, turn

RESULTS = Path(__file__).parent / "results" / "winners_curse.json"
#: The first study that is reported; the defaults were chosen with others.
FIRST = 100
#: Runs at a time, as with `automl run --workers 2`.
WORKERS = 2
KINDS = ("normal", "heavy tails", "uneven")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """A noisy function; small is good."""

    seed: int
    kind: str
    dim: int
    trials: int
    noise: float
    truth: Callable[[Array], float]

    def run(self, x: Array, random: np.random.Generator) -> float:
        heavy = self.kind == "heavy tails"
        error = random.standard_t(3) / np.sqrt(3.0) if heavy else random.normal()  # both of variance 1
        return self.truth(x) + self.size(x) * float(error)

    def size(self, x: Array) -> float:
        """The standard deviation of a run."""
        return self.noise * (float(np.exp(1.5 * (x[0] - 0.5))) if self.kind == "uneven" else 1.0)


def problem(seed: int) -> Problem:
    """Study number `seed`."""
    random = np.random.default_rng([7, seed])
    dim = int(random.integers(2, 6))
    best, steep = random.uniform(0.15, 0.85, dim), 10.0 ** random.uniform(-0.5, 0.5, dim)
    waves, phase = random.uniform(2.0, 6.0, dim), random.uniform(0.0, 6.0, dim)

    def truth(x: Array) -> float:
        ripple = np.sin(waves * x + phase).sum() * 0.05
        return float(np.sqrt((steep * (x - best) ** 2).sum()) + ripple)

    spread = float(np.std([truth(x) for x in random.uniform(size=(500, dim))]))
    noise = spread * 10.0 ** random.uniform(-1.5, 0.0)
    return Problem(seed, KINDS[seed % 3], dim, int(random.integers(60, 101)), noise, truth)


def searched(of: Problem, sampler: str) -> list[tuple[Array, float]]:
    """The trials of a search: points, and what was seen there."""
    random = np.random.default_rng([8, of.seed])
    own = BayesianSampler(of.seed) if sampler == "auto" else optuna.samplers.RandomSampler(of.seed)
    study = optuna.create_study(sampler=own)
    space = {f"x{i}": optuna.distributions.FloatDistribution(0.0, 1.0) for i in range(of.dim)}
    found = []
    for _ in range(of.trials):
        trial = study.ask(space)
        x = np.array([trial.params[name] for name in space])
        value = of.run(x, random)
        study.tell(trial, value)
        found.append((x, value))
    return found


def confirmed(of: Problem, trials: list[tuple[Array, float]], confirm: Confirm) -> dict[str, Any]:
    """The race of the best trials, and what its choice is worth."""
    random = np.random.default_rng([9, of.seed])
    order = sorted(range(len(trials)), key=lambda number: trials[number][1])
    race = Race(tuple(Candidate(i, {}, trials[i][1]) for i in order[: confirm.top]), confirm.sure, held_out=False)
    names = [candidate.number for candidate in race.candidates]
    runs: list[optuna.trial.FrozenTrial] = []
    pending: list[int] = []  # places in `runs`
    reason = "the budget is used"
    while len(runs) < confirm.trials or pending:
        if len(pending) < WORKERS and len(runs) < confirm.trials:
            found = turn(runs_of(race, runs), "min", race.sure, names)
            if found.candidate is None:
                reason = found.reason
                break
            runs.append(_trial(names[found.candidate], None))
            pending.append(len(runs) - 1)
            continue
        place = pending.pop(0)
        number = runs[place].system_attrs[Attr.CANDIDATE]
        runs[place] = _trial(number, of.run(trials[number][0], random))
    for place in pending:  # what runs when the race is over still ends
        number = runs[place].system_attrs[Attr.CANDIDATE]
        runs[place] = _trial(number, of.run(trials[number][0], random))
    found_values = estimates(race, runs, "min")
    chosen = confirmed_best(found_values)
    true = {number: of.truth(trials[number][0]) for number in range(len(trials))}
    estimate = found_values[chosen]
    return {
        "observed_best": names[0],
        "chosen": chosen,
        "seen": trials[names[0]][1],
        "true_observed_best": true[names[0]],
        "true_chosen": true[chosen],
        "true_best": min(true.values()),
        "true_best_candidate": min(true[number] for number in names),
        "better_or_equal": true[chosen] <= true[names[0]],
        "estimate": asdict(estimate),
        "covered": estimate.low <= true[chosen] <= estimate.high,
        "runs": len(runs),
        "reason": reason,
    }


def _trial(candidate: int, value: float | None) -> optuna.trial.FrozenTrial:
    state = optuna.trial.TrialState.RUNNING if value is None else optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(state=state, value=value, system_attrs={Attr.CANDIDATE: candidate})


def study(seed: int, sampler: str, confirm: Confirm) -> dict[str, Any]:
    """One study, from its search to its confirmation."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    of = problem(seed)
    found = confirmed(of, searched(of, sampler), confirm)
    told = {"seed": seed, "sampler": sampler, "noise": of.kind, "sd": of.noise, "dim": of.dim, "trials": of.trials}
    return told | found


def summary(rows: list[Mapping[str, Any]], covered: list[bool]) -> dict[str, Any]:
    def regret(key: str) -> float:
        return float(np.mean([(row[key] - row["true_best"]) / row["sd"] for row in rows]))

    return {
        "studies": len(rows),
        "better_or_equal": sum(row["better_or_equal"] for row in rows),
        "better": sum(row["true_chosen"] < row["true_observed_best"] for row in rows),
        "regret_observed_best": regret("true_observed_best"),
        "regret_chosen": regret("true_chosen"),
        "regret_best_candidate": regret("true_best_candidate"),
        "runs": float(np.mean([row["runs"] for row in rows])),
        "luck_of_the_search": float(np.mean([(row["true_observed_best"] - row["seen"]) / row["sd"] for row in rows])),
        "intervals": len(covered),
        "covered": float(np.mean(covered)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    defaults = Confirm()
    parser.add_argument("--first", type=int, default=FIRST, help="number of the first study")
    parser.add_argument("--studies", type=int, default=20)
    parser.add_argument("--intervals", type=int, default=200, help="further studies, for the intervals")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--top", type=int, default=defaults.top)
    parser.add_argument("--trials", type=int, default=defaults.trials)
    parser.add_argument("--out", type=Path, default=None, help="JSON; by default results/, for the default studies")
    options = parser.parse_args()
    confirm = Confirm(top=options.top, trials=options.trials)
    start = options.first + options.studies + 10_000
    seeds = [*range(options.first, options.first + options.studies), *range(start, start + options.intervals)]
    rows: list[Mapping[str, Any]] = []
    covered: list[bool] = []
    with ProcessPoolExecutor(options.processes) as pool:
        samplers = ["auto" if seed % 2 == 0 and seed < start else "random" for seed in seeds]
        for row in pool.map(study, seeds, samplers, [confirm] * len(seeds)):
            covered.append(row["covered"])
            if row["seed"] < start:
                rows.append(row)
                print(
                    f"{row['seed']:5d} {row['sampler']:6s} {row['noise']:11s} chosen {row['true_chosen']:.4f}"
                    f"  observed best {row['true_observed_best']:.4f}  of {row['runs']} runs: {row['reason']}",
                    flush=True,
                )
    found = {
        "confirm": asdict(confirm),
        "summary": summary(rows, covered),
        "machine": platform.platform(),
        "rows": rows,
    }
    print(json.dumps(found["summary"], indent=2))
    out = options.out or (RESULTS if options.first == FIRST else None)
    if out is not None:
        out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
