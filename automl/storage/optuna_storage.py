"""Our studies as Optuna sees them, and Optuna's own studies in our tables.

Any Optuna program, sampler, pruner or plot works on this storage, beside our workers and in the same study. Our paused
trials are running ones to Optuna, cancelled ones have failed, and a suggestion that waits for a worker is an enqueued
trial with all its parameters fixed, so that a program which pops it evaluates the same point.
"""

from __future__ import annotations

import uuid
from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from threading import Lock
from typing import Any

import sqlalchemy as sa
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.storages._base import DEFAULT_STUDY_NAME_PREFIX
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState
from sqlalchemy.exc import IntegrityError

from automl.core import TrialState
from automl.errors import NotFound
from automl.storage.database import Database, dumps, in_forked_child, json_merge, now
from automl.storage.distributions import Distributions
from automl.storage.feed import TRIAL_COLUMNS, RowReader, StudyFeed
from automl.storage.lazy_trial import LazyTrial
from automl.storage.optuna_writes import TrialWriter, result_columns
from automl.storage.schema import ensure_schema
from automl.storage.studies import there
from automl.storage.tables import study, trial
from automl.storage.trash import Trash
from automl.team import DEFAULT_PROJECT, check_project

_OUR_STATES: Mapping[OptunaState, TrialState] = {
    OptunaState.WAITING: TrialState.WAITING,
    OptunaState.RUNNING: TrialState.RUNNING,
    OptunaState.COMPLETE: TrialState.COMPLETE,
    OptunaState.PRUNED: TrialState.PRUNED,
    OptunaState.FAIL: TrialState.FAILED,
}

_STUDY = study.c.id == sa.bindparam("study", type_=sa.BigInteger)


