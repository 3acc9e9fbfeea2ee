"""`study.run()` from Python: in a script, in a notebook."""

from __future__ import annotations

import json
from typing import Any

import nbformat
import pytest

from tests.acceptance.desk import STUDIES, TOY, Desk

SCRIPT = (
    TOY
    + """
if __name__ == "__main__":
    result = study.run(workers=2)
    print("best", result.best_value == result.best_trial.value, sorted(result.best_params), len(result.trials))
    print(list(result.to_dataframe().columns))
"""
)


def test_a_script_runs_its_study_and_has_the_result(desk: Desk) -> None:
    desk.write("toy.py", SCRIPT)
    done = desk.python("toy.py")
    assert done.status == 0, done.err
    assert "6/6" in done.out
    assert "best True ['kind', 'n', 'x'] 6" in done.out
    assert "['number', 'state', 'score'," in done.out
    assert desk.trained == list(range(6))
    assert desk.json("show", "toy")["state"] == "finished"


def test_a_script_and_the_command_line_go_on_with_the_same_study(desk: Desk) -> None:
    desk.write("toy.py", SCRIPT)
    desk.works("run", "toy.py", "--trials", "4")
    assert desk.python("toy.py").status == 0
    assert desk.trained == list(range(6))


def test_a_script_without_the_main_guard_is_told_of_it(desk: Desk) -> None:
    desk.write("toy.py", TOY + "\nstudy.run()\n")
    done = desk.automl("run", "toy.py")
    assert done.status == 2
    assert 'if __name__ == "__main__":' in done.err
    assert desk.trained == []


def test_an_example_runs_as_a_script(desk: Desk) -> None:
    desk.write("few.py", "import optuna_objective\n")
    done = desk.python("-c", f"import sys; sys.path.insert(0, {str(STUDIES)!r}); {IN_CODE}")
    assert done.status == 0, done.err
    assert "'optuna' 2" in done.out


IN_CODE = """
import automl, optuna_objective
study = automl.Study.from_optuna(
    optuna_objective.objective, name="optuna", metrics={"accuracy": "max"}, budget=automl.Budget(trials=2)
)
result = study.run(progress=False)
print(repr(result.study.name), len(result.trials), result.best_value)
"""

CELLS = [
    """
import automl
from automl import Budget, Float, Study

offset = 0.25

def train(trial):
    return (trial.params["<x>"] - offset) ** 2

study = Study("<b>notebook", train, {"<x>": Float(0, 1)}, metrics={"<i>": "min"}, budget=Budget(trials=5))
result = study.run(workers=2)
""",
    "result.best_value, len(result.trials), result.best_params",
    """
def train(trial):
    return undefined_name

Study("broken", train, {"x": Float(0, 1)}, metrics={"m": "min"}, budget=Budget(trials=5)).run()
""",
    "Study('broken', train, {'x': Float(0, 1)}, metrics={'m': 'min'}, budget=Budget(trials=5)).submit()",
]

EXECUTE = "from nbclient.cli import NbClientApp; NbClientApp.launch_instance()"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The cells of a notebook after it was executed, as Jupyter would."""
    desk = Desk(tmp_path_factory.mktemp("notebook"))
    path = desk.folder / "search.ipynb"
    written = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    nbformat.write(written, path)
    done = desk.python("-c", EXECUTE, "--allow-errors", "--inplace", "--timeout=120", path)
    assert done.status == 0, done.err
    return json.loads(path.read_text())["cells"]


def test_a_function_that_lives_in_a_cell_is_trained(notebook: list[Any]) -> None:
    (output,) = notebook[1]["outputs"]
    value, count, params = eval("".join(output["data"]["text/plain"]))
    assert count == 5
    assert value == (params["<x>"] - 0.25) ** 2


def test_a_notebook_shows_one_view_of_the_search_and_users_text_is_no_markup(notebook: list[Any]) -> None:
    (shown,) = [output for output in notebook[0]["outputs"] if output["output_type"] == "display_data"]
    page = "".join(shown["data"]["text/html"])
    assert "5/5 trials" in page
    assert "&lt;b&gt;notebook" in page
    assert "<b>notebook" not in page
    assert "&lt;i&gt;" in page
    assert "<i>" not in page


def test_a_cell_whose_training_raises_says_what_and_where(notebook: list[Any]) -> None:
    errors = [output for output in notebook[2]["outputs"] if output["output_type"] == "error"]
    assert [error["ename"] for error in errors] == ["StudyFailed"]
    assert "name 'undefined_name' is not defined" in errors[0]["evalue"]
    shown = "".join(str(output) for output in notebook[2]["outputs"])
    assert "line 2, in train" in shown


def test_a_function_of_a_notebook_cannot_be_queued_and_the_cure_is_named(notebook: list[Any]) -> None:
    (error,) = [output for output in notebook[3]["outputs"] if output["output_type"] == "error"]
    assert error["ename"] == "InvalidStudy"
    assert "FILE.py" in error["evalue"]
