"""How long people wait for the dashboard, in a real browser: ours and optuna-dashboard, one after the other.

    pip install playwright optuna-dashboard      # and Chromium, as of Debian's package
    python bench/dashboard.py                    # 50,000 trials here, 10,000 trials in both
    python bench/dashboard.py --trials 5000      # smaller

The studies have 10 parameters and 20 reports a trial. Each page is loaded three times, each time by a browser with an
empty cache and from a server that was just started; the median counts. README.md says what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent
PARAMETERS, REPORTS = 10, 20
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
TIMEOUT_MS = 600_000
#: What tells that trials are drawn, in both dashboards: both use plotly. Axes alone are there before any data.
DRAWN = ".js-plotly-plot .trace"
VIEWS = ("Curves", "Parameters", "Trials", "Timeline", "Why", "Progress")


def fill_optuna(path: Path, trials: int) -> str:
    """A study like ours in Optuna's own database, by bulk inserts; its URL."""
    import optuna
    import sqlalchemy as sa
    from optuna.distributions import FloatDistribution, distribution_to_json

    url = f"sqlite:///{path}"
    optuna.create_study(study_name="big", storage=url)
    draw, began = random.Random(0), datetime(2026, 1, 1)
    engine = sa.create_engine(url)
    tables = sa.MetaData()
    tables.reflect(engine)
    distribution = distribution_to_json(FloatDistribution(0.0, 1.0))
    rows: dict[str, list[dict[str, Any]]] = {
        "trials": [], "trial_params": [], "trial_values": [], "trial_intermediate_values": []
    }  # fmt: skip
    for number in range(trials):
        id, at = number + 1, began + timedelta(seconds=number)
        times = {"datetime_start": at, "datetime_complete": at + timedelta(seconds=1)}
        rows["trials"].append({"trial_id": id, "number": number, "study_id": 1, "state": "COMPLETE", **times})
        point = [draw.random() for _ in range(PARAMETERS)]
        value = sum((x - 0.3) ** 2 for x in point)
        rows["trial_params"] += [
            {"trial_id": id, "param_name": f"x{i}", "param_value": x, "distribution_json": distribution}
            for i, x in enumerate(point)
        ]
        rows["trial_values"].append({"trial_id": id, "objective": 0, "value": value, "value_type": "FINITE"})
        rows["trial_intermediate_values"] += [
            {
                "trial_id": id,
                "step": step,
                "intermediate_value": value + math.exp(-step / 5),
                "intermediate_value_type": "FINITE",
            }
            for step in range(REPORTS)
        ]
    with engine.begin() as connection:
        for name, values in rows.items():
            connection.execute(tables.tables[name].insert(), values)
    return url


def fill_ours(path: Path, trials: int) -> str:
    """A study named "big"; its URL."""
    url = f"sqlite:///{path}"
    command = [sys.executable, str(ROOT / "big_study.py"), "--storage", url, "--trials", str(trials)]
    shape = ["--params", str(PARAMETERS), "--reports", str(REPORTS), "--name", "big"]
    subprocess.run([*command, *shape], check=True)
    return url


@contextlib.contextmanager
def serving(command: Sequence[str], port: int, health: str) -> Iterator[psutil.Process]:
    """A server that answers; ended with all its children."""
    environment = {**os.environ, "AUTOML_ARTIFACTS": tempfile.mkdtemp(prefix="automl-bench-")}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        server = psutil.Process(process.pid)
        try:
            deadline = time.monotonic() + 120
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{health}", timeout=5).read()
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        raise SystemExit(f"{command} does not serve: {log.read().decode()[-2000:]}") from None
                    time.sleep(0.1)
            yield server
        finally:
            for child in [*server.children(recursive=True), server]:
                child.kill()
            process.wait()


def ours(url: str, port: int) -> list[str]:
    arguments = ["--storage", url, "--port", str(port), "--no-browser"]
    return [sys.executable, "-m", "automl", "dashboard", *arguments]


