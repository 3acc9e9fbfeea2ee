"""The user's mistakes: one clear line, exit status 2, nothing trained, no study made."""

from __future__ import annotations

import sqlite3

import pytest

from automl.storage.tables import HEAD
from tests.acceptance.desk import TOY, Desk, Done

HEAD_OF_A_STUDY = """
from automl import Budget, Choice, Float, Int, Resources, Study


def train(trial):
    open("trained.txt", "a").write("0\\n")
    return 1.0


study = Study("wrong", train, """


def study(
    space: str = '{"x": Float(0, 1)}', metrics: str = '{"m": "max"}', rest: str = "budget=Budget(trials=2)"
) -> str:
    return f"{HEAD_OF_A_STUDY}{space}, metrics={metrics}, {rest})\n"


TWO = study() + 'other = Study("other", train, {"x": Float(0, 1)}, metrics={"m": "max"}, budget=Budget(trials=2))\n'
OBJECTIVE = "def objective(trial):\n    return trial.suggest_float('x', 0, 1)\n"

#: What the file holds, what follows `automl run`, what the answer must contain.
WRONG = {
    "a file that is not there": (None, ["nothing.py"], ["nothing.py", "no such file"]),
    "a file without a study": ("x = 1\n", ["study.py"], ["holds no study", "Study("]),
    "a file with several studies": (TWO, ["study.py"], ["holds 2 studies", "study, other", ":NAME"]),
    "a name that is not in the file": (TWO, ["study.py:third"], ["'third'", "study, other"]),
    "a syntax error": ("x = 1\ndef (:\n", ["study.py"], ["study.py, line 2", "SyntaxError"]),
    "an import error": ("import no_such_thing\n", ["study.py"], ["study.py, line 1", "no_such_thing"]),
    "a file that raises": ("x = 1\n1 / 0\n", ["study.py"], ["study.py, line 2", "ZeroDivisionError"]),
    "low above high": (study('{"x": Float(2, 1)}'), ["study.py"], ["low", "2.0 is above high=1.0"]),
    "the log of zero": (study('{"x": Float(0, 1, log=True)}'), ["study.py"], ["low", "no logarithm"]),
    "no choices": (study('{"x": Choice()}'), ["study.py"], ["choices", "none"]),
    "an empty space": (study("{}"), ["study.py"], ["space", "no parameter"]),
    "an unknown parent": (study('{"x": Float(0, 1, when={"y": 1})}'), ["study.py"], ["space['x'].when", "'y'"]),
    "a circle": (
        study('{"x": Choice(0, 1, when={"y": 1}), "y": Choice(0, 1, when={"x": 1})}'),
        ["study.py"],
        ["circle", "x -> y -> x"],
    ),
    "an unknown direction": (study(metrics='{"m": "up"}'), ["study.py"], ["metrics['m']", "'up'", "'min' or 'max'"]),
    "no metric": (study(metrics="{}"), ["study.py"], ["metrics"]),
    "an empty budget": (study(rest="budget=Budget()"), ["study.py"], ["budget", "trials= or minutes="]),
    "no budget": (study(rest=""), ["study.py"], ["study.py, line", "budget"]),
    "an unknown sampler": (
        study(rest='budget=Budget(trials=2), sampler="magic"'),
        ["study.py"],
        ["sampler", "'magic'", "tpe"],
    ),
    "GPUs that were not named": (
        study(rest="budget=Budget(trials=2), resources=Resources(gpus=2)"),
        ["study.py"],
        ["resources.gpus", "2 GPU(s)", "--gpus 0,1"],
    ),
    "fewer GPUs than a trial needs": (
        study(rest="budget=Budget(trials=2), resources=Resources(gpus=2)"),
        ["study.py", "--gpus", "0"],
        ["resources.gpus", "names 1"],
    ),
    "a GPU that is none": (study(), ["study.py", "--gpus", "foo"], ["gpus", "'foo'", "nvidia-smi"]),
    "a GPU named twice": (study(), ["study.py", "--gpus", "0,0"], ["gpus", "twice", "--slots-per-gpu"]),
    "a direction for a Study": (study(), ["study.py", "--direction", "minimize"], ["drop --direction"]),
    "an objective without a direction": (OBJECTIVE, ["study.py", "--trials", "2"], ["--direction minimize or"]),
    "an objective without a number of trials": (OBJECTIVE, ["study.py", "--direction", "minimize"], ["--trials"]),
    "an objective with a wrong direction": (
        OBJECTIVE,
        ["study.py", "--trials", "2", "--direction", "up"],
        ["--direction", "'up'", "minimize"],
    ),
    "a lease that is too short": (study(), ["study.py", "--lease", "0.1"], ["--lease", "0.5", "automl run --help"]),
    "a lease that is no number": (study(), ["study.py", "--lease", "long"], ["--lease", "number"]),
    "no workers": (study(), ["study.py", "--workers", "0"], ["--workers"]),
    "an unknown option": (study(), ["study.py", "--nonsense"], ["--nonsense", "automl run --help"]),
    "no file": (None, [], ["FILE", "automl run --help"]),
    "a storage that is no URL": (study(), ["study.py", "--storage", "foo"], ["storage", "'foo'", "postgresql://"]),
    "an unknown kind of database": (study(), ["study.py", "--storage", "mysql://h/d"], ["storage", "mysql", "sqlite"]),
    "a database in memory": (
        study(),
        ["study.py", "--storage", "sqlite:///:memory:"],
        ["storage", "in-memory", "file"],
    ),
    "a server that does not answer": (
        study(),
        ["study.py", "--storage", "postgresql://me:secret@127.0.0.1:1/automl"],
        ["storage", "refused", "--storage"],
    ),
    "a folder that cannot be made": (
        study(),
        ["study.py", "--storage", "sqlite:////dev/null/a.db"],
        ["storage", "/dev/null"],
    ),
}


