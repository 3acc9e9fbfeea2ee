"""Studies and the trials in them: declare, suggest into, count, stop, close.

Numbers come from a counter on the study row, taken in the transaction that inserts the trial: dense, and never above
the budget, however many processes ask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from automl.core import FailureKind, StudyRecord, StudyState, TrialState
from automl.declaration import StudySpec
from automl.errors import NotFound, StudyConflict
from automl.storage import batch_budget
from automl.storage.database import Database, dumps, json_merge, now
from automl.storage.distributions import Distributions
from automl.storage.prepared import prepared
from automl.storage.tables import event, study, trial
from automl.team import DEFAULT_PROJECT

UNFINISHED = tuple(state.value for state in TrialState if not state.is_finished)
_SUGGESTED = ("params", "distributions", "system_attrs", "basis")
_STUDY_COLUMNS = tuple(study.c[name] for name in StudyRecord.__dataclass_fields__)


def there(project: str | sa.BindParameter[str]) -> sa.ColumnElement[bool]:
    """Which studies are in a project, and not deleted."""
    return sa.and_(study.c.project == project, study.c.deleted_at.is_(None))


#: The project, in statements that are prepared.
OF_PROJECT = sa.bindparam("of_project", type_=sa.Text)

_BY_ID = sa.select(*_STUDY_COLUMNS).where(study.c.id == sa.bindparam("study"), there(OF_PROJECT))
_COUNTED = sa.select(trial.c.study_id, trial.c.state, sa.func.count().label("n")).group_by(
    trial.c.study_id, trial.c.state
)
_COUNTED_OF_ONE = _COUNTED.where(trial.c.study_id == sa.bindparam("study"))


@dataclass(frozen=True, slots=True)
class Held:
    """What the holder of a study's lease needs to know of it."""

    state: StudyState
    next_number: int
    trials_left: int | None  #: that the budget still allows to make
    seconds_left: float | None
    paused: bool
    budget: Mapping[str, Any] | None  #: as declared, or changed since


@dataclass(frozen=True, slots=True)
class Unclaimed:
    """A waiting trial that nobody ever claimed."""

    number: int
    basis: int | None  #: None: enqueued, not completed by the sampler yet
    fixed: Mapping[str, Any] | None  #: parameters that were given with it


