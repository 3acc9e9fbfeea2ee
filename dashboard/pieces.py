"""Small pieces of HTML that pages are put together from: chips, bars, sparklines, tables. All text is escaped here."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence

from automl.core import StudyRecord, StudyState, TrialState
from dashboard import theme


def chip(word: str, colour: str = "var(--am-muted)", glyph: str = "") -> str:
    """A word on a tinted ground; `colour` is CSS, `glyph` a letter before the word."""
    sign = f"<i>{theme.escape(glyph)}</i>" if glyph else ""
    return f'<span class="am-chip" style="--c:{colour}">{sign}{theme.escape(word)}</span>'


def trial_chip(state: TrialState | str) -> str:
    state = TrialState(state)
    return chip(state.value, f"var(--am-{state.value})", theme.GLYPHS[state])


def study_word(record: StudyRecord, running: int = 0) -> str:
    """The study's state in a word for people: an open study is "searching" only while somebody searches."""
    if record.state is not StudyState.OPEN:
        return record.state.value
    if record.paused:
        return "paused"
    return "searching" if running else "open"


_STUDY_CHIPS = {
    "searching": ("var(--am-running)", "◆"),
    "open": ("var(--am-muted)", "○"),
    "paused": ("var(--am-paused)", "■"),
    "finished": ("var(--am-complete)", "✓"),
    "stopped": ("var(--am-pruned)", "■"),
    "failed": ("var(--am-failed)", "✕"),
}


def study_chip(record: StudyRecord, running: int = 0) -> str:
    """`running` is how many trials or workers are at it now."""
    word = study_word(record, running)
    colour, glyph = _STUDY_CHIPS[word]
    return chip(word, colour, glyph)


def tags(names: Sequence[str]) -> str:
    return "".join(f'<span class="am-tag">{theme.escape(name)}</span>' for name in names)


def bar(share: float, colour: str = "var(--am-accent)", label: str = "") -> str:
    """A bar that is full at `share` 1; `label` says for the blind what it measures."""
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        f'<div class="am-bar" role="img" aria-label="{theme.escape(label)} {width:.0f} %">'
        f'<i style="width:{width:.1f}%;background:{colour}"></i></div>'
    )


def stacked_bar(counts: Mapping[str, int], total: int) -> str:
    """Trials by state out of `total`, each in its colour; what is left stays empty."""
    total = max(total, sum(counts.get(state.value, 0) for state in TrialState), 1)
    order = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED, TrialState.RUNNING)
    parts = "".join(
        f'<i style="width:{100 * counts.get(state.value, 0) / total:.2f}%;background:var(--am-{state.value})" '
        f'title="{counts.get(state.value, 0)} {state.value}"></i>'
        for state in order
        if counts.get(state.value, 0)
    )
    words = ", ".join(f"{counts[state.value]} {state.value}" for state in order if counts.get(state.value, 0))
    return f'<div class="am-bar" role="img" aria-label="{words or "no trials yet"}">{parts}</div>'


def sparkline(values: Sequence[float], colour: str, *, width: int = 132, height: int = 34) -> str:
    """The course of a value, from left to right; "" for fewer than two values."""
    finite = [value for value in values if math.isfinite(value)]
    if len(finite) < 2:
        return ""
    low, high = min(finite), max(finite)
    step = (width - 8) / (len(finite) - 1)
    shares = [(value - low) / (high - low) if high > low else 0.5 for value in finite]
    points = [(4 + i * step, 4 + (height - 8) * (1 - share)) for i, share in enumerate(shares)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    area = f"{points[0][0]:.1f},{height} {line} {points[-1][0]:.1f},{height}"
    x, y = points[-1]
    drawn = (
        f'<polygon points="{area}" fill="{colour}" fill-opacity="0.13"/>'
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>'
    )
    return picture(drawn, width, height)


def picture(svg: str, width: int, height: int, alt: str = "") -> str:
    """A drawing as an image: Streamlit takes SVG elements out of HTML, and leaves images that carry their data."""
    whole = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{svg}</svg>'
    data = base64.b64encode(whole.encode()).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" width="{width}" height="{height}" alt="{theme.escape(alt)}">'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Labels with values; the values are HTML."""
    items = "".join(f"<div><dt>{theme.escape(label)}</dt><dd>{value}</dd></div>" for label, value in pairs)
    return f'<dl class="am-facts">{items}</dl>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: frozenset[int] = frozenset()) -> str:
    """A table; the cells are HTML, those of the columns in `numbers` stand to the right."""
    kind = ['class="am-number"' if column in numbers else "" for column in range(len(head))]
    top = "".join(f"<th {kind[i]}>{theme.escape(word)}</th>" for i, word in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td {kind[i]}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    whole = f'<table class="am-table"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="am-scroll">{whole}</div>'


def link(text: str, href: str) -> str:
    """`href` is one of links.py."""
    return f'<a href="{theme.escape(href)}">{theme.escape(text)}</a>'
