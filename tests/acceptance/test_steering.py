"""Pause, extend, enqueue, invalidate, clone, archive, as somebody types them beside a search that runs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from automl.engine import connect
from tests.acceptance.conftest import MakeDesk
from tests.acceptance.desk import PATIENT, TOY, Desk, ended, wait_until

SERVE = ("worker", "--exit-when-idle")


def counts(desk: Desk, name: str) -> dict[str, int]:
    """Trials by state, without a process of its own."""
    engine = connect(desk.storage or f"sqlite:///{desk.folder}/.automl/automl.db", desk.folder / "artifacts")
    try:
        record = engine.study(name)
        return engine.counts([record])[record.id]
    finally:
        engine.close()


@pytest.fixture
def searching(desk: Desk) -> tuple[Desk, subprocess.Popen[str]]:
    """A search of two workers whose trials wait for the file "go"; two of them run."""
    desk.write("patient.py", PATIENT)
    process = desk.start("-m", "automl", "run", "patient.py", "--workers", "2", "--trials", "5")
    wait_until(lambda: (desk.folder / ".automl/automl.db").exists() and len(desk.trained) == 2)
    return desk, process


def test_a_running_search_pauses_waits_and_goes_on(searching: tuple[Desk, subprocess.Popen[str]]) -> None:
    desk, process = searching
    assert "is paused; `automl resume patient` goes on" in desk.works("pause", "patient")
    assert "paused already" in desk.works("pause", "patient")
    shown = desk.json("show", "patient")
    assert (shown["state"], shown["paused"]) == ("open", True)
    (desk.folder / "go").touch()
    wait_until(lambda: counts(desk, "patient")["complete"] == 2)
    assert "study patient: paused" in desk.works("show", "patient")  # time enough to start another trial
    assert counts(desk, "patient")["running"] == 0 and desk.trained == [0, 1]
    assert process.poll() is None
    assert "goes on" in desk.works("resume", "patient")
    done = ended(process)
    assert done.status == 0, done.err
    assert "paused (`automl resume patient` goes on)" in done.out.splitlines()
    assert desk.trained == [0, 1, 2, 3, 4]
    assert desk.json("show", "patient")["trials"]["complete"] == 5


def test_a_running_search_takes_over_a_budget_that_was_extended(
    searching: tuple[Desk, subprocess.Popen[str]],
) -> None:
    desk, process = searching
    assert "its budget is 7 trials in all" in desk.works("extend", "patient", "--trials", "7")
    (desk.folder / "go").touch()
    done = ended(process)
    assert done.status == 0, done.err
    assert "7/7 trials" in done.out
    assert desk.trained == list(range(7))


def test_workers_take_up_what_is_extended_enqueued_and_cloned(make_desk: MakeDesk) -> None:
    desk = make_desk("steered")
    desk.write("toy.py", TOY)
    desk.works("submit", "toy.py", "--trials", "2")
    desk.works(*SERVE)
    assert desk.json("show", "toy")["state"] == "finished"

    assert "toy is open" in desk.works("extend", "toy", "--trials", "3")
    desk.works(*SERVE)
    assert "trial 3 of toy is queued" in desk.works("enqueue", "toy", "x=0.3", "n=4", "kind==1+1", "--extend")
    desk.works(*SERVE)
    assert desk.json("show", "toy", "--trial", "3")["params"] == {"x": 0.3, "n": 4, "kind": "=1+1"}
    assert desk.json("show", "toy")["budget"]["trials"] == 4

    assert "study again is queued" in desk.works("clone", "toy", "again", "--trials", "2", "--seed", "5")
    assert "again: finished" in desk.works(*SERVE)
    cloned = desk.json("show", "again")
    assert (cloned["state"], cloned["trials"]["complete"]) == ("finished", 2)
    assert desk.trained == [0, 0, 1, 1, 2, 3]
    assert "bad" not in [finding["level"] for finding in desk.json("doctor", "--study", "toy")]


def test_a_bogus_best_is_taken_out_everywhere_and_comes_back(make_desk: MakeDesk) -> None:
    desk = make_desk("bogus")
    desk.write("toy.py", TOY)
    desk.works("run", "toy.py", "--trials", "4")
    before: Any = desk.json("show", "toy")["best"]
    number = str(before["number"])
    assert "counts for nothing" in desk.works("invalidate", "toy", "--trial", number, "--reason", "<b>bogus</b>")
    assert desk.json("show", "toy")["best"]["number"] != before["number"]
    assert desk.json("ls")[0]["best"]["number"] != before["number"]
    assert desk.json("show", "toy", "--trial", number)["invalid"] == "<b>bogus</b>"
    assert "invalid, it counts for nothing: <b>bogus</b>" in desk.works("show", "toy", "--trial", number)
    assert f"trial {number} is invalid" in desk.works("show", "toy")
    assert len(desk.works("export", "toy", "--csv", "-").splitlines()) == 1 + 3
    assert "counts again" in desk.works("invalidate", "toy", "--trial", number, "--restore")
    assert desk.json("show", "toy")["best"] == before
    assert desk.json("show", "toy", "--trial", number)["invalid"] is None


def test_an_archived_study_is_listed_only_when_asked_for(desk: Desk, tmp_path: Path) -> None:
    desk.write("toy.py", TOY)
    desk.works("submit", "toy.py")
    assert "automl ls --archived" in desk.works("archive", "toy")
    assert desk.json("ls") == []
    assert [study["name"] for study in json.loads(desk.works("ls", "--archived", "--json"))] == ["toy"]
    desk.works("archive", "toy", "--undo")
    assert [study["name"] for study in desk.json("ls")] == ["toy"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pause", "nobody"], "study 'nobody' is not in"),
        (["extend", "toy"], "budget: what is new in it?"),
        (["enqueue", "toy", "x"], "'x' gives no parameter a value; write NAME=VALUE"),
        (["enqueue", "toy", "x=0.1", "x=0.2"], "params['x']: it is given twice"),
        (["enqueue", "toy", "x=much"], "params['x']: 'much' is no number"),
        (["enqueue", "toy", "n=1.5"], "params['n']: '1.5' is no whole number"),
        (["enqueue", "toy", "kind=fancy"], "say one of =1+1, plain"),
        (["enqueue", "toy", "x=7"], "params['x']: 7.0 is outside Float(0.0, 1.0)"),
        (["enqueue", "toy", "zoo=7"], "params['zoo']: there is no such parameter"),
        (["invalidate", "toy", "--trial", "0"], "reason: why is it invalid?"),
        (["invalidate", "toy", "--trial", "0", "--reason", "x"], "study 'toy' has no trial 0"),
        (["invalidate", "toy", "--trial", "0", "--reason", "x", "--restore"], "--reason: a restored trial needs none"),
        (["clone", "toy", "toy"], "there is a study 'toy' already"),
    ],
)
def test_a_mistake_is_one_clear_line(submitted: Desk, words: list[str], said: str) -> None:
    done = submitted.automl(*words)
    assert done.status == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """A desk with a queued study of which nothing has run."""
    desk = Desk(tmp_path_factory.mktemp("mistakes"))
    desk.write("toy.py", TOY)
    desk.works("submit", "toy.py")
    return desk
