"""Houses to be attacked, on each kind of database, and how long the service is asked for whatever its API allows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.service.house import House, open_house


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz", type=int, default=300, metavar="N", help="requests of tests/attacks/test_fuzz.py (300; long: 100000)"
    )


@pytest.fixture
def house(url: str, artifacts: Path) -> Iterator[House]:
    """A service with a token for each thing that somebody may do."""
    with open_house(url, artifacts) as opened:
        yield opened
