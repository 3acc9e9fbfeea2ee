"""Which of a few candidates is truly the best, by runs with fresh seeds, and whose turn it is to run next.

| symbol | shape  | meaning                                                                      |
|--------|--------|------------------------------------------------------------------------------|
| n      | (k,)   | finished runs of each candidate                                              |
| r      | (k,)   | their means; values are turned so that small is good                         |
| ss     |        | sum of squared distances of runs from the mean of their candidate            |
| df     |        | how many such distances are free: runs less candidates                       |
| s      |        | standard deviation of the runs of one candidate, the same for all: the noise |
| tau    |        | standard deviation of the candidates' true means                             |
| mu     | (k,)   | the true means, which is what one wants to know                              |
| m      |        | their centre                                                                 |
| draws  | (d, k) | samples of mu from their posterior                                           |

The model is the normal one with random effects: a run is N(mu_i, s^2), a candidate's mean N(m, tau^2), with p(m) flat,
p(s) = 1/s, and tau half-Cauchy with the scale of the noise (Gelman 2006, Prior distributions for variance parameters in
hierarchical models). s and tau are integrated over a grid, so that the means have the heavy tails of Student's t; the
means of the candidates are drawn towards each other, the more so the less their runs tell them apart. That is what
corrects the winner's luck in the race itself. What the search saw is no data here: its best values were picked for
being good, and may be of other data (`Study(evaluate=...)`).

The next run goes to the candidate that seems best or to the one that is hardest to tell from it, in the proportion of
OCBA (Chen et al. 2000, Simulation budget allocation for further enhancing the efficiency of ordinal optimization);
runs that are still pending count as if they had narrowed what is known already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtri

from automl.core import Attr, Estimate, FailureKind
from automl.declaration import Direction, Race

Array = NDArray[np.float64]

#: Each candidate runs so often before any is preferred: the noise is known from differences between equal runs.
FIRST_RUNS = 2
#: No end before the noise is known from so many differences, unless there is none.
LEAST_DF = 4
#: A candidate is not worth its first runs when it is the best with less than this probability.
HOPELESS = 0.01
#: Candidates that differ by less than this share of the noise are as good as each other.
MARGIN = 0.25
#: A candidate drops out when so many more of its runs have failed than have worked.
FAILED_TOO_OFTEN = 2

_FAILURES = frozenset(FailureKind)

_DRAWS = 8192
#: Cells of the grid for s and tau, and how far s may be from its estimate (natural logarithms): with one free
#: difference the noise may well be fifty times what it seems.
_CELLS_S, _CELLS_TAU = 40, 48
_S_BELOW, _S_ABOVE = 2.5, 4.5
_TAIL = 0.025


@dataclass(frozen=True, slots=True)
class Runs:
    """What has become of a candidate's runs so far."""

    values: tuple[float, ...] = ()  #: of those that completed
    failed: int = 0
    pending: int = 0  #: running, or waiting to run

    @property
    def out(self) -> bool:
        """Whether it fails too often to be of use."""
        return self.failed - len(self.values) >= FAILED_TOO_OFTEN

    @property
    def counted(self) -> int:
        return len(self.values) + self.pending


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of a candidate, in the metric's own units."""

    mean: float
    sd: float
    low: float  #: of the 95 % interval
    high: float
    p_best: float  #: that no other one is better


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the runs so far say."""

    standings: tuple[Standing | None, ...]  #: one for each candidate; None: nothing is known, or it is out
    leader: int
    p_worse: float  #: that another is better than the leader by more than `MARGIN` of the noise
    df: int
    exact: bool  #: equal runs give equal values: there is no noise

    @property
    def p_best(self) -> float:
        """The leader's."""
        standing = self.standings[self.leader]
        assert standing is not None
        return standing.p_best


@dataclass(frozen=True, slots=True)
class Turn:
    """Whose run is next; None: the race is over, and `reason` says why."""

    candidate: int | None
    reason: str = ""


