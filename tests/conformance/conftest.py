"""A laboratory on each kind of database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.lab import Lab


@pytest.fixture
def lab(url: str, artifacts: Path) -> Iterator[Lab]:
    """An open study on SQLite, then on PostgreSQL. Whatever a test did to it, its history must be sound."""
    opened = Lab(url, artifacts)
    yield opened
    opened.close()
