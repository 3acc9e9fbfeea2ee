"""`automl serve`: what it says, what it refuses, how it ends, and that its duties are done."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from automl.engine import connect
from tests.acceptance.desk import TOY, Desk, Done, ended, wait_until
from tests.unit.searches import spec


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ask(url: str, token: str | None = None, context: ssl.SSLContext | None = None) -> tuple[int, Any]:
    """Status and body; 0 when nobody answers."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=10, context=context
        ) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except (urllib.error.URLError, ConnectionError):
        return 0, None


class Serving:
    """A service that was started at a desk."""

    def __init__(self, desk: Desk, *words: str, scheme: str = "http"):
        port = free_port()
        self.url = f"{scheme}://127.0.0.1:{port}"
        self.process = desk.start("-m", "automl", "serve", "--port", str(port), *words)

    def wait(self, context: ssl.SSLContext | None = None) -> None:
        wait_until(lambda: self.process.poll() is not None or ask(f"{self.url}/healthz", context=context)[0] == 200)

    def duties(self) -> psutil.Process | None:
        """The process that does them."""
        children = psutil.Process(self.process.pid).children()
        return next((child for child in children if "automl.service.duties" in child.cmdline()), None)

    def end(self, how: int = signal.SIGTERM) -> Done:
        self.process.send_signal(how)
        return ended(self.process, timeout_s=15)


def token_of(desk: Desk, scopes: str) -> str:
    return desk.works("token", "create", scopes, "--scopes", scopes).split()[-1]


def test_on_this_machine_it_needs_nothing_and_says_what_it_is(desk: Desk) -> None:
    with closing(connect(f"sqlite:///{desk.folder}/.automl/automl.db")) as engine:
        engine.declare(spec("looked at before anybody asks"))
    service = Serving(desk)
    service.wait()
    status, studies = ask(f"{service.url}/api/v1/studies")
    assert (status, [item["name"] for item in studies["items"]]) == (200, ["looked at before anybody asks"])
    with urllib.request.urlopen(f"{service.url}/", timeout=10) as page:
        assert b"<html" in page.read()
    done = service.end()
    assert done.status == 0
    assert done.err == ""
    first, last = done.out.splitlines()
    assert first.startswith(f"automl on {service.url}: dashboard, API at /api/v1; nobody is asked for a token")
    assert first.endswith("Ctrl-C ends it")
    assert last == "automl: ended; other servers take the duties over"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_it_ends_the_process_of_its_duties_ends_with_it(desk: Desk, how: int) -> None:
    service = Serving(desk, "--no-dashboard")
    service.wait()
    wait_until(service.duties)
    duties = service.duties()
    assert duties is not None
    done = service.end(how)
    assert done.status == (0 if how != signal.SIGKILL else -signal.SIGKILL)
    assert "Traceback" not in done.err
    wait_until(lambda: not duties.is_running() or duties.status() == psutil.STATUS_ZOMBIE, timeout_s=10)


def test_the_process_of_the_duties_is_started_again_when_it_dies(desk: Desk) -> None:
    service = Serving(desk, "--no-dashboard")
    service.wait()
    wait_until(service.duties)
    first = service.duties()
    assert first is not None
    first.kill()
    wait_until(lambda: (found := service.duties()) is not None and found.pid != first.pid)
    done = service.end()
    assert "the process that does the duties ended (status -9); another in" in done.err


def test_a_study_is_supplied_with_suggestions_as_soon_as_somebody_wants_some(desk: Desk) -> None:
    from automl.engine import connect

    desk.write("toy.py", TOY)
    desk.works("submit", "toy.py")
    service = Serving(desk, "--no-dashboard")
    service.wait()
    engine = connect(f"sqlite:///{desk.folder}/.automl/automl.db", desk.folder / ".automl" / "artifacts")
    record = engine.study("toy")
    engine.want(record, 2, 60.0)
    wait_until(lambda: engine.counts([record])[record.id]["waiting"] == 2)
    engine.close()
    assert service.end().status == 0


def test_without_duties_there_is_one_process(desk: Desk) -> None:
    service = Serving(desk, "--no-dashboard", "--no-duties")
    service.wait()
    assert service.duties() is None
    assert "no duties" in service.end().out


def test_a_service_that_asks_answers_only_who_has_a_token(desk: Desk) -> None:
    desk.write("serve.toml", '[auth]\nmode = "token"\n')
    token = token_of(desk, "read")
    service = Serving(desk, "--no-dashboard", "--config", "serve.toml")
    service.wait()
    assert ask(f"{service.url}/api/v1/studies")[0] == 401
    assert ask(f"{service.url}/metrics")[0] == 401
    assert ask(f"{service.url}/api/v1/studies", token)[0] == 200
    done = service.end()
    assert "with a token, which `automl token create` makes" in done.out
    assert token not in done.out + done.err


def refused(desk: Desk, *words: str) -> str:
    """The one line that `automl serve WORDS...` ends with."""
    done = desk.automl("serve", "--port", str(free_port()), *words)
    assert done.status == 2, done.err
    assert done.out == ""
    (line,) = done.err.splitlines()
    return line


def test_it_does_not_listen_where_everybody_could_do_everything_or_read_tokens(desk: Desk) -> None:
    assert "automl token create admin --scopes admin" in refused(desk, "--host", "0.0.0.0")
    assert "automl token create admin --scopes admin" in refused(desk, "--behind-proxy")
    token_of(desk, "admin")
    assert "--tls-cert and --tls-key, or --behind-proxy" in refused(desk, "--host", "0.0.0.0")
    assert "give both" in refused(desk, "--host", "0.0.0.0", "--tls-cert", "cert.pem")


def test_mistakes_get_one_line_that_names_the_cure(desk: Desk) -> None:
    desk.write(
        "weak.toml",
        '[oidc]\nclient_id = "a"\nclient_secret = "b7c1d2e9"\ncookie_secret = "short"\n'
        'server_metadata_url = "https://id.example.org"\nredirect_uri = "https://a.example.org/oauth2callback"\n',
    )
    assert "oidc.cookie_secret: it can be guessed" in refused(desk, "--config", "weak.toml")
    assert "nowhere.toml cannot be read" in refused(desk, "--config", "nowhere.toml")
    assert "give the database's URL" in refused(desk, "--storage", "https://automl.example.org")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "choose another --port" in refused(desk, "--port", str(taken.getsockname()[1]))


def test_it_speaks_tls_and_its_dashboard_needs_no_certificate_of_its_own(desk: Desk) -> None:
    made = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2")
    names = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1")
    try:
        subprocess.run(["openssl", *made, *names], cwd=desk.folder, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    desk.write("serve.toml", '[auth]\nmode = "token"\n')
    service = Serving(desk, "--config", "serve.toml", "--tls-cert", "cert.pem", "--tls-key", "key.pem", scheme="https")
    trusting = ssl.create_default_context(cafile=str(Path(desk.folder, "cert.pem")))
    service.wait(trusting)
    assert ask(f"{service.url}/api/v1/studies", context=trusting)[0] == 401
    assert ask(f"{service.url}/api/v1/studies", token_of(desk, "read"), trusting)[0] == 200
    with urllib.request.urlopen(f"{service.url}/", timeout=10, context=trusting) as page:
        assert b"<html" in page.read()
    assert service.end().status == 0
