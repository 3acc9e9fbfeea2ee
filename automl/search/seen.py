"""A board as the search's arrays: which trials stand for a study, and what they say.

| symbol | shape  | meaning                                                        |
|--------|--------|----------------------------------------------------------------|
| rows   | (n,)   | rows of a board                                                |
| x      | (n, d) | points of the unit cube (see `encoding`)                       |
| loss   | (n,)   | the first metric, signed so that small is good                 |

The sampler reads whole trials; whoever looks at a study has its columns. Of a study that the model can see as a whole
both make the same arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from optuna.trial import TrialState as OptunaState

from automl.board import FAILURES, Board, Column
from automl.board import Curve as Reported
from automl.core import FailureKind, TrialState
from automl.declaration import Choice, Parameter, Space
from automl.search.cube import at, unit
from automl.search.encoding import Encoding
from automl.search.history import blank_trial
from automl.search.learnt import LearntSpace
from automl.search.local import MOST_ROWS
from automl.search.observations import TELLING_FAILURES, Curve, Observations
from automl.search.space import from_distribution
from automl.search.warping import finite

#: Curves of completed trials that say how far early values can be trusted, the latest ones: see `fidelity`.
MOST_JUDGES = 200
#: Of trials without a result the latest count.
_MOST_UNFINISHED = 300
#: The latest failures count, as many as there are results, or this many: more of them take time and say little.
_LEAST_FAILED = 50
#: Trials of each combination of parameters that a space is learnt from.
_LEARNT_FROM = 500


@dataclass(frozen=True)
class Details:
    """What a board does not hold, by the trial's number."""

    constraints: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    curves: Mapping[int, Reported] = field(default_factory=dict)  #: of completed trials


def with_result(board: Board) -> np.ndarray:
    """(n,) The trials that the model is made of."""
    return np.flatnonzero(board.counted & ~np.isnan(board.values).any(axis=1))


def representatives(board: Board, encoding: Encoding) -> np.ndarray:
    """(n,) The trials that stand for the study: all with a result, or `MOST_ROWS` of them.

    A third are the best, a third the nearest to the very best, whatever they came to, and a third an even choice from
    the best to the worst. The near ones keep the model honest where people look first: the best of thousands are there
    because of their luck too.
    """
    rows = with_result(board)
    if len(rows) <= MOST_ROWS:
        return rows
    over = np.where(board.feasible[rows], 0.0, np.nan_to_num(board.excess[rows], posinf=1e300))
    order = np.lexsort((finite(board.signs[0] * board.values[rows, 0]), over))
    third = MOST_ROWS // 3
    z = encoding.features(points(board, rows, encoding))
    away = np.square(z - z[order[0]]).sum(axis=1)
    away[order[:third]] = np.inf
    near = np.argpartition(away, third)[:third]
    is_left = np.ones(len(rows), dtype=bool)
    is_left[order[:third]] = is_left[near] = False
    chosen = np.concatenate([order[:third], near, evenly(order[is_left[order]], MOST_ROWS - 2 * third)])
    return rows[np.sort(chosen)]


def judges(board: Board, rows: np.ndarray) -> np.ndarray:
    """Those of `rows` whose curves are wanted; none where no curve without a result could be judged by them."""
    if board.values.shape[1] > 1 or not len(_unfinished(board)):
        return rows[:0]
    return rows[-MOST_JUDGES:]


def observations(board: Board, rows: np.ndarray, encoding: Encoding, details: Details) -> Observations:
    """What the search makes of these trials, of those that failed, and of what others have reported."""
    x = points(board, rows, encoding)
    kept = ~np.isnan(x).all(axis=1)  # one of a space that had other choices has no place in this one
    rows, x = rows[kept], x[kept]
    failed = points(board, _failed(board)[-max(len(rows), _LEAST_FAILED) :], encoding)
    slack = _slack([details.constraints.get(row, {}) for row in rows.tolist()])
    worked = np.where(board.attempt[rows] <= 1, board.duration_s[rows], np.nan)  # else it waited in between
    return Observations(
        encoding=encoding,
        x=x,
        values=board.values[rows] * board.signs,
        slack=np.array(list(slack.values())).reshape(len(slack), len(rows)).T,
        constraint_names=tuple(slack),
        cost=worked,
        failed=failed[~np.isnan(failed).all(axis=1)],
        pending=np.empty((0, encoding.d)),
        curves=_curves(board, dict(zip(rows.tolist(), x, strict=True)), encoding, details),
    )


def points(board: Board, rows: np.ndarray, encoding: Encoding) -> np.ndarray:
    """(n, d) NaN where a parameter is inactive; a row of NaN for a trial with a choice that there is no more."""
    x = np.full((len(rows), encoding.d), np.nan)
    is_foreign = np.zeros(len(rows), dtype=bool)
    for j, (name, domain) in enumerate(zip(encoding.names, encoding.domains, strict=True)):
        column = board.params.get(name)
        if column is None:
            continue
        told = ~np.isnan(column.values[rows])
        x[told, j] = _coordinates(domain, column, rows[told])
        is_foreign[told] |= np.isnan(x[told, j])
    x[is_foreign] = np.nan
    return x


