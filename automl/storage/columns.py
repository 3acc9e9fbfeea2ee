"""Boards: the trials of a study as columns, read whole or brought up to date by what the history says has changed.

As in `feed.py`, a look is one statement, so that the cursor, the names of what has changed and their rows are of one
moment, and on PostgreSQL the cursor is the oldest transaction that was still running then. Here a finished trial may
change as well, when it is marked as invalid; so a row is compared with what the board has, and a board of which no row
differs stays the same object.

What a column can hold depends on the declaration and on the distributions that the study has ever had, never on the
order in which rows were read: a board that was brought up to date equals one that is made anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import count
from typing import Any

import numpy as np
import sqlalchemy as sa

from automl.board import FAILURES, STATES, Board, Column
from automl.core import CONSTRAINT, Attr, StudyRecord, TrialState
from automl.errors import NotFound
from automl.storage.changes import STUDY, changes
from automl.storage.database import Database, dumps, loads
from automl.storage.tables import distribution, report, study, trial

#: Trials that a statement of the first look reads: all rows at once would be in memory twice.
PIECE = 5000

_STATE = {state.value: at for at, state in enumerate(STATES)}
_FAILURE: Mapping[str | None, int] = {None: -1} | {kind.value: at for at, kind in enumerate(FAILURES)}

#: States in which the newest report says more than the result does.
_REPORTING = (TrialState.RUNNING.value, TrialState.PAUSED.value, TrialState.PRUNED.value)

#: Columns of a board that hold numbers: what they are made of, and the type.
_FLOATS = ("created", "started", "finished", "last_value", "mean", "sd")
_OWN = {"state": np.int8, "failure": np.int8, "attempt": np.int16, "step": np.int64, "invalid": np.bool_}


@dataclass(frozen=True)
class Layout:
    """What the values of a study's parameters can be: None for numbers, else the choices in declared order."""

    params: Mapping[str, tuple[Any, ...] | None]

    def fits(self, board: Board) -> bool:
        """Whether the board's columns are these."""
        return list(self.params.items()) == [(name, column.choices) for name, column in board.params.items()]


@dataclass(frozen=True)
class Rows:
    """Some trials of a study, column by column."""

    number: np.ndarray  #: (k,)
    own: Mapping[str, np.ndarray]  #: the columns of `Board` of that name
    workers: Sequence[str | None]  #: (k,)
    params: Mapping[str, np.ndarray]
    metrics: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.number)


class Look:
    """The statements of one dialect, for studies of one or of several metrics.

    `slim`: without what only a page about the study itself shows.
    """

    def __init__(self, dialect: str, *, slim: bool, several: bool):
        self.columns = _columns(dialect, slim=slim, several=several)
        low = sa.bindparam("low", type_=sa.Integer)
        cursor, is_changed = changes(dialect)
        of_study = trial.c.study_id == study.c.id
        self.everything = self._statement(
            cursor, sa.and_(of_study, trial.c.number >= low, trial.c.number < low + PIECE)
        )
        # The study is not named again: SQLite would go through all of its trials.
        self.changed = self._statement(cursor, is_changed)

    def _statement(self, cursor: sa.ColumnElement[Any], which: sa.ColumnElement[bool]) -> sa.Select[Any]:
        """One row at least, if there is the study: the new cursor, and the columns of a trial or NULLs."""
        newest = report.alias("newest")
        last = sa.select(sa.func.max(newest.c.step)).where(newest.c.trial_id == trial.c.id).scalar_subquery()
        reporting = trial.c.state.in_([sa.literal_column(f"'{state}'") for state in _REPORTING])
        rows = study.outerjoin(trial, which)
        if "step" in self.columns:
            is_newest = sa.and_(report.c.trial_id == trial.c.id, reporting, report.c.step == last)
            rows = rows.outerjoin(report, is_newest)
        columns = [column.label(name) for name, column in self.columns.items()]
        wanted = sa.select(cursor.label("cursor"), *columns).select_from(rows)
        return wanted.where(study.c.id == STUDY, study.c.deleted_at.is_(None))