class Studies:
    """The storage's half for everybody who is not a worker: the studies of one project, without deleted ones."""

    def __init__(self, database: Database, distributions: Distributions, project: str = DEFAULT_PROJECT):
        self._database = database
        self._distributions = distributions
        self._project = project
        self._there = there(project)
        self._batches: dict[int, int | None] = {}  # study -> batch
        self._on_postgresql = database.dialect == "postgresql"

    # -- studies ------------------------------------------------------------------------------------------------

    def declare(
        self,
        spec: StudySpec,
        *,
        entrypoint: str | None,
        code_sha256: str | None,
        queued: bool,
        extend: bool,
        origin_id: int | None = None,
        package_sha256: str | None = None,
    ) -> StudyRecord:
        """The study of that name: made (to confirm study `origin_id`), or found and opened again with this budget.

        Raises `StudyConflict` when the name is taken by another definition.
        """
        values = declared(spec) | {"code_sha256": code_sha256, "package_sha256": package_sha256, "reason": None}
        if entrypoint is not None:
            values["entrypoint"] = entrypoint
        if queued:
            values["queued"] = True
        found = self._find(spec.name)
        if found is None:
            new = new_study(self._project, spec, origin_id=origin_id, **values)
            try:
                self._database.execute(new)
                return self.get(spec.name)
            except IntegrityError:  # somebody else declared it in the meantime
                found = self.get(spec.name)
        self._check_same(spec, found, extend)
        # FAILED and FINISHED studies open again too: the code was mended, the budget was raised.
        self._database.execute(
            sa.update(study)
            .where(study.c.id == found.id, study.c.state != StudyState.OPEN.value)
            .values(state=StudyState.OPEN.value, reason=None)
        )
        self._database.execute(sa.update(study).where(study.c.id == found.id).values(**values))
        self.close_if_done(found.id)
        return self.get(spec.name)

    @staticmethod
    def _check_same(spec: StudySpec, found: StudyRecord, extend: bool) -> None:
        if found.spec is None:
            raise StudyConflict(spec.name, ["it was made by an Optuna program"], extendable=False)
        differences, widens = spec.differences(StudySpec.from_json(found.spec))
        if differences and not (widens and extend):
            raise StudyConflict(spec.name, differences, extendable=widens)

    def get(self, name: str) -> StudyRecord:
        """Raises `NotFound`, which names the studies that there are."""
        found = self._find(name)
        if found is None:
            known = sa.select(study.c.name).where(self._there).order_by(study.c.id).limit(10)
            names = [row.name for row in self._database.all(known)]
            there = f"there are {', '.join(names)}" if names else "there is none yet"
            raise NotFound(f"study {name!r} is not in {self._database}; {there}", field="study")
        return found

    def by_id(self, study_id: int) -> StudyRecord:
        """Raises `NotFound`, also for a study of another project."""
        row = prepared(self._database, _BY_ID).first({"study": study_id, "of_project": self._project})
        if row is None:
            raise NotFound(f"study {study_id} is gone", field="study")
        return _study_record(row)

    def _find(self, name: str) -> StudyRecord | None:
        row = self._database.first(sa.select(*_STUDY_COLUMNS).where(study.c.name == name, self._there))
        return _study_record(row) if row is not None else None

    def all(self) -> list[StudyRecord]:
        """The oldest first."""
        wanted = sa.select(*_STUDY_COLUMNS).where(self._there)
        return [_study_record(row) for row in self._database.all(wanted.order_by(study.c.id))]

    def queued(self) -> list[StudyRecord]:
        """Open studies that any worker may take up: by priority, then by their place in a batch, the oldest first.

        Those that wait for their batch are left out.
        """
        wanted = sa.select(*_STUDY_COLUMNS).where(study.c.queued, study.c.state == StudyState.OPEN.value, self._there)
        wanted = wanted.where(batch_budget.has_turn())
        # NULLs are said to come last: the two databases do not agree on where they belong.
        order = (study.c.priority.desc(), study.c.batch_position.is_(None), study.c.batch_position, study.c.id)
        return [_study_record(row) for row in self._database.all(wanted.order_by(*order))]

    def end(self, study_id: int, state: StudyState, reason: str) -> bool:
        """Stop or fail an open study and cancel what is unfinished; False when it was not open."""
        ended = sa.update(study).where(study.c.id == study_id, study.c.state == StudyState.OPEN.value)
        with self._database.transaction() as connection:
            if not connection.execute(ended.values(state=state.value, reason=reason, paused=False)).rowcount:
                return False
            cancel(connection, study_id, trial.c.state.in_(UNFINISHED))
        self._settle_batch(study_id)
        return True

    def fail_if_hopeless(self, study_id: int, same: int) -> bool:
        """Fail a study of which no trial ever worked and the last `same` failures were alike."""
        worked = (TrialState.COMPLETE.value, TrialState.PRUNED.value)
        row = self._database.first(
            sa.select(trial.c.id).where(trial.c.study_id == study_id, trial.c.state.in_(worked)).limit(1)
        )
        if row is not None:
            return False
        failures = sa.select(trial.c.failure_digest, trial.c.failure_message, trial.c.failure_kind).where(
            trial.c.study_id == study_id, trial.c.failure_kind.is_not(None)
        )
        rows = self._database.all(failures.order_by(trial.c.number.desc()).limit(same))
        kinds = {row.failure_kind for row in rows}
        if len(rows) < same or len({row.failure_digest for row in rows}) > 1 or kinds != {FailureKind.ERROR.value}:
            return False
        return self.end(study_id, StudyState.FAILED, f"{same} trials in a row failed alike: {rows[0].failure_message}")

    def close_if_done(self, study_id: int) -> bool:
        """Finish an open study whose budget is used and whose trials are over; True for the one who did it."""
        used = sa.or_(
            study.c.next_number - study.c.cancelled >= study.c.max_trials,
            study.c.active_s >= study.c.max_active_s,
        )
        unfinished = sa.exists().where(trial.c.study_id == study.c.id, trial.c.state.in_(UNFINISHED))
        closed = sa.update(study).where(
            study.c.id == study_id, study.c.state == StudyState.OPEN.value, used, ~unfinished
        )
        with self._database.transaction() as connection:
            # Locked first: an UPDATE that has to wait for the row would judge by the trials of before its wait.
            connection.execute(sa.select(study.c.id).where(study.c.id == study_id).with_for_update())
            done = bool(connection.execute(closed.values(state=StudyState.FINISHED.value, paused=False)).rowcount)
        self._settle_batch(study_id)
        return done

    def _settle_batch(self, study_id: int) -> None:
        """What follows for the batch of a study, if it has one, from what became of the study."""
        batch_id = self._batch_of(study_id)
        if batch_id is not None:
            with self._database.transaction() as connection:
                batch_budget.settle(connection, batch_id)

    def _batch_of(self, study_id: int) -> int | None:
        """Remembered: a study never comes into a batch, nor out of it."""
        if study_id not in self._batches:
            row = self._database.first(sa.select(study.c.batch_id).where(study.c.id == study_id))
            self._batches[study_id] = None if row is None else row.batch_id
        return self._batches[study_id]

    def counts(self, study_ids: Sequence[int]) -> dict[int, dict[str, int]]:
        """Trials by state, with every state present, and "total"."""
        if len(study_ids) == 1:
            rows = prepared(self._database, _COUNTED_OF_ONE).all({"study": study_ids[0]})
        else:
            rows = self._database.all(_COUNTED.where(trial.c.study_id.in_(study_ids)))
        empty = {"total": 0} | {state.value: 0 for state in TrialState}
        found = {study_id: dict(empty) for study_id in study_ids}
        for row in rows:
            found[row.study_id][row.state] = row.n
            found[row.study_id]["total"] += row.n
        return found

    # -- suggesting ---------------------------------------------------------------------------------------------

    def hold(self, study_id: int, token: str, lease_s: float, active_s: float = 0.0) -> Held | None:
        """Take or keep the right to suggest for the study; None while another process has it, and when it is gone.

        `active_s` seconds of search since the last call count for the budget's minutes, unless the study is paused.
        """
        held = (
            sa.update(study)
            .where(
                study.c.id == study_id,
                self._there,
                sa.or_(
                    study.c.suggester_token == token,
                    study.c.suggester_token.is_(None),
                    study.c.suggester_expires_at < now(),
                ),
            )
            .values(
                suggester_token=token,
                suggester_expires_at=now() + lease_s,
                active_s=sa.case((study.c.paused, study.c.active_s), else_=study.c.active_s + active_s),
            )
            .returning(
                study.c.state,
                study.c.next_number,
                (study.c.max_trials - study.c.next_number + study.c.cancelled).label("trials_left"),
                batch_budget.TRIALS_LEFT.label("batch_left"),
                (study.c.max_active_s - study.c.active_s).label("seconds_left"),
                study.c.paused,
                study.c.spec["budget"].label("budget"),
            )
        )
        row = self._database.first(held)
        if row is None:
            return None
        left = min((n for n in (row.trials_left, row.batch_left) if n is not None), default=None)
        return Held(StudyState(row.state), row.next_number, left, row.seconds_left, row.paused, row.budget)

    def let_go(self, study_id: int, token: str) -> None:
        """Give the right to suggest back at once, instead of when it expires."""
        held = sa.update(study).where(study.c.id == study_id, study.c.suggester_token == token)
        self._database.execute(held.values(suggester_token=None, suggester_expires_at=None))

    def add_suggestion(self, study_id: int, token: str, number: int, suggestion: Mapping[str, Any]) -> bool:
        """Add a waiting trial with exactly this number.

        `suggestion` holds `params`, `distributions` (JSON text by parameter), `system_attrs` and `basis`. False, and
        nothing done, when the number was taken, the budget is used, the study is paused or over, or the lease is lost.
        """
        row = self._suggestion_row(study_id, suggestion)
        if self._on_postgresql and self._batch_of(study_id) is None:
            place = {"study": study_id, "token": token, "number": number}
            return bool(prepared(self._database, _add_suggestion()).execute({**place, **row}))
        with self._database.transaction() as connection:
            if _take_number(connection, study_id, _next_is(token, number)) is None:
                return False
            connection.execute(new_trial(study_id, number, "suggested", row))
            return True

    def revise_suggestion(self, study_id: int, number: int, suggestion: Mapping[str, Any]) -> bool:
        """Replace an unclaimed suggestion (or complete an enqueued trial) in place; False when it was claimed."""
        waiting = sa.update(trial).where(
            trial.c.study_id == study_id,
            trial.c.number == number,
            trial.c.state == TrialState.WAITING.value,
            trial.c.attempt == 0,
        )
        return bool(
            self._database.execute(waiting.values(cause="revised", **self._suggestion_row(study_id, suggestion)))
        )

    def unclaimed(self, study_id: int) -> list[Unclaimed]:
        """In the order in which they will be claimed."""
        wanted = sa.select(trial.c.number, trial.c.basis, trial.c.system_attrs).where(
            trial.c.study_id == study_id, trial.c.state == TrialState.WAITING.value, trial.c.attempt == 0
        )
        rows = self._database.all(wanted.order_by(trial.c.number))
        return [Unclaimed(row.number, row.basis, row.system_attrs.get("fixed_params")) for row in rows]

    def _suggestion_row(self, study_id: int, suggestion: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "params": dict(suggestion["params"]),
            "distributions": self._distributions.ids(study_id, suggestion["distributions"]),
            "system_attrs": dict(suggestion["system_attrs"]),
            "basis": suggestion["basis"],
        }

    def enqueue(self, study_id: int, params: Mapping[str, Any]) -> int | None:
        """Add a trial with these parameters, the rest to be suggested; its number, None when the budget is used."""
        with self._database.transaction() as connection:
            number = _take_number(connection, study_id, sa.true())
            if number is None:
                return None
            fixed = {"fixed_params": dict(params)}
            connection.execute(new_trial(study_id, number, "enqueued", {"system_attrs": fixed}))
            return number

    def shrink_budget(self, study_id: int) -> None:
        """Make the trials that there are the whole budget (a grid has no more points)."""
        made = study.c.next_number - study.c.cancelled
        self._database.execute(sa.update(study).where(study.c.id == study_id).values(max_trials=made))

    def converge(self, study_id: int, token: str, reason: str) -> bool:
        """Make no more trials, because the search has converged; those that were started finish, then the study does.

        False, and nothing done, when the study is not open or the lease is lost.
        """
        holds = sa.and_(study.c.id == study_id, study.c.suggester_token == token)
        unclaimed = sa.and_(trial.c.state == TrialState.WAITING.value, trial.c.attempt == 0)
        ends = sa.update(study).where(holds, study.c.state == StudyState.OPEN.value)
        with self._database.transaction() as connection:
            if not connection.execute(ends.values(reason=reason)).rowcount:
                return False
            cancel(connection, study_id, unclaimed)
            connection.execute(ends.values(max_trials=study.c.next_number - study.c.cancelled))
            return True

    def note(self, study_id: int, token: str, key: str, value: Any) -> bool:
        """Set a system attribute of the study; False, and nothing done, when the lease is lost."""
        holds = sa.and_(study.c.id == study_id, study.c.suggester_token == token)
        noted = json_merge(study.c.system_attrs, sa.bindparam("noted", type_=sa.Text))
        written = sa.update(study).where(holds).values(system_attrs=noted)
        return bool(self._database.execute(written, {"noted": dumps({key: value})}))

    def noted(self, study_id: int, key: str) -> Any:
        """A system attribute of the study; None when it has none of that name."""
        row = self._database.first(sa.select(study.c.system_attrs).where(study.c.id == study_id))
        return None if row is None else row.system_attrs.get(key)

    def cancel_waiting(self, study_id: int, number: int | None = None) -> int:
        """Cancel what nobody has started, or only trial `number` of it; how many."""
        which = trial.c.state == TrialState.WAITING.value
        if number is not None:
            which = sa.and_(which, trial.c.number == number)
        with self._database.transaction() as connection:
            return cancel(connection, study_id, which)

    def want(self, study_id: int, slots: int, for_s: float) -> int:
        """Have somebody else suggest for the study, for `slots` trials at a time and so many seconds from now.

        How many trials wait to be claimed. Of several that want the same study the largest number counts, and not the
        sum: what runs has one that can follow it anyway. Raises `NotFound`.
        """
        wants = study.c.wanted_until > now()
        fewer = sa.and_(wants, study.c.wanted_slots > slots)
        later = sa.and_(wants, study.c.wanted_until > now() + for_s)
        wanted = (
            sa.update(study)
            .where(study.c.id == study_id, self._there)
            .values(
                wanted_slots=sa.case((fewer, study.c.wanted_slots), else_=slots),
                wanted_until=sa.case((later, study.c.wanted_until), else_=now() + for_s),
            )
        )
        if not self._database.execute(wanted):
            raise NotFound(f"study {study_id} is gone", field="study")
        waiting = sa.select(sa.func.count().label("n")).where(
            trial.c.study_id == study_id,
            trial.c.state == sa.literal_column("'waiting'"),
            trial.c.basis.is_not(None),
            trial.c.run_after <= now(),
        )
        row = self._database.first(waiting)
        return 0 if row is None else int(row.n)

    def clock(self) -> float:
        """The database's clock, seconds since the epoch."""
        row = self._database.first(sa.select(now().label("now")))
        assert row is not None
        return float(row.now)


