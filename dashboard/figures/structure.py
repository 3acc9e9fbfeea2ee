"""The space as a tree: which value of which choice switches which parameter on, and where the best trials are.

HTML with a small histogram for each parameter, whose bars are elements because `st.html` takes no SVG; the style is in
static/study.css.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from automl.board import Board
from automl.declaration import Choice, Parameter
from automl.display.progress import param
from dashboard import theme
from dashboard.figures.common import Axis, axes, declared

#: "The best": this share of the counted trials, and at least so many.
BEST_SHARE, LEAST_BEST = 0.2, 5
_BINS = 12


def structure(board: Board) -> str:
    """HTML; "" when nothing is known of any parameter.

    A parameter hangs under the value of the last parent in its condition; further parents are named beside it. One
    that no declaration knows stands by itself with the range that was tried.
    """
    tried = {axis.name: axis for axis in axes(board)}
    known = declared(board)
    names = [*known, *(name for name in tried if name not in known)]
    roots = [name for name in names if name not in known or not known[name].when]
    items = "".join(_item(name, board, known, tried) for name in roots)
    return f'<ul class="am-tree">{items}</ul>' if items else ""


def best_rows(board: Board) -> np.ndarray:
    """(k,) the best fifth of the counted trials."""
    return board.ranking[: max(LEAST_BEST, round(BEST_SHARE * len(board.ranking)))]


def _item(name: str, board: Board, known: Mapping[str, Parameter], tried: Mapping[str, Axis]) -> str:
    parameter = known.get(name)
    axis = tried.get(name)
    further = ""
    if parameter is not None and len(parameter.when or {}) > 1:
        conditions = [
            f"{parent} = {' or '.join(param(value) for value in values)}"
            for parent, values in list((parameter.when or {}).items())[:-1]
        ]
        further = f'<span class="am-tree-also">only if {theme.escape(" and ".join(conditions))}</span>'
    card = (
        f'<div class="am-tree-card"><div><b>{theme.escape(name)}</b> '
        f"<span>{theme.escape(_kind(parameter, axis))}</span>{_prior(parameter)}{further}</div>"
        f"{_histogram(board, axis) if axis is not None else ''}</div>"
    )
    branches = "".join(
        f'<li><span class="am-tree-value">{theme.escape(label)}</span><ul>'
        + "".join(_item(child, board, known, tried) for child in children)
        + "</ul></li>"
        for label, children in _branches(name, known)
    )
    return f"<li>{card}{f'<ul class=am-tree-branches>{branches}</ul>' if branches else ''}</li>"


def _branches(name: str, known: Mapping[str, Parameter]) -> Iterator[tuple[str, list[str]]]:
    """Each value, or set of values, of `name` that switches something on, and what."""
    found: dict[tuple[object, ...], list[str]] = {}
    for child, parameter in known.items():
        when = parameter.when or {}
        if when and list(when)[-1] == name:
            found.setdefault(tuple(when[name]), []).append(child)
    for values, children in found.items():
        yield "if " + " or ".join(param(value) for value in values), children


def _kind(parameter: Parameter | None, axis: Axis | None) -> str:
    """Its range in words."""
    if isinstance(parameter, Choice) or (parameter is None and axis is not None and axis.column.choices is not None):
        values = parameter.choices if isinstance(parameter, Choice) else (axis.column.choices or ()) if axis else ()
        shown = [param(value) for value in values[:6]]
        more = f", and {len(values) - 6} more" if len(values) > 6 else ""
        return f"one of {', '.join(shown)}{more}"
    if parameter is None:
        low, high = axis.limits if axis is not None else (0.0, 0.0)
        ends = (10.0**low, 10.0**high) if axis is not None and axis.is_log else (low, high)
        return f"tried from {ends[0]:.4g} to {ends[1]:.4g}"
    whole = "whole, " if parameter.kind == "int" else ""
    step = f", steps of {param(parameter.step)}" if parameter.step not in (None, 1) else ""
    return f"{whole}{param(parameter.low)} to {param(parameter.high)}{', log scale' if parameter.log else ''}{step}"


def _prior(parameter: Parameter | None) -> str:
    """What the user believes in."""
    if parameter is None or parameter.prior is None:
        return ""
    if isinstance(parameter, Choice):
        favoured = max(zip(parameter.prior, parameter.choices, strict=True), key=lambda pair: pair[0])
        words = f"believed: {param(favoured[1])}"
    else:
        guess, spread = parameter.prior  # type: ignore[misc]  # a pair by now
        words = f"believed: {param(guess)} ± {100 * spread:.0f} % of the range"
    return f'<span class="am-tree-also">{theme.escape(words)}</span>'


def _histogram(board: Board, axis: Axis) -> str:
    """Where the best trials are (filled) among all that counted (outline behind), along the parameter."""
    best = _shares(axis, best_rows(board))
    if best is None:
        return ""
    everyone = _shares(axis, board.ranking)
    assert everyone is not None  # the best are among them
    top = max(float(best.max()), float(everyone.max()), 1e-9)
    bins = "".join(
        f'<span><i class="all" style="height:{100 * ours / top:.0f}%"></i>'
        f'<i class="best" style="height:{100 * theirs / top:.0f}%"></i></span>'
        for ours, theirs in zip(everyone, best, strict=True)
    )
    words = f"of the best trials, most are {_bin_words(axis, int(best.argmax()), len(best))}"
    return (
        f'<div class="am-hist" role="img" title="{theme.escape(words)}" aria-label="{theme.escape(words)}">{bins}</div>'
    )


def _shares(axis: Axis, rows: np.ndarray) -> np.ndarray | None:
    """(bins,) shares of `rows` along the axis; None when none of them has the parameter."""
    values = axis.column.values[rows]
    values = values[~np.isnan(values)]
    if not len(values):
        return None
    if axis.column.choices is not None:
        counts = np.bincount(values.astype(int), minlength=len(axis.column.choices))
    else:
        counts = np.bincount(np.clip((axis.unit(values) * _BINS).astype(int), 0, _BINS - 1), minlength=_BINS)
    return counts / counts.sum()


def _bin_words(axis: Axis, place: int, bins: int) -> str:
    if axis.column.choices is not None:
        return f"at {param(axis.column.choices[place])}"
    low, high = axis.limits
    ends = [low + (high - low) * (place + i) / bins for i in (0, 1)]
    shown = [10.0**end if axis.is_log else end for end in ends]
    return f"from {shown[0]:.3g} to {shown[1]:.3g}"
