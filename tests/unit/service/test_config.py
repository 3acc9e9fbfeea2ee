"""What a team's file says, how wrong ones are refused, and where a service may listen."""

from __future__ import annotations

from pathlib import Path

import pytest

from automl import wire
from automl.errors import InvalidInput
from automl.service.config import Config, Listen, Role, asks_for_tokens, check_exposure, load, role_of
from automl.service.processes import Job
from automl.team import Scope

SECRET = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c"
OIDC = f"""
[oidc]
client_id = "automl"
client_secret = "b7c1d2e9f0a43857"
server_metadata_url = "https://id.example.org/.well-known/openid-configuration"
redirect_uri = "https://automl.example.org/oauth2callback"
cookie_secret = "{SECRET}"

[oidc.roles]
"ann@example.org" = {{ project = "vision", scopes = "read,submit" }}
"@example.org" = {{ scopes = ["read"] }}
"""


def written(folder: Path, text: str) -> Config:
    path = folder / "serve.toml"
    path.write_text(text)
    return load(path)


def test_everything_in_the_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "mail").write_text("let-me-in\n")
    more = """
[service]
public_url = "https://automl.example.org"
[auth]
mode = "token"
[smtp]
host = "mail.example.org"
sender = "automl@example.org"
password_file = "mail"
[limits]
requests_per_s = 50
[duties]
lease_s = 5
"""
    config = written(tmp_path, OIDC + more)
    assert config.oidc is not None
    assert config.oidc.roles["ann@example.org"] == Role((Scope.READ, Scope.SUBMIT), "vision")
    assert config.smtp is not None
    assert config.smtp.password == "let-me-in"
    assert config.limits.requests_per_s == 50.0
    assert config.duties.lease_s == 5.0
    assert config.auth.mode == "token"
    assert "let-me-in" not in repr(config)
    assert SECRET not in repr(config)


def test_no_file_is_a_configuration_too() -> None:
    assert load(None) == Config()


def test_it_reaches_the_process_of_the_duties_as_it_is(tmp_path: Path) -> None:
    job = Job("sqlite:///a.db", None, written(tmp_path, OIDC), "holder")
    assert wire.parse(Job, wire.dump(job)) == job


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[limit]\nburst = 1", "limit: there is no such key; there are service, auth"),
        ("[duties]\nlease = 1", "duties.lease: there is no such key; there are lease_s"),
        ("[duties]\nlease_s = '1'", "duties.lease_s: '1'; give a number"),
        ("[duties]\nlease_s = true", "duties.lease_s: True; give a number"),
        ("[duties]\nlease_s = 0", "duties.lease_s: 0.0; give more than 0"),
        ("[duties]\nlease_s = nan", "duties.lease_s: nan; give more than 0"),
        ("duties = 3", "duties: it is a table"),
        ("[auth]\nmode = 'off'", "auth.mode: 'off' is none; there are auto, token"),
        ("[smtp]\nhost = 'mail'", "smtp.sender: it is missing"),
        ("[smtp]\nhost = 'mail'\nsender = 'a@b'\npassword_file = 'nowhere'", "smtp.password_file: .* cannot be read"),
        ("[smtp]\nhost = 'mail'\nsender = 'a@b'\ntls = 'ssl'", "smtp.tls: 'ssl' is none"),
        ("[oidc]\nclient_id = 'a'", "oidc.client_secret: it is missing; give it, or client_secret_file"),
        (OIDC.replace(SECRET, "short"), "oidc.cookie_secret: it can be guessed"),
        (OIDC.replace(SECRET, "change-me-" * 5), "oidc.cookie_secret: it can be guessed"),
        (OIDC.replace(SECRET, "a" * 40), "oidc.cookie_secret: it can be guessed"),
        (OIDC.replace("b7c1d2e9f0a43857", "secret"), "oidc.client_secret: it is empty or an example"),
        (OIDC.replace("https://automl", "http://automl"), "oidc.redirect_uri: .* give an https"),
        (OIDC.replace("/oauth2callback", "/callback"), "oidc.redirect_uri: .* /oauth2callback"),
        (OIDC.replace("ann@example.org", "ann"), "oidc.roles.ann: give an e-mail address"),
        (OIDC.replace("read,submit", "read,sudo"), "oidc.roles.ann@example.org: scopes: 'sudo' is none"),
        (OIDC.replace("vision", "Vision!"), "oidc.roles.ann@example.org: project: 'Vision!'"),
        (OIDC.replace("project", "tenant"), "oidc.roles.ann@example.org.tenant: there is no such key"),
        ("[oidc", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        written(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"serve\.toml cannot be read"):
        load(tmp_path / "serve.toml")


def test_a_person_comes_before_the_domain_and_a_stranger_has_no_role(tmp_path: Path) -> None:
    oidc = written(tmp_path, OIDC).oidc
    assert oidc is not None
    assert role_of(oidc.roles, "Ann@Example.org") == Role((Scope.READ, Scope.SUBMIT), "vision")
    assert role_of(oidc.roles, "bob@example.org") == Role((Scope.READ,), "default")
    assert role_of(oidc.roles, "bob@example.org.evil.com") is None
    assert role_of(oidc.roles, "example.org") is None
    assert role_of(oidc.roles, "@example.org") is None
    assert role_of(oidc.roles, "") is None


def test_on_loopback_nobody_is_asked_unless_the_file_says_so(tmp_path: Path) -> None:
    check_exposure(Listen(), Config(), has_token=False)
    assert not asks_for_tokens(Listen(), Config())
    assert asks_for_tokens(Listen(), written(tmp_path, "[auth]\nmode = 'token'"))
    assert asks_for_tokens(Listen(), written(tmp_path, OIDC))


@pytest.mark.parametrize("listen", [Listen("0.0.0.0"), Listen("::"), Listen("10.1.2.3"), Listen(behind_proxy=True)])
def test_an_address_that_others_reach_is_refused_when_nobody_could_log_in(listen: Listen) -> None:
    assert asks_for_tokens(listen, Config())
    with pytest.raises(InvalidInput, match="automl token create admin --scopes admin"):
        check_exposure(listen, Config(), has_token=False)


def test_tokens_do_not_cross_a_network_in_clear_text_unless_somebody_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="--tls-cert and --tls-key, or --behind-proxy"):
        check_exposure(Listen("0.0.0.0"), Config(), has_token=True)
    cert = tmp_path / "cert.pem"
    cert.touch()
    check_exposure(Listen("0.0.0.0", tls_cert=cert, tls_key=cert), Config(), has_token=True)
    check_exposure(Listen("0.0.0.0", behind_proxy=True), Config(), has_token=True)
    check_exposure(Listen("0.0.0.0", insecure_http=True), Config(), has_token=True)
    with pytest.raises(InvalidInput, match="go together"):
        check_exposure(Listen("0.0.0.0", tls_cert=cert), Config(), has_token=True)
    with pytest.raises(InvalidInput, match="there is no file"):
        check_exposure(Listen("0.0.0.0", tls_cert=cert, tls_key=tmp_path / "key.pem"), Config(), has_token=True)