def cancel(connection: sa.Connection, study_id: int, which: sa.ColumnElement[bool]) -> int:
    """Cancel these trials of a study, inside a transaction; how many. The leases of those that run are over."""
    chosen = sa.select(trial.c.id).where(trial.c.study_id == study_id, which).order_by(trial.c.id)
    ids = connection.scalars(chosen.with_for_update()).all()  # in this order: see `leases._RENEW`
    cancelled = (
        sa.update(trial)
        .where(trial.c.id.in_(ids))
        .values(
            state=TrialState.CANCELLED.value,
            cause="cancelled",
            lease_token=None,
            lease_expires_at=None,
            finished_at=now(),
        )
    )
    count = connection.execute(cancelled).rowcount
    more = sa.update(study).where(study.c.id == study_id)
    connection.execute(more.values(cancelled=study.c.cancelled + count))
    batch_budget.give_back(connection, study_id, count)
    return count


def tell(connection: sa.Connection, study_id: int, state: str, cause: str) -> None:
    """An event of the study itself, as the trigger writes them."""
    position = "pg_current_xact_id()::text::bigint" if connection.dialect.name == "postgresql" else "0"
    told = {
        "position": sa.literal_column(position, sa.BigInteger),
        "study_id": study_id,
        "state": state,
        "cause": cause,
        "at": now(),
    }
    connection.execute(sa.insert(event).values(**told))