def _columns(dialect: str, *, slim: bool, several: bool) -> dict[str, sa.ColumnElement[Any]]:
    """What is read of a trial, by the name that it has below."""
    found: dict[str, sa.ColumnElement[Any]] = {
        "number": trial.c.number,
        "state": trial.c.state,
        "values": sa.cast(trial.c.objectives, sa.Text) if several else trial.c.value,
        "excess": _constraints(dialect),
        "invalid": trial.c.invalid.is_not(None),
        "worker": trial.c.worker,
        "created": trial.c.created_at,
        "started": trial.c.started_at,
        "finished": trial.c.finished_at,
    }
    if not slim:
        found |= {
            "attempt": trial.c.attempt,
            "failure": trial.c.failure_kind,
            "params": _params(dialect),
            "metrics": _unless_empty(trial.c.metrics),
            "mean": _why(dialect, "mean"),
            "sd": _why(dialect, "sd"),
            "step": report.c.step,
            "last_value": report.c.value,
        }
    return found


def _params(dialect: str) -> sa.ColumnElement[str]:
    """Of an enqueued trial, which the sampler has not completed yet, those that were given with it."""
    text = sa.cast(trial.c.params, sa.Text)
    fixed: sa.ColumnElement[Any]
    if dialect == "postgresql":
        fixed = sa.cast(trial.c.system_attrs["fixed_params"], sa.Text)
    else:
        fixed = sa.func.json_extract(trial.c.system_attrs, "$.fixed_params")
    is_enqueued = sa.and_(trial.c.state == TrialState.WAITING.value, text == "{}")
    return sa.case((is_enqueued, sa.func.coalesce(fixed, text)), else_=text)


def _unless_empty(column: sa.Column[Any]) -> sa.ColumnElement[str | None]:
    return sa.func.nullif(sa.cast(column, sa.Text), "{}")


def _why(dialect: str, key: str) -> sa.ColumnElement[Any]:
    """A number of the sampler's, or a text of one. Extracted there: the whole reason is long."""
    if dialect == "postgresql":
        return trial.c.system_attrs[(Attr.WHY.value, key)].as_string()
    return sa.func.json_extract(trial.c.system_attrs, f'$."{Attr.WHY.value}".{key}')


def _constraints(dialect: str) -> sa.ColumnElement[str | None]:
    """A JSON array of what a trial's constraints are, as `core.constraints_of` finds them; NULL without any."""
    listed, named = CONSTRAINT.rstrip(":"), f"{CONSTRAINT}*"
    if dialect == "postgresql":
        path = f'$.keyvalue() ? (@.key == "{listed}" || @.key starts with "{CONSTRAINT}").value'
        found = sa.func.jsonb_path_query_array(trial.c.system_attrs, sa.literal_column(f"'{path}'"))
        return sa.func.nullif(sa.cast(found, sa.Text), "[]")
    each = sa.func.json_each(trial.c.system_attrs).table_valued("key", "value")
    of_trial = sa.select(sa.func.json_group_array(each.c.value))
    of_trial = of_trial.where(sa.or_(each.c.key == listed, each.c.key.op("GLOB")(named)))
    # Taking the object apart costs more than all the rest: only where there is something in it.
    there = sa.func.instr(trial.c.system_attrs, f'"{listed}') > 0
    return sa.case((there, of_trial.scalar_subquery()))


