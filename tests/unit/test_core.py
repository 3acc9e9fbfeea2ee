"""The nouns: states and their moves, failures that are alike, seeds that never change."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl import errors
from automl.core import (
    MOVES,
    Checkpoint,
    Coordinator,
    Failure,
    FailureKind,
    StudyRecord,
    StudyState,
    TrialRecord,
    TrialState,
    derived_seed,
    trial_seed,
)
from automl.engine import Engine

ROOT = Path(__file__).parents[2]


def test_every_state_has_its_moves_and_no_state_moves_to_itself() -> None:
    assert set(MOVES) == set(TrialState)
    assert all(state not in MOVES[state] for state in TrialState)
    with pytest.raises(TypeError):
        MOVES[TrialState.COMPLETE] = frozenset({TrialState.WAITING})  # type: ignore[index]


def test_a_finished_trial_moves_no_more() -> None:
    finished = {state for state in TrialState if state.is_finished}
    assert finished == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED, TrialState.CANCELLED}


def test_every_unfinished_trial_can_be_cancelled_and_only_a_running_one_can_have_a_result() -> None:
    for state in TrialState:
        assert (TrialState.CANCELLED in MOVES[state]) == (not state.is_finished)
        assert (TrialState.COMPLETE in MOVES[state]) == (state is TrialState.RUNNING)


def test_every_state_can_be_reached_from_waiting() -> None:
    reached = {TrialState.WAITING}
    while further := {new for state in reached for new in MOVES[state]} - reached:
        reached |= further
    assert reached == set(TrialState)


def test_seeds_are_pinned_so_that_no_release_changes_what_a_study_does() -> None:
    assert [trial_seed(0, 0), trial_seed(0, 1), trial_seed(1, 0)] == [517630478, 204847383, 2991951122]
    assert derived_seed("a", 1, "b") == 2748948563


@given(st.integers(0, 2**63), st.integers(0, 10**6))
def test_a_seed_fits_into_32_bits(study_seed: int, number: int) -> None:
    assert 0 <= trial_seed(study_seed, number) < 2**32


def test_seeds_of_different_trials_differ() -> None:
    assert len({trial_seed(seed, number) for seed in range(10) for number in range(1000)}) > 9990


def test_seeds_are_the_same_in_another_process() -> None:
    script = "from automl.core import trial_seed; print(trial_seed(7, 3))"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert int(printed) == trial_seed(7, 3)


def test_failures_are_alike_when_their_tracebacks_are_and_by_their_message_without_one() -> None:
    def digest(message: str, traceback: str = "") -> str:
        return Failure(FailureKind.ERROR, message, traceback).digest

    there, elsewhere = '  File "study.py", line 3\nX: 1', '  File "study.py", line 4\nX: 1'
    assert digest("lr=0.1", there) == digest("lr=0.2", there)
    assert digest("boom", there) != digest("boom", elsewhere)
    assert digest("ValueError: a", there) != digest("KeyError: a", there)
    assert digest("boom") == digest("boom") != digest("bang")


def record(**changes: object) -> TrialRecord:
    fields: dict[str, object] = {
        "id": 1,
        "number": 0,
        "state": TrialState.COMPLETE,
        "params": {},
        "values": (0.5, 2.0),
        "metrics": {},
        "attempt": 1,
        "worker": None,
        "failure": None,
        "started_at": 10.0,
        "finished_at": 12.5,
    }
    return TrialRecord(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_value_of_a_trial_is_that_of_its_first_metric() -> None:
    assert record().value == 0.5
    assert record(values=None).value is None


def test_a_trial_that_has_not_ended_has_no_duration() -> None:
    assert record().duration_s == 2.5
    assert record(finished_at=None).duration_s is None


def test_the_metrics_of_a_study_have_names_also_without_a_declaration() -> None:
    def study(spec: dict[str, object] | None, directions: tuple[str, ...]) -> StudyRecord:
        return StudyRecord(1, "s", StudyState.OPEN, None, directions, spec, None, None, False, 0.0, 0.0)

    assert study({"metrics": {"loss": "min", "size": "min"}}, ("minimize",) * 2).metric_names == ("loss", "size")
    assert study(None, ("minimize",) * 2).metric_names == ("value", "value_1")


def test_what_is_kept_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Checkpoint(1, "path", "0").step = 2  # type: ignore[misc]


def test_the_engine_has_every_verb_of_the_coordinator_with_the_same_arguments() -> None:
    verbs = [name for name in vars(Coordinator) if not name.startswith("_")]
    assert set(verbs) >= {"claim", "renew", "report", "checkpoint", "finish", "fail", "release"}
    for name in verbs:
        promised = inspect.signature(getattr(Coordinator, name)).parameters
        assert list(inspect.signature(getattr(Engine, name)).parameters) == list(promised), name


def test_every_error_is_in_the_tree_that_is_drawn_at_the_top_of_its_module() -> None:
    assert errors.__doc__ is not None
    for name, error in inspect.getmembers(errors, inspect.isclass):
        if error.__module__ == errors.__name__:
            assert issubclass(error, errors.AutoMLError), name
            assert name in errors.__doc__, name


def test_a_conflict_tells_how_to_widen_a_study_only_where_that_is_possible() -> None:
    assert "--extend" in str(errors.StudyConflict("s", ["x was a, now b"], extendable=True))
    conflict = errors.StudyConflict("s", ["x was a, now b"], extendable=False)
    assert "--extend" not in str(conflict)
    assert conflict.differences == ["x was a, now b"]


def test_the_guarantees_name_tests_that_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "guarantees.md").read_text()))
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 20
    assert {name for name in named if f"def {name}(" not in sources} == set()


def test_the_documented_moves_are_those_of_the_core() -> None:
    text = (ROOT / "docs" / "state-machines.md").read_text()
    trial_diagram = text.split("```mermaid")[1].split("```")[0]
    drawn = set(re.findall(r"(\w+) --> (\w+)", trial_diagram))
    assert drawn == {(old.value, new.value) for old, moves in MOVES.items() for new in moves}
    study_diagram = text.split("```mermaid")[2].split("```")[0]
    named = {name for move in re.findall(r"(\w+) --> (\w+)", study_diagram) for name in move}
    assert named == {state.value for state in StudyState}
