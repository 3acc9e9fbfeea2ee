"""What a command does not need it does not load: the command line answers at once."""

from __future__ import annotations

import pytest

from tests.acceptance.desk import Desk

LOADED = """
import runpy, sys
sys.argv[0] = "automl"
try:
    runpy.run_module("automl", run_name="__main__")
finally:
    print("loaded:", *sorted(sys.modules), file=sys.stderr)
"""

#: Seconds each, or needed by nobody but a search.
HEAVY = {"torch", "optuna", "skopt", "sklearn", "scipy", "numpy", "pandas", "alembic", "onnx", "streamlit", "plotly"}


@pytest.mark.parametrize(
    ("words", "banned"),
    [
        (["--help"], HEAVY | {"sqlalchemy", "rich"}),
        (["run", "--help"], HEAVY | {"sqlalchemy", "rich"}),
        (["ls"], HEAVY),
        (["ls", "--json"], HEAVY),
    ],
    ids=["help", "help of run", "ls", "ls as json"],
)
def test_a_command_loads_nothing_that_it_does_not_need(desk: Desk, words: list[str], banned: set[str]) -> None:
    if words[0] == "ls":
        desk.works("ls")  # makes the tables, for which Alembic is needed once
    done = desk.python("-c", LOADED, *words)
    assert done.status == 0, done.err
    loaded = set(done.err.partition("loaded:")[2].split())
    assert "automl.cli" in loaded
    assert loaded & banned == set()
