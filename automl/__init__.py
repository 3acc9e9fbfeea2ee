"""Hyperparameter search that needs few trials and loses nothing.

Declare a `Study`, run it, read the `Result`. See the README for a first search, `automl --help` for the command line.
"""

from __future__ import annotations

from automl.declaration import Budget, Choice, Fidelity, Float, Int, Resources
from automl.engine import connect
from automl.errors import AutoMLError
from automl.study import Result, Study
from automl.trainers.context import Trial

__version__ = "0.1.0"

__all__ = [
    "AutoMLError",
    "Budget",
    "Choice",
    "Fidelity",
    "Float",
    "Int",
    "Resources",
    "Result",
    "Study",
    "Trial",
    "connect",
]
