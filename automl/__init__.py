"""Hyperparameter search that needs few trials and loses nothing.

Declare a `Study`, run it, read the `Result`. See the README for a first search, `automl --help` for the command line.
The names are imported when they are first used: the command line must not wait for what it does not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automl.declaration import Budget, Choice, Fidelity, Float, Int, Resources
    from automl.engine import connect
    from automl.errors import AutoMLError
    from automl.result import Result
    from automl.serving.predictor import load_model
    from automl.study import Study
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
    "load_model",
]

_HOMES = {
    "automl.declaration": ("Budget", "Choice", "Fidelity", "Float", "Int", "Resources"),
    "automl.engine": ("connect",),
    "automl.errors": ("AutoMLError",),
    "automl.result": ("Result",),
    "automl.serving.predictor": ("load_model",),
    "automl.study": ("Study",),
    "automl.trainers.context": ("Trial",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
