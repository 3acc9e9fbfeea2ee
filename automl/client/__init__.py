"""The verbs of `automl.engine.Engine` over HTTP: what `automl.connect("https://...")` gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast
from weakref import WeakKeyDictionary

from automl.client.shapes import Changed, Examined, Grid, Page, Points, in_requests, ranges
from automl.client.transport import Transport
from automl.core import (
    Artifact,
    Checkpoint,
    Estimate,
    Failure,
    Gate,
    Lease,
    Load,
    Model,
    ModelVersion,
    Outcome,
    Promotion,
    Report,
    StudyRecord,
    TrialRecord,
    TrialState,
    WorkerRecord,
)
from automl.declaration import Bound, Confirm, Space, StudySpec
from automl.errors import InvalidInput, NotFound
from automl.team import UNDO_S

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from automl.board import Board, Curve, Overview, Prediction, Segment
    from automl.client.batches import RemoteBatches
    from automl.client.channels import RemoteChannels
    from automl.client.files import RemoteArtifacts
    from automl.client.schedules import RemoteSchedules
    from automl.client.tokens import RemoteTokens
    from automl.client.work import RemotePackages, RemoteSuggester, Work
    from automl.search.transfer import Source
    from automl.search.what_if import Surface

T = TypeVar("T")

#: Items of a listing that are asked for at once; the service gives no more.
PAGE = 1000
#: Studies whose ids fit into one address.
_IDS = 200

# What may be none, as the type checker wants to have it.
_STUDY = cast("type[StudyRecord | None]", StudyRecord | None)
_OBJECT = cast("type[dict[str, Any] | None]", dict[str, Any] | None)
_TEXT = cast("type[str | None]", str | None)


class Client:
    """The verbs of one project of a service, as the bearer of one token. Thread-safe.

    Each is what `Engine` says of the verb of that name: same parameters, same answers, same errors. Verbs that take a
    `board` listen to it as a hint only: the service has one of its own. In addition they raise `Unauthorized`,
    `Forbidden`, `TooMany`.
    """

    def __init__(self, url: str, token: str | None, artifacts: Path):
        """`artifacts`: where files are kept that were fetched, or are made here. Raises `InvalidTarget`."""
        self._transport = Transport(url, token)
        self._folder = Path(artifacts).absolute()
        self._etags: WeakKeyDictionary[Board, str] = WeakKeyDictionary()

    def __str__(self) -> str:
        return self._transport.url

    def check(self) -> None:
        """Raises `DatabaseUnavailable` where no service answers, `Unauthorized` where it does not know the token."""
        self._transport.get("/project", str)

    def close(self) -> None:
        self._transport.close()

    @cached_property
    def project(self) -> str:
        """Which the token is for."""
        return self._transport.get("/project", str)

    @cached_property
    def artifacts(self) -> RemoteArtifacts:
        """Files of models and checkpoints by their content, fetched from the service when they are not here."""
        from automl.client.files import RemoteArtifacts

        return RemoteArtifacts(self._folder, self._transport)

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
        code = {"entrypoint": entrypoint, "code_sha256": code_sha256, "package_sha256": package_sha256}
        body = {"spec": spec.to_json(), **code, "queued": queued, "extend": extend}
        return self._transport.send("POST", "/studies", StudyRecord, body)

    def study(self, name: str) -> StudyRecord:
        found = self._transport.get("/studies", Page[StudyRecord], name=name).items
        if not found:
            names = [record.name for record in self._transport.get("/studies", Page[StudyRecord], limit=10).items]
            there = f"there are {', '.join(names)}" if names else "there is none yet"
            raise NotFound(f"study {name!r} is not in {self}; {there}", field="study")
        return found[0]

    def study_by_id(self, study_id: int) -> StudyRecord:
        return self._transport.get(f"/studies/{study_id}", StudyRecord)

    def studies(self) -> list[StudyRecord]:
        return self._all("/studies", StudyRecord)

    def queued_studies(self) -> list[StudyRecord]:
        return self._transport.get("/work/queue", list[StudyRecord])

    def counts(self, records: Sequence[StudyRecord]) -> dict[int, dict[str, int]]:
        none = {"total": 0} | {state.value: 0 for state in TrialState}
        found = {record.id: dict(none) for record in records}
        ids = list(found)
        if len(ids) == 1:
            with suppress(NotFound):  # it was deleted: it has none
                found[ids[0]] = self._transport.get(f"/studies/{ids[0]}/counts", dict[str, int])
            return found
        for at in range(0, len(ids), _IDS):
            part = ids[at : at + _IDS]
            found |= self._transport.get("/counts", dict[int, dict[str, int]], study=part)
        return found

    def stop(self, name: str, reason: str = "stopped by the user") -> bool:
        return self._changed(name, state="stopped", reason=reason).changed

    def pause(self, name: str) -> bool:
        return self._changed(name, paused=True).changed

    def resume(self, name: str) -> bool:
        return self._changed(name, paused=False).changed

    def extend(self, name: str, trials: int | None = None, minutes: float | None = None) -> StudyRecord:
        return self._changed(name, budget={"trials": trials, "minutes": minutes}).study

    def clone(self, name: str, new_name: str, *, trials: int | None = None, seed: int | None = None) -> StudyRecord:
        body = {"name": new_name, "trials": trials, "seed": seed}
        return self._transport.send("POST", f"{self._at(name)}/clone", StudyRecord, body)

    def archive(self, name: str, on: bool = True) -> None:
        self._changed(name, archived=on)

    def tag(self, name: str, tags: Sequence[str]) -> StudyRecord:
        return self._changed(name, tags=tags).study

    def delete(self, name: str) -> None:
        self._transport.send("DELETE", self._at(name), object)

    def undelete(self, name: str) -> StudyRecord:
        return self._transport.send("POST", "/studies/undelete", StudyRecord, {"name": name})

    def purge(self, older_than_s: float = UNDO_S) -> int:
        return self._transport.send("POST", "/studies/purge", int, {"older_than_s": older_than_s})

    def _changed(self, name: str, **change: Any) -> Changed:
        return self._transport.send("PATCH", self._at(name), Changed, change)

    def _at(self, study: str | StudyRecord) -> str:
        return f"/studies/{(self.study(study) if isinstance(study, str) else study).id}"

    # -- trials -------------------------------------------------------------------------------------------------

    def trials(
        self,
        record: StudyRecord,
        states: Sequence[TrialState] | None = None,
        *,
        after: int | None = None,
        limit: int | None = None,
    ) -> list[TrialRecord]:
        if states is not None and not states:
            return []
        named = None if states is None else [state.value for state in states]
        return self._all(f"{self._at(record)}/trials", TrialRecord, after=after, most=limit, state=named)

    def trial(self, record: StudyRecord, number: int) -> TrialRecord:
        return self._transport.get(f"{self._at(record)}/trials/{number}", TrialRecord)

    def trial_by_id(self, trial_id: int) -> TrialRecord:
        return self._transport.get(f"/trials/{trial_id}", TrialRecord)

    def best_trials(self, record: StudyRecord, limit: int = 1) -> list[TrialRecord]:
        return self._transport.get(f"{self._at(record)}/best-trials", list[TrialRecord], limit=limit)

    def invalid_trials(self, record: StudyRecord) -> list[TrialRecord]:
        return self._transport.get(f"{self._at(record)}/invalid-trials", list[TrialRecord])

    def finished_since(self, record: StudyRecord, moment: float) -> list[TrialRecord]:
        return self._transport.get(f"{self._at(record)}/finished-trials", list[TrialRecord], since=moment)

    def clock(self) -> float:
        return self._transport.get("/clock", float)

    def reports(self, trial: TrialRecord) -> list[Report]:
        return self._transport.get(f"/trials/{trial.id}/reports", list[Report])

    def moves(self, trial: TrialRecord) -> list[dict[str, Any]]:
        return self._transport.get(f"/trials/{trial.id}/moves", list[dict[str, Any]])

    def enqueue(self, record: StudyRecord, params: Mapping[str, Any], *, extend: bool = False) -> int:
        body = {"params": dict(params), "extend": extend}
        return self._transport.send("POST", f"{self._at(record)}/trials", dict[str, int], body)["number"]

    def invalidate(self, record: StudyRecord, number: int, reason: str) -> None:
        path = f"{self._at(record)}/trials/{number}/invalidate"
        self._transport.send("POST", path, object, {"reason": reason})

    def restore(self, record: StudyRecord, number: int) -> None:
        self._transport.send("POST", f"{self._at(record)}/trials/{number}/restore", object)

    def add_artifacts(self, trial: TrialRecord, files: Sequence[Artifact]) -> None:
        self._work.add_artifacts(trial, files)

    def audit(self, record: StudyRecord) -> list[str]:
        return self._transport.get(f"{self._at(record)}/audit", list[str])

    def log_path(self, study_id: int, number: int, attempt: int) -> Path:
        return self._folder / "logs" / str(study_id) / f"{number}-{attempt}.log"

    # -- models -------------------------------------------------------------------------------------------------

    def models(self) -> list[Model]:
        return self._transport.get("/models", list[Model])

    def model_versions(self, name: str) -> list[ModelVersion]:
        return self._transport.get("/models/versions", list[ModelVersion], name=name)

    def model_version(self, reference: str) -> ModelVersion:
        return self._transport.get("/models/version", ModelVersion, reference=reference)

    def promotions(self, name: str, alias: str | None = None) -> list[Promotion]:
        return self._transport.get("/models/promotions", list[Promotion], name=name, alias=alias)

    def check_gates(
        self, record: StudyRecord, number: int | None = None, **options: Any
    ) -> tuple[TrialRecord, tuple[Gate, ...]]:
        found = self._transport.ask(f"{self._at(record)}/gates", Examined, _promotion(number, options))
        return found.trial, found.gates

    def promote(self, record: StudyRecord, number: int | None = None, **options: Any) -> Promotion:
        body = _promotion(number, options)
        return self._transport.send("POST", f"{self._at(record)}/promotions", Promotion, body)

    def rollback(
        self, model: str, alias: str = "champion", *, reason: str | None = None, who: str | None = None
    ) -> Promotion:
        body = {"name": model, "alias": alias, "reason": reason, "who": who}
        return self._transport.send("POST", "/models/rollback", Promotion, body)

    # -- views --------------------------------------------------------------------------------------------------

    def board(self, record: StudyRecord, board: Board | None = None) -> Board:
        from automl.client.shapes import BOARD, unpack_board

        before = board if board is not None and board.study.id == record.id else None
        etag = self._etags.get(before) if before is not None else None
        headers = {"Accept": BOARD} | ({"If-None-Match": etag} if etag is not None else {})
        answer = self._transport.request("GET", f"{self._at(record)}/board", headers=headers)
        if answer.status == 304 and before is not None:
            return before
        found = unpack_board(answer.data, before)
        self._etags[found] = answer.header("ETag")
        return found

    def curves(self, record: StudyRecord, numbers: Sequence[int]) -> dict[int, Curve]:
        from automl.client.shapes import unpack_curves

        packed: dict[int, Points] = {}
        for part in in_requests(numbers):
            path = f"{self._at(record)}/curves"
            packed |= self._transport.get(path, dict[int, Points], numbers=ranges(part))
        return unpack_curves(numbers, packed)

    def timeline(self, record: StudyRecord, limit: int = 5000) -> list[Segment]:
        from automl.board import Segment

        return self._transport.get(f"{self._at(record)}/timeline", list[Segment], limit=limit)

    def overviews(self, archived: bool = False) -> list[Overview]:
        from automl.board import Overview

        return self._transport.get("/overviews", list[Overview], archived=archived)

    def change(self) -> int:
        return self._transport.get("/change", int)

    def log_tail(self, record: StudyRecord, number: int, attempt: int, limit_bytes: int = 200_000) -> str | None:
        from automl.storage.views import tail

        here = tail(self.log_path(record.id, number, attempt), limit_bytes)
        if here is not None:
            return here
        path = f"{self._at(record)}/trials/{number}/log"
        return self._transport.get(path, _TEXT, attempt=attempt, limit_bytes=limit_bytes)

    # -- workers ------------------------------------------------------------------------------------------------

    def workers(self, all: bool = False) -> list[WorkerRecord]:
        return self._transport.get("/workers", list[WorkerRecord], all=all)

    def drain(self, name: str, on: bool = True) -> None:
        self._transport.send("POST", "/workers/drain", object, {"name": name, "on": on})

    def environment(self, trial: TrialRecord) -> Mapping[str, str]:
        return self._transport.get(f"/trials/{trial.id}/environment", dict[str, str])

    def enroll(self, worker: WorkerRecord) -> None:
        self._work.enroll(worker)

    def beat(self, name: str, load: Load) -> bool | None:
        return self._work.beat(name, load)

    def leave(self, name: str) -> None:
        self._work.leave(name)

    # -- the team -----------------------------------------------------------------------------------------------

    @cached_property
    def tokens(self) -> RemoteTokens:
        from automl.client.tokens import RemoteTokens

        return RemoteTokens(self._transport)

    @cached_property
    def schedules(self) -> RemoteSchedules:
        from automl.client.schedules import RemoteSchedules

        return RemoteSchedules(self._transport)

    @cached_property
    def batches(self) -> RemoteBatches:
        from automl.client.batches import RemoteBatches

        return RemoteBatches(self._transport)

    @cached_property
    def channels(self) -> RemoteChannels:
        from automl.client.channels import RemoteChannels

        return RemoteChannels(self._transport)

    # -- the search ---------------------------------------------------------------------------------------------

    @property
    def optuna(self) -> NoReturn:
        """Raises `InvalidInput`: Optuna's storages are databases."""
        cure = "give --storage (or AUTOML_STORAGE) the database's URL"
        raise InvalidInput(f"storage: {self} is a service, and Optuna works with a database only; {cure}", "storage")

    @cached_property
    def packages(self) -> RemotePackages:
        from automl.client.work import RemotePackages

        return RemotePackages(self._transport)

    def want(self, record: StudyRecord, slots: int, for_s: float) -> int:
        return self._work.want(record.id, slots, for_s)

    def suggester(self, record: StudyRecord, sampler: BaseSampler | None = None) -> RemoteSuggester:
        return self._work.suggester(record, sampler)

    def sources(self, record: StudyRecord) -> list[Source]:
        from automl.search.transfer import Source

        return self._transport.get(f"{self._at(record)}/sources", list[Source])

    def forecast(self, record: StudyRecord) -> Mapping[str, Any] | None:
        return self._transport.get(f"{self._at(record)}/forecast", _OBJECT)

    def set_pruner(self, record: StudyRecord, pruner: object) -> None:
        self._work.set_pruner(record, pruner)

    def reap(self, lease_s: float) -> list[int]:
        """Nothing to do: the service takes expired leases back."""
        return []

    # -- confirmation -------------------------------------------------------------------------------------------

    def confirm(self, record: StudyRecord, confirm: Confirm | None = None) -> StudyRecord:
        body = asdict(confirm) if confirm is not None else None
        return self._transport.send("POST", f"{self._at(record)}/confirmation", StudyRecord, {"confirm": body})

    def confirm_as_declared(self, record: StudyRecord) -> StudyRecord:
        return self._work.confirm(record.id)

    def confirmation(self, record: StudyRecord) -> StudyRecord | None:
        return self._transport.get(f"{self._at(record)}/confirmation", _STUDY)

    def is_confirmed(self, record: StudyRecord, confirm: Confirm | None = None) -> bool:
        query = asdict(confirm) if confirm is not None else {}
        return self._transport.get(f"{self._at(record)}/confirmed", bool, **query)

    def estimates(self, record: StudyRecord) -> Mapping[int, Estimate]:
        return dict(self._transport.get(f"{self._at(record)}/estimates", list[tuple[int, Estimate]]))

    # -- the model ----------------------------------------------------------------------------------------------

    def space(self, record: StudyRecord, board: Board | None = None) -> Space | None:
        found = self._transport.get(f"{self._at(record)}/space", _OBJECT)
        return Space.from_json(found) if found is not None else None

    def what_if(
        self, record: StudyRecord, points: Sequence[Mapping[str, Any]], board: Board | None = None
    ) -> list[Prediction]:
        from automl.board import Prediction

        body = {"points": [dict(point) for point in points]}
        return self._transport.ask(f"{self._at(record)}/what-if", list[Prediction], body)

    def surface(
        self,
        record: StudyRecord,
        fixed: Mapping[str, Any],
        names: str | tuple[str, str],
        size: int = 40,
        board: Board | None = None,
    ) -> Surface:
        from automl.client.shapes import unpack_surface

        body = {"fixed": dict(fixed), "names": [names] if isinstance(names, str) else list(names), "size": size}
        return unpack_surface(self._transport.ask(f"{self._at(record)}/surface", Grid, body))

    def importances(self, record: StudyRecord, board: Board | None = None) -> Mapping[str, float]:
        return self._transport.get(f"{self._at(record)}/importances", dict[str, float])

    # -- core.Coordinator ---------------------------------------------------------------------------------------

    @cached_property
    def _work(self) -> Work:
        from automl.client.work import Work

        return Work(self._transport, self.artifacts)

    def claim(self, study_ids: Sequence[int], worker: str, token: str, lease_s: float) -> Lease | None:
        return self._work.claim(study_ids, worker, token, lease_s)

    def renew(self, tokens: Iterable[str], lease_s: float) -> frozenset[str]:
        return self._work.renew(tokens, lease_s)

    def report(self, token: str, reports: Sequence[Report]) -> None:
        self._work.report(token, reports)

    def describe(self, token: str, params: Mapping[str, Any], distributions: Mapping[str, str]) -> None:
        self._work.describe(token, params, distributions)

    def checkpoint(self, token: str, checkpoint: Checkpoint) -> None:
        self._work.checkpoint(token, checkpoint)

    def finish(self, token: str, outcome: Outcome, reports: Sequence[Report] = ()) -> None:
        self._work.finish(token, outcome, reports)

    def fail(self, token: str, failure: Failure, reports: Sequence[Report] = ()) -> bool:
        return self._work.fail(token, failure, reports)

    def release(self, token: str) -> None:
        self._work.release(token)

    def should_prune(self, token: str) -> bool:
        return self._work.should_prune(token)

    def _all(
        self, path: str, kind: type[T], *, after: int | None = None, most: int | None = None, **query: Any
    ) -> list[T]:
        """All items of a listing, page by page; no more than `most`."""
        found: list[T] = []
        while most is None or len(found) < most:
            limit = PAGE if most is None else min(PAGE, most - len(found))
            page: Page[T] = self._transport.get(
                path,
                Page[kind],  # type: ignore[valid-type]
                after=after,
                limit=limit,
                **query,
            )
            found += page.items
            after = page.next
            if after is None:
                break
        return found


def _promotion(number: int | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be promoted, and how, as a body. Raises as `promotion.Options`."""
    from automl.promotion import Options

    if options.get("check") is not None:
        cure = "call it yourself first, or say what it asks for as gates (--min, --max)"
        raise InvalidInput(f"check: a function cannot be sent to a service; {cure}", field="check")
    given = Options(**options)
    gates = {name: bound.to_json() for name, bound in given.gates.items() if isinstance(bound, Bound)}
    said = {name: getattr(given, name) for name in ("alias", "model", "reason", "force", "who")}
    return {"number": number, **said, "gates": gates}
