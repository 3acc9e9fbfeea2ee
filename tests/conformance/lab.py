"""What the conformance tests share: a study to experiment on, time travel for leases, and what the tables hold."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa

from automl.client import Client
from automl.core import Checkpoint, Lease, Outcome, TrialState
from automl.declaration import Budget, Fidelity, Float, Space, StudySpec
from automl.engine import Engine, connect
from automl.service.app import create_app
from automl.storage.audit import audit
from automl.storage.database import now
from automl.storage.distributions import Distributions
from automl.storage.studies import Studies
from automl.storage.tables import event, report, study, trial
from tests.service import running

LEASE_S = 60.0
UNIT = '{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0, "high": 1.0, "log": false}}'


def spec(name: str = "lab", *, trials: int | None = 100, minutes: float | None = None, **changes: Any) -> StudySpec:
    """A study of one parameter and one metric."""
    fields: dict[str, Any] = {
        "space": Space({"x": Float(0.0, 1.0)}),
        "metrics": {"score": "max"},
        "budget": Budget(trials=trials, minutes=minutes),
        "fidelity": Fidelity("step", min=1, max=9),
    }
    return StudySpec(name=name, **{**fields, **changes})


def suggestion(x: float = 0.5, basis: int = 0) -> dict[str, Any]:
    return {"params": {"x": x}, "distributions": {"x": UNIT}, "system_attrs": {}, "basis": basis}


def complete(*values: float, **further: Any) -> Outcome:
    return Outcome(TrialState.COMPLETE, values, **further)


def checkpoint(step: int, attempt: int = 1) -> Checkpoint:
    return Checkpoint(step, f"checkpoints/1/a{attempt}-s{step}.pt", f"{step:064x}")


class Served(str):
    """The URL of a database that is to be reached through a service."""


class Remote(Client):
    """A client with what only somebody beside the database can do, for tests to prepare what they look at."""

    def __init__(self, address: str, direct: Engine):
        super().__init__(address, None, direct.artifacts.root)
        self._direct = direct

    @property
    def database(self) -> Any:
        return self._direct.database

    @property
    def optuna(self) -> Any:
        return self._direct.optuna

    def suggester(self, *given: Any) -> Any:
        """The tests do the duties of the service."""
        return self._direct.suggester(*given)


class Lab:
    """An engine with one open study, and hands on its tables.

    Over HTTP `engine` is the client of a service on the same database; `direct` never is.
    """

    def __init__(self, url: str, artifacts: Path, declared: StudySpec | None = None):
        self.url = url
        self.direct = self.engine = connect(url, artifacts)
        self._served = ExitStack()
        if isinstance(url, Served):
            address = self._served.enter_context(running(create_app(self.direct)))
            self.engine = cast("Engine", Remote(address, self.direct))
        self.database = self.direct.database
        self.studies = Studies(self.database, Distributions(self.database))
        self.study = self.engine.declare(declared or spec())
        self.suggester = new_token()

    def close(self) -> None:
        self.engine.close()
        self._served.close()
        self.direct.close()

    def suggest(self, count: int = 1) -> list[int]:
        """Add waiting trials as the holder of the study; the numbers of those that the budget allowed."""
        made = []
        for _ in range(count):
            held = self.studies.hold(self.study.id, self.suggester, LEASE_S)
            assert held is not None, "another process holds the study"
            if self.studies.add_suggestion(self.study.id, self.suggester, held.next_number, suggestion()):
                made.append(held.next_number)
        return made

    def claim(self, worker: str = "alice", token: str | None = None) -> Lease | None:
        return self.engine.claim([self.study.id], worker, token or new_token(), LEASE_S)

    def claimed(self, worker: str = "alice", token: str | None = None) -> Lease:
        """A lease on the next waiting trial; one is suggested if none waits."""
        lease = self.claim(worker, token)
        if lease is None:
            assert self.suggest() != [], "the budget is used"
            lease = self.claim(worker, token)
        assert lease is not None
        return lease

    def expire(self, *tokens: str) -> None:
        """Let the lease time of these tokens be over, as if nobody had renewed them."""
        kept = [*tokens, *(f"{self.direct.project}:{token}" for token in tokens)]  # as they are, or came over HTTP
        past = sa.update(trial).where(trial.c.lease_token.in_(kept)).values(lease_expires_at=now() - 1.0)
        assert self.database.execute(past) == len(tokens)

    def reap(self) -> list[int]:
        return self.direct.reap(0.0)

    def lose(self, lease: Lease) -> None:
        """Let the lease expire and be taken back; the trial may be claimed again at once."""
        self.expire(lease.token)
        assert lease.trial_id in self.reap()
        self.hurry()

    def hurry(self) -> None:
        """Skip the pauses before trials are tried again."""
        self.database.execute(sa.update(trial).values(run_after=0.0))

    def row(self, number: int = 0) -> Any:
        found = self.database.first(sa.select(trial).where(trial.c.study_id == self.study.id, trial.c.number == number))
        assert found is not None
        return found

    def reports(self, number: int = 0) -> dict[int, tuple[float, int]]:
        """Step -> (value, attempt)."""
        rows = self.database.all(sa.select(report).where(report.c.trial_id == self.row(number).id))
        return {row.step: (row.value, row.attempt) for row in rows}

    def causes(self, number: int = 0) -> list[str]:
        return [move["cause"] for move in self.engine.moves(self.engine.trial(self.study, number))]

    def everything(self) -> dict[str, Sequence[Any]]:
        """All that the database holds, to show that a refused call changed nothing."""
        tables = (study, trial, report, event)
        return {table.name: self.database.all(sa.select(table).order_by(*table.primary_key)) for table in tables}

    def counts(self) -> Mapping[str, int]:
        return self.engine.counts([self.study])[self.study.id]

    def audit(self) -> list[str]:
        return audit(self.database, self.study.id)


def new_token() -> str:
    return uuid.uuid4().hex
