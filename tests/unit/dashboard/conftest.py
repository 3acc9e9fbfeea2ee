"""One small study for all tests of pages that only look at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from automl.core import StudyRecord
from automl.engine import Engine
from tests.unit.dashboard.searched import searched


@dataclass(frozen=True)
class Made:
    url: str
    artifacts: Path
    engine: Engine
    record: StudyRecord


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A study of its own for each module, see `searched`."""
    folder = tmp_path_factory.mktemp("dashboard")
    url, artifacts = f"sqlite:///{folder / 'lab.db'}", folder / "artifacts"
    engine, record = searched(url, artifacts)
    yield Made(url, artifacts, engine, record)
    engine.close()
