"""A search in the foreground: what `automl run` and `Study.run` do once they know study and storage."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automl.core import Estimate, StudyRecord, StudyState, TrialRecord, TrialState
from automl.cron import Plan
from automl.declaration import StudySpec, in_declared_order
from automl.dispatch.local import search
from automl.dispatch.machine import environment
from automl.display import (
    Display,
    FinishedTrial,
    Progress,
    RunningTrial,
    estimate_seconds_left,
    format_forecast,
    open_display,
)
from automl.engine import Engine, connect
from automl.errors import DatabaseUnavailable, Forbidden, InvalidInput, InvalidStudy
from automl.result import Result, raise_if_failed
from automl.trainers.host import StudyHost
from automl.trainers.package import pack, to_text
from automl.trainers.source import FileSource, code_sha256, pickle_source
from automl.trainers.worker import Slot, slots_for

if TYPE_CHECKING:
    from automl.study import Study
    from automl.team import Schedule

log = logging.getLogger("automl.session")

#: Trials in the closing table.
TOP = 5
#: How much later than its time a commit may become visible.
LOOK_BACK_S = 10.0
SHOWN_FAILURES = 3


@dataclass(frozen=True)
class Session:
    """Where and how a search runs."""

    engine: Engine
    slots: Sequence[Slot]
    lease_s: float
    display: Display | None

    def run(self, record: StudyRecord, host: StudyHost) -> tuple[StudyRecord, Watcher]:
        """Search until the study is over; its record, and who watched it.

        A KeyboardInterrupt comes out of here after running trials were handed back with their checkpoints.
        """
        watcher = Watcher(self.engine, record, len(self.slots))

        def watch() -> None:
            if self.display is not None:
                with contextlib.suppress(DatabaseUnavailable):  # the display keeps what it shows
                    self.display.show(watcher.look())

        try:
            record = search(self.engine, record, host, self.slots, self.lease_s, watch)
        finally:
            if self.display is not None:
                self.display.close(watcher.last_look())
        return record, watcher


class Watcher:
    """Turns what the database says into snapshots for a display."""

    def __init__(self, engine: Engine, record: StudyRecord, slots: int):
        assert record.spec is not None
        self._engine = engine
        self._record = record
        self._spec = StudySpec.from_json(record.spec)
        self._slots = slots
        self._started = time.monotonic()
        self._began_at = self._seen_until = engine.clock()
        self._seen: set[int] = set()
        self._counts: Mapping[str, int] = {}
        self._best: TrialRecord | None = None
        self._forecast: Mapping[str, Any] | None = None
        self._durations: list[float] = []
        self._failures: list[str] = []
        self.progress = self.look()

    def look(self) -> Progress:
        """The search now. Trials that ended since the last call are in `finished`, each once."""
        record = self._engine.study_by_id(self._record.id)
        counts = self._engine.counts([record])[record.id]
        finished: list[FinishedTrial] = []
        if counts != self._counts:
            finished = self._newly_finished()
            self._best = next(iter(self._engine.best_trials(record, 1)), None)
            self._forecast = self._engine.forecast(record)
            self._counts = counts  # the last thing: when the database went away in between, all is asked for again
        best, forecast = self._best, self._forecast
        running = self._engine.trials(record, states=[TrialState.RUNNING])
        now = self._began_at + time.monotonic() - self._started
        ended = sum(counts[state.value] for state in TrialState if state.is_finished)
        assert record.spec is not None
        trials, minutes = (record.spec["budget"][name] for name in ("trials", "minutes"))  # may be extended
        left = None if trials is None else trials + counts["cancelled"] - ended
        metric, direction = next(iter(self._spec.metrics.items()))
        self.progress = Progress(
            study=record.name,
            state="paused" if record.paused else record.state.value,
            metric=metric,
            direction=direction,
            counts=counts,
            elapsed_s=time.monotonic() - self._started,
            budget_trials=trials,
            minutes_left=None if minutes is None else max(0.0, minutes - record.active_s / 60),
            seconds_left=None if left is None else estimate_seconds_left(self._durations, left, self._slots),
            best_number=best.number if best else None,
            best_value=best.value if best else None,
            best_params=self.ordered(best.params) if best else {},
            best_violated=best.violated if best else (),
            forecast=format_forecast(forecast, direction) if forecast else None,
            reason=f"`automl resume {shlex.quote(record.name)}` goes on" if record.paused else record.reason,
            running=tuple(self._running(trial, now) for trial in running),
            finished=tuple(finished),
            failures=tuple(self._failures),
        )
        return self.progress

    def last_look(self) -> Progress:
        """The last snapshot there can be: a new one, or the one before when the database is away."""
        self._counts = {}
        try:
            return self.look()
        except DatabaseUnavailable:
            return self.progress

    def top(self, limit: int = TOP) -> list[FinishedTrial]:
        """The best trials, best first."""
        return [self._finished(trial) for trial in self._engine.best_trials(self._record, limit)]

    def ordered(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """In the order of the declaration, which JSONB forgets."""
        return in_declared_order(self._spec, params)

    def _newly_finished(self) -> list[FinishedTrial]:
        # A little further back than the last trial seen: commits do not become visible in the order of their times.
        ended = self._engine.finished_since(self._record, max(self._began_at, self._seen_until - LOOK_BACK_S))
        new = [trial for trial in ended if trial.number not in self._seen]
        self._seen.update(trial.number for trial in new)
        self._seen_until = max([self._seen_until, *(trial.finished_at or 0.0 for trial in new)])
        self._durations += [trial.duration_s for trial in new if trial.duration_s is not None]
        self._failures += [f"trial {trial.number}: {trial.failure.message}" for trial in new if trial.failure]
        del self._failures[:-SHOWN_FAILURES]
        return [self._finished(trial) for trial in new]

    def _finished(self, trial: TrialRecord) -> FinishedTrial:
        failure = trial.failure.message if trial.failure is not None else None
        params = self.ordered(trial.params)
        return FinishedTrial(
            trial.number, trial.state.value, trial.value, trial.duration_s, failure, params, trial.violated
        )

    def _running(self, trial: TrialRecord, now: float) -> RunningTrial:
        max_step = self._spec.fidelity.max if self._spec.fidelity else None
        elapsed_s = max(0.0, now - (trial.started_at or now))
        return RunningTrial(trial.number, trial.step, max_step, trial.last_value, elapsed_s, trial.attempt)


def study_slots(spec: StudySpec, workers: int, gpus: Sequence[str], per_gpu: int = 1) -> list[Slot]:
    """The slots in which a study's trials run here. Raises `InvalidInput` when its trials could not have their GPUs."""
    needed = spec.resources.gpus
    if len(gpus) < needed:
        named = f"--gpus names {len(gpus)}" if gpus else "none is named"
        raise InvalidStudy(
            f"resources.gpus: a trial of {spec.name!r} needs {needed} GPU(s), and {named}; "
            "name enough, as in --gpus 0,1 (gpus=[0, 1])",
            field="resources.gpus",
        )
    check_gpus(gpus)
    return slots_for(workers, gpus, per_gpu=per_gpu, gpus_per_slot=max(1, needed))


