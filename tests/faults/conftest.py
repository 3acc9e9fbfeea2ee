"""How hard the fault tests try."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kill-points", type=int, default=10, help="how often promotions are killed (default: 10)")
    parser.addoption("--ticks", type=int, default=200, help="how often a schedule comes (default: 200)")