def _take_number(connection: sa.Connection, study_id: int, condition: sa.ColumnElement[bool]) -> int | None:
    """The next number of an open study, counted also in its batch; None when the budget of one of them is used."""
    row = connection.execute(_counted_up(study_id, condition)).first()
    if row is None:
        return None
    if row.batch_id is not None and not batch_budget.take(connection, row.batch_id):
        undone = sa.update(study).where(study.c.id == study_id)  # locked by this transaction: nobody has seen it
        connection.execute(undone.values(next_number=study.c.next_number - 1))
        return None
    return int(row.number)


def _counted_up(study_id: Any, condition: sa.ColumnElement[bool]) -> Any:
    """Take the next number of an open study, if its budget has one left."""
    within_budget = sa.or_(study.c.max_trials.is_(None), study.c.next_number - study.c.cancelled < study.c.max_trials)
    return (
        sa.update(study)
        .where(study.c.id == study_id, study.c.state == StudyState.OPEN.value, study.c.deleted_at.is_(None))
        .where(within_budget, condition)
        .values(next_number=study.c.next_number + 1)
        .returning((study.c.next_number - 1).label("number"), study.c.batch_id)
    )


def _next_is(token: Any, number: Any) -> sa.ColumnElement[bool]:
    """Whether the holder with this token may add a suggestion of this number."""
    return sa.and_(study.c.suggester_token == token, study.c.next_number == number, ~study.c.paused)


