"""Workers on this machine, in this process: slots, suggestions made ahead, and the reaper.

Several such processes, on any machines that reach the database, work on the same studies: each study's suggestions
come from the one that holds it, expired leases are taken back by whichever looks first.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from automl.core import StudyRecord, StudyState
from automl.dispatch.export import export_best_model
from automl.engine import Engine
from automl.errors import AutoMLError, DatabaseUnavailable, InvalidStudy
from automl.suggester import Suggester
from automl.trainers.host import StudyHost
from automl.trainers.worker import Assignment, Slot, Worker

log = logging.getLogger("automl.dispatch")

#: Without any news, suggestions are looked after this often; it is also how soon another process's results are seen.
TEND_S = 0.5
#: Expired leases are looked for this often.
REAP_S = 0.5
#: Whoever watches a search is called this often, and its end is noticed this late.
WATCH_S = 0.2


class LocalDispatch:
    """Runs the studies that it is given until it is stopped. Use as a context manager."""

    def __init__(self, engine: Engine, slots: Sequence[Slot], lease_s: float = 30.0):
        self._engine = engine
        self._slots = slots
        self._lease_s = lease_s
        self._worker = Worker(engine, slots, engine.artifacts.root, lease_s, self._on_result)
        self._suggesters: dict[int, Suggester] = {}
        self._hosts: dict[int, StudyHost] = {}
        self._news = threading.Condition()
        self._asked = 0  # rounds of tending that somebody wants
        self._done = 0  # the newest of them that is over
        self._stopping = False
        self._reaped_at = 0.0
        self._failure: BaseException | None = None
        self._tender = threading.Thread(target=self._tend, name="automl-tend", daemon=True)

    def __enter__(self) -> LocalDispatch:
        self._worker.start()
        self._tender.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Hand running trials back with their checkpoints, let go of the studies, end the processes."""
        with self._news:
            self._stopping = True
            self._news.notify_all()
        self._worker.stop()
        self._tender.join()
        for suggester in self._suggesters.values():
            _quietly(suggester.close)
        for host in self._hosts.values():
            host.close()

    def add(self, record: StudyRecord, host: StudyHost) -> None:
        """Work on a study whose code is loaded in `host`, which this object closes.

        Raises `InvalidStudy` when no slot has the GPUs that its trials need.
        """
        needed = host.spec.resources.gpus
        if needed > max(len(slot.gpus) for slot in self._slots):
            raise InvalidStudy(
                f"resources.gpus: study {record.name!r} needs {needed} GPU(s) for a trial, no slot has them; "
                "start it with --gpus and enough of them",
                field="resources.gpus",
            )
        if host.pruner is not None:
            self._engine.set_pruner(record, host.pruner)
        suggester = self._engine.suggester(record, host.sampler)
        with self._news:
            self._hosts[record.id] = host
            self._suggesters[record.id] = suggester
        self._worker.assign(Assignment(record.id, host.spec, host))
        self.look_again()

    def drop(self, study_id: int) -> None:
        """Start no more trials of this study, and let another process suggest for it."""
        self._worker.drop(study_id)
        with self._news:
            suggester = self._suggesters.pop(study_id, None)
            host = self._hosts.pop(study_id, None)
        if suggester is not None:
            _quietly(suggester.close)
        if host is not None:
            host.close()

    @property
    def busy(self) -> int:
        """Slots that run a trial."""
        return self._worker.busy

    def check(self) -> None:
        """Raises what ended a thread of this object, if one ended."""
        failure = self._failure or self._worker.failure
        if failure is not None:
            raise failure

    def look_again(self) -> None:
        """Something happened: tend the suggestions now."""
        with self._news:
            self._asked += 1
            self._news.notify_all()

    # -- the tending thread -------------------------------------------------------------------------------------

    def _on_result(self, study_id: int, patience_s: float) -> None:
        """A slot has a result: it waits, but not for long, for suggestions that know of it."""
        with self._news:
            self._asked += 1
            mine = self._asked
            self._news.notify_all()
            self._news.wait_for(lambda: self._done >= mine or self._stopping, timeout=patience_s)

    def _tend(self) -> None:
        try:
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._asked > self._done or self._stopping, timeout=TEND_S)
                    if self._stopping:
                        return
                    upto = self._asked
                    suggesters = list(self._suggesters.values())
                made = 0
                try:
                    made += self._reap()
                    for suggester in suggesters:
                        made += suggester.step(len(self._slots), self._lease_s)
                except DatabaseUnavailable as error:
                    log.warning("%s; trying again", error)
                    time.sleep(TEND_S)
                if made:
                    self._worker.wake()
                with self._news:
                    self._done = max(self._done, upto)
                    self._news.notify_all()
        except BaseException as error:
            log.debug("suggesting ended", exc_info=True)
            self._failure = error

    def _reap(self) -> int:
        if time.monotonic() - self._reaped_at < REAP_S:
            return 0
        self._reaped_at = time.monotonic()
        return len(self._engine.reap(self._lease_s))


def search(
    engine: Engine,
    record: StudyRecord,
    host: StudyHost,
    slots: Sequence[Slot],
    lease_s: float,
    watch: Callable[[], None],
) -> StudyRecord:
    """Run one study here until it is over, calling `watch` five times a second; its record.

    A finished study's best model gets its ONNX file. The host is closed.
    """
    with LocalDispatch(engine, slots, lease_s) as local:
        local.add(record, host)
        while record.state is StudyState.OPEN:
            watch()
            time.sleep(WATCH_S)
            local.check()
            try:
                record = engine.study_by_id(record.id)
            except DatabaseUnavailable as error:
                log.warning("%s; trying again", error)
        if record.state is StudyState.FINISHED:
            export_best_model(engine, record, host)
        return record


def _quietly(close: Callable[[], None]) -> None:
    """Giving something back early is a courtesy: its lease expires anyway."""
    try:
        close()
    except AutoMLError as error:
        log.debug("%s", error)
