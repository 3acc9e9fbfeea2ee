"""The page of one trial, in a browser: what it shows, its actions, its files, and that it follows a running trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from automl.core import Outcome, Report, StudyRecord, TrialState
from tests.browser.conftest import Served
from tests.unit.dashboard.searched import accuracy, claimed, searched


@pytest.fixture(scope="module")
def study(served: Served) -> StudyRecord:
    engine, record = searched(served.storage, served.folder / "artifacts", trials=12)
    engine.close()
    return record


def test_it_shows_parameters_results_attempts_and_gives_its_files(
    page: Any, study: StudyRecord, tmp_path: Path
) -> None:
    alerts: list[str] = []
    page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    page.goto("/trial?study=lab&trial=3")
    expect(page.locator("h1")).to_have_text("Trial 3")
    expect(page.locator(".st-key-card-trial-parameters tbody tr")).to_have_count(5)
    expect(page.locator(".am-attempts li")).to_have_count(2)
    expect(page.locator(".am-log")).to_contain_text("attempt 2 of trial 3 begins <script>alert(1)</script>")
    expect(page.locator(".st-key-card-trial-curve .scatterlayer .trace").first).to_be_attached()
    with page.expect_download() as caught:
        page.get_by_role("button", name="Download").click()
    target = tmp_path / "model.bin"
    caught.value.save_as(target)
    assert target.read_bytes() == bytes(range(256)) * 3
    assert alerts == []


def test_a_trial_is_marked_as_invalid_and_the_mark_taken_back(page: Any, study: StudyRecord, served: Served) -> None:
    page.goto("/trial?study=lab&trial=4")
    page.get_by_role("button", name="Mark as invalid").click()
    page.get_by_label("Why").fill("a broken sensor")
    page.get_by_label("Why").press("Enter")
    page.get_by_role("dialog").get_by_role("button", name="Mark as invalid").click()
    expect(page.locator(".am-note")).to_have_text("Counts for nothing: a broken sensor")
    assert served.engine.trial(study, 4).invalid == "a broken sensor"
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".am-note")).to_have_count(0)
    assert served.engine.trial(study, 4).invalid is None


def test_a_running_trial_is_followed_to_its_end(page: Any, study: StudyRecord, served: Served) -> None:
    lease = claimed(served.engine, study)
    page.goto(f"/trial?study=lab&trial={lease.number}")
    expect(page.locator(".am-header")).to_contain_text("running")
    log = served.engine.log_path(study.id, lease.number, lease.attempt)
    with log.open("a") as file:
        file.write("epoch 1 of 9\n")
    expect(page.locator(".am-log")).to_contain_text("epoch 1 of 9")
    served.engine.report(lease.token, [Report(1, 0.1234)])
    expect(page.locator(".am-big")).to_contain_text("0.1234 at step 1")
    served.engine.finish(lease.token, Outcome(TrialState.COMPLETE, (accuracy(lease.params),)))
    expect(page.locator(".am-header")).to_contain_text("complete")


def test_nothing_is_wider_than_a_phone(page: Any, study: StudyRecord) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto("/trial?study=lab&trial=5")
    expect(page.locator(".st-key-card-trial-failure")).to_contain_text("Failed: error")
    main = page.get_by_test_id("stMain")
    assert main.evaluate("element => element.scrollWidth <= element.clientWidth")
