"""The list of studies: what it says of each, search, tags, archive, and the first visit to an empty database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from automl.core import StudyState
from automl.declaration import Budget
from tests.browser.conftest import Served, window
from tests.unit.searches import complete, fail, spec


@pytest.fixture(scope="module")
def studies(served: Served) -> Served:
    """One in mid-search with a failure, one that is over, one in the archive."""
    engine = served.engine
    half = engine.declare(spec("half way"))
    for value in (0.1, 0.4, 0.3):
        complete(engine, half, value)
    fail(engine, half, "ValueError: no")
    done = engine.declare(spec("all done", budget=Budget(trials=1)))
    complete(engine, done, 0.7)
    assert engine.extend("all done", trials=1).state is StudyState.FINISHED
    engine.declare(spec("long ago"))
    engine.archive("long ago")
    engine.tag("half way", ["vision"])
    return served


def card(page: Any, name: str) -> Any:
    return page.locator(".am-study", has=page.get_by_role("heading", name=name))


def test_a_card_says_how_far_how_good_and_whether_it_is_over(page: Any, studies: Served) -> None:
    page.goto("/")
    for words in ("4 of 10 trials", "1 failed", "score ↑", "0.4000", "open", "nobody works at it", "vision"):
        expect(card(page, "half way")).to_contain_text(words)
    expect(card(page, "half way").locator("img")).to_be_visible()  # the trend
    for words in ("1 of 1 trials", "0.7000", "finished", "over"):
        expect(card(page, "all done")).to_contain_text(words)


def test_a_click_anywhere_on_a_card_opens_the_study(page: Any, studies: Served) -> None:
    page.goto("/")
    card(page, "half way").wait_for()
    page.get_by_role("link", name="half way").click()
    page.wait_for_url("**/study?study=half*way")


def test_search_tags_and_archive_choose_what_is_listed(page: Any, studies: Served) -> None:
    page.goto("/")
    expect(page.locator(".am-study")).to_have_count(2)
    page.get_by_placeholder("Search by name").fill("DONE")
    expect(page.locator(".am-study")).to_have_count(1)
    expect(card(page, "all done")).to_be_visible()
    page.get_by_placeholder("Search by name").fill("nothing like it")
    expect(page.locator(".am-empty")).to_contain_text("Nothing matches")
    page.get_by_placeholder("Search by name").fill("")
    expect(page.locator(".am-study")).to_have_count(2)
    page.locator(".st-key-studies-archived label").click()
    expect(card(page, "long ago")).to_contain_text("archived")
    page.get_by_role("combobox").click()
    page.get_by_role("option", name="vision").click()
    page.keyboard.press("Escape")
    expect(page.locator(".am-study")).to_have_count(1)
    expect(card(page, "half way")).to_be_visible()


def test_what_changes_shows_in_the_open_page(page: Any, studies: Served) -> None:
    page.goto("/")
    expect(card(page, "half way")).to_contain_text("4 of 10 trials")
    # Who did something last moves up, and while the list is written anew a card may be in two places of it.
    paused = card(page, "half way").filter(has_text="paused")
    studies.engine.pause("half way")
    expect(paused).to_have_count(1)
    studies.engine.resume("half way")
    expect(paused).to_have_count(0)
    expect(card(page, "half way")).to_have_count(1)


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Served]:
    dashboard = Served(tmp_path, f"sqlite:///{tmp_path}/automl.db")
    yield dashboard
    for record in dashboard.engine.studies():
        dashboard.engine.stop(record.name)  # the process that searches ends by itself then
    dashboard.close()


def test_the_example_is_one_click_away(browser: Any, empty: Served) -> None:
    for page in window(browser, empty):
        page.goto("/")
        expect(page.get_by_role("heading", name="Welcome")).to_be_visible()
        for command in ("automl run", "automl show", "automl promote"):
            expect(page.locator("code", has_text=command)).to_be_visible()
        page.get_by_role("button", name="Run the digits study").click()
        expect(card(page, "digits")).to_contain_text("of 30 trials", timeout=60_000)
        expect(card(page, "digits")).to_contain_text("searching")
