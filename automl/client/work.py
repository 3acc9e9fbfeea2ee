"""What a worker needs of the system, over HTTP: `core.Coordinator`, and what dispatch asks for beside it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from automl import wire
from automl.client import protocol
from automl.client.files import RemoteArtifacts
from automl.client.transport import Transport
from automl.core import (
    Artifact,
    Checkpoint,
    Failure,
    Lease,
    Load,
    Outcome,
    Report,
    StudyRecord,
    TrialRecord,
    WorkerRecord,
)
from automl.errors import ArtifactCorrupt, DatabaseUnavailable, InvalidInput, LeaseLost, NotFound, TooMany

#: The header that names a lease where the body is a file. Never in the address: addresses are logged.
LEASE = "Automl-Lease"
_JSON = {"Content-Type": "application/json"}
#: Reports, or tokens, in one request.
_PART = 1000
#: So often at the most the service is told that a study is wanted; it makes suggestions by itself as results come.
WANT_S = 2.0


class RemoteSuggester:
    """Stands where `suggester.Suggester` does: the service makes the suggestions, this says that they are wanted."""

    def __init__(self, work: Work, study_id: int):
        self._work = work
        self._study_id = study_id
        self._told_at: float | None = None

    def step(self, slots: int, lease_s: float) -> int:
        """How many trials wait to be claimed, if it was asked for: between two looks it is taken to be 0."""
        now = time.monotonic()
        if self._told_at is not None and now - self._told_at < min(WANT_S, lease_s / 3):
            return 0
        self._told_at = now
        return self._work.want(self._study_id, slots, lease_s)

    def close(self) -> None:
        """Nothing is held: what was wanted is forgotten when its time is over."""


class Work:
    """The worker protocol of one service. Thread-safe. Raises as `core.Coordinator` says, and `Refused`."""

    def __init__(self, transport: Transport, artifacts: RemoteArtifacts):
        self._transport = transport
        self._artifacts = artifacts
        self._leases: dict[str, Lease] = {}  # those that were claimed here and are not over

    # -- core.Coordinator ---------------------------------------------------------------------------------------

    def claim(self, study_ids: Sequence[int], worker: str, token: str, lease_s: float) -> Lease | None:
        """The lease's checkpoint is here when this returns, unless the service does not have it either."""
        lease: Lease | None = self._ask("claim", protocol.Claim(tuple(study_ids), worker, token, lease_s), Lease | None)
        if lease is None:
            return None
        self._leases[token] = lease
        if lease.checkpoint is not None:
            self._fetch_checkpoint(lease, lease.checkpoint)
        return lease

    def _fetch_checkpoint(self, lease: Lease, checkpoint: Checkpoint) -> None:
        place = self._artifacts.root / checkpoint.path
        folder = self._artifacts.checkpoint(lease.trial_id, lease.attempt, checkpoint.step, checkpoint.sha256).parent
        if place.parent != folder or place.suffix != ".pt":
            return  # no place for a checkpoint of this trial: the service is not what it should be
        with contextlib.suppress(NotFound, ArtifactCorrupt):  # then the trial begins from scratch, and says so
            self._artifacts.fetch_checkpoint(place, checkpoint.sha256, {LEASE: lease.token})

    def renew(self, tokens: Iterable[str], lease_s: float) -> frozenset[str]:
        wanted, kept = list(tokens), set[str]()
        for start in range(0, len(wanted), _PART):
            body = protocol.Renew(tuple(wanted[start : start + _PART]), lease_s)
            kept |= self._ask("renew", body, frozenset[str])
        return frozenset(kept)

    def report(self, token: str, reports: Sequence[Report]) -> None:
        for start in range(0, max(1, len(reports)), _PART):  # none at all ask for the lease, too
            part = protocol.reporteds(reports[start : start + _PART])
            self._ask("report", protocol.Reports(token, part), None)

    def describe(self, token: str, params: Mapping[str, Any], distributions: Mapping[str, str]) -> None:
        self._ask("describe", protocol.Describe(token, dict(params), dict(distributions)), None)

    def should_prune(self, token: str) -> bool:
        return self._ask("should-prune", protocol.Held(token), bool)

    def checkpoint(self, token: str, checkpoint: Checkpoint) -> None:
        """The file goes before the word: a checkpoint is acknowledged when the service has it."""
        headers = {LEASE: token}
        with _as_unavailable():
            self._artifacts.upload_checkpoint(checkpoint.path, checkpoint.step, checkpoint.sha256, headers)
        self._ask("checkpoint", protocol.Saved(token, checkpoint.step, checkpoint.sha256), None)

    def finish(self, token: str, outcome: Outcome, reports: Sequence[Report] = ()) -> None:
        """The files go before the word: a result is accepted when the service has them all."""
        with _as_unavailable():
            for artifact in outcome.artifacts:
                self._artifacts.upload(artifact)
        last = self._all_but_last(token, reports)
        body = protocol.Finish(token, protocol.Result.of(outcome), protocol.reporteds(last), self._log(token))
        self._last_word("finish", body, None)

    def fail(self, token: str, failure: Failure, reports: Sequence[Report] = ()) -> bool:
        reported, log = protocol.reporteds(self._all_but_last(token, reports)), self._log(token)
        body = protocol.Fail(token, failure.kind, failure.message, failure.traceback, reported, log)
        waits: bool = self._last_word("fail", body, bool)
        return waits

    def release(self, token: str) -> None:
        self._last_word("release", protocol.Release(token, self._log(token)), None)

    def _all_but_last(self, token: str, reports: Sequence[Report]) -> Sequence[Report]:
        """Send so many reports that the others fit into one request; those."""
        if len(reports) <= _PART:
            return reports
        # Once the lease is over they were recorded: the last word's answer was lost, and it is said again.
        with contextlib.suppress(LeaseLost):
            self.report(token, reports[:-_PART])
        return reports[-_PART:]

    def _last_word(self, verb: str, body: protocol.Finish | protocol.Fail | protocol.Release, kind: Any) -> Any:
        try:
            answer = self._ask(verb, body, kind)
        except LeaseLost:
            self._leases.pop(body.token, None)
            raise
        self._leases.pop(body.token, None)
        return answer

    def _log(self, token: str) -> str | None:
        """The end of what the attempt printed here."""
        lease = self._leases.get(token)
        if lease is None:
            return None
        path = self._artifacts.root / f"logs/{lease.study_id}/{lease.number}-{lease.attempt}.log"
        try:
            with path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - protocol.MAX_LOG))
                return file.read(protocol.MAX_LOG).decode(errors="replace").replace("\0", "")
        except OSError:
            return None

    # -- what dispatch asks for beside it -----------------------------------------------------------------------

    def enroll(self, worker: WorkerRecord) -> None:
        self._ask("enroll", protocol.Enroll.of(worker), None)

    def beat(self, name: str, load: Load) -> bool | None:
        draining: bool | None = self._ask("beat", protocol.Beat(name, load), bool | None)
        return draining

    def leave(self, name: str) -> None:
        self._ask("leave", protocol.Leave(name), None)

    def want(self, study_id: int, slots: int, lease_s: float) -> int:
        """Have the service suggest for a study; how many trials wait to be claimed."""
        return self._ask("want", protocol.Want(study_id, slots, lease_s), int)

    def confirm(self, study_id: int) -> StudyRecord:
        """Queue the confirmation that a finished study declares."""
        return self._ask("confirm", protocol.Study(study_id), StudyRecord)

    def suggester(self, record: StudyRecord, sampler: object = None) -> RemoteSuggester:
        """Raises `InvalidInput` for an Optuna object: the service does not run what others send."""
        if sampler is not None:
            raise InvalidInput("sampler: an object works with a database only; name one, as sampler='auto'", "sampler")
        return RemoteSuggester(self, record.id)

    def set_pruner(self, record: StudyRecord, pruner: object) -> None:
        """Raises `InvalidInput`, as `suggester` does for an object."""
        raise InvalidInput("pruner: an object works with a database only; name one, as pruner='auto'", "pruner")

    def reap(self, lease_s: float) -> list[int]:
        """Nothing: the service does it."""
        return []

    def add_artifacts(self, trial: TrialRecord, files: Sequence[Artifact]) -> None:
        """Send further files of a finished trial, and record them."""
        for artifact in files:
            self._artifacts.upload(artifact)
        self._ask("artifacts", protocol.Files(trial.id, tuple(files)), None)

    # -- requests -----------------------------------------------------------------------------------------------

    def _ask(self, verb: str, body: Any, kind: Any) -> Any:
        # Without a key: the lease's token makes each of these harmless to repeat.
        data = wire.dump(body)
        with _as_unavailable():
            answer = self._transport.request("POST", f"/work/{verb}", data, _JSON)
        return None if kind is None else wire.parse(kind, answer.data)


class RemotePackages:
    """The code of studies, as `storage.packages.Packages` keeps it."""

    def __init__(self, transport: Transport):
        self._transport = transport

    def put(self, body: str, who: str = "local") -> str:
        """Send a package; its sha256. `who` is for who talks to the database: the service knows whom the token names.
        Raises `Forbidden` without the scope submit-code.
        """
        data = body.encode()
        digest = hashlib.sha256(data).hexdigest()
        self._transport.request("PUT", f"/packages/{digest}", data, _JSON)
        return digest

    def get(self, sha256: str) -> str:
        """Raises `NotFound`, `ArtifactCorrupt`."""
        data = self._transport.request("GET", f"/packages/{sha256}").data
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ArtifactCorrupt(f"package {sha256[:12]} of {self._transport.url} is not what it should be")
        return data.decode()


@contextlib.contextmanager
def _as_unavailable() -> Iterator[None]:
    """A service that has too much to do is one that will answer later."""
    try:
        yield
    except TooMany as error:
        raise DatabaseUnavailable(f"{error} (again in {error.retry_after_s:g} s)") from error
