"""What the study's trials say of a point that nobody has tried: the sampler's posterior, for people.

| symbol | shape  | meaning                                                   |
|--------|--------|-----------------------------------------------------------|
| x      | (m, d) | points of the unit cube, NaN where a parameter is inactive |
| z      | (m, p) | their features (see `encoding`)                           |

A prediction is of the function behind the results, without their noise, as the ones in `automl:why` are. What is under
evaluation counts for nothing yet: it makes the search look elsewhere, and nobody wiser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import ndtr

from automl.board import Board, Prediction
from automl.declaration import Fidelity, Space
from automl.errors import InvalidInput
from automl.search import gp, seen
from automl.search.cube import at, count, point
from automl.search.encoding import Encoding
from automl.search.proposal import STARTUP_RESULTS, Fits, Model, Request
from automl.search.transfer import Transfer
from automl.search.warping import standardise

#: Hyperparameters that no suggestion has noted are fitted to so many results, an even choice of those the model sees:
#: the time for a fit grows with the cube of its rows, and they need fewer than the predictions do. Curves add rows.
FIT_ROWS, FIT_ROWS_WITH_CURVES = 100, 50
#: Values of one parameter in a surface: a line through so many looks smooth.
SIZE = 40


@dataclass(frozen=True, eq=False)
class Surface:
    """Predictions along one parameter or over two, of s and t values."""

    names: tuple[str, ...]
    axes: tuple[tuple[Any, ...], ...]  #: the values of each parameter; numbers rise
    mean: np.ndarray  #: (s,) or (s, t), in units of the first metric
    sd: np.ndarray  #: of the same shape


@dataclass(frozen=True)
class Known:
    """What there is besides the board and the space."""

    details: seen.Details = field(default_factory=seen.Details)
    fits: Fits = field(default_factory=dict)  #: hyperparameters by the name of their model, taken as they are
    fidelity: Fidelity | None = None  #: what the steps of reports are
    transfer: Transfer | None = None  #: past studies


def require(board: Board) -> None:
    """Raises `InvalidInput` while there are too few results for a prediction."""
    found = len(seen.with_result(board))
    if found < STARTUP_RESULTS:
        problem = f"study {board.study.name!r} has {found} complete trials, a prediction needs {STARTUP_RESULTS}"
        raise InvalidInput(f"study: {problem}; let it run a little longer", "study")


class Posterior:
    """What is expected of any point of a space, by the trials of a board. Never changes.

    `fits` are its hyperparameters: given to the next one, they spare it the fitting.
    """

    def __init__(self, board: Board, space: Space, rows: np.ndarray, known: Known):
        """`rows` (n,) stand for the study, see `seen.representatives`; at least one is inside of the space."""
        self._space = space
        self._encoding = Encoding.of(space)
        self._sign = float(board.signs[0])
        fits = known.fits
        few = seen.evenly(rows, FIT_ROWS_WITH_CURVES if known.details.curves else FIT_ROWS)
        if len(few) < len(rows):
            fits = self._fitted(board, few, known, fits)
        self.fits = self._fitted(board, rows, known, fits)

    def _fitted(self, board: Board, rows: np.ndarray, known: Known, fits: Fits) -> Fits:
        """Make the models of these trials; the hyperparameters that they have."""
        o = seen.observations(board, rows, self._encoding, known.details)
        if not len(o.x):
            raise InvalidInput("study: none of its results is inside of the space", "study")
        asked = Request(0, 0, fidelity=known.fidelity, transfer=known.transfer, fits=fits, refit=False)
        model = Model(o, asked)
        self._objective, self._warp = model.objective()
        self._chances = model.chances()
        told = o.cost > 0.0
        self._minutes: gp.GaussianProcess | None = None
        self._log_s: tuple[float, float] | None = None  # log seconds = the first, plus the second times the target
        if told.any():
            y, shift, scale = standardise(np.log(o.cost[told]))
            self._log_s = shift, scale
            if told.sum() >= STARTUP_RESULTS:
                self._minutes = model.over("minutes", o.x[told], y)
        return model.fits

    def predict(self, points: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """What is expected of each of these points, of which only the active parameters count.

        The mean is the median of what is believed, and the standard deviation half of the width of the middle 68 %:
        the targets of the model are not on the scale of the metric (see `warping`). `feasible` is the probability of a
        result that keeps its constraints, None where all trials had one and there are no constraints; `minutes` is the
        median.

        Raises `InvalidInput` for an unknown parameter, a value outside, and a missing one.
        """
        if not points:
            return []
        z = self._encoding.features(self._encoding.encode([self._active(params) for params in points]))
        mean, sd = self._measured(z)
        feasible = np.exp(np.sum([chance.value(z) for chance in self._chances], axis=0)) if self._chances else None
        minutes = self._minutes_at(z)
        return [
            Prediction(
                float(mean[i]),
                float(sd[i]),
                None if feasible is None else float(feasible[i]),
                None if minutes is None else float(minutes[i]),
            )
            for i in range(len(points))
        ]

    def surface(self, fixed: Mapping[str, Any], names: str | tuple[str, str], size: int = SIZE) -> Surface:
        """Predictions along one parameter or over two, at `size` values of each that has as many.

        `fixed` gives the others their values, those that a condition switches on along the way too; what it does not
        give is in the middle of its range. Raises `InvalidInput`.
        """
        asked = (names,) if isinstance(names, str) else tuple(names)
        others = {name: value for name, value in fixed.items() if name not in asked}
        self._space.check(others, partial=True)
        for name in asked:
            if name not in self._space:
                raise InvalidInput(f"names: there is no parameter {name!r}; name one of {list(self._space)}", "names")
        if len(set(asked)) != len(asked) or len(asked) > 2 or size < 2:
            raise InvalidInput("names: give one parameter or two different ones, and a size of 2 or more", "names")
        axes = tuple(_values(self._space[name], size) for name in asked)
        shape = tuple(len(axis) for axis in axes)
        x = np.repeat(self._encoding.encode([others]), int(np.prod(shape)), axis=0)
        places = np.meshgrid(*map(np.arange, shape), indexing="ij")
        for name, axis, place in zip(asked, axes, places, strict=True):
            on_axis = self._encoding.encode([{name: value} for value in axis])[:, self._encoding.names.index(name)]
            x[:, self._encoding.names.index(name)] = on_axis[place.ravel()]
        x = self._encoding.snap(x)
        for name in asked:
            if np.isnan(x[:, self._encoding.names.index(name)]).all():
                raise InvalidInput(f"names: {name!r} is not active at this point; name one that is", "names")
        mean, sd = self._measured(self._encoding.features(x))
        return Surface(asked, axes, mean.reshape(shape), sd.reshape(shape))

    def p_better(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> float:
        """The probability that more is to be expected of the point `new` than of `old`.

        As if what is believed of the two were independent. It goes together, so that this is nearer to one half. Raises
        as `predict`.
        """
        z = self._encoding.features(self._encoding.encode([self._active(params) for params in (old, new)]))
        mean, sd = self._objective.predict(z)  # on the model's own scale, where the beliefs are normal
        return float(ndtr((mean[:, 0] - mean[:, 1]) / np.hypot(sd[:, 0], sd[:, 1])).mean())

    def _active(self, params: Mapping[str, Any]) -> dict[str, Any]:
        self._space.check({name: value for name, value in params.items() if name not in self._space}, partial=True)
        return self._space.check(self._space.active(params))

    def _measured(self, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (m,) in units of the metric."""
        mean, sd = self._warp.measured(*(draws.mean(axis=0) for draws in self._objective.predict(z)))
        return self._sign * mean, sd

    def _minutes_at(self, z: np.ndarray) -> np.ndarray | None:
        """(m,) None while no trial that did not wait has ended."""
        if self._log_s is None:
            return None
        shift, scale = self._log_s
        y = np.zeros(len(z)) if self._minutes is None else self._minutes.predict(z)[0][0]
        return np.asarray(np.exp(shift + scale * y) / 60.0)


def _values(domain: Any, size: int) -> tuple[Any, ...]:
    """All values of a parameter with few of them, else `size` evenly on its scale."""
    if hasattr(domain, "choices"):
        return tuple(domain.choices)
    n = count(domain)
    if n is not None and n <= size:
        return tuple(point(domain, k) for k in range(n))
    return tuple(dict.fromkeys(at(domain, u) for u in np.linspace(0.0, 1.0, size).tolist()))
