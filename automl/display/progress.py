"""What a display is shown, and how the numbers in it are written.

Names and messages come from users: `clean` makes sure that none of them is a code that the terminal obeys.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

#: An estimate follows the trials of late: good regions are often the expensive ones.
_RECENT_TRIALS = 50

#: The state of a search that somebody has paused.
PAUSED = "paused"

#: How many of the last failures are worth their room.
SHOWN_FAILURES = 3

#: Cancelled trials are none of the budget's: others take their places.
_ENDED = ("complete", "pruned", "failed")
_ESCAPE_CODE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?)")


@dataclass(frozen=True)
class RunningTrial:
    """A trial at work. `step` of `max_step` is None where it has not reported or has no steps."""

    number: int
    step: int | None
    max_step: int | None
    value: float | None
    elapsed_s: float
    attempt: int = 1


@dataclass(frozen=True)
class FinishedTrial:
    """A trial that is over. `state` is a `TrialState`'s value; `failure` one line, of a failed trial."""

    number: int
    state: str
    value: float | None
    duration_s: float | None
    failure: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    violated: tuple[str, ...] = ()  #: constraints that it does not keep


@dataclass(frozen=True)
class Progress:
    """A search at one moment.

    `state` is the study's, or "paused" for an open one that starts no trials.
    `counts` is by state, as in `automl show`: total, waiting, running, paused, complete, pruned, failed, cancelled.
    `finished` are the trials that ended since the last snapshot; `failures` the last failures, one line each;
    `forecast` what the search expects of more trials, see `format_forecast`; `reason` why the study is over.
    """

    study: str
    state: str
    metric: str
    direction: Literal["min", "max"]
    counts: Mapping[str, int]
    elapsed_s: float
    budget_trials: int | None = None
    minutes_left: float | None = None
    seconds_left: float | None = None  #: an estimate
    best_number: int | None = None
    best_value: float | None = None
    best_params: Mapping[str, Any] = field(default_factory=dict)
    best_violated: tuple[str, ...] = ()  #: constraints that even the best trial does not keep
    forecast: str | None = None
    reason: str | None = None
    running: tuple[RunningTrial, ...] = ()
    finished: tuple[FinishedTrial, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def ended(self) -> int:
        """Trials that are over and count."""
        return sum(self.counts.get(state, 0) for state in _ENDED)

    @property
    def fraction(self) -> float:
        """How much of the budget is used, 0 to 1: of trials or of time, whichever is further."""
        parts = [0.0]
        if self.budget_trials:
            parts.append(self.ended / self.budget_trials)
        if self.minutes_left is not None:
            parts.append(self.elapsed_s / max(self.elapsed_s + 60 * self.minutes_left, 1e-9))
        return min(max(parts), 1.0)

    @property
    def left_s(self) -> float | None:
        """Seconds left: the estimate, or less when the budget's minutes are over before; unknown while it is paused."""
        if self.state == PAUSED:
            return None
        budget_s = None if self.minutes_left is None else 60 * self.minutes_left
        return min((s for s in (self.seconds_left, budget_s) if s is not None), default=None)


def estimate_seconds_left(durations_s: Sequence[float], remaining: float, slots: int) -> float | None:
    """Seconds until `remaining` trials are over when `slots` run at a time; None when no trial has ended yet.

    `durations_s` are those of ended trials, oldest first.
    """
    if remaining <= 0:
        return 0.0
    recent = durations_s[-_RECENT_TRIALS:]
    if not recent:
        return None
    return sum(recent) / len(recent) * max(remaining / max(slots, 1), 1.0)


def format_count(count: int, one: str, many: str = "") -> str:
    """`1 trial`, `2,500 trials`; `many` where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def format_value(value: float | None) -> str:
    """A metric in four significant digits, never fewer than its whole part has: `0.9800`, `123.5`, `12346`."""
    if value is None:
        return "-"
    if not math.isfinite(value) or isinstance(value, int):
        return str(value)
    size = abs(value)
    if size and not 1e-4 <= size < 1e7:
        return f"{value:.3e}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(size))) if size else 4}f}"


def format_params(params: Mapping[str, Any]) -> str:
    """`lr=0.01234  width=64`, on one line."""
    return "  ".join(f"{clean(name)}={param(value)}" for name, value in params.items())


def format_duration(seconds: float | None) -> str:
    """`0.8 s`, `42 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_size(size: int) -> str:
    """Bytes in three significant digits: `812 B`, `6.04 kB`, `1.2 GB`."""
    shown, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if shown < 999.5:
            break
        shown, unit = shown / 1000, larger
    return f"{shown:.3g} {unit}"


def format_forecast(forecast: Mapping[str, Any], direction: str) -> str:
    """`20 more trials: +0.2 ± 0.1`, with a minus for a metric that is minimised ("min").

    `forecast` has `trials`, `gain` (how much better the best is expected to be after them) and `sd`.
    """
    sign = "-" if direction == "min" else "+"
    return f"{format_count(forecast['trials'], 'more trial')}: {sign}{forecast['gain']:.2g} ± {forecast['sd']:.2g}"


def format_violated(names: Sequence[str]) -> str:
    """`violates latency_ms, memory_mb`; empty when there are none."""
    return f"violates {', '.join(map(clean, names))}" if names else ""


def done(progress: Progress) -> str:
    """`31/60 trials`."""
    return (
        f"{progress.ended}/{progress.budget_trials} trials"
        if progress.budget_trials
        else format_count(progress.ended, "trial")
    )


def times(progress: Progress) -> str:
    """`1 min 12 s, about 40 s left`."""
    left = f", about {format_duration(progress.left_s)} left" if progress.left_s else ""
    return format_duration(progress.elapsed_s) + left


def state_word(progress: Progress) -> str:
    """The study's state in a word that suits a search that is being watched."""
    return "searching" if progress.state == "open" else clean(progress.state)


def state_and_reason(progress: Progress) -> str:
    """`state_word`, and why: `finished (converged: 20 more trials: +0.2 ± 0.1)`."""
    return state_word(progress) + (f" ({clean(progress.reason)})" if progress.reason else "")


def param(value: object) -> str:
    """A parameter's value, floats in four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else clean(str(value))


def clean(text: str) -> str:
    """`text` on one line, without control characters: an escape code in a message would move the user's cursor."""
    plain = _ESCAPE_CODE.sub("", text)
    return " ".join("".join(c if c.isprintable() else " " for c in plain).split())
