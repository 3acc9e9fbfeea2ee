"""Optuna's own tools on our database: programs, visualisations, its dashboard."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest

from automl.storage import OptunaStorage
from tests.acceptance.conftest import MakeDesk
from tests.acceptance.desk import TOY, Desk


@pytest.fixture(scope="module")
def toy(make_desk: MakeDesk) -> Desk:
    """A desk with a finished study of six trials."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    desk = make_desk("tools")
    desk.write("toy.py", TOY)
    desk.works("run", "toy.py")
    return desk


@pytest.fixture
def storage(toy: Desk) -> Iterator[OptunaStorage]:
    opened = OptunaStorage(toy.storage or f"sqlite:///{toy.folder}/.automl/automl.db")
    yield opened
    opened.remove_session()


def test_optuna_reads_our_study(toy: Desk, storage: OptunaStorage) -> None:
    study = optuna.load_study(study_name="toy", storage=storage)
    best = toy.json("show", "toy")["best"]
    assert (study.best_trial.number, study.best_value, study.best_params) == (
        best["number"],
        best["value"],
        best["params"],
    )
    assert len(study.trials_dataframe()) == 6


def test_optunas_visualisations_draw_our_study(storage: OptunaStorage) -> None:
    study = optuna.load_study(study_name="toy", storage=storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what plotly and Optuna deprecate in each other is not ours
        figures = [
            optuna.visualization.plot_optimization_history(study),
            optuna.visualization.plot_intermediate_values(study),
            optuna.visualization.plot_parallel_coordinate(study),
            optuna.visualization.plot_slice(study),
        ]
    assert all(figure.data for figure in figures)


def test_a_plain_optuna_program_uses_our_storage_and_we_show_its_study(toy: Desk, storage: OptunaStorage) -> None:
    study = optuna.create_study(study_name="plain", storage=storage, direction="minimize")
    study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=3)
    shown = toy.json("show", "plain")
    assert shown["trials"]["complete"] == 3
    assert shown["metrics"] == {"value": "min"}
    assert shown["best"]["value"] == study.best_value
    assert shown["best"]["params"] == study.best_params


def test_optuna_dashboard_shows_our_study(storage: OptunaStorage) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bottle and rustuna, at import
        import optuna_dashboard
    site = optuna_dashboard.wsgi(storage)
    studies = get(site, "/api/studies")["study_summaries"]
    (ours,) = [study for study in studies if study["study_name"] == "toy"]
    assert ours["directions"] == ["maximize"]
    detail = get(site, f"/api/studies/{ours['study_id']}")
    assert len(detail["trials"]) == 6
    assert {trial["state"] for trial in detail["trials"]} == {"Complete"}


def get(site: Any, path: str) -> Any:
    """What the web application answers to `GET path`, as JSON."""
    environment: dict[str, Any] = {"PATH_INFO": path, "wsgi.input": io.BytesIO()}
    setup_testing_defaults(environment)
    status: list[str] = []
    body = b"".join(site(environment, lambda code, headers, *_: status.append(code)))
    assert status == ["200 OK"], body
    return json.loads(body)