def refused(done: Done, *parts: str) -> None:
    """Assert that the answer is one line on standard error, with these parts, and exit status 2."""
    assert done.status == 2, done
    assert done.err.startswith("automl: "), done
    assert done.err.count("\n") == 1, done
    assert "secret" not in done.err
    for part in parts:
        assert part in done.err, done


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_gets_one_clear_line_and_trains_nothing(desk: Desk, mistake: str) -> None:
    file, words, parts = WRONG[mistake]
    if file is not None:
        desk.write("study.py", file)
    refused(desk.automl("run", *words), *parts)
    assert desk.trained == []
    assert studies_in(desk) == []


def studies_in(desk: Desk) -> list[str]:
    """The names in the embedded database, read by other means than ours."""
    path = desk.folder / ".automl" / "automl.db"
    if not path.exists():
        return []
    connection = sqlite3.connect(path)
    try:
        return [name for (name,) in connection.execute("SELECT name FROM study")]
    finally:
        connection.close()


def test_a_file_that_is_not_there_leaves_no_trace(desk: Desk) -> None:
    refused(desk.automl("submit", "nothing.py"), "no such file")
    assert list(desk.folder.iterdir()) == []


def test_an_artifact_folder_that_cannot_be_written_is_noticed_before_anything_is_trained(desk: Desk) -> None:
    desk.write("toy.py", TOY)
    for command in ("run", "submit"):
        done = desk.automl(command, "toy.py", AUTOML_ARTIFACTS="/dev/null/artifacts")
        refused(done, "/dev/null/artifacts", "AUTOML_ARTIFACTS")
    refused(desk.automl("worker", AUTOML_ARTIFACTS="/dev/null/artifacts"), "AUTOML_ARTIFACTS")
    assert studies_in(desk) == []


def test_a_database_of_a_newer_version_is_left_alone(desk: Desk) -> None:
    desk.write("toy.py", TOY)
    desk.works("ls")
    path = desk.folder / ".automl" / "automl.db"
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    for command in (["run", "toy.py"], ["ls"], ["worker"]):
        refused(desk.automl(*command), "'9999'", "newer automl", "upgrade")
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    connection.close()
    assert HEAD != "9999"


def test_a_name_that_is_taken_says_what_differs_and_extend_accepts_a_wider_space_only(desk: Desk) -> None:
    desk.write("toy.py", TOY)
    desk.works("run", "toy.py", "--trials", "2")
    desk.write("toy.py", TOY.replace("Float(0.0, 1.0)", "Float(0.0, 0.5)"))
    refused(desk.automl("run", "toy.py", "--extend"), "'toy'", "Float(0.0, 1.0)", "Float(0.0, 0.5)", "another name")
    desk.write("toy.py", TOY.replace("Float(0.0, 1.0)", "Float(0.0, 2.0)"))
    refused(desk.automl("run", "toy.py"), "'toy'", "Float(0.0, 2.0)", "--extend")
    assert desk.trained == [0, 1]
    desk.works("run", "toy.py", "--trials", "3", "--extend")
    assert desk.trained == [0, 1, 2]
    assert "x: Float(0.0, 2.0)" in desk.works("show", "toy")


def test_unknown_studies_and_trials_are_named_with_what_there_is(desk: Desk) -> None:
    desk.write("toy.py", TOY)
    desk.works("run", "toy.py", "--trials", "1")
    for command in (["show"], ["stop"], ["export", "--csv", "-"]):
        refused(desk.automl(command[0], "tyo", *command[1:]), "'tyo'", "there are toy")
    refused(desk.automl("show", "toy", "--trial", "5"), "'toy'", "no trial 5")
    refused(desk.automl("show", "toy", "--log"), "--log", "--trial N")
    refused(desk.automl("show", "toy", "--why"), "--why", "--trial N")
    refused(desk.automl("export", "toy"), "--csv FILE")
    refused(desk.automl("export", "toy", "--csv", "/dev/null/x.csv"), "--csv", "/dev/null/x.csv")
    refused(desk.automl("export", "toy", "--model", "best"), "no files", "save_model")
    refused(desk.automl("export", "toy", "--optuna", "nonsense"), "--optuna", "sqlite:///")
    refused(desk.automl("import", "--optuna", "sqlite:///absent.db", "--study", "x"), "--optuna", "absent.db")
    refused(desk.automl("nonsense"), "'nonsense'", "automl --help")
    assert not (desk.folder / "absent.db").exists()