class Boards:
    """Makes boards and brings them up to date. Thread-safe."""

    def __init__(self, database: Database, *, slim: bool = False):
        """`slim`: only what an overview of studies needs: no parameters, no reports, no predictions."""
        self._database = database
        self._slim = slim
        self._looks = {several: Look(database.dialect, slim=slim, several=several) for several in (False, True)}

    def read(self, record: StudyRecord, board: Board | None = None) -> Board:
        """`record` is the study as it is now. Raises `NotFound` when it was deleted in the meantime.

        The same object as `board` when nothing has changed; the seconds of search alone are no change.
        """
        layout = self._layout(record)
        if board is None or board.study.id != record.id or not layout.fits(board):
            return self._whole(record, layout)
        look = self._look(record)
        found = self._database.all(look.changed, {"study_id": record.id, "cursor": board.cursor})
        cursor, rows = self._parsed(record, look, layout, found)
        return _merged(board, record, cursor, rows)

    def _whole(self, record: StudyRecord, layout: Layout) -> Board:
        look, pieces = self._look(record), []
        cursor = 0
        with self._database.snapshot() as connection:
            for low in count(0, PIECE):
                result = connection.execute(look.everything, {"study_id": record.id, "low": low})
                # The driver's own tuples: to make rows of them takes as long as to read them.
                cursor, rows = self._parsed(record, look, layout, result.cursor.fetchall())
                pieces.append(rows)
                if len(rows) < PIECE:  # numbers have no gaps
                    break
        return _made(record, cursor, layout, _together(pieces))

    def _look(self, record: StudyRecord) -> Look:
        return self._looks[len(record.directions) > 1]

    def _layout(self, record: StudyRecord) -> Layout:
        if self._slim:
            return Layout({})
        declared = (record.spec or {}).get("space")
        if declared is not None:
            choices = {name: body.get("choices") for name, body in declared.items()}
            return Layout({name: None if given is None else tuple(given) for name, given in choices.items()})
        known = sa.select(distribution.c.name, distribution.c.body).where(distribution.c.study_id == record.id)
        found: dict[str, tuple[Any, ...] | None] = {}
        for row in self._database.all(known.order_by(distribution.c.id)):
            given = json.loads(row.body)["attributes"].get("choices")
            before = found.setdefault(row.name, None)
            if given is not None:
                new = [value for value in given if not any(_is(value, old) for old in before or ())]
                found[row.name] = (*(before or ()), *new)
        return Layout(found)

    def _parsed(
        self, record: StudyRecord, look: Look, layout: Layout, found: Sequence[Sequence[Any]]
    ) -> tuple[int, Rows]:
        """The cursor, and the trials by number."""
        if not found:
            raise NotFound(f"study {record.id} is gone", field="study")
        cursor = int(found[0][0])
        if found[0][1] is None:
            found = []
        names = ("cursor", *look.columns)
        columns: dict[str, Sequence[Any]] = dict(zip(names, zip(*found, strict=True), strict=True)) if found else {}
        rows = _rows(columns, len(record.directions), layout, len(found))
        order = np.argsort(rows.number)
        if (order[1:] < order[:-1]).any():
            rows = _taken(rows, order)
        return cursor, rows


# -- from rows to columns --------------------------------------------------------------------------------------------


def _rows(columns: Mapping[str, Sequence[Any]], metrics: int, layout: Layout, k: int) -> Rows:
    def of(name: str) -> Sequence[Any]:
        return columns.get(name) or [None] * k

    own: dict[str, np.ndarray] = {name: floats(of(name)) for name in _FLOATS}
    own["values"] = _values(of("values"), metrics)
    own["excess"] = np.array([_excess(text) for text in of("excess")], dtype=np.float64)
    own["state"] = np.array([_STATE[value] for value in columns.get("state", ())], dtype=np.int8)
    own["failure"] = np.array([_FAILURE[value] for value in of("failure")], dtype=np.int8)
    own["attempt"] = np.array([0 if value is None else value for value in of("attempt")], dtype=np.int16)
    own["step"] = np.array([-1 if value is None else value for value in of("step")], dtype=np.int64)
    own["invalid"] = np.array(of("invalid"), dtype=np.bool_)
    params = objects(of("params")) if layout.params else []
    return Rows(
        np.array(columns.get("number", ()), dtype=np.int64),
        own,
        of("worker"),
        {name: _param(params, name, choices) for name, choices in layout.params.items()},
        _named(objects(of("metrics"))),
    )


