"""Makes a big study in a database within seconds, for benchmarks and screenshots.

    python bench/big_study.py --storage sqlite:///big.db --trials 50000 --params 10 --reports 20

It is no search: trials are written as a search would have left them, with their history, reports and predictions.
The same arguments give the same study.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from automl import Budget, Choice, Fidelity, Float, Int, connect
from automl.core import Attr, TrialState
from automl.declaration import Space, StudySpec
from automl.engine import Engine
from automl.storage.database import dumps
from automl.storage.distributions import Distributions
from automl.storage.tables import event, report, study, trial

#: Rows of one statement.
BATCH = 5000
#: Seconds between two starts on one slot, at the most usual.
TRIAL_S = 40.0


@dataclass(frozen=True)
class Shape:
    """How big it is to be."""

    trials: int = 50_000
    params: int = 10
    reports: int = 20
    metrics: int = 1
    running: int = 4
    workers: int = 4
    seed: int = 0


def declared(name: str, shape: Shape) -> StudySpec:
    """A space of about half real, a quarter whole and a quarter unordered parameters, one of them conditional."""
    space: dict[str, Any] = {}
    for j in range(shape.params):
        if j % 4 == 3:
            space[f"choice_{j}"] = Choice("sgd", "adamw", "lion")
        elif j % 4 == 2:
            space[f"whole_{j}"] = Int(1, 512, log=True)
        elif j == 4:
            space[f"real_{j}"] = Float(0.0, 0.99, when={"choice_3": "sgd"})
        else:
            space[f"real_{j}"] = Float(1e-5, 1.0, log=True)
    metrics = {"accuracy": "max", "latency": "min", "size": "min"}
    return StudySpec(
        name=name,
        space=Space(space),
        metrics=dict(itertools.islice(metrics.items(), shape.metrics)),  # type: ignore[arg-type]
        budget=Budget(trials=shape.trials + 100),
        fidelity=Fidelity("epoch", min=1, max=max(shape.reports, 1)) if shape.metrics == 1 else None,
    )


def make(engine: Engine, name: str, shape: Shape) -> None:
    """Declare the study `name` and fill it. Raises `StudyConflict` when there is another of that name."""
    spec = declared(name, shape)
    record = engine.declare(spec)
    assert spec.space is not None
    bodies = {key: _body(parameter) for key, parameter in spec.space.items()}
    ids = Distributions(engine.database).ids(record.id, bodies)
    rows = list(_trials(record.id, spec, shape, ids, engine.clock()))
    with engine.database.transaction() as connection:
        for batch in _batched(rows, BATCH):
            connection.execute(sa.insert(trial), batch)
        connection.execute(
            sa.update(study).where(study.c.id == record.id).values(next_number=shape.trials, active_s=3600.0)
        )
        # The triggers have told how the rows came here; what a search would have left is another history.
        connection.execute(sa.delete(event).where(event.c.study_id == record.id, event.c.trial_id.is_not(None)))
        known = sa.select(trial.c.number, trial.c.id).where(trial.c.study_id == record.id)
        trial_ids: dict[int, int] = {row.number: row.id for row in connection.execute(known)}
        position = 0
        if engine.database.dialect == "postgresql":
            position = int(connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one())
        for batch in _batched(list(_events(rows, trial_ids, position)), BATCH):
            connection.execute(sa.insert(event), batch)
        for batch in _batched(_reports(rows, trial_ids, shape), BATCH):
            connection.execute(sa.insert(report), batch)


def _body(parameter: Any) -> str:
    if isinstance(parameter, Choice):
        return dumps({"name": "CategoricalDistribution", "attributes": {"choices": list(parameter.choices)}})
    kind = "IntDistribution" if isinstance(parameter, Int) else "FloatDistribution"
    step = 1 if isinstance(parameter, Int) else None
    limits = {"low": parameter.low, "high": parameter.high, "log": parameter.log, "step": step}
    return dumps({"name": kind, "attributes": limits})


def _trials(
    study_id: int, spec: StudySpec, shape: Shape, ids: Mapping[str, int], now: float
) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(shape.seed)
    free_at = np.full(shape.workers, now - TRIAL_S * shape.trials / shape.workers)
    assert spec.space is not None
    for number in range(shape.trials):
        params = spec.space.active({key: _drawn(rng, parameter) for key, parameter in spec.space.items()})
        progress = number / max(shape.trials, 1)
        quality = float(np.clip(0.55 + 0.4 * progress**0.3 * rng.beta(5, 2), 0.0, 0.999))
        slot = int(np.argmin(free_at))
        state = _state(rng, number, shape)
        started = float(free_at[slot])
        spent = float(TRIAL_S * rng.uniform(0.3, 1.2) * (0.4 if state is TrialState.PRUNED else 1.0))
        free_at[slot] += spent + rng.exponential(0.5)
        over = state.is_finished
        values = [quality, float(5 + 40 * rng.random() * quality**3), float(rng.lognormal(2, 0.5))][: shape.metrics]
        has_result = state in (TrialState.COMPLETE, TrialState.PRUNED)
        failed = state is TrialState.FAILED
        yield {
            "study_id": study_id,
            "number": number,
            "state": state.value,
            "cause": state.value,
            "basis": number,
            "params": params,
            "distributions": {key: ids[key] for key in params},
            "objectives": values if has_result else None,
            "value": values[0] if has_result else None,
            "metrics": {"loss": float(-np.log(quality)), "minutes": spent / 60} if has_result else {},
            "system_attrs": {Attr.WHY: {"arm": "gp", "mean": quality + rng.normal(0, 0.02), "sd": 0.02, "ms": 40.0}},
            "attempt": 1,
            "worker": f"gpu-{slot % 4}-{4000 + slot}-{slot}",
            "failure_kind": "error" if failed else None,
            "failure_message": "RuntimeError: loss is NaN" if failed else None,
            "created_at": started - 1.0,
            "started_at": started if over else now - float(rng.uniform(1, 30)),
            "finished_at": started + spent if over else None,
        }


def _state(rng: np.random.Generator, number: int, shape: Shape) -> TrialState:
    if number >= shape.trials - shape.running:
        return TrialState.RUNNING
    draw = rng.random()
    if draw < 0.03:
        return TrialState.FAILED
    return TrialState.PRUNED if draw < 0.45 and shape.metrics == 1 else TrialState.COMPLETE


def _drawn(rng: np.random.Generator, parameter: Any) -> Any:
    if isinstance(parameter, Choice):
        return parameter.choices[int(rng.integers(len(parameter.choices)))]
    low, high = float(parameter.low), float(parameter.high)
    value = float(np.exp(rng.uniform(np.log(low), np.log(high)))) if parameter.log else float(rng.uniform(low, high))
    return round(value) if isinstance(parameter, Int) else value


def _events(rows: Sequence[Mapping[str, Any]], ids: Mapping[int, int], position: int) -> Iterator[dict[str, Any]]:
    moves = []
    for row in rows:
        moves.append((row["created_at"], 0, "waiting", "suggested", row))
        moves.append((row["started_at"], 1, "running", "claimed", row))
        if row["finished_at"] is not None:
            moves.append((row["finished_at"], 1, row["state"], row["cause"], row))
    for at, attempt, state, cause, row in sorted(moves, key=lambda move: move[0]):
        yield {
            "position": position,
            "study_id": row["study_id"],
            "trial_id": ids[row["number"]],
            "attempt": attempt,
            "state": state,
            "cause": cause,
            "worker": row["worker"] if attempt else None,
            "at": at,
        }


def _reports(rows: Sequence[Mapping[str, Any]], ids: Mapping[int, int], shape: Shape) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(shape.seed + 1)
    for row in rows:
        end = row["value"] if row["value"] is not None else 0.7
        count = shape.reports if row["state"] == "complete" else max(1, shape.reports // 4)
        steps = np.arange(1, count + 1)
        curve = end * (1.0 - 0.5 * np.exp(-steps / 4.0)) + rng.normal(0, 0.004, count)
        for step, value in zip(steps.tolist(), curve.tolist(), strict=True):
            yield {"trial_id": ids[row["number"]], "step": step, "attempt": 1, "value": value}


def _batched(rows: Any, size: int) -> Iterator[list[Any]]:
    left = iter(rows)
    while batch := list(itertools.islice(left, size)):
        yield batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", default=None)
    parser.add_argument("--name", default="big")
    for field in ("trials", "params", "reports", "metrics", "running", "workers", "seed"):
        parser.add_argument(f"--{field}", type=int, default=getattr(Shape, field))
    given = vars(parser.parse_args())
    engine = connect(given.pop("storage"))
    name = given.pop("name")
    start = time.perf_counter()
    make(engine, name, Shape(**given))
    print(f"{name}: {given['trials']} trials in {time.perf_counter() - start:.1f} s")
    engine.close()


if __name__ == "__main__":
    main()