class OptunaStorage(BaseStorage):
    """An `optuna.storages.BaseStorage` with the studies of one project.

    Safe to share between threads, to pickle, and to inherit through a fork.
    """

    def __init__(self, url: str, project: str = DEFAULT_PROJECT):
        """Opens the database, and makes or migrates its tables if need be.

        Raises `InvalidTarget`, `InvalidInput` for a project, `DatabaseUnavailable`, `SchemaMismatch`.
        """
        check_project(project)
        database = Database(url)
        ensure_schema(database)
        self._open(database, project)

    @classmethod
    def over(cls, database: Database, project: str = DEFAULT_PROJECT) -> OptunaStorage:
        """The storage over an open database with our tables in it."""
        storage = cls.__new__(cls)
        storage._open(database, project)
        return storage

    def _open(self, database: Database, project: str) -> None:
        self._database = database
        self._project = project
        self._there = there(project)
        self._distributions = Distributions(database)
        self._writer = TrialWriter(database, project)
        self._directions: dict[int, list[StudyDirection]] = {}
        self._study_of: dict[int, int] = {}  # of the trials that this process writes
        self._known: dict[tuple[int, str, BaseDistribution], int] = {}  # checked and stored: the id
        self._forget()
        # A lock that another thread of the parent held would stay locked in the child.
        in_forked_child(self._forget)

    def _forget(self) -> None:
        self._lock = Lock()
        self._feeds: dict[int, StudyFeed] = {}
        self._reader = RowReader(self._distributions)

    def __reduce__(self) -> tuple[Any, ...]:
        return OptunaStorage, (self._database.url.render_as_string(hide_password=False), self._project)

    def remove_session(self) -> None:
        """Close the connections that are not in use."""
        self._database.close()

    # -- studies ------------------------------------------------------------------------------------------------

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        name = DEFAULT_STUDY_NAME_PREFIX + str(uuid.uuid4()) if study_name is None else study_name
        names = [direction.name.lower() for direction in directions]
        values = {"project": self._project, "name": name, "directions": names}
        try:
            row = self._database.first(sa.insert(study).values(created_at=now(), **values).returning(study.c.id))
        except IntegrityError as error:
            raise DuplicatedStudyError(f"a study named {name!r} exists; use it, or choose another name") from error
        assert row is not None
        return row.id

    def delete_study(self, study_id: int) -> None:
        try:
            Trash(self._database, self._project).delete(study_id)
        except NotFound as error:
            raise _no_study(study_id) from error
        self._directions.pop(study_id, None)
        with self._lock:
            self._feeds.pop(study_id, None)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attr("user_attrs", study_id, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._set_study_attr("system_attrs", study_id, key, value)

    def _set_study_attr(self, column: str, study_id: int, key: str, value: Any) -> None:
        merged = json_merge(study.c[column], sa.bindparam("attr", type_=sa.Text))
        written = sa.update(study).where(_STUDY, self._there).values({column: merged})
        if not self._database.execute(written, {"study": study_id, "attr": dumps({key: value})}):
            raise _no_study(study_id)

    def get_study_id_from_name(self, study_name: str) -> int:
        row = self._database.first(sa.select(study.c.id).where(study.c.name == study_name, self._there))
        if row is None:
            raise KeyError(f"there is no study named {study_name!r}")
        return row.id

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._of_study(study_id, study.c.name)

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        if study_id not in self._directions:
            self._directions[study_id] = _directions(self._of_study(study_id, study.c.directions))
        return list(self._directions[study_id])

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._of_study(study_id, study.c.user_attrs)

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._of_study(study_id, study.c.system_attrs)

    def _of_study(self, study_id: int, column: sa.ColumnElement[Any]) -> Any:
        row = self._database.first(sa.select(column).where(_STUDY, self._there), {"study": study_id})
        if row is None:
            raise _no_study(study_id)
        return row[0]

    def get_all_studies(self) -> list[FrozenStudy]:
        columns = (study.c.id, study.c.name, study.c.directions, study.c.user_attrs, study.c.system_attrs)
        return [
            FrozenStudy(
                study_name=row.name,
                direction=None,
                directions=_directions(row.directions),
                user_attrs=row.user_attrs,
                system_attrs=row.system_attrs,
                study_id=row.id,
            )
            for row in self._database.all(sa.select(*columns).where(self._there).order_by(study.c.id))
        ]

    # -- writing trials -----------------------------------------------------------------------------------------

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if template_trial is None:
            trial_id = self._writer.ask(study_id)
        else:
            values = self._columns_of(study_id, template_trial)
            trial_id = self._writer.add(study_id, values, template_trial.intermediate_values)
        if template_trial is None or not template_trial.state.is_finished():
            self._study_of[trial_id] = study_id
        return trial_id

    def _columns_of(self, study_id: int, template: FrozenTrial) -> dict[str, Any]:
        waits = template.state is OptunaState.WAITING
        return {
            "state": _OUR_STATES[template.state].value,
            "cause": "enqueued" if waits else "added",
            "attempt": 0 if waits else 1,
            "params": template.params,
            "distributions": self._interned(study_id, template.distributions),
            "user_attrs": template.user_attrs,
            "system_attrs": template.system_attrs,
            "started_at": _moment(template.datetime_start),
            "finished_at": _moment(template.datetime_complete),
            **result_columns(template.values),
        }

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        study_id = self._study_of_trial(trial_id)
        known = (study_id, param_name, distribution)
        if known not in self._known:
            self._require_compatible(trial_id, param_name, distribution)
            self._known[known] = self._interned(study_id, {param_name: distribution})[param_name]
        value = distribution.to_external_repr(float(param_value_internal))
        self._writer.set_param(trial_id, param_name, value, self._known[known])

    def _require_compatible(self, trial_id: int, name: str, distribution: BaseDistribution) -> None:
        for body in self._distributions.of_parameter(self._study_of_trial(trial_id), name)[:1]:
            try:
                check_distribution_compatibility(json_to_distribution(body), distribution)
            except ValueError:
                self._writer.require_writable(trial_id)  # that the trial is over is the better answer
                raise

    def _study_of_trial(self, trial_id: int) -> int:
        if trial_id not in self._study_of:
            row = self._database.first(self._of_trials(trial.c.study_id).where(trial.c.id == trial_id))
            if row is None:
                raise _no_trial(trial_id)
            self._study_of[trial_id] = row.study_id
        return self._study_of[trial_id]

    def _interned(self, study_id: int, distributions: Mapping[str, BaseDistribution]) -> dict[str, int]:
        bodies = {name: distribution_to_json(distribution) for name, distribution in distributions.items()}
        try:
            return self._distributions.ids(study_id, bodies)
        except IntegrityError as error:
            raise _no_study(study_id) from error

    def set_trial_state_values(self, trial_id: int, state: OptunaState, values: Sequence[float] | None = None) -> bool:
        if state is OptunaState.RUNNING:
            return self._writer.pop(trial_id)
        if state is OptunaState.WAITING:
            self._writer.requeue(trial_id)
        else:
            self._writer.end(trial_id, _OUR_STATES[state], values)
        self._study_of.pop(trial_id, None)
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._writer.set_report(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._writer.set_attr(trial_id, "user_attrs", key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._writer.set_attr(trial_id, "system_attrs", key, value)

    # -- reading trials -----------------------------------------------------------------------------------------

    def get_trial(self, trial_id: int) -> FrozenTrial:
        wanted = self._of_trials(trial.c.study_id, *TRIAL_COLUMNS).where(trial.c.id == sa.bindparam("trial"))
        row = self._database.first(wanted, {"trial": trial_id})
        if row is None:
            raise _no_trial(trial_id)
        return self._read(row)

    def _of_trials(self, *columns: sa.ColumnElement[Any]) -> sa.Select[Any]:
        """Of the trials in this project's studies."""
        return sa.select(*columns).join(study, study.c.id == trial.c.study_id).where(self._there)

    def _read(self, row: sa.Row[Any]) -> LazyTrial:
        """`row` holds the study's id, then TRIAL_COLUMNS."""
        read = self._reader.read(row.study_id, row[1:])
        waiting_suggestion = read.state == TrialState.WAITING.value and read.basis is not None
        return LazyTrial(read.as_enqueued() if waiting_suggestion else read)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        wanted = self._of_trials(trial.c.id).where(trial.c.study_id == study_id, trial.c.number == trial_number)
        row = self._database.first(wanted)
        if row is None:
            raise KeyError(f"study {study_id} has no trial {trial_number}")
        return row.id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[OptunaState] | None = None
    ) -> list[FrozenTrial]:
        feed = self._feed(study_id)
        trials = feed.waiting() if states == (OptunaState.WAITING,) else feed.trials(as_enqueued=True)
        return [trial.fresh() if deepcopy else trial for trial in trials if states is None or trial.state in states]

    def snapshot(self, study_id: int) -> list[FrozenTrial]:
        """All trials by number, for a sampler of ours: a waiting suggestion has its parameters as `params`.

        The trials belong to the storage: do not change them. Raises KeyError.
        """
        return list(self._feed(study_id).trials(as_enqueued=False))

    def _feed(self, study_id: int) -> StudyFeed:
        with self._lock:
            if study_id not in self._feeds:
                self._of_study(study_id, study.c.id)  # a feed looks at the id alone
                self._feeds[study_id] = StudyFeed(self._database, self._reader, study_id)
            return self._feeds[study_id]

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        directions = self.get_study_directions(study_id)
        if len(directions) > 1:
            raise RuntimeError("Best trial can be obtained only for single-objective optimization.")
        order = trial.c.value.desc() if directions[0] is StudyDirection.MAXIMIZE else trial.c.value.asc()
        complete = trial.c.state == sa.literal_column("'complete'")
        wanted = self._of_trials(trial.c.study_id, *TRIAL_COLUMNS).where(
            trial.c.study_id == study_id, complete, trial.c.value.is_not(None), trial.c.invalid.is_(None)
        )
        row = self._database.first(wanted.order_by(order, trial.c.number).limit(1))
        if row is None:
            raise ValueError("No trials are completed yet.")
        return self._read(row)


def _directions(names: Sequence[str]) -> list[StudyDirection]:
    return [StudyDirection[name.upper()] for name in names]


def _moment(time: datetime | None) -> float | None:
    return None if time is None else time.timestamp()


def _no_study(study_id: int) -> KeyError:
    return KeyError(f"there is no study {study_id}")


def _no_trial(trial_id: int) -> KeyError:
    return KeyError(f"there is no trial with id {trial_id}")
