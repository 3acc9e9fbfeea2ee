"""What readers look at beside boards: curves, the timeline of the workers, all studies at a glance."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import sqlalchemy as sa

from automl.board import Board, Curve, Overview, Segment
from automl.core import StudyRecord, StudyState, TrialState
from automl.errors import NotFound
from automl.storage.changes import transaction
from automl.storage.columns import Boards, floats, objects
from automl.storage.database import Database
from automl.storage.studies import there
from automl.storage.tables import event, report, study, trial
from automl.team import DEFAULT_PROJECT

#: Points of `Overview.trend` at most.
TREND = 60
#: Seconds left are told from so many of the newest trials.
RECENT = 20
#: On PostgreSQL `change` counts the events of so many of the newest transactions, up to `MOST`.
WINDOW = 1000
MOST = 4095

_ESCAPE_CODE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")

# The events by which an attempt begins.
_STARTS = ("claimed", "asked")


class Views:
    """Everything here only reads."""

    def __init__(self, database: Database, project: str = DEFAULT_PROJECT):
        self._database = database
        self._change = _change(database.dialect, project)

    def curves(self, study_id: int, numbers: Sequence[int]) -> dict[int, Curve]:
        """What these trials reported; an empty curve for one that has not reported."""
        wanted: sa.ColumnElement[bool]
        if self._database.dialect == "postgresql":
            given: Any = list(map(int, numbers))
            of_numbers = sa.bindparam("numbers", type_=sa.ARRAY(sa.Integer))
            wanted = trial.c.number == sa.any_(of_numbers)
        else:  # as JSON: a statement may not have as many parameters as there are trials
            given = f"[{','.join(str(int(number)) for number in numbers)}]"
            each = sa.func.json_each(sa.bindparam("numbers", type_=sa.Text)).table_valued("value")
            wanted = trial.c.number.in_(sa.select(each.c.value))
        metrics = sa.cast(report.c.metrics, sa.Text).label("metrics")
        rows = sa.select(trial.c.number, report.c.step, report.c.value, metrics).join(
            report, report.c.trial_id == trial.c.id
        )
        rows = rows.where(trial.c.study_id == study_id, wanted).order_by(trial.c.number, report.c.step)
        found: dict[int, list[sa.Row[Any]]] = {int(number): [] for number in numbers}
        for row in self._database.all(rows, {"numbers": given}):
            found[row.number].append(row)
        return {number: _curve(of_trial) for number, of_trial in found.items()}

    def timeline(self, study_id: int, limit: int) -> list[Segment]:
        """The newest `limit` attempts, in the order in which they started."""
        start, later = event.alias("start"), event.alias("later")
        starts = (
            sa.select(start)
            .where(start.c.study_id == study_id, start.c.state == TrialState.RUNNING.value, start.c.cause.in_(_STARTS))
            .order_by(start.c.position.desc(), start.c.seq.desc())  # along the index
            .limit(limit)
            .subquery("started")
        )
        end = sa.select(sa.func.min(later.c.seq)).where(
            later.c.trial_id == starts.c.trial_id,
            later.c.seq > starts.c.seq,
            later.c.state != TrialState.RUNNING.value,
        )
        rows = sa.select(
            starts.c.worker,
            trial.c.number,
            starts.c.attempt,
            starts.c.at.label("started_at"),
            event.c.at.label("ended_at"),
            sa.case((event.c.state == TrialState.WAITING.value, event.c.cause), else_=event.c.state).label("ended_by"),
        ).select_from(
            starts.join(trial, trial.c.id == starts.c.trial_id).outerjoin(event, event.c.seq == end.scalar_subquery())
        )
        ordered = rows.order_by(starts.c.position, starts.c.seq)
        found = map(tuple, self._database.all(ordered))
        return [Segment(worker or "", *others) for worker, *others in found]

    def change(self) -> int:
        """A number that grows with every event of the project. When a study is removed for good, it may shrink."""
        row = self._database.first(self._change)
        assert row is not None
        return int(row[0])


def _change(dialect: str, project: str) -> sa.Select[Any]:
    """Along the index, from study to study: nobody has to look at what other projects do."""
    mine = study.c.project == project
    if dialect != "postgresql":
        last = sa.select(event.c.seq).where(event.c.study_id == study.c.id, event.c.position == 0)
        of_study = last.order_by(event.c.seq.desc()).limit(1).scalar_subquery()
        return sa.select(sa.func.coalesce(sa.func.max(of_study), 0)).where(mine)
    of_study = sa.select(sa.func.max(event.c.position)).where(event.c.study_id == study.c.id).scalar_subquery()
    newest = sa.select(sa.func.max(of_study).label("newest")).where(mine).cte("newest")
    # A transaction that ends late may add an event below the newest: the count of them tells.
    late = (
        sa.select(sa.func.count())
        .where(event.c.study_id == study.c.id, event.c.position > newest.c.newest - WINDOW)
        .scalar_subquery()
    )
    count = sa.select(sa.func.sum(late)).where(mine).scalar_subquery()
    number = newest.c.newest * (MOST + 1) + sa.func.least(count, MOST)
    return sa.select(sa.func.coalesce(number, 0)).select_from(newest)


def tail(path: Path, limit_bytes: int) -> str | None:
    """The last lines of a log, as a terminal would have shown them at last; None when there is no such file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            data = file.read(limit_bytes)
    except OSError:
        return None
    if size > limit_bytes:  # not from the middle of a line, unless it is the only one
        data = data.partition(b"\n")[2] or data
    text = _ESCAPE_CODE.sub("", data.decode(errors="replace")).replace("\r\n", "\n")
    # What a progress bar has drawn over is gone.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    return "\n".join("".join(c for c in line if c == "\t" or c.isprintable()) for line in lines)