def optunas(url: str, port: int) -> list[str]:
    return [str(Path(sys.executable).parent / "optuna-dashboard"), url, "--port", str(port), "--host", "127.0.0.1"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def first_view(browser: Browser, url: str) -> float:
    """Seconds from asking for the address until trials are drawn, in a browser with an empty cache."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(TIMEOUT_MS)

    def load() -> None:
        page.goto(url, wait_until="commit")
        page.locator(DRAWN).first.wait_for(state="visible")

    taken = seconds(load)
    page.context.close()
    return taken


def opened(browser: Browser, url: str) -> Page:
    """A page of its own context on which trials are drawn."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(url)
    page.locator(DRAWN).first.wait_for(state="visible")
    return page


def used(server: psutil.Process) -> tuple[float, float]:
    """CPU seconds so far and MB of memory, with all child processes."""
    family = [server, *server.children(recursive=True)]
    times = [process.cpu_times() for process in family]
    return sum(t.user + t.system for t in times), sum(process.memory_info().rss for process in family) / 1e6


def cold(browser: Browser, command: Callable[[str, int], list[str]], url: str, where: str, health: str) -> list[float]:
    """`first_view` of three servers, each just started."""
    found = []
    for _ in range(3):
        port = free_port()
        with serving(command(url, port), port, health):
            found.append(first_view(browser, f"http://127.0.0.1:{port}{where}"))
    return found


def interactions(page: Page) -> dict[str, float]:
    """Seconds from a click on each view to what it shows."""
    found = {}
    for view in VIEWS:
        button = page.get_by_test_id("stButtonGroup").get_by_text(view, exact=True).first
        shown = page.get_by_test_id("stDataFrame") if view == "Trials" else page.locator(DRAWN)
        marker = page.locator(f".view-{view.lower()}")  # each view begins with it

        def change(button: Any = button, marker: Any = marker, shown: Any = shown) -> None:
            button.click()
            marker.first.wait_for(state="attached")
            shown.first.wait_for(state="visible")

        found[view] = seconds(change)
    return found


def live(page: Page, url: str, server: psutil.Process, rounds: int = 10) -> dict[str, float]:
    """Finish a trial, wait until the open page counts it; and the server's CPU for it."""
    from automl import connect
    from automl.core import Outcome, TrialState

    engine = connect(url)
    record = engine.study("big")
    delays, cpu = [], []
    for _ in range(rounds):
        engine.enqueue(record, engine.trial(record, 7).params, extend=True)
        suggester = engine.suggester(record)
        suggester.step(1, 30.0)  # completes what was enqueued
        suggester.close()
        token = f"bench-{time.time_ns()}"
        assert engine.claim([record.id], "bench", token, 30.0) is not None
        time.sleep(3.0)
        before, _ = used(server)
        done = page.locator(".trials-done").get_attribute("data-done")
        engine.finish(token, Outcome(TrialState.COMPLETE, (0.5,)))
        began = time.perf_counter()
        page.wait_for_function(
            "was => document.querySelector('.trials-done')?.dataset.done != was", arg=done, timeout=TIMEOUT_MS
        )
        delays.append(time.perf_counter() - began)
        time.sleep(max(0.0, 2.0 - delays[-1]))
        cpu.append(used(server)[0] - before)
    engine.close()
    return {"seconds_to_see": statistics.median(delays), "worst_s": max(delays), "cpu_s": statistics.median(cpu)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50_000)
    parser.add_argument("--beside", type=int, default=10_000, help="trials of the study that both show")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser"))
    options = parser.parse_args()
    result: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {sys.version.split()[0]}"
    }
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=list(FLAGS))
        big = fill_ours(Path(folder) / "big.db", options.trials)
        page_of = "/study?study=big"
        result["trials"] = options.trials
        result["cold_s"] = cold(browser, ours, big, page_of, "/_stcore/health")
        port = free_port()
        with serving(ours(big, port), port, "/_stcore/health") as server:
            address = f"http://127.0.0.1:{port}{page_of}"
            page = opened(browser, address)
            interactions(page)  # what the browser has not loaded yet counts for cold
            result["interactions_s"] = interactions(page)
            result["live"] = live(page, big, server)
            page.context.close()
            result["warm_s"] = first_view(browser, address)
            tabs = [opened(browser, address) for _ in range(5)]
            for tab in tabs:
                interactions(tab)
            result["memory_mb_with_5_tabs"] = used(server)[1]
            for tab in tabs:
                tab.context.close()
        same = fill_ours(Path(folder) / "same.db", options.beside)
        other = fill_optuna(Path(folder) / "optuna.db", options.beside)
        result["beside"] = {
            "trials": options.beside,
            "ours_s": cold(browser, ours, same, page_of, "/_stcore/health"),
            "optuna_dashboard_s": cold(browser, optunas, other, "/dashboard/studies/1", "/api/studies"),
        }
        browser.close()
    print(json.dumps(result, indent=1))
    (ROOT / "results" / "dashboard.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