def floats(values: Sequence[Any]) -> np.ndarray:
    """(k,) float64; NaN for None and for what is no number, as somebody else's program may have noted it."""
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        return np.array([_number(value) for value in values], dtype=np.float64)


def _number(value: Any) -> float:
    """Also of a text with a number, or with one as `database.dumps` writes those that JSON lacks."""
    try:
        return float(loads(value) if isinstance(value, str) else value)
    except (TypeError, ValueError):
        return float("nan")


def objects(texts: Sequence[str | None]) -> list[dict[str, Any]]:
    """Parsed at once, which takes a third of the time that one by one takes."""
    found: list[dict[str, Any]] = loads(f"[{','.join([text or '{}' for text in texts])}]")
    return found


def _values(given: Sequence[Any], metrics: int) -> np.ndarray:
    """(k, m)"""
    if metrics == 1:
        return floats(given)[:, None]
    missing = [None] * metrics
    lists = loads(f"[{','.join([text or 'null' for text in given])}]")
    padded = [(*found, *missing)[:metrics] if found is not None else missing for found in lists]
    return np.array(padded, dtype=np.float64).reshape(len(given), metrics)


def _excess(text: str | None) -> float:
    """By how much constraints are violated in sum; where none is, the largest. A NaN keeps nothing."""
    if text is None:
        return float("nan")
    found: list[float] = []
    for item in loads(text):
        # SQLite gives what is no number as a text: a list, as old Optunas had it, or an infinity.
        inner = loads(item) if isinstance(item, str) else item
        found += inner if isinstance(inner, list) else [inner]
    values = [float("inf") if value != value else float(value) for value in found]
    return sum(value for value in values if value > 0) or max(values, default=float("nan"))


def _param(params: Sequence[Mapping[str, Any]], name: str, choices: tuple[Any, ...] | None) -> np.ndarray:
    if choices is None:
        return floats([found.get(name) for found in params])
    given = [found.get(name, _NONE) for found in params]
    try:
        places: dict[Any, float] = {value: float(at) for at, value in reversed(list(enumerate(choices)))}
        return np.array([places.get(value, np.nan) for value in given], dtype=np.float64)
    except TypeError:  # lists, which Optuna only warns of
        texts = {_text(value): float(at) for at, value in reversed(list(enumerate(choices)))}
        return np.array([texts.get(_text(value), np.nan) for value in given], dtype=np.float64)


_NONE = object()  # None is a choice


def _text(value: Any) -> str:
    return "" if value is _NONE else dumps(value)


def _is(value: Any, other: Any) -> bool:
    return type(value) is type(other) and value == other


