"""`automl.load_model`: a version of the registry as a predictor, never of files that are not what was promoted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import automl
from automl.core import ModelVersion
from automl.errors import ArtifactCorrupt, InvalidInput, NotFound
from automl.serving import open_model
from tests.conformance.lab import Lab, complete
from tests.unit.serving.zoo import FEATURES

X = np.random.default_rng(0).normal(size=(5, FEATURES)).astype(np.float32)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def promoted(request: pytest.FixtureRequest, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Model "lab", whose champion is version 1. Made once: the gates of a promotion take seconds."""
    folder = tmp_path_factory.mktemp("promoted")
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    url = server.create_database() if server else f"sqlite:///{folder}/automl.db"
    lab = Lab(url, folder / "artifacts")
    try:
        files = [lab.engine.artifacts.put(path) for path in plain.iterdir()]
        lab.engine.finish(lab.claimed().token, complete(0.5, artifacts=tuple(files)))
        lab.engine.promote(lab.study, 0)
        yield lab
    finally:
        lab.close()
        if server:
            server.drop_database(url)


@pytest.fixture
def registry(promoted: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Where `load_model` looks by itself."""
    monkeypatch.setenv("AUTOML_STORAGE", promoted.url)
    monkeypatch.setenv("AUTOML_ARTIFACTS", str(promoted.engine.artifacts.root))
    return promoted


def test_a_reference_gives_the_predictor_of_that_version(registry: Lab, plain: Path) -> None:
    champion = automl.load_model("lab@champion")
    assert isinstance(champion.version, ModelVersion)
    assert (champion.version.version, champion.version.number, champion.runtime) == (1, 0, "onnx")
    assert repr(champion).startswith("Predictor(lab@1, onnx, ")
    np.testing.assert_array_equal(champion(X), open_model(plain)(X))
    assert automl.load_model("lab@1").version == automl.load_model("lab").version == champion.version
    with_torch = automl.load_model("lab", registry.url, runtime="torch", batch_size=2)
    assert with_torch.runtime == "torch"
    np.testing.assert_allclose(with_torch(X), champion(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reference", ["lab@9", "lab@nobody", "nothing@champion", "", "@"])
def test_an_unknown_reference_is_not_found(registry: Lab, reference: str) -> None:
    with pytest.raises(NotFound):
        automl.load_model(reference)


def test_what_the_version_does_not_have_is_named(registry: Lab) -> None:
    with pytest.raises(InvalidInput, match="lab@1 has no model 'teacher'; use one of"):
        automl.load_model("lab@1", name="teacher")
    with pytest.raises(InvalidInput, match="use auto, onnx or torch"):
        automl.load_model("lab@1", runtime="tf")  # type: ignore[arg-type]


@pytest.mark.parametrize("runtime", ["onnx", "torch"])
def test_a_file_that_is_not_what_was_promoted_is_never_loaded(registry: Lab, runtime: str) -> None:
    wanted = {"onnx": ["model.onnx"], "torch": ["model.json", "model.safetensors", "model.example.safetensors"]}
    version = registry.engine.model_version("lab@1")
    for name in wanted[runtime]:
        (file,) = (file for file in version.files if file.name == name)
        path = registry.engine.artifacts.path(file)
        sound = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(sound + b" ")  # all of these can be read with a space at their end but not be trusted
        with pytest.raises(ArtifactCorrupt, match="sha256"):
            automl.load_model("lab@1", runtime=runtime)  # type: ignore[arg-type]
        path.unlink()
        with pytest.raises(ArtifactCorrupt, match="missing"):
            automl.load_model("lab@1", runtime=runtime)  # type: ignore[arg-type]
        path.write_bytes(sound)
    assert automl.load_model("lab@1", runtime=runtime)(X).shape == (5, 3)  # type: ignore[arg-type]
