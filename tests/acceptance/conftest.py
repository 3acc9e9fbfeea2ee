"""Desks with each kind of database on them, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.desk import Desk

MakeDesk = Callable[[str], Desk]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def make_desk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeDesk]:
    """Makes empty desks, by the name of their folder: with the embedded database, then with PostgreSQL."""
    urls: list[str] = []
    desks: list[Desk] = []
    server = request.getfixturevalue("postgres") if request.param == "postgresql" else None

    def make(name: str) -> Desk:
        if server is not None:
            urls.append(server.create_database())
        desks.append(Desk(tmp_path_factory.mktemp(name), urls[-1] if server is not None else None))
        return desks[-1]

    yield make
    for desk in desks:
        desk.leave()
    for url in urls:
        server.drop_database(url)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """An empty desk with the embedded database."""
    desk = Desk(tmp_path / "desk")
    yield desk
    desk.leave()
