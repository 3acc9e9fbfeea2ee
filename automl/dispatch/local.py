"""Workers on this machine, in this process: slots, suggestions made ahead, and the reaper.

Several such processes, on any machines that reach the database, work on the same studies: each study's suggestions
come from the one that holds it, expired leases are taken back by whichever looks first.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence

from automl.core import StudyRecord, StudyState, WorkerRecord
from automl.declaration import StudySpec
from automl.dispatch.export import export_best_model
from automl.dispatch.machine import Meter, environment
from automl.engine import Engine
from automl.errors import AutoMLError, DatabaseUnavailable, InvalidInput, InvalidStudy, StudyFailed
from automl.suggester import Suggester
from automl.trainers.host import StudyHost
from automl.trainers.source import FileSource, code_sha256
from automl.trainers.worker import Assignment, Slot, Worker

log = logging.getLogger("automl.dispatch")

#: Without any news, suggestions are looked after this often; it is also how soon another process's results are seen.
TEND_S = 0.5
#: Expired leases are looked for this often.
REAP_S = 0.5
#: The worker says this often that it lives, or once in each lease if that is shorter; so soon it hears of a drain.
BEAT_S = 5.0
#: At the end its goodbye is waited for so long: a database that does not answer must not keep the process.
GOODBYE_S = 2.0
#: Whoever watches a search is called this often, and its end is noticed this late; over a slow network less often,
#: so that looking takes no more than this share of the time; and less and less often, up to this much later, while no
#: trial begins or ends here.
WATCH_S, WATCHING, QUIET_S = 0.2, 0.2, 0.8
#: A study whose template was killed gets so many others here; then something is wrong with it, or with the machine.
MAX_RESTARTS = 3


class LocalDispatch:
    """Runs the studies that it is given until it is stopped. Use as a context manager, from one thread."""

    def __init__(self, engine: Engine, slots: Sequence[Slot], lease_s: float = 30.0):
        self._engine = engine
        self._slots = slots
        self._lease_s = lease_s
        self._worker = Worker(engine, slots, engine.artifacts.root, lease_s, self._on_news)
        self._hosts: dict[int, StudyHost] = {}
        self._specs: dict[int, StudySpec] = {}
        self._restarts: dict[int, int] = {}
        self._suggesters: dict[int, Suggester] = {}
        self._suggesting = threading.Lock()  # held through each round: a suggester serves one thread at a time
        self._unsuggestable: dict[int, Exception] = {}  # why there are no more suggestions for a study
        self._news = threading.Condition()
        self._asked = 0  # rounds of tending that somebody wants
        self._done = 0  # the newest of them that is over
        self._heard = 0  # those that `wait_for_news` has told of
        self._stopping = False
        self._reaped_at = 0.0
        self._cut_off_at = -math.inf  # when the database last did not answer
        self._failure: BaseException | None = None
        self._tender = threading.Thread(target=self._tend, name="automl-tend", daemon=True)
        self._assigning = threading.Lock()
        self._draining = False
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._live, name="automl-heart", daemon=True)

    def __enter__(self) -> LocalDispatch:
        self._worker.start()
        self._tender.start()
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Hand running trials back with their checkpoints, let go of the studies, end the processes."""
        with self._news:
            self._stopping = True
            self._news.notify_all()
        self._worker.stop()
        self._tender.join()
        for study_id in list(self._hosts):
            self.drop(study_id)
        self._ended.set()
        self._heart.join(GOODBYE_S)

    def add(self, record: StudyRecord, host: StudyHost) -> None:
        """Work on a study whose code is loaded in `host`, which this object closes, whatever comes of it.

        Raises `InvalidStudy` when no slot has the GPUs that its trials need, `InvalidInput` when its sampler or pruner
        is an object that a service cannot use.
        """
        assert record.spec is not None
        # Not the host's: the code of a confirmation declares the study that it confirms.
        spec = StudySpec.from_json(record.spec)
        needed = spec.resources.gpus
        if needed > max((len(slot.gpus) for slot in self._slots), default=-1):
            host.close()
            raise InvalidStudy(
                f"resources.gpus: study {record.name!r} needs {needed} GPU(s) for a trial, no slot has them; "
                "start it with --gpus and enough of them",
                field="resources.gpus",
            )
        try:
            if host.pruner is not None and spec.race is None:
                self._engine.set_pruner(record, host.pruner)
            suggester = self._engine.suggester(record, host.sampler if spec.race is None else None)
        except InvalidInput:
            host.close()
            raise
        self._specs[record.id] = spec
        self._hosts[record.id] = host
        with self._suggesting:
            self._suggesters[record.id] = suggester
        self._assign(record.id, host)
        self.look_again()

    def drop(self, study_id: int) -> None:
        """Start no more trials of this study, end those that run here, and let another process suggest for it."""
        with self._assigning:
            host = self._hosts.pop(study_id, None)
            self._worker.drop(study_id)
        with self._suggesting:
            suggester = self._suggesters.pop(study_id, None)
            self._unsuggestable.pop(study_id, None)
            if suggester is not None:
                _quietly(suggester.close)
        self._restarts.pop(study_id, None)
        self._specs.pop(study_id, None)
        if host is not None:
            host.close()

    @property
    def busy(self) -> int:
        """Slots that run a trial."""
        return self._worker.busy

    @property
    def draining(self) -> bool:
        """Whether somebody wants this worker to claim no more."""
        return self._draining

    @property
    def study_ids(self) -> list[int]:
        """The studies that this object works on."""
        return list(self._hosts)

    def host(self, study_id: int) -> StudyHost:
        """The present host of a study."""
        return self._hosts[study_id]

    def check(self) -> None:
        """Raises what ended a thread of this object, if one ended."""
        failure = self._failure or self._worker.failure
        if failure is not None:
            raise failure

    def check_study(self, record: StudyRecord) -> None:
        """See to it that a study can go on: if its template is dead, there is another when this returns.

        Raises what keeps the study from going on: `StudyFailed`, `InvalidStudy`, or whatever its sampler raised.
        """
        if (error := self._unsuggestable.get(record.id)) is not None:
            raise error
        host = self._hosts[record.id]
        if host.alive:
            return
        if self._restarts.get(record.id, 0) == MAX_RESTARTS:
            raise StudyFailed(
                f"study {record.name!r}: the process that holds its code was killed {MAX_RESTARTS + 1} times; "
                "look for a lack of memory, or for code that kills its parent process"
            )
        self._restarts[record.id] = self._restarts.get(record.id, 0) + 1
        log.warning("study %s: the process that holds its code has died; starting another", record.name)
        if record.code_sha256 is not None and isinstance(host.source, FileSource):
            require_same_code(record, host.source)
        host.close()
        self._hosts[record.id] = host = host.another()
        self._assign(record.id, host)

    def look_again(self) -> None:
        """Something happened: tend the suggestions now."""
        with self._news:
            self._asked += 1
            self._news.notify_all()

    def wait_for_news(self, seconds: float) -> bool:
        """Wait for a trial to begin or end here, if none did since the last call; whether one did."""
        with self._news:
            told = self._news.wait_for(lambda: self._asked > self._heard, timeout=seconds)
            self._heard = self._asked
            return told

    # -- draining -----------------------------------------------------------------------------------------------

    def _assign(self, study_id: int, host: StudyHost) -> None:
        with self._assigning:
            if not self._draining:
                self._worker.assign(Assignment(study_id, self._specs[study_id], host))

    def _drain(self, on: bool) -> None:
        with self._assigning:
            if on is self._draining:
                return
            log.info("worker %s: %s", self._worker.name, "drains, no more trials are started" if on else "goes on")
            self._draining = on
            for study_id, host in list(self._hosts.items()):
                if on:
                    self._worker.drop(study_id)
                else:
                    self._worker.assign(Assignment(study_id, self._specs[study_id], host))

    def _live(self) -> None:
        """The heartbeat. Only what people see depends on it: no trouble here may end a search."""
        meter = Meter()
        enrolled = False
        while True:
            try:
                enrolled = enrolled or self._enroll(meter)
                draining = self._engine.beat(self._worker.name, meter.read())
                enrolled = draining is not None
                self._drain(bool(draining))
            except Exception as error:
                log.debug("no heartbeat: %s", error)
            if self._ended.wait(min(BEAT_S, self._lease_s)):
                break
        meter.close()
        _quietly(lambda: self._engine.leave(self._worker.name))

    def _enroll(self, meter: Meter) -> bool:
        self._engine.enroll(
            WorkerRecord(
                name=self._worker.name,
                host=socket.gethostname(),
                pid=os.getpid(),
                slots=tuple(slot.gpus for slot in self._slots),
                load=meter.read(),
                environment=environment(),
                lease_s=self._lease_s,
                draining=False,
                started_at=0.0,  # the database's clock says it, as the next
                seen_at=0.0,
                ended_at=None,
            )
        )
        return True

    # -- the tending thread -------------------------------------------------------------------------------------

    def _on_news(self, patience_s: float) -> None:
        """A slot has a trial or a result: it waits, but not for long, for suggestions that know of it."""
        with self._news:
            self._asked += 1
            mine = self._asked
            self._news.notify_all()
            if patience_s > 0:
                self._news.wait_for(lambda: self._done >= mine or self._stopping, timeout=patience_s)

    def _tend(self) -> None:
        try:
            while True:
                with self._news:
                    self._news.wait_for(lambda: self._asked > self._done or self._stopping, timeout=TEND_S)
                    if self._stopping:
                        return
                    upto = self._asked
                try:
                    if self._reap() + self._suggest():
                        self._worker.wake()
                except DatabaseUnavailable as error:
                    log.warning("%s; trying again", error)
                    self._cut_off_at = time.monotonic()
                    with self._news:
                        self._news.wait_for(lambda: self._stopping, timeout=TEND_S)
                with self._news:
                    self._done = max(self._done, upto)
                    self._news.notify_all()
        except BaseException as error:
            log.debug("suggesting ended", exc_info=True)
            self._failure = error

    def _suggest(self) -> int:
        """One round for each study; how many suggestions were made."""
        made = 0
        with self._suggesting:
            for study_id, suggester in list(self._suggesters.items()):
                try:
                    made += suggester.step(len(self._slots), self._lease_s)
                except DatabaseUnavailable:
                    raise
                except Exception as error:  # of the user's sampler, or a study that was declared wrongly: only its own
                    log.debug("study %d: suggesting ended", study_id, exc_info=True)
                    self._unsuggestable[study_id] = error
                    _quietly(self._suggesters.pop(study_id).close)
        return made

    def _reap(self) -> int:
        now = time.monotonic()
        # When the database comes back, workers must have time to renew, however long its recovery took before.
        if now - self._reaped_at < REAP_S or now - self._cut_off_at < self._lease_s:
            return 0
        self._reaped_at = now
        return len(self._engine.reap(self._lease_s))


