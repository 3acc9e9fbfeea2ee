"""Leases as callers name them, and as they are kept.

Workers choose the tokens of their leases. They are kept with the project of whoever claimed before them, also that of
the default project: no caller can name a lease of another project, nor one of a worker that talks to the database.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from automl.core import Lease, Outcome, TrialState
from automl.engine import Engine
from automl.errors import InvalidInput
from automl.service.callers import Caller

log = logging.getLogger("automl.service")

#: Leases that this process remembers to have given out; of others it asks the database.
REMEMBERED = 10_000


def prefixed(caller: Caller, token: str) -> str:
    """The token as it is kept. What callers send has no ":" in it (`protocol.Token`)."""
    return f"{caller.engine.project}:{token}"


def stripped(caller: Caller, kept: str) -> str:
    """The inverse of `prefixed`."""
    return kept.removeprefix(f"{caller.engine.project}:")


class Book:
    """What this process knows of the leases that it gave out, by their tokens as they are kept. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._leases: OrderedDict[str, Lease] = OrderedDict()
        self._metrics: dict[int, int] = {}

    def note(self, lease: Lease) -> None:
        with self._lock:
            self._leases[lease.token] = replace(lease, params={}, distributions={})
            while len(self._leases) > REMEMBERED:
                self._leases.popitem(last=False)

    def lease(self, engine: Engine, token: str) -> Lease:
        """As it was given out, which may be over by now. Raises `LeaseLost`."""
        with self._lock:
            known = self._leases.get(token)
        return known or engine.lease(token)

    def forget(self, token: str) -> None:
        with self._lock:
            self._leases.pop(token, None)

    def metrics(self, engine: Engine, study_id: int) -> int:
        """How many metrics a study has, which never changes."""
        if study_id not in self._metrics:
            self._metrics[study_id] = len(engine.study_by_id(study_id).directions)
        return self._metrics[study_id]


def keep_log(engine: Engine, lease: Lease, text: str | None) -> None:
    """Keep what an attempt printed, unless this machine has it already. No trouble here may cost a result."""
    path = engine.log_path(lease.study_id, lease.number, lease.attempt)
    if not text or path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".incoming-{uuid.uuid4().hex}")
        try:
            temporary.write_text(text, encoding="utf-8", errors="replace")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is not kept: %s", path, error)


def check_outcome(outcome: Outcome, wanted: int) -> None:
    """Raises `InvalidInput` for a result that no trial of a study with `wanted` metrics can have."""
    given = len(outcome.values or ())
    if outcome.state is TrialState.COMPLETE and given != wanted:
        raise InvalidInput(f"outcome.values: {given} of them, and the study has {wanted} metric(s)", "outcome.values")
    if given > wanted:
        raise InvalidInput(f"outcome.values: {given} are more than the study's {wanted} metric(s)", "outcome.values")
    names = [artifact.name for artifact in outcome.artifacts]
    if len(set(names)) < len(names):
        raise InvalidInput("outcome.artifacts: a name is there twice", "outcome.artifacts")
    if outcome.params is not None:
        check_params(outcome.params, outcome.distributions or {})
    elif outcome.distributions is not None:
        raise InvalidInput("outcome.params: there are distributions without them", "outcome.params")


def check_params(params: Mapping[str, Any], distributions: Mapping[str, str]) -> None:
    """Raises `InvalidInput` where a parameter has no distribution that Optuna knows, or is not inside of it."""
    if params.keys() != distributions.keys():
        odd = sorted(params.keys() ^ distributions.keys())
        raise InvalidInput(f"params: {', '.join(odd)} must be in params and in distributions", "params")
    for name, value in params.items():
        found = _distribution(distributions[name])
        try:
            fits = found is not None and found._contains(found.to_internal_repr(value))
        except (ValueError, TypeError):
            fits = False
        if not fits:
            problem = "has no distribution that is known" if found is None else f"{value!r} is not in its distribution"
            raise InvalidInput(f"params.{name}: {problem}", f"params.{name}")


@lru_cache(maxsize=10_000)
def _distribution(text: str) -> Any:
    from optuna.distributions import json_to_distribution

    try:
        return json_to_distribution(text)
    except Exception:  # whatever it makes of a text that somebody sent
        return None
