"""The live view of a search on a terminal, and the table at its end. The one module that imports Rich."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from automl.display.progress import (
    SHOWN_FAILURES,
    FinishedTrial,
    Progress,
    RunningTrial,
    clean,
    done,
    format_duration,
    format_params,
    format_value,
    format_violated,
    param,
    state_and_reason,
    state_word,
    times,
)

#: Eight redraws a second look alive; more only cost.
_PERIOD_S = 1 / 8

#: Beyond this many columns, bars get long and lines hard to follow.
_MAX_WIDTH = 110

#: Lines of the view that are neither running trials nor failures, with the parameters on three.
_FIXED_LINES = 13
_SHOWN_PARAMS = 12

_TOP_TRIALS = 5
_COLOURS = {"complete": "green", "running": "cyan", "failed": "red", "paused": "yellow"}


def terminal(stream: TextIO) -> Console:
    """A console on which text is text: no markup, no emoji codes, no guessed highlights, no HTML."""
    return Console(file=stream, markup=False, highlight=False, emoji=False, force_jupyter=False)


class TerminalDisplay:
    """A live view that takes the terminal's last lines while the search runs and leaves none of them behind."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic):
        self._console = console
        self._clock = clock
        self._drawn_at = -math.inf
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._live.start()

    def show(self, progress: Progress) -> None:
        now = self._clock()
        if now - self._drawn_at >= _PERIOD_S:
            self._drawn_at = now
            self._live.update(view(progress, self._console.height), refresh=True)

    def close(self, progress: Progress) -> None:
        self._live.stop()


def view(progress: Progress, height: int = 24) -> RenderableType:
    """The live view, for a terminal of `height` lines and any width from 60 columns."""
    head = Table.grid(expand=True)
    head.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    head.add_column(justify="right", no_wrap=True)
    title = Text(clean(progress.study), style="bold")
    title.append(f"  {state_and_reason(progress)}", style="dim")
    head.add_row(title, Text(times(progress), style="dim"))

    overall = Table.grid(expand=True, padding=(0, 2, 0, 0))
    overall.add_column(ratio=1)
    overall.add_column(no_wrap=True, justify="right")
    bar = ProgressBar(
        total=1.0, completed=progress.fraction, style="bright_black", complete_style="cyan", finished_style="green"
    )
    overall.add_row(bar, Text(done(progress)))

    failures = [
        Text(clean(line), style="red", no_wrap=True, overflow="ellipsis")
        for line in progress.failures[-SHOWN_FAILURES:]
    ]
    room = max(1, height - _FIXED_LINES - len(failures))
    parts = [head, overall, _counts(progress), Text(), _best(progress)]
    if progress.running:
        parts += [Text(), _running(progress.running, room)]
    if failures:
        parts += [Text(), *failures]
    return Constrain(Padding(Group(*parts), (1, 1, 0, 1)), _MAX_WIDTH)


def _counts(progress: Progress) -> RenderableType:
    text = Text(no_wrap=True, overflow="ellipsis")
    for state in ("complete", "pruned", "failed", "cancelled", "running", "paused", "waiting"):
        if count := progress.counts.get(state, 0):
            text.append(f"{count} ", style=_COLOURS.get(state, "")).append(f"{state}   ", style="dim")
    return text


def _best(progress: Progress) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    if progress.best_number is None:
        table.add_row("best", Text("none yet", style="dim"))
        return table
    value = Text(f"{clean(progress.metric)} ", overflow="ellipsis", no_wrap=True)
    value.append(format_value(progress.best_value), style="bold green")
    value.append(f"   trial {progress.best_number}", style="dim")
    if progress.best_violated:
        value.append(f"   {format_violated(progress.best_violated)}", style="yellow")
    params = Text()
    for name, setting in list(progress.best_params.items())[:_SHOWN_PARAMS]:
        params.append(f"{clean(name)}=", style="dim").append(f"{param(setting)}   ")
    if (more := len(progress.best_params) - _SHOWN_PARAMS) > 0:
        params.append(f"and {more} more", style="dim")
    table.add_row("best", value)
    table.add_row("", params)
    if progress.forecast:
        table.add_row("ahead", Text(clean(progress.forecast)))
    return table


def _running(trials: Sequence[RunningTrial], room: int) -> RenderableType:
    table = Table.grid(expand=True, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for _ in range(3):
        table.add_column(no_wrap=True, justify="right")
    shown = trials if len(trials) <= room else trials[: room - 1]
    for trial in shown:
        name = Text(f"trial {trial.number}")
        if trial.attempt > 1:
            name.append(f"  attempt {trial.attempt}", style="yellow")
        bar: RenderableType = Text()
        steps = "" if trial.step is None else str(trial.step)
        if trial.max_step:
            bar = ProgressBar(
                total=trial.max_step, completed=trial.step or 0, style="bright_black", complete_style="blue"
            )
            steps = f"{trial.step or 0}/{trial.max_step}"
        value = Text(format_value(trial.value) if trial.value is not None else "")
        table.add_row(name, bar, steps, value, Text(format_duration(trial.elapsed_s), style="dim"))
    if len(shown) < len(trials):
        return Group(table, Text(f"and {len(trials) - len(shown)} more running", style="dim"))
    return table


def print_table(
    progress: Progress,
    top: Sequence[FinishedTrial],
    files: Sequence[str],
    commands: Sequence[str],
    stream: TextIO,
) -> None:
    """See `automl.display.print_result`."""
    console = terminal(stream)
    console.print()
    title = Text(clean(progress.study), style="bold")
    title.append(f"  {state_word(progress)}   {done(progress)}", style="dim")
    title.append(f" in {format_duration(progress.elapsed_s)}", style="dim")
    console.print(title)
    if progress.reason:
        console.print(Text(clean(progress.reason), style="dim"))
    console.print()
    if top:
        console.print(_result_table(progress, top[:_TOP_TRIALS]))
    else:
        console.print(Text("No trial completed: there is no best one.", style="yellow"))
    for heading, lines in (("Best model", files), ("Next", commands)):
        if lines:
            console.print()
            console.print(Text(heading, style="bold"))
        for line in lines:
            console.print(Text(f"  {clean(line)}"), soft_wrap=True)  # stays one line, to be copied


def _result_table(progress: Progress, top: Sequence[FinishedTrial]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column(Text(clean(progress.metric)), justify="right", no_wrap=True)
    table.add_column("parameters", overflow="fold")
    table.add_column("took", justify="right", no_wrap=True)
    for i, trial in enumerate(top):
        value = Text(format_value(trial.value), style="" if i else "bold green")
        params = Text(format_params(trial.params))
        if trial.violated:
            params.append(f"  {format_violated(trial.violated)}", style="yellow")
        table.add_row(str(trial.number), value, params, format_duration(trial.duration_s))
    return table
