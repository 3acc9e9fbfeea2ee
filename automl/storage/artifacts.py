"""Files that trials leave behind, stored by content.

Layout: `<root>/<sha256[:2]>/<sha256>/<file name>`. A file appears there whole or not at all: it is written under
a temporary name in the root, synced, and renamed. Storing the same content again is harmless. Standard library
only, because the process of a trial imports this module and must not drag a database along.
"""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from automl.core import Artifact
from automl.errors import ArtifactCorrupt, InvalidInput

_CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ArtifactStore:
    """Artifacts under one directory, which several processes and machines may share."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def put(self, path: Path, name: str | None = None) -> Artifact:
        """Store a copy of the file at `path` as `name` (its own name when None).

        Raises:
            InvalidInput: `path` is no file, or `name` is not a plain file name.
            OSError: the disk is full or not writable; nothing half-written stays behind.
        """
        path = Path(path)
        name = _plain_name(path.name if name is None else name)
        if not path.is_file():
            raise InvalidInput(f"path: {path} is no file; give the path of an existing one", field="path")
        with self.incoming() as temporary:
            artifact = Artifact(name, *_copy(path, temporary))
            self.adopt(temporary, self._place(artifact))
        return artifact

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """Where a file may be written before it is adopted; what is still there at the end is removed."""
        self.root.mkdir(parents=True, exist_ok=True)
        temporary = self.root / f".incoming-{uuid.uuid4().hex}"
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def adopt(self, temporary: Path, target: Path) -> None:
        """Let a file that is written and synced appear at its place under the root."""
        target.parent.mkdir(parents=True, exist_ok=True)
        # Replaced even when it exists: equal content then, or a repair of what a broken disk made of it.
        temporary.replace(target)
        _sync_directory(target.parent)

    def checkpoint(self, trial_id: int, attempt: int, step: int, sha256: str) -> Path:
        """Where a checkpoint of this content lies, whether or not it is there. Raises `InvalidInput`."""
        _check_digest(sha256)
        return self.root / "checkpoints" / str(int(trial_id)) / f"a{int(attempt)}-s{int(step)}-{sha256[:12]}.pt"

    def path(self, artifact: Artifact) -> Path:
        """Where the artifact lies, whether or not it is there. Raises `InvalidInput` for one that points outside."""
        return self._place(artifact)

    def _place(self, artifact: Artifact) -> Path:
        _check_digest(artifact.sha256)
        return self.root / artifact.sha256[:2] / artifact.sha256 / _plain_name(artifact.name)

    def verify(self, artifact: Artifact) -> Path:
        """The path of the artifact after comparing its content. Raises `ArtifactCorrupt` when it differs or is gone."""
        path = self._place(artifact)
        try:
            found = file_sha256(path)
        except FileNotFoundError:
            raise ArtifactCorrupt(f"{path} is missing; restore it or train the trial again") from None
        if found != artifact.sha256:
            raise ArtifactCorrupt(f"{path} has sha256 {found}, recorded was {artifact.sha256}; restore the file")
        return path

    def open(self, artifact: Artifact) -> BinaryIO:
        """The artifact opened for reading, verified. The caller closes it. Raises `ArtifactCorrupt`."""
        return self.verify(artifact).open("rb")


def file_sha256(path: Path) -> str:
    """sha256 of a file's content, 64 hex digits. Raises `OSError` when it cannot be read."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy(source: Path, target: Path) -> tuple[str, int]:
    """Copy and sync; returns sha256 and size of what was written, even if `source` changes meanwhile."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest(), size


def _sync_directory(directory: Path) -> None:
    """Make a rename durable: the file's name is content of the directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_digest(sha256: str) -> None:
    if not _SHA256.fullmatch(sha256):
        raise InvalidInput(f"sha256: {sha256!r} is no digest; give 64 lower-case hex digits", field="sha256")


def _plain_name(name: str) -> str:
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise InvalidInput(f"name: {name!r} is no plain file name; leave out folders", field="name")
    return name
