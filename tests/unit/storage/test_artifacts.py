"""Files stored by content."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from automl.core import Artifact
from automl.errors import ArtifactCorrupt, InvalidInput
from automl.storage.artifacts import ArtifactStore


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(b"weights" * 1000)
    return path


def test_a_stored_file_lies_under_its_digest_and_reads_back(store: ArtifactStore, model: Path) -> None:
    artifact = store.put(model)
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    assert artifact == Artifact("model.bin", digest, 7000)
    assert store.path(artifact) == store.root / digest[:2] / digest / "model.bin"
    with store.open(artifact) as file:
        assert file.read() == model.read_bytes()


def test_storing_again_changes_nothing_and_leaves_no_temporary_file(store: ArtifactStore, model: Path) -> None:
    assert store.put(model) == store.put(model)
    assert [path.name for path in store.root.rglob("*") if path.is_file()] == ["model.bin"]


def test_the_same_content_may_have_several_names(store: ArtifactStore, model: Path) -> None:
    one, other = store.put(model), store.put(model, "other.bin")
    assert one.sha256 == other.sha256
    assert store.verify(one) != store.verify(other)


def test_storing_again_repairs_a_damaged_file(store: ArtifactStore, model: Path) -> None:
    artifact = store.put(model)
    store.path(artifact).write_bytes(b"damaged")
    store.put(model)
    store.verify(artifact)


@pytest.mark.parametrize("damage", [b"", b"weights" * 999, b"Weights" + b"weights" * 999])
def test_a_changed_file_is_corrupt(store: ArtifactStore, model: Path, damage: bytes) -> None:
    artifact = store.put(model)
    store.path(artifact).write_bytes(damage)
    with pytest.raises(ArtifactCorrupt, match="recorded was"):
        store.open(artifact)


def test_a_missing_file_is_corrupt(store: ArtifactStore, model: Path) -> None:
    artifact = store.put(model)
    store.path(artifact).unlink()
    with pytest.raises(ArtifactCorrupt, match="missing"):
        store.verify(artifact)


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "../x", "a\\b", "a\0b"])
def test_names_that_leave_the_directory_are_refused(store: ArtifactStore, model: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="name:"):
        store.put(model, name)
    with pytest.raises(InvalidInput, match="name:"):
        store.path(Artifact(name, "0" * 64, 1))


@pytest.mark.parametrize("sha256", ["", "../" * 21 + "x", "0" * 63, "G" * 64])
def test_digests_that_are_none_are_refused(store: ArtifactStore, sha256: str) -> None:
    with pytest.raises(InvalidInput, match="sha256"):
        store.path(Artifact("a", sha256, 1))


def test_a_path_that_is_no_file_is_refused(store: ArtifactStore, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no file"):
        store.put(tmp_path)


def test_a_write_that_fails_leaves_nothing(store: ArtifactStore, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("automl.storage.artifacts.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.put(model)
    assert list(store.root.rglob("*")) == []


def test_threads_that_store_the_same_file_at_once_agree(store: ArtifactStore, model: Path) -> None:
    found: list[Artifact] = []
    threads = [threading.Thread(target=lambda: found.append(store.put(model))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1
    store.verify(found[0])
