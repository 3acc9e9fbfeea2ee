"""`trial.suggest_*`: the parameters that a training function asks for, in Optuna's words.

Optuna is imported here on the first question only; most studies declare a space and never ask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from automl.errors import InvalidInput
from automl.trainers.wire import Job

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class Suggestions:
    """Answers for one trial.

    A study with a declared space answers with the trial's parameters, and refuses what the declaration does not
    say. A define-by-run study takes the sampler's hint where there is one that fits, else draws from the trial's
    own seed, so that the same trial gets the same values wherever it runs.
    """

    def __init__(self, job: Job, *, declared: bool):
        self._job = job
        self._declared = declared
        self._asked: dict[str, BaseDistribution] = {}
        self.params: dict[str, Any] = dict(job.params) if declared else {}

    @property
    def distributions(self) -> dict[str, str]:
        """Optuna distribution JSON of each parameter that was asked for."""
        from optuna.distributions import distribution_to_json

        return {name: distribution_to_json(distribution) for name, distribution in self._asked.items()}

    @property
    def found(self) -> tuple[dict[str, Any] | None, dict[str, str] | None]:
        """Parameters and distributions of a define-by-run trial so far; None for a declared one."""
        return (None, None) if self._declared else (dict(self.params), self.distributions if self._asked else {})

    def suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """The value of `name`. Raises `InvalidInput` when it contradicts the declaration or an earlier question."""
        if self._declared:
            self._check_declared(name, distribution)
        elif name in self._asked:
            self._check_same_kind(name, distribution)
        else:
            self.params[name] = self._draw(name, distribution)
            self._asked[name] = distribution
        return self.params[name]

    def _draw(self, name: str, distribution: BaseDistribution) -> Any:
        from automl.search.independent import independent

        if name in self._job.params and _contains(distribution, self._job.params[name]):
            return self._job.params[name]
        return independent(self._job.study_seed, self._job.number, name, distribution)

    def _check_declared(self, name: str, distribution: BaseDistribution) -> None:
        from optuna.distributions import json_to_distribution

        if name not in self.params:
            cure = "declare it, or give the study no space at all"
            raise InvalidInput(f"suggest({name!r}): the study's space has no such (active) parameter; {cure}", name)
        declared = self._job.distributions.get(name)
        if declared is not None and json_to_distribution(declared) != distribution:
            was = json_to_distribution(declared)
            cure = "make them equal, or read trial.params"
            raise InvalidInput(f"suggest({name!r}): declared as {was}, asked for as {distribution}; {cure}", name)

    def _check_same_kind(self, name: str, distribution: BaseDistribution) -> None:
        from optuna.distributions import check_distribution_compatibility

        try:  # as in Optuna: another range is ignored, another kind or other choices are a mistake
            check_distribution_compatibility(self._asked[name], distribution)
        except ValueError as error:
            cure = "use one name for one parameter"
            raise InvalidInput(f"suggest({name!r}): {error}; {cure}", name) from error


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a hint still is a value of what the function asks for: it may have changed since the hint was made."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (TypeError, ValueError):
        return False
