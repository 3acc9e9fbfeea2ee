"""What an Optuna program writes into a trial.

A call is one statement. Its WHERE holds the condition under which it is allowed, so that a late parameter cannot slip
past a concurrent end of the trial; only a call that changed nothing asks why. A trial that an Optuna program runs has
no lease, so nobody takes it back. One that a worker of ours runs is that worker's: Optuna calls may add attributes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from optuna.exceptions import UpdateFinishedTrialError

from automl.core import TrialState
from automl.errors import StorageError
from automl.storage.database import Database, Json, dumps, json_append, json_member, json_merge, now
from automl.storage.prepared import Prepared
from automl.storage.tables import report, study, trial

_TRIAL = trial.c.id == sa.bindparam("trial", type_=sa.BigInteger)
_IN_STATE = sa.and_(_TRIAL, trial.c.state == sa.bindparam("is_state", type_=sa.Text))
_IN_STATE_UNLEASED = sa.and_(_IN_STATE, trial.c.lease_token.is_(None))

_SET_PARAM = (
    sa.update(trial)
    .where(_IN_STATE_UNLEASED)
    .values(
        params=json_append(trial.c.params, sa.bindparam("param", type_=sa.Text)),
        distributions=json_merge(trial.c.distributions, sa.bindparam("distribution", type_=sa.Text)),
    )
)
_SET_ATTR = {
    name: sa.update(trial)
    .where(_IN_STATE)
    .values({name: json_merge(trial.c[name], sa.bindparam("attr", type_=sa.Text))})
    for name in ("user_attrs", "system_attrs")
}
# A trial that does not run is read again only when the history names it.
_TOUCH = sa.update(trial).where(_IN_STATE).values(cause="revised", basis=trial.c.basis)

# A suggestion becomes what Optuna makes of an enqueued trial: it is suggested once more, to the same values.
_suggested = trial.c.basis.is_not(None)
_fixed = json_merge(trial.c.system_attrs, json_member(sa.literal_column("'fixed_params'"), trial.c.params))
_POP = (
    sa.update(trial)
    .where(_TRIAL, trial.c.state == sa.literal_column("'waiting'"))
    .values(
        state=TrialState.RUNNING.value,
        cause="claimed",
        attempt=trial.c.attempt + 1,
        worker=None,
        started_at=now(),
        system_attrs=sa.case((_suggested, _fixed), else_=trial.c.system_attrs),
        params=sa.case((_suggested, sa.literal({}, trial.c.params.type)), else_=trial.c.params),
        distributions=sa.case((_suggested, sa.literal({}, trial.c.distributions.type)), else_=trial.c.distributions),
        basis=None,
    )
    .returning(trial.c.id)
)

_MOVED = {"state": sa.bindparam("state", type_=sa.Text), "cause": sa.bindparam("state", type_=sa.Text)}
_REQUEUE = sa.update(trial).where(_IN_STATE_UNLEASED).values(_MOVED)
_END = _REQUEUE.values(
    objectives=sa.func.coalesce(sa.bindparam("objectives", type_=Json), trial.c.objectives),
    value=sa.func.coalesce(sa.bindparam("value", type_=sa.Double), trial.c.value),
    finished_at=now(),
)

_COUNT_UP = (
    sa.update(study)
    .where(study.c.id == sa.bindparam("study", type_=sa.BigInteger), study.c.deleted_at.is_(None))
    .where(study.c.project == sa.bindparam("of_project", type_=sa.Text))
    .values(next_number=study.c.next_number + 1)
    .returning((study.c.next_number - 1).label("number"))
)
_NEW: Mapping[str, sa.ColumnElement[Any]] = {
    "state": sa.literal(TrialState.RUNNING.value),
    "cause": sa.literal("asked"),
    "attempt": sa.literal(1),
    "created_at": now(),
    "started_at": now(),
}


def _insert_on_postgresql(columns: Mapping[str, sa.ColumnElement[Any]]) -> sa.UpdateBase:
    """Count and insert in one statement, so that the study's row is locked for no longer than its commit."""
    counted = _COUNT_UP.cte("counted")
    number = sa.select(sa.bindparam("study", type_=sa.BigInteger), counted.c.number, *columns.values())
    return sa.insert(trial).from_select(["study_id", "number", *columns], number).returning(trial.c.id)


def _insert_on_sqlite(columns: Mapping[str, sa.ColumnElement[Any]]) -> sa.UpdateBase:
    bound: dict[str, Any] = {"study_id": sa.bindparam("study"), "number": sa.bindparam("number")}
    return sa.insert(trial).values({**bound, **columns}).returning(trial.c.id)