def check_gpus(names: Sequence[str]) -> None:
    """Raises `InvalidInput` when a name is given twice or is none of a GPU; warns of one that is not seen here."""
    if len(set(names)) != len(names):
        raise InvalidInput(f"gpus: {','.join(names)} names one twice; --slots-per-gpu lets trials share one", "gpus")
    for name in names:
        if not name.isdigit() and not name.startswith(("GPU-", "MIG-")):
            raise InvalidInput(f"gpus: {name!r} is no GPU; give numbers or UUIDs, as nvidia-smi -L lists them", "gpus")
        if not _has_gpu(name):  # a container may hide the device files that are looked at: no reason to refuse
            log.warning("gpus: this machine shows no GPU %s; trials that need it will fail", name)


def _has_gpu(name: str) -> bool:
    """By the device files: asking CUDA would take seconds and memory on every GPU."""
    numbered = [path for path in Path("/dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()]
    if not numbered:  # Windows' Linux and AMD's driver do not number theirs
        return any(Path(device).exists() for device in ("/dev/dxg", "/dev/kfd"))
    return not name.isdigit() or int(name) < len(numbered)


def require_names(engine: Engine, host: StudyHost) -> None:
    """Raises `InvalidInput` for a study whose sampler or pruner is an object, where only names can be used."""
    for name, found in (("sampler", host.sampler), ("pruner", host.pruner)):
        if found is not None and not isinstance(engine, Engine):
            problem = f"{name}: an object works with a database only"
            raise InvalidInput(f"{problem}; name one, as {name}='auto'", name)


def require_artifacts(engine: Engine) -> None:
    """Raises `InvalidInput` when models, checkpoints and logs could not be written: nobody wants to learn that late."""
    root = engine.artifacts.root
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()
    except OSError as error:
        cure = "set AUTOML_ARTIFACTS to a folder that you may write to"
        raise InvalidInput(f"artifacts: {root} cannot be written ({error.strerror}); {cure}", "artifacts") from error


def confirm_here(
    engine: Engine,
    record: StudyRecord,
    load: Callable[[], StudyHost],
    slots: Sequence[Slot],
    lease_s: float,
    progress: bool,
) -> Mapping[int, Estimate]:
    """Run the best trials of a study again, in processes of the host that `load` starts; see `Engine.estimates`.

    A confirmation that was interrupted goes on; nothing is run where these very trials were confirmed before. Raises
    `InvalidInput` where there is nothing to confirm, `StudyFailed` when no run has worked.
    """
    if not engine.is_confirmed(record):
        confirmation = engine.confirm(record)
        with load() as host:
            display = open_display() if progress else None
            confirmation, _ = Session(engine, slots, lease_s, display).run(confirmation, host)
        raise_if_failed(engine, confirmation)
    return engine.estimates(record)


def run_study(
    study: Study, storage: str | None, slots: Sequence[Slot], *, lease_s: float, extend: bool, progress: bool
) -> Result:
    """`Study.run` for a study whose functions live in this process: they travel to its children by cloudpickle."""
    engine = connect(storage)
    require_artifacts(engine)
    with tempfile.TemporaryDirectory(prefix="automl-") as private:
        source = pickle_source(study, Path(private))
        host = StudyHost.start(source, log_path=Path(private) / "template.log")
        try:
            require_names(engine, host)
            record = engine.declare(study.spec, extend=extend)
            display = open_display() if progress else None
            record, _ = Session(engine, slots, lease_s, display).run(record, host)
            raise_if_failed(engine, record)
            if study.spec.confirm is not None and record.state is StudyState.FINISHED:
                confirm_here(engine, record, host.another, slots, lease_s, progress)
        finally:
            host.close()
    return Result(engine, record)


def submit_study(spec: StudySpec, source: FileSource, storage: str | None, *, extend: bool) -> StudyRecord:
    """`Study.submit`, after a look at whether a worker would find the same study in the file."""
    digest = code_sha256(source.path)
    with _loaded(spec, source):
        pass
    engine = connect(storage)
    package, problem = send_code(engine, source)
    if problem is not None:
        log.warning("%s", problem)
    return engine.declare(
        spec,
        entrypoint=source.entrypoint,
        code_sha256=digest,
        package_sha256=package,
        queued=True,
        extend=extend,
    )


@contextlib.contextmanager
def _loaded(spec: StudySpec, source: FileSource) -> Iterator[StudyHost]:
    """The file as a worker loads it. Raises `InvalidStudy` where it makes another study than this one."""
    with (
        tempfile.TemporaryDirectory(prefix="automl-") as private,
        StudyHost.start(source, log_path=Path(private) / "template.log") as host,
    ):
        if host.spec != spec:
            raise InvalidStudy(f"name: {source.path} makes another study named {spec.name!r}; rename one", "name")
        yield host


def send_code(engine: Engine, source: FileSource) -> tuple[str | None, str | None]:
    """Keep the code of a study for workers that accept code: its package, or why it has none, in a line."""
    cure = "workers need the file at its path"
    try:
        return engine.packages.put(to_text(pack(source.path, environment()))), None
    except Forbidden:
        return None, f"its code was not sent, because this token has not the scope submit-code; {cure}"
    except InvalidStudy as error:
        return None, f"its code was not sent ({error}); {cure}"


def schedule_study(spec: StudySpec, source: FileSource, storage: str | None, **options: Any) -> Schedule:
    """`Study.schedule`, after a look at whether a worker would find the same study in the file."""
    replace = options.pop("replace", False)
    with _loaded(spec, source) as host:
        engine = connect(storage)
        require_names(engine, host)
    return engine.schedules.add(plan_of(engine, spec, source, **options), replace=replace)


def plan_of(engine: Engine, spec: StudySpec, source: FileSource, **options: Any) -> Plan:
    """The plan to search what is in a file again and again; `options` are the other fields of `cron.Plan`.

    The code is kept as it is now: the file may be another one when the time has come.
    """
    if source.trials is not None:
        spec = dataclasses.replace(spec, budget=dataclasses.replace(spec.budget, trials=source.trials))
    if not source.direction:  # the spec has the budget already
        source = dataclasses.replace(source, name=spec.name, trials=None)
    package, problem = send_code(engine, source)
    if problem is not None:
        log.warning("%s", problem)
    digest = code_sha256(source.path)
    return Plan(spec.to_json(), source.entrypoint, code_sha256=digest, package_sha256=package, **options)
