"""What can be done to a study and its trials: each action asks, does it, says so, and is undone where it can be."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from automl.core import StudyState
from tests.browser.conftest import Served, window
from tests.unit.searches import complete, spec

DIALOG = "section[role=dialog]"


@pytest.fixture(scope="module")
def lab(served: Served) -> Served:
    """A study with three results, open, that a worker could take up."""
    record = served.engine.declare(spec("lab"), entrypoint="/nowhere/lab.py:lab", code_sha256="0" * 64, queued=True)
    for value in (0.2, 0.9, 0.5):
        complete(served.engine, record, value)
    return served


@pytest.fixture(scope="module")
def opened(browser: Any, lab: Served) -> Any:
    yield from window(browser, lab)


@pytest.fixture
def study(opened: Any) -> Any:
    """The study's page."""
    opened.goto("/study?study=lab")
    expect(opened.locator("h1")).to_contain_text("lab")
    return opened


def choose(page: Any, label: str) -> Any:
    """The dialog that an entry of the menu opens."""
    page.get_by_role("button", name="Actions").click()
    page.get_by_role("menuitem", name=label, exact=True).click()
    return page.locator(DIALOG)


def said(page: Any) -> Any:
    return expect(page.locator(".st-key-done"))


def undo(page: Any) -> None:
    page.locator(".st-key-done").get_by_role("button", name="Undo").click()


def test_a_study_is_paused_and_the_undo_lets_it_go_on(study: Any, lab: Served) -> None:
    dialog = choose(study, "Pause")
    expect(study.get_by_role("menuitem")).to_have_count(0)  # the menu does not cover the question
    expect(dialog).to_contain_text("starts no more trials")
    assert not lab.engine.study("lab").paused  # asked, not done
    dialog.get_by_role("button", name="Pause", exact=True).click()
    said(study).to_contain_text("Study lab is paused.")
    assert lab.engine.study("lab").paused
    undo(study)
    said(study).to_contain_text("Study lab goes on.")
    assert not lab.engine.study("lab").paused


def test_what_was_done_stays_in_sight_however_far_down_the_page(browser: Any, lab: Served) -> None:
    for page in window(browser, lab, viewport={"width": 390, "height": 500}):
        page.goto("/study?study=lab")
        choose(page, "Pause").get_by_role("button", name="Pause", exact=True).click()
        said(page).to_contain_text("Study lab is paused.")
        page.get_by_test_id("stMain").evaluate("main => main.scrollTo(0, main.scrollHeight)")
        expect(page.locator("h1")).not_to_be_in_viewport()
        expect(page.locator(".st-key-done").get_by_role("button", name="Undo")).to_be_in_viewport(ratio=1)
        undo(page)
        said(page).to_contain_text("Study lab goes on.")


def test_a_question_that_is_cancelled_changes_nothing(study: Any, lab: Served) -> None:
    choose(study, "Stop").get_by_role("button", name="Cancel").click()
    expect(study.locator(DIALOG)).to_have_count(0)
    assert lab.engine.study("lab").state is StudyState.OPEN


def test_a_budget_is_extended_and_taken_back(study: Any, lab: Served) -> None:
    before = (lab.engine.study("lab").spec or {})["budget"]["trials"]
    dialog = choose(study, "Extend the budget")
    trials = dialog.get_by_label("Trials")
    trials.fill(str(before + 7))
    trials.press("Enter")
    dialog.get_by_role("button", name="Extend", exact=True).click()
    said(study).to_contain_text(f"The budget of lab is {before + 7} trials now.")
    assert (lab.engine.study("lab").spec or {})["budget"]["trials"] == before + 7
    undo(study)
    said(study).to_contain_text(f"The budget of lab is {before} trials again.")
    assert (lab.engine.study("lab").spec or {})["budget"]["trials"] == before


def test_a_study_is_cloned_under_a_name_that_is_free_and_told_about_one_that_is_not(study: Any, lab: Served) -> None:
    dialog = choose(study, "Clone")
    name = dialog.get_by_label("Name")
    name.fill("lab")
    name.press("Enter")
    dialog.get_by_role("button", name="Clone", exact=True).click()
    expect(dialog).to_contain_text("'lab'")  # the error names it, and the dialog stays
    name.fill("lab again")
    name.press("Enter")
    dialog.get_by_role("button", name="Clone", exact=True).click()
    said(study).to_contain_text("Study lab again is made")
    assert lab.engine.study("lab again").queued


def test_tags_are_given(study: Any, lab: Served) -> None:
    dialog = choose(study, "Tags")
    words = dialog.get_by_test_id("stTextInputField")
    words.fill("vision, small ,")
    words.press("Enter")
    dialog.get_by_role("button", name="Save", exact=True).click()
    said(study).to_contain_text("Study lab has the tags vision, small.")
    assert lab.engine.study("lab").tags == ("vision", "small")


def test_a_study_goes_to_the_archive_and_back(study: Any, lab: Served) -> None:
    choose(study, "Archive").get_by_role("button", name="Archive", exact=True).click()
    said(study).to_contain_text("Study lab is in the archive.")
    assert lab.engine.study("lab").archived
    undo(study)
    said(study).to_contain_text("Study lab is in the list again.")
    assert not lab.engine.study("lab").archived


def test_a_confirmation_is_made(study: Any, lab: Served) -> None:
    choose(study, "Confirm the winner").get_by_role("button", name="Confirm", exact=True).click()
    said(study).to_contain_text("The confirmation runs as study lab confirmation 1")
    assert lab.engine.study("lab confirmation 1").origin_id == lab.engine.study("lab").id


def test_a_promotion_without_a_model_is_held_up_by_its_gate(study: Any, lab: Served) -> None:
    dialog = choose(study, "Promote the best")
    expect(dialog.locator("li", has_text="files")).to_have_attribute("aria-label", "failed")
    expect(dialog.get_by_role("button", name="Promote", exact=True)).to_be_disabled()
    dialog.get_by_role("button", name="Cancel").click()
    assert lab.engine.models() == []


def test_a_trial_is_run_again_and_marked_and_restored_by_a_dialog(opened: Any, lab: Served) -> None:
    record = lab.engine.study("lab")
    opened.goto("/trial?study=lab&trial=1")
    opened.get_by_role("button", name="Run again").click()
    opened.locator(DIALOG).get_by_role("button", name="Run it", exact=True).click()
    said(opened).to_contain_text("of lab waits for a worker.")
    opened.get_by_role("button", name="Mark as invalid").click()
    reason = opened.locator(DIALOG).get_by_label("Why")
    reason.fill("trained on the test set")
    reason.press("Enter")
    opened.locator(DIALOG).get_by_role("button", name="Mark as invalid", exact=True).click()
    said(opened).to_contain_text("Trial 1 of lab counts for nothing now.")
    assert lab.engine.trial(record, 1).invalid == "trained on the test set"
    opened.get_by_role("button", name="Restore").first.click()
    opened.locator(DIALOG).get_by_role("button", name="Let it count", exact=True).click()
    said(opened).to_contain_text("Trial 1 of lab counts again.")
    assert lab.engine.trial(record, 1).invalid is None


def test_a_study_is_stopped(study: Any, lab: Served) -> None:
    choose(study, "Stop").get_by_role("button", name="Stop it", exact=True).click()
    said(study).to_contain_text("Study lab is stopped.")
    expect(study.locator(".am-chip").first).to_contain_text("stopped")
    assert lab.engine.study("lab").state is StudyState.STOPPED
