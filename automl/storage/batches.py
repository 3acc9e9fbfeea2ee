"""Batches: studies that are submitted together, run one after the other, and share a budget and a report.

The trials of the budget are counted in the transaction that makes each (see `batch_budget.py`). Hours and GPU hours are
added up from the history of attempts: who looks after a batch holds its studies when they are used, lets what runs come
to its end, and stops what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from automl.core import StudyState, TrialState
from automl.declaration import StudySpec
from automl.errors import InvalidInput, NotFound, StudyConflict
from automl.storage import batch_budget
from automl.storage.database import Database, now
from automl.storage.studies import Studies, new_study, tell, there
from automl.storage.tables import batch, event, study, trial, worker
from automl.team import Batch, check_name

MAX_STUDIES = 100
MAX_PRIORITY = 100
HOUR_S = 3600.0

_COLUMNS = tuple(batch.c[name] for name in Batch.__dataclass_fields__ if name != "studies")
_BY_USER = "the batch was stopped by the user"
# The events by which an attempt begins.
_STARTS = ("claimed", "asked")


@dataclass(frozen=True, slots=True)
class BatchStudy:
    """A study of a batch, as it was loaded from its file."""

    spec: StudySpec
    entrypoint: str
    code_sha256: str | None = None
    package_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What the studies of a batch may use together; None: as much as they want by their own budgets."""

    trials: int | None = None
    hours: float | None = None  #: of all attempts, added up
    gpu_hours: float | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """The attempts of one study, added up."""

    hours: float
    gpu_hours: float


@dataclass(frozen=True, slots=True)
class Spent:
    """What the studies of a batch have used so far."""

    trials: int
    hours: float
    gpu_hours: float
    studies: Mapping[str, Share]  #: by name