def judge(runs: Sequence[Runs], direction: Direction) -> Verdict | None:
    """What `runs` say of each candidate; None while no candidate that counts has run twice."""
    known = [i for i, item in enumerate(runs) if not item.out]
    sign = 1.0 if direction == "min" else -1.0
    values = [sign * np.asarray(runs[i].values, dtype=float) for i in known]
    df = sum(max(len(item) - 1, 0) for item in values)
    if df == 0:
        return None
    ss = sum(float(np.sum((item - item.mean()) ** 2)) for item in values if len(item))
    # Equal runs have equal values to the last bit; their mean may not.
    exact = all(np.ptp(item) == 0.0 for item in values if len(item))
    standings: list[Standing | None] = [None] * len(runs)
    if exact:
        firsts = {i: float(item[0]) for i, item in zip(known, values, strict=True) if len(item)}
        best = min(firsts.values())
        for i, value in firsts.items():
            standings[i] = Standing(sign * value, 0.0, sign * value, sign * value, float(value == best))
        leader = min(firsts, key=lambda i: firsts[i])
        return Verdict(tuple(standings), leader, 0.0, df, exact=True)
    counts = np.array([len(item) for item in values])
    means = np.array([item.mean() if len(item) else 0.0 for item in values])
    draws, noise = _draws(counts, means, ss, df)
    best_of = np.bincount(draws.argmin(axis=1), minlength=len(known)) / len(draws)
    for i, samples, p_best in zip(known, draws.T, best_of, strict=True):
        ends = np.quantile(samples, [_TAIL, 1.0 - _TAIL])
        low, high = sorted(map(float, sign * ends))
        standings[i] = Standing(sign * float(samples.mean()), float(samples.std()), low, high, float(p_best))
    leader = int(best_of.argmax())
    ahead = draws[:, leader] - draws.min(axis=1) > MARGIN * noise
    return Verdict(tuple(standings), known[leader], float(ahead.mean()), df, exact=False)


def turn(runs: Sequence[Runs], direction: Direction, sure: float, names: Sequence[int]) -> Turn:
    """Which candidate is to run next. A pure function, so that a race goes on after a crash as it would have gone.

    `sure` is the probability of being the best that ends the race, `names` the trials' numbers for the reason.
    Candidates come in the order of what the search saw, which is the order of their first runs.
    """
    able = [i for i, item in enumerate(runs) if not item.out]
    if not able:
        return Turn(None, "every candidate fails")
    verdict = judge(runs, direction)
    hopeful = [i for i in able if not _hopeless(verdict, i)]
    if verdict is not None and all(len(runs[i].values) >= FIRST_RUNS for i in hopeful):
        reason = _over(verdict, sure, names)
        if reason is not None:
            return Turn(None, reason)
    first = [i for i in hopeful if runs[i].counted < FIRST_RUNS]
    if first or verdict is None or verdict.exact:  # without noise there is nothing to weigh
        return Turn(min(first or able, key=lambda i: runs[i].counted))
    return Turn(_separating(runs, verdict))


def runs_of(race: Race, trials: Sequence[FrozenTrial], but: int | None = None) -> tuple[Runs, ...]:
    """What has become of each candidate in the trials of a confirmation; trial `but` does not count.

    A run that was cancelled or marked as invalid says nothing of its candidate.
    """
    found = {candidate.number: Runs() for candidate in race.candidates}
    for trial in trials:
        number = trial.system_attrs.get(Attr.CANDIDATE)
        if trial.number == but or number not in found:
            continue
        known = found[number]
        if not trial.state.is_finished():
            found[number] = Runs(known.values, known.failed, known.pending + 1)
        elif trial.state is TrialState.COMPLETE and trial.values and math.isfinite(trial.values[0]):
            found[number] = Runs((*known.values, float(trial.values[0])), known.failed, known.pending)
        elif trial.state is not TrialState.FAIL or trial.system_attrs.get(Attr.FAILURE_KIND) in _FAILURES:
            found[number] = Runs(known.values, known.failed + 1, known.pending)
    return tuple(found.values())


def estimates(race: Race, trials: Sequence[FrozenTrial], direction: Direction) -> Mapping[int, Estimate]:
    """What the trials of a confirmation say of each candidate that has run, by its number; {} when it is too little."""
    runs = runs_of(race, trials)
    verdict = judge(runs, direction)
    if verdict is None:
        return {}
    found = {}
    for candidate, item, standing in zip(race.candidates, runs, verdict.standings, strict=True):
        if standing is not None and item.values:
            found[candidate.number] = Estimate(
                observed=candidate.value,
                value=standing.mean,
                low=standing.low,
                high=standing.high,
                p_best=standing.p_best,
                runs=len(item.values),
                held_out=race.held_out,
            )
    return found


def _hopeless(verdict: Verdict | None, i: int) -> bool:
    if verdict is None or verdict.exact:
        return False
    standing = verdict.standings[i]
    return standing is not None and standing.p_best < HOPELESS


