"""Batches as somebody types them: several files, or one in TOML; one after the other; a report at the end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.acceptance.desk import TOY, Desk

SERVE = ("worker", "--exit-when-idle")


def write(desk: Desk, *names: str, trials: int = 3) -> None:
    for name in names:
        desk.write(f"{name}.py", TOY.replace('"toy"', f'"{name}"').replace("trials=6", f"trials={trials}"))


def test_a_batch_of_files_runs_in_its_order_within_its_budget_and_has_a_report(desk: Desk) -> None:
    write(desk, "b", "a", "c")
    said = desk.works("submit", "b.py", "a.py", "c.py", "--batch", "night", "--priority", "5", "--batch-trials", "5")
    assert "batch night is queued: b, a, c" in said
    assert desk.json("batch", "ls")[0]["studies"] == ["b", "a", "c"]
    done = desk.works(*SERVE)
    order = re.findall(r"study (\w): taken up", done)
    assert order[:2] == ["b", "a"]
    shown = desk.json("batch", "show", "night")
    assert (shown["made"], shown["max_trials"], shown["priority"]) == (5, 5, 5)
    assert shown["finished_at"] is not None and shown["spent"]["trials"] == 5
    states = {name: desk.json("show", name) for name in "bac"}
    assert [states[name]["trials"]["complete"] for name in "bac"] == [3, 2, 0]
    assert states["a"]["state"] == states["c"]["state"] == "stopped"
    assert states["c"]["reason"] == "the batch's budget is used"
    assert "trials: 5 of 5" in desk.works("batch", "show", "night")
    printed = desk.works("batch", "report", "night", "--output", "night.html", "--png", "plots").splitlines()
    assert printed == ["night.html", "plots/1-b.png", "plots/2-a.png"]
    page = (desk.folder / "night.html").read_text()
    assert 'id="study-2"' in page and "No trial has a result" in page
    assert "<script" not in page and "//" not in page
    assert set(re.findall("(?:src|href|url)[=(].{3}", page)) == {'href="#s'}  # places in itself
    for plot in printed[1:]:
        assert (desk.folder / plot).read_bytes().startswith(b"\x89PNG")
    assert "was over already" in desk.works("batch", "stop", "night")


def test_a_batch_in_toml_names_its_studies_and_their_budgets(desk: Desk) -> None:
    write(desk, "a")
    (desk.folder / "jobs").mkdir()
    desk.write(
        "jobs/night.toml",
        """
        priority = 2
        [budget]
        hours = 8
        [[study]]
        file = "../a.py"
        name = "first"
        trials = 2
        [[study]]
        file = "../a.py:a"
        name = "second"
        minutes = 30
        """,
    )
    said = desk.works("submit", "jobs/night.toml")
    assert "batch night is queued: first, second" in said and "`automl serve` keeps it within its hours" in said
    shown = desk.json("batch", "show", "night")
    assert (shown["priority"], shown["max_hours"], shown["studies"]) == (2, 8.0, ["first", "second"])
    assert desk.json("show", "first")["budget"]["trials"] == 2
    assert desk.json("show", "second")["budget"]["minutes"] == 30
    desk.works(*SERVE)
    assert desk.json("show", "second")["trials"]["complete"] == 3
    assert desk.json("show", "first")["state"] == "finished"


def test_one_bad_file_and_nothing_is_submitted(desk: Desk) -> None:
    write(desk, "a")
    desk.write("broken.py", "import automl\n\nraise RuntimeError('no data here')\n")
    done = desk.automl("submit", "a.py", "broken.py", "--batch", "night")
    assert done.status == 2 and "broken.py" in done.err and "no data here" in done.err
    done = desk.automl("submit", "a.py", "missing.py", "--batch", "night")
    assert done.status == 2 and "missing.py" in done.err
    assert desk.json("ls") == [] and desk.json("batch", "ls") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[study]]\nname = 'x'\n", "study[0].file is missing"),
        ("name = 'x'\n", "it names no study"),
        ("[[study]]\nfile = 'a.py'\ntrials = '3'\n", "study[0].trials is '3', where a whole number is needed"),
        ("[budget]\nminutes = 3\n[[study]]\nfile = 'a.py'\n", "budget.minutes means nothing; there are trials, hours"),
        ("priority = true\n[[study]]\nfile = 'a.py'\n", "priority is True"),
        ("not toml", "night.toml: "),
    ],
)
def test_a_wrong_toml_file_is_told_what_is_wrong_with_it(desk: Desk, text: str, message: str) -> None:
    write(desk, "a")
    desk.write("night.toml", text)
    done = desk.automl("submit", "night.toml")
    assert done.status == 2 and message in done.err
    assert not Path(desk.folder / ".automl" / "automl.db").exists() or desk.json("batch", "ls") == []


def test_several_files_without_a_name_are_no_batch(desk: Desk) -> None:
    write(desk, "a", "b")
    done = desk.automl("submit", "a.py", "b.py")
    assert done.status == 2 and "--batch: several studies" in done.err


def test_who_is_told_is_added_listed_and_removed(desk: Desk) -> None:
    desk.write("secret", "0123456789abcdef0123456789abcdef\n")
    address = "https://93.184.215.14/hook"
    said = desk.works(
        "notify", "add", "team", "--webhook", address, "--on", "failed,new-best", "--secret-file", "secret"
    )
    assert "channel team: webhook, told of failed, new best" in said
    assert "0123456789abcdef" not in said + desk.works("notify", "ls") + desk.works("notify", "ls", "--json")
    assert desk.json("notify", "ls")[0]["signed"] is True
    done = desk.automl("notify", "test", "team", "--wait", "0")
    assert done.status == 1 and "is `automl serve` running?" in done.out
    assert [item["channel"] for item in desk.json("notify", "log")] == ["team"]
    assert "waits" in desk.works("notify", "log")
    desk.works("notify", "rm", "team")
    done = desk.automl("notify", "test", "team")
    assert done.status == 2 and "there is none yet" in done.err
    done = desk.automl("notify", "add", "here", "--slack", "http://127.0.0.1/")
    assert done.status == 2 and "this machine itself" in done.err and "--allow-private" in done.err
    done = desk.automl("notify", "add", "none")
    assert done.status == 2 and "where to? give one of" in done.err
