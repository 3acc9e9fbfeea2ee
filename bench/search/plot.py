"""Plot what the samplers had after each trial: mean normalised regret, and 95 % confidence bands; a panel a suite.

    python bench/search/plot.py runs.jsonl [more.jsonl ...] --algos ours,gp,tpe [--trials 100] [--output search.png]

Needs matplotlib. A suite that not all of the samplers ran is left out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
from regret import gather, label_of, read, suite_of

mpl.use("Agg")
from matplotlib import pyplot as plt

RESULTS = Path(__file__).resolve().parents[1] / "results"
PANEL_INCHES, COLUMNS = (4.2, 3.2), 3
#: Below this a mean regret is drawn as this.
FLOOR = 1e-4


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--algos", help="with commas; by default all in the files")
    parser.add_argument("--suites", help="with commas; by default all in the files")
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--field", choices=("best", "found"), default="best")
    parser.add_argument("--output", type=Path, default=RESULTS / "search.png")
    options = parser.parse_args()
    lines = read(options.files)
    algos = options.algos.split(",") if options.algos else sorted({label_of(line) for line in lines})
    suites = options.suites.split(",") if options.suites else sorted({suite_of(line["task"]) for line in lines})
    panels = {}
    for suite in suites:
        chosen = [line for line in lines if suite_of(line["task"]) == suite]
        runs = gather(chosen, algos, options.trials, options.field)
        if runs is not None:
            panels[suite] = runs
    if not panels:
        parser.error("no suite has runs of all of these samplers with so many trials")
    rows = -(-len(panels) // COLUMNS)
    columns = min(COLUMNS, len(panels))
    size = (PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    trials = np.arange(1, options.trials + 1)
    for axis, (suite, runs) in zip(axes.flat, panels.items(), strict=False):
        mean, low, high = (np.maximum(part, FLOOR) for part in runs.band(runs.regret))
        for j, algo in enumerate(runs.algos):
            (line,) = axis.plot(trials, mean[j], label=algo, linewidth=1.6)
            axis.fill_between(trials, low[j], high[j], color=line.get_color(), alpha=0.15, linewidth=0)
        n_functions = len(np.unique(runs.families))
        axis.set(title=f"{suite}: {n_functions} functions, {len(runs.scores)} runs", yscale="log", xlabel="trials")
        axis.grid(visible=True, which="both", alpha=0.2)
    for axis in axes[:, 0]:
        axis.set_ylabel("normalised regret")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    axes.flat[0].legend(fontsize="small")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=130)
    print(options.output)


if __name__ == "__main__":
    main()
