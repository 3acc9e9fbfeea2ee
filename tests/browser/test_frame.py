"""The frame around the pages: addresses, live changes, a database that goes away, text that stays text, no network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Served, window
from tests.postgres import PostgresServer
from tests.unit.searches import complete, spec

NAME = "<script>alert(1) <img src=x onerror=alert(1)> $x$ [a](b)"


@pytest.fixture(scope="module")
def study(served: Served) -> Any:
    """A study with three results and a name that would like to be a program."""
    record = served.engine.declare(spec(NAME))
    for value in (0.1, 0.3, 0.2):
        complete(served.engine, record, value)
    return served.engine.study(record.name)


def test_every_entry_of_the_menu_leads_to_its_page(page: Any, study: Any) -> None:
    page.goto("/")
    for entry in ("Compare", "Workers", "Models", "Studies"):
        page.get_by_role("link", name=entry, exact=True).click()
        expect(page.locator("h1")).to_contain_text(entry)


def test_a_script_as_a_name_shows_as_text(page: Any, study: Any) -> None:
    alerts: list[str] = []
    page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    page.goto("/")
    expect(page.locator("h3", has_text=NAME)).to_be_visible()
    expect(page.locator("img[src=x]")).to_have_count(0)
    assert alerts == []


def test_an_address_of_nothing_says_so_and_leads_back(page: Any, study: Any) -> None:
    page.goto("/study?study=nowhere")
    expect(page.locator(".am-empty")).to_contain_text("nowhere")
    page.get_by_role("link", name="All studies").click()
    expect(page.locator("h1")).to_have_text("Studies")


def test_a_result_shows_by_itself(page: Any, study: Any, served: Served) -> None:
    page.goto("/")
    card = page.locator(".am-study", has_text="<script>")
    expect(card).to_contain_text("0.3000")
    complete(served.engine, study, 0.9)
    expect(card).to_contain_text("0.9000")


def test_nothing_is_drawn_again_while_nothing_changes(page: Any, study: Any) -> None:
    page.goto("/workers")
    settled = re.compile("updated ([3-9]|[1-9][0-9]+) s ago")  # the first drawing has, three seconds after it
    expect(page.locator(".am-live-live")).to_contain_text(settled)
    page.evaluate("window.drawn = 0")
    page.evaluate(
        "new MutationObserver(all => window.drawn += all.filter(m => !m.target.parentElement?.closest('.st-key-live')"
        " && !m.target.closest?.('.st-key-live')).length)"
        ".observe(document.querySelector('[data-testid=stMainBlockContainer]'),"
        " {subtree: true, childList: true, characterData: true})"
    )
    before = page.locator(".am-live b").inner_text()
    for _ in range(2):
        expect(page.locator(".am-live b")).not_to_have_text(before)
        before = page.locator(".am-live b").inner_text()
    assert page.evaluate("window.drawn") == 0


def test_a_paused_page_stays_as_it_is(page: Any, browser: Any, study: Any, served: Served) -> None:
    page.goto("/")
    card = page.locator(".am-study", has_text="<script>")
    expect(card).to_be_visible()
    page.get_by_role("button", name="❚❚").click()
    expect(page.locator(".am-live")).to_have_text("paused")
    complete(served.engine, study, 0.95)
    for other in window(browser, served):  # which opens long after a page that is not paused would have changed
        other.goto("/")
        expect(other.locator(".am-study", has_text="<script>")).to_contain_text("0.9500")
    expect(card).not_to_contain_text("0.9500")
    page.get_by_role("button", name="▶").click()
    expect(card).to_contain_text("0.9500")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_follow_the_browser_and_a_phone_is_wide_enough(
    browser: Any, served: Served, study: Any, scheme: str
) -> None:
    for page in window(browser, served, color_scheme=scheme, viewport={"width": 390, "height": 844}):
        page.goto("/")
        expect(page.locator(".am-study").first).to_be_visible()
        colour = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--am-page')")
        painted = page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")
        assert (colour, painted) == {
            "light": ("#f7f8fb", "rgb(247, 248, 251)"),
            "dark": ("#0f131b", "rgb(15, 19, 27)"),
        }[scheme]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("width", [769, 800, 910])
def test_the_menu_leaves_room_for_the_pulse(browser: Any, served: Served, study: Any, width: int) -> None:
    for page in window(browser, served, viewport={"width": width, "height": 800}):
        page.goto("/")
        pulse = page.locator(".am-live")
        expect(pulse).to_contain_text("updated", use_inner_text=width > 900)
        for entry in page.get_by_test_id("stTopNavLink").all():
            at = entry.bounding_box()
            assert at["x"] + at["width"] <= pulse.bounding_box()["x"]


def test_the_terminal_shows_where_it_is_and_nothing_else(page: Any, study: Any, served: Served) -> None:
    page.goto("/")
    expect(page.locator("h1")).to_have_text("Studies")
    assert served.printed() == f"dashboard on {served.address}; Ctrl-C ends it\n"


def test_a_check_and_a_click_wait_while_what_the_last_run_left_is_still_there(page: Any) -> None:
    title = "<h1 onclick='this.textContent = `clicked`'>{}</h1>"
    goes = "<script>setTimeout(() => document.querySelectorAll('h1')[1].remove(), 500)</script>"
    two = title.format("new") + title.format("left") + goes
    page.set_content(two)
    expect(page.locator("h1")).to_have_text("new")
    page.set_content(two)
    page.locator("h1").click()
    expect(page.locator("h1")).to_have_text("clicked")


@pytest.fixture
def on_postgres(own_postgres: PostgresServer, tmp_path: Path) -> Iterator[Served]:
    dashboard = Served(tmp_path, own_postgres.create_database())
    yield dashboard
    dashboard.close()


def test_a_database_that_goes_away_gets_a_banner_and_the_page_comes_back_by_itself(
    browser: Any, on_postgres: Served, own_postgres: PostgresServer
) -> None:
    record = on_postgres.engine.declare(spec("steady"))
    complete(on_postgres.engine, record, 0.5)
    for page in window(browser, on_postgres):
        page.goto("/")
        card = page.locator(".am-study", has_text="steady")
        expect(card).to_contain_text("0.5000")
        own_postgres.stop()
        expect(page.locator(".am-banner")).to_contain_text("does not answer")
        expect(card).to_contain_text("0.5000")  # what was shown stays
        page.get_by_role("link", name="Workers", exact=True).click()  # a page that knows nothing yet
        expect(page.locator(".am-banner")).to_contain_text("does not answer")
        own_postgres.start()
        expect(page.locator("h1")).to_have_text("Workers")
        expect(page.locator(".am-banner")).to_have_count(0)
