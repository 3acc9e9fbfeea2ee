"""The best model as an ONNX file, made once, when a search is over (docs/adr/0002: in a process of its own)."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from pathlib import Path

from automl.core import StudyRecord, TrialRecord
from automl.engine import Engine
from automl.errors import AutoMLError
from automl.trainers import wire
from automl.trainers.host import StudyHost

log = logging.getLogger("automl.dispatch")

_TIMEOUT_S = 300.0


def export_best_model(engine: Engine, record: StudyRecord, host: StudyHost) -> None:
    """Give the best trial's saved model an ONNX file, unless it has one.

    A search that is over stays a success without it: the log says why there is none.
    """
    try:
        _export(engine, record, host)
    except (AutoMLError, OSError) as error:  # as a model that lies on the machine which trained it
        log.warning("no ONNX file of the best model: %s", error)


def _export(engine: Engine, record: StudyRecord, host: StudyHost) -> None:
    best = engine.best_trials(record, 1)
    if not best:
        return
    trial = engine.trial(record, best[0].number)
    names = {artifact.name for artifact in trial.artifacts}
    if "model.json" not in names or "model.onnx" in names:
        return
    with tempfile.TemporaryDirectory(prefix="automl-export-") as folder:
        for artifact in trial.artifacts:
            shutil.copyfile(engine.artifacts.verify(artifact), Path(folder) / artifact.name)
        problem = _run(engine, host, trial, folder, engine.log_path(record.id, trial.number, trial.attempt))
        if problem is None:
            engine.add_artifacts(trial, [engine.artifacts.put(Path(folder) / "model.onnx")])
        else:
            log.warning("trial %d: %s", trial.number, problem)


def _run(engine: Engine, host: StudyHost, trial: TrialRecord, folder: str, log_path: Path) -> str | None:
    """Export in a forked process; what went wrong, or None."""
    job = wire.Job(
        trial_id=trial.id,
        number=trial.number,
        attempt=trial.attempt,
        artifacts=str(engine.artifacts.root),
        export=folder,
    )
    process = host.launch(job, log_path)
    deadline = time.monotonic() + _TIMEOUT_S
    problem: str | None = "the exporter's process ended without a word"
    while True:
        message = process.receive(max(0.0, deadline - time.monotonic()))
        match message:
            case wire.Done():
                problem = None
            case wire.Failed(failure):
                problem = failure.message
            case wire.Exited():
                return problem
            case None:
                problem = f"no ONNX file within {_TIMEOUT_S:.0f} s"
                process.kill()
                deadline = time.monotonic() + 10.0
