"""Houses: on each kind of database, on SQLite alone where no database is asked, and one that asks for no token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.service.house import House, open_house


@pytest.fixture
def house(url: str, artifacts: Path) -> Iterator[House]:
    with open_house(url, artifacts) as opened:
        yield opened


@pytest.fixture
def hut(sqlite_url: str, artifacts: Path) -> Iterator[House]:
    """A house on SQLite."""
    with open_house(sqlite_url, artifacts) as opened:
        yield opened


@pytest.fixture
def home(sqlite_url: str, artifacts: Path) -> Iterator[House]:
    """A house that everybody on this machine may enter."""
    with open_house(sqlite_url, artifacts, local=True) as opened:
        yield opened
