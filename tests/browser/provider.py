"""An identity provider for tests, on a port of its own: whoever is asked for logs in at once.

The code flow of OpenID Connect Core 1.0, section 3.1, as far as a well-behaved client takes it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlencode

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from joserfc import jwt
from joserfc.jwk import RSAKey

from automl.service.callers import local
from tests.service import running

CLIENT, CLIENT_SECRET = "automl", "b7c1d2e9f0a43857"


class Provider:
    """`claims` are those of whoever logs in next."""

    def __init__(self) -> None:
        self.url = ""
        self.claims: dict[str, Any] = {}
        self.logged_out = 0
        self._key = RSAKey.generate_key(2048, {"kid": "1"})
        self._codes: dict[str, tuple[str, dict[str, Any]]] = {}  # code -> nonce, claims

    def app(self) -> FastAPI:
        app = FastAPI()
        app.state.authenticate = local  # for whom it is served
        app.get("/.well-known/openid-configuration")(self._metadata)
        app.get("/keys")(self._keys)
        app.get("/authorize")(self._authorize)
        app.post("/token")(self._token)
        app.get("/logout")(self._logout)
        return app

    def _metadata(self) -> Response:
        names = {"authorization": "authorize", "token": "token", "end_session": "logout"}
        endpoints = {f"{name}_endpoint": f"{self.url}/{path}" for name, path in names.items()}
        more = {"response_types_supported": ["code"], "subject_types_supported": ["public"]}
        signed = {"id_token_signing_alg_values_supported": ["RS256"], "code_challenge_methods_supported": ["S256"]}
        return JSONResponse({"issuer": self.url, "jwks_uri": f"{self.url}/keys", **endpoints, **more, **signed})

    def _keys(self) -> Response:
        return JSONResponse({"keys": [self._key.as_dict(private=False)]})

    def _authorize(self, redirect_uri: str, state: str, nonce: str) -> Response:
        code = secrets.token_hex(8)
        self._codes[code] = (nonce, dict(self.claims))
        return RedirectResponse(f"{redirect_uri}?{urlencode({'code': code, 'state': state})}", 302)

    async def _token(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode())
        nonce, claims = self._codes.pop(form["code"][0])
        now = int(time.time())
        times = {"iat": now, "exp": now + 600}
        said = {"iss": self.url, "aud": CLIENT, "sub": "1", "nonce": nonce, **times, **claims}
        token = jwt.encode({"alg": "RS256", "kid": "1"}, said, self._key)
        return JSONResponse({"access_token": "a", "token_type": "Bearer", "expires_in": 600, "id_token": token})

    def _logout(self, post_logout_redirect_uri: str | None = None) -> Response:
        self.logged_out += 1
        return RedirectResponse(post_logout_redirect_uri or self.url, 302)


@contextmanager
def provider() -> Iterator[Provider]:
    made = Provider()
    with running(made.app()) as url:
        made.url = url
        yield made
