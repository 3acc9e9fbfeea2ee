"""Folders with saved models, made once: to export one takes seconds. Tests that change files work on a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.unit.serving.zoo import Pair, saved


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network, for torch and as ONNX."""
    return saved(tmp_path_factory.mktemp("plain"), onnx=True)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with two inputs and two outputs, for torch and as ONNX."""
    inputs = (torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([0.5, 2.0]))
    return saved(tmp_path_factory.mktemp("pair"), Pair(), inputs, onnx=True)


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    """A copy of `plain` to be damaged."""
    return Path(shutil.copytree(plain, tmp_path / "model"))