class TrialWriter:
    """Raises KeyError for a trial or study that is not there, `UpdateFinishedTrialError`, `StorageError`."""

    def __init__(self, database: Database, project: str):
        self._database = database
        self._project = project
        self._on_postgresql = database.dialect == "postgresql"
        self._insert = _insert_on_postgresql if self._on_postgresql else _insert_on_sqlite
        self._count_up = Prepared(database, _COUNT_UP)
        self._ask = Prepared(database, self._insert(_NEW))
        self._set_param = Prepared(database, _SET_PARAM)
        self._set_attr = {name: Prepared(database, statement) for name, statement in _SET_ATTR.items()}
        self._end = Prepared(database, _END)
        self._requeue = Prepared(database, _REQUEUE)
        self._set_report = Prepared(database, self._report())

    def _report(self) -> sa.UpdateBase:
        # FOR SHARE holds off the end of the trial until this row is in.
        row = sa.select(
            trial.c.id,
            sa.bindparam("step", type_=sa.BigInteger),
            trial.c.attempt,
            sa.bindparam("value", type_=sa.Double),
        ).where(_IN_STATE_UNLEASED)
        upsert = self._database.insert(report).from_select(
            ["trial_id", "step", "attempt", "value"], row.with_for_update(read=True)
        )
        return upsert.on_conflict_do_update(
            index_elements=["trial_id", "step"],
            set_={name: upsert.excluded[name] for name in ("attempt", "value", "metrics")},
        )

    # -- new trials ---------------------------------------------------------------------------------------------

    def ask(self, study_id: int) -> int:
        """A new running trial with the study's next number; its id. A budget is not looked at: Optuna has none."""
        place = {"study": study_id, "of_project": self._project}
        if self._on_postgresql:
            return _id_of(self._ask.first(place), study_id)
        with self._database.transaction() as connection:
            number = _id_of(self._count_up.first(place, connection), study_id)
            return _id_of(self._ask.first({"study": study_id, "number": number}, connection), study_id)

    def add(self, study_id: int, values: Mapping[str, Any], reports: Mapping[int, float]) -> int:
        """A new trial with these columns and reports; its id."""
        columns = {name: sa.literal(value, trial.c[name].type) for name, value in values.items()}
        statement = self._insert({**columns, "created_at": now()})
        place = {"study": study_id, "of_project": self._project}
        rows = [{"step": step, "value": float(value), "attempt": values["attempt"]} for step, value in reports.items()]
        with self._database.transaction() as connection:
            arguments: dict[str, Any] = place
            if not self._on_postgresql:
                arguments = {"study": study_id, "number": _id_of(self._count_up.first(place, connection), study_id)}
            trial_id = _id_of(connection.execute(statement, arguments).first(), study_id)
            if rows:
                connection.execute(sa.insert(report), [{"trial_id": trial_id, **row} for row in rows])
            return trial_id

    # -- a trial's content --------------------------------------------------------------------------------------

    def set_param(self, trial_id: int, name: str, value: Any, distribution_id: int) -> None:
        patches = {"param": dumps({name: value}), "distribution": dumps({name: distribution_id})}
        self._write(trial_id, self._set_param, patches)

    def set_report(self, trial_id: int, step: int, value: float) -> None:
        self._write(trial_id, self._set_report, {"step": step, "value": float(value)})

    def set_attr(self, trial_id: int, column: str, key: str, value: Any) -> None:
        """`column`: "user_attrs" or "system_attrs"."""
        self._write(trial_id, self._set_attr[column], {"attr": dumps({key: value})}, attributes=True)

    def _write(
        self, trial_id: int, statement: Prepared, arguments: Mapping[str, Any], *, attributes: bool = False
    ) -> None:
        running = {**arguments, "trial": trial_id, "is_state": TrialState.RUNNING.value}
        while not statement.execute(running):
            state = self.require_writable(trial_id, attributes=attributes)
            if state is TrialState.RUNNING:
                continue  # it has only just become so
            unmoved = {**running, "is_state": state.value}
            with self._database.transaction() as connection:
                if connection.execute(_TOUCH, unmoved).rowcount:
                    statement.execute(unmoved, connection)
                    return

    def require_writable(self, trial_id: int, *, attributes: bool = False) -> TrialState:
        """The state of the trial, if an Optuna program may write its parameters (or only `attributes`)."""
        columns = (trial.c.number, trial.c.state, trial.c.basis, trial.c.lease_token, trial.c.worker)
        row = self._database.first(sa.select(*columns).where(_TRIAL), {"trial": trial_id})
        if row is None:
            raise KeyError(f"there is no trial with id {trial_id}")
        state = TrialState(row.state)
        if state.is_finished:
            raise UpdateFinishedTrialError(f"Trial#{row.number} has already finished and can not be updated.")
        if attributes:
            return state
        if row.lease_token is not None:
            cure = "only that worker may write its parameters, reports and result"
            raise StorageError(f"trial {row.number} is leased to worker {row.worker!r}; {cure}")
        if state is TrialState.PAUSED or row.basis is not None:
            raise StorageError(f"trial {row.number} is {state.value} with a suggestion; ask for it before you write it")
        return state

    # -- moves --------------------------------------------------------------------------------------------------

    def pop(self, trial_id: int) -> bool:
        """Take a waiting trial: True for the one caller who did."""
        if self._database.first(_POP, {"trial": trial_id}) is not None:
            return True
        self.require_writable(trial_id, attributes=True)
        return False

    def end(self, trial_id: int, state: TrialState, values: Sequence[float] | None) -> None:
        """End a running trial."""
        self._move(trial_id, self._end, state, result_columns(values))

    def requeue(self, trial_id: int) -> None:
        """Put a running trial back into the queue."""
        self._move(trial_id, self._requeue, TrialState.WAITING, {})

    def _move(self, trial_id: int, statement: Prepared, state: TrialState, columns: Mapping[str, Any]) -> None:
        running = {"trial": trial_id, "is_state": TrialState.RUNNING.value, "state": state.value}
        while not statement.execute({**running, **columns}):
            found = self.require_writable(trial_id)
            if found is state:
                return
            if found is TrialState.WAITING:
                raise StorageError(f"trial with id {trial_id} waits; set it to RUNNING before you end it")


def _id_of(row: Sequence[Any] | None, study_id: int) -> int:
    if row is None:
        raise KeyError(f"there is no study {study_id}")
    return row[0]


def result_columns(values: Sequence[float] | None) -> dict[str, Any]:
    """The columns that hold these objective values."""
    objectives = None if values is None else [float(value) for value in values]
    sortable = objectives and not math.isnan(objectives[0])
    return {"objectives": objectives, "value": objectives[0] if objectives and sortable else None}
