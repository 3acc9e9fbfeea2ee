"""`ls`, `show`, `stop`: what is there, for people and for programs."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import MakeDesk
from tests.acceptance.desk import PATIENT, TOY, Desk, ended, wait_until

STATES = ("waiting", "running", "paused", "complete", "pruned", "failed", "cancelled")


@pytest.fixture(scope="module")
def toy(make_desk: MakeDesk) -> Desk:
    """A desk with a finished study of four trials."""
    desk = make_desk("looking")
    desk.write("toy.py", TOY)
    desk.works("run", "toy.py", "--trials", "4")
    return desk


def test_show_as_json_has_the_promised_shape(toy: Desk) -> None:
    shown = toy.json("show", "toy")
    assert shown.keys() == {
        *("name", "state", "reason", "metrics", "budget", "trials", "best"),
        *("paused", "archived", "tags"),
    }
    assert (shown["name"], shown["state"], shown["reason"]) == ("toy", "finished", None)
    assert shown["metrics"] == {"score": "max"}
    assert shown["budget"] == {"trials": 4, "minutes": None}
    assert shown["trials"] == {"total": 4, **dict.fromkeys(STATES, 0), "complete": 4}
    best = shown["best"]
    assert best.keys() == {"number", "value", "values", "params"}
    assert best["values"] == [best["value"]]
    assert list(best["params"]) == ["x", "n", "kind"]
    assert best["value"] == pytest.approx(-((best["params"]["x"] - 0.3) ** 2))


def test_ls_as_json_is_a_list_of_the_same_without_the_best_parameters(toy: Desk) -> None:
    shown = toy.json("show", "toy")
    del shown["best"]["params"]
    assert toy.json("ls") == [shown]


def test_ls_has_a_line_for_each_study(toy: Desk) -> None:
    head, line = toy.works("ls").splitlines()
    assert head.split() == ["STUDY", "STATE", "DONE", "RUNNING", "FAILED", "BEST"]
    assert line.split()[:5] == ["toy", "finished", "4/4", "0", "0"]


def test_ls_of_an_empty_database_says_how_to_begin(desk: Desk) -> None:
    assert "automl run FILE" in desk.works("ls")
    assert desk.json("ls") == []


def test_show_names_the_space_the_code_and_the_best_trials(toy: Desk) -> None:
    said = toy.works("show", "toy")
    assert "4 of 4 done" in said
    assert f"{toy.folder}/toy.py:toy" in said
    assert "n: Int(1, 8, log=True)" in said
    assert len([line for line in said.splitlines() if "x=" in line]) == 4


def test_show_of_a_trial_tells_its_parameters_results_and_history(toy: Desk) -> None:
    said = toy.works("show", "toy", "--trial", "2")
    assert "trial 2 of toy: complete" in said
    assert "claimed by" in said
    shown = toy.json("show", "toy", "--trial", "2")
    assert shown["number"] == 2
    assert shown["params"].keys() == {"x", "n", "kind"}
    assert shown["values"] == [pytest.approx(-((shown["params"]["x"] - 0.3) ** 2))]
    assert shown["reports"] == [{"step": 1, "value": shown["values"][0], "loss": shown["params"]["x"]}]
    assert [move["state"] for move in shown["history"]][-2:] == ["running", "complete"]


def test_show_log_is_what_the_trial_printed(toy: Desk) -> None:
    assert toy.works("show", "toy", "--trial", "2", "--log") == "hello from trial 2\n"


def test_show_why_tells_the_reason_of_a_suggestion(toy: Desk) -> None:
    assert "why trial 3 of toy:" in toy.works("show", "toy", "--trial", "3", "--why")
    shown = toy.json("show", "toy", "--trial", "3", "--why")
    assert shown.keys() == {"number", "state", "values", "why"}
    assert isinstance(shown["why"]["arm"], str)


CONSTRAINED = TOY.replace("    return score\n", '    return {"score": score, "size": trial.params["n"]}\n').replace(
    "metrics=", 'sampler="random", constraints={"size": {"max": 1}}, metrics='
)


def test_a_trial_that_violates_a_constraint_is_not_the_best_and_is_marked(desk: Desk) -> None:
    desk.write("toy.py", CONSTRAINED)
    assert "violates size" in desk.works("run", "toy.py", "--trials", "12")
    best = desk.json("show", "toy")["best"]
    assert best["params"]["n"] == 1 and best["violated"] == []
    said = desk.works("show", "toy").partition("best:")[2].splitlines()
    marked = ["violates size" in line for line in said if "x=" in line]
    assert any(marked) and marked == sorted(marked), "those that violate come last"


def test_a_trial_that_does_not_report_what_a_constraint_needs_fails_and_says_so(desk: Desk) -> None:
    desk.write("toy.py", TOY.replace("metrics=", 'constraints={"size": {"max": 3}}, metrics='))
    done = desk.automl("run", "toy.py")
    assert done.status == 1
    assert "constraints['size']: the trial reported no such metric; report it" in done.err
    assert desk.trained == [0, 1, 2]


def test_stop_cancels_what_runs_and_a_run_opens_the_study_again(make_desk: MakeDesk) -> None:
    desk = make_desk("stopped")
    desk.write("patient.py", PATIENT)
    running = desk.start("-m", "automl", "run", "patient.py", "--workers", "2", "--trials", "3")
    wait_until(lambda: len(desk.trained) == 2)
    assert "is stopped" in desk.works("stop", "patient")
    done = ended(running)
    assert done.status == 0, done.err
    assert "stopped" in done.out
    shown = desk.json("show", "patient")
    assert shown["state"] == "stopped"
    assert shown["trials"]["running"] == shown["trials"]["waiting"] == 0
    assert shown["trials"]["cancelled"] == shown["trials"]["total"] >= 2
    assert shown["best"] is None
    assert "over already" in desk.works("stop", "patient")

    desk.write("go", "")
    assert "3/3" in desk.works("run", "patient.py", "--trials", "3")
    reopened = desk.json("show", "patient")
    assert reopened["state"] == "finished"
    assert reopened["trials"]["complete"] == 3
    assert reopened["trials"]["total"] == 3 + shown["trials"]["cancelled"]
