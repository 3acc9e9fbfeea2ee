"""One suggestion: from what the trials said to the next point, and why that one.

| symbol | shape    | meaning                                                                   |
|--------|----------|---------------------------------------------------------------------------|
| x      | (n, d)   | distinct points with a result                                             |
| y      | (n,)     | their targets, standardised, small is good; means where a point has more  |
| z      | (n, p)   | their features                                                            |
| thetas | (k, d+4) | draws of a model's hyperparameters                                        |

Everything here is a pure function of its arguments: the randomness comes from the seed and the trial's number, and the
hyperparameters of earlier fits come from the trials that they were noted in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from automl.core import derived_seed
from automl.declaration import Fidelity
from automl.search import gp
from automl.search.cube import unit
from automl.search.density import promising
from automl.search.encoding import Encoding, distinct, places
from automl.search.fidelity import AtFullFidelity, curve_rows
from automl.search.forecast import HORIZON, forecast
from automl.search.local import MOST_ROWS, Focus, focus, looks_everywhere, rank, visible
from automl.search.observations import Observations
from automl.search.optimize import Effort, maximise
from automl.search.pareto import (
    LogHypervolumeImprovement,
    non_dominated,
    random_weights,
    reference_point,
    scalarisation,
)
from automl.search.terms import Hypervolume, Term, Worth, belief, cheapness, feasibility, improvement
from automl.search.transfer import Ensemble, Transfer
from automl.search.warping import Warp, as_measured, half_rank, standardise

#: Results before a model is asked: fewer say less than a point in an empty corner.
STARTUP_RESULTS = 5
#: Draws of the objective's hyperparameters, the most probable ones among them: many while there are few results, which
#: leave much open, and few when a draw is dear.
MOST_DRAWS, FEWEST_DRAWS, DRAWS_TIMES_RESULTS = 16, 4, 400
#: A model is fitted again when it has this many times the rows; in between its hyperparameters are as good as new ones.
GROWTH = 1.05
#: The model of a region, which moves and shrinks, is fitted again after so many results.
REGION_RESULTS = 10
#: Good points around which the acquisition is searched.
KNOWN = 4
PRIOR = gp.Prior()
EFFORT = Effort()
#: L-BFGS iterations from the prior's mode, and from an earlier fit.
_COLD_ITERATIONS, _WARM_ITERATIONS = 30, 15
#: The user's belief counts in full until there are so many results, then ever less: ten, as in piBO's experiments with
#: budgets of a hundred (Hvarfner et al. 2022, section 5).
_BELIEF_RESULTS = 10.0

#: Name of a model -> its hyperparameters (k, d + 4), and the number of results, or rows, when they were fitted.
Fits = Mapping[str, tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Request:
    """What is asked for: the suggestion for trial `number` of a study with this `seed`."""

    number: int
    seed: int
    n_trials: int | None = None  #: the budget
    fidelity: Fidelity | None = None  #: what the steps of reports are
    transfer: Transfer | None = None  #: past studies
    margin: float | None = None  #: an improvement that is worth more trials, in units of the metric
    fits: Fits = field(default_factory=dict)  #: by earlier suggestions
    refit: bool = True  #: whether a fit becomes too old


@dataclass(frozen=True)
class Proposal:
    """A point `x` (d,), the reasons for it as JSON values, and the fits to note if any of them is new."""

    x: np.ndarray
    why: dict[str, Any]
    fits: Fits = field(default_factory=dict)


def propose(o: Observations, request: Request) -> Proposal:
    """The next point of the study that `o` was seen in."""
    startup = STARTUP_RESULTS
    if request.n_trials is not None:
        startup = min(startup, max(2, request.n_trials // 3))
    if len(o.x) + len(o.failed) < startup or len(o.x) == 0:
        return _first(o.encoding, request)
    # Curves and several metrics are beyond a region: there the model looks everywhere, at what `local.visible` leaves.
    seen = focus(o) if o.values.shape[1] == 1 and not o.curves and request.transfer is None else None
    if seen is not None and looks_everywhere(request.seed, request.number):
        candidates = promising(o, rank(o), request.seed, request.number)
        return Proposal(candidates[_is_new(candidates, o).argmax()], {"arm": "density"})
    return Model(o, request, seen).propose()


def _first(encoding: Encoding, request: Request) -> Proposal:
    """Before there is anything to model: what was good in past studies, then points that fill the space."""
    if request.transfer is not None:
        portfolio = encoding.snap(request.transfer.portfolio(STARTUP_RESULTS))
        if request.number < len(portfolio):
            return Proposal(portfolio[request.number], {"arm": "portfolio"})
    return Proposal(design(encoding, request.number, request.seed), {"arm": "design"})


class Model:
    """The posteriors behind one suggestion: what the study's trials say of any point."""

    def __init__(self, o: Observations, request: Request, seen: Focus | None = None):
        self.all = o
        self.region = None if seen is None else seen.region
        self.request = request
        self.rng = np.random.default_rng(derived_seed("proposal", request.seed, request.number))
        self.o, self.arm = _shown(o, self.rng) if seen is None else (seen.observations, "region")
        o = self.o
        self.encoding = o.encoding
        self.fits: dict[str, tuple[np.ndarray, int]] = {}
        self.is_new = False
        rows, self.owner = distinct(o.x)
        self.repeats = np.bincount(self.owner).astype(float)
        self.x = o.x[rows]
        self.z = self.encoding.features(self.x)
        self.pending = self.encoding.features(o.pending)
        self.feasible = self._mean(_feasible(o)) > 0.5
        self.why: dict[str, Any] = {"arm": self.arm, "model_rows": len(self.x)}
        if seen is not None:
            self.why["side"] = seen.side

    def propose(self) -> Proposal:
        goal = self._improvement() if self.o.values.shape[1] == 1 else self._front()
        chances = self.chances()
        terms: list[Term] = [*chances, *self._cost()]
        if self.feasible.any():
            terms.insert(0, goal.term)
        order = np.lexsort((goal.loss, ~self.feasible))
        worth = Worth(self.encoding, terms, belief(self.encoding, _BELIEF_RESULTS / len(self.all.x)))
        candidates, _ = maximise(worth, self.encoding, self._known(order), self.rng, EFFORT, self.region)
        x = self._first_new(candidates, worth)[None]
        self.why["acquisition"] = float(worth.value(x)[0])
        z = self.encoding.features(x)
        if chances:
            self.why["feasible"] = float(np.exp(sum(chance.value(z)[0] for chance in chances)))
        if goal.explain is not None:
            self.why |= goal.explain(z)
        return Proposal(x[0], self.why, {**self.request.fits, **self.fits} if self.is_new else {})

    def _known(self, order: np.ndarray) -> np.ndarray:
        """The best points from which the search may begin: those in the region."""
        if self.region is not None:
            u = np.where(np.isnan(self.x), self.region.low, self.x)
            inside = np.all((u >= self.region.low) & (u <= self.region.high), axis=1)
            order = order[np.asarray(inside)[order]]
        return self.x[order[:KNOWN]]

    # -- what a point may gain ---------------------------------------------------------------------------------------

    def objective(self) -> tuple[Ensemble | AtFullFidelity | gp.GaussianProcess, Warp]:
        """The posterior of the first metric over targets that a model can explain, and the way back from these."""
        if self.o.values.shape[1] > 1:
            warp = half_rank(self.o.values[:, 0])
            return self._fit("objective 0", self._mean(warp.y), self.repeats, 1), warp
        curves = curve_rows(self.o, self.request.fidelity)
        # A region has no bad half, and its curvature is what is to be learnt.
        warp = (as_measured if self.region is not None else half_rank)(
            np.concatenate([self.o.values[:, 0], curves.values])
        )
        n = len(self.o.x)
        data = gp.Data(self.z, self._mean(warp.y[:n]), self.encoding.group, self.repeats)
        draws = min(max(DRAWS_TIMES_RESULTS // (len(self.x) + len(curves)), FEWEST_DRAWS), MOST_DRAWS)
        if self.region is not None:
            draws = 1
        if len(curves):
            joined = curves.join(data, self.encoding, warp.y[n:])
            self.why["curve_rows"] = len(curves)
            return AtFullFidelity(self._model("objective and curves", joined, draws), len(self.x)), warp
        if self.request.transfer is not None:
            prior = self.request.transfer.prior(PRIOR)
            ensemble = self.request.transfer.ensemble(self._model("objective", data, draws, prior=prior), data)
            self.why["sources"] = dict(ensemble.weights)
            return ensemble, warp
        return self._model("objective", data, draws), warp

    def _improvement(self) -> _Goal:
        """One metric: the expected improvement on the best posterior mean, which luck of a single result is not."""
        model, warp = self.objective()
        loss = model.fitted.mean(axis=0)
        reached = model.fitted
        if self.encoding.pinned:  # to be improved on is what can be reached with the given parameters
            reached, _ = model.predict(self.encoding.features(self.encoding.snap(self.x)))
        best = reached[:, self.feasible].min(axis=1, initial=np.inf)
        gain = improvement(model, best)
        if len(self.pending):
            model = model.given(self.pending)
            # With constraints nobody knows whether a pending point will count.
            if not self.o.constraint_names and not self.encoding.pinned:
                best = np.minimum(best, model.fitted[:, len(loss) :].min(axis=1))

        def explain(z: np.ndarray) -> dict[str, Any]:
            middle, sd = warp.measured(*(draws.mean(axis=0)[0] for draws in model.predict(z)))
            found = {"mean": float(middle), "sd": float(sd)}
            if not self.feasible.any():
                return found
            # Nothing is known yet of what is under evaluation: it is among the trials to come.
            promise = float(np.exp(gain.value(np.concatenate([z, self.pending])).max())) * warp.slope
            return found | {"best": float(warp.inverse(best.mean()))} | self._forecast(promise)

        return _Goal(improvement(model, best), loss, explain)

    def _front(self) -> _Goal:
        """Several metrics: the expected hypervolume improvement, or one random direction where the front is long."""
        y = np.stack([self._mean(half_rank(values).y) for values in self.o.values.T], axis=1)
        front = y[self.feasible] if self.feasible.any() else y
        front = front[non_dominated(front)]
        if not LogHypervolumeImprovement.suits(front):
            self.why["arm"] = "direction"
            loss = scalarisation(y, random_weights(y.shape[1], self.rng))
            target, _, _ = standardise(loss)
            model = self._fit("direction", target, self.repeats, 1, always=True)
            best = model.fitted[:, self.feasible].min(axis=1, initial=np.inf)
            return _Goal(improvement(model.given(self.pending) if len(self.pending) else model, best), loss)
        models = [self._fit(f"objective {j}", y[:, j], self.repeats, 1) for j in range(y.shape[1])]
        if len(self.pending):
            models = [model.given(self.pending) for model in models]
            believed = np.stack([model.fitted[0, len(y) :] for model in models], axis=1)
            front = np.concatenate([front, believed])
            front = front[non_dominated(front)]
        reference = reference_point(y)
        # Around the front the search begins at its members, spread by a random direction.
        loss = np.where(non_dominated(y), scalarisation(y, random_weights(y.shape[1], self.rng)), np.inf)
        return _Goal(Hypervolume(models, LogHypervolumeImprovement(front, reference)), loss)

    def _forecast(self, promise: float) -> dict[str, Any]:
        """What more trials will bring when the next one promises a gain of `promise`, in units of the metric."""
        if self.encoding.pinned:
            return {}
        horizon = HORIZON if self.request.n_trials is None else self.request.n_trials - self.request.number
        values = np.where(_feasible(self.all), self.all.values[:, 0], np.inf)
        chance = self.why.get("feasible", 1.0)
        found = forecast(values, promise * chance, min(max(horizon, 1), HORIZON), self.request.margin)
        if found is None:
            return {}
        return {"forecast": {"trials": found.trials, "gain": found.gain, "sd": found.sd, "p_margin": found.p_margin}}

    # -- what else counts --------------------------------------------------------------------------------------------

    def chances(self) -> list[Term]:
        """The log probabilities that each constraint holds and, where trials failed, that there is a result at all."""
        terms: list[Term] = []
        for j, name in enumerate(self.o.constraint_names):
            told = ~np.isnan(self.o.slack[:, j])
            y, shift, scale = standardise(self.o.slack[told, j])
            terms.append(feasibility(self.over(f"constraint {name}", self.o.x[told], y), -shift / scale))
        if len(self.o.failed):  # a regression on failed or not
            outcome = np.repeat([-1.0, 1.0], [len(self.o.x), len(self.o.failed)])
            y, shift, scale = standardise(outcome)
            terms.append(
                feasibility(self.over("success", np.concatenate([self.o.x, self.o.failed]), y), -shift / scale)
            )
        return terms

    def _cost(self) -> list[Term]:
        """Improvement per cost; the less of the budget is left, the less the cost counts (Lee et al. 2020)."""
        told = self.o.cost > 0.0
        if told.sum() < STARTUP_RESULTS or self.request.n_trials is None:
            return []
        left = max(0.0, 1.0 - len(self.all.x) / self.request.n_trials)
        y, _, scale = standardise(np.log(self.o.cost[told]))
        return [cheapness(self.over("cost", self.o.x[told], y), left * scale)]

    # -- fits --------------------------------------------------------------------------------------------------------

    def over(self, name: str, x: np.ndarray, y: np.ndarray) -> gp.GaussianProcess:
        """The posterior of another quantity, whose targets `y` (n,) were told at points `x` (n, d)."""
        rows, owner = distinct(x)
        repeats = np.bincount(owner).astype(float)
        z = self.encoding.features(x[rows])
        return self._model(name, gp.Data(z, np.bincount(owner, y) / repeats, self.encoding.group, repeats), 1)

    def _fit(
        self, name: str, y: np.ndarray, repeats: np.ndarray, draws: int, always: bool = False
    ) -> gp.GaussianProcess:
        return self._model(name, gp.Data(self.z, y, self.encoding.group, repeats), draws, always=always)

    def _model(
        self, name: str, data: gp.Data, draws: int, *, always: bool = False, prior: gp.Prior = PRIOR
    ) -> gp.GaussianProcess:
        """The posterior at `draws` hyperparameters, fitted anew where the earlier fit has become too old."""
        name = name if self.arm == "model" else f"{name}, {self.arm}"
        n = max(len(self.all.x), len(data.y))
        thetas, fitted_at = self.request.fits.get(name, (np.empty((0, 0)), 0))
        cold = thetas.shape[1] != data.d + gp.N_VARIANCES  # never fitted, or in another space
        limit = GROWTH * fitted_at if self.region is None else fitted_at + REGION_RESULTS
        if cold or always or (self.request.refit and not fitted_at <= n <= limit):
            start = prior.start(data.d) if cold else thetas[0]
            theta = gp.fit(data, prior, start, _COLD_ITERATIONS if cold or n < 30 else _WARM_ITERATIONS)[None]
            others = gp.draw(theta[0], data, prior, draws - 1, self.rng) if draws > 1 else theta[:0]
            thetas, fitted_at = np.concatenate([theta, others]), n
            self.is_new = True
        self.fits[name] = thetas, fitted_at
        return gp.GaussianProcess(data, thetas)

    def _mean(self, of_trials: np.ndarray) -> np.ndarray:
        """The means (n,) over the trials at each distinct point."""
        return np.bincount(self.owner, of_trials) / self.repeats

    def _first_new(self, candidates: np.ndarray, worth: Worth) -> np.ndarray:
        """The first of the candidates, or else the best of a new pool, that was not tried and is not under evaluation.

        In a space where everything was tried it is the first candidate.
        """
        new = _is_new(candidates, self.all)
        if new.any():
            return candidates[new.argmax()]
        pool = self.encoding.snap(self.rng.random((EFFORT.pool, self.encoding.d)))
        pool = pool[_is_new(pool, self.all)]
        return pool[worth.value(pool).argmax()] if len(pool) else candidates[0]


def _is_new(x: np.ndarray, o: Observations) -> np.ndarray:
    """(m,) Whether points `x` (m, d) were neither tried nor are under evaluation."""
    reported = np.array([curve.x for curve in o.curves]).reshape(-1, o.encoding.d)  # pruned ones too
    tried = {place.tobytes() for place in places(np.concatenate([o.x, o.failed, o.pending, reported]))}
    return np.array([place.tobytes() not in tried for place in places(x)], dtype=bool)


@dataclass(frozen=True)
class _Goal:
    """What is to be gained: as a term, as the loss (n,) of each known point, and in the user's units."""

    term: Term
    loss: np.ndarray
    explain: Callable[[np.ndarray], dict[str, Any]] | None = None


def design(encoding: Encoding, number: int, seed: int) -> np.ndarray:
    """Point `number` (d,) of a design that fills the space: the middle first, then a low-discrepancy sequence.

    The sequence steps by powers of the generalised golden ratio, the real root of g^(d+1) = g + 1, from a random start
    (Roberts 2018, The unreasonable effectiveness of quasirandom sequences). Where the user has a belief, the first
    point is what is believed best, and every other one is drawn from the belief.
    """
    d = encoding.d
    if number == 0:
        u = np.full(d, 0.5)
    else:
        ratio = 2.0
        for _ in range(40):
            ratio = (1.0 + ratio) ** (1.0 / (d + 1))
        start = np.random.default_rng(derived_seed("design", seed)).random(d)
        u = (start + number * ratio ** -np.arange(1.0, d + 1)) % 1.0
    if number % 2 == 0:
        u = np.array([_believed(domain, share) for domain, share in zip(encoding.domains, u.tolist(), strict=True)])
    return encoding.snap(u[None])[0]


def _believed(domain: Any, u: float) -> float:
    """The coordinate at quantile `u` of the user's belief; `u` itself without one. The most probable choice at 0.5."""
    prior = getattr(domain, "prior", None)
    if prior is None:
        return u
    if hasattr(domain, "choices"):
        weights = np.array(prior, dtype=float)
        ranked = np.argsort(weights, kind="stable")
        order = np.concatenate([ranked[::2], ranked[1::2][::-1]])  # the largest in the middle of the cumulated weights
        place = int(np.searchsorted(np.cumsum(weights[order]) / weights.sum(), u))
        return (float(order[min(place, len(order) - 1)]) + 0.5) / len(order)
    value, spread = prior
    return float(np.clip(unit(domain, value) + spread * ndtri(np.clip(u, 0.01, 0.99)), 0.0, 1.0))


def _shown(o: Observations, rng: np.random.Generator) -> tuple[Observations, str]:
    """What the model sees of `o`: all of it while it is little, see `local`; and the name of the choice."""
    if len(o.x) + len(o.failed) <= MOST_ROWS:
        return o, "model"
    first, owner = distinct(o.x)
    loss = np.argsort(np.argsort(o.values, axis=0, kind="stable"), axis=0, kind="stable").sum(axis=1).astype(float)
    loss[~_feasible(o)] += o.values.size
    rows, arm = visible(o.encoding.features(o.x[first]), np.bincount(owner, loss) / np.bincount(owner), rng)
    trials = np.isin(owner, rows)
    shown = replace(o, x=o.x[trials], values=o.values[trials], slack=o.slack[trials], cost=o.cost[trials])
    return replace(shown, failed=o.failed[-MOST_ROWS:]), arm


def _feasible(o: Observations) -> np.ndarray:
    """(n,) Whether each result counts; a constraint that was not told holds."""
    return np.asarray((np.nan_to_num(o.slack, nan=0.0) <= 0.0).all(axis=1))
