"""How a running search looks: a live view on a terminal, one HTML output in a notebook, plain lines anywhere else.

A display is shown snapshots (`Progress`) and draws them; it knows nothing of databases or workers. Names and messages
come from users, so nothing in them is markup here: not Rich's, not HTML's, not the terminal's own escape codes.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Protocol, TextIO

from automl.display.notebook import NotebookDisplay, in_notebook
from automl.display.progress import (
    PAUSED,
    FinishedTrial,
    Progress,
    RunningTrial,
    clean,
    estimate_seconds_left,
    format_count,
    format_duration,
    format_forecast,
    format_params,
    format_size,
    format_value,
    format_violated,
    state_and_reason,
)

__all__ = [
    "Display",
    "FinishedTrial",
    "NotebookDisplay",
    "PlainDisplay",
    "Progress",
    "RunningTrial",
    "estimate_seconds_left",
    "format_count",
    "format_duration",
    "format_forecast",
    "format_params",
    "format_size",
    "format_value",
    "format_violated",
    "open_display",
    "print_result",
]


class Display(Protocol):
    """Where a search is shown. `show` may be called as often as one likes; `close` once, with the last snapshot."""

    def show(self, progress: Progress) -> None: ...

    def close(self, progress: Progress) -> None: ...


def open_display(stream: TextIO | None = None) -> Display:
    """The display that suits where we are: a notebook, a terminal, or a plain `stream` (default: standard output)."""
    if stream is None and in_notebook():
        return NotebookDisplay()
    stream = _forgiving(stream or sys.stdout)
    if stream.isatty():
        from automl.display.terminal import TerminalDisplay, terminal

        console = terminal(stream)
        if not console.is_dumb_terminal:
            return TerminalDisplay(console)
    return PlainDisplay(stream)


class PlainDisplay:
    """A line for each trial that ended, and for a pause: for pipes, files and CI. Nothing is ever overwritten."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._is_paused = False

    def show(self, progress: Progress) -> None:
        ended = progress.ended - sum(trial.state != "cancelled" for trial in progress.finished)
        for trial in progress.finished:
            ended += trial.state != "cancelled"
            self._stream.write(_line(progress, trial, ended) + "\n")
            self._stream.flush()
        if (progress.state == PAUSED) != self._is_paused:
            self._is_paused = not self._is_paused
            self._stream.write(state_and_reason(progress) + "\n")
            self._stream.flush()

    def close(self, progress: Progress) -> None:
        self.show(progress)


def print_result(
    progress: Progress,
    top: Sequence[FinishedTrial],
    files: Sequence[str] = (),
    commands: Sequence[str] = (),
    stream: TextIO | None = None,
) -> None:
    """What a search came to: its best trials (`top`, best first), the best model's `files`, what to type next."""
    from automl.display.terminal import print_table

    print_table(progress, top, files, commands, _forgiving(stream or sys.stdout))


def _forgiving(stream: TextIO) -> TextIO:
    """The same stream, told to write `?` for a letter that it does not have: no search ends over one."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")
    return stream


def _line(progress: Progress, trial: FinishedTrial, ended: int) -> str:
    """`trial 7  complete  accuracy 0.9722  best 0.9806 (trial 3)  8/30  left 40 s`."""
    parts = [f"trial {trial.number}", trial.state]
    if trial.value is not None:
        parts.append(f"{clean(progress.metric)} {format_value(trial.value)}")
    if trial.violated:
        parts.append(format_violated(trial.violated))
    if trial.failure:
        parts.append(clean(trial.failure))
    if progress.best_number is not None:
        parts.append(f"best {format_value(progress.best_value)} (trial {progress.best_number})")
    parts.append(f"{ended}/{progress.budget_trials}" if progress.budget_trials else format_count(ended, "trial"))
    if progress.left_s:
        parts.append(f"left {format_duration(progress.left_s)}")
    if progress.forecast:
        parts.append(clean(progress.forecast))
    return "  ".join(parts)
