"""Boards to draw, made of plain columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from automl.board import FAILURES, STATES, Board, Column
from automl.core import FailureKind, StudyRecord, StudyState, TrialState
from automl.declaration import Budget, Choice, Fidelity, Float, Int, Space, StudySpec

SPACE = Space(
    {
        "lr": Float(1e-4, 1e-1, log=True, prior=1e-2),
        "width": Int(16, 256, log=True),
        "optimizer": Choice("sgd", "adamw"),
        "momentum": Float(0.0, 0.99, when={"optimizer": "sgd"}),
        "<b>$x$</b>": Choice("<script>", "=1+1", when={"optimizer": "sgd", "width": [16, 17]}),
    }
)


def record(metrics: dict[str, Any] | None = None, *, declared: bool = True, name: str = "lab") -> StudyRecord:
    """A study; `declared=False`: as a plain Optuna program makes it."""
    metrics = metrics or {"loss": "min"}
    spec = StudySpec(
        name=name, space=SPACE, metrics=metrics, budget=Budget(trials=100), fidelity=Fidelity("epoch", min=1, max=9)
    )
    return StudyRecord(
        id=1,
        name=name,
        state=StudyState.OPEN,
        reason=None,
        directions=spec.directions,
        spec=spec.to_json() if declared else None,
        entrypoint=None,
        code_sha256=None,
        queued=False,
        active_s=10.0,
        created_at=0.0,
    )


def board(n: int = 60, *, study: StudyRecord | None = None, seed: int = 0, **columns: Any) -> Board:
    """`n` complete trials with values that fall over time, one after the other on two workers; `columns` replace."""
    study = study or record()
    rng = np.random.default_rng(seed)
    number = np.arange(n)
    values = 0.5 + 0.5 * rng.random((n, len(study.directions))) - 0.3 * (number / max(n, 1))[:, None]
    sgd = rng.integers(0, 2, n).astype(float)
    fields: dict[str, Any] = {
        "state": np.full(n, STATES.index(TrialState.COMPLETE), dtype=np.int8),
        "values": values,
        "last_value": values[:, 0].copy(),
        "step": np.full(n, 9, dtype=np.int64),
        "excess": np.full(n, np.nan),
        "invalid": np.zeros(n, dtype=bool),
        "attempt": np.ones(n, dtype=np.int16),
        "failure": np.full(n, -1, dtype=np.int8),
        "worker": (number % 2).astype(np.int32),
        "created": 1000.0 + 10.0 * number,
        "started": 1001.0 + 10.0 * number,
        "finished": 1009.0 + 10.0 * number,
        "mean": values[:, 0] + 0.01 * rng.standard_normal(n),
        "sd": np.full(n, 0.01),
        "workers": ("alpha-0", "alpha-1"),
        "params": {
            "lr": Column(10.0 ** rng.uniform(-4, -1, n)),
            "width": Column(np.round(2.0 ** rng.uniform(4, 8, n))),
            "optimizer": Column(sgd, ("sgd", "adamw")),
            "momentum": Column(np.where(sgd == 0, rng.uniform(0, 0.99, n), np.nan)),
            "<b>$x$</b>": Column(np.where(sgd == 0, rng.integers(0, 2, n), np.nan), ("<script>", "=1+1")),
        },
        "metrics": {"minutes_of_gpu": Column(rng.random(n))},
    }
    return Board(study=study, cursor=n, **{**fields, **columns})


def with_states(base: Board, states: dict[int, TrialState]) -> Board:
    """`base` with other states of some trials: those that run have only reported, failed ones have nothing."""
    state, values = base.state.copy(), base.values.copy()
    finished, failure, last = base.finished.copy(), base.failure.copy(), base.last_value.copy()
    for row, new in states.items():
        state[row] = STATES.index(new)
        if new not in (TrialState.COMPLETE, TrialState.PRUNED):
            values[row] = np.nan
        if not new.is_finished:
            finished[row] = np.nan
        if new is TrialState.FAILED:
            failure[row], last[row] = FAILURES.index(FailureKind.ERROR), np.nan
    return base.replaced(state=state, values=values, finished=finished, failure=failure, last_value=last)