def _over(verdict: Verdict, sure: float, names: Sequence[int]) -> str | None:
    """Why more runs are not worth it; None when they are."""
    name = names[verdict.leader]
    if verdict.exact:
        return f"trial {name} is the best: the same parameters give the same value with every seed"
    if verdict.df < LEAST_DF:
        return None
    if verdict.p_best >= sure:
        return f"trial {name} is the best with P = {_probability(verdict.p_best)}"
    if verdict.p_worse <= 1.0 - sure:
        close = f"by more than {MARGIN:g} of the noise"
        return f"trial {name}: another one is better {close} with P = {_probability(verdict.p_worse)} only"
    return None


def _probability(p: float) -> str:
    """Two digits, and never 1.00 for what is not certain."""
    return f"{min(p, 0.99):.2f}" if p < 1.0 else "1.00"


def _separating(runs: Sequence[Runs], verdict: Verdict) -> int:
    """The leader, or who is the hardest to tell from it."""
    ahead = verdict.leader

    def variance(i: int) -> float:
        """What it will be when the pending runs are over."""
        standing, done = verdict.standings[i], len(runs[i].values)
        assert standing is not None
        return standing.sd**2 * max(done, 1) / max(done + runs[i].pending, 1)

    def gap(i: int) -> float:
        """In standard deviations."""
        mine, best = verdict.standings[i], verdict.standings[ahead]
        assert mine is not None and best is not None
        return abs(mine.mean - best.mean) / math.sqrt(variance(i) + variance(ahead))

    others = [i for i, standing in enumerate(verdict.standings) if standing is not None and i != ahead]
    if not others or runs[ahead].counted ** 2 < sum(runs[i].counted ** 2 for i in others):
        return ahead
    return min(others, key=gap)


def _draws(counts: NDArray[np.int64], means: Array, ss: float, df: int) -> tuple[Array, Array]:
    """(d, k) samples of the true means and (d,) of the noise, always the same ones for the same runs."""
    seen = counts > 0
    centre = float(means[seen].mean())
    means = np.where(seen, means - centre, 0.0)
    guess = math.sqrt(ss / df)
    spread = max(float(np.ptp(means[seen])), guess)
    s = guess * np.exp(np.linspace(-_S_BELOW, _S_ABOVE, _CELLS_S))[:, None]
    tau = np.exp(np.linspace(math.log(0.01 * guess), math.log(10.0 * spread), _CELLS_TAU))[None, :]
    # (s, tau, candidates that have run)
    variance = tau[..., None] ** 2 + s[..., None] ** 2 / counts[seen]
    weight = 1.0 / variance
    total = weight.sum(axis=-1)
    middle = (weight * means[seen]).sum(axis=-1) / total
    misfit = (weight * (means[seen] - middle[..., None]) ** 2).sum(axis=-1)
    log_likelihood = -0.5 * (np.log(variance).sum(axis=-1) + np.log(total) + misfit)
    log_likelihood += -df * np.log(s) - 0.5 * ss / s**2
    # Densities over the logarithms: 1/s is flat there, the half-Cauchy has a factor tau.
    log_posterior = log_likelihood + np.log(tau / s) - np.log1p((tau / s) ** 2)
    p = np.exp(log_posterior - log_posterior.max()).ravel()
    levels = (np.arange(_DRAWS) + 0.5) / _DRAWS
    cells = np.minimum(np.searchsorted(np.cumsum(p) / p.sum(), levels), p.size - 1)
    s, tau = (np.broadcast_to(grid, (_CELLS_S, _CELLS_TAU)).ravel()[cells] for grid in (s, tau))
    z = _normals(len(counts) + 1)
    m = middle.ravel()[cells] + z[:, 0] / np.sqrt(total.ravel()[cells])
    trust = counts * tau[:, None] ** 2 / (counts * tau[:, None] ** 2 + s[:, None] ** 2)
    sd = tau[:, None] * np.sqrt(1.0 - trust)
    return centre + trust * means + (1.0 - trust) * m[:, None] + sd * z[:, 1:], s


def _normals(columns: int) -> Array:
    """(d, columns) normal numbers, each column a shuffled list of quantiles: their means are exact."""
    random = np.random.default_rng(0)
    quantiles = ndtri((np.arange(_DRAWS) + 0.5) / _DRAWS)
    return np.column_stack([random.permutation(quantiles) for _ in range(columns)])
