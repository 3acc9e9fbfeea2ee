"""Confirming the winner of a search here, from the file that the study was declared in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from automl.core import Estimate, StudyRecord
from automl.declaration import StudySpec
from automl.dispatch.local import require_same_code
from automl.engine import Engine
from automl.errors import InvalidStudy
from automl.session import confirm_here, require_artifacts, study_slots
from automl.trainers.host import StudyHost
from automl.trainers.source import FileSource


def confirm_study(
    engine: Engine,
    record: StudyRecord,
    workers: int = 1,
    display: bool = True,
    *,
    gpus: Sequence[str] = (),
    lease_s: float = 30.0,
) -> Mapping[int, Estimate]:
    """Run the best trials of a study again, `workers` at a time, until it is clear which one is the best.

    What they really give, by number, in the order of what the search saw: `core.confirmed_best` says which to take.
    Killed at any time, the same call goes on. Where these very trials were confirmed before, nothing is run.

    Raises:
        InvalidStudy: the code is in no file, in another one than the study was declared with, or not on this machine.
        InvalidInput: there is nothing to confirm, or no one best.
        StudyFailed: no run has worked.
    """
    if engine.is_confirmed(record):
        return engine.estimates(record)
    source = _source(record)
    require_artifacts(engine)
    slots = study_slots(StudySpec.from_json(record.spec or {}), workers, gpus)
    log_path = engine.artifacts.root / "logs" / str(record.id) / "template.log"
    return confirm_here(
        engine, record, lambda: StudyHost.start(source, log_path=log_path), slots, lease_s, progress=display
    )


def _source(record: StudyRecord) -> FileSource:
    if record.entrypoint is None:
        problem = f"confirm: the code of study {record.name!r} is in no file, only in the notebook that declared it"
        raise InvalidStudy(f"{problem}; add confirm=True to its Study(...) there and run it again", "confirm")
    source = FileSource.from_entrypoint(record.entrypoint)
    if not Path(source.path).is_file():
        raise InvalidStudy(f"confirm: {source.path} is not on this machine; put the file there", "confirm")
    if record.code_sha256 is not None:
        require_same_code(record, source)
    return source
