"""A real dashboard over a database of its own, and a real browser in front of it.

Without Chromium these tests are skipped; where the environment variable CI is set they fail instead.
"""

from __future__ import annotations

import functools
import inspect
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from automl.engine import Engine, connect

ROOT = Path(__file__).parents[2]

#: A machine that does five things at once draws slowly.
PATIENCE_S = 60.0

#: A check that names no other time waits this long for the page to be so.
EXPECTED_S = 15.0

#: WebGL is drawn by the processor; a container gives no sandbox and little shared memory.
_CHROMIUM_ARGUMENTS = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--use-gl=swiftshader",
    "--enable-unsafe-swiftshader",
)


class Served:
    """A dashboard that runs. `engine` is the test's own way to the same database."""

    def __init__(self, folder: Path, storage: str):
        self.folder = folder
        self.storage = storage
        self.engine: Engine = connect(storage, folder / "artifacts")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self._log = folder / "dashboard.log"
        settings = {"AUTOML_STORAGE": storage, "AUTOML_ARTIFACTS": str(folder / "artifacts"), "PYTHONPATH": str(ROOT)}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "automl", "dashboard", "--port", str(self.port), "--no-browser"],
                cwd=folder,
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.address}/_stcore/health", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.05)
        self.close()
        raise AssertionError(f"the dashboard did not start:\n{self.printed()}")

    def printed(self) -> str:
        """All that the server has printed so far."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        with self.process:
            self.process.terminate()
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.engine.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A dashboard over an empty embedded database, shared by the tests of a module."""
    folder = tmp_path_factory.mktemp("served")
    dashboard = Served(folder, f"sqlite:///{folder}/automl.db")
    yield dashboard
    dashboard.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium. One for each module: while it is there, no test of another module could use asyncio."""
    executable = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if executable is None:
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium, and in CI the browser tests must run: apt-get install chromium")
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    from playwright.sync_api import Locator, LocatorAssertions, expect, sync_playwright

    expect.set_options(timeout=1000 * EXPECTED_S)
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        for asker in (Locator, LocatorAssertions):
            for name, method in list(vars(asker).items()):
                if not name.startswith("_") and inspect.isfunction(method):
                    patch.setattr(asker, name, _waits_for_one(method))
        chromium = playwright.chromium.launch(executable_path=executable, args=list(_CHROMIUM_ARGUMENTS))
        yield chromium
        chromium.close()


def _waits_for_one(ask: Callable[..., Any]) -> Callable[..., Any]:
    """`ask`, which waits while its locator finds two.

    Until a run ends, Streamlit shows what the last run left beside what this one draws. Playwright waits for an element
    to come and to be so, but not for a second one to go.
    """

    @functools.wraps(ask)
    def patient(*arguments: Any, **options: Any) -> Any:
        deadline = time.monotonic() + EXPECTED_S
        while True:
            try:
                return ask(*arguments, **options)
            except Exception as error:
                if "strict mode violation" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)  # nothing tells when the second one goes

    return patient


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Any]:
    """A window of 1280 x 800 on `served`; `page.goto("/workers")`. Fails when it asked another machine for anything."""
    yield from window(browser, served)


def window(browser: Any, served: Served, **options: Any) -> Iterator[Any]:
    """A page of its own context; `options` are Playwright's, as `color_scheme` and `viewport`."""
    settings = {"base_url": served.address, "viewport": {"width": 1280, "height": 800}} | options
    context = browser.new_context(**settings)
    context.set_default_timeout(1000 * PATIENCE_S)
    asked: list[str] = []
    found = context.new_page()
    found.on("request", lambda request: asked.append(request.url))
    found.on("websocket", lambda socket: asked.append(socket.url))
    yield found
    context.close()
    ours = (f"{served.address}/", f"ws://127.0.0.1:{served.port}/", "data:", "blob:")
    assert [url for url in asked if not url.startswith(ours)] == []
