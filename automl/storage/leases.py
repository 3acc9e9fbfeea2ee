"""The life of a trial under a lease: claim, renew, report, checkpoint, finish, fail, release, reap.

Every write of a worker is one UPDATE whose WHERE holds the lease token: no row, no effect, `LeaseLost`. After a lock
wait PostgreSQL looks at the WHERE again on the newest version of the row, so READ COMMITTED decides finish-against-reap
correctly; on SQLite there is one writer. Only the database's clock judges expiry. A token is chosen by the worker and
used for one claim, so a call whose answer was lost can be made again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from automl.core import (
    MAX_LOSSES,
    Checkpoint,
    Failure,
    FailureKind,
    Lease,
    Outcome,
    Report,
    TrialState,
)
from automl.errors import LeaseLost
from automl.storage.database import Database, now
from automl.storage.distributions import Distributions
from automl.storage.tables import artifact, event, report, study, trial

#: Trials that one call of `reap` takes back at most, so that no transaction grows without bound.
REAP_BATCH = 500

_HELD = sa.and_(trial.c.lease_token == sa.bindparam("held"), trial.c.state == TrialState.RUNNING.value)
_NO_LEASE = {"lease_token": None, "lease_expires_at": None}

_LEASE_COLUMNS = (
    trial.c.study_id,
    trial.c.id,
    trial.c.number,
    trial.c.attempt,
    trial.c.params,
    trial.c.distributions,
    trial.c.checkpoint_step,
    trial.c.checkpoint_path,
    trial.c.checkpoint_sha256,
)

_next_waiting = (
    sa.select(trial.c.id)
    .where(
        trial.c.state == TrialState.WAITING.value,
        trial.c.basis.is_not(None),
        trial.c.run_after <= now(),
        trial.c.study_id.in_(sa.bindparam("studies", expanding=True)),
    )
    .order_by(trial.c.study_id, trial.c.number)
    .limit(1)
    .with_for_update(skip_locked=True)
    .scalar_subquery()
)

_CLAIM = (
    sa.update(trial)
    .where(trial.c.id == _next_waiting)
    .values(
        state=TrialState.RUNNING.value,
        cause="claimed",
        attempt=trial.c.attempt + 1,
        lease_token=sa.bindparam("token"),
        lease_expires_at=now() + sa.bindparam("lease_s", type_=sa.Double),
        worker=sa.bindparam("worker_name"),
        started_at=sa.func.coalesce(trial.c.started_at, now()),
    )
    .returning(*_LEASE_COLUMNS)
)

_RENEW = (
    sa.update(trial)
    .where(
        trial.c.lease_token.in_(sa.bindparam("tokens", expanding=True)),
        trial.c.state == TrialState.RUNNING.value,
    )
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


class Holder(NamedTuple):
    """The trial that a lease is for."""

    study_id: int
    number: int


class Leases:
    """The worker's half of the storage. Raises `LeaseLost` where a token is not the current one."""

    def __init__(self, database: Database, distributions: Distributions):
        self._database = database
        self._distributions = distributions
        insert = postgresql.insert if database.dialect == "postgresql" else sqlite.insert
        upsert = insert(report)
        self._upsert_report = upsert.on_conflict_do_update(
            index_elements=["trial_id", "step"],
            set_={name: upsert.excluded[name] for name in ("attempt", "value", "metrics")},
            where=report.c.attempt <= upsert.excluded.attempt,
        )

    def claim(self, study_ids: Sequence[int], worker: str, token: str, lease_s: float) -> Lease | None:
        """The next waiting trial of these studies; the same one again when the call is repeated."""
        arguments = {"studies": list(study_ids), "token": token, "lease_s": lease_s, "worker_name": worker}
        try:
            row = self._database.first(_CLAIM, arguments)
        except IntegrityError:
            row = None
        if row is None:  # nothing waits, or the token has a trial already: the answer to an earlier call was lost
            row = self._database.first(sa.select(*_LEASE_COLUMNS).where(_HELD), {"held": token})
        if row is None:
            return None
        checkpoint = None
        if row.checkpoint_step is not None:
            checkpoint = Checkpoint(row.checkpoint_step, row.checkpoint_path, row.checkpoint_sha256)
        return Lease(
            token=token,
            study_id=row.study_id,
            trial_id=row.id,
            number=row.number,
            attempt=row.attempt,
            params=row.params,
            distributions=self._distributions.bodies(row.study_id, row.distributions),
            checkpoint=checkpoint,
        )

    def renew(self, tokens: Iterable[str], lease_s: float) -> frozenset[str]:
        """Those of `tokens` that are still held, extended by `lease_s` seconds from now."""
        wanted = sorted(tokens)
        if not wanted:
            return frozenset()
        rows = self._database.all(_RENEW, {"tokens": wanted, "lease_s": lease_s})
        return frozenset(row.lease_token for row in rows)

    def report(self, token: str, reports: Sequence[Report]) -> None:
        """Record `reports`; a step that is there already is replaced unless a newer attempt wrote it."""
        with self._database.transaction() as connection:
            # FOR SHARE holds off the reaper's update until these rows are in.
            held = sa.select(trial.c.id, trial.c.attempt).where(_HELD).with_for_update(read=True)
            row = connection.execute(held, {"held": token}).first()
            if row is None:
                raise LeaseLost(f"lease {token} is over")
            self._insert_reports(connection, row.id, row.attempt, reports)

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
            self._require_held(token)

    def finish(self, token: str, outcome: Outcome, reports: Sequence[Report] = ()) -> None:
        """Accept the one result of the trial, with its last reports, or raise `LeaseLost`."""
        values: dict[str, Any] = {
            "state": outcome.state.value,
            "cause": outcome.state.value,
            "objectives": list(outcome.values) if outcome.values is not None else None,
            "value": outcome.values[0] if outcome.values else None,
            "metrics": dict(outcome.metrics),
            "result_token": token,
            "finished_at": now(),
            "failure_kind": None,
            "failure_message": None,
            "failure_traceback": None,
            "failure_digest": None,
            **_NO_LEASE,
        }
        if outcome.facts:
            values["user_attrs"] = sa.func.json_merge(trial.c.user_attrs, sa.literal(dict(outcome.facts), sa.JSON()))
        if outcome.params is not None:
            study_id = self._study_of(token)
            values["params"] = dict(outcome.params)
            values["distributions"] = self._distributions.ids(study_id, outcome.distributions or {})
        ended = sa.update(trial).where(_HELD).values(**values).returning(trial.c.id, trial.c.attempt)
        with self._database.transaction() as connection:
            row = connection.execute(ended, {"held": token}).first()
            if row is None:
                if self._was_accepted(connection, token, outcome):
                    return  # the answer to the first call was lost
                raise LeaseLost(f"lease {token} is over")
            self._insert_reports(connection, row.id, row.attempt, reports)
            if outcome.artifacts:
                rows = [
                    {"trial_id": row.id, "name": item.name, "sha256": item.sha256, "size": item.size}
                    for item in outcome.artifacts
                ]
                connection.execute(sa.insert(artifact), rows)

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
        newest = {item.step: item for item in reports}  # one statement may not touch a row twice
        rows: list[Mapping[str, Any]] = [
            {
                "trial_id": trial_id,
                "step": item.step,
                "attempt": attempt,
                "value": item.value,
                "metrics": dict(item.metrics) or None,
            }
            for item in newest.values()
        ]
        connection.execute(self._upsert_report, rows)

    def _require_held(self, token: str) -> None:
        if self._database.first(sa.select(trial.c.id).where(_HELD), {"held": token}) is None:
            raise LeaseLost(f"lease {token} is over")

    def _study_of(self, token: str) -> int:
        row = self._database.first(sa.select(trial.c.study_id).where(trial.c.lease_token == token))
        if row is None:
            row = self._database.first(sa.select(trial.c.study_id).where(trial.c.result_token == token))
        if row is None:
            raise LeaseLost(f"lease {token} is over")
        return row.study_id

    @staticmethod
    def _was_accepted(connection: sa.Connection, token: str, outcome: Outcome) -> bool:
        accepted = sa.select(trial.c.id).where(trial.c.result_token == token, trial.c.state == outcome.state.value)
        return connection.execute(accepted).first() is not None


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
