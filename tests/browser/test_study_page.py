"""The study's page in a browser: its views and their addresses, a click on a point, the table, what comes live."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from automl.core import StudyRecord
from tests.browser.conftest import Served, window
from tests.unit.dashboard.searched import searched
from tests.unit.searches import complete, spec

NAME = "<script>alert(1) $x$ **b**"
VIEWS = {"Progress": 1, "Curves": 1, "Parameters": 5, "Timeline": 1, "Why": 1}  # with how many figures at least


@pytest.fixture(scope="module")
def study(served: Served) -> StudyRecord:
    """Twenty-four trials that went through all that trials go through."""
    engine, record = searched(served.storage, served.folder / "artifacts", NAME)
    engine.close()
    return record


def settled(page: Any) -> None:
    page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()


def opened(page: Any, name: str, view: str | None = None) -> None:
    from urllib.parse import urlencode

    page.goto("/")  # a server that has just started knows its pages after this
    page.goto("/study?" + urlencode({"study": name} | ({"view": view} if view else {})))
    page.locator(f".view-{(view or 'Progress').lower()}").wait_for(state="attached")
    settled(page)


def test_each_view_has_an_address_and_draws_without_an_error(page: Any, study: StudyRecord) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    opened(page, NAME)
    expect(page.locator("h1")).to_have_text(NAME)
    for view, figures in VIEWS.items():
        page.get_by_test_id("stButtonGroup").get_by_text(view, exact=True).first.click()
        page.locator(f".view-{view.lower()}").wait_for(state="attached")
        page.locator(".js-plotly-plot .main-svg").nth(2 * figures - 1).wait_for(state="attached")
        settled(page)
        assert (f"view={view}" in page.url) == (view != "Progress")
        expect(page.get_by_test_id("stException")).to_have_count(0)
    assert errors == []


def test_a_click_on_a_point_shows_its_trial_and_the_way_to_it(page: Any, study: StudyRecord) -> None:
    opened(page, NAME)
    points = page.locator(".js-plotly-plot .scatterlayer .point")
    points.first.wait_for(state="attached")
    place = points.nth(points.count() // 2).bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.locator(".hoverlayer .hovertext").first.wait_for()
    page.mouse.down()
    page.mouse.up()
    line = page.locator(".st-key-study-picked")
    expect(line).to_contain_text("Open trial")
    line.get_by_role("link").click()
    page.wait_for_url("**/trial?*")
    assert "trial=" in page.url


def test_a_result_moves_the_tiles_of_the_open_page(page: Any, served: Served) -> None:
    record = served.engine.declare(spec("moving"))
    complete(served.engine, record, 0.25)
    opened(page, "moving")
    expect(page.locator(".trials-done")).to_have_text("1")
    complete(served.engine, record, 0.75)
    expect(page.locator(".trials-done")).to_have_text("2", timeout=20_000)
    expect(page.locator(".am-tile-best")).to_contain_text("0.7500")


def test_the_table_filters_and_leaves_as_csv(page: Any, study: StudyRecord) -> None:
    opened(page, NAME, "Trials")
    page.get_by_test_id("stDataFrame").wait_for()
    page.get_by_placeholder("Filter", exact=False).fill("state = complete")
    page.keyboard.press("Enter")
    expect(page.get_by_text("22 of 25 trials")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV of").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0].startswith("number,state,accuracy,lr,width,optimizer")
    assert {line.split(",")[1] for line in lines[1:]} == {"complete"}


@pytest.mark.parametrize("view", ["Progress", "Parameters", "Trials", "Timeline", "Why"])
def test_nothing_is_cut_off_on_a_phone(browser: Any, served: Served, study: StudyRecord, view: str) -> None:
    for page in window(browser, served, viewport={"width": 390, "height": 800}, color_scheme="dark"):
        opened(page, NAME, view)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        parts = "[data-testid=stMainBlockContainer] [data-testid=stVerticalBlock] > *:not(.st-key-study-wide *)"
        right = page.evaluate(
            "parts => Math.max(...[...document.querySelectorAll(parts)].map(e => e.getBoundingClientRect().right))",
            parts,
        )
        assert right <= 391
