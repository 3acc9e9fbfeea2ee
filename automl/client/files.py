"""Artifacts of a service: kept here as every store keeps them, fetched when they are wanted, sent when they count.

The layout is that of the service's own folder. Where both are the same folder, as on a shared disk, nothing is sent.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import urllib3

from automl.client.transport import Transport
from automl.core import Artifact
from automl.errors import ArtifactCorrupt, AutoMLError, DatabaseUnavailable, NotFound, StorageError
from automl.storage.artifacts import ArtifactStore

_CHUNK = 1 << 20


class RemoteArtifacts(ArtifactStore):
    """A store that has what the service has, a copy of it at a time. Thread-safe."""

    def __init__(self, root: Path, transport: Transport):
        super().__init__(root)
        self._transport = transport

    def path(self, artifact: Artifact) -> Path:
        """Where the artifact lies; it is fetched if it is not there, and there is no file if it cannot be."""
        place = self._place(artifact)
        if not place.is_file():
            with contextlib.suppress(AutoMLError):
                self._fetch(artifact, place)
        return place

    def verify(self, artifact: Artifact) -> Path:
        """As the base does; what is missing or damaged here is fetched. Raises `ArtifactCorrupt`."""
        try:
            return super().verify(artifact)
        except ArtifactCorrupt:
            try:
                self._fetch(artifact, self._place(artifact))
            except NotFound as error:
                problem = f"{artifact.name} is neither here nor at {self._transport.url}"
                raise ArtifactCorrupt(f"{problem}; restore it there, or train the trial again") from error
            return super().verify(artifact)

    def upload(self, artifact: Artifact) -> None:
        """See to it that the service has the file, which is here. Raises `StorageError`, or what it says."""
        target = f"/files/{artifact.sha256}/{quote(artifact.name, safe='')}"
        if not self._is_there(target):
            self._send(target, self._place(artifact))

    def upload_checkpoint(self, path: str, step: int, sha256: str, headers: Mapping[str, str]) -> None:
        """See to it that the service has a checkpoint; `path` is relative to the root. As `upload`."""
        target = f"/work/checkpoints/{step}/{sha256}"
        if not self._is_there(target, headers):
            self._send(target, self.root / path, headers)

    def fetch_checkpoint(self, place: Path, sha256: str, headers: Mapping[str, str]) -> None:
        """Put a trial's last checkpoint at `place`, unless it is there. Raises `NotFound`, `ArtifactCorrupt`."""
        if not place.is_file():
            self._download("/work/checkpoints", sha256, place, headers)

    def _fetch(self, artifact: Artifact, place: Path) -> None:
        self._download(f"/files/{artifact.sha256}/{quote(artifact.name, safe='')}", artifact.sha256, place)

    def _is_there(self, target: str, headers: Mapping[str, str] | None = None) -> bool:
        try:
            self._transport.transfer("HEAD", target, headers=headers).drain_conn()
        except DatabaseUnavailable:
            raise
        except AutoMLError:  # an answer to HEAD has no words: what is wrong is said when the file is sent
            return False
        return True

    def _send(self, target: str, file: Path, headers: Mapping[str, str] | None = None) -> None:
        try:
            with file.open("rb") as opened:
                size = str(file.stat().st_size)
                sent = {"Content-Type": "application/octet-stream", "Content-Length": size, **(headers or {})}
                self._transport.transfer("PUT", target, opened, sent).drain_conn()
        except OSError as error:
            raise StorageError(f"{file} cannot be sent ({error.strerror or error})") from error
        except ArtifactCorrupt as error:  # it was changed since it was stored
            raise StorageError(str(error)) from error

    def _download(self, target: str, sha256: str, place: Path, headers: Mapping[str, str] | None = None) -> None:
        answer = self._transport.transfer("GET", target, headers=headers)
        digest = hashlib.sha256()
        try:
            with self.incoming() as temporary:
                with temporary.open("xb") as file:
                    for chunk in answer.stream(_CHUNK):
                        digest.update(chunk)
                        file.write(chunk)
                if digest.hexdigest() != sha256:
                    problem = f"{self._transport.url}: {target} has sha256 {digest.hexdigest()}"
                    raise ArtifactCorrupt(f"{problem}, recorded was {sha256}")
                self.adopt(temporary, place)
        except urllib3.exceptions.HTTPError as error:
            raise DatabaseUnavailable(f"{self._transport.url}: the answer broke off") from error
        finally:
            answer.release_conn()
