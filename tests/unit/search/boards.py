"""Boards of made-up trials, as the engine would read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automl.board import FAILURES, STATES, Board, Column
from automl.core import FailureKind, StudyRecord, StudyState, TrialState
from automl.declaration import Choice, Space


def board(
    space: Space,
    points: Sequence[Mapping[str, Any]],
    values: Sequence[float] | np.ndarray,
    *,
    direction: str = "minimize",
    **columns: Any,
) -> Board:
    """A study of these trials, all complete and a minute long unless `columns` say otherwise.

    `values` (n,) or (n, m). `columns` are fields of `Board`; `states`, and `failures` by row, are given as enums.
    """
    n = len(points)
    table = np.asarray(values, dtype=float)
    table = table if table.ndim == 2 else table[:, None]
    record = StudyRecord(
        1, "made up", StudyState.OPEN, None, (direction,) * table.shape[1], None, None, None, False, 0.0, 0.0
    )
    states = columns.pop("states", [TrialState.COMPLETE] * n)
    failure = np.full(n, -1, dtype=np.int8)
    for row, kind in columns.pop("failures", {}).items():
        failure[row] = FAILURES.index(FailureKind(kind))
    nothing = np.full(n, np.nan)
    start = 1e9 + 100.0 * np.arange(n)
    fields = {
        "state": np.array([STATES.index(state) for state in states], dtype=np.int8),
        "values": table,
        "last_value": nothing,
        "step": np.full(n, -1),
        "excess": nothing,
        "invalid": np.zeros(n, dtype=bool),
        "attempt": np.ones(n, dtype=np.int16),
        "failure": failure,
        "worker": np.zeros(n, dtype=np.int32),
        "created": start,
        "started": start,
        "finished": start + 60.0,
        "mean": nothing,
        "sd": nothing,
    }
    return Board(study=record, cursor=1, params=_columns(space, points), **(fields | columns))


def _columns(space: Space, points: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    found = {}
    for name, parameter in space.items():
        choices = parameter.choices if isinstance(parameter, Choice) else None
        given = [point.get(name) for point in points]
        places = given if choices is None else [None if v is None else choices.index(v) for v in given]
        found[name] = Column(np.array([np.nan if v is None else float(v) for v in places]), choices)
    return found