def _named(found: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """A column for each name, by name: PostgreSQL forgets in which order they came."""
    names = sorted({name for item in found for name in item})
    return {name: floats([item.get(name) for item in found]) for name in names}


# -- rows together ---------------------------------------------------------------------------------------------------


def _together(pieces: Sequence[Rows]) -> Rows:
    def joined(part: Callable[[Rows], Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
        names = list(dict.fromkeys(name for piece in pieces for name in part(piece)))
        parts = {name: [part(piece).get(name, _missing(len(piece))) for piece in pieces] for name in names}
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}

    metrics = joined(lambda piece: piece.metrics)
    return Rows(
        np.concatenate([piece.number for piece in pieces]),
        joined(lambda piece: piece.own),
        [name for piece in pieces for name in piece.workers],
        joined(lambda piece: piece.params),
        {name: metrics[name] for name in sorted(metrics)},
    )


def _missing(k: int) -> np.ndarray:
    return np.full(k, np.nan)


def _taken(rows: Rows, order: np.ndarray) -> Rows:
    def taken(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: values[order] for name, values in columns.items()}

    workers = [rows.workers[at] for at in order]
    return Rows(rows.number[order], taken(rows.own), workers, taken(rows.params), taken(rows.metrics))


def _made(record: StudyRecord, cursor: int, layout: Layout, rows: Rows) -> Board:
    workers = tuple(sorted({name for name in rows.workers if name is not None}))
    places = {None: -1} | {name: at for at, name in enumerate(workers)}
    return Board(
        study=record,
        cursor=cursor,
        **rows.own,
        worker=np.array([places[name] for name in rows.workers], dtype=np.int32),
        workers=workers,
        params={name: Column(rows.params[name], choices) for name, choices in layout.params.items()},
        metrics={name: Column(values) for name, values in rows.metrics.items()},
    )


def _merged(board: Board, record: StudyRecord, cursor: int, rows: Rows) -> Board:
    """The board with these rows in it; the same object when none of them differs and the study is as it was."""
    changed: dict[str, Any] = {}
    at, n = rows.number, max(len(board), int(rows.number[-1]) + 1 if len(rows) else 0)

    def put(name: str, old: np.ndarray, new: np.ndarray) -> np.ndarray:
        """The very array, unless there is something new in it."""
        if n == len(old) and np.array_equal(old[at], new, equal_nan=True):
            return old
        column = np.empty((n, *old.shape[1:]), dtype=old.dtype)
        column[: len(old)] = old
        column[at] = new
        return column

    def columns(old: Mapping[str, Column], new: Mapping[str, np.ndarray]) -> dict[str, Column]:
        found = {}
        for name in sorted({*old, *new}) if new.keys() - old.keys() else old:
            known = old.get(name) or Column(_missing(len(board)))
            values = put(name, known.values, new.get(name, _missing(len(rows))))
            found[name] = known if name in old and values is known.values else Column(values, known.choices)
        return found

    for name, new in rows.own.items():
        changed[name] = put(name, getattr(board, name), new)
    changed["params"] = columns(board.params, rows.params)
    changed["metrics"] = columns(board.metrics, rows.metrics)
    names = [board.workers[place] if place >= 0 else None for place in board.worker[at[at < len(board)]]]
    if n > len(board) or names != list(rows.workers):
        changed["workers"], changed["worker"] = _workers(board, n, rows)
    is_new = n > len(board) or any(_differs(getattr(board, name), value) for name, value in changed.items())
    if not is_new and same_study(board.study, record):
        return board
    return board.replaced(study=record, cursor=cursor, **changed)


def _differs(old: Any, new: Any) -> bool:
    if isinstance(old, Mapping):
        return list(old) != list(new) or any(old[name] is not new[name] for name in old)
    return old is not new


def _workers(board: Board, n: int, rows: Rows) -> tuple[tuple[str, ...], np.ndarray]:
    """Names in order, without those that no trial has any more, and the places of all trials in them."""
    every = [*board.workers, *sorted({name for name in rows.workers if name is not None} - {*board.workers})]
    places = {None: -1} | {name: at for at, name in enumerate(every)}
    worker = np.full(n, -1, dtype=np.int32)
    worker[: len(board)] = board.worker
    worker[rows.number] = [places[name] for name in rows.workers]
    used = np.bincount(worker + 1, minlength=len(every) + 1)[1:] > 0
    names = sorted(name for name, is_used in zip(every, used, strict=True) if is_used)
    new = {name: at for at, name in enumerate(names)}
    moved = np.array([-1, *(new.get(name, -1) for name in every)], dtype=np.int32)
    return tuple(names), moved[worker + 1]


def same_study(old: StudyRecord, new: StudyRecord) -> bool:
    """But for the seconds of search, which grow all the time."""
    names = [item.name for item in fields(StudyRecord) if item.name != "active_s"]
    return all(getattr(old, name) == getattr(new, name) for name in names)
