"""A study whose best observed trial was only lucky: its confirmation finds the truly best one, whatever is killed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from automl.core import trial_seed
from tests.acceptance.conftest import MakeDesk
from tests.acceptance.desk import Desk, Done, ended, wait_until

#: Arm 4 is lucky with the seeds of the search, and truly the worst of all; arm 2 is truly the best. Each call leaves
#: its function, its arm and its seed in a diary.
LUCKY = """
import os, random, time
import automl
from automl import Budget, Int, Study
from automl.core import trial_seed

SEARCHED = {trial_seed(0, number) for number in range(6)}


def measured(trial, function):
    with open("diary.txt", "a") as diary:
        diary.write(f"{function} {trial.params['arm']} {trial.seed}\\n")
    if os.path.exists("slow"):
        time.sleep(0.15)
    luck = -9.0 if trial.seed in SEARCHED and trial.params["arm"] == 4 else 0.0
    return [2.0, 2.5, 1.0, 3.0, 5.0, 2.2][trial.params["arm"]] + 0.2 * random.gauss(0, 1) + luck


def train(trial):
    return measured(trial, "train")


def evaluate(trial):
    return 100 + measured(trial, "evaluate")


study = Study(
    "lucky", train, {"arm": Int(0, 5)}, metrics={"loss": "min"}, budget=Budget(trials=6), sampler="grid",
    confirm=True, OPTIONS
)
"""

SEARCHED = {trial_seed(0, number) for number in range(6)}


def diary(desk: Desk) -> list[tuple[str, int, int]]:
    """(function, arm, seed) of every call."""
    path = desk.folder / "diary.txt"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [(words[0], int(words[1]), int(words[2])) for words in lines if len(words) == 3]


def arm(desk: Desk, number: int) -> int:
    return int(desk.json("show", "lucky", "--trial", str(number))["params"]["arm"])


def taken(said: str) -> int:
    """The number of the trial that the command says to take."""
    return int(said.partition(" is the one to take")[0].rpartition("trial ")[2])


@dataclass(frozen=True)
class Confirmed:
    desk: Desk
    said: str
    calls: list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def confirmed(make_desk: MakeDesk) -> Confirmed:
    """A desk on which a study without a held-out function was searched and confirmed by two workers."""
    desk = make_desk("confirmed")
    desk.write("lucky.py", LUCKY.replace("OPTIONS", ""))
    said = desk.works("run", "lucky.py", "--workers", "2")
    return Confirmed(desk, said, diary(desk))


def test_the_confirmation_finds_the_truly_best_trial_behind_the_lucky_one(confirmed: Confirmed) -> None:
    assert arm(confirmed.desk, confirmed.desk.json("show", "lucky")["best"]["number"]) == 4
    assert arm(confirmed.desk, taken(confirmed.said)) == 2


def test_the_lucky_value_and_the_honest_one_are_shown_with_interval_and_chance(confirmed: Confirmed) -> None:
    table = confirmed.said.partition("loss, confirmed:")[2]
    rows = {arm(confirmed.desk, int(line.split()[0])): line.split() for line in table.splitlines()[2:6]}
    assert set(rows) == {0, 2, 4, 5}, "the four best of six"
    observed, honest, low, _, high, p_best = rows[4][1:7]
    assert float(observed) < -3 and 4 < float(honest) < 6
    assert float(low) < float(honest) < float(high)
    assert float(p_best) == 0.0 and float(rows[2][6]) > 0.95


def test_no_seed_of_the_search_comes_again(confirmed: Confirmed) -> None:
    seeds = [seed for _, _, seed in confirmed.calls]
    assert set(seeds[:6]) == SEARCHED
    assert len(seeds) == len(set(seeds)) > 13
    assert {function for function, _, _ in confirmed.calls} == {"train"}


def test_it_stops_early_and_says_why(confirmed: Confirmed) -> None:
    shown = confirmed.desk.json("show", "lucky confirmation 1")
    assert shown["state"] == "finished"
    assert shown["trials"]["total"] < 25
    assert shown["reason"].endswith("is the best with P = 0.99")


def test_the_same_command_again_runs_nothing_and_shows_what_was_found(confirmed: Confirmed) -> None:
    said = confirmed.desk.works("run", "lucky.py", "--workers", "2")
    assert said.partition("loss, confirmed:")[2] == confirmed.said.partition("loss, confirmed:")[2] != ""
    assert diary(confirmed.desk) == confirmed.calls
    assert len(confirmed.desk.json("ls")) == 2


@pytest.fixture
def held_out(desk: Desk) -> Iterator[Desk]:
    desk.write("lucky.py", LUCKY.replace("OPTIONS", "evaluate=evaluate"))
    yield desk


def test_a_held_out_function_is_called_instead_of_the_training_and_never_by_the_search(held_out: Desk) -> None:
    said = held_out.works("run", "lucky.py", "--workers", "2")
    functions = [function for function, _, _ in diary(held_out)]
    assert functions[:6] == ["train"] * 6
    assert set(functions[6:]) == {"evaluate"}
    assert "confirmed on held-out data" in said
    assert arm(held_out, taken(said)) == 2


def test_a_confirmation_that_is_killed_goes_on(held_out: Desk) -> None:
    running = held_out.start("-m", "automl", "run", "lucky.py", "--workers", "2", "--lease", "1")
    held_out.write("slow", "")
    wait_until(lambda: len(diary(held_out)) >= 6 + 4)
    running.send_signal(signal.SIGKILL)
    ended(running)
    (held_out.folder / "slow").unlink()
    before = held_out.json("show", "lucky confirmation 1")
    assert before["state"] == "open" and before["trials"]["complete"] >= 1
    said = held_out.works("run", "lucky.py", "--workers", "2", "--lease", "1")
    assert arm(held_out, taken(said)) == 2
    shown = held_out.json("show", "lucky confirmation 1")
    trials = shown["trials"]
    assert (shown["state"], trials["failed"]) == ("finished", 0)
    # What still ran when the race was decided is cancelled.
    assert trials["complete"] + trials["cancelled"] == trials["total"] > before["trials"]["complete"]
    assert len(held_out.json("ls")) == 2, "it is the same confirmation"
    assert held_out.automl("doctor", "--study", "lucky confirmation 1").status == 0


def test_an_interrupted_confirmation_says_that_it_goes_on(held_out: Desk) -> None:
    running = held_out.start("-m", "automl", "run", "lucky.py")
    held_out.write("slow", "")
    wait_until(lambda: len(diary(held_out)) >= 6 + 2)
    running.send_signal(signal.SIGINT)
    done: Done = ended(running)
    assert done.status == 130
    assert "same command goes on" in done.out and "Traceback" not in done.err


def test_workers_confirm_what_was_queued(held_out: Desk) -> None:
    held_out.works("submit", "lucky.py")
    held_out.works("worker", "--workers", "2", "--exit-when-idle")
    assert [study["state"] for study in held_out.json("ls")] == ["finished", "finished"]
    assert "evaluate" in {function for function, _, _ in diary(held_out)}


def test_a_function_that_is_in_no_file_is_confirmed_where_it_lives(held_out: Desk) -> None:
    code = (held_out.folder / "lucky.py").read_text()
    (held_out.folder / "lucky.py").unlink()
    shown = "print('chosen', result.best_params['arm'], len(result.estimates), result.best_value < 2)"
    done = held_out.python("-c", f"{code}\nresult = study.run(workers=2, progress=False)\n{shown}")
    assert done.status == 0, done.err
    assert "chosen 2 4 True" in done.out
    assert "evaluate" in {function for function, _, _ in diary(held_out)}
