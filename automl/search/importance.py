"""Which parameters mattered: how differently the best tenth of the trials is spread from all of them.

PED-ANOVA by Optuna's evaluator, which knows conditional parameters. Source: Watanabe, Bansal and Hutter 2023,
PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary Subspaces, 2304.10255.
"""

from __future__ import annotations

import warnings

import numpy as np
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from automl.board import Board
from automl.declaration import Space
from automl.search.history import History, blank_trial
from automl.search.seen import evenly
from automl.search.space import to_distributions

#: With fewer results the best tenth is one trial, and its values are chance.
LEAST_TRIALS = 10
#: More trials than this do not change the picture, and the time grows with them.
MOST_TRIALS = 2000


def importances(board: Board, space: Space) -> dict[str, float]:
    """The share of each parameter, the largest first; they sum to 1.

    Of a long study an even choice of trials from the best to the worst counts, so that the best tenth stays what it is.
    {} while there are fewer than `LEAST_TRIALS` results, when all are equal, and when no parameter made a difference.
    """
    rows = board.ranking[np.isfinite(board.values[board.ranking, 0])]
    values = board.values[rows, 0] * board.signs[0]
    if len(rows) < LEAST_TRIALS or np.ptp(values) == 0.0:
        return {}
    rows = evenly(rows[np.argsort(values, kind="stable")], MOST_TRIALS)
    history = History(("minimize",), board.study.name)
    history.update(_trials(board, rows, space))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a choice of a few trials is rare is nothing to mend
        found = PedAnovaImportanceEvaluator().evaluate(history.study())
    total = sum(found.values())
    if not total > 0.0:
        return {}
    found = {name: found.get(name, 0.0) / total for name in space}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _trials(board: Board, rows: np.ndarray, space: Space) -> list[FrozenTrial]:
    """As Optuna has them, with one metric of which small is good; values outside of the space are left out."""
    domains = to_distributions(space)
    columns = {name: column for name, column in board.params.items() if name in space}
    trials = []
    for number, row in enumerate(rows.tolist()):
        trial = blank_trial(number, TrialState.COMPLETE)
        trial.values = [float(board.values[row, 0] * board.signs[0])]
        told = {name: column.at(row) for name, column in columns.items() if not np.isnan(column.values[row])}
        trial.params = {name: value for name, value in told.items() if space[name].contains(_plain(value))}
        trial.distributions = {name: domains[name] for name in trial.params}
        trials.append(trial)
    return trials


def _plain(value: object) -> object:
    """A board has whole numbers as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
