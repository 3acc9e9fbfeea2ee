"""The study's page without a browser: each view over studies of every kind, and the numbers at its head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from automl.core import TrialState
from automl.engine import connect
from dashboard.study_views.head import seconds_left, spent
from dashboard.study_views.shared import Look
from dashboard.theme import LIGHT
from tests.unit.dashboard.apps import opened, words
from tests.unit.dashboard.boards import board, record, with_states
from tests.unit.dashboard.conftest import Made
from tests.unit.searches import spec

VIEWS = ("Progress", "Curves", "Parameters", "Trials", "Timeline", "Why")


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_a_searched_study_draws(made: Made, monkeypatch: pytest.MonkeyPatch, view: str) -> None:
    app = opened(monkeypatch, made.url, made.artifacts, "study", study=made.record.name, view=view)
    assert f"view-{view.lower()}" in words(app)
    assert app.dataframe if view == "Trials" else app.get("plotly_chart")
    assert "<script>" not in words(app)


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_a_study_without_trials_says_what_will_appear(
    sqlite_url: str, artifacts: Path, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    engine = connect(sqlite_url, artifacts)
    engine.declare(spec("new"))
    engine.close()
    app = opened(monkeypatch, sqlite_url, artifacts, "study", study="new", view=view)
    assert "am-empty" in words(app)
    assert not app.get("plotly_chart")


def test_only_the_open_view_runs(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    app = opened(monkeypatch, made.url, made.artifacts, "study", study=made.record.name, view="Why")
    assert "view-why" in words(app)
    assert not any(f"view-{view.lower()}" in words(app) for view in VIEWS if view != "Why")


def look(base: Any) -> Look:
    return Look(None, base, LIGHT)  # type: ignore[arg-type]  # what is asked here needs no engine


def test_the_time_left_is_what_the_rest_of_the_budget_takes_at_the_pace_of_late() -> None:
    base = with_states(board(62), {60: TrialState.RUNNING, 61: TrialState.RUNNING})  # 8 s each, 100 in all
    assert seconds_left(look(base)) == pytest.approx(40 / 2 * 8.0)


def test_nobody_at_work_leaves_no_time() -> None:
    assert seconds_left(look(board(60))) is None


def test_the_time_spent_is_from_the_first_start_and_that_of_gpus_is_of_all_trials() -> None:
    study = record()
    with_gpus = dict(study.spec or {}) | {"resources": {"cpus": 1, "gpus": 2, "timeout_s": None, "memory_gb": None}}
    base = board(3, study=replace(study, spec=with_gpus))
    base = with_states(base, {2: TrialState.RUNNING})
    assert spent(base, 1031.0) == pytest.approx((30.0, 2 * (8.0 + 8.0 + 10.0)))
    assert spent(board(0), 5.0) == (0.0, 0.0)