class Batches:
    """The batches of one project."""

    def __init__(
        self,
        database: Database,
        project: str,
        studies: Studies,
        *,
        check: Callable[[StudySpec], None] = lambda spec: None,
        render: Callable[[Batch, Spent], str] = lambda batch, spent: "",
    ):
        """`check` raises for a study that cannot be declared here; `render` makes a report, as HTML."""
        self._database = database
        self._project = project
        self._studies = studies
        self._check = check
        self._render = render

    def submit(
        self, name: str, studies: Sequence[BatchStudy], *, priority: int = 0, budget: Budget | None = None
    ) -> Batch:
        """Queue new studies as a batch, in this order: all of them, or none.

        Raises `InvalidInput` for a name that is taken and a budget that cannot be, `StudyConflict` for a study whose
        name is taken: a batch adds to nobody's search.
        """
        limits = budget or Budget()
        _check(name, studies, priority, limits)
        for item in studies:
            self._check(item.spec)
        values = {
            "project": self._project,
            "name": name,
            "priority": priority,
            "max_trials": limits.trials,
            "max_hours": limits.hours,
            "max_gpu_hours": limits.gpu_hours,
            "created_at": now(),
        }
        with self._database.transaction() as connection:
            try:
                new = sa.insert(batch).values(**values).returning(batch.c.id)
                batch_id = int(connection.execute(new).scalar_one())
            except IntegrityError as error:
                raise InvalidInput(f"batch: there is a batch {name!r} already; choose another name", "name") from error
            for position, item in enumerate(studies):
                code = {name: getattr(item, name) for name in ("entrypoint", "code_sha256", "package_sha256")}
                place = {"batch_id": batch_id, "batch_position": position, "priority": priority}
                try:
                    connection.execute(new_study(self._project, item.spec, queued=True, **code, **place))
                except IntegrityError as error:
                    there = ["it is there already, and a batch makes its studies anew"]
                    raise StudyConflict(item.spec.name, there, extendable=False) from error
        return self.get(name)

    def all(self) -> list[Batch]:
        """The newest first."""
        wanted = sa.select(*_COLUMNS).where(batch.c.project == self._project).order_by(batch.c.id.desc())
        found = [Batch(**row._asdict()) for row in self._database.all(wanted)]
        members = sa.select(study.c.batch_id, study.c.name).where(there(self._project), study.c.batch_id.is_not(None))
        names: dict[int, list[str]] = {}
        for row in self._database.all(members.order_by(study.c.batch_id, study.c.batch_position)):
            names.setdefault(row.batch_id, []).append(row.name)
        return [replace(item, studies=tuple(names.get(item.id, ()))) for item in found]

    def get(self, name: str) -> Batch:
        """Raises `NotFound`, which names the newest batches."""
        named = sa.and_(batch.c.project == self._project, batch.c.name == name)
        row = self._database.first(sa.select(*_COLUMNS).where(named))
        if row is None:
            newest = [item.name for item in self.all()][:10]
            there = f"there are {', '.join(newest)}" if newest else "there is none yet"
            raise NotFound(f"batch: there is no {name!r}; {there}", field="batch")
        members = sa.select(study.c.name).where(study.c.batch_id == row.id, study.c.deleted_at.is_(None))
        names = [member.name for member in self._database.all(members.order_by(study.c.batch_position))]
        return Batch(**row._asdict(), studies=tuple(names))

    def stop(self, name: str) -> bool:
        """End all its studies: what is unfinished is cancelled. False when it was over already."""
        found = self.get(name)
        ended = [self._studies.end(id, StudyState.STOPPED, _BY_USER) for id in self._open(found.id)]
        with self._database.transaction() as connection:
            batch_budget.settle(connection, found.id)
        return any(ended)

    def report(self, name: str) -> str:
        """One HTML file of all its studies, which asks nobody for anything. Raises `NotFound`."""
        found = self.get(name)
        return self._render(found, self._spent(found))

    def spent(self, name: str) -> Spent:
        """What its studies have used so far; attempts that run count until now. Raises `NotFound`."""
        return self._spent(self.get(name))

    def look_after(self) -> None:
        """Hold and stop what has used its budget, finish what is over: of every batch that is not finished."""
        unfinished = sa.select(batch.c.name).where(batch.c.project == self._project, batch.c.finished_at.is_(None))
        for row in self._database.all(unfinished.order_by(batch.c.id)):
            self._look_after(self.get(row.name))

    def _look_after(self, found: Batch) -> None:
        is_open = self._open(found.id)
        for study_id in is_open:
            self._studies.close_if_done(study_id)
        timed = found.max_hours is not None or found.max_gpu_hours is not None
        if timed and is_open and _is_used(found, self._spent(found)):
            running = [study_id for study_id in is_open if self._hold(study_id)]
            if not running:
                for study_id in is_open:
                    self._studies.end(study_id, StudyState.STOPPED, batch_budget.USED)
        with self._database.transaction() as connection:
            batch_budget.settle(connection, found.id)

    def _hold(self, study_id: int) -> bool:
        """Let nothing more of the study start; whether something of it still runs."""
        awake = sa.and_(study.c.id == study_id, study.c.state == StudyState.OPEN.value, ~study.c.paused)
        with self._database.transaction() as connection:
            if connection.execute(sa.update(study).where(awake).values(paused=True)).rowcount:
                tell(connection, study_id, StudyState.OPEN.value, "paused")
            running = sa.select(trial.c.id).where(trial.c.study_id == study_id)
            running = running.where(trial.c.state == sa.literal_column("'running'")).limit(1)
            return connection.execute(running).first() is not None

    def _open(self, batch_id: int) -> list[int]:
        of_batch = sa.and_(study.c.batch_id == batch_id, study.c.deleted_at.is_(None))
        wanted = sa.select(study.c.id).where(of_batch, study.c.state == StudyState.OPEN.value)
        return [row.id for row in self._database.all(wanted.order_by(study.c.batch_position))]

    def _spent(self, found: Batch) -> Spent:
        shares: dict[str, Share] = {}
        workers: dict[str, dict[int, float]] = {}
        for row in self._database.all(_attempts(found.id)):
            worker_name, _, slot = (row.worker or "").rpartition("-")
            if worker_name not in workers:
                workers[worker_name] = self._gpus(worker_name)
            declared = ((row.spec or {}).get("resources") or {}).get("gpus") or 0
            gpus = workers[worker_name].get(int(slot) if slot.isdecimal() else -1, float(declared))
            before = shares.get(row.name, Share(0.0, 0.0))
            hours = row.seconds / HOUR_S
            shares[row.name] = Share(before.hours + hours, before.gpu_hours + hours * gpus)
        hours, gpu_hours = sum(s.hours for s in shares.values()), sum(s.gpu_hours for s in shares.values())
        return Spent(found.made, hours, gpu_hours, shares)

    def _gpus(self, worker_name: str) -> dict[int, float]:
        """How many GPUs each of its slots has; {} for one that is not known."""
        known = sa.select(worker.c.slots).where(worker.c.project == self._project, worker.c.name == worker_name)
        row = self._database.first(known)
        return {} if row is None else gpus_of_slots(row.slots)