def search(
    engine: Engine,
    record: StudyRecord,
    host: StudyHost,
    slots: Sequence[Slot],
    lease_s: float,
    watch: Callable[[], None],
) -> StudyRecord:
    """Run one study here until it is over, calling `watch` one to five times a second; its record.

    A finished study's best model gets its ONNX file, unless it confirms another's. The host is closed.
    """
    with LocalDispatch(engine, slots, lease_s) as local:
        local.add(record, host)
        quiet_s = 0.0
        while record.state is StudyState.OPEN:
            looked = time.monotonic()
            watch()
            time.sleep(max(WATCH_S, (time.monotonic() - looked) / WATCHING))
            quiet_s = 0.0 if local.wait_for_news(quiet_s) else min(quiet_s + WATCH_S, QUIET_S)
            local.check()
            try:
                record = engine.study_by_id(record.id)
                local.check_study(record)
            except DatabaseUnavailable as error:
                log.warning("%s; trying again", error)
        if record.state is StudyState.FINISHED and record.origin_id is None:
            export_best_model(engine, record, local.host(record.id))
        return record


def require_same_code(record: StudyRecord, source: FileSource, cure: str = "") -> None:
    """Raises `InvalidStudy` when the file is not the one that the study was declared with; `cure`: a further one."""
    found = code_sha256(source.path)
    if found != record.code_sha256:
        raise InvalidStudy(
            f"{source.path} is not the file that was submitted (sha256 {found[:12]} here, "
            f"{(record.code_sha256 or '-')[:12]} there); update it here, or submit it again{cure}"
        )


def _quietly(close: Callable[[], None]) -> None:
    """Giving something back early is a courtesy: its lease expires anyway."""
    try:
        close()
    except AutoMLError as error:
        log.debug("%s", error)