@cache
def _add_suggestion() -> sa.Insert:
    """The number and the trial in one statement, as PostgreSQL can: the study's row is locked for no longer."""
    is_next = _next_is(sa.bindparam("token", type_=sa.Text), sa.bindparam("number", type_=sa.Integer))
    study_id = sa.bindparam("study", type_=sa.BigInteger)
    number = _counted_up(study_id, is_next).cte("counted").c.number
    given = [sa.bindparam(name, type_=trial.c[name].type) for name in _SUGGESTED]
    values = sa.select(study_id, number, sa.literal(TrialState.WAITING.value), sa.literal("suggested"), now(), *given)
    return sa.insert(trial).from_select(["study_id", "number", "state", "cause", "created_at", *_SUGGESTED], values)


def declared(spec: StudySpec) -> dict[str, Any]:
    """What the row of a study says of its declaration, and what changes with it."""
    return {
        "spec": spec.to_json(),
        "max_trials": spec.budget.trials,
        "max_active_s": spec.budget.minutes * 60 if spec.budget.minutes else None,
        "retries": spec.retries,
    }


def new_study(project: str, spec: StudySpec, /, **further: Any) -> sa.Insert:
    """`further`: other columns."""
    row = declared(spec) | {"project": project, "name": spec.name, "directions": list(spec.directions)}
    return sa.insert(study).values(**row | {"created_at": now()} | further)


def new_trial(study_id: int, number: int, cause: str, values: Mapping[str, Any]) -> sa.Insert:
    return sa.insert(trial).values(
        study_id=study_id,
        number=number,
        state=TrialState.WAITING.value,
        cause=cause,
        created_at=now(),
        **values,
    )


def _study_record(row: Any) -> StudyRecord:
    data = row._asdict()
    return StudyRecord(
        **{**data, "state": StudyState(row.state), "directions": tuple(row.directions), "tags": tuple(row.tags)}
    )
