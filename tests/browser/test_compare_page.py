"""The compare page in a browser: studies are chosen, drawn over trials or time, and followed."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from automl.core import Outcome, StudyRecord, TrialState
from tests.browser.conftest import Served
from tests.unit.dashboard.searched import claimed, searched


@pytest.fixture(scope="module")
def studies(served: Served) -> StudyRecord:
    """Two runs of one method and a third study, which is given back."""
    record = None
    for name, trials in (("random-1", 4), ("random-2", 4), ("lab", 6)):
        engine, record = searched(
            served.storage, served.folder / "artifacts", name=name, trials=trials, sampler="random"
        )
        engine.close()
    assert record is not None
    return record


def test_runs_make_a_band_and_results_show_as_they_come(page: Any, studies: StudyRecord, served: Served) -> None:
    page.goto("/")
    page.get_by_role("link", name="Compare", exact=True).click()
    finals = page.locator(".st-key-card-compare-finals tbody tr")
    expect(finals).to_have_count(2)
    expect(page.locator(".st-key-card-compare-finals")).to_contain_text("random × 2")
    expect(page.locator(".st-key-card-compare-progress .legendtext").first).to_be_visible()
    page.get_by_role("radio", name="time").or_(page.get_by_role("button", name="time")).first.click()
    expect(page.locator(".st-key-card-compare-progress .xtitle", has_text="trials")).to_have_count(0)
    lease = claimed(served.engine, studies)
    served.engine.finish(lease.token, Outcome(TrialState.COMPLETE, (0.9876,)))
    expect(page.locator(".st-key-card-compare-finals")).to_contain_text("0.9876")
    expect(page.locator(".st-key-card-compare-parameters th").nth(1)).to_have_text("lab")  # the best one first


def test_nothing_is_wider_than_a_phone(page: Any, studies: StudyRecord) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto("/compare?study=lab&study=random-1")
    expect(page.locator(".st-key-card-compare-parameters")).to_be_visible()
    main = page.get_by_test_id("stMain")
    assert main.evaluate("element => element.scrollWidth <= element.clientWidth")
