"""Trials as the caller of the search hands them in, and a loop that runs a search without any storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import json_to_distribution
from optuna.trial import FrozenTrial, TrialState

from automl.declaration import Choice, Float, Int, Space
from automl.search import History, Suggestion, suggest

NUMBERS = Space({"x": Float(-5, 10), "y": Float(0, 15)})
MIXED = Space(
    {
        "lr": Float(1e-4, 1e-1, log=True),
        "width": Int(16, 256, log=True),
        "optimizer": Choice("sgd", "adamw"),
        "momentum": Float(0.0, 0.9, step=0.1, when={"optimizer": "sgd"}),
        "blocks": Int(1, 4),
        "skip": Choice(True, False, when={"blocks": [3, 4]}),
    }
)


def frozen(
    number: int,
    suggestion: Suggestion | None = None,
    *,
    state: TrialState = TrialState.COMPLETE,
    values: Sequence[float] | None = None,
    reports: Mapping[int, float] | None = None,
) -> FrozenTrial:
    """A trial with that suggestion. Its id is none of its number's business."""
    s = suggestion or Suggestion({}, {})
    return FrozenTrial(
        number=number,
        trial_id=1000 + number,
        state=state,
        value=None,
        values=values,
        datetime_start=None,
        datetime_complete=None,
        params=dict(s.params),
        distributions={name: json_to_distribution(text) for name, text in s.distributions.items()},
        user_attrs={},
        system_attrs=dict(s.system_attrs),
        intermediate_values=dict(reports or {}),
    )


def search(
    sampler: Any, space: Space, objective: Callable[[Mapping[str, Any]], Any], n: int, seed: int = 0, **options: Any
) -> list[FrozenTrial]:
    """`n` trials, one after the other. `objective` returns a value, or a sequence of them for several metrics."""
    directions = options.pop("directions", ("minimize",))
    history = History(directions, "study", space)
    trials = []
    for number in range(n):
        suggestion = suggest(history, number, sampler, seed, **options)
        values = objective(suggestion.params)
        values = values if isinstance(values, list | tuple) else [values]
        trials.append(frozen(number, suggestion, values=values))
        history.update(trials[-1:])
    return trials


def spread(params: Mapping[str, Any]) -> float:
    """Some smooth function of any parameters."""
    numbers = [float(v) if isinstance(v, int | float) else float(len(str(v))) for v in params.values()]
    return sum((v - 0.3) ** 2 for v in numbers)
