"""The report of a batch: one HTML file that holds all it shows and asks nobody for anything; its plots as PNG files.

Names, messages and values come from users: all of them are escaped, and the page forbids scripts to itself.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from automl.core import StudyRecord, StudyState, TrialRecord, TrialState
from automl.display import format_duration, format_value
from automl.display.progress import clean, param
from automl.errors import NotFound
from automl.storage.batches import Share, Spent
from automl.team import Batch

if TYPE_CHECKING:
    from automl.board import Board

#: Trials in the table of a study, failures told of, points of a curve.
TOP, FAILURES, POINTS = 5, 5, 400

_WIDTH, _HEIGHT = 720, 200
_STYLE = """
:root { color-scheme: light dark; --text: #1b2230; --muted: #5d6779; --line: #dde2ea; --card: #fff; --page: #f7f8fb;
  --accent: #4f46e5; --good: #0b7a5c; --bad: #c23a12; }
@media (prefers-color-scheme: dark) { :root { --text: #e8ebf2; --muted: #9aa5b8; --line: #2c3444; --card: #171c27;
  --page: #0f131b; --accent: #8f8cff; --good: #3ccfa4; --bad: #ff8a63; } }
body { margin: 0 auto; padding: 2rem 1rem; max-width: 60rem; background: var(--page); color: var(--text);
  font: 15px/1.5 -apple-system, 'Segoe UI', Roboto, 'Noto Sans', Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; } h2 { font-size: 1.2rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h3 { font-size: .95rem; margin: 1.1rem 0 .3rem; color: var(--muted); font-weight: 600; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1rem; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
th { color: var(--muted); font-weight: 500; font-size: .85rem; } td.n, th.n { text-align: right; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.muted { color: var(--muted); } .good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; } svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--muted); font: 11px sans-serif; } svg .axis { stroke: var(--line); }
svg .best { fill: none; stroke: var(--accent); stroke-width: 2; } svg .last { fill: none; stroke: var(--muted);
  stroke-width: 1.5; stroke-dasharray: 5 4; } svg circle { fill: var(--accent); opacity: .3; }
@media print { body { background: none; } section { break-inside: avoid; } }
"""


class Reader(Protocol):
    """What of the engine a report is made from."""

    def study(self, name: str) -> StudyRecord: ...
    def studies(self) -> list[StudyRecord]: ...
    def board(self, record: StudyRecord, board: Board | None = None) -> Board: ...
    def trials(self, record: StudyRecord, states: Sequence[TrialState] | None = None) -> list[TrialRecord]: ...
    def clock(self) -> float: ...


@dataclass(frozen=True, eq=False)
class Part:
    """A study of the batch, with the last search of the same code before it."""

    board: Board
    failures: Sequence[TrialRecord]  #: the newest
    before: Board | None
    hours: float
    gpu_hours: float

    @property
    def record(self) -> StudyRecord:
        return self.board.study

    @property
    def metric(self) -> str:
        return self.record.metric_names[0]


def report(reader: Reader, batch: Batch, spent: Spent) -> str:
    """The whole report, of a batch that is over or not."""
    parts = parts_of(reader, batch, spent)
    title = f"Batch {clean(batch.name)}"
    body = [_head(batch, spent, parts, reader.clock()), *(_section(at, part) for at, part in enumerate(parts))]
    # Should an escape ever be forgotten, the page still loads and runs nothing.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def parts_of(reader: Reader, batch: Batch, spent: Spent) -> list[Part]:
    """The studies of the batch in their order; one that is deleted meanwhile is left out."""
    everything = reader.studies()
    found = []
    for name in batch.studies:
        try:
            board = reader.board(reader.study(name))
        except NotFound:
            continue
        before = _before(board.study, everything, frozenset(batch.studies))
        failures = reader.trials(board.study, states=[TrialState.FAILED]) if board.counts["failed"] else []
        share = spent.studies.get(name, Share(0.0, 0.0))
        last = None if before is None else reader.board(before)
        found.append(Part(board, failures[-FAILURES:], last, share.hours, share.gpu_hours))
    return found


def _before(record: StudyRecord, everything: Sequence[StudyRecord], batch: frozenset[str]) -> StudyRecord | None:
    """The newest search of the same code for the same metric before this one."""
    like = [
        other
        for other in everything
        if other.id < record.id
        and other.name not in batch
        and other.origin_id is None
        and other.entrypoint == record.entrypoint is not None
        and other.metric_names[0] == record.metric_names[0]
        and other.directions[0] == record.directions[0]
    ]
    return max(like, key=lambda other: other.id, default=None)


# -- the page -----------------------------------------------------------------------------------------------------


def _head(batch: Batch, spent: Spent, parts: Sequence[Part], now: float) -> str:
    state = f"finished {_moment(batch.finished_at)}" if batch.finished_at else f"not finished yet, {_moment(now)}"
    facts = [
        ("trials", _of(f"{spent.trials}", batch.max_trials)),
        ("hours of training", _of(_hours(spent.hours), batch.max_hours)),
        ("GPU hours", _of(_hours(spent.gpu_hours), batch.max_gpu_hours)),
        ("submitted", _moment(batch.created_at)),
    ]
    rows = []
    for at, part in enumerate(parts):
        link = f'<a href="#study-{at}">{_text(part.record.name)}</a>'
        best = "–" if part.board.best is None else f"{_text(part.metric)} <b>{_value(part.board)}</b>"
        failed = part.board.counts["failed"]
        cells = [link, _text(_state(part.record)), best, _change(part), str(part.board.counts["total"]), str(failed)]
        rows.append([*cells, _hours(part.hours), _hours(part.gpu_hours)])
    head = ["study", "state", "best", "against the last run", "trials", "failed", "hours", "GPU hours"]
    return (
        f'<h1>Batch {_text(batch.name)}</h1><p class="muted">{_text(state)}</p>'
        f"<section>{_table([name for name, _ in facts], [[value for _, value in facts]])}</section>"
        f"<section>{_table(head, rows, numbers=4)}</section>"
    )


def _section(at: int, part: Part) -> str:
    record, board = part.record, part.board
    reason = f": {_text(record.reason)}" if record.reason else ""
    counts = ", ".join(
        f"{board.counts[state.value]} {state.value}" for state in TrialState if board.counts[state.value]
    )
    lines = [
        f'<section id="study-{at}"><h2>{_text(record.name)}</h2>',
        f'<p class="muted">{_text(_state(record))}{reason} · {counts or "no trials"} · {_hours(part.hours)} h, '
        f"{_hours(part.gpu_hours)} GPU h</p>",
    ]
    if board.best is None:
        lines.append("<p>No trial has a result.</p>")
    else:
        lines += [
            f"<p>Best {_text(part.metric)}: <b>{_value(board)}</b> (trial {board.best}) {_change(part)}</p>",
            f"<h3>Best {_text(part.metric)} so far{_dashed(part)}</h3>{curve_svg(part)}",
            f"<h3>Best trials</h3>{_top(board)}",
        ]
        changed = _changed_params(part)
        if changed:
            name = "" if part.before is None else _text(part.before.study.name)
            head = ["parameter of the best", f"in {name}", "now"]
            lines.append(f"<h3>What changed against the last run</h3>{_table(head, changed, raw=False)}")
    if part.failures:
        failed = [[str(trial.number), *_failure(trial)] for trial in reversed(part.failures)]
        lines.append(f"<h3>Failures</h3>{_table(['trial', 'kind', 'message'], failed, raw=False)}")
    return "".join(lines) + "</section>"


def _dashed(part: Part) -> str:
    return "" if part.before is None else f", dashed: {_text(part.before.study.name)}"


def _failure(trial: TrialRecord) -> tuple[str, str]:
    return (trial.failure.kind.value, trial.failure.message) if trial.failure is not None else ("–", "–")


def _top(board: Board) -> str:
    names = board.study.metric_names
    rows = []
    for row in board.ranking[:TOP].tolist():
        params = ", ".join(f"{name} = {param(value)}" for name, value in _params(board, row).items())
        values = [format_value(float(value)) for value in board.values[row]]
        rows.append([str(row), *values, format_duration(float(board.duration_s[row])), params])
    return _table(["trial", *names, "time", "parameters"], rows, raw=False)


def _params(board: Board, row: int) -> dict[str, Any]:
    """Whole numbers of the declaration are whole numbers again."""
    space = (board.study.spec or {}).get("space") or {}
    found = {}
    for name, column in board.params.items():
        value = column.at(row)
        if value is not None:
            is_whole = (space.get(name) or {}).get("kind") == "int"
            found[name] = int(value) if is_whole else value
    return found


def _changed_params(part: Part) -> list[list[str]]:
    if part.before is None or part.before.best is None or part.board.best is None:
        return []
    old, new = _params(part.before, part.before.best), _params(part.board, part.board.best)
    names = list(dict.fromkeys([*new, *old]))
    return [[name, _param(old.get(name)), _param(new.get(name))] for name in names if old.get(name) != new.get(name)]


def _change(part: Part) -> str:
    """By how much the best differs from that of the last run, in a good or a bad colour."""
    if part.before is None or part.before.best is None or part.board.best is None:
        return '<span class="muted">no run before</span>'
    difference = float(part.board.values[part.board.best, 0] - part.before.values[part.before.best, 0])
    if difference == 0:
        return '<span class="muted">as before</span>'
    good = difference * float(part.board.signs[0]) < 0
    return f'<span class="{"good" if good else "bad"}">{difference:+.3g} {"better" if good else "worse"}</span>'


# -- figures ------------------------------------------------------------------------------------------------------


def curve_svg(part: Part) -> str:
    """The best value so far over the trials that have ended: a line, the last run's dashed, each result a dot."""
    board = part.board
    dots = board.values[board.by_finish, 0]
    last = part.before.best_so_far if part.before is not None else np.empty(0)
    low, high = _limits(dots, [board.best_so_far, last])
    longest = max(len(board.best_so_far), len(last), 2)

    def x(place: float) -> float:
        return 56 + (_WIDTH - 66) * (place - 1) / (longest - 1)

    def y(value: float) -> float:
        return 10 + (_HEIGHT - 40) * (1 - (min(max(value, low), high) - low) / (high - low))

    def steps(values: np.ndarray) -> str:
        """Only where it moves, so that fifty thousand trials are a short line."""
        moves = [at for at in range(len(values)) if at == 0 or values[at] != values[at - 1]]
        path = [f"M{x(1):.1f} {y(float(values[0])):.1f}"]
        path += [f"H{x(at + 1):.1f}V{y(float(values[at])):.1f}" for at in moves[1:]]
        return "".join([*path, f"H{x(len(values)):.1f}"])

    drawn = [f'<line class="axis" x1="56" x2="{_WIDTH - 10}" y1="{v:.1f}" y2="{v:.1f}"/>' for v in (10, _HEIGHT - 30)]
    for value, place in ((high, 14), (low, _HEIGHT - 30)):
        drawn.append(f'<text x="50" y="{place}" text-anchor="end">{_text(format_value(value))}</text>')
    drawn.append(f'<text x="56" y="{_HEIGHT - 10}">1</text>')
    drawn.append(f'<text x="{_WIDTH - 10}" y="{_HEIGHT - 10}" text-anchor="end">{longest} trials</text>')
    shown = np.unique(np.linspace(0, len(dots) - 1, min(len(dots), POINTS)).astype(int))
    drawn += [f'<circle cx="{x(at + 1):.1f}" cy="{y(float(dots[at])):.1f}" r="2.5"/>' for at in shown.tolist()]
    if len(last):
        drawn.append(f'<path class="last" d="{steps(last)}"/>')
    if len(board.best_so_far):
        drawn.append(f'<path class="best" d="{steps(board.best_so_far)}"/>')
    label = f"The best {_text(part.metric)} so far, to {_value(board)} after {len(dots)} results"
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{"".join(drawn)}</svg>'


def _limits(dots: np.ndarray, lines: Sequence[np.ndarray]) -> tuple[float, float]:
    """Of the axis: all of the lines, and of the dots what is not far out."""
    values = np.concatenate([*lines, np.quantile(dots, (0.1, 0.9)) if len(dots) else np.empty(0)])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def write_plots(parts: Sequence[Part], folder: Path) -> list[Path]:
    """A PNG file of each study that has a result, `1-NAME.png`; where they are. Raises `OSError`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second: only who wants plots pays for it
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for at, part in enumerate(parts, start=1):
        board = part.board
        if board.best is None:
            continue
        figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        dots = board.values[board.by_finish, 0]
        last = part.before.best_so_far if part.before is not None else np.empty(0)
        axes.scatter(np.arange(1, len(dots) + 1), dots, s=10, color="#4f46e5", alpha=0.3, label="results")
        axes.step(np.arange(1, len(dots) + 1), board.best_so_far, where="post", color="#4f46e5", label="best so far")
        if len(last):
            axes.step(np.arange(1, len(last) + 1), last, where="post", color="#5d6779", ls="--", label="the last run")
        low, high = _limits(dots, [board.best_so_far, last])
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        # Nobody's name is read as a formula.
        axes.set_title(clean(part.record.name), parse_math=False)
        axes.set_ylabel(clean(part.metric), parse_math=False)
        axes.set_xlabel("trials that have ended")
        axes.legend(frameon=False)
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in part.record.name)[:80]
        path = folder / f"{at}-{name}.png"
        figure.savefig(path)
        written.append(path)
    return written


# -- words --------------------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 99, raw: bool = True) -> str:
    """Columns from `numbers` on stand to the right. `raw`: the cells are HTML already; heads are texts."""
    kind = ['class="n"' if at >= numbers else "" for at in range(len(head))]
    top = "".join(f"<th {kind[at]}>{_text(word)}</th>" for at, word in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td {kind[at]}>{cell if raw else _text(cell)}</td>" for at, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _text(text: object) -> str:
    """For HTML, also inside of quoted attributes."""
    return html.escape(clean(str(text)))


def _value(board: Board) -> str:
    return "–" if board.best is None else format_value(float(board.values[board.best, 0]))


def _param(value: Any) -> str:
    return "–" if value is None else param(value)


def _state(record: StudyRecord) -> str:
    return "paused" if record.paused and record.state is StudyState.OPEN else record.state.value


def _of(used: str, limit: float | None) -> str:
    return used if limit is None else f"{used} of {limit:g}"


def _hours(hours: float) -> str:
    return f"{hours:.2f}" if hours < 10 else f"{hours:.0f}"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%-d %b %Y %H:%M UTC")
