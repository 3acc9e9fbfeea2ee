"""Who comes to the dashboard of a service that asks: by a token, or through an identity provider."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from automl.engine import Engine, connect
from automl.team import Scope
from tests.browser.conftest import PATIENCE_S, ROOT
from tests.browser.provider import CLIENT, CLIENT_SECRET, Provider, provider
from tests.unit.searches import complete, spec

CONFIG = """
[oidc]
client_id = "{client}"
client_secret = "{secret}"
server_metadata_url = "{provider}/.well-known/openid-configuration"
redirect_uri = "{address}/oauth2callback"
cookie_secret = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c"

[oidc.roles]
"ann@example.org" = {{ project = "vision", scopes = "read" }}
"@staff.example.org" = {{ scopes = "read,submit,promote" }}
"""


class Team:
    """`automl serve` over a database with a study in each of two projects."""

    def __init__(self, folder: Path, config: str, provider_url: str = ""):
        storage = f"sqlite:///{folder}/automl.db"
        self.engine: Engine = connect(storage, folder / "artifacts")
        complete(self.engine, self.engine.declare(spec("reading")), 0.5)
        vision = self.engine.of_project("vision")
        complete(vision, vision.declare(spec("seeing")), 0.5)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"http://127.0.0.1:{probe.getsockname()[1]}"
        written = config.format(client=CLIENT, secret=CLIENT_SECRET, provider=provider_url, address=self.address)
        (folder / "serve.toml").write_text(written)
        words = ["serve", "--port", self.address.rpartition(":")[2], "--config", "serve.toml", "--no-duties"]
        settings = {"AUTOML_STORAGE": storage, "AUTOML_ARTIFACTS": str(folder / "artifacts"), "PYTHONPATH": str(ROOT)}
        self._log = folder / "serve.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "automl", *words],
                cwd=folder,
                env={**os.environ, **settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}/healthz", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert self._process.poll() is None and time.monotonic() < give_up, self.printed()
                time.sleep(0.05)

    def printed(self) -> str:
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        with self._process:
            self._process.terminate()
            assert self._process.wait(timeout=15) == 0, self.printed()
        self.engine.close()


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A service on loopback that asks for tokens all the same."""
    team = Team(tmp_path_factory.mktemp("asking"), '[auth]\nmode = "token"\n')
    team.wait()
    yield team
    team.close()


@pytest.fixture(scope="module")
def identity() -> Iterator[Provider]:
    with provider() as made:
        yield made


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory, identity: Provider) -> Iterator[Team]:
    """A service whose people log in through the identity provider."""
    team = Team(tmp_path_factory.mktemp("known"), CONFIG, identity.url)
    team.wait()
    yield team
    team.close()


@contextmanager
def opened(browser: Any, team: Team, path: str = "/") -> Iterator[Any]:
    """A page of a browser that has never been here."""
    context = browser.new_context(base_url=team.address, viewport={"width": 1280, "height": 800})
    context.set_default_timeout(1000 * PATIENCE_S)
    page = context.new_page()
    page.goto(path)
    yield page
    context.close()


def sees(page: Any, text: str | re.Pattern[str]) -> None:
    page.get_by_text(text).first.wait_for()


def log_in_with(page: Any, token: str) -> None:
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()


def test_without_a_good_token_there_is_nothing_to_see(browser: Any, asking: Team) -> None:
    with opened(browser, asking) as page:
        log_in_with(page, "automl_0123456789ab_" + "x" * 43)
        sees(page, "That is no good token")
        assert page.get_by_text("reading").count() == 0
        page.goto("/workers")
        sees(page, "It is kept for this page only")
    with opened(browser, asking, "/study?name=reading") as page:
        sees(page, "It is kept for this page only")
        assert page.get_by_text("reading").count() == 0


def test_a_token_shows_its_project_and_no_other_and_is_in_no_address(browser: Any, asking: Team) -> None:
    text, _ = asking.engine.of_project("vision").tokens.create("viewer", [Scope.READ])
    with opened(browser, asking) as page:
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url))
        log_in_with(page, text)
        sees(page, "seeing")
        sees(page, "viewer · vision")
        assert page.get_by_text("reading").count() == 0
        assert not [url for url in addresses if text[-20:] in url]
        assert page.context.cookies() == [] or text not in str(page.context.cookies())
        page.get_by_role("button", name="Log out").click()
        sees(page, "It is kept for this page only")
        assert page.get_by_text("seeing").count() == 0
    assert text[-20:] not in asking.printed()


def test_what_a_token_may_not_do_is_not_offered_and_says_why(browser: Any, asking: Team) -> None:
    text, _ = asking.engine.tokens.create("looker", [Scope.READ])
    with opened(browser, asking) as page:
        log_in_with(page, text)
        page.get_by_role("link", name="reading").first.click()
        page.get_by_role("button", name="Actions").click()
        page.get_by_text("Pause", exact=True).first.click()
        sees(page, "This takes the scope 'submit', which you have not")
        assert page.get_by_test_id("stDialog").get_by_role("button", name="Pause").is_disabled()


def test_a_token_that_is_revoked_ends_an_open_page(browser: Any, asking: Team) -> None:
    text, made = asking.engine.tokens.create("guest", [Scope.READ])
    with opened(browser, asking) as page:
        log_in_with(page, text)
        sees(page, "reading")
        asking.engine.tokens.revoke(made.id)
        sees(page, "It is kept for this page only")
        assert page.get_by_text("reading").count() == 0


def test_who_logs_in_sees_the_project_of_his_role_and_logs_out(browser: Any, known: Team, identity: Provider) -> None:
    identity.claims = {"email": "ann@example.org", "email_verified": True}
    with opened(browser, known) as page:
        page.get_by_role("button", name="Log in").click()
        sees(page, "ann@example.org · vision")
        sees(page, "seeing")
        assert page.get_by_text("reading").count() == 0
        (token,) = known.engine.of_project("vision").tokens.all()
        assert (token.created_by, token.scopes) == ("login", (Scope.READ,))
        before = identity.logged_out
        page.get_by_role("button", name="Log out").click()
        page.get_by_role("button", name="Log in").wait_for()
        assert page.get_by_text("seeing").count() == 0
        assert identity.logged_out == before + 1
        (token,) = known.engine.of_project("vision").tokens.all()
        assert token.revoked_at is not None


def test_a_domain_can_have_a_role_and_its_people_may_act(browser: Any, known: Team, identity: Provider) -> None:
    identity.claims = {"email": "bob@staff.example.org", "email_verified": True}
    with opened(browser, known) as page:
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("link", name="reading").first.click()
        page.get_by_role("button", name="Actions").click()
        page.get_by_text("Pause", exact=True).first.click()
        page.get_by_test_id("stDialog").get_by_role("button", name="Pause").click()
        sees(page, "Study reading is paused.")
    assert known.engine.study("reading").paused


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({"email": "eve@elsewhere.org", "email_verified": True}, "nobody has given you a role"),
        ({"email": "ann@example.org", "email_verified": False}, "no e-mail address that it has verified"),
        ({}, "no e-mail address that it has verified"),
    ],
)
def test_who_has_no_role_or_no_verified_address_is_told_so(
    browser: Any, known: Team, identity: Provider, claims: dict[str, Any], told: str
) -> None:
    identity.claims = claims
    with opened(browser, known) as page:
        page.get_by_role("button", name="Log in").click()
        sees(page, re.compile(told))
        assert page.get_by_text("seeing").count() + page.get_by_text("reading").count() == 0
        page.get_by_role("button", name="Log out").click()
        page.get_by_role("button", name="Log in").wait_for()
