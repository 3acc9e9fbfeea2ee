"""The verbs of the system over a database: the one place where search and storage meet.

`Engine` satisfies `core.Coordinator`, so workers in this process use it directly; readers and the command line use the
other verbs. `connect` is the one way in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automl.core import (
    Artifact,
    Checkpoint,
    Failure,
    FailureKind,
    Lease,
    Outcome,
    Report,
    StudyRecord,
    StudyState,
    TrialRecord,
    TrialState,
)
from automl.declaration import Space, StudySpec
from automl.errors import InvalidInput, InvalidTarget, NotFound
from automl.storage.artifacts import ArtifactStore
from automl.storage.database import Database
from automl.storage.distributions import Distributions
from automl.storage.leases import Leases
from automl.storage.schema import ensure_schema
from automl.storage.sources import Sources
from automl.storage.studies import Studies
from automl.storage.trials import Trials

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from automl.search import History
    from automl.search.transfer import Source
    from automl.storage import OptunaStorage
    from automl.suggester import Suggester

DEFAULT_STORAGE = "sqlite:///.automl/automl.db"
DEFAULT_ARTIFACTS = ".automl/artifacts"

#: A study of which nothing ever worked stops after so many failures in a row with the same traceback.
HOPELESS_AFTER = 3


def connect(target: str | None = None, artifacts: str | Path | None = None) -> Engine:
    """Open the system behind a database URL (None: `$AUTOML_STORAGE`, else the embedded default).

    `artifacts` is the folder for models, checkpoints and logs (None: `$AUTOML_ARTIFACTS`, else `.automl/artifacts`).
    Raises `InvalidTarget`, `DatabaseUnavailable`, `SchemaMismatch`.
    """
    url = target or os.environ.get("AUTOML_STORAGE") or DEFAULT_STORAGE
    if url.startswith(("http://", "https://")):
        raise InvalidTarget("storage: this version talks to databases only; give their URL", field="storage")
    return Engine(url, Path(artifacts or os.environ.get("AUTOML_ARTIFACTS") or DEFAULT_ARTIFACTS))


class Engine:
    """All verbs over one database. Thread-safe."""

    def __init__(self, url: str, artifacts: Path):
        self.database = Database(url)
        ensure_schema(self.database)
        self.artifacts = ArtifactStore(artifacts.absolute())
        distributions = Distributions(self.database)
        self._studies = Studies(self.database, distributions)
        self._trials = Trials(self.database)
        self._sources = Sources(self.database)
        self._leases = Leases(self.database, distributions)
        self._histories: dict[int, History] = {}
        self._pruners: dict[int, Any] = {}

    def close(self) -> None:
        self.database.close()

    # -- studies ------------------------------------------------------------------------------------------------

    def declare(
        self,
        spec: StudySpec,
        *,
        entrypoint: str | None = None,
        code_sha256: str | None = None,
        queued: bool = False,
        extend: bool = False,
    ) -> StudyRecord:
        """Make the study, or open the one of that name again; `queued` offers it to every worker.

        Raises `StudyConflict` when the name is taken by another definition (`extend` accepts a wider one), and
        `InvalidStudy` when it is to learn from a study that is not here.
        """
        self._sources.check(spec)
        return self._studies.declare(spec, entrypoint=entrypoint, code_sha256=code_sha256, queued=queued, extend=extend)

    def study(self, name: str) -> StudyRecord:
        """Raises `NotFound`."""
        return self._studies.get(name)

    def studies(self) -> list[StudyRecord]:
        return self._studies.all()

    def queued_studies(self) -> list[StudyRecord]:
        """Open studies that any worker may take up, the oldest first."""
        return self._studies.queued()

    def counts(self, records: Sequence[StudyRecord]) -> dict[int, dict[str, int]]:
        """Trials by state and "total", for each study id."""
        return self._studies.counts([record.id for record in records])

    def study_by_id(self, study_id: int) -> StudyRecord:
        """Raises `NotFound`."""
        return self._studies.by_id(study_id)

    def stop(self, name: str, reason: str = "stopped by the user") -> bool:
        """End the search: unfinished trials are cancelled. False when it was over already."""
        return self._studies.end(self.study(name).id, StudyState.STOPPED, reason)

    def delete(self, name: str) -> None:
        """Remove a study with its trials and history; its files stay in the artifact store."""
        self._studies.delete(self.study(name).id)

    # -- trials -------------------------------------------------------------------------------------------------

    def trials(self, record: StudyRecord, states: Sequence[TrialState] | None = None) -> list[TrialRecord]:
        """By number."""
        return self._trials.of(record.id, states=states)

    def trial(self, record: StudyRecord, number: int) -> TrialRecord:
        """With its artifacts. Raises `NotFound`."""
        return self._trials.get(record, number)

    def best_trials(self, record: StudyRecord, limit: int = 1) -> list[TrialRecord]:
        """The best complete trials by the first metric, best first; those that violate constraints come last."""
        return self._trials.best(record, limit)

    def finished_since(self, record: StudyRecord, moment: float) -> list[TrialRecord]:
        """Trials that ended at or after `moment` (seconds since the epoch, the database's clock)."""
        return self._trials.finished_since(record.id, moment)

    def clock(self) -> float:
        """The database's clock, seconds since the epoch."""
        return self._studies.clock()

    def reports(self, trial: TrialRecord) -> list[Report]:
        return self._trials.reports(trial.id)

    def moves(self, trial: TrialRecord) -> list[dict[str, Any]]:
        """The trial's history, one dict for each move."""
        return self._trials.history(trial.id)

    def enqueue(self, record: StudyRecord, params: Mapping[str, Any]) -> int:
        """Add a trial with these parameters (the sampler gives the others); its number."""
        if record.spec is not None and record.spec["space"] is not None:
            Space.from_json(record.spec["space"]).check(params, partial=True)
        number = self._studies.enqueue(record.id, params)
        if number is None:
            raise InvalidInput(
                f"budget: study {record.name!r} has no trial left or is not open; raise budget.trials", field="budget"
            )
        return number

    def add_artifacts(self, trial: TrialRecord, files: Sequence[Artifact]) -> None:
        """Record further files of a finished trial, as its ONNX file."""
        self._trials.add_artifacts(trial.id, files)

    def audit(self, record: StudyRecord) -> list[str]:
        """Violations of the guarantees that the study's history shows; empty when it is sound."""
        from automl.storage.audit import audit

        return audit(self.database, record.id)

    def log_path(self, study_id: int, number: int, attempt: int) -> Path:
        """Where the output of an attempt is, on the machine that ran it."""
        return self.artifacts.root / "logs" / str(study_id) / f"{number}-{attempt}.log"

    # -- the search ---------------------------------------------------------------------------------------------

    @cached_property
    def optuna(self) -> OptunaStorage:
        """The same database as Optuna sees it."""
        from automl.storage import OptunaStorage

        return OptunaStorage.over(self.database)

    def suggester(self, record: StudyRecord, sampler: BaseSampler | None = None) -> Suggester:
        """What keeps this study supplied with suggestions; `sampler`: an Optuna object instead of the declared one."""
        from automl.suggester import Suggester

        return Suggester(self._studies, self._sources, self.optuna, record, sampler)

    def sources(self, record: StudyRecord) -> list[Source]:
        """The past studies that this one learns from, see `Study(transfer=...)`; [] for an Optuna program's study."""
        from automl.suggester import as_sources

        if record.spec is None:
            return []
        spec = StudySpec.from_json(record.spec)
        chosen = self._sources.chosen(record.id, spec)
        if chosen is None:
            chosen = self._sources.choose(record.id, spec)
        return list(as_sources(self._sources, chosen))

    def forecast(self, record: StudyRecord) -> Mapping[str, Any] | None:
        """What the search expects of the trials to come, by its newest suggestion: `trials`, `gain`, `sd`, ..."""
        return self._trials.forecast(record.id)

    def set_pruner(self, record: StudyRecord, pruner: object) -> None:
        """Judge this study's trials by an Optuna pruner object instead of the one that its declaration names."""
        self._pruners[record.id] = pruner

    def reap(self, lease_s: float) -> list[int]:
        """Take back trials whose leases expired; the ids of the trials."""
        return self._leases.reap(lease_s)

    # -- core.Coordinator ---------------------------------------------------------------------------------------

    def claim(self, study_ids: Sequence[int], worker: str, token: str, lease_s: float) -> Lease | None:
        return self._leases.claim(study_ids, worker, token, lease_s)

    def renew(self, tokens: Iterable[str], lease_s: float) -> frozenset[str]:
        return self._leases.renew(tokens, lease_s)

    def report(self, token: str, reports: Sequence[Report]) -> None:
        self._leases.report(token, reports)

    def describe(self, token: str, params: Mapping[str, Any], distributions: Mapping[str, str]) -> None:
        self._leases.describe(token, params, distributions)

    def checkpoint(self, token: str, checkpoint: Checkpoint) -> None:
        self._leases.checkpoint(token, checkpoint)

    def finish(self, token: str, outcome: Outcome, reports: Sequence[Report] = ()) -> None:
        self._leases.finish(token, outcome, reports)

    def fail(self, token: str, failure: Failure, reports: Sequence[Report] = ()) -> bool:
        study_id, state = self._leases.fail(token, failure, reports)
        if state is TrialState.FAILED and failure.kind is FailureKind.ERROR:
            self._studies.fail_if_hopeless(study_id, HOPELESS_AFTER)
        return state is TrialState.WAITING

    def release(self, token: str) -> None:
        self._leases.release(token)

    def should_prune(self, token: str) -> bool:
        from automl.search import History, should_prune

        held = self._leases.holder(token)
        record = self.study_by_id(held.study_id)
        history = self._histories.get(record.id)
        if history is None:
            history = self._histories[record.id] = History(record.directions, record.name)
        history.update(self.optuna.snapshot(record.id))
        return should_prune(history, held.number, self._pruner(record))

    def _pruner(self, record: StudyRecord) -> Any:
        from automl.search import make_pruner

        if record.id not in self._pruners:
            if record.spec is None:
                raise NotFound(f"study {record.name!r} was made by an Optuna program", field="study")
            spec = StudySpec.from_json(record.spec)
            self._pruners[record.id] = make_pruner(spec.pruner, spec.fidelity, spec.directions)
        return self._pruners[record.id]
