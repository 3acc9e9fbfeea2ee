"""Fixtures that every test may ask for: databases, directories, a clean environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.postgres import ExternalServer, PostgresServer


def pytest_configure() -> None:
    """One thread for each numeric library, before any is imported: with two, small matrices only get slower."""
    for library in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM", "NUMEXPR"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    # How fast examples are drawn depends on what else the machine does, and says nothing of the code. A gate draws the
    # same ones each time, because it is to say the same of the same tree; new ones are drawn where people work.
    hypothesis.settings.register_profile(
        "unhurried",
        deadline=None,
        derandomize="CI" in os.environ,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AUTOML_") and name != "AUTOML_TEST_POSTGRES":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer | ExternalServer]:
    """The server that the tests share. Nobody stops it: see `own_postgres`."""
    if external := os.environ.get("AUTOML_TEST_POSTGRES"):
        yield ExternalServer(external)
    else:
        with PostgresServer() as server:
            yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server of this test's own (about a second to start), to be stopped and started in mid-study."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path}/automl.db"


@pytest.fixture
def postgres_url(postgres: PostgresServer | ExternalServer) -> Iterator[str]:
    """A fresh, empty PostgreSQL database."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """An empty database of each kind: a test that takes `url` runs once on SQLite and once on PostgreSQL."""
    return request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """An empty directory for checkpoints and models."""
    directory = tmp_path / "artifacts"
    directory.mkdir()
    return directory


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, an empty one."""
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory
