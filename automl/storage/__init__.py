"""Everything that is kept: studies, trials, leases, history, files.

`OptunaStorage` is the public name. It loads Optuna, so it is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automl.storage.optuna_storage import OptunaStorage

__all__ = ["OptunaStorage"]


def __getattr__(name: str) -> Any:
    if name == "OptunaStorage":
        from automl.storage.optuna_storage import OptunaStorage

        return OptunaStorage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
