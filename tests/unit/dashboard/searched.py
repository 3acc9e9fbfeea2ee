"""A small study with all that a trial can go through, made by the engine's own verbs."""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from automl import Budget, Choice, Fidelity, Float, Int, connect
from automl.core import Checkpoint, Failure, FailureKind, Lease, Outcome, Report, StudyRecord, TrialState
from automl.declaration import Space, StudySpec
from automl.engine import Engine
from automl.suggester import Suggester

SPACE = Space(
    {
        "lr": Float(1e-4, 1e-1, log=True),
        "width": Int(16, 256, log=True),
        "optimizer": Choice("sgd", "adamw"),
        "momentum": Float(0.0, 0.99, when={"optimizer": "sgd"}),
        "<b>dropout</b>": Float(0.0, 0.5),
    }
)
LEASE_S = 600.0
STEPS = 9
EVIL = "<script>alert(1)</script>"
EVIL_NAME = "other <script>alert(1)"  # a name may not have a slash


def accuracy(params: Mapping[str, Any], step: int = STEPS) -> float:
    """What training with these gives after so many steps."""
    lr = math.exp(-((math.log10(params["lr"]) + 2.0) ** 2))
    width = math.log2(params["width"]) / 8.0
    extra = 0.1 * params["momentum"] if params["optimizer"] == "sgd" else 0.06
    best = 0.55 + 0.25 * lr + 0.1 * width + extra - 0.2 * (params["<b>dropout</b>"] - 0.2) ** 2
    return best * (1.0 - 0.6 * math.exp(-step / 3.0))


def searched(
    url: str, artifacts: Path, name: str = "lab", trials: int = 24, **changes: Any
) -> tuple[Engine, StudyRecord]:
    """Of the trials 3 has two attempts, 5 has failed, 7 was pruned, 9 is invalid; the last one waits."""
    engine = connect(url, artifacts)
    fields: dict[str, Any] = {
        "space": SPACE,
        "metrics": {"accuracy": "max"},
        "budget": Budget(trials=trials + 1),
        "fidelity": Fidelity("epoch", min=1, max=STEPS),
        "retries": 0,
    }
    record = engine.declare(StudySpec(name=name, **{**fields, **changes}), code_sha256="c0de" * 16)
    suggester = engine.suggester(record)
    for number in range(trials):
        _run(engine, suggester, record, number)
    suggester.step(1, LEASE_S)
    suggester.close()
    if trials > 9:
        engine.invalidate(record, 9, f"the labels leaked {EVIL}")
    return engine, engine.study(name)


def claimed(engine: Engine, record: StudyRecord, worker: str = "gpu-box-1-0") -> Lease:
    lease = engine.claim([record.id], worker, uuid.uuid4().hex, LEASE_S)
    assert lease is not None
    path = engine.log_path(record.id, lease.number, lease.attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"attempt {lease.attempt} of trial {lease.number} begins {EVIL}\n")
    return lease


def _run(engine: Engine, suggester: Suggester, record: StudyRecord, number: int) -> None:
    suggester.step(1, LEASE_S)
    lease = claimed(engine, record)
    if number == 3:
        engine.report(lease.token, [Report(1, accuracy(lease.params, 1))])
        engine.checkpoint(lease.token, Checkpoint(1, "checkpoints/1.pt", "0" * 64))
        engine.release(lease.token)
        lease = claimed(engine, record, "gpu-box-2-1")
    if number == 5:
        trace = f'Traceback:\n  File "train.py", line 7, in train\nValueError: {EVIL}'
        engine.fail(lease.token, Failure(FailureKind.ERROR, f"ValueError: {EVIL}", trace))
        return
    last = 3 if number == 7 else STEPS
    reports = [
        Report(s, accuracy(lease.params, s), {"loss": 1.0 - accuracy(lease.params, s)}) for s in range(1, last + 1)
    ]
    if number == 7:
        engine.finish(lease.token, Outcome(TrialState.PRUNED, None), reports)
        return
    model = engine.artifacts.root / f"model-{number}.bin"
    model.parent.mkdir(parents=True, exist_ok=True)
    model.write_bytes(bytes(range(256)) * number)
    outcome = Outcome(
        TrialState.COMPLETE,
        (accuracy(lease.params),),
        metrics={"loss": 1.0 - accuracy(lease.params)},
        artifacts=(engine.artifacts.put(model, "model.bin"),),
        facts={"note": f"seen {EVIL}"},
        constraints={"size below 200": lease.params["width"] - 200.0},
    )
    engine.finish(lease.token, outcome, reports)
