"""`automl run`: to the end, again, further, interrupted."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import pytest

from tests.acceptance.conftest import MakeDesk
from tests.acceptance.desk import PATIENT, TOY, Desk, Done, ended, wait_until


@dataclass(frozen=True)
class Finished:
    desk: Desk
    first: Done


@pytest.fixture(scope="module")
def finished(make_desk: MakeDesk) -> Finished:
    """A desk on which `automl run toy.py --workers 2` has just ended."""
    desk = make_desk("run")
    desk.write("toy.py", TOY)
    return Finished(desk, desk.automl("run", "toy.py", "--workers", "2"))


def test_a_run_uses_its_budget_and_exits_with_0(finished: Finished) -> None:
    assert finished.first.status == 0, finished.first.err
    assert finished.desk.trained[:6] == [0, 1, 2, 3, 4, 5]


def test_where_there_is_no_terminal_each_trial_gets_a_line(finished: Finished) -> None:
    lines = [line for line in finished.first.out.splitlines() if line.startswith("trial ") and "complete" in line]
    assert len(lines) == 6
    assert all("score" in line and "best" in line for line in lines)
    assert [line.split("  ")[-1].startswith("left") or line.endswith("/6") for line in lines] == [True] * 6
    assert lines[-1].endswith("6/6")
    assert "\x1b" not in finished.first.out


def test_a_run_ends_with_a_table_of_the_best_trials_best_first(finished: Finished) -> None:
    table = finished.first.out.partition("parameters")[2].split("Next")[0]
    rows = [line.split() for line in table.splitlines() if "x=" in line]
    assert len(rows) == 5
    scores = [float(row[1]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    best = finished.desk.json("show", "toy")["best"]
    assert int(rows[0][0]) == best["number"]


def test_the_commands_that_a_run_proposes_work(finished: Finished) -> None:
    proposed = [line.split() for line in finished.first.out.partition("Next\n")[2].splitlines() if line.strip()]
    assert proposed[0] == ["automl", "dashboard"]  # it serves until it is told to stop: tests/browser
    assert len(proposed) > 1
    for words in proposed[1:]:
        assert words[0] == "automl"
        finished.desk.works(*words[1:])


def test_where_no_model_was_saved_its_promotion_is_not_proposed(finished: Finished) -> None:
    assert "automl promote" not in finished.first.out


def test_running_a_finished_study_again_says_so_and_trains_nothing(finished: Finished) -> None:
    before = finished.desk.trained
    again = finished.desk.automl("run", "toy.py", "--workers", "2")
    assert again.status == 0
    assert "study toy is finished" in again.out
    assert "--trials" in again.out
    assert finished.desk.trained == before


def test_a_larger_budget_goes_on_with_the_next_numbers(finished: Finished) -> None:
    said = finished.desk.works("run", "toy.py", "--trials", "8")
    assert "8/8" in said
    assert finished.desk.trained == list(range(8))
    shown = finished.desk.json("show", "toy")
    assert shown["trials"]["total"] == shown["trials"]["complete"] == 8
    assert shown["budget"] == {"trials": 8, "minutes": None}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_the_same_command_goes_on_to_exactly_the_budget(
    make_desk: MakeDesk, how: signal.Signals
) -> None:
    desk = make_desk("interrupted")
    desk.write("patient.py", PATIENT)
    running = desk.start("-m", "automl", "run", "patient.py", "--workers", "2")
    wait_until(lambda: desk.trained)
    running.send_signal(how)
    done = ended(running)
    assert done.status == 130
    assert "Interrupted" in done.out
    assert "same command" in done.out
    assert "Traceback" not in done.err

    desk.write("go", "")
    desk.works("run", "patient.py", "--workers", "2")
    trials = desk.json("show", "patient")["trials"]
    assert trials["total"] == trials["complete"] == 6
    assert sorted(set(desk.trained)) == list(range(6))


def test_an_interruption_is_no_failure_of_the_trial(desk: Desk) -> None:
    desk.write("patient.py", PATIENT)
    running = desk.start("-m", "automl", "run", "patient.py", "--trials", "1")
    wait_until(lambda: desk.trained)
    running.send_signal(signal.SIGINT)
    ended(running)
    desk.write("go", "")
    desk.works("run", "patient.py", "--trials", "1")
    shown = desk.json("show", "patient", "--trial", "0")
    assert (shown["state"], shown["attempt"], shown["failure"]) == ("complete", 2, None)
    assert [move["cause"] for move in shown["history"]] == ["suggested", "claimed", "preempted", "claimed", "complete"]
