"""The view of a search in a notebook: one HTML output that is drawn again and again."""

from __future__ import annotations

import html
import math
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from automl.display.progress import (
    SHOWN_FAILURES,
    Progress,
    clean,
    done,
    format_duration,
    format_value,
    format_violated,
    param,
    state_and_reason,
    times,
)

#: Each redraw crosses a network and stays in the browser's memory.
_PERIOD_S = 1 / 2


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")  # a notebook has imported it long before us
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


class NotebookDisplay:
    """One output cell that is drawn again and again, and stays with the last snapshot."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._drawn_at = -math.inf
        self._handle: Any = None

    def show(self, progress: Progress) -> None:
        now = self._clock()
        if now - self._drawn_at >= _PERIOD_S:
            self._drawn_at = now
            self._draw(progress)

    def close(self, progress: Progress) -> None:
        self._draw(progress)

    def _draw(self, progress: Progress) -> None:
        from IPython.display import HTML, display

        output = HTML(to_html(progress))
        if self._handle is None:
            self._handle = display(output, display_id=True)
        else:
            self._handle.update(output)


def to_html(progress: Progress) -> str:
    """`progress` as HTML. Inherits colours from the page, and adds only such as do on white and on black."""

    def bar(label: str, fraction: float, colour: str) -> str:
        return (
            f'<div role="progressbar" aria-label="{label}" aria-valuenow="{100 * fraction:.0f}" '
            'aria-valuemin="0" aria-valuemax="100" '
            'style="height:6px;border-radius:3px;background:rgba(128,128,128,.25);overflow:hidden">'
            f'<div style="height:6px;width:{100 * fraction:.1f}%;background:{colour}"></div></div>'
        )

    def row(cells: Iterable[str]) -> str:
        cell = '<td style="text-align:left;padding:2px 14px 2px 0;background:none;border:0">{}</td>'
        return f'<tr style="background:none">{"".join(map(cell.format, cells))}</tr>'

    def table(rows: Iterable[str]) -> str:
        style = "border-collapse:collapse;margin:10px 0 0 0;border:0;font:inherit;color:inherit"
        return f'<table style="{style}">{"".join(rows)}</table>'

    faint = '<span style="opacity:.6">{}</span>'.format
    counts = "&ensp;".join(
        f"{count} {faint(key)}" for key, count in progress.counts.items() if count and key != "total"
    )
    parts = [
        f'<div style="display:flex;justify-content:space-between;margin-bottom:6px"><span><b>{_escape(progress.study)}'
        f"</b>&ensp;{faint(_escape(state_and_reason(progress)))}</span>{faint(times(progress))}</div>",
        bar("budget used", progress.fraction, "#2f9e8f"),
        f'<div style="margin-top:6px">{done(progress)}&ensp;{faint("·")}&ensp;{counts}</div>',
    ]
    if progress.best_number is not None:
        params = ", ".join(f"{_escape(k)}&nbsp;{_escape(param(v))}" for k, v in progress.best_params.items())
        best = f"{_escape(progress.metric)}&nbsp;<b>{format_value(progress.best_value)}</b>"
        cells = [faint("best"), best, faint(f"trial&nbsp;{progress.best_number}"), params]
        if progress.best_violated:
            cells.append(faint(_escape(format_violated(progress.best_violated))))
        parts.append(table([row(cells)]))
    if progress.forecast:
        parts.append(f'<div style="margin-top:6px">{faint(_escape(progress.forecast))}</div>')
    rows = []
    for trial in progress.running:
        steps, meter = str(trial.step or ""), ""
        if trial.max_step:
            steps = f"{trial.step or 0}/{trial.max_step}"
            part = min((trial.step or 0) / trial.max_step, 1.0)
            meter = f'<div style="width:160px">{bar(f"trial {trial.number}", part, "#4c8dd6")}</div>'
        value = format_value(trial.value) if trial.value is not None else ""
        rows.append(row([f"trial {trial.number}", meter, steps, value, faint(format_duration(trial.elapsed_s))]))
    if rows:
        parts.append(table(rows))
    parts += [
        f'<div style="color:#d9534f;margin-top:4px">{_escape(line)}</div>'
        for line in progress.failures[-SHOWN_FAILURES:]
    ]
    return f'<div style="max-width:760px;font-size:13px;line-height:1.5">{"".join(parts)}</div>'


def _escape(text: str) -> str:
    return html.escape(clean(text))
