"""Bayesian optimisation: the sampler that is the default.

One suggestion, top to bottom: the trials as arrays (`observations`), targets that a model can explain (`warping`), a
Gaussian process with a few draws of its hyperparameters (`gp`), the log of what a point is worth as a sum of terms
(`terms`), and the search for its largest value (`optimize`).

Suggestion k is a function of the seed, k and the trials before it. What is worth keeping from one suggestion to the
next, the hyperparameters, is kept in the trial (`Attr.WHY`), so that a sampler rebuilt from the database goes on as
the one that was killed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial

from automl.core import Attr
from automl.declaration import Fidelity, Space
from automl.search.cube import unit
from automl.search.encoding import Encoding
from automl.search.independent import independent
from automl.search.observations import Observations, Reader
from automl.search.proposal import Fits, Request, propose
from automl.search.space import to_distributions
from automl.search.threads import one_thread
from automl.search.transfer import Source, Transfer


class BayesianSampler(BaseSampler):
    """Bayesian optimisation for any study that Optuna can describe, in tens of milliseconds a suggestion.

    Numbers of any width, choices and conditions are modelled together; running trials are kept away from; failed ones
    are learnt as regions to avoid, and constraints (`trial.set_constraint`) as borders. One to four metrics are
    searched by expected (hypervolume) improvement, more of them in random directions.

    The suggestion of a trial depends on the seed, its number and the trials before it, and on nothing else: two
    samplers with one seed over one study agree, whatever they did before. Trial system attribute `automl:why` says how
    it came about.
    """

    def __init__(
        self,
        seed: int | None = None,
        *,
        space: Mapping[str, Any] | None = None,
        n_trials: int | None = None,
        fidelity: Fidelity | None = None,
        cost: str | None = None,
        margin: float | None = None,
        sources: Sequence[Source] = (),
    ):
        """Nothing is needed; what is known makes the first trials better.

        Args:
            seed: of all randomness; None: a random one.
            space: `automl.Float`, `Int` and `Choice` by name; None: learnt from what the trials ask for.
            n_trials: the budget; with it `cost` counts less and less, and a short study asks its model earlier.
            fidelity: what the steps of reports are; None: up to the largest step reported.
            cost: "seconds" (how long a trial took), or a user attribute of trials: expected improvement per cost.
            margin: an improvement worth more trials, in units of the metric, for the forecast in `automl:why`.
            sources: past studies to learn from.

        Raises:
            InvalidStudy: the space cannot be.
        """
        self._seed = _fresh_seed() if seed is None else seed
        self._space = space if space is None or isinstance(space, Space) else Space(space)
        self._distributions = to_distributions(self._space) if self._space is not None else None
        self._reader = Reader(self._space, cost)
        self._n_trials = n_trials
        self._fidelity = fidelity
        self._margin = margin
        self._sources = tuple(sources)
        self._transfer: tuple[Encoding, Transfer] | None = None

    def reseed_rng(self) -> None:
        self._seed = _fresh_seed()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self._distributions is not None:
            return dict(self._distributions)
        observations = self._observe(study, trial)
        if observations is None:
            return {}
        return dict(zip(observations.encoding.names, observations.encoding.domains, strict=True))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        with one_thread():
            return self._sample(study, trial, search_space)

    def _sample(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        start = time.process_time()
        observations = self._observe(study, trial)
        if observations is None or not search_space:
            return {}
        encoding = observations.encoding
        request = Request(
            trial.number,
            self._seed,
            n_trials=self._n_trials,
            fidelity=self._fidelity,
            transfer=self._past(encoding, study),
            margin=self._margin,
            fits=_noted_fits(study, trial.number),
        )
        found = propose(replace(observations, encoding=_pinned(encoding, trial)), request)
        sign = -1.0 if study.directions[0] == StudyDirection.MAXIMIZE else 1.0
        why = {key: sign * value if key in ("mean", "best") else value for key, value in found.why.items()}
        why |= {"ms": round(1e3 * (time.process_time() - start), 1)}
        if found.fits:
            why["fits"] = {name: [thetas.tolist(), n] for name, (thetas, n) in found.fits.items()}
        study._storage.set_trial_system_attr(trial._trial_id, Attr.WHY, why)
        return {name: value for name, value in encoding.decode(found.x).items() if name in search_space}

    def _past(self, encoding: Encoding, study: Study) -> Transfer | None:
        """What the sources say about this space; their models are made once."""
        if not self._sources or len(study.directions) > 1:
            return None
        if self._transfer is None or not self._transfer[0].same_as(encoding):
            self._transfer = encoding, Transfer(encoding, self._sources)
        return self._transfer[1]

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return independent(self._seed, trial.number, param_name, param_distribution)

    def _observe(self, study: Study, trial: FrozenTrial) -> Observations | None:
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        return self._reader.read(trials, study.directions)


def _fresh_seed() -> int:
    return int(np.random.default_rng().integers(2**32))


def _pinned(encoding: Encoding, trial: FrozenTrial) -> Encoding:
    """With the parameters that whoever enqueued the trial has fixed."""
    fixed = trial.system_attrs.get("fixed_params") or {}
    columns = {
        j: unit(domain, fixed[name])
        for j, (name, domain) in enumerate(zip(encoding.names, encoding.domains, strict=True))
        if name in fixed and _holds(domain, fixed[name])
    }
    return replace(encoding, pinned=columns) if columns else encoding


def _holds(domain: Any, value: Any) -> bool:
    return not hasattr(domain, "choices") or value in domain.choices


def _noted_fits(study: Study, number: int) -> Fits:
    """What the last suggestion before trial `number` that fitted its models has noted."""
    for trial in reversed(study.get_trials(deepcopy=False)):
        noted = trial.system_attrs.get(Attr.WHY, {}).get("fits") if trial.number < number else None
        if noted:
            return {name: (np.array(thetas), n) for name, (thetas, n) in noted.items()}
    return {}
