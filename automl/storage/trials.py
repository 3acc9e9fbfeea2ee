"""The trials of a study as readers see them: all, the best, one with its files, what happened to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
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
from automl.storage.tables import artifact, event, report, trial

#: How many of the newest trials are looked at for a forecast: enqueued ones and those before the model have none.
FORECAST_WITHIN = 8

_COMPLETE = trial.c.state == sa.literal_column("'complete'")  # in these words, so that the partial index is used


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
        reports = (
            sa.select(report.c.step).where(report.c.trial_id == trial.c.id).order_by(report.c.step.desc()).limit(1)
        )
        wanted = sa.select(
            trial,
            reports.scalar_subquery().label("step"),
            reports.with_only_columns(report.c.value).scalar_subquery().label("last_value"),
        ).where(trial.c.study_id == study_id)
        if states is not None:
            wanted = wanted.where(trial.c.state.in_([state.value for state in states]))
        if numbers is not None:
            wanted = wanted.where(trial.c.number.in_(list(numbers)))
        if after is not None:
            wanted = wanted.where(trial.c.number > after)
        return [_trial_record(row) for row in self._database.all(wanted.order_by(trial.c.number).limit(limit))]

    def place(self, trial_id: int) -> sa.Row[Any] | None:
        """The trial's `study_id` and `number`; None when there is none."""
        return self._database.first(sa.select(trial.c.study_id, trial.c.number).where(trial.c.id == trial_id))

    def best(self, record: StudyRecord, limit: int = 1) -> list[TrialRecord]:
        """The best complete trials by the first metric, best first; never one without a value, or an invalid one.

        Those that violate constraints come last, by how much they do.
        """
        sign = -1.0 if record.directions[0] == "maximize" else 1.0
        counts = sa.and_(trial.c.study_id == record.id, trial.c.value.is_not(None), trial.c.invalid.is_(None))
        order = trial.c.value.desc() if sign < 0 else trial.c.value.asc()
        # Along the index, as far as needed: whoever watches a search asks for the best trial all the time.
        feasible = sa.select(trial).where(counts, _COMPLETE, ~violates(trial.c.system_attrs))
        first = feasible.order_by(order, trial.c.number).limit(limit)
        found = [_trial_record(row) for row in self._database.all(first)]
        if len(found) < limit:
            others = self._database.all(sa.select(trial).where(counts, _COMPLETE, violates(trial.c.system_attrs)))
            violating = map(_trial_record, others)
            found += sorted(violating, key=lambda item: (_excess(item), sign * (item.value or 0.0), item.number))
        return found[:limit]

    def invalid(self, study_id: int) -> list[TrialRecord]:
        """Those whose results count for nothing, by number."""
        wanted = sa.select(trial).where(trial.c.study_id == study_id, trial.c.invalid.is_not(None))
        return [_trial_record(row) for row in self._database.all(wanted.order_by(trial.c.number))]

    def get(self, record: StudyRecord, number: int) -> TrialRecord:
        """One trial with its artifacts. Raises `NotFound`."""
        found = self.of(record.id, numbers=[number])
        if not found:
            raise NotFound(f"study {record.name!r} has no trial {number}", field="trial")
        files = sa.select(artifact).where(artifact.c.trial_id == found[0].id).order_by(artifact.c.name)
        artifacts = tuple(Artifact(row.name, row.sha256, row.size) for row in self._database.all(files))
        fields = {name: getattr(found[0], name) for name in TrialRecord.__dataclass_fields__}
        return TrialRecord(**{**fields, "artifacts": artifacts})

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
        wanted = sa.select(trial).where(trial.c.study_id == study_id, trial.c.finished_at >= moment)
        return [_trial_record(row) for row in self._database.all(wanted.order_by(trial.c.finished_at))]


def _trial_record(row: sa.Row[Any]) -> TrialRecord:
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
