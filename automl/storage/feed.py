"""The trials of a study, kept in memory and brought up to date by what the history says has changed.

`event` is the change feed. A look at it is one statement, so that the cursor, the names of what has changed and their
rows are of one moment. On PostgreSQL the cursor is the oldest transaction that was still running then: whatever that
look could not see has this number or a higher one. On SQLite, which has one writer, it is the last event's number.
Running trials are read at each look; any other change, be it that a finished one is invalid, is in the history.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from threading import Lock
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.trial import TrialState as OptunaState

from automl.core import TrialState
from automl.storage.changes import STUDY, changes
from automl.storage.database import Database, loads
from automl.storage.distributions import Distributions
from automl.storage.lazy_trial import LazyTrial, TrialRow
from automl.storage.tables import report, study, trial

#: Trials that a statement of the first look reads.
PIECE = 1000

_REPORTS = (
    sa.select(sa.func.packed(report.c.step, report.c.value))
    # SQLite has no NaN: there NULL is one, unless it stands beside metrics.
    .where(report.c.trial_id == trial.c.id, sa.or_(report.c.value.is_not(None), report.c.metrics.is_(None)))
    .scalar_subquery()
)

#: What a `TrialRow` is made of.
TRIAL_COLUMNS: tuple[sa.ColumnElement[Any], ...] = (
    trial.c.id,
    trial.c.number,
    trial.c.state,
    trial.c.basis,
    *(sa.cast(trial.c[name], sa.Text).label(name) for name in ("params", "distributions", "objectives")),
    *(sa.cast(trial.c[name], sa.Text).label(name) for name in ("user_attrs", "system_attrs")),
    sa.cast(trial.c.metrics, sa.Text).label("metrics"),
    trial.c.failure_kind,
    trial.c.attempt,
    trial.c.started_at,
    trial.c.finished_at,
    _REPORTS.label("reports"),
    trial.c.invalid,
)

_STATES = {state.value: state.value for state in TrialState}
_DISTRIBUTIONS = TrialRow._fields.index("distributions")

_UNFINISHED = tuple(state.value for state in TrialState if not state.is_finished)


def _look_at(cursor: sa.ColumnElement[Any], which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """One row at least, if there is the study: the new cursor, and the columns of a trial or NULLs."""
    trials = study.outerjoin(trial, which)
    wanted = sa.select(cursor.label("cursor"), *TRIAL_COLUMNS).select_from(trials)
    return wanted.where(study.c.id == STUDY, study.c.deleted_at.is_(None))


class _Looks:
    """The statements of one dialect."""

    def __init__(self, dialect: str):
        cursor, is_changed = changes(dialect)
        of_study = trial.c.study_id == study.c.id
        low = sa.bindparam("low", type_=sa.Integer)
        piece = sa.and_(of_study, trial.c.number >= low, trial.c.number < low + PIECE)
        self.everything = _look_at(cursor, piece)
        self.unfinished = _look_at(cursor, sa.and_(of_study, trial.c.state.in_(_UNFINISHED)))
        # The study is not named again: SQLite would go through all of its trials.
        self.changed = _look_at(cursor, is_changed)


class RowReader:
    """Makes trials of rows. The distributions of a study are parsed once, and shared."""

    def __init__(self, distributions: Distributions):
        self._distributions = distributions
        self._parsed: dict[int, BaseDistribution] = {}
        self._shared: dict[tuple[int, str], dict[str, BaseDistribution]] = {}

    def read(self, study_id: int, row: Sequence[Any]) -> TrialRow:
        """`row` holds TRIAL_COLUMNS. Raises KeyError when the study was deleted in the meantime."""
        texts = TrialRow(*row)
        return texts._replace(
            distributions=self._named(study_id, row[_DISTRIBUTIONS]),
            # One text for all trials that have the same.
            state=_STATES[texts.state],
            user_attrs=texts.user_attrs if texts.user_attrs != "{}" else "{}",
            system_attrs=texts.system_attrs if texts.system_attrs != "{}" else "{}",
            metrics=texts.metrics if texts.metrics != "{}" else "{}",
        )

    def distribution(self, id: int, body: str) -> BaseDistribution:
        if id not in self._parsed:
            self._parsed[id] = json_to_distribution(body)
        return self._parsed[id]

    def _named(self, study_id: int, text: str) -> dict[str, BaseDistribution]:
        found = self._shared.get((study_id, text))
        if found is None:
            ids = loads(text)
            bodies = self._distributions.bodies(study_id, ids)
            found = {name: self.distribution(id, bodies[name]) for name, id in ids.items()}
            self._shared[study_id, text] = found
        return found


class StudyFeed:
    """All trials of one study. Thread-safe."""

    def __init__(self, database: Database, reader: RowReader, study_id: int):
        self._database = database
        self._reader = reader
        self._study_id = study_id
        self._lock = Lock()
        self._looks = _Looks(database.dialect)
        self._cursor: int | None = None
        self._whole = False  # whether the trials that had finished before the first look are here
        self._trials: list[LazyTrial | None] = []  # by number
        self._enqueued: dict[int, LazyTrial] = {}  # suggestions as Optuna has them, by number
        self._waiting: set[int] = set()

    def trials(self, *, as_enqueued: bool) -> list[LazyTrial]:
        """All trials by number, as of now. Raises KeyError when there is no such study.

        `as_enqueued`: waiting suggestions have their parameters in `system_attrs["fixed_params"]`.
        """
        with self._lock:
            self._look(whole=True)
            trials = [trial for trial in self._trials if trial is not None]
            if as_enqueued and self._enqueued:
                return [self._enqueued.get(trial.number, trial) for trial in trials]
            return trials

    def waiting(self) -> list[LazyTrial]:
        """The queue, by number; for whom the history is not needed, it is not loaded."""
        with self._lock:
            self._look(whole=False)
            return [self._enqueued.get(number) or self._at(number) for number in sorted(self._waiting)]

    def _at(self, number: int) -> LazyTrial:
        found = self._trials[number]
        assert found is not None
        return found

    def _look(self, *, whole: bool) -> None:
        if whole and not self._whole:
            look = self._looks.everything
        else:
            look = self._looks.unfinished if self._cursor is None else self._looks.changed
        cursor = None
        for row in self._rows(look):
            cursor = row.cursor
            if row.id is not None:
                self._put(self._reader.read(self._study_id, row[1:]))
        if cursor is None:
            raise KeyError(f"there is no study {self._study_id}")
        self._cursor = cursor
        self._whole = self._whole or whole

    def _rows(self, look: sa.Select[Any]) -> Iterator[sa.Row[Any]]:
        arguments = {"study_id": self._study_id, "cursor": self._cursor}
        if look is not self._looks.everything:
            yield from self._database.all(look, arguments)
            return
        # Piece by piece: all rows at once would be in memory twice.
        with self._database.snapshot() as connection:
            for low in count(0, PIECE):
                rows = connection.execute(look, {**arguments, "low": low}).all()
                yield from rows
                if len(rows) < PIECE:  # numbers have no gaps
                    return

    def _put(self, row: TrialRow) -> None:
        number = row.number
        self._trials.extend([None] * (number + 1 - len(self._trials)))
        known = self._trials[number]
        if known is not None and known.is_of(row):
            return  # named again by the overlap of two looks: readers know what they have seen by its identity
        new = self._trials[number] = LazyTrial(row)
        self._enqueued.pop(number, None)
        self._waiting.discard(number)
        if new.state is OptunaState.WAITING:
            self._waiting.add(number)
            if row.basis is not None:
                self._enqueued[number] = LazyTrial(row.as_enqueued())