def _curve(rows: Sequence[sa.Row[Any]]) -> Curve:
    further = objects([row.metrics for row in rows])
    names = sorted({name for item in further for name in item})
    return Curve(
        np.array([row.step for row in rows], dtype=np.int64),
        floats([row.value for row in rows]),
        {name: floats([item.get(name) for item in further]) for name in names},
    )


@dataclass(frozen=True)
class _Digest:
    """What an overview says of a study's trials, as long as these are the same."""

    counts: Mapping[str, int]
    best: float | None
    best_number: int | None
    trend: tuple[float, ...]
    workers: int
    duration_s: float | None  #: of the newest trials, on average


class Overviews:
    """Remembers what it found for each study, and at which moment. Thread-safe."""

    def __init__(self, database: Database, project: str = DEFAULT_PROJECT):
        self._database = database
        self._boards = Boards(database, slim=True)
        self._lock = Lock()
        self._cursor = -1
        self._digests: dict[int, _Digest] = {}  # by study, of those that have not changed since
        self._boards_of: dict[int, Board] = {}
        last = event.alias("last")
        of_study = sa.select(last.c.at).where(last.c.study_id == study.c.id)
        last_at = of_study.order_by(last.c.position.desc(), last.c.seq.desc()).limit(1).scalar_subquery()
        since = sa.bindparam("cursor", type_=sa.BigInteger)
        cursor: sa.ColumnElement[int]
        if database.dialect == "postgresql":
            cursor = transaction(sa.func.pg_snapshot_xmin(sa.func.pg_current_snapshot()))
            is_new = event.c.position >= since
        else:
            cursor = sa.select(sa.func.coalesce(sa.func.max(event.c.seq), 0)).scalar_subquery()
            is_new = sa.and_(event.c.position == 0, event.c.seq > since)
        changed = sa.exists().where(event.c.study_id == study.c.id, is_new)
        look = sa.select(study.c.id, cursor.label("cursor"), changed.label("changed"), last_at.label("last_at"))
        self._look = look.where(there(project))

    def of(self, records: Sequence[StudyRecord]) -> list[Overview]:
        """Of these studies, as they are now; newest activity first, without those that were deleted."""
        with self._lock:
            rows = {row.id: row for row in self._database.all(self._look, {"cursor": self._cursor})}
            # What changed and is not asked for now is read when it is.
            self._digests = {id: digest for id, digest in self._digests.items() if id in rows and not rows[id].changed}
            found = [overview for record in records if (overview := self._overview(record, rows.get(record.id)))]
            self._boards_of = {id: board for id, board in self._boards_of.items() if id in rows}
            self._cursor = next((row.cursor for row in rows.values()), self._cursor)
        return sorted(found, key=lambda overview: -overview.last_active_at)

    def _overview(self, record: StudyRecord, row: sa.Row[Any] | None) -> Overview | None:
        if row is None:
            return None
        digest = self._digests.get(record.id)
        if digest is None:
            try:
                self._boards_of[record.id] = board = self._boards.read(record, self._boards_of.get(record.id))
            except NotFound:
                return None
            digest = self._digests[record.id] = _digest(board)
        return Overview(
            study=record,
            counts=digest.counts,
            best=digest.best,
            best_number=digest.best_number,
            trend=digest.trend,
            workers=digest.workers,
            seconds_left=_seconds_left(record, digest),
            last_active_at=row.last_at or record.created_at,
        )


def _digest(board: Board) -> _Digest:
    so_far = board.best_so_far
    shown = np.linspace(0, len(so_far) - 1, min(len(so_far), TREND)).astype(np.int64)  # the first and the last are in
    running = board.is_in(TrialState.RUNNING)
    names = {board.workers[place].rpartition("-")[0] for place in board.worker[running] if place >= 0}
    ended = board.finished.copy()
    ended[~board.is_in(TrialState.COMPLETE, TrialState.PRUNED)] = np.nan
    newest = np.argsort(-ended)[: min(RECENT, int((~np.isnan(ended)).sum()))]
    durations_s = board.duration_s[newest]
    durations_s = durations_s[~np.isnan(durations_s)]
    return _Digest(
        counts=board.counts,
        best=None if board.best is None else float(board.values[board.best, 0]),
        best_number=board.best,
        trend=tuple(so_far[shown].tolist()),
        workers=len(names),
        duration_s=float(durations_s.mean()) if len(durations_s) else None,
    )


def _seconds_left(record: StudyRecord, digest: _Digest) -> float | None:
    """None for a study that nobody works on, and before the first trial has ended."""
    running = digest.counts[TrialState.RUNNING.value]
    if record.state is not StudyState.OPEN or record.paused or not running:
        return None
    budget = (record.spec or {}).get("budget") or {}
    left_s = []
    if budget.get("trials") is not None and digest.duration_s is not None:
        ended = sum(digest.counts[state.value] for state in TrialState if state.is_finished)
        left = budget["trials"] + digest.counts[TrialState.CANCELLED.value] - ended
        left_s.append(digest.duration_s * max(left / running, 1.0 if left > 0 else 0.0))
    if budget.get("minutes") is not None:
        left_s.append(max(60.0 * budget["minutes"] - record.active_s, 0.0))
    return min(left_s, default=None)
