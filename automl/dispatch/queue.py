"""A worker that takes up whatever is queued: it loads a study's file when the study comes and drops it at its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from automl.core import StudyRecord, StudyState
from automl.dispatch.export import export_best_model
from automl.dispatch.local import LocalDispatch, require_same_code
from automl.engine import Engine
from automl.errors import AutoMLError, DatabaseUnavailable, InvalidStudy
from automl.trainers import package as packages
from automl.trainers.host import StudyHost
from automl.trainers.source import FileSource, code_sha256
from automl.trainers.worker import Slot

log = logging.getLogger("automl.dispatch")

#: Seconds between two looks at the queue, while something happens and at last while nothing does: many workers that
#: wait, or train for hours, are no burden.
LOOK_S = (0.5, 2.0)


class QueueWorker:
    """Serves the queue until told to stop."""

    def __init__(
        self,
        engine: Engine,
        slots: Sequence[Slot],
        lease_s: float,
        say: Callable[[str], None],
        *,
        accept_code: bool = False,
    ):
        """`say` takes a line for the person who watches this worker; `accept_code`: run code that came with a study."""
        self._engine = engine
        self._slots = slots
        self._lease_s = lease_s
        self._say = say
        self._accept_code = accept_code
        self._refused: dict[int, tuple[str | None, ...]] = {}  # study id -> its code's digests when it could not be run

    def serve(self, *, exit_when_idle: bool) -> None:
        """Work until the worker was drained, or, if `exit_when_idle`, until there is nothing left to do.

        KeyboardInterrupt hands all back.
        """
        with LocalDispatch(self._engine, self._slots, self._lease_s) as local:
            self._catch_up()
            drains = False
            seen: object = None
            pause = LOOK_S[0]
            while True:
                local.check()
                try:
                    queued = self._engine.queued_studies()
                    if not local.draining:
                        self._take_up(local, queued)
                        drains = False
                    elif not drains:
                        self._say("draining: running trials finish, no others are started")
                        drains = True
                    more = self._drop_ended(local, queued)
                except DatabaseUnavailable as error:
                    log.warning("%s; trying again", error)
                else:
                    if exit_when_idle and not local.study_ids and not local.busy and not more:
                        return
                    if drains and not local.busy:
                        return
                    before, seen = seen, ([record.id for record in queued], local.busy, drains)
                    pause = LOOK_S[0] if seen != before else min(1.5 * pause, LOOK_S[1])
                time.sleep(pause)

    def _take_up(self, local: LocalDispatch, queued: Sequence[StudyRecord]) -> None:
        for record in queued:
            if self._refused.get(record.id) == _code_of(record):
                continue
            try:
                if record.id in local.study_ids:
                    local.check_study(record)
                else:
                    local.add(record, self._load(record))
                    self._say(f"study {record.name}: taken up")
            except DatabaseUnavailable:
                raise
            except Exception as error:  # a study's own trouble, were it in its sampler, is not its neighbours'
                log.debug("study %s", record.name, exc_info=True)
                local.drop(record.id)
                self._refused[record.id] = _code_of(record)
                self._say(f"study {record.name}: passed over: {error}")

    def _load(self, record: StudyRecord) -> StudyHost:
        """Raises `InvalidStudy`, `StudyFailed`."""
        if record.entrypoint is None:
            raise InvalidStudy("its code lives in the process that declared it; submit it from a file")
        source = FileSource.from_entrypoint(record.entrypoint)
        if self._accept_code and record.package_sha256 is not None and not _is_here(record, source):
            source = replace(source, path=str(self._unpacked(record.package_sha256)))
        cure = "" if record.package_sha256 is None or self._accept_code else ", or start the worker with --accept-code"
        if not Path(source.path).is_file():
            raise InvalidStudy(f"{source.path} is not on this machine; put the file there{cure}")
        require_same_code(record, source, cure)
        log_path = self._engine.artifacts.root / "logs" / str(record.id) / "template.log"
        return StudyHost.start(source, log_path=log_path)

    def _unpacked(self, sha256: str) -> Path:
        """The study file of a package. Raises `InvalidStudy`, `NotFound`."""
        text = self._engine.packages.get(sha256)
        if packages.digest(text) != sha256:
            raise InvalidStudy(f"package {sha256[:12]} is not what it should be; submit the study again", "package")
        return packages.unpack(packages.from_text(text), self._engine.artifacts.root / "code")

    def _drop_ended(self, local: LocalDispatch, queued: Sequence[StudyRecord]) -> bool:
        """Whether there is more to do now, because one of them is to be confirmed."""
        more = False
        open_ids = {record.id for record in queued}
        for study_id in [id for id in local.study_ids if id not in open_ids]:
            try:
                record = self._engine.study_by_id(study_id)
                self._say(f"study {record.name}: {record.state.value}")
                if record.state is StudyState.FINISHED and record.origin_id is None:
                    export_best_model(self._engine, record, local.host(study_id))
                    more |= self._confirm(record)
            except AutoMLError as error:  # it was deleted
                log.warning("%s", error)
            local.drop(study_id)
        return more

    def _confirm(self, record: StudyRecord) -> bool:
        """Queue the confirmation of a finished study that declares one; whether there is one to run now."""
        if not record.is_to_be_confirmed or self._engine.is_confirmed(record):
            return False
        self._say(f"study {self._engine.confirm_as_declared(record).name}: queued")
        return True

    def _catch_up(self) -> None:
        """Queue the confirmations that nobody did, because the worker that should have was killed just then."""
        for record in self._engine.studies():
            finished = record.queued and record.state is StudyState.FINISHED and record.origin_id is None
            if finished and record.is_to_be_confirmed and self._engine.confirmation(record) is None:
                try:
                    self._confirm(record)
                except AutoMLError as error:
                    log.warning("%s", error)


def _code_of(record: StudyRecord) -> tuple[str | None, ...]:
    return (record.code_sha256, record.package_sha256)


def _is_here(record: StudyRecord, source: FileSource) -> bool:
    """Whether the file that the study names is on this machine, and is the one that was submitted."""
    return Path(source.path).is_file() and code_sha256(source.path) == record.code_sha256
