"""`automl schedule`: what a user types and sees, and a search that a scheduler starts and a worker runs."""

from __future__ import annotations

import pytest

from automl.engine import connect
from automl.service.duties.scheduler import Scheduler
from automl.service.duties.verdicts import Judge
from tests.acceptance.desk import TOY, Desk

#: The same, and another `automl.Study` that puts itself on a schedule.
PYTHON = (
    TOY
    + """

if __name__ == "__main__":
    print(study.schedule("0 2 * * *", "Europe/Paris", promote="champion"))
"""
)


@pytest.fixture
def toy(desk: Desk) -> Desk:
    desk.write("toy.py", TOY)
    return desk


def test_a_schedule_is_added_told_changed_and_removed(toy: Desk) -> None:
    assert toy.works("schedule", "ls").startswith("no schedules yet")
    said = toy.works("schedule", "add", "toy.py", "--cron", "0 2 * * *", "--timezone", "Europe/Paris")
    assert "schedule toy: At 02:00 every day, Europe/Paris" in said
    assert said.count(" 02:00 C") == 3  # in CET or CEST
    assert "automl serve" in said
    assert "02:00" in toy.works("schedule", "ls")
    (shown,) = toy.json("schedule", "ls")
    assert (shown["name"], shown["cron"], shown["catch_up"], shown["last"]) == ("toy", "0 2 * * *", "one", None)
    assert len(toy.json("schedule", "next", "toy")) == 10
    assert "is paused" in toy.works("schedule", "pause", "toy")
    assert "is paused" in toy.works("schedule", "next", "toy")
    assert "goes on" in toy.works("schedule", "resume", "toy")
    said = toy.works(
        *("schedule", "add", "toy.py", "--cron", "*/30 * * * *", "--catch-up", "all", "--overlap", "queue"),
        *("--promote-if-better", "--alias", "nightly", "--replace"),
    )
    assert "toy" in said
    (shown,) = toy.json("schedule", "ls")
    assert (shown["cron"], shown["timezone"], shown["promote"]) == ("*/30 * * * *", "UTC", "nightly")
    assert "promoted as nightly" in toy.works("schedule", "show", "toy")
    assert "is removed" in toy.works("schedule", "rm", "toy")
    assert toy.json("schedule", "ls") == []


def test_a_scheduled_search_is_run_judged_and_shown(toy: Desk) -> None:
    toy.works("schedule", "add", "toy.py", "--cron", "* * * * *")
    engine = connect(f"sqlite:///{toy.folder}/.automl/automl.db", toy.folder / ".automl" / "artifacts")
    moment = engine.clock() + 60.0
    Scheduler(engine, lambda: moment).step()
    toy.works("worker", "--exit-when-idle")
    Judge(engine).step()
    engine.close()
    (fired,) = toy.json("schedule", "show", "toy")["firings"]
    assert (fired["state"], fired["verdict"]["better"]) == ("started", True)
    assert len(toy.trained) == 6
    said = toy.works("schedule", "show", "toy")
    assert "proposed: it is the first one" in said
    assert f"automl promote '{fired['study']}' --trial {fired['verdict']['winner']} --model toy" in said
    assert "proposed" in toy.works("schedule", "ls")


def test_python_puts_a_study_on_a_schedule(desk: Desk) -> None:
    desk.write("toy.py", PYTHON)
    done = desk.python("toy.py")
    assert done.status == 0, done.err
    (shown,) = desk.json("schedule", "ls")
    assert (shown["timezone"], shown["promote"], shown["entrypoint"].endswith("toy.py:toy")) == (
        "Europe/Paris",
        "champion",
        True,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "toy.py", "--cron", "99 * * * *"], "the minute is wrong"),
        (["add", "toy.py", "--cron", "* * * * * *"], "six fields"),
        (["add", "toy.py", "--cron", "0 2 * * *", "--timezone", "Europe/Pariss"], "did you mean 'Europe/Paris'?"),
        (["add", "toy.py", "--cron", "0 2 * * *", "--promote-if-better", "--alias", "7"], "is no name of an alias"),
        (["add", "nothing.py", "--cron", "0 2 * * *"], "nothing.py"),
        (["show", "nobody"], "schedule 'nobody' is not here"),
        (["rm", "nobody"], "schedule 'nobody' is not here"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_status_2(toy: Desk, words: list[str], said: str) -> None:
    done = toy.automl("schedule", *words)
    assert (done.status, len(done.err.splitlines())) == (2, 1), done.err
    assert said in done.err
