"""Compare runs: average rank, wins, normalised regret, and how many trials reach what a peer has.

    python bench/search/compare.py runs.jsonl [more.jsonl ...] [--at 20,50,100] [--algos ours,gp,tpe] [--suites bbob-d5]

All is for each suite and for all of them together, with 95 % confidence intervals of a bootstrap over functions
(regret.py says how). Wins are of (task, seed) pairs that are not ties. Prints tables and writes JSON to --output.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from regret import Runs, gather, label_of, ranks, read, resampled, suite_of, trials_to_reach

RESULTS = Path(__file__).resolve().parents[1] / "results"


def at_budget(lines: Sequence[dict[str, Any]], algos: Sequence[str], n: int, field: str) -> dict[str, Any] | None:
    """The comparison after n trials."""
    runs = gather(lines, algos, n, field)
    if runs is None:
        return None
    last = runs.scores[:, :, -1]
    rank, regret = runs.band(ranks(last)), runs.band(runs.regret[:, :, -1])
    table = {}
    for j, algo in enumerate(algos):
        table[algo] = {
            "rank": interval(*(part[j] for part in rank)),
            "regret": interval(*(part[j] for part in regret)),
            "wins": {peer: wins(last[:, j], last[:, k]) for k, peer in enumerate(algos) if k != j},
            "trials_to_reach": {peer: to_reach(runs, j, k) for k, peer in enumerate(algos) if k != j},
        }
    return {"runs": len(last), "functions": len(np.unique(runs.families)), "algos": table}


def wins(own: np.ndarray, peer: np.ndarray) -> dict[str, Any]:
    """Won, lost and tied; the share is of what was won or lost."""
    won, lost = int((own < peer).sum()), int((own > peer).sum())
    return {"won": won, "lost": lost, "tied": len(own) - won - lost, "share": won / max(won + lost, 1)}


def to_reach(runs: Runs, j: int, k: int) -> dict[str, Any]:
    """Trials that algorithm j needs for what k has at the end, None when all that it had do not suffice.

    `mean`: for k's mean regret, by j's mean regret. `median`: the median of the runs, each against k's score in it.
    """
    means = runs.family_means(runs.regret)
    curves = np.concatenate([means.mean(axis=0)[None], resampled(means)])
    reached = trials_to_reach(curves[:, j], curves[:, k, -1])
    single = trials_to_reach(runs.scores[:, j], runs.scores[:, k, -1])
    low, high = np.quantile(reached[1:], [0.025, 0.975], method="nearest")
    return {"mean": interval(reached[0], low, high), "median": whole(np.quantile(single, 0.5, method="higher"))}


def interval(value: float, low: float, high: float) -> list[float | None]:
    return [whole(value), whole(low), whole(high)]


def whole(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def show(title: str, found: dict[str, Any], n: int, ours: str | None) -> None:
    """One table, and how many trials `ours`, by default the first of it, needs for what the others have."""
    print(f"\n{title}, n = {n}: {found['runs']} runs on {found['functions']} functions")
    table = found["algos"]
    ordered = sorted(table, key=lambda name: table[name]["rank"][0])
    for algo in ordered:
        row = table[algo]
        rank = "{:.2f} [{:.2f}, {:.2f}]".format(*row["rank"])
        regret = "{:.4f} [{:.4f}, {:.4f}]".format(*row["regret"])
        against = " ".join(f"{row['wins'][peer]['won']}-{row['wins'][peer]['lost']} {peer}" for peer in row["wins"])
        print(f"  {algo:12s} rank {rank}  regret {regret}  wins {against}")
    first = ours if ours in table else ordered[0]
    for peer, reach in table[first]["trials_to_reach"].items():
        share = table[first]["wins"][peer]["share"]
        mean, low, high, median = (f">{n}" if x is None else f"{x:.0f}" for x in (*reach["mean"], reach["median"]))
        print(
            f"    {first} wins {100 * share:.0f} % against {peer}; has its result after "
            f"{mean} [{low}, {high}] trials by the mean regret, {median} at the median run"
        )


def cpu(lines: Sequence[dict[str, Any]], algos: Sequence[str]) -> dict[str, float]:
    """CPU milliseconds a suggestion, the median over runs."""
    measured = {algo: [line["ms"] for line in lines if label_of(line) == algo and "ms" in line] for algo in algos}
    return {algo: round(statistics.median(ms), 2) for algo, ms in measured.items() if ms}


def as_json(result: dict[str, Any]) -> str:
    """Indented, with lists of numbers on one line."""
    text = json.dumps(result, indent=1) + "\n"
    return re.sub(r"\[\s+([^][{}]*?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--at", default="20,30,50,100,200", help="numbers of trials")
    parser.add_argument("--algos", help="only these, with commas; by default all in the files")
    parser.add_argument("--suites", help="only these, with commas")
    parser.add_argument("--ours", help="whose trials are counted; by default those of the best rank")
    parser.add_argument("--field", choices=("best", "found"), default="best", help="what counts of noisy problems")
    parser.add_argument("--output", type=Path, default=RESULTS / "search.json")
    options = parser.parse_args()
    lines = read(options.files)
    if options.suites:
        lines = [line for line in lines if suite_of(line["task"]) in options.suites.split(",")]
    algos = tuple(options.algos.split(",")) if options.algos else tuple(sorted({label_of(line) for line in lines}))
    suites = sorted({suite_of(line["task"]) for line in lines})
    result: dict[str, Any] = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpus": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "cpu_ms": cpu(lines, algos),
        "errors": {algo: sum("error" in line for line in lines if label_of(line) == algo) for algo in algos},
        "suites": {},
    }
    for suite in [*suites, "all"] if len(suites) > 1 else suites:
        chosen = [line for line in lines if suite in ("all", suite_of(line["task"]))]
        found = {n: at_budget(chosen, algos, n, options.field) for n in map(int, options.at.split(","))}
        result["suites"][suite] = {str(n): part for n, part in found.items() if part is not None}
        for n, part in found.items():
            if part is not None:
                show(suite, part, n, options.ours)
    print("\nCPU ms a suggestion: " + ", ".join(f"{algo} {ms:.1f}" for algo, ms in result["cpu_ms"].items()))
    for algo, count in result["errors"].items():
        if count:
            print(f"{algo} raised in {count} runs, which do not count")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(as_json(result))
    print(options.output)


if __name__ == "__main__":
    main()
