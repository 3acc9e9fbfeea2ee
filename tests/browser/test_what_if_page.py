"""The what-if page in a browser: sliders move the prediction at once, and "run this" enqueues the point."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from automl.core import StudyRecord, TrialState
from tests.browser.conftest import Served
from tests.unit.dashboard.searched import searched


@pytest.fixture(scope="module")
def study(served: Served) -> StudyRecord:
    engine, record = searched(served.storage, served.folder / "artifacts", trials=14)
    engine.close()
    return record


def test_a_slider_moves_the_prediction_and_the_figures(page: Any, study: StudyRecord) -> None:
    page.goto("/what_if?study=lab")
    told = page.locator(".am-told > div:first-child b")
    expect(told).to_have_text(re.compile(r"^\d\.\d{4}$"))
    before = told.inner_text()
    thumb = page.get_by_role("slider").first  # the learning rate
    thumb.focus()
    for _ in range(12):
        thumb.press("ArrowLeft")
    expect(told).not_to_have_text(before)
    expect(page.locator(".st-key-card-what-if-line h3")).to_have_text("Along lr")
    expect(
        page.locator(".st-key-card-what-if-plane .contourlayer, .st-key-card-what-if-plane .heatmaplayer").first
    ).to_be_attached()
    page.get_by_role("button", name="Best").click()
    expect(told).to_have_text(before)


def test_run_this_enqueues_the_point(page: Any, study: StudyRecord, served: Served) -> None:
    page.goto("/what_if?study=lab")
    expect(page.locator(".am-told")).to_be_visible()
    page.get_by_role("button", name="Run this").click()
    page.get_by_role("dialog").get_by_role("button", name="Run it").click()
    expect(page.locator(".st-key-done")).to_contain_text("waits for a worker")
    newest = served.engine.trials(study)[-1]
    best = served.engine.best_trials(study)[0]
    assert newest.state is TrialState.WAITING
    assert served.engine.board(study).params["lr"].at(newest.number) == pytest.approx(best.params["lr"])


def test_nothing_is_wider_than_a_phone(page: Any, study: StudyRecord) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto("/what_if?study=lab")
    expect(page.locator(".am-told")).to_be_visible()
    main = page.get_by_test_id("stMain")
    assert main.evaluate("element => element.scrollWidth <= element.clientWidth")
