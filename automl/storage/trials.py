"""The trials of a study as readers see them: all, the best, one with its files, what happened to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from automl.core import (
    Artifact,
    Attr,
    Failure,
    FailureKind,
    Report,
    StudyRecord,
    TrialRecord,
    TrialState,
    constraints_of,
)
from automl.errors import NotFound
from automl.storage.database import Database, violates
from automl.storage.prepared import prepared
from automl.storage.tables import artifact, event, report, trial

#: How many of the newest trials are looked at for a forecast: enqueued ones and those before the model have none.
FORECAST_WITHIN = 8

_COMPLETE = trial.c.state == sa.literal_column("'complete'")  # in these words, so that the partial index is used

_RECORD_COLUMNS = tuple(
    trial.c[name]
    for name in (
        *("id", "number", "state", "params", "objectives", "metrics", "attempt", "worker", "started_at", "finished_at"),
        *("failure_kind", "failure_message", "failure_traceback", "user_attrs", "system_attrs", "invalid"),
    )
)
_OF_STUDY = trial.c.study_id == sa.bindparam("study")
_last_report = sa.select(report.c.step).where(report.c.trial_id == trial.c.id).order_by(report.c.step.desc()).limit(1)
_TRIALS = (
    sa.select(
        *_RECORD_COLUMNS,
        _last_report.scalar_subquery().label("step"),
        _last_report.with_only_columns(report.c.value).scalar_subquery().label("last_value"),
    )
    .where(_OF_STUDY)
    .order_by(trial.c.number)
)
_PAGE = _TRIALS.where(trial.c.number > sa.bindparam("after")).limit(sa.bindparam("most", type_=sa.BigInteger))
_ONE = _TRIALS.where(trial.c.number == sa.bindparam("number"))
_FILES = (
    sa.select(artifact.c.name, artifact.c.sha256, artifact.c.size)
    .where(artifact.c.trial_id == sa.bindparam("trial"))
    .order_by(artifact.c.name)
)
# Along the index, as far as needed: whoever watches a search asks for the best trial all the time.
_COUNTS = sa.and_(_OF_STUDY, _COMPLETE, trial.c.value.is_not(None), trial.c.invalid.is_(None))
_BEST = {
    sign: sa.select(*_RECORD_COLUMNS)
    .where(_COUNTS, ~violates(trial.c.system_attrs))
    .order_by(trial.c.value.desc() if sign < 0 else trial.c.value.asc(), trial.c.number)
    .limit(sa.bindparam("most", type_=sa.BigInteger))
    for sign in (-1.0, 1.0)
}
_VIOLATING = sa.select(*_RECORD_COLUMNS).where(_COUNTS, violates(trial.c.system_attrs))


class Trials:
    """Everything here only reads, but for `add_artifacts`."""

    def __init__(self, database: Database):
        self._database = database

    def of(
        self,
        study_id: int,
        *,
        states: Sequence[TrialState] | None = None,
        numbers: Sequence[int] | None = None,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[TrialRecord]:
        """Trials by number; those above number `after`, at most `limit` of them."""
        if states is None and numbers is None and limit is not None:
            rows = prepared(self._database, _PAGE).all(
                {"study": study_id, "after": -1 if after is None else after, "most": limit}
            )
            return [_trial_record(row) for row in rows]
        wanted = _TRIALS
        if states is not None:
            wanted = wanted.where(trial.c.state.in_([state.value for state in states]))
        if numbers is not None:
            wanted = wanted.where(trial.c.number.in_(list(numbers)))
        if after is not None:
            wanted = wanted.where(trial.c.number > after)
        return [_trial_record(row) for row in self._database.all(wanted.limit(limit), {"study": study_id})]

    def place(self, trial_id: int) -> sa.Row[Any] | None:
        """The trial's `study_id` and `number`; None when there is none."""
        return self._database.first(sa.select(trial.c.study_id, trial.c.number).where(trial.c.id == trial_id))

    def best(self, record: StudyRecord, limit: int = 1) -> list[TrialRecord]:
        """The best complete trials by the first metric, best first; never one without a value, or an invalid one.

        Those that violate constraints come last, by how much they do.
        """
        sign = -1.0 if record.directions[0] == "maximize" else 1.0
        rows = prepared(self._database, _BEST[sign]).all({"study": record.id, "most": limit})
        found = [_trial_record(row) for row in rows]
        if len(found) < limit:
            violating = map(_trial_record, prepared(self._database, _VIOLATING).all({"study": record.id}))
            found += sorted(violating, key=lambda item: (_excess(item), sign * (item.value or 0.0), item.number))
        return found[:limit]

    def invalid(self, study_id: int) -> list[TrialRecord]:
        """Those whose results count for nothing, by number."""
        wanted = sa.select(*_RECORD_COLUMNS).where(trial.c.study_id == study_id, trial.c.invalid.is_not(None))
        return [_trial_record(row) for row in self._database.all(wanted.order_by(trial.c.number))]

    def get(self, record: StudyRecord, number: int) -> TrialRecord:
        """One trial with its artifacts. Raises `NotFound`."""
        row = prepared(self._database, _ONE).first({"study": record.id, "number": number})
        if row is None:
            raise NotFound(f"study {record.name!r} has no trial {number}", field="trial")
        artifacts = tuple(Artifact(*file) for file in prepared(self._database, _FILES).all({"trial": row.id}))
        return replace(_trial_record(row), artifacts=artifacts)

    def add_artifacts(self, trial_id: int, files: Sequence[Artifact]) -> None:
        """Record further files of a finished trial; a name that it has already keeps its file."""
        for item in files:
            known = sa.exists().where(artifact.c.trial_id == trial_id, artifact.c.name == item.name)
            row = sa.select(*map(sa.literal, (trial_id, item.name, item.sha256, item.size))).where(~known)
            new = sa.insert(artifact).from_select(["trial_id", "name", "sha256", "size"], row)
            with suppress(IntegrityError):  # somebody else has just recorded it, or the study was deleted
                self._database.execute(new)

    def reports(self, trial_id: int) -> list[Report]:
        rows = self._database.all(sa.select(report).where(report.c.trial_id == trial_id).order_by(report.c.step))
        return [Report(row.step, row.value, row.metrics or {}) for row in rows]

    def history(self, trial_id: int) -> list[dict[str, Any]]:
        """What happened to a trial: state, cause, attempt, worker, checkpoint_step and time of each move."""
        names = ("state", "cause", "attempt", "worker", "checkpoint_step", "at")
        rows = self._database.all(
            sa.select(*(event.c[name] for name in names)).where(event.c.trial_id == trial_id).order_by(event.c.seq)
        )
        return [row._asdict() for row in rows]

    def forecast(self, study_id: int) -> Mapping[str, Any] | None:
        """What the newest suggestion says of the trials to come; None without one that says it."""
        newest = sa.select(trial.c.system_attrs).where(trial.c.study_id == study_id).order_by(trial.c.number.desc())
        reasons = [row.system_attrs.get(Attr.WHY, {}) for row in self._database.all(newest.limit(FORECAST_WITHIN))]
        return next((why["forecast"] for why in reasons if why.get("forecast")), None)

    def finished_since(self, study_id: int, moment: float) -> list[TrialRecord]:
        """Trials that ended at or after `moment` (seconds since the epoch), in that order."""
        wanted = sa.select(*_RECORD_COLUMNS).where(trial.c.study_id == study_id, trial.c.finished_at >= moment)
        return [_trial_record(row) for row in self._database.all(wanted.order_by(trial.c.finished_at))]


def _trial_record(row: Any) -> TrialRecord:
    failure = None
    if row.failure_kind is not None:
        failure = Failure(FailureKind(row.failure_kind), row.failure_message, row.failure_traceback or "")
    return TrialRecord(
        id=row.id,
        number=row.number,
        state=TrialState(row.state),
        params=row.params or row.system_attrs.get("fixed_params", {}),
        values=tuple(row.objectives) if row.objectives is not None else None,
        metrics=row.metrics,
        attempt=row.attempt,
        worker=row.worker,
        failure=failure,
        started_at=row.started_at,
        finished_at=row.finished_at,
        step=getattr(row, "step", None),
        last_value=getattr(row, "last_value", None),
        facts=row.user_attrs,
        constraints=constraints_of(row.system_attrs),
        why=row.system_attrs.get(Attr.WHY) or {},
        invalid=row.invalid,
    )


def _excess(item: TrialRecord) -> float:
    return sum(max(value, 0.0) for value in item.constraints.values())