def _coordinates(domain: Any, column: Column, rows: np.ndarray) -> np.ndarray:
    """(n,) The coordinates of a parameter of trials that have it; NaN for what is no choice of the domain."""
    values = column.values[rows]
    is_choice = hasattr(domain, "choices")
    if column.choices is None and not is_choice and domain.step is None and domain.low < domain.high:
        values = np.clip(values, domain.low, domain.high)  # a continuum, in one breath
        if domain.log:
            low, high = np.log(domain.low), np.log(domain.high)
            return np.clip((np.log(values) - low) / (high - low), 0.0, 1.0)
        return np.clip((values / 2 - domain.low / 2) / (domain.high / 2 - domain.low / 2), 0.0, 1.0)
    different, which = np.unique(values, return_inverse=True)
    told = different.tolist() if column.choices is None else [column.choices[int(place)] for place in different]
    if is_choice:
        return np.array([unit(domain, v) if v in domain.choices else np.nan for v in told], dtype=float)[which]
    numbers = [v if isinstance(v, int | float) else np.nan for v in told]
    return np.array([unit(domain, v) if v == v else np.nan for v in numbers], dtype=float)[which]


def _failed(board: Board) -> np.ndarray:
    """Trials whose parameters are to blame for having no result: a lost machine says nothing of them."""
    telling = [place for place, kind in enumerate(FAILURES) if FailureKind(kind) in TELLING_FAILURES]
    failed = board.is_in(TrialState.FAILED) & np.isin(board.failure, telling)
    nothing = board.is_in(TrialState.COMPLETE) & np.isnan(board.values).any(axis=1)
    return np.flatnonzero((failed | nothing) & ~board.invalid)


def _unfinished(board: Board) -> np.ndarray:
    """Trials that reported something and have no result."""
    open_ended = board.is_in(TrialState.PRUNED, TrialState.RUNNING, TrialState.PAUSED) & ~board.invalid
    return np.flatnonzero(open_ended & (board.step >= 0) & np.isfinite(board.last_value))[-_MOST_UNFINISHED:]


def _curves(
    board: Board, completed: Mapping[int, np.ndarray], encoding: Encoding, details: Details
) -> tuple[Curve, ...]:
    """By the trial's number: of unfinished ones the last report, all that anybody looks at, of the judges all."""
    if board.values.shape[1] > 1:
        return ()
    sign = board.signs[0]
    found: dict[int, Curve] = {}
    rows = _unfinished(board)
    is_over = board.is_in(TrialState.PRUNED)
    for row, x in zip(rows.tolist(), points(board, rows, encoding), strict=True):
        last = np.array([float(board.step[row])]), np.array([sign * board.last_value[row]])
        if not np.isnan(x).all():
            found[row] = Curve(x, *last, bool(is_over[row]))
    for number, curve in details.curves.items():
        usable = np.isfinite(curve.values)
        if number in completed and usable.any():
            steps = curve.steps[usable].astype(float)
            found[number] = Curve(completed[number], steps, sign * curve.values[usable], True)
    return tuple(found[number] for number in sorted(found))


def _slack(told: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    names = sorted({name for constraints in told for name in constraints})
    return {name: [constraints.get(name, np.nan) for constraints in told] for name in names}


def evenly(order: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of `order`, its ends among them."""
    if len(order) <= limit:
        return order
    return order[np.linspace(0, len(order) - 1, limit).round().astype(int)]


# -- spaces that nobody declared ---------------------------------------------------------------------------------------


def learnt_space(board: Board, distributions: Mapping[str, Any]) -> Space | None:
    """The space that the trials were drawn from, with the conditions that they show; None before the first one ended.

    `distributions`: the newest of each parameter, Optuna's. What some trials lack without a visible condition is taken
    to be always there.
    """
    over = np.flatnonzero(board.is_in(TrialState.COMPLETE, TrialState.PRUNED))
    columns = {name: board.params[name] for name in distributions if name in board.params}
    if not len(over) or not columns:
        return None
    has = np.stack([~np.isnan(column.values[over]) for column in columns.values()], axis=1)
    _, which = np.unique(has, axis=0, return_inverse=True)
    drawn = []
    for pattern in range(int(which.max()) + 1):
        for row in evenly(over[which.ravel() == pattern], _LEARNT_FROM).tolist():
            there = {name: column for name, column in columns.items() if not np.isnan(column.values[row])}
            params = {name: column.at(row) for name, column in there.items()}
            trial = blank_trial(row, OptunaState.COMPLETE)
            trial.params, trial.distributions = params, {name: distributions[name] for name in params}
            drawn.append(trial)
    encoding = LearntSpace().after(sorted(drawn, key=lambda trial: trial.number))
    if encoding is None:
        return None
    parameters: dict[str, Parameter] = {}
    for name, domain, conditions in zip(encoding.names, encoding.domains, encoding.conditions, strict=True):
        when = {
            encoding.names[parent]: [at(encoding.domains[parent], place) for place in places.tolist()]
            for parent, places in conditions
        }
        parameter = from_distribution(domain)
        if isinstance(parameter, Choice):
            parameters[name] = Choice(*parameter.choices, when=when or None)
        else:
            parameters[name] = replace(parameter, when=when or None)
    return Space(parameters)
