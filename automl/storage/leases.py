"""The life of a trial under a lease: claim, renew, report, checkpoint, finish, fail, release, reap.

Every write of a worker is one UPDATE whose WHERE holds the lease token: no row, no effect, `LeaseLost`. After a lock
wait PostgreSQL looks at the WHERE again on the newest version of the row, so READ COMMITTED decides finish-against-reap
correctly; on SQLite there is one writer. Only the database's clock judges expiry. A token is chosen by the worker and
used for one claim, so a call whose answer was lost can be made again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError

from automl.core import (
    CONSTRAINT,
    MAX_LOSSES,
    Artifact,
    Checkpoint,
    Failure,
    FailureKind,
    Lease,
    Outcome,
    Report,
    TrialState,
)
from automl.errors import InvalidInput, LeaseLost
from automl.storage.database import Database, Json, dumps, is_one_of, json_merge, loads, now
from automl.storage.distributions import Distributions
from automl.storage.prepared import Prepared, prepared
from automl.storage.studies import OF_PROJECT, there
from automl.storage.tables import artifact, event, report, study, trial
from automl.team import DEFAULT_PROJECT

#: Trials that one call of `reap` takes back at most, so that no transaction grows without bound.
REAP_BATCH = 500

_HELD = sa.and_(trial.c.lease_token == sa.bindparam("held"), trial.c.state == TrialState.RUNNING.value)
_NO_LEASE = {"lease_token": None, "lease_expires_at": None}


class _Claimed(NamedTuple):
    study_id: int
    id: int
    number: int
    attempt: int
    params: str  # JSON, as the next
    distributions: str
    checkpoint_step: int | None
    checkpoint_path: str
    checkpoint_sha256: str


_LEASE_COLUMNS = (
    trial.c.study_id,
    trial.c.id,
    trial.c.number,
    trial.c.attempt,
    sa.cast(trial.c.params, sa.Text).label("params"),
    sa.cast(trial.c.distributions, sa.Text).label("distributions"),
    trial.c.checkpoint_step,
    trial.c.checkpoint_path,
    trial.c.checkpoint_sha256,
)


def _claim_of(studies: sa.ColumnElement[bool], *first: sa.ColumnElement[Any]) -> sa.Update:
    """The next waiting trial of these studies: by `first`, then the oldest study's."""
    # Held by this statement: whoever pauses the study waits for it, and what comes later sees the pause. The lock is
    # the one that a new trial's foreign key takes, so neither suggestions nor other claims wait.
    awake = sa.select(study.c.id).where(studies, there(OF_PROJECT), ~study.c.paused)
    next_waiting = (
        sa.select(trial.c.id)
        .where(
            trial.c.state == sa.literal_column("'waiting'"),  # in these words, so that the partial index is used
            trial.c.basis.is_not(None),
            trial.c.run_after <= now(),
            trial.c.study_id.in_(awake.with_for_update(read=True, key_share=True)),
        )
        .order_by(*first, trial.c.study_id, trial.c.number)
        .limit(sa.literal_column("1"))
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return (
        sa.update(trial)
        .where(trial.c.id == next_waiting)
        .values(
            state=TrialState.RUNNING.value,
            cause="claimed",
            attempt=trial.c.attempt + 1,
            lease_token=sa.bindparam("token", type_=sa.Text),
            lease_expires_at=now() + sa.bindparam("lease_s", type_=sa.Double),
            worker=sa.bindparam("worker_name", type_=sa.Text),
            started_at=sa.func.coalesce(trial.c.started_at, now()),
        )
        .returning(*_LEASE_COLUMNS)
    )


_CLAIM = _claim_of(study.c.id == sa.bindparam("study", type_=sa.BigInteger))
_PRIORITY = sa.select(study.c.priority).where(study.c.id == trial.c.study_id).scalar_subquery()
_CLAIM_OF_MANY = _claim_of(study.c.id.in_(sa.bindparam("studies", expanding=True)), _PRIORITY.desc())

# In the order of ids, as `Studies` cancels: two statements that lock many trials must not wait for each other.
_renewed = (
    sa.select(trial.c.id)
    .where(
        is_one_of(trial.c.lease_token, sa.bindparam("tokens", type_=sa.Text)),
        trial.c.state == TrialState.RUNNING.value,
    )
    .order_by(trial.c.id)
    .with_for_update()
    .cte("renewed")
    .prefix_with("MATERIALIZED")
)
_RENEW = (
    sa.update(trial)
    .where(trial.c.id.in_(sa.select(_renewed.c.id)))
    .values(lease_expires_at=now() + sa.bindparam("lease_s", type_=sa.Double))
    .returning(trial.c.lease_token)
)

_CHECKPOINT = (
    sa.update(trial)
    .where(_HELD, sa.func.coalesce(trial.c.checkpoint_step, -1) <= sa.bindparam("step"))
    .values(
        checkpoint_step=sa.bindparam("step"),
        checkpoint_path=sa.bindparam("path"),
        checkpoint_sha256=sa.bindparam("sha256"),
        checkpoint_attempt=trial.c.attempt,
    )
)

_RELEASE = (
    sa.update(trial)
    .where(_HELD)
    .values(
        state=TrialState.WAITING.value,
        cause=FailureKind.PREEMPTED.value,
        preempted=trial.c.preempted + 1,
        **_NO_LEASE,
    )
)


def _finish() -> sa.UpdateBase:
    """What stays as it is comes as NULL."""
    return (
        sa.update(trial)
        .where(_HELD)
        .values(
            state=sa.bindparam("state", type_=sa.Text),
            cause=sa.bindparam("state", type_=sa.Text),
            objectives=sa.bindparam("objectives", type_=Json),
            value=sa.bindparam("value", type_=sa.Double),
            metrics=sa.bindparam("metrics", type_=Json),
            user_attrs=json_merge(trial.c.user_attrs, sa.bindparam("facts", type_=sa.Text)),
            system_attrs=json_merge(trial.c.system_attrs, sa.bindparam("constraints", type_=sa.Text)),
            params=sa.func.coalesce(sa.bindparam("params", type_=trial.c.params.type), trial.c.params),
            distributions=sa.func.coalesce(sa.bindparam("distributions", type_=Json), trial.c.distributions),
            result_token=sa.bindparam("held"),
            finished_at=now(),
            failure_kind=None,
            failure_message=None,
            failure_traceback=None,
            failure_digest=None,
            **_NO_LEASE,
        )
        .returning(trial.c.id, trial.c.attempt)
    )


def _hold() -> sa.Select[Any]:
    """FOR SHARE holds off the reaper's update until the reports are in."""
    return sa.select(trial.c.id, trial.c.attempt).where(_HELD).with_for_update(read=True)


def _with_reports(owner: Any) -> sa.Select[Any]:
    """On PostgreSQL: `owner`, which returns the id and attempt of a trial, and reports to it, in one statement."""
    columns = (sa.column("step", sa.BigInteger), sa.column("value", sa.Double), sa.column("metrics", Json))
    sent = sa.func.json_to_recordset(sa.bindparam("reports", type_=sa.JSON))
    given = sent.table_valued(*columns).render_derived(name="given", with_types=True)
    row = owner.cte("owner")
    rows = sa.select(row.c.id, row.c.attempt, *given.c).select_from(row.join(given, sa.true()))
    new = postgresql.insert(report).from_select(["trial_id", "attempt", *given.c.keys()], rows)
    return sa.select(row.c.id, row.c.attempt).add_cte(_newer(new).returning(report.c.step).cte("written"))


def _newer(insert: Any) -> Any:
    """Replace a report of the same step, unless a newer attempt wrote it."""
    return insert.on_conflict_do_update(
        index_elements=["trial_id", "step"],
        set_={name: insert.excluded[name] for name in ("attempt", "value", "metrics")},
        where=report.c.attempt <= insert.excluded.attempt,
    )


class Holder(NamedTuple):
    """The trial that a lease is for."""

    study_id: int
    number: int


class Leases:
    """The worker's half of the storage. Raises `LeaseLost` where a token is not the current one."""

    def __init__(self, database: Database, distributions: Distributions, project: str = DEFAULT_PROJECT):
        self._database = database
        self._distributions = distributions
        self._project = project
        self._on_postgresql = database.dialect == "postgresql"
        self._upsert_report = _newer(database.insert(report))

    @cached_property
    def _finish(self) -> Prepared:
        return Prepared(self._database, _with_reports(_finish()) if self._on_postgresql else _finish())

    @cached_property
    def _hold(self) -> Prepared:
        return Prepared(self._database, _with_reports(_hold()) if self._on_postgresql else _hold())

    def claim(self, study_ids: Sequence[int], worker: str, token: str, lease_s: float) -> Lease | None:
        """The next waiting trial of these studies; the same again when the call is repeated.

        Studies that are paused, deleted, or of another project are passed over.
        """
        arguments = {"token": token, "lease_s": lease_s, "worker_name": worker, "of_project": self._project}
        row: Sequence[Any] | None
        try:
            if len(study_ids) == 1:
                row = prepared(self._database, _CLAIM).first({"study": study_ids[0], **arguments})
            else:
                row = self._database.first(_CLAIM_OF_MANY, {"studies": list(study_ids), **arguments})
        except IntegrityError:
            row = None
        if row is None:  # nothing waits, or the token has a trial already: the answer to an earlier call was lost
            row = self._database.first(sa.select(*_LEASE_COLUMNS).where(_HELD), {"held": token})
        if row is None:
            return None
        return self._lease(token, row)

    def lease(self, token: str) -> Lease:
        """A lease that is held, with the trial's last checkpoint. Raises `LeaseLost`."""
        row = self._database.first(sa.select(*_LEASE_COLUMNS).where(_HELD), {"held": token})
        if row is None:
            raise LeaseLost(f"lease {token} is over")
        return self._lease(token, row)

    def _lease(self, token: str, row: Sequence[Any]) -> Lease:
        claimed = _Claimed(*row)
        checkpoint = None
        if claimed.checkpoint_step is not None:
            checkpoint = Checkpoint(claimed.checkpoint_step, claimed.checkpoint_path, claimed.checkpoint_sha256)
        return Lease(
            token=token,
            study_id=claimed.study_id,
            trial_id=claimed.id,
            number=claimed.number,
            attempt=claimed.attempt,
            params=loads(claimed.params),
            distributions=self._distributions.bodies(claimed.study_id, loads(claimed.distributions)),
            checkpoint=checkpoint,
        )

    def renew(self, tokens: Iterable[str], lease_s: float) -> frozenset[str]:
        """Those of `tokens` that are still held, extended by `lease_s` seconds from now."""
        wanted = sorted(tokens)
        if not wanted:
            return frozenset()
        rows = prepared(self._database, _RENEW).all({"tokens": dumps(wanted), "lease_s": lease_s})
        return frozenset(row.lease_token for row in rows)

    def report(self, token: str, reports: Sequence[Report]) -> None:
        """Record `reports`; a step that is there already is replaced unless a newer attempt wrote it."""
        if self._with_reports(self._hold, {"held": token}, reports) is None:
            raise LeaseLost(f"lease {token} is over")

    def _with_reports(
        self,
        statement: Prepared,
        arguments: Mapping[str, Any],
        reports: Sequence[Report],
        artifacts: Sequence[Artifact] = (),
    ) -> int | None:
        """Run `statement` and write what belongs to its trial; the trial's id, None when the lease is over."""
        if self._on_postgresql and not artifacts:
            row = statement.first({**arguments, "reports": _as_json(reports)})
            return row[0] if row is not None else None
        with self._database.transaction() as connection:
            sent = {"reports": _as_json(reports)} if self._on_postgresql else {}
            row = statement.first({**arguments, **sent}, connection)
            if row is None:
                return None
            trial_id, attempt = row
            if not self._on_postgresql:
                self._insert_reports(connection, trial_id, attempt, reports)
            if artifacts:
                files = [{"name": item.name, "sha256": item.sha256, "size": item.size} for item in artifacts]
                connection.execute(sa.insert(artifact), [{"trial_id": trial_id, **file} for file in files])
            return trial_id

    def describe(self, token: str, params: Mapping[str, Any], distributions: Mapping[str, str]) -> None:
        """Record what a define-by-run function really asked for, while it runs."""
        ids = self._distributions.ids(self.holder(token).study_id, distributions)
        described = sa.update(trial).where(_HELD).values(params=dict(params), distributions=ids)
        if self._database.execute(described, {"held": token}) == 0:
            raise LeaseLost(f"lease {token} is over")

    def checkpoint(self, token: str, checkpoint: Checkpoint) -> None:
        """Acknowledge a checkpoint; one of an earlier step than the recorded one is passed over."""
        arguments = {"step": checkpoint.step, "path": checkpoint.path, "sha256": checkpoint.sha256}
        if self._database.execute(_CHECKPOINT, {"held": token, **arguments}) == 0:
            self.holder(token)  # raises, unless only the step was too early

    def finish(self, token: str, outcome: Outcome, reports: Sequence[Report] = ()) -> None:
        """Accept the one result of the trial, with its last reports, or raise `LeaseLost`.

        Raises `InvalidInput` for a value that is not finite, PostgreSQL sorts NaN above infinity, and for a constraint
        that is NaN.
        """
        if any(map(math.isnan, outcome.constraints.values())):
            raise InvalidInput(f"constraints: {dict(outcome.constraints)} has a NaN; fail the trial", "constraints")
        if not all(map(math.isfinite, outcome.values or ())):
            raise InvalidInput(f"values: {outcome.values} are not all finite; fail the trial instead", field="values")
        values: dict[str, Any] = {
            "held": token,
            "state": outcome.state.value,
            "objectives": list(outcome.values) if outcome.values is not None else None,
            "value": outcome.values[0] if outcome.values else None,
            "metrics": dict(outcome.metrics),
            "facts": dumps(dict(outcome.facts)),
            # In one order for all trials: Optuna's GP knows constraints by their places.
            "constraints": dumps({CONSTRAINT + name: value for name, value in sorted(outcome.constraints.items())}),
            "params": None,
            "distributions": None,
        }
        if outcome.params is not None:
            study_id = self._study_of(token)
            values["params"] = dict(outcome.params)
            values["distributions"] = self._distributions.ids(study_id, outcome.distributions or {})
        ended = self._with_reports(self._finish, values, reports, outcome.artifacts)
        # The answer to the first call may have been lost.
        if ended is None and not self._was_accepted(token, outcome):
            raise LeaseLost(f"lease {token} is over")

    def fail(self, token: str, failure: Failure, reports: Sequence[Report] = ()) -> tuple[int, TrialState]:
        """End the attempt; the study's id and the state the trial came to (WAITING: it is tried again)."""
        with self._database.transaction() as connection:
            ended = _failed(failure).returning(trial.c.id, trial.c.attempt, trial.c.study_id, trial.c.state)
            row = connection.execute(ended, {"held": token}).first()
            if row is None:
                raise LeaseLost(f"lease {token} is over")
            self._insert_reports(connection, row.id, row.attempt, reports)
            return row.study_id, TrialState(row.state)

    def holder(self, token: str) -> Holder:
        """Which trial the lease is for."""
        row = self._database.first(sa.select(trial.c.study_id, trial.c.number).where(_HELD), {"held": token})
        if row is None:
            raise LeaseLost(f"lease {token} is over")
        return Holder(row.study_id, row.number)

    def release(self, token: str) -> None:
        """Back to the queue with the last checkpoint, at no cost to the trial."""
        if self._database.execute(_RELEASE, {"held": token}) == 0:
            raise LeaseLost(f"lease {token} is over")

    def reap(self, grace_s: float) -> list[int]:
        """Take back the trials whose leases expired; their ids.

        Waits `grace_s` after a start of PostgreSQL: while it was down nobody could renew, and a restart of the
        database must not end every running trial.
        """
        conditions = [trial.c.state == TrialState.RUNNING.value, trial.c.lease_expires_at < now()]
        if self._database.dialect == "postgresql":
            up_s = now() - sa.func.extract("epoch", sa.func.pg_postmaster_start_time())
            conditions.append(sa.cast(up_s, sa.Double) > grace_s)
        expired = (
            sa.select(trial.c.id)
            .where(*conditions)
            .order_by(trial.c.lease_expires_at)
            .limit(REAP_BATCH)
            .with_for_update(skip_locked=True)
            .cte("expired")
            .prefix_with("MATERIALIZED")
        )
        claimed_by = sa.select(sa.func.count(event.c.worker.distinct())).where(
            event.c.trial_id == trial.c.id, event.c.cause == "claimed"
        )
        poisonous = sa.and_(trial.c.lost + 1 >= MAX_LOSSES, claimed_by.scalar_subquery() >= 2)
        message = f"took its worker down {MAX_LOSSES} times, on two workers or more"
        taken = (
            sa.update(trial)
            .where(trial.c.id.in_(sa.select(expired.c.id)))
            .values(**_lost(poisonous, Failure(FailureKind.LOST, message)))
            .returning(trial.c.id)
        )
        with self._database.connection() as connection:
            return list(connection.scalars(taken))

    def _insert_reports(
        self, connection: sa.Connection, trial_id: int, attempt: int, reports: Sequence[Report]
    ) -> None:
        if not reports:
            return
        rows: list[Mapping[str, Any]] = [
            {
                "trial_id": trial_id,
                "step": item.step,
                "attempt": attempt,
                "value": item.value,
                "metrics": dict(item.metrics) or None,
            }
            for item in _newest(reports)
        ]
        connection.execute(self._upsert_report, rows)

    def _study_of(self, token: str) -> int:
        row = self._database.first(sa.select(trial.c.study_id).where(trial.c.lease_token == token))
        if row is None:
            row = self._database.first(sa.select(trial.c.study_id).where(trial.c.result_token == token))
        if row is None:
            raise LeaseLost(f"lease {token} is over")
        return row.study_id

    def _was_accepted(self, token: str, outcome: Outcome) -> bool:
        accepted = sa.select(trial.c.objectives).where(
            trial.c.result_token == token, trial.c.state == outcome.state.value
        )
        row = self._database.first(accepted)
        return row is not None and row.objectives == (None if outcome.values is None else list(outcome.values))


def _newest(reports: Sequence[Report]) -> list[Report]:
    """One for each step: a statement may not touch a row twice."""
    return list({item.step: item for item in reports}.values())


def _as_json(reports: Sequence[Report]) -> list[dict[str, Any]]:
    # Values as texts: JSON has no NaN and no infinity.
    return [
        {
            "step": item.step,
            "value": None if item.value is None else repr(float(item.value)),
            "metrics": dict(item.metrics) or None,
        }
        for item in _newest(reports)
    ]


def _failed(failure: Failure) -> sa.Update:
    statement = sa.update(trial).where(_HELD)
    if failure.kind is FailureKind.LOST:
        # The worker lives, only the trial's process was killed: it is poison however few workers saw it.
        return statement.values(**_lost(trial.c.lost + 1 >= MAX_LOSSES, failure))
    if failure.kind is FailureKind.ERROR:
        allowed = sa.select(study.c.retries).where(study.c.id == trial.c.study_id).scalar_subquery()
        over = trial.c.errors >= allowed
        return statement.values(
            state=sa.case((over, TrialState.FAILED.value), else_=TrialState.WAITING.value),
            cause=failure.kind.value,
            errors=trial.c.errors + 1,
            finished_at=sa.case((over, now())),
            run_after=now() + trial.c.errors * trial.c.errors,
            **_recorded(failure),
        )
    return statement.values(
        state=TrialState.FAILED.value, cause=failure.kind.value, finished_at=now(), **_recorded(failure)
    )


def _lost(poisonous: sa.ColumnElement[bool], failure: Failure) -> dict[str, Any]:
    return {
        "state": sa.case((poisonous, TrialState.FAILED.value), else_=TrialState.WAITING.value),
        "cause": sa.case((poisonous, "poison"), else_=FailureKind.LOST.value),
        "lost": trial.c.lost + 1,
        "finished_at": sa.case((poisonous, now())),
        # At once the first time; then later and later, in case it is the trial that kills its workers.
        "run_after": now() + trial.c.lost * trial.c.lost,
        **_recorded(failure),
    }


def _recorded(failure: Failure) -> dict[str, Any]:
    return {
        "failure_kind": failure.kind.value,
        "failure_message": failure.message,
        "failure_traceback": failure.traceback or None,
        "failure_digest": failure.digest,
        **_NO_LEASE,
    }
