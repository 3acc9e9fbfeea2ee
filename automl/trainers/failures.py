"""What a training function returned or raised, in the system's words."""

from __future__ import annotations

import math
import sys
import traceback
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from automl.core import Failure, FailureKind
from automl.declaration import Bound

_OWN_FRAMES = (str(Path(__file__).parent), "<frozen importlib")
_OUT_OF_MEMORY = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "can't allocate memory",  # torch's allocator in RAM
)


class TrialEnded(BaseException):
    """Raised inside the training function to end it. No `Exception`, so that no `except Exception` stops it."""


class Pruned(TrialEnded):
    """The trial is not worth going on with."""


class Interrupted(TrialEnded):
    """The trial makes way; it goes on from its last checkpoint later."""


class NonFinite(TrialEnded):
    """The objective is NaN or infinite."""


class BadResult(Exception):
    """The training function returned what is no result. The message says what came and what to return."""


def number(value: Any) -> float | None:
    """`value` as a float, from a Python or NumPy number or a tensor of one element; None when it is none of these."""
    if not isinstance(value, Real) and callable(getattr(value, "item", None)):
        try:
            value = value.item()
        except (TypeError, ValueError, RuntimeError):  # more than one element
            return None
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:  # an int beyond every float
        return math.inf


def result_values(result: Any, metrics: Sequence[str]) -> tuple[tuple[float, ...], dict[str, float]]:
    """The study's metrics, in order, and any further ones, from what the training function returned.

    Raises:
        BadResult: it returned something else.
        NonFinite: one of the study's metrics is NaN or infinite.
    """
    named = _named(result, metrics)
    missing = [name for name in metrics if name not in named]
    if missing:
        raise BadResult(f"train() returned {_shown(result)}, without {missing}; return {_expected(metrics)}")
    numbers: dict[str, float] = {}
    for name, value in named.items():
        converted = number(value)
        if converted is None:
            where = "" if result is value else f" as {name!r}"
            raise BadResult(f"train() returned {_shown(value)}{where}; return {_expected(metrics)}")
        numbers[name] = converted
    values = tuple(numbers.pop(name) for name in metrics)
    for name, value in zip(metrics, values, strict=True):
        if not math.isfinite(value):
            raise NonFinite(f"train() returned {name} = {value}")
    return values, numbers


def constraint_values(
    bounds: Mapping[str, Mapping[str, float]], found: Mapping[str, Any], *, complete: bool
) -> dict[str, float]:
    """The constraints that `bounds` declares, from all that the trial `found` by name: each 0 or less where it is kept.

    With `complete=False`, of a trial that ended early, those that can be known.

    Raises:
        BadResult: a trial that is complete has not reported one, or not as a number.
        NonFinite: it has reported NaN.
    """
    values: dict[str, float] = {}
    for name, bound in bounds.items():
        value = number(found.get(name))
        if value is not None and not math.isnan(value):
            values[name] = Bound(**bound).excess(value)
        elif not complete:
            continue
        elif name not in found:
            cure = f"report it, as in trial.report({name}=...), or return it beside the metric"
            raise BadResult(f"constraints[{name!r}]: the trial reported no such metric; {cure}")
        elif value is None:
            raise BadResult(f"constraints[{name!r}]: the trial reported {_shown(found[name])}; report a number")
        else:
            raise NonFinite(f"constraints[{name!r}]: the trial reported {value}")
    return values


def _named(result: Any, metrics: Sequence[str]) -> dict[str, Any]:
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items()}
    if isinstance(result, list | tuple) and len(result) == len(metrics):
        return dict(zip(metrics, result, strict=True))
    if len(metrics) == 1:
        return {metrics[0]: result}
    raise BadResult(f"train() returned {_shown(result)}; return {_expected(metrics)}")


def _expected(metrics: Sequence[str]) -> str:
    if len(metrics) == 1:
        return f"a number, or a dict of numbers with the key {metrics[0]!r}"
    return f"a dict of numbers with the keys {list(metrics)}, or as many numbers in this order"


def _shown(value: Any) -> str:
    if value is None:
        return "None (is a `return` missing?)"
    try:
        text = repr(value)
    except Exception:
        return f"a {type(value).__name__}"
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def is_optuna_pruned(error: BaseException | None) -> bool:
    """Whether this is `optuna.TrialPruned`, found without importing Optuna: who raised it has done that."""
    exceptions = sys.modules.get("optuna.exceptions")
    return exceptions is not None and isinstance(error, exceptions.TrialPruned)


def failure_of(error: BaseException) -> Failure:
    """How the trial failed, from what its training function raised."""
    if isinstance(error, NonFinite):
        return Failure(FailureKind.NON_FINITE, str(error))
    if isinstance(error, BadResult):
        return Failure(FailureKind.ERROR, str(error))
    kind = FailureKind.OUT_OF_MEMORY if _is_out_of_memory(error) else FailureKind.ERROR
    return Failure(kind, one_line(error), user_traceback(error))


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own type
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


def one_line(error: BaseException) -> str:
    """Type and first line of an exception's text, with the cure where it is known."""
    try:
        text = str(error)
    except Exception:
        text = ""
    first = text.strip().split("\n", 1)[0]
    if isinstance(error, SystemExit):
        first = f"sys.exit({error.code!r}) was called; return a result or raise an exception instead"
    if "No CUDA GPUs are available" in text:
        first += " (declare Resources(gpus=1) and use trial.device)"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def user_traceback(error: BaseException) -> str:
    """The traceback without the frames of this package's trainers and of the import system."""
    seen: set[int] = set()
    summary = traceback.TracebackException.from_exception(error)
    pending: list[traceback.TracebackException | None] = [summary]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        kept = [frame for frame in current.stack if not frame.filename.startswith(_OWN_FRAMES)]
        current.stack = traceback.StackSummary.from_list(kept)
        pending += [current.__cause__, current.__context__, *(current.exceptions or ())]
    return "".join(summary.format())
