"""What a team says about its service, in one TOML file; and whether the service may listen where it was told to.

The file is parsed once, into frozen dataclasses. A key that is none is refused by its name. A secret may be in a file
of its own: `client_secret_file = "/run/secrets/oidc"` instead of `client_secret = "..."`.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from automl.errors import InvalidInput
from automl.outbound import is_loopback
from automl.team import DEFAULT_PROJECT, Scope, check_project, parse_scopes

T = TypeVar("T")

#: A secret that cookies are signed with is as good as it is long.
MIN_SECRET_LENGTH = 32
#: Secrets that stand in examples.
_EXAMPLES = ("change", "secret", "example", "xxxx", "password")
#: Where the identity provider sends a browser back to: Streamlit answers there.
CALLBACK = "/oauth2callback"


@dataclass(frozen=True)
class Role:
    """What somebody who has logged in may do."""

    scopes: tuple[Scope, ...]
    project: str = DEFAULT_PROJECT


@dataclass(frozen=True)
class Service:
    public_url: str | None = None  #: the service's address as people have it: links in messages begin with it

    def __post_init__(self) -> None:
        if self.public_url is not None and urlsplit(self.public_url).scheme not in ("http", "https"):
            cure = "give an http:// or https:// address"
            raise InvalidInput(f"service.public_url: {self.public_url!r}; {cure}", field="service.public_url")


@dataclass(frozen=True)
class Auth:
    mode: str = "auto"  #: "auto": nobody is asked for a token on loopback, everybody elsewhere; "token": everybody

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "token"):
            raise InvalidInput(f"auth.mode: {self.mode!r} is none; there are auto, token", field="auth.mode")


@dataclass(frozen=True)
class Oidc:
    """The identity provider through which people log in to the dashboard."""

    client_id: str
    client_secret: str = field(repr=False, metadata={"secret": True})
    server_metadata_url: str
    redirect_uri: str  #: the service's address as browsers have it, and "/oauth2callback"
    cookie_secret: str = field(repr=False, metadata={"secret": True})
    roles: Mapping[str, Role] = field(default_factory=dict)  #: by e-mail address, or "@" and a domain

    def __post_init__(self) -> None:
        if len(self.cookie_secret) < MIN_SECRET_LENGTH or _is_example(self.cookie_secret):
            cure = f"give {MIN_SECRET_LENGTH} random characters or more, as `openssl rand -hex 32` prints"
            raise InvalidInput(f"oidc.cookie_secret: it can be guessed; {cure}", field="oidc.cookie_secret")
        if not self.client_secret or _is_example(self.client_secret):
            cure = "give the one that the identity provider shows"
            raise InvalidInput(f"oidc.client_secret: it is empty or an example; {cure}", field="oidc.client_secret")
        for name, url in (("server_metadata_url", self.server_metadata_url), ("redirect_uri", self.redirect_uri)):
            parts = urlsplit(url)
            if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
                raise InvalidInput(f"oidc.{name}: {url!r}; give an https:// address", field=f"oidc.{name}")
        if urlsplit(self.redirect_uri).path != CALLBACK:
            cure = f"give the service's own address and {CALLBACK}"
            raise InvalidInput(f"oidc.redirect_uri: {self.redirect_uri!r}; {cure}", field="oidc.redirect_uri")


@dataclass(frozen=True)
class Smtp:
    """The mail server that takes notifications."""

    host: str
    sender: str
    port: int = 587
    user: str | None = None
    password: str | None = field(default=None, repr=False, metadata={"secret": True})
    tls: str = "starttls"  #: or "tls" from the first byte on, or "none"

    def __post_init__(self) -> None:
        if self.tls not in ("starttls", "tls", "none"):
            raise InvalidInput(f"smtp.tls: {self.tls!r} is none; there are starttls, tls, none", field="smtp.tls")


@dataclass(frozen=True)
class Limits:
    """What one caller may ask for."""

    requests_per_s: float = 500.0  #: of one caller, in the long run
    burst: int = 1000  #: requests of one caller at once

    def __post_init__(self) -> None:
        _check_positive("limits", self)


@dataclass(frozen=True)
class Upkeep:
    """How the duties are done."""

    lease_s: float = 15.0  #: a duty whose process died is taken over this long after, and a third more
    grace_s: float = 30.0  #: after the database was away, workers have so long to renew their leases
    keep_deleted_days: float = 7.0  #: so long a deleted study can be brought back
    keep_answers_hours: float = 24.0  #: so long a repeated request gets the first one's answer

    def __post_init__(self) -> None:
        _check_positive("duties", self)


@dataclass(frozen=True)
class Config:
    """The whole file."""

    service: Service = field(default_factory=Service)
    auth: Auth = field(default_factory=Auth)
    oidc: Oidc | None = None
    smtp: Smtp | None = None
    limits: Limits = field(default_factory=Limits)
    duties: Upkeep = field(default_factory=Upkeep)


@dataclass(frozen=True)
class Listen:
    """Where the service listens, and what stands before it."""

    host: str = "127.0.0.1"
    port: int = 8787
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False  #: one that ends TLS and forwards to here
    insecure_http: bool = False  #: tokens may cross the network in clear text

    @property
    def is_open(self) -> bool:
        """Whether anybody but the users of this machine can get here."""
        return self.behind_proxy or not is_loopback(self.host)

    @property
    def url(self) -> str:
        """Its address, for people."""
        everywhere = self.host in ("0.0.0.0", "::")
        host = "localhost" if everywhere else f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"


def load(path: Path | None) -> Config:
    """The configuration in this file; None: nothing is configured. Raises `InvalidInput`, which names the key."""
    if path is None:
        return Config()
    try:
        return parse(tomllib.loads(path.read_text(encoding="utf-8")), path.parent)
    except OSError as error:
        raise InvalidInput(f"--config: {path} cannot be read ({error.strerror})", field="config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"--config: {path} is not TOML: {error}", field="config") from error


def parse(tables: Mapping[str, Any], folder: Path) -> Config:
    """What is in the file. Names of other files are relative to `folder`."""
    kinds: dict[str, type] = {"service": Service, "auth": Auth, "oidc": Oidc}
    kinds |= {"smtp": Smtp, "limits": Limits, "duties": Upkeep}
    _refuse_unknown("", tables, kinds)
    found: dict[str, Any] = {}
    for name, given in tables.items():
        if not isinstance(given, Mapping):
            raise InvalidInput(f"{name}: it is a table; write [{name}] and its keys below", field=name)
        values = dict(given)
        if name == "oidc" and "roles" in values:
            values["roles"] = parse_roles(values["roles"])
        found[name] = _read(kinds[name], name, values, folder)
    return Config(**found)


def parse_roles(given: Any) -> dict[str, Role]:
    """`{"ann@example.org": {"project": "default", "scopes": "read,submit"}}`, scopes as a text or a list."""
    if not isinstance(given, Mapping):
        raise InvalidInput("oidc.roles: it is a table; write [oidc.roles] and its keys below", field="oidc.roles")
    roles = {}
    for who, said in given.items():
        place = f"oidc.roles.{who}"
        if "@" not in who:
            raise InvalidInput(f"{place}: give an e-mail address, or @ and a domain", field="oidc.roles")
        if not isinstance(said, Mapping):
            raise InvalidInput(f"{place}: say it as {{ project = ..., scopes = ... }}", field="oidc.roles")
        _refuse_unknown(f"{place}.", said, ("project", "scopes"))
        scopes = said.get("scopes", "")
        names = scopes if isinstance(scopes, str) else ",".join(map(str, scopes))
        try:
            project = check_project(str(said.get("project", DEFAULT_PROJECT)))
            roles[who.casefold()] = Role(parse_scopes(names), project)
        except InvalidInput as error:
            raise InvalidInput(f"{place}: {error}", field="oidc.roles") from error
    return roles


def role_of(roles: Mapping[str, Role], email: str) -> Role | None:
    """What the bearer of this address may do: his own role, else that of his domain; None: nothing."""
    name, _, domain = email.casefold().rpartition("@")
    if not name or not domain:
        return None
    return roles.get(f"{name}@{domain}") or roles.get(f"@{domain}")


def asks_for_tokens(listen: Listen, config: Config) -> bool:
    """Whether who calls must say who he is."""
    return listen.is_open or config.auth.mode == "token" or config.oidc is not None


def check_exposure(listen: Listen, config: Config, has_token: bool) -> None:
    """Raises `InvalidInput` where a service that listens there would be open to everybody, or its tokens readable."""
    if (listen.tls_cert is None) != (listen.tls_key is None):
        raise InvalidInput("serve: --tls-cert and --tls-key go together; give both", field="tls")
    for path in filter(None, (listen.tls_cert, listen.tls_key)):
        if not path.is_file():
            raise InvalidInput(f"serve: there is no file {path}; give the certificate and its key", field="tls")
    if not listen.is_open:
        return
    if not has_token and config.oidc is None and config.auth.mode != "token":
        cure = "make a token first: automl token create admin --scopes admin"
        raise InvalidInput(f"serve: {listen.host} is reached by others, and nobody could log in; {cure}", field="host")
    if listen.tls_cert is None and not listen.behind_proxy and not listen.insecure_http:
        cure = "give --tls-cert and --tls-key, or --behind-proxy if one before it does TLS, or --insecure-http"
        raise InvalidInput(f"serve: on {listen.host} tokens would be sent in clear text; {cure}", field="host")


def _read(kind: type[T], table: str, given: dict[str, Any], folder: Path) -> T:
    """A dataclass from a table of the file."""
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    secrets = [name for name, item in known.items() if item.metadata.get("secret")]
    _refuse_unknown(f"{table}.", given, [*known, *(f"{name}_file" for name in secrets)])
    for name in secrets:
        if f"{name}_file" in given:
            if name in given:
                raise InvalidInput(f"{table}.{name}: it is given twice; leave one out", field=f"{table}.{name}")
            given[name] = _read_secret(f"{table}.{name}_file", folder / str(given.pop(f"{name}_file")))
    values = {name: _value(f"{table}.{name}", known[name], value) for name, value in given.items()}
    for name, item in known.items():
        if name not in values and item.default is MISSING and item.default_factory is MISSING:
            either = f", or {name}_file" if name in secrets else ""
            raise InvalidInput(f"{table}.{name}: it is missing; give it{either}", field=f"{table}.{name}")
    return kind(**values)


def _read_secret(key: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidInput(f"{key}: {path} cannot be read ({reason})", field=key) from error


def _value(key: str, item: Field[Any], value: Any) -> Any:
    """`value`, if it is of the field's type; a whole number is good where a number is expected."""
    wanted = str(item.type).partition(" |")[0]  # annotations are texts here
    names = {"str": "a text", "int": "a whole number", "float": "a number"}
    if wanted == "float" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if wanted in names and type(value).__name__ != wanted:
        raise InvalidInput(f"{key}: {value!r}; give {names[wanted]}", field=key)
    return value


def _check_positive(table: str, settings: Any) -> None:
    for item in fields(settings):
        value = getattr(settings, item.name)
        if not (math.isfinite(value) and value > 0):
            key = f"{table}.{item.name}"
            raise InvalidInput(f"{key}: {value}; give more than 0", field=key)


def _refuse_unknown(place: str, given: Mapping[str, Any], known: Any) -> None:
    for name in given:
        if name not in known:
            key = f"{place}{name}"
            raise InvalidInput(f"{key}: there is no such key; there are {', '.join(known)}", field=key)


def _is_example(secret: str) -> bool:
    return len(set(secret)) < 8 or any(word in secret.casefold() for word in _EXAMPLES)
