"""The example studies run as they are, with a small budget, and their best model can be taken along."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.desk import STUDIES, Desk


@dataclass(frozen=True)
class Digits:
    desk: Desk
    said: str


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    """A desk on which three trials of studies/digits.py have just ended."""
    desk = Desk(tmp_path_factory.mktemp("digits"))
    return Digits(desk, desk.works("run", STUDIES / "digits.py", "--workers", "2", "--trials", "3"))


def test_the_digits_are_read(digits: Digits) -> None:
    shown = digits.desk.json("show", "digits")
    assert shown["trials"]["total"] == 3
    assert shown["best"]["value"] > 0.5
    best = digits.desk.json("show", "digits", "--trial", str(shown["best"]["number"]))
    assert [report["step"] for report in best["reports"]] == list(range(1, 13))
    assert all("loss" in report for report in best["reports"])
    assert ("momentum" in best["params"]) == (best["params"]["optimizer"] == "sgd")


def test_the_paths_that_a_run_prints_are_those_of_the_best_model(digits: Digits) -> None:
    printed = digits.said.partition("Best model\n")[2].partition("\n\n")[0].split()
    assert {Path(path).name for path in printed} >= {"model.json", "model.safetensors", "model.onnx"}
    assert all((digits.desk.folder / path).is_file() for path in printed)


def test_the_model_is_exported_as_it_was_recorded(digits: Digits) -> None:
    assert "automl promote digits --confirm" in digits.said
    printed = digits.desk.works("export", "digits", "--model", "best/").split()
    number = digits.desk.json("show", "digits")["best"]["number"]
    recorded = digits.desk.json("show", "digits", "--trial", str(number))["artifacts"]
    found = {path.name: path.read_bytes() for path in (digits.desk.folder / "best").iterdir()}
    assert {Path(path).name for path in printed} == found.keys()
    assert {name: hashlib.sha256(data).hexdigest() for name, data in found.items()} == {
        file["name"]: file["sha256"] for file in recorded
    }
    assert {name: len(data) for name, data in found.items()} == {file["name"]: file["size"] for file in recorded}


def test_a_damaged_model_is_not_exported(digits: Digits) -> None:
    number = digits.desk.json("show", "digits")["best"]["number"]
    file = digits.desk.json("show", "digits", "--trial", str(number))["artifacts"][0]
    path = Path(file["path"])
    sound = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(sound[:-1] + b"?")
    try:
        done = digits.desk.automl("export", "digits", "--model", "damaged")
        assert done.status == 2
        assert done.err.startswith("automl: ")
        assert "sha256" in done.err
    finally:
        path.write_bytes(sound)


def test_the_families_of_breast_cancer_have_their_own_parameters_only(desk: Desk) -> None:
    desk.works("run", STUDIES / "breast_cancer.py", "--workers", "2", "--trials", "3")
    own = {
        "logistic": {"C", "l1_ratio"},
        "forest": {"forest_depth", "max_features", "min_samples_leaf"},
        "boosting": {"rounds", "boosting_lr", "boosting_depth"},
        "mlp": {"width", "mlp_lr", "weight_decay"},
    }
    for number in range(3):
        trial = desk.json("show", "breast_cancer", "--trial", str(number))
        assert trial["state"] == "complete"
        assert trial["params"].keys() == {"family", *own[trial["params"]["family"]]}
        assert {"accuracy", "auc"} <= trial["reports"][-1].keys()


def test_the_plain_optuna_program_runs_as_it_is(desk: Desk) -> None:
    file = STUDIES / "optuna_objective.py"
    said = desk.works("run", file, "--direction", "maximize", "--trials", "4", "--workers", "2")
    assert "4/4" in said
    shown = desk.json("show", "optuna_objective")
    assert shown["best"]["value"] > 0.5
    facts = desk.json("show", "optuna_objective", "--trial", str(shown["best"]["number"]))["facts"]
    assert facts.keys() & {"support_vectors", "weights"}
