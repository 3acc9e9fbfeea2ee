"""`Study`: what a declaration takes and refuses, how it is run and queued."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest

from automl import Budget, Float, Resources, Study, connect
from automl.errors import InvalidInput, InvalidStudy, StudyConflict
from automl.trainers.source import FileSource, code_sha256


def train(trial: Any) -> float:
    return float(trial.params["x"])


def study(**changes: Any) -> Study:
    fields: dict[str, Any] = {
        "name": "toy",
        "train": train,
        "space": {"x": Float(0, 1)},
        "metrics": {"score": "max"},
        "budget": Budget(trials=2),
    }
    return Study(**{**fields, **changes})


def test_a_sampler_and_a_pruner_may_be_optuna_objects_and_keep_their_names() -> None:
    sampler, pruner = optuna.samplers.RandomSampler(seed=1), optuna.pruners.NopPruner()
    declared = study(sampler=sampler, pruner=pruner)
    assert declared.sampler_object is sampler
    assert declared.pruner_object is pruner
    assert (declared.spec.sampler, declared.spec.pruner) == ("custom:RandomSampler", "custom:NopPruner")


def test_names_of_samplers_and_pruners_bring_no_object() -> None:
    declared = study(sampler="tpe", pruner="median")
    assert (declared.sampler_object, declared.pruner_object) == (None, None)
    assert (declared.spec.sampler, declared.spec.pruner) == ("tpe", "median")


def test_what_is_wanted_of_the_search_reaches_the_declaration() -> None:
    spec = study(cost="seconds", constraints={"ms": {"max": 20}}, transfer=["old"]).spec
    assert (spec.cost, spec.transfer) == ("seconds", ("old",))
    assert spec.constraints["ms"].excess(21.5) == 1.5
    assert (study().spec.cost, dict(study().spec.constraints), study().spec.transfer) == (None, {}, None)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cost": 3}, "cost"),
        ({"constraints": {"ms": 20}}, "constraints['ms']"),
        ({"transfer": "old"}, "transfer"),
        ({"train": "train"}, "train"),
        ({"name": ""}, "name"),
        ({"name": "a/b"}, "name"),
        ({"sampler": "magic"}, "sampler"),
        ({"pruner": "magic"}, "pruner"),
        ({"budget": 5}, "budget"),
        ({"budget": None}, "budget"),
        ({"space": {}}, "space"),
        ({"metrics": {"score": "up"}}, "metrics['score']"),
        ({"metrics": {}}, "metrics"),
        ({"seed": -1}, "seed"),
        ({"retries": 1.5}, "retries"),
    ],
)
def test_a_wrong_declaration_names_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidStudy) as caught:
        study(**changes)
    assert caught.value.field == field
    assert str(caught.value).startswith(field)


def test_an_optuna_objective_is_wrapped_as_it_is_with_the_options_of_a_study() -> None:
    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", 0, 1)

    declared = Study.from_optuna(
        objective, name="wrapped", metrics={"value": "min"}, budget=Budget(trials=3), seed=7, sampler="tpe"
    )
    assert declared.train is objective
    assert declared.name == "wrapped"
    assert declared.spec.space is None
    assert (declared.spec.seed, declared.spec.sampler) == (7, "tpe")


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_run_refuses_numbers_of_workers_that_make_no_sense(workdir: Path, workers: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        study().run(workers=workers)
    assert caught.value.field == "workers"
    assert list(workdir.iterdir()) == []


@pytest.mark.parametrize("gpus", [[], [0]])
def test_run_refuses_a_study_whose_trials_need_more_gpus_than_were_named(workdir: Path, gpus: list[int]) -> None:
    with pytest.raises(InvalidStudy, match=r"needs 2 GPU\(s\)") as caught:
        study(resources=Resources(gpus=2)).run(gpus=gpus)
    assert caught.value.field == "resources.gpus"
    assert list(workdir.iterdir()) == []


def test_submit_queues_the_file_that_the_function_is_in(workdir: Path, sqlite_url: str) -> None:
    path = written(workdir)
    record = imported(path).study.submit(sqlite_url)
    assert record.queued
    assert record.code_sha256 == code_sha256(path)
    assert record.entrypoint is not None
    assert FileSource.from_entrypoint(record.entrypoint) == FileSource(str(path), "queued")


def test_submit_survives_blanks_in_the_names_of_folders(workdir: Path, sqlite_url: str) -> None:
    folder = workdir / "my studies"
    folder.mkdir()
    path = written(folder)
    record = imported(path).study.submit(sqlite_url)
    assert record.entrypoint is not None
    assert FileSource.from_entrypoint(record.entrypoint) == FileSource(str(path), "queued")


QUEUED = """
from automl import Budget, Float, Study

def train(trial):
    return 1.0

study = Study("queued", train, {"x": Float(0, 1)}, metrics={"m": "max"}, budget=Budget(trials=2))
"""


def written(folder: Path) -> Path:
    path = folder / "queued.py"
    path.write_text(QUEUED)
    return path


def imported(path: Path) -> Any:
    described = importlib.util.spec_from_file_location(path.stem, path)
    assert described is not None and described.loader is not None
    module = importlib.util.module_from_spec(described)
    sys.modules[path.stem] = module
    try:
        described.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
    return module


def test_submit_refuses_a_function_that_is_in_no_file(workdir: Path, sqlite_url: str) -> None:
    cell: dict[str, Any] = {}
    exec(compile("def train(trial):\n    return 1.0\n", "<ipython-input-1>", "exec"), cell)
    with pytest.raises(InvalidStudy, match=r"FILE\.py") as caught:
        study(train=cell["train"]).submit(sqlite_url)
    assert caught.value.field == "train"
    with pytest.raises(InvalidStudy):
        study(train=len).submit(sqlite_url)
    assert connect(sqlite_url).studies() == []


def test_submit_refuses_a_study_that_a_worker_would_not_find_in_the_file(workdir: Path, sqlite_url: str) -> None:
    with pytest.raises(InvalidStudy, match="'toy' is not there"):  # it is made by a function of this file
        study().submit(sqlite_url)
    path = written(workdir)
    declared = imported(path).study
    path.write_text(path.read_text().replace("Float(0, 1)", "Float(0, 2)"))
    with pytest.raises(InvalidStudy, match="makes another study named 'queued'"):
        declared.submit(sqlite_url)
    assert connect(sqlite_url).studies() == []


def test_submit_refuses_a_name_that_is_taken_by_another_definition(workdir: Path, url: str) -> None:
    path = written(workdir)
    imported(path).study.submit(url)
    path.write_text(path.read_text().replace("Float(0, 1)", "Float(0, 2)"))
    wider = imported(path).study
    with pytest.raises(StudyConflict, match="x was"):
        wider.submit(url)
    assert wider.submit(url, extend=True).name == "queued"


def test_a_study_says_its_name() -> None:
    assert repr(study()) == "Study('toy')"


@pytest.mark.parametrize("field", ["sampler", "pruner"])
@pytest.mark.parametrize("choice", [None, 42, optuna.samplers.TPESampler])
def test_what_is_neither_a_name_nor_an_optuna_object_is_refused(field: str, choice: object) -> None:
    with pytest.raises(InvalidStudy, match=f"{field}: .* is neither a name nor an Optuna {field} object"):
        Study("s", abs, {"x": Float(0, 1)}, metrics={"v": "min"}, budget=Budget(trials=1), **{field: choice})
