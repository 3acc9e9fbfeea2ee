"""Batches and notifications: what of a budget is used, the report, stopping; channels, and what they were told."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from automl.storage.batches import BatchStudy, Budget
from automl.storage.tables import delivery
from tests.browser.conftest import Served
from tests.unit.searches import complete, fail, spec


def test_without_any_the_pages_say_what_they_are_for(page: Any, served: Served) -> None:
    page.goto("/batches")
    expect(page.locator(".am-empty")).to_contain_text("No batch yet")
    expect(page.locator("code", has_text="--batch night")).to_be_visible()
    page.goto("/notifications")
    expect(page.locator(".am-empty")).to_contain_text("Nobody is told of anything")


@pytest.fixture(scope="module")
def night(served: Served) -> Served:
    """A batch of three, one of them with results; and the same study, searched before."""
    engine = served.engine
    before = engine.declare(spec("before"), entrypoint="a.py:a")
    for value in (0.2, 0.5):
        complete(engine, before, value)
    studies = [BatchStudy(spec(name), f"{name}.py:{name}") for name in ("a", "b <b>bold<b>", "c")]
    engine.batches.submit("night", studies, priority=5, budget=Budget(trials=20, hours=8.0))
    for value in (0.3, 0.7, 0.6, 0.75):
        complete(engine, engine.study("a"), value)
    fail(engine, engine.study("a"), "CUDA <b>error</b>")
    return served


def test_a_batch_is_listed_and_opened(page: Any, night: Served) -> None:
    page.goto("/batches")
    card = page.locator(".am-model")
    for words in ("night", "3 studies", "5 of 20 trials", "priority 5"):
        expect(card).to_contain_text(words)
    page.get_by_role("button", name="night").click()
    expect(page.locator(".am-header h1")).to_have_text("night")
    expect(page.locator(".am-meters")).to_contain_text("5 of 20")
    rows = page.locator(".am-table tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("score 0.7500")
    expect(rows.nth(1)).to_contain_text("b <b>bold<b>")
    page.get_by_role("link", name="a", exact=True).click()
    page.wait_for_url("**/study?study=a")


def test_the_report_is_shown_and_can_be_downloaded(page: Any, night: Served) -> None:
    page.goto("/batches?batch=night")
    page.locator(".st-key-batch-report label").click()
    frame = page.frame_locator("iframe")
    expect(frame.locator("h1")).to_have_text("Batch night")
    expect(frame.locator("#study-0")).to_contain_text("+0.25 better")
    expect(frame.locator("#study-0 svg")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "night.html"


def test_a_batch_is_stopped_after_a_question(page: Any, night: Served) -> None:
    page.goto("/batches?batch=night")
    page.get_by_role("button", name="Stop …").click()
    expect(page.get_by_role("dialog")).to_contain_text("night")
    assert night.engine.batches.get("night").finished_at is None  # asked, not done
    page.get_by_role("dialog").get_by_role("button", name="Stop it").click()
    expect(page.locator(".st-key-done")).to_contain_text("Batch night is stopped.")
    assert night.engine.batches.get("night").finished_at is not None
    expect(page.locator(".am-header")).to_contain_text("finished")


def test_channels_show_no_secrets_and_are_tested_with_a_click(page: Any, served: Served) -> None:
    address = "https://93.184.215.14/services/T0/very-secret"
    served.engine.channels.add("team", "slack", address, ["finished", "failed"])
    page.goto("/notifications")
    card = page.locator(".am-alias")
    for words in ("team", "slack", "https://93.184.215.14/…", "finished, failed"):
        expect(card).to_contain_text(words)
    page.get_by_role("button", name="Test").click()
    expect(page.locator(".st-key-done")).to_contain_text("A test message to team is on its way.")
    expect(page.locator(".am-table tbody tr")).to_contain_text("waits")
    served.engine.database.execute(sa.update(delivery).values(error="answered <b>500</b>", attempts=1))
    page.reload()
    expect(page.locator(".am-table tbody tr")).to_contain_text("answered <b>500</b>")
    assert "very-secret" not in page.content()
