"""One parameter and the unit interval: standard library only.

A *domain* is a declared `Float`, `Int` or `Choice`, or an Optuna distribution: both have `low`, `high`, `log` and
`step`, or `choices`. Values that can be counted own equal parts of the interval (whole numbers on a log scale own
the part between their halves), so a uniform `u` draws each of them alike.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from automl.errors import InvalidInput


def count(domain: Any) -> int | None:
    """How many values `domain` has; None for a continuum."""
    if _is_choice(domain):
        return len(domain.choices)
    if _is_int(domain):
        return int((domain.high - domain.low) // domain.step) + 1
    if domain.low == domain.high:
        return 1
    if domain.step is None:
        return None
    # In decimals, as Optuna does it: 0.3 is three steps of 0.1 above zero, in binary it is not.
    return int((Decimal(str(domain.high)) - Decimal(str(domain.low))) // Decimal(str(domain.step))) + 1


def top(domain: Any) -> float | int:
    """The largest value of an ordered domain: `high`, or the last grid point below it."""
    if domain.step is None:
        return domain.high
    last = (count(domain) or 1) - 1
    if _is_int(domain):
        return int(domain.low + last * domain.step)
    return float(Decimal(str(domain.low)) + last * Decimal(str(domain.step)))


def point(domain: Any, k: int) -> float | int:
    """Value number `k` of an ordered domain that can be counted."""
    if _is_int(domain):
        return int(domain.low + k * domain.step)
    return float(min(domain.low + k * domain.step, top(domain))) if k else float(domain.low)


def at(domain: Any, u: float) -> Any:
    """The value at `u` in [0, 1], as a plain Python value; `u` outside is clipped."""
    u = min(max(float(u), 0.0), 1.0)
    n = count(domain)
    if _is_choice(domain):
        return domain.choices[min(int(u * len(domain.choices)), len(domain.choices) - 1)]
    if domain.log:
        low, high = _log_bounds(domain)
        return nearest(domain, math.exp(low + u * (high - low)))
    if n is None:
        return nearest(domain, domain.low * (1.0 - u) + domain.high * u)
    return point(domain, min(int(u * n), n - 1))


def unit(domain: Any, value: Any) -> float:
    """Where `value` lies in [0, 1]; the middle of its part where values can be counted.

    `at(domain, unit(domain, v)) == v` for up to 2**50 countable values; for a continuum within 1e-12 of the range
    (of the value itself on a log scale).
    """
    if _is_choice(domain):
        return (_index(domain, value) + 0.5) / len(domain.choices)
    value = min(max(value, domain.low), domain.high)
    n = count(domain)
    if n == 1:
        return 0.5
    if domain.log:
        low, high = _log_bounds(domain)
        u = (math.log(value) - low) / (high - low)
    elif n is None:
        # Halves first: high - low itself may be infinite.
        u = (value / 2 - domain.low / 2) / (domain.high / 2 - domain.low / 2)
    else:
        u = (min(round((value - domain.low) / domain.step), n - 1) + 0.5) / n
    return min(max(u, 0.0), 1.0)


def nearest(domain: Any, value: Any) -> Any:
    """The value of `domain` closest to `value`, as a plain Python value."""
    if _is_choice(domain):
        return domain.choices[_index(domain, value)]
    value = min(max(value, domain.low), domain.high)
    if domain.step is None:
        return float(value)
    return point(domain, min(round((value - domain.low) / domain.step), (count(domain) or 1) - 1))


def _log_bounds(domain: Any) -> tuple[float, float]:
    half = 0.5 if _is_int(domain) else 0.0
    return math.log(domain.low - half), math.log(domain.high + half)


def _index(domain: Any, value: Any) -> int:
    try:
        return int(domain.choices.index(value))
    except ValueError:
        raise InvalidInput(f"choices: {value!r} is none of {domain.choices}; give one of them", "choices") from None


def _is_choice(domain: Any) -> bool:
    return hasattr(domain, "choices")


def _is_int(domain: Any) -> bool:
    return isinstance(domain.low, int)
