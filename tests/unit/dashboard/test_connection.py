"""The boards that all visitors share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from automl.engine import Engine, connect
from automl.errors import NotFound
from dashboard.connection import KEPT_BOARDS, _Boards
from tests.unit.searches import complete, spec


@pytest.fixture
def engine(url: str, artifacts: Path) -> Iterator[Engine]:
    opened = connect(url, artifacts)
    yield opened
    opened.close()


def test_a_study_that_has_not_changed_gives_the_very_same_board(engine: Engine) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.5)
    boards = _Boards(engine)
    first = boards.get("toy")
    assert boards.get("toy") is first
    complete(engine, record, 0.75)
    second = boards.get("toy")
    assert second is not first
    assert second.best == 1
    engine.pause("toy")
    assert boards.get("toy").study.paused


def test_a_study_that_was_deleted_is_not_found_and_its_name_starts_anew(engine: Engine) -> None:
    complete(engine, engine.declare(spec()), 0.5)
    boards = _Boards(engine)
    boards.get("toy")
    engine.delete("toy")
    with pytest.raises(NotFound):
        boards.get("toy")
    engine.declare(spec())
    assert len(boards.get("toy")) == 0


def test_only_the_boards_that_were_looked_at_last_are_kept(engine: Engine) -> None:
    boards = _Boards(engine)
    for index in range(KEPT_BOARDS + 3):
        engine.declare(spec(f"study {index}"))
        boards.get(f"study {index}")
    assert list(boards._slots) == [f"study {index}" for index in range(3, KEPT_BOARDS + 3)]
