"""Learning curves: what pruned and running trials tell the model.

| symbol  | shape  | meaning                                                                           |
|---------|--------|-----------------------------------------------------------------------------------|
| step    |        | how far a trial was when it reported                                              |
| rungs   | (q,)   | rising steps, each three times the one before; the last one is the maximal step   |
| early   | (n, q) | values of completed trials at the rungs, NaN where they did not report            |
| results | (n,)   | what these trials returned                                                        |
| x       | (r, d) | points of the rows that curves add (see `encoding`)                               |
| level   | (r,)   | log step / log maximal step: 0 at the first step, 1 at full fidelity              |
| values  | (r,)   | what was reported there, small is good                                            |
| z       | (m, p) | features of points; the level is one more feature of the model                    |

The level has a lengthscale of its own in the model's kernel, and a point is judged by what the model says of it at
level 1. That is freeze-thaw optimisation (Swersky, Snoek and Adams 2014, 1406.3896) with a stationary kernel over the
log of the step, which suits many kinds of curves, in place of theirs, which suits exponential decay.

Early values may mislead: warm-up, slow starters, reports of another quantity than the result. So none is taken on
trust. A rung counts only while its values rank the completed trials as their results do, more or less; and no rung
counts where what is reported at the end is not what is returned. A completed trial is worth its result, never its last
report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automl.declaration import Fidelity
from automl.search.encoding import Encoding
from automl.search.gp import Data, GaussianProcess
from automl.search.observations import Curve, Observations
from automl.search.warping import finite

#: Rows that curves may add: the time for a fit grows with the cube of all rows.
MAX_ROWS = 100
#: Of these, early values of completed trials: they teach the model how levels are related. A third is enough, and half
#: the rows or no such rows are worse (docs/log.md).
_MAX_EARLY_ROWS = 33
#: Rungs are this factor apart, as those of the pruners.
_ETA = 3.0
#: A rung closer to the maximal step says nothing that the result does not.
_LEAST_GAP = 1.5
#: Of each kind only the latest trials are looked into, so that the time for a suggestion is bounded.
_MAX_UNFINISHED, _MAX_JUDGES = 1000, 200
#: A rung is trusted above this rank correlation with the results of so many completed trials.
_LEAST_CORRELATION, _LEAST_JUDGES = 0.3, 5
#: The last report may be away from the result by this share of the spread of results. An accuracy is further from a
#: loss; the best epoch's value is closer to the last one's.
_MAX_DISAGREEMENT = 0.25


@dataclass(frozen=True)
class CurveRows:
    """What curves add to the model; symbols as above."""

    x: np.ndarray
    level: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def join(self, full: Data, encoding: Encoding, y: np.ndarray) -> Data:
        """The rows of `full`, which are at level 1, and behind them these, with targets `y` (r,)."""
        return Data(
            np.concatenate([at_level(full.z, 1.0), at_level(encoding.features(self.x), self.level)]),
            np.concatenate([full.y, y]),
            np.append(full.group, full.d),
            np.append(full.repeats, np.ones(len(self))),
        )


def curve_rows(o: Observations, fidelity: Fidelity | None = None) -> CurveRows:
    """What the curves of `o` say beyond its results: at most `MAX_ROWS` rows, none where they cannot be trusted.

    Trials without a result give their last value at their step: the deepest and the best ones, and an even choice of
    the others. Some completed trials give their values at the rungs. Without a `fidelity` the maximal step is the
    largest one that a completed trial has reported, and steps are counted from 1 where they begin at 0.
    """
    none = CurveRows(np.empty((0, o.encoding.d)), np.empty(0), np.empty(0))
    if o.values.shape[1] != 1:
        return none
    results = _results(o)
    over = results.keys() | {x.tobytes() for x in o.failed}
    points = [curve.x.tobytes() for curve in o.curves]
    unfinished = [c for c, point in zip(o.curves, points, strict=True) if point not in over][-_MAX_UNFINISHED:]
    completed = [c for c, point in zip(o.curves, points, strict=True) if point in results][-_MAX_JUDGES:]
    if not unfinished or len(completed) < _LEAST_JUDGES:
        return none
    ladder = _ladder(completed, fidelity)
    if ladder is None:
        return none
    steps, early = ladder.read(completed)
    final = np.array([results[curve.x.tobytes()] for curve in completed])
    trusted = _trusted(early, final)
    found = _last_values(unfinished, ladder, trusted)
    if not found:
        return none
    judged = np.flatnonzero(trusted[:-1])  # the last rung is the result's
    for i in _evenly(np.argsort(final, kind="stable"), _MAX_EARLY_ROWS // max(1, judged.size)):
        found += [(completed[i].x, steps[i, k], early[i, k]) for k in judged if math.isfinite(early[i, k])]
    x, at, values = zip(*found, strict=True)
    return CurveRows(np.array(x), ladder.level(np.array(at)), np.array(values))


def _results(o: Observations) -> dict[bytes, float]:
    """The mean result at each point."""
    found: dict[bytes, list[float]] = {}
    for x, value in zip(o.x, o.values[:, 0].tolist(), strict=True):
        found.setdefault(x.tobytes(), []).append(value)
    return {point: sum(values) / len(values) for point, values in found.items()}


# -- steps ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ladder:
    """The rungs (q,), counted from 1; a step of the user's is `shift` lower."""

    rungs: np.ndarray
    shift: int

    def level(self, steps: np.ndarray) -> np.ndarray:
        """(r,) of `steps` (r,); beyond the maximal step it is 1."""
        return np.clip(np.log(np.maximum(steps + self.shift, 1.0)) / math.log(self.rungs[-1]), 0.0, 1.0)

    def reached(self, step: float) -> int:
        """The last rung that is not beyond `step`, -1 before the first."""
        return int(np.searchsorted(self.rungs, step + self.shift, side="right")) - 1

    def read(self, curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values (n, q) of the last reports at each rung, none from an earlier rung; NaN where there is none.

        At the last rung the last report counts, even one beyond the maximal step.
        """
        shape = len(curves), len(self.rungs)
        steps, values = np.full(shape, np.nan), np.full(shape, np.nan)
        below = np.concatenate([[0.0], self.rungs[:-1]]) - self.shift
        until = np.append(self.rungs[:-1], np.inf) - self.shift
        for i, curve in enumerate(curves):
            last = np.searchsorted(curve.steps, until, side="right") - 1
            told = (last >= 0) & (curve.steps[last] > below)
            steps[i, told], values[i, told] = curve.steps[last[told]], curve.values[last[told]]
        return steps, values


def _ladder(completed: Sequence[Curve], fidelity: Fidelity | None) -> _Ladder | None:
    """None where there is one step only."""
    if fidelity is not None:
        first, last, shift = float(fidelity.min), float(fidelity.max), 0
    else:
        begins = min(float(curve.steps[0]) for curve in completed)
        shift = int(begins < 1.0)
        first, last = max(begins + shift, 1.0), max(float(curve.steps[-1]) for curve in completed) + shift
    if last < 2.0:
        return None
    rungs = []
    while first * _LEAST_GAP <= last:
        rungs.append(first)
        first *= _ETA
    return _Ladder(np.array([*rungs, last]), shift)


# -- trust ---------------------------------------------------------------------------------------------------------


def _trusted(early: np.ndarray, results: np.ndarray) -> np.ndarray:
    """(q,) Which rungs tell the results. None does where the last reports are another quantity than the results."""
    told = np.isfinite(early)
    trusted = np.array(
        [
            has.sum() >= _LEAST_JUDGES and spearman(values[has], results[has]) > _LEAST_CORRELATION
            for has, values in zip(told.T, early.T, strict=True)
        ]
    )
    if trusted[-1]:
        results = finite(results)
        low, high = np.quantile(results, [0.1, 0.9])
        last = told[:, -1]
        away = np.abs(finite(early[last, -1]) - results[last])
        if float(np.median(away)) <= _MAX_DISAGREEMENT * (high - low):
            return trusted
    return np.zeros_like(trusted)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """The rank correlation of `a` and `b` (n,); 0 where one of them is constant."""
    ranks = [_ranks(a), _ranks(b)]
    p, q = (rank - rank.mean() for rank in ranks)
    scale = math.sqrt(float(p @ p) * float(q @ q))
    return float(p @ q) / scale if scale > 0.0 else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """(n,) Ranks, equal ones averaged."""
    _, which, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - 0.5 * (count - 1.0))[which]


# -- choice --------------------------------------------------------------------------------------------------------


def _last_values(unfinished: Sequence[Curve], ladder: _Ladder, trusted: np.ndarray) -> list[tuple]:
    """(point, step, value) of those trials that have reached a rung which is trusted."""
    at = [ladder.reached(curve.steps[-1]) for curve in unfinished]
    told = [
        (rung, curve)
        for rung, curve in zip(at, unfinished, strict=True)
        if rung >= 0 and trusted[rung] and math.isfinite(curve.values[-1])
    ]
    if not told:
        return []
    order = np.lexsort(([curve.values[-1] for _, curve in told], [-rung for rung, _ in told]))
    limit = MAX_ROWS - _MAX_EARLY_ROWS
    first, others = order[: limit // 2], order[limit // 2 :]
    chosen = [told[i][1] for i in (*first, *_evenly(others, limit - limit // 2))]
    return [(curve.x, float(curve.steps[-1]), float(curve.values[-1])) for curve in chosen]


def _evenly(order: np.ndarray, limit: int) -> np.ndarray:
    """At most `limit` of `order`, its ends among them."""
    if len(order) <= limit:
        return order
    return order[np.linspace(0, len(order) - 1, limit).round().astype(int)]


# -- the model -----------------------------------------------------------------------------------------------------


def at_level(z: np.ndarray, level: float | np.ndarray) -> np.ndarray:
    """Features (m, p + 1): `z` (m, p) and the level, one for all or (m,)."""
    return np.concatenate([z, np.broadcast_to(level, len(z))[:, None]], axis=1)


class AtFullFidelity:
    """A surrogate over points: a model over points and levels, asked at level 1.

    `fitted` (k, n): its means at the first `n` observed points, those at level 1.
    """

    def __init__(self, model: GaussianProcess, n: int):
        self._model = model
        self.fitted = model.fitted[:, :n]

    def given(self, z: np.ndarray) -> AtFullFidelity:
        """When points `z` (q, p) are under evaluation, to their last step; see `GaussianProcess.given`."""
        model = self._model.given(at_level(z, 1.0))
        posterior = AtFullFidelity(model, 0)
        at_z = model.fitted[:, model.fitted.shape[1] - len(z) :]
        posterior.fitted = np.concatenate([self.fitted, at_z], axis=1)
        return posterior

    def predict(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (k, m) at features `z` (m, p)."""
        return self._model.predict(at_level(z, 1.0))

    def predict_with_gradient(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`predict`, and the gradients with respect to z, (k, m, p) each."""
        mean, sd, mean_slope, sd_slope = self._model.predict_with_gradient(at_level(z, 1.0))
        return mean, sd, mean_slope[..., :-1], sd_slope[..., :-1]
