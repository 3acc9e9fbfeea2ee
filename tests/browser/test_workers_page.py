"""The workers: what they run, how busy their machines are, when they were last heard of, and draining them."""

from __future__ import annotations

import uuid
from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import expect

from automl.core import Load, Report, WorkerRecord
from tests.browser.conftest import Served
from tests.unit.searches import spec

GIB = 2**30
GPU = {"index": 0, "name": "NVIDIA <b>H200</b>", "memory_used": 30 * GIB, "memory_total": 120 * GIB, "load": 0.5}


def worker(name: str, **changes: Any) -> WorkerRecord:
    fields: dict[str, Any] = {
        "name": name,
        "host": name.rpartition("-")[0],
        "pid": 7,
        "slots": (("0",), ()),
        "load": Load(),
        "environment": {"python": "3.11.7", "torch": "2.13"},
        "lease_s": 600.0,
        "draining": False,
        "started_at": 0.0,
        "seen_at": 0.0,
        "ended_at": None,
    }
    return WorkerRecord(**(fields | changes))


def card(page: Any, host: str) -> Any:
    return page.locator(".am-worker", has=page.get_by_role("heading", name=host))


def test_without_workers_the_page_says_how_to_start_one(page: Any, served: Served) -> None:
    page.goto("/workers")
    expect(page.locator(".am-empty")).to_contain_text("Nobody works now")
    expect(page.locator("code", has_text="automl worker")).to_be_visible()


@pytest.fixture(scope="module")
def workers(served: Served) -> Served:
    """One with a GPU that runs a trial, one that has ended."""
    engine = served.engine
    engine.enroll(worker("tower-7"))
    engine.enroll(worker("gone-8"))
    engine.leave("gone-8")
    record = engine.declare(spec("busy"))
    with closing(engine.suggester(record)) as suggester:
        suggester.step(1, 600.0)
    lease = engine.claim([record.id], "tower-7-0", uuid.uuid4().hex, 600.0)
    assert lease is not None
    engine.report(lease.token, [Report(3, 0.125)])
    engine.beat("tower-7", Load(0.25, 0.5, (GPU,)))
    return served


def test_a_worker_shows_its_load_its_gpus_and_what_runs_on_each_slot(page: Any, workers: Served) -> None:
    page.goto("/workers")
    for words in ("working", "25 %", "50 %", "GPU 0 memory", "32.2 GB of 129 GB", "NVIDIA <b>H200</b>", "torch 2.13"):
        expect(card(page, "tower")).to_contain_text(words)
    expect(card(page, "tower").locator("tbody tr").nth(0)).to_contain_text("busy · 0")
    expect(card(page, "tower").locator("tbody tr").nth(0)).to_contain_text("0.1250")
    expect(card(page, "tower").locator("tbody tr").nth(1)).to_contain_text("idle")
    expect(page.locator(".am-header").first).to_contain_text("1 of 2 slots busy")
    page.get_by_role("link", name="busy · 0").click()
    page.wait_for_url("**/trial?study=busy&trial=0")


def test_those_that_ended_are_shown_on_demand_and_dimmed(page: Any, workers: Served) -> None:
    page.goto("/workers")
    expect(page.locator(".am-worker")).to_have_count(1)
    page.locator(".st-key-workers-all label").click()
    expect(card(page, "gone")).to_contain_text("ended")
    expect(card(page, "gone")).to_have_class("am-worker am-dim")


def test_a_worker_is_drained_after_a_question_and_taken_back_by_undo(page: Any, workers: Served) -> None:
    page.goto("/workers")
    page.get_by_role("button", name="Drain").click()
    expect(page.get_by_role("dialog")).to_contain_text("tower")
    assert not workers.engine.workers()[0].draining  # asked, not done
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    expect(page.locator(".st-key-done")).to_contain_text("Worker tower-7 takes no new trials.")
    expect(card(page, "tower")).to_contain_text("draining")
    assert workers.engine.workers()[0].draining
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".st-key-done")).to_contain_text("Worker tower-7 takes trials again.")
    expect(card(page, "tower")).to_contain_text("working")
    assert not workers.engine.workers()[0].draining
