"""What a define-by-run function asks beyond its suggestion. Light: it is imported in every trial's process."""

from __future__ import annotations

from random import Random
from typing import Any

from automl.core import derived_seed
from automl.search.cube import at


def independent(seed: int, number: int, name: str, distribution: Any) -> Any:
    """A value drawn uniformly from an Optuna distribution (or a declared parameter), on its own scale.

    The same for the same study seed, trial number and name, whoever asks and in whichever order.
    """
    return at(distribution, Random(derived_seed("independent", seed, number, name)).random())
