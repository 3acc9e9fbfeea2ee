"""`submit` and `worker`: queue here, train there."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import MakeDesk
from tests.acceptance.desk import STUDIES, TOY, Desk, ended

SERVE = ("-m", "automl", "worker", "--exit-when-idle")


def test_two_workers_share_a_study_and_make_exactly_its_budget(make_desk: MakeDesk) -> None:
    desk = make_desk("two")
    desk.write("toy.py", TOY)
    assert "automl worker" in desk.works("submit", "toy.py", "--trials", "12")
    assert desk.trained == []
    assert desk.json("show", "toy")["state"] == "open"
    workers = [desk.start(*SERVE) for _ in range(2)]
    for done in [ended(worker) for worker in workers]:
        assert done.status == 0, done.err
    shown = desk.json("show", "toy")
    assert shown["state"] == "finished"
    assert shown["trials"]["total"] == shown["trials"]["complete"] == 12
    assert desk.trained == list(range(12))


def test_a_worker_refuses_a_file_that_was_changed_and_takes_it_when_it_is_submitted_again(
    make_desk: MakeDesk,
) -> None:
    desk = make_desk("changed")
    desk.write("toy.py", TOY)
    desk.works("submit", "toy.py", "--trials", "2")
    desk.write("toy.py", TOY + "\n# a second thought\n")
    said = desk.automl("worker", "--exit-when-idle")
    line = next(line for line in said.out.splitlines() if "passed over" in line)
    assert "toy.py is not the file that was submitted" in line
    assert "submit it again" in line
    assert "Traceback" not in said.err
    assert desk.trained == []

    desk.works("submit", "toy.py", "--trials", "2")
    assert "toy: finished" in desk.works("worker", "--exit-when-idle")
    assert desk.trained == [0, 1]


def test_a_plain_optuna_objective_is_submitted_and_trained(make_desk: MakeDesk) -> None:
    desk = make_desk("objective")
    desk.works("submit", STUDIES / "optuna_objective.py", "--direction", "maximize", "--trials", "3")
    desk.works("worker", "--exit-when-idle")
    shown = desk.json("show", "optuna_objective")
    assert shown["state"] == "finished"
    assert shown["metrics"] == {"value": "max"}
    assert shown["trials"]["total"] == 3
    assert shown["best"]["value"] > 0.5
    assert "classifier" in shown["best"]["params"]


def test_a_worker_with_nothing_to_do_ends_at_once_when_told_to(desk: Desk) -> None:
    assert "worker with 1 slot" in desk.works("worker", "--exit-when-idle")


@pytest.mark.parametrize("options", [["--gpus", "foo"], ["--gpus", "0,0"]])
def test_a_worker_refuses_gpus_that_cannot_be(desk: Desk, options: list[str]) -> None:
    done = desk.automl("worker", *options)
    assert done.status == 2
    assert done.err.startswith("automl: gpus: ")
