"""The next point to try: a pure function of the seed, the trial's number and the history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from automl.core import derived_seed
from automl.declaration import Float, Space
from automl.errors import InvalidInput
from automl.search.bayesian import BayesianSampler
from automl.search.cube import at, nearest
from automl.search.history import STUDY_ATTRS, Draft, History, blank_trial
from automl.search.samplers import make_sampler, quietly, reseed
from automl.search.space import to_distributions


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A point to try. Store all three with the trial: the sampler's notes are part of the history it reads next."""

    params: Mapping[str, Any]  #: plain Python values inside their bounds
    distributions: Mapping[str, str]  #: Optuna distribution JSON by parameter
    system_attrs: Mapping[str, Any] = field(default_factory=dict)  #: JSON values, as CMA-ES's state


def suggest(
    history: History,
    number: int,
    sampler: str | BaseSampler,
    seed: int,
    *,
    space: Space | None = None,
    fixed: Mapping[str, Any] | None = None,
    n_trials: int | None = None,
) -> Suggestion:
    """What trial `number` should try.

    Equal arguments give equal suggestions, however `history` came together; the trial `number` itself, if it is in
    there, does not count. `seed` is the study's, `n_trials` its budget of trials, `space` by default the history's.

    With a declared space all active parameters are returned, parents first. Without one (define-by-run), only those
    that the sampler models jointly, which may be none: `independent` draws the others when the function asks.
    `fixed` values win; one whose parents' values switch it off is left out. Samplers find them where Optuna keeps those
    of an enqueued trial, in the system attribute "fixed_params", which the suggestion has too.

    A `BayesianSampler` is used as it is: whoever makes several suggestions keeps it for all. Of any other sampler
    object each suggestion gets a copy, see `make_sampler`.

    Raises:
        InvalidInput: a fixed value is outside the space, or the sampler does not fit the study.
        GridExhausted: sampler "grid" has no point left.
    """
    space = space if space is not None else history.space
    trial = blank_trial(number, TrialState.RUNNING)
    if fixed is not None:
        trial.system_attrs["fixed_params"] = dict(fixed)
    fixed = _checked(fixed or {}, space)
    draft = Draft(history, trial)
    study = draft.study()
    if not isinstance(sampler, BayesianSampler):
        sampler = make_sampler(sampler, seed=seed, space=space, directions=history.directions, n_trials=n_trials)
        reseed(sampler, derived_seed("suggestion", seed, number))
    with quietly():
        sampler.before_trial(study, trial)
        joint_space = sampler.infer_relative_search_space(study, trial)
        free = {name: domain for name, domain in joint_space.items() if name not in fixed}
        values = {**sampler.sample_relative(study, trial, free), **fixed}
        # Samplers read from the trial what it has so far, as they would in Optuna.
        domains = joint_space if space is None else to_distributions(space)
        for name in values if space is None else space:
            if space is not None and not space.is_active(name, trial.params):
                continue
            if name not in values:
                values[name] = _alone(sampler, study, trial, name, domains[name])
            trial.params[name] = values[name]
            if name in domains:  # not a fixed parameter that a define-by-run function never asked for
                trial.params[name] = nearest(domains[name], values[name])
                trial.distributions[name] = domains[name]
    return Suggestion(
        params=trial.params,
        distributions={name: distribution_to_json(domain) for name, domain in trial.distributions.items()},
        system_attrs=_notes(draft),
    )


def _alone(sampler: BaseSampler, study: Study, trial: FrozenTrial, name: str, domain: BaseDistribution) -> Any:
    # Samplers are never asked for the only value there is, and some divide by its width.
    return at(domain, 0.5) if domain.single() else sampler.sample_independent(study, trial, name, domain)


def _checked(fixed: Mapping[str, Any], space: Space | None) -> dict[str, Any]:
    if space is None:
        return dict(fixed)
    for name, value in space.check(fixed, partial=True).items():
        parameter = space[name]
        closest = nearest(parameter, value)
        # A grid value computed in another order differs in its last bits.
        tolerance = 1e-8 * (parameter.step or 0.0) if isinstance(parameter, Float) else 0
        if closest != value and abs(closest - value) > tolerance:
            problem = f"params[{name!r}]: {value!r} is between the grid points of {parameter}"
            raise InvalidInput(f"{problem}; give {closest!r}", f"params[{name!r}]")
    return dict(fixed)


def _notes(draft: Draft) -> dict[str, Any]:
    # TPE and GP repeat the parameters for other processes, which see them in the history.
    notes = {key: value for key, value in draft.trial.system_attrs.items() if ":relative_params:" not in key}
    return notes | ({STUDY_ATTRS: draft.study_attrs} if draft.study_attrs else {})
