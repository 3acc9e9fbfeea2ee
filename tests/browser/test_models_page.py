"""The registry: versions side by side, aliases, who moved them; promoting and rolling back with their gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import Served
from tests.unit.searches import complete, spec


def test_without_models_the_page_says_how_to_make_one(page: Any, served: Served) -> None:
    page.goto("/models")
    expect(page.locator(".am-empty")).to_contain_text("No model yet")
    expect(page.locator("code", has_text="automl promote")).to_be_visible()


@pytest.fixture(scope="module")
def models(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """One model of two versions, whose files no framework can load: only force promotes them."""
    engine = served.engine
    folder: Path = tmp_path_factory.mktemp("files")
    record = engine.declare(spec("digits"))
    for value in (0.8, 0.9):
        (folder / "model.safetensors").write_text(f"weights that give {value}")
        number = complete(
            engine, record, value, artifacts=[engine.artifacts.put(folder / "model.safetensors")], latency=12.5
        )
        engine.promote(record, number, alias="champion", reason="better <b>by far</b>", force=True, who="alice")
    return served


def test_the_list_leads_to_the_model(page: Any, models: Served) -> None:
    page.goto("/models")
    expect(page.locator(".am-model")).to_contain_text("champion → 2")
    expect(page.locator(".am-model")).to_contain_text("2 versions")
    page.get_by_role("button", name="digits").click()
    expect(page.locator("h1")).to_have_text("digits")
    expect(page).to_have_url(f"{models.address}/models?model=digits")
    page.get_by_role("button", name="← Models").click()
    expect(page.locator("h1")).to_have_text("Models")


def test_versions_stand_side_by_side_with_their_results_and_digests(page: Any, models: Served) -> None:
    page.goto("/models?model=digits")
    table = page.locator(".am-versions")
    expect(table.locator("th")).to_have_text(["", "version 2", "version 1"])
    row = table.locator("tr", has_text="score, as the search saw it")
    expect(row.locator("td")).to_have_text(["score, as the search saw it", "0.9000", "0.8000"])
    expect(table.locator("tr", has_text="to be expected")).to_contain_text("not confirmed")
    file = models.engine.model_version("digits@2").files[0]
    expect(table.locator("tr", has_text="model.safetensors")).to_contain_text(file.sha256[:10])
    expect(page.locator("code", has_text="automl.load_model('digits@champion')")).to_be_visible()


def test_the_history_says_who_moved_what_why_and_which_gates_were_overruled(page: Any, models: Served) -> None:
    page.goto("/models?model=digits")
    first = page.locator(".am-table").last.locator("tbody tr").last
    for words in ("champion", "new → 1", "promoted", "alice", "better <b>by far</b>", "forced"):
        expect(first).to_contain_text(words)
    first.locator("summary").click()
    expect(first.locator("li", has_text="files")).to_be_visible()


def test_an_alias_goes_back_and_forth_with_a_question_an_answer_and_an_undo(page: Any, models: Served) -> None:
    page.goto("/models?model=digits")
    page.get_by_role("button", name="Roll back to 1").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("goes back from version 2 to version 1")
    assert models.engine.model_version("digits@champion").version == 2  # asked, not done
    dialog.get_by_role("button", name="Roll back", exact=True).click()
    expect(page.locator(".st-key-done")).to_contain_text("digits@champion is version 1 now.")
    assert models.engine.model_version("digits@champion").version == 1
    expect(page.locator(".am-alias")).to_contain_text("version 1")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".st-key-done")).to_contain_text("digits@champion is version 2 again.")
    assert models.engine.model_version("digits@champion").version == 2


def test_a_gate_that_fails_holds_the_promotion_up_until_it_is_overruled_with_a_reason(
    page: Any, models: Served
) -> None:
    page.goto("/models?model=digits")
    page.locator(".st-key-models-version").get_by_text("version 1").click()
    page.get_by_role("button", name="Promote …").click()
    dialog = page.get_by_role("dialog")
    alias = dialog.locator(".st-key-promote-alias").get_by_role("combobox")
    alias.fill("challenger")
    alias.press("Enter")
    expect(dialog.locator("li", has_text="files")).to_contain_text("✓")
    expect(dialog.locator("li", has_text="loads").first).to_contain_text("✕")
    promote = dialog.get_by_role("button", name="Promote", exact=True)
    expect(promote).to_be_disabled()
    dialog.get_by_text("Promote it all the same").click()
    dialog.get_by_label("Reason").fill("we know it is slow")
    dialog.get_by_label("Reason").press("Enter")
    expect(promote).to_be_enabled()
    promote.click()
    expect(page.locator(".st-key-done")).to_contain_text("digits@challenger is version 1 now, trial 0 of digits.")
    move = models.engine.promotions("digits", "challenger")[0]
    assert (move.to_version, move.forced, move.reason) == (1, True, "we know it is slow")
