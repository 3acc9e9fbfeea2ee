"""Studies out and in: CSV, Optuna databases."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import optuna
import pytest

from automl.storage import OptunaStorage
from tests.acceptance.conftest import MakeDesk
from tests.acceptance.desk import TOY, Desk


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.fixture(scope="module")
def toy(make_desk: MakeDesk) -> Desk:
    """A desk with a finished study of six trials, the last of which failed."""
    desk = make_desk("export")
    fails = "    if trial.number == 5:\n        raise ValueError('=cmd()')\n    return score\n"
    desk.write("toy.py", TOY.replace("    return score\n", fails))
    desk.works("run", "toy.py")
    return desk


def trials_of(desk: Desk) -> list[optuna.trial.FrozenTrial]:
    storage = OptunaStorage(desk.storage or f"sqlite:///{desk.folder}/.automl/automl.db")
    try:
        return optuna.load_study(study_name="toy", storage=storage).trials
    finally:
        storage.remove_session()


def facts(trials: list[optuna.trial.FrozenTrial]) -> list[tuple[object, ...]]:
    return [(t.number, t.state, t.values, t.params, t.distributions, t.intermediate_values) for t in trials]


def test_csv_parses_back_to_the_same_numbers(toy: Desk) -> None:
    assert "6 trials" in toy.works("export", "toy", "--csv", "toy.csv")
    with (toy.folder / "toy.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["number"]) for row in rows] == list(range(6))
    assert [row["state"] for row in rows] == ["complete"] * 5 + ["failed"]
    for row, trial in zip(rows[:5], trials_of(toy), strict=False):
        assert float(row["score"]) == trial.value
        assert float(row["params.x"]) == trial.params["x"]
        assert int(row["params.n"]) == trial.params["n"]
        assert row["params.kind"].removeprefix("'") == trial.params["kind"]
    assert rows[5]["score"] == ""
    assert rows[5]["failure"] == "ValueError: =cmd()"


def test_no_text_in_a_csv_is_a_formula(toy: Desk) -> None:
    rows = list(csv.reader(toy.works("export", "toy", "--csv", "-").splitlines()))
    cells = [cell for row in rows for cell in row]
    assert "'=1+1" in cells
    assert not any(cell.startswith(("=", "+", "@")) for cell in cells)


def test_an_exported_study_is_the_same_to_optuna(toy: Desk) -> None:
    assert "6 trials of toy" in toy.works("export", "toy", "--optuna", "sqlite:///exported.db")
    storage = optuna.storages.RDBStorage(f"sqlite:///{toy.folder}/exported.db")
    study = optuna.load_study(study_name="toy", storage=storage)
    assert facts(study.trials) == facts(trials_of(toy))
    assert study.best_value == toy.json("show", "toy")["best"]["value"]
    storage.engine.dispose()

    again = toy.automl("export", "toy", "--optuna", "sqlite:///exported.db")
    assert again.status == 2
    assert "has one of that name already" in again.err


def test_an_exported_study_comes_back_whole(toy: Desk, make_desk: MakeDesk) -> None:
    toy.works("export", "toy", "--optuna", "sqlite:///there.db")
    other = make_desk("imported")
    there = f"sqlite:///{toy.folder}/there.db"
    assert "6 trials" in other.works("import", "--optuna", there, "--study", "toy")
    assert facts(trials_of(other)) == facts(trials_of(toy))
    shown, was = other.json("show", "toy"), toy.json("show", "toy")
    assert shown["trials"] == was["trials"]
    assert {k: shown["best"][k] for k in ("number", "value", "values")} == {
        k: was["best"][k] for k in ("number", "value", "values")
    }

    again = other.automl("import", "--optuna", there, "--study", "toy")
    assert again.status == 2
    assert "has one of that name already" in again.err


def test_a_study_of_plain_optuna_is_imported(desk: Desk) -> None:
    url = f"sqlite:///{desk.folder}/mine.db"
    storage = optuna.storages.RDBStorage(url)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(study_name="mine", storage=storage, directions=["minimize", "maximize"])
    study.optimize(lambda t: (t.suggest_float("x", 0, 1), t.suggest_int("n", 1, 3)), n_trials=4)
    storage.engine.dispose()
    desk.works("import", "--optuna", url, "--study", "mine")
    shown = desk.json("show", "mine")
    assert shown["trials"]["complete"] == 4
    assert list(shown["metrics"].values()) == ["min", "max"]
    assert "mine" in desk.works("ls")
    assert "value_1" in desk.works("show", "mine").lower()
    refused = desk.automl("import", "--optuna", url, "--study", "other")
    assert refused.status == 2
    assert "none of that name" in refused.err


def test_an_imported_study_is_not_taken_for_one_that_can_be_run(desk: Desk, tmp_path: Path) -> None:
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/o.db")
    optuna.create_study(study_name="toy", storage=storage)
    storage.engine.dispose()
    desk.works("import", "--optuna", f"sqlite:///{tmp_path}/o.db", "--study", "toy")
    desk.write("toy.py", TOY)
    refused = desk.automl("run", "toy.py")
    assert refused.status == 2
    assert "made by an Optuna program" in refused.err
