"""The verbs of the system over a database: the one place where search and storage meet.

`Engine` satisfies `core.Coordinator`, so workers in this process use it directly; readers and the command line use the
other verbs. `connect` is the one way in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from automl.core import (
    Artifact,
    Checkpoint,
    Estimate,
    Failure,
    FailureKind,
    Gate,
    Lease,
    Load,
    Model,
    ModelVersion,
    Outcome,
    Promotion,
    Report,
    StudyRecord,
    StudyState,
    TrialRecord,
    TrialState,
    WorkerRecord,
)
from automl.declaration import Confirm, Space, StudySpec
from automl.errors import InvalidInput, NotFound
from automl.storage.artifacts import ArtifactStore
from automl.storage.database import Database
from automl.storage.distributions import Distributions
from automl.storage.leases import Leases
from automl.storage.registry import Registry
from automl.storage.schema import ensure_schema
from automl.storage.sources import Sources
from automl.storage.steering import Steering
from automl.storage.studies import Studies
from automl.storage.trash import Trash
from automl.storage.trials import Trials
from automl.storage.workers import Workers
from automl.team import DEFAULT_PROJECT, UNDO_S, check_project

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from automl.beliefs import Beliefs
    from automl.board import Board, Curve, Overview, Prediction, Segment
    from automl.promotion import Candidate, Promoter
    from automl.racing import Races
    from automl.search import History
    from automl.search.transfer import Source
    from automl.search.what_if import Surface
    from automl.storage import OptunaStorage
    from automl.storage.answers import Answers
    from automl.storage.batches import Batches
    from automl.storage.channels import Channels
    from automl.storage.columns import Boards
    from automl.storage.duties import Duties
    from automl.storage.packages import Packages
    from automl.storage.schedules import Schedules
    from automl.storage.tokens import Tokens
    from automl.storage.views import Overviews, Views
    from automl.suggester import Suggester

DEFAULT_STORAGE = "sqlite:///.automl/automl.db"
DEFAULT_ARTIFACTS = ".automl/artifacts"

#: A study of which nothing ever worked stops after so many failures in a row with the same traceback.
HOPELESS_AFTER = 3


def connect(
    target: str | None = None, artifacts: str | Path | None = None, *, project: str = DEFAULT_PROJECT
) -> Engine:
    """Open the system behind a URL (None: `$AUTOML_STORAGE`, else the embedded default).

    It is a database's, or that of a service, `https://...`: the same verbs then, with the token in `$AUTOML_TOKEN`,
    which says the project, too.

    `artifacts` is the folder for models, checkpoints and logs (None: `$AUTOML_ARTIFACTS`, else `.automl/artifacts`).
    `project`: whose studies, models and workers the engine sees, and no others.

    Raises `InvalidTarget`, `InvalidInput` for a project, `DatabaseUnavailable`, `SchemaMismatch`, `Unauthorized`.
    """
    check_project(project)
    url = target or os.environ.get("AUTOML_STORAGE") or DEFAULT_STORAGE
    folder = Path(artifacts or os.environ.get("AUTOML_ARTIFACTS") or DEFAULT_ARTIFACTS)
    if url.startswith(("http://", "https://")):
        from automl.client import Client

        if project != DEFAULT_PROJECT:
            raise InvalidInput("project: a service takes it from the token; leave it out", field="project")
        client = Client(url, os.environ.get("AUTOML_TOKEN") or None, folder)
        client.check()
        return cast("Engine", client)  # its twin
    engine = Engine(url, folder)
    return engine if project == engine.project else engine.of_project(project)


class Engine:
    """All verbs over one database. Thread-safe."""

    def __init__(self, url: str, artifacts: Path):
        database = Database(url)
        ensure_schema(database)
        self._open(database, ArtifactStore(artifacts.absolute()), DEFAULT_PROJECT)

    def of_project(self, name: str) -> Engine:
        """The verbs over another project of the same database; closing either closes both.

        The files of each project but the default one are in a folder of its own, `projects/<name>` beside the others.
        """
        root = self.artifacts.root if self.project == DEFAULT_PROJECT else self.artifacts.root.parents[1]
        mine = root if check_project(name) == DEFAULT_PROJECT else root / "projects" / name
        other = object.__new__(Engine)
        other._open(self.database, ArtifactStore(mine), name)
        return other

    def _open(self, database: Database, artifacts: ArtifactStore, project: str) -> None:
        self.database = database
        self.artifacts = artifacts
        self.project = project
        distributions = Distributions(self.database)
        self._studies = Studies(self.database, distributions, project)
        self._trials = Trials(self.database)
        self._sources = Sources(self.database, project)
        self._steering = Steering(self.database, project)
        self._trash = Trash(self.database, project)
        self._registry = Registry(self.database, project)
        self._workers = Workers(self.database, project)
        self._leases = Leases(self.database, distributions, project)
        self._last_seen: dict[int, Board] = {}
        self._histories: dict[int, History] = {}
        self._pruners: dict[int, Any] = {}

    def __str__(self) -> str:
        return str(self.database)

    def close(self) -> None:
        self.database.close()

    # -- studies ------------------------------------------------------------------------------------------------

    def declare(
        self,
        spec: StudySpec,
        *,
        entrypoint: str | None = None,
        code_sha256: str | None = None,
        package_sha256: str | None = None,
        queued: bool = False,
        extend: bool = False,
    ) -> StudyRecord:
        """Make the study, or open the one of that name again; `queued` offers it to every worker.

        `package_sha256`: its code, which `packages` has, for workers that accept code.

        Raises `StudyConflict` when the name is taken by another definition (`extend` accepts a wider one), and
        `InvalidStudy` when it is to learn from a study that is not here.
        """
        self._sources.check(spec)
        return self._studies.declare(
            spec,
            entrypoint=entrypoint,
            code_sha256=code_sha256,
            package_sha256=package_sha256,
            queued=queued,
            extend=extend,
        )

    def study(self, name: str) -> StudyRecord:
        """Raises `NotFound`."""
        return self._studies.get(name)

    def studies(self) -> list[StudyRecord]:
        return self._studies.all()

    def queued_studies(self) -> list[StudyRecord]:
        """Open studies that any worker may take up, the first ones first: see `Studies.queued`."""
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

    def pause(self, name: str) -> bool:
        """Start no more trials of an open study; those that run go on to their end. False when it is paused already.

        The minutes of its budget stand still. Raises `InvalidInput` when it is not open.
        """
        return self._steering.set_paused(self.study(name), True)

    def resume(self, name: str) -> bool:
        """Let a paused study go on; False when it was not paused. Raises `InvalidInput` when it is not open."""
        return self._steering.set_paused(self.study(name), False)

    def extend(self, name: str, trials: int | None = None, minutes: float | None = None) -> StudyRecord:
        """Give a study another budget, in new totals; a finished or stopped one goes on. The old totals undo it.

        Less is good down to what was made already. Raises `InvalidInput`, also for a study that has failed.
        """
        record = self.study(name)
        self._steering.set_budget(record, trials, minutes)
        self._studies.close_if_done(record.id)
        return self.study_by_id(record.id)

    def clone(self, name: str, new_name: str, *, trials: int | None = None, seed: int | None = None) -> StudyRecord:
        """Queue the same declaration and code as a new study, with none of the trials.

        Raises `InvalidInput` when the name is taken, or no worker could load the code.
        """
        self._steering.clone(self.study(name), new_name, trials, seed)
        return self.study(new_name)

    def archive(self, name: str, on: bool = True) -> None:
        """Leave a study out of listings, or (`on=False`) take it in again; nothing else changes."""
        self._steering.archive(self.study(name), on)

    def tag(self, name: str, tags: Sequence[str]) -> StudyRecord:
        """Replace the study's tags: at most 20, of at most 40 printable characters. Raises `InvalidInput`."""
        record = self.study(name)
        self._steering.tag(record, tags)
        return self.study_by_id(record.id)

    def delete(self, name: str) -> None:
        """Take away a study with its trials, history and confirmations; what runs of them is cancelled.

        Nothing finds it from here on, and its name is free. `undelete` brings it back; the next `delete` or `purge`
        after `UNDO_S` seconds removes it for good. Files and promoted models stay.
        """
        self._trash.delete(self.study(name).id)
        self.purge(UNDO_S)

    def undelete(self, name: str) -> StudyRecord:
        """Bring back the study that was deleted last under this name, with its confirmations.

        Raises `NotFound`, and `InvalidInput` when another study has the name by now.
        """
        return self.study_by_id(self._trash.restore(name))

    def purge(self, older_than_s: float = UNDO_S) -> int:
        """Remove for good the studies that were deleted longer ago; how many."""
        return self._trash.purge(older_than_s)

    # -- trials -------------------------------------------------------------------------------------------------

    def trials(
        self,
        record: StudyRecord,
        states: Sequence[TrialState] | None = None,
        *,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[TrialRecord]:
        """By number; those above number `after`, at most `limit` of them."""
        return self._trials.of(record.id, states=states, after=after, limit=limit)

    def trial(self, record: StudyRecord, number: int) -> TrialRecord:
        """With its artifacts. Raises `NotFound`."""
        return self._trials.get(record, number)

    def trial_by_id(self, trial_id: int) -> TrialRecord:
        """With its artifacts. Raises `NotFound`."""
        gone = NotFound(f"trial {trial_id} is gone", field="trial")
        place = self._trials.place(trial_id)
        if place is None:
            raise gone
        try:
            return self.trial(self.study_by_id(place.study_id), place.number)
        except NotFound:  # another project's: not even that it is there is said
            raise gone from None

    def best_trials(self, record: StudyRecord, limit: int = 1) -> list[TrialRecord]:
        """The best complete trials by the first metric, best first; those that violate constraints come last."""
        return self._trials.best(record, limit)

    def invalid_trials(self, record: StudyRecord) -> list[TrialRecord]:
        """Those whose results were taken out, see `invalidate`; by number."""
        return self._trials.invalid(record.id)

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

    def enqueue(self, record: StudyRecord, params: Mapping[str, Any], *, extend: bool = False) -> int:
        """Add a trial with these parameters (the sampler gives the others); its number.

        With `extend` a budget of trials that is used up grows by one, and a finished study opens again.
        Raises `InvalidInput`.
        """
        if record.spec is not None and record.spec["space"] is not None:
            Space.from_json(record.spec["space"]).check(params, partial=True)
        if extend:
            return self._steering.enqueue(record, params)
        number = self._studies.enqueue(record.id, params)
        if number is None:
            raise InvalidInput(
                f"budget: study {record.name!r} has no trial left or is not open; raise budget.trials", field="budget"
            )
        return number

    def invalidate(self, record: StudyRecord, number: int, reason: str) -> None:
        """Take the result of a finished trial out of the search and of the ranking; `restore` brings it back.

        The trial keeps its number, and its place in the budget. Raises `InvalidInput`.
        """
        self._steering.invalidate(record, number, reason)

    def restore(self, record: StudyRecord, number: int) -> None:
        """Let the result of an invalid trial count again. Raises `InvalidInput`."""
        self._steering.restore(record, number)

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

    # -- models -------------------------------------------------------------------------------------------------

    def models(self) -> list[Model]:
        """By name."""
        return self._registry.models()

    def model_versions(self, name: str) -> list[ModelVersion]:
        """Newest first. Raises `NotFound`."""
        return self._registry.versions(name)

    def model_version(self, reference: str) -> ModelVersion:
        """`digits@champion`, `digits@3`, or `digits` for its champion. Raises `NotFound`, which says what there is."""
        return self._registry.version(reference)

    def promotions(self, name: str, alias: str | None = None) -> list[Promotion]:
        """The moves of a model's aliases, or of one of them, newest first. Raises `NotFound` for an unknown model."""
        self._registry.check_model(name)
        return self._registry.promotions(name, alias)

    def check_gates(
        self, record: StudyRecord, number: int | None = None, **options: Any
    ) -> tuple[TrialRecord, tuple[Gate, ...]]:
        """What `promote` would look at, without promoting: the trial, and its gates."""
        from automl.promotion import Options

        candidate = self._candidate(record, number)
        _, gates = self._promoter.examine(candidate, Options(**options))
        return candidate.trial, gates

    def promote(self, record: StudyRecord, number: int | None = None, **options: Any) -> Promotion:
        """Let an alias name trial `number`; None: the best, as it was confirmed where it was, else as it was observed.

        `options` are those of `promotion.Options`: alias, model, reason, force, who, gates, check. Where the alias
        names the trial already, nothing is done and its last move is given back.

        Raises `PromotionRefused` when a gate fails, `PromotionConflict` when somebody else moves the alias meanwhile,
        `InvalidInput` for a trial that cannot be promoted. All of them leave the alias where it was.
        """
        from automl.promotion import Options

        chosen = Options(**options)
        return self._promoter.promote(self._candidate(record, number), chosen)

    def rollback(
        self, model: str, alias: str = "champion", *, reason: str | None = None, who: str | None = None
    ) -> Promotion:
        """Let the alias name what it named before its newest promotion that was not taken back yet.

        Two in a row go two back. Raises `NotFound`, `InvalidInput` when there is nothing before, `PromotionRefused`
        when that version's files are not what they were, `PromotionConflict`.
        """
        return self._promoter.rollback(model, alias, reason, who)

    @cached_property
    def _promoter(self) -> Promoter:
        from automl.promotion import Promoter

        return Promoter(self._registry, self._trials, self.artifacts)

    def _candidate(self, record: StudyRecord, number: int | None) -> Candidate:
        from automl.promotion import Candidate

        self.study_by_id(record.id)  # raises for one that was deleted since
        estimates = self.estimates(record)
        trial = self._promoter.choose(record, number, estimates)
        return Candidate(record, trial, estimates.get(trial.number), self.environment(trial))

    # -- views --------------------------------------------------------------------------------------------------

    def board(self, record: StudyRecord, board: Board | None = None) -> Board:
        """All trials of a study as columns, as of now; an earlier board is brought up to date, which is far quicker.

        The very same object when nothing has changed. The study's row is read again too; its `active_s` is as fresh as
        the board, it alone makes no new one. Raises `NotFound` when the study was deleted.
        """
        return self._boards.read(self.study_by_id(record.id), board)

    def curves(self, record: StudyRecord, numbers: Sequence[int]) -> dict[int, Curve]:
        """What these trials reported, by number; an empty curve for one that has not reported."""
        return self._views.curves(record.id, numbers)

    def timeline(self, record: StudyRecord, limit: int = 5000) -> list[Segment]:
        """The newest `limit` attempts, in the order in which they started."""
        return self._views.timeline(record.id, limit)

    def overviews(self, archived: bool = False) -> list[Overview]:
        """All studies at a glance, newest activity first; without confirmations, and without archived ones."""
        records = [record for record in self.studies() if record.origin_id is None]
        return self._overviews.of([record for record in records if archived or not record.archived])

    def change(self) -> int:
        """A number that grows whenever a study or a trial moved, in microseconds for each study."""
        return self._views.change()

    def log_tail(self, record: StudyRecord, number: int, attempt: int, limit_bytes: int = 200_000) -> str | None:
        """The end of what an attempt printed, without escape codes; None when it is not on this machine."""
        from automl.storage.views import tail

        return tail(self.log_path(record.id, number, attempt), limit_bytes)

    # Imported when they are wanted: most commands do without NumPy.

    @cached_property
    def _boards(self) -> Boards:
        from automl.storage.columns import Boards

        return Boards(self.database)

    @cached_property
    def _views(self) -> Views:
        from automl.storage.views import Views

        return Views(self.database, self.project)

    @cached_property
    def _overviews(self) -> Overviews:
        from automl.storage.views import Overviews

        return Overviews(self.database, self.project)

    # -- workers ------------------------------------------------------------------------------------------------

    def workers(self, all: bool = False) -> list[WorkerRecord]:
        """Workers that were heard of within three of their leases, by name; with `all` also those of the last day."""
        return self._workers.all(gone=all)

    def drain(self, name: str, on: bool = True) -> None:
        """Let a worker finish its running trials and claim no more; `automl worker` then ends.

        `on=False` takes it back. Raises `NotFound` when no worker of that name is alive.
        """
        self._workers.drain(name, on)

    def environment(self, trial: TrialRecord) -> Mapping[str, str]:
        """What the trial's last worker runs in: "python", "platform", versions by package; {} when it is not known."""
        return self._workers.environment(trial.worker)

    def enroll(self, worker: WorkerRecord) -> None:
        """A worker has started."""
        self._workers.enroll(worker)

    def beat(self, name: str, load: Load) -> bool | None:
        """A worker lives; whether it is to drain, None when it is not enrolled."""
        return self._workers.beat(name, load)

    def leave(self, name: str) -> None:
        """A worker has ended."""
        self._workers.leave(name)

    # -- the service --------------------------------------------------------------------------------------------

    @cached_property
    def tokens(self) -> Tokens:
        """Who may call for this project."""
        from automl.storage.tokens import Tokens

        return Tokens(self.database, self.project)

    @cached_property
    def duties(self) -> Duties:
        """Which process does what has to happen without anybody asking, for all projects."""
        from automl.storage.duties import Duties

        return Duties(self.database)

    @cached_property
    def answers(self) -> Answers:
        """What was answered to requests with an idempotency key."""
        from automl.storage.answers import Answers

        return Answers(self.database, self.project)

    @cached_property
    def schedules(self) -> Schedules:
        """What is searched again and again, without anybody asking."""
        from automl.storage.schedules import Schedules

        return Schedules(self.database, self.project, self._studies, self._trials)

    @cached_property
    def batches(self) -> Batches:
        """Studies that run one after the other, on one budget."""
        from automl.batch_report import report
        from automl.storage.batches import Batches

        return Batches(
            self.database,
            self.project,
            self._studies,
            check=self._sources.check,
            render=lambda batch, spent: report(self, batch, spent),
        )

    @cached_property
    def channels(self) -> Channels:
        """Who is told of what."""
        from automl.storage.channels import Channels

        return Channels(self.database, self.project)

    # -- the search ---------------------------------------------------------------------------------------------

    @cached_property
    def optuna(self) -> OptunaStorage:
        """The same database as Optuna sees it."""
        from automl.storage import OptunaStorage

        return OptunaStorage.over(self.database, self.project)

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

    # -- confirmation -------------------------------------------------------------------------------------------

    def confirm(self, record: StudyRecord, confirm: Confirm | None = None) -> StudyRecord:
        """Declare the study that runs the best trials of this one again; `confirm` instead of what the study declares.

        One of the same trials, settings and code that is not finished is opened again. Whoever runs studies runs it:
        `confirmation.confirm_study` here, or the workers, if `record` is queued. Raises `InvalidInput` where there is
        nothing to confirm, or no one best.
        """
        return self._races.declare(record, confirm)

    def confirm_as_declared(self, record: StudyRecord) -> StudyRecord:
        """What workers do when a study that declares a confirmation is finished. Raises as `confirm`."""
        if not record.is_to_be_confirmed:
            raise InvalidInput(f"study {record.name!r} declares no confirmation; confirm it yourself", "confirm")
        return self.confirm(record)

    def confirmation(self, record: StudyRecord) -> StudyRecord | None:
        """The newest study that confirms this one; None when there is none."""
        return next(iter(self._races.of(record)), None)

    def is_confirmed(self, record: StudyRecord, confirm: Confirm | None = None) -> bool:
        """Whether the newest confirmation is finished, and of the trials that are the best now. Raises as `confirm`."""
        return self._races.is_settled(record, confirm)

    def estimates(self, record: StudyRecord) -> Mapping[int, Estimate]:
        """What the newest confirmation that is over found, by trial of this study, in the order of what the search saw.

        {} when there is none, it had too few runs, or the search has seen a better trial since; `core.confirmed_best`
        says which of them to take.
        """
        return self._races.estimates(record)

    @cached_property
    def _races(self) -> Races:
        from automl.racing import Races

        return Races(self._studies, self._trials, lambda study_id: self.optuna.snapshot(study_id))

    # -- the model ----------------------------------------------------------------------------------------------
    # `board`: one that the caller has, which spares reading the trials.

    def space(self, record: StudyRecord, board: Board | None = None) -> Space | None:
        """The declared search space, else what the trials say of it; None before one of them has ended."""
        return self._beliefs.space(self._seen(record, board))

    def what_if(
        self, record: StudyRecord, points: Sequence[Mapping[str, Any]], board: Board | None = None
    ) -> list[Prediction]:
        """What the study's trials say of points that nobody has tried, see `search.what_if`.

        Of any study, whatever its sampler. Only active parameters count. Raises `InvalidInput` for a point outside of
        the space, naming the parameter, and while there are too few results.
        """
        with self._beliefs.posterior(self._seen(record, board)) as posterior:
            return posterior.predict(points)

    def surface(
        self,
        record: StudyRecord,
        fixed: Mapping[str, Any],
        names: str | tuple[str, str],
        size: int = 40,
        board: Board | None = None,
    ) -> Surface:
        """Predictions along one parameter or over two, the others `fixed`. Raises `InvalidInput`, as `what_if`."""
        with self._beliefs.posterior(self._seen(record, board)) as posterior:
            return posterior.surface(fixed, names, size)

    def importances(self, record: StudyRecord, board: Board | None = None) -> Mapping[str, float]:
        """The share of each parameter in what made the best tenth, the largest first; {} while it cannot be told."""
        return self._beliefs.importances(self._seen(record, board))

    def _seen(self, record: StudyRecord, board: Board | None) -> Board:
        if board is None:
            board = self.board(record, self._last_seen.get(record.id))
            self._last_seen = {record.id: board}  # one study's: of fifty thousand trials it is ten megabytes
        return board

    @cached_property
    def _beliefs(self) -> Beliefs:
        from automl.beliefs import Beliefs, Readers

        return Beliefs(Readers(self._trials, Distributions(self.database), self.curves, self.sources))

    @cached_property
    def packages(self) -> Packages:
        """The code that was submitted with studies."""
        from automl.storage.packages import Packages

        return Packages(self.database, self.project)

    def want(self, record: StudyRecord, slots: int, for_s: float) -> int:
        """Have whoever makes suggestions for others make them for this study; how many trials wait to be claimed."""
        return self._studies.want(record.id, slots, for_s)

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

    def lease(self, token: str) -> Lease:
        """A lease that is held, with the trial's last checkpoint. Raises `LeaseLost`."""
        return self._leases.lease(token)

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
