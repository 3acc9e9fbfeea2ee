"""What more trials will bring: the gain to expect, and the chance that it is worth mentioning.

| symbol  | shape | meaning                                                                              |
|---------|-------|--------------------------------------------------------------------------------------|
| values  | (n,)  | results in the order of their trials, small is good                                  |
| promise |       | what the model expects its best next trial to improve, E[max(best - f, 0)]           |
| h       |       | how many more trials, the horizon                                                    |
| m       |       | a margin: an improvement that is large enough                                        |
| age     |       | trials since the best was worse than it is by more than m; n when it never was       |
| gain    |       | the improvement that h more trials bring                                             |
| odds    |       | P(gain > m) : P(gain <= m)                                                           |

Two witnesses know something of the gain. One is the past: a record that has stood for `age` trials falls within the
next h with odds h : age (Gott's rule, Nature 363, 1993, 315-319, which holds for whatever is watched at no special
time). The other is the model: by Markov's inequality one trial gains more than m with a probability of promise / m at
the most. Alone each is a poor judge. The past does not see that a new region has opened; a model that is wrong sees
much to gain, again and again, where nothing is. Together they are

    odds = RATE (h / age) (promise / m) ^ TRUST

Joint samples of the model at many candidates instead of the promise of one, the dimension and the number of trials
were no better once the age was there (docs/log.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from automl.search.warping import finite

#: Results before there is a forecast.
LEAST_RESULTS = 10
#: How far it looks.
HORIZON = 20
#: A search has converged when the margin is exceeded with less of a chance than this.
CONVERGED_BELOW = 0.05
#: The margin when the user names none, as a share of what the search has gained since its first results ...
MARGIN = 0.01
#: ... and the least margin, below which records are counted that nobody has calibrated.
_LEAST_MARGIN = 1e-4
#: The odds where the model promises the margin in one trial, and how far the model is trusted: by the logistic
#: likelihood of what came in runs on 18 tabular tasks, 24 functions and 4 trainings, horizons 1 to 20, margins 0.1 % to
#: 30 % of the gain so far (bench/search/calibration.py measures how they hold). Each kind of task alone gives an
#: exponent of 0.2 to 0.5 and a rate of 0.22 to 0.46; the powers of h and age, when they are free, come out as 0.92 and
#: -0.94, so that the rule needs no constants for them.
_RATE, _TRUST = 0.35, 1.0 / 3.0
#: The mean of the gain is taken up to this share of the gain so far, since the chances fall too slowly for a mean that
#: has no end. In other runs of the same tasks the gains had a mean of .065 of the gain so far, the forecasts of .056,
#: and 73 % of the gains were within the standard deviation where one was likelier than not. With all of the gain so
#: far it is .082 and 85 %, with a quarter .037 and 57 %.
_REACH = 0.5
#: Margins (g,) at which the chance is summed up to a mean, and what each stands for, as shares of the reach: the
#: middles of equal parts of the cube root, since the chance changes most where the margin is small.
_ROOTS = (np.arange(64) + 0.5) / 64
_GRID, _WEIGHTS = _ROOTS**3, 3.0 * _ROOTS**2 / 64


_Number = TypeVar("_Number", float, np.ndarray)


@dataclass(frozen=True)
class Forecast:
    """What `trials` more trials bring: the best improves by `gain`, give or take `sd`, in the units of the metric.

    `p_margin`: the probability that it improves by more than the margin that was asked about.
    """

    trials: int
    gain: float
    sd: float
    p_margin: float


def forecast(
    values: np.ndarray, promise: float, horizon: int = HORIZON, margin: float | None = None
) -> Forecast | None:
    """What `horizon` more trials bring after `values` (n,); None when there are too few of them.

    `promise` >= 0 and `margin` are in the units of the values. Results that do not count, those of trials that violate
    a constraint, are infinite. By default the margin is 1 % of what the search has `gained`; smaller ones than 1 % of
    that again are not told apart.

    The chance falls with the margin and rises with the horizon. The gain is the mean over all margins of the chance
    that they are exceeded, up to half of what the search has gained so far.
    """
    if len(values) < LEAST_RESULTS or np.isposinf(values).all():
        return None
    values = finite(values)
    best, so_far = float(values.min()), gained(values)
    if so_far <= 1e-12 * (1.0 + abs(best)):  # all equal: the model has no unit, and there is nothing but the past
        return Forecast(horizon, 0.0, 0.0, _chance(_RATE * horizon / len(values)))
    wanted = MARGIN * so_far if margin is None else margin
    reach = _REACH * so_far
    margins = np.append(_GRID * reach, max(wanted, _LEAST_MARGIN * so_far))
    with np.errstate(over="ignore"):  # a chance of 1 then
        odds = _RATE * (horizon / _age(values, best, margins)) * (promise / margins) ** _TRUST
    chances = _chance(odds)
    mean = float(_WEIGHTS @ chances[:-1])
    square = float(2.0 * (_WEIGHTS * _GRID) @ chances[:-1])
    sd = np.sqrt(max(square - mean * mean, 0.0))
    return Forecast(horizon, reach * mean, reach * float(sd), float(chances[-1]))


def chance_of(
    values: np.ndarray, known: Forecast, asked: float | None, trials: int, margin: float | None = None
) -> float:
    """The chance that `trials` more than `values` (n,) gain more than `margin`, by what is `known` at the same moment.

    That forecast was `asked` about another margin and looked less far ahead, or further. In the ratio of both odds what
    the model promises drops out. A margin that is None is the default one.
    """
    if not 0.0 < known.p_margin < 1.0:
        return known.p_margin
    values = finite(values)
    best, so_far = float(values.min()), gained(values)
    odds = known.p_margin / (1.0 - known.p_margin) * trials / known.trials
    if so_far > 1e-12 * (1.0 + abs(best)):
        margins = np.array([MARGIN * so_far if wanted is None else wanted for wanted in (asked, margin)])
        margins = np.maximum(margins, _LEAST_MARGIN * so_far)
        old, new = _age(values, best, margins)
        odds *= float(old / new * (margins[0] / margins[1]) ** _TRUST)
    return _chance(odds)


def gained(values: np.ndarray) -> float:
    """What the search with the finite `values` (n,) has gained: from the median of its first results to the best.

    Where most of the first ones are the best, the spread of all of them stands for it; 0 where all are equal.
    """
    best = float(values.min())
    return float(np.median(values[:LEAST_RESULTS])) - best or float(values.max()) - best


def is_converged(forecast: Forecast | None) -> bool:
    """Whether more trials are not worth it."""
    return forecast is not None and forecast.p_margin < CONVERGED_BELOW


def _age(values: np.ndarray, best: float, margins: np.ndarray) -> np.ndarray:
    """(g,) Trials since the best was above `best` by more than each of the `margins` > 0; 1 or more."""
    rising = best - np.minimum.accumulate(values)
    return len(values) - np.searchsorted(rising, -margins)


def _chance(odds: _Number) -> _Number:
    return 1.0 - 1.0 / (1.0 + odds)