def gpus_of_slots(slots: Sequence[Sequence[str]]) -> dict[int, float]:
    """How many GPUs each slot of a worker has; one that several slots share is counted once among them."""
    sharing: dict[str, int] = {}
    for gpus in slots:
        for gpu in gpus:
            sharing[gpu] = sharing.get(gpu, 0) + 1
    return {at: sum(1 / sharing[gpu] for gpu in gpus) for at, gpus in enumerate(slots)}


def _attempts(batch_id: int) -> sa.Select[Any]:
    """Seconds of all attempts of a batch's studies, by slot and study; one that runs counts until now."""
    start, later, end = event.alias("started"), event.alias("later"), event.alias("ended")
    ended = sa.select(sa.func.min(later.c.seq)).where(
        later.c.trial_id == start.c.trial_id, later.c.seq > start.c.seq, later.c.state != TrialState.RUNNING.value
    )
    seconds = sa.func.sum(sa.func.coalesce(end.c.at, now()) - start.c.at).label("seconds")
    begun = sa.and_(start.c.state == TrialState.RUNNING.value, start.c.cause.in_(_STARTS))
    rows = sa.select(start.c.study_id, start.c.worker, seconds).select_from(
        start.join(study, study.c.id == start.c.study_id).outerjoin(end, end.c.seq == ended.scalar_subquery())
    )
    grouped = rows.where(study.c.batch_id == batch_id, begun).group_by(start.c.study_id, start.c.worker).subquery()
    wanted = sa.select(study.c.name, study.c.spec, grouped.c.worker, grouped.c.seconds)
    return wanted.join(grouped, study.c.id == grouped.c.study_id).order_by(study.c.batch_position, grouped.c.worker)


def _is_used(found: Batch, spent: Spent) -> bool:
    over = [found.max_hours is not None and spent.hours >= found.max_hours]
    over.append(found.max_gpu_hours is not None and spent.gpu_hours >= found.max_gpu_hours)
    return any(over)


def _check(name: str, studies: Sequence[BatchStudy], priority: int, budget: Budget) -> None:
    check_name("batch", name)
    if not 1 <= len(studies) <= MAX_STUDIES:
        raise InvalidInput(f"batch: {len(studies)} studies; give 1 to {MAX_STUDIES}", field="studies")
    names = [item.spec.name for item in studies]
    for study_name in names:
        if names.count(study_name) > 1:
            cure = 'name them in a TOML file, as in [[study]] name = "..."'
            raise InvalidInput(f"batch: two of its studies are called {study_name!r}; {cure}", field="studies")
    if isinstance(priority, bool) or not isinstance(priority, int) or abs(priority) > MAX_PRIORITY:
        problem = f"priority: {priority!r}; use a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}"
        raise InvalidInput(f"{problem}, single studies have 0", field="priority")
    if budget.trials is not None and not 1 <= budget.trials < 2**31:
        raise InvalidInput(f"batch-trials: {budget.trials}; use 1 or more", field="trials")
    for field, value in (("hours", budget.hours), ("gpu-hours", budget.gpu_hours)):
        if value is not None and not 0 < value < 1e9:
            raise InvalidInput(f"batch-{field}: {value}; use more than 0", field=field.replace("-", "_"))
