"""How hard the fault tests try."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kill-points", type=int, default=10, help="how often promotions are killed (default: 10)")
