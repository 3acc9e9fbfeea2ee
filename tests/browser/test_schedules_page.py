"""The schedules: when they come, what came of them, pausing them, and promoting what is better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from playwright.sync_api import expect

from automl.cron import Plan
from automl.storage.tables import study
from automl.team import FiringState
from tests.browser.conftest import Served, window
from tests.unit.searches import complete, spec

HOUR = 3600.0
NAME = "digits <b>nightly"


def test_without_schedules_the_page_says_how_to_make_one(page: Any, served: Served) -> None:
    page.goto("/schedules")
    expect(page.locator(".am-empty")).to_contain_text("Nothing starts by itself yet")
    expect(page.locator("code", has_text="automl schedule add")).to_be_visible()


@pytest.fixture(scope="module")
def schedules(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """One that was missed, has failed to be better, and has found something better at last; one that is new."""
    engine = served.engine
    folder: Path = tmp_path_factory.mktemp("files")
    (folder / "model.safetensors").write_text("weights")
    added = engine.schedules.add(Plan(spec(NAME).to_json(), "digits.py", "0 2 * * *", "Europe/Paris", overlap="queue"))
    engine.schedules.add(Plan(spec("iris").to_json(), "iris.py", "*/15 * * * *"))
    first = engine.schedules.next(NAME, 1)[0]
    told = {"reason": "nobody was there at the time", "ticks": 3, "since": first, "more": False}
    engine.schedules.fire(added, first, FiringState.MISSED, told)
    verdicts: list[dict[str, Any] | None] = [
        {"better": False, "p_better": 0.31, "reason": "no change worth making (P(better) < 5 %)", "winner": 0},
        {"better": True, "p_better": 0.98, "reason": "better than the incumbent (P = 98%)", "winner": 1},
        None,
    ]
    for night, verdict in enumerate(verdicts, 1):
        record = engine.schedules.fire(added, first + night * 24 * HOUR, FiringState.STARTED)
        assert record is not None
        for value in (0.8, 0.9) if verdict is not None else ():
            complete(engine, record, value, artifacts=[engine.artifacts.put(folder / "model.safetensors")])
        if verdict is not None:
            engine.database.execute(sa.update(study).where(study.c.id == record.id).values(state="finished"))
            told = {"incumbent": 0.8, "best": 0.9}
            assert engine.schedules.judge(engine.schedules.firings(NAME, 1)[0], verdict | told)
    return served


def test_the_list_says_when_each_comes_next_and_what_came_of_the_last_time(page: Any, schedules: Served) -> None:
    page.goto("/schedules")
    card = page.locator(".am-study", has=page.get_by_role("heading", name=NAME))
    for words in ("At 02:00 every day", "Europe/Paris", "02:00", "searching"):
        expect(card).to_contain_text(words)
    expect(page.locator(".am-study", has=page.get_by_role("heading", name="iris"))).to_contain_text("not come yet")
    page.get_by_role("button", name=NAME).click()
    expect(page.locator("h1")).to_have_text(NAME)
    page.get_by_role("button", name="← Schedules").click()
    expect(page.locator("h1")).to_have_text("Schedules")


def test_a_schedule_shows_its_times_with_links_to_their_studies(page: Any, schedules: Served) -> None:
    page.goto(f"/schedules?schedule={NAME}")
    rows = page.locator(".am-table tbody tr")
    expect(rows).to_have_count(4)
    for row, words in enumerate(("searching", "98 %", "no change worth making", "3 times missed")):
        expect(rows.nth(row)).to_contain_text(words)
    expect(rows.nth(1)).to_contain_text("0.9000")
    study_name = schedules.engine.schedules.firings(NAME)[1].study
    rows.nth(1).get_by_role("link").click()
    expect(page.locator("h1")).to_have_text(study_name)


def test_a_schedule_is_paused_and_the_undo_lets_it_go_on(page: Any, schedules: Served) -> None:
    page.goto(f"/schedules?schedule={NAME}")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator(".st-key-done")).to_contain_text("is paused: it starts no more searches")
    expect(page.locator(".am-header")).to_contain_text("paused")
    assert schedules.engine.schedules.get(NAME).paused
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".st-key-done")).to_contain_text("goes on")
    assert not schedules.engine.schedules.get(NAME).paused


def test_what_is_better_can_be_promoted_from_here(browser: Any, schedules: Served) -> None:
    for page in window(browser, schedules, color_scheme="dark"):
        page.goto(f"/schedules?schedule={NAME}")
        proposal = page.locator(".st-key-card-proposal")
        expect(proposal).to_contain_text("better than the incumbent")
        page.get_by_role("button", name="Promote …").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.locator("li", has_text="files")).to_contain_text("✓")
        dialog.get_by_text("Promote it all the same").click()  # no framework can load this file
        dialog.get_by_label("Reason").fill("a test")
        dialog.get_by_label("Reason").press("Enter")
        promote = dialog.get_by_role("button", name="Promote", exact=True)
        expect(promote).to_be_enabled()
        promote.click()
        expect(page.locator(".st-key-done")).to_contain_text(f"{NAME}@champion is version 1 now")
        expect(page.locator(".st-key-card-proposal")).to_have_count(0)
    assert schedules.engine.model_version(NAME).number == 1
