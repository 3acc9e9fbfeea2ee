from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from dashboard.figures.what_if import line, plane
from dashboard.theme import DARK, LIGHT
from tests.unit.dashboard.apps import opened, sound, words
from tests.unit.dashboard.conftest import Made
from tests.unit.dashboard.searched import EVIL_NAME, searched


def shown(made: Made, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    return opened(monkeypatch, made.url, made.artifacts, "what_if", study="lab")


def sliders(page: AppTest) -> list[str]:
    return [slider.key.rpartition("-")[2] for slider in page.select_slider]


def test_it_begins_at_the_best_trial_and_says_what_the_engine_says(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    page = shown(made, monkeypatch)
    best = made.engine.best_trials(made.record)[0]
    told = made.engine.what_if(made.record, [best.params])[0]
    text = words(page)
    assert f"<b>{told.mean:.4f}</b><i>± {told.sd:.2g}</i>" in text
    assert f"trial {best.number}" in text and "feasible" in text and "takes about" in text
    assert len(page.get("plotly_chart")) == 2
    by_name = {slider.key.rpartition("-")[2]: slider.value for slider in page.select_slider}
    assert by_name["lr"] == best.params["lr"] and by_name["width"] == best.params["width"]


def test_moving_a_slider_moves_the_prediction_and_the_line(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    page = shown(made, monkeypatch)
    before = words(page)
    slider = next(s for s in page.select_slider if s.key.endswith("-lr"))
    slider.set_value(0.0001).run()
    after = words(sound(page))
    assert "Along lr" in after
    best = dict(made.engine.best_trials(made.record)[0].params)
    told = made.engine.what_if(made.record, [best | {"lr": 0.0001}])[0]
    assert f"<b>{told.mean:.4f}</b>" in after and f"<b>{told.mean:.4f}</b>" not in before


def test_a_conditional_parameter_is_there_only_while_it_is_active(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    page = shown(made, monkeypatch)
    optimizer = next(c for c in page.segmented_control if c.key.endswith("-optimizer"))
    optimizer.set_value("sgd").run()
    assert "momentum" in sliders(sound(page))
    momentum = next(s for s in page.select_slider if s.key.endswith("-momentum"))
    momentum.set_value(0.0).run()
    next(c for c in page.segmented_control if c.key.endswith("-optimizer")).set_value("adamw").run()
    assert "momentum" not in sliders(sound(page))
    next(c for c in page.segmented_control if c.key.endswith("-optimizer")).set_value("sgd").run()
    assert next(s for s in page.select_slider if s.key.endswith("-momentum")).value == 0.0  # as it was left


def test_random_leads_away_and_best_leads_back(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    page = shown(made, monkeypatch)

    def lr() -> float:
        return next(s for s in page.select_slider if s.key.endswith("-lr")).value

    best = lr()
    page.button(key="what-if-random").click().run()
    assert lr() != best
    page.button(key="what-if-best").click().run()
    assert lr() == best


def test_run_this_asks_first_and_users_text_stays_text(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    page = shown(made, monkeypatch)
    page.button(key="what-if-run").click().run()
    assert page.button(key="dialog-do").label == "Run it"
    assert "<b>dropout</b>" not in words(page) and "&lt;b&gt;dropout" in words(page)


def test_too_few_results_are_said_with_how_many_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'lab.db'}"
    engine, record = searched(url, tmp_path / "artifacts", name=EVIL_NAME, trials=2)
    text = words(opened(monkeypatch, url, tmp_path / "artifacts", "what_if", study=record.name))
    assert "2 complete trials, a prediction needs 5" in text
    assert "<script>" not in text
    engine.close()


# -- its figures -------------------------------------------------------------------------------------------------------


def test_the_line_has_its_band_and_the_point_on_it(made: Made) -> None:
    board = made.engine.board(made.record)
    params = made.engine.trial(made.record, 3).params
    found = made.engine.surface(made.record, params, "lr", size=30)
    drawn = line(board, found, params, LIGHT)
    assert drawn is not None
    upper, lower, mean, point = drawn["data"]
    assert np.allclose(upper["y"] - lower["y"], 2.0 * found.sd) and np.allclose(mean["y"], found.mean)
    assert point["x"][0] == pytest.approx(np.log10(params["lr"]), abs=0.06)
    assert drawn["layout"]["shapes"][0]["y0"] == board.values[board.best, 0]


def test_choices_are_marks_with_bars(made: Made) -> None:
    board = made.engine.board(made.record)
    params = made.engine.trial(made.record, 3).params
    drawn = line(board, made.engine.surface(made.record, params, "optimizer"), params, LIGHT)
    assert drawn is not None
    assert drawn["data"][0]["text"] == ["sgd", "adamw"] and "error_y" in drawn["data"][0]


def test_the_plane_shows_heights_trials_and_the_point(made: Made) -> None:
    board = made.engine.board(made.record)
    params = made.engine.trial(made.record, 3).params
    found = made.engine.surface(made.record, params, ("lr", "width"), size=8)
    drawn = plane(board, found, params, DARK)
    assert drawn is not None
    heights, trials, point = drawn["data"]
    assert heights["z"].shape == (len(heights["y"]), len(heights["x"])) == found.mean.T.shape
    assert heights["z"][2, 5] == found.mean[5, 2]
    assert len(trials["x"]) == board.counted.sum()
    assert point["y"][0] == pytest.approx(np.log10(params["width"]))
    mixed = plane(board, made.engine.surface(made.record, params, ("optimizer", "lr"), size=8), params, DARK)
    assert mixed is not None and mixed["data"][0]["type"] == "heatmap"
