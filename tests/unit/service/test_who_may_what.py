"""Every route, and what each of seven callers may do there. A route that is not in the table is refused here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from automl.client.work import LEASE
from automl.core import Outcome, TrialState
from automl.service.app import API
from automl.service.openapi import document, operations
from automl.service.routes import ROUTERS, health
from automl.team import Identity, Scope
from tests.conformance.lab import LEASE_S, new_token, spec
from tests.unit.service.house import House, open_house, suggest
from tests.unit.service.test_openapi import examples_of

#: Anybody may ask these.
OPEN = {("GET", "/healthz"), ("GET", "/readyz")}
#: Whoever has a good token.
ANY = {("GET", "/project")}
ADMIN = {
    ("POST", "/channels"),
    ("GET", "/channels"),
    ("GET", "/channels/{name}"),
    ("DELETE", "/channels/{name}"),
    ("POST", "/channels/{name}/test"),
    ("GET", "/deliveries"),
    ("DELETE", "/studies/{study_id}"),
    ("POST", "/studies/undelete"),
    ("POST", "/studies/purge"),
    ("POST", "/tokens"),
    ("GET", "/tokens"),
    ("DELETE", "/tokens/{token}"),
    ("POST", "/workers/drain"),
}
PROMOTE = {
    ("POST", "/studies/{study_id}/promotions"),
    ("POST", "/models/rollback"),
}
SUBMIT_CODE = {("PUT", "/packages/{sha256}")}
SUBMIT = {
    ("POST", "/batches"),
    ("POST", "/batches/{name}/stop"),
    ("POST", "/schedules"),
    ("PATCH", "/schedules/{schedule_id}"),
    ("DELETE", "/schedules/{schedule_id}"),
    ("POST", "/studies"),
    ("PATCH", "/studies/{study_id}"),
    ("POST", "/studies/{study_id}/clone"),
    ("POST", "/studies/{study_id}/confirmation"),
    ("POST", "/studies/{study_id}/trials"),
    ("POST", "/studies/{study_id}/trials/{number}/invalidate"),
    ("POST", "/studies/{study_id}/trials/{number}/restore"),
}
WORK = {
    ("POST", "/studies/{study_id}/ask"),
    ("POST", "/tell"),
    ("POST", "/report"),
    ("PUT", "/files/{sha256}/{name}"),
    ("GET", "/packages/{sha256}"),
    ("PUT", "/work/checkpoints/{step}/{sha256}"),
    ("HEAD", "/work/checkpoints/{step}/{sha256}"),
    ("GET", "/work/checkpoints"),
    ("GET", "/work/queue"),
    ("POST", "/work/claim"),
    ("POST", "/work/renew"),
    ("POST", "/work/report"),
    ("POST", "/work/describe"),
    ("POST", "/work/should-prune"),
    ("POST", "/work/checkpoint"),
    ("POST", "/work/finish"),
    ("POST", "/work/fail"),
    ("POST", "/work/release"),
    ("POST", "/work/artifacts"),
    ("POST", "/work/enroll"),
    ("POST", "/work/beat"),
    ("POST", "/work/leave"),
    ("POST", "/work/want"),
    ("POST", "/work/confirm"),
}
READ = {
    ("GET", "/batches"),
    ("GET", "/batches/{name}"),
    ("GET", "/batches/{name}/spent"),
    ("GET", "/batches/{name}/report"),
    ("GET", "/metrics"),
    ("GET", "/events"),
    ("HEAD", "/files/{sha256}/{name}"),
    ("GET", "/files/{sha256}/{name}"),
    ("GET", "/models"),
    ("GET", "/models/versions"),
    ("GET", "/models/version"),
    ("GET", "/models/promotions"),
    ("GET", "/models/files"),
    ("POST", "/studies/{study_id}/gates"),
    ("GET", "/schedules"),
    ("GET", "/schedules/firings"),
    ("GET", "/schedules/{schedule_id}"),
    ("GET", "/schedules/{schedule_id}/next"),
    ("GET", "/schedules/{schedule_id}/firings"),
    ("GET", "/studies"),
    ("GET", "/studies/{study_id}"),
    ("GET", "/studies/{study_id}/counts"),
    ("GET", "/counts"),
    ("GET", "/studies/{study_id}/best-trials"),
    ("GET", "/studies/{study_id}/forecast"),
    ("GET", "/studies/{study_id}/sources"),
    ("GET", "/studies/{study_id}/audit"),
    ("GET", "/studies/{study_id}/confirmation"),
    ("GET", "/studies/{study_id}/confirmed"),
    ("GET", "/studies/{study_id}/estimates"),
    ("GET", "/studies/{study_id}/trials"),
    ("GET", "/studies/{study_id}/trials/{number}"),
    ("GET", "/studies/{study_id}/invalid-trials"),
    ("GET", "/studies/{study_id}/finished-trials"),
    ("GET", "/studies/{study_id}/trials/{number}/log"),
    ("GET", "/trials/{trial_id}"),
    ("GET", "/trials/{trial_id}/reports"),
    ("GET", "/trials/{trial_id}/moves"),
    ("GET", "/trials/{trial_id}/environment"),
    ("GET", "/clock"),
    ("GET", "/change"),
    ("GET", "/overviews"),
    ("GET", "/studies/{study_id}/board"),
    ("GET", "/studies/{study_id}/curves"),
    ("GET", "/studies/{study_id}/timeline"),
    ("GET", "/studies/{study_id}/space"),
    ("POST", "/studies/{study_id}/what-if"),
    ("POST", "/studies/{study_id}/surface"),
    ("GET", "/studies/{study_id}/importances"),
    ("GET", "/workers"),
}
TABLE: dict[tuple[str, str], Scope | None] = {
    **dict.fromkeys(ANY, None),
    **dict.fromkeys(ADMIN, Scope.ADMIN),
    **dict.fromkeys(PROMOTE, Scope.PROMOTE),
    **dict.fromkeys(SUBMIT_CODE, Scope.SUBMIT_CODE),
    **dict.fromkeys(SUBMIT, Scope.SUBMIT),
    **dict.fromkeys(WORK, Scope.WORK),
    **dict.fromkeys(READ, Scope.READ),
}
#: What another project finds there, where it is no 404: it has a place of its own for what it sends, and is told that
#: what it sends is not what its digest says; and it has no such lease.
ELSEWHERE = {
    ("PUT", "/files/{sha256}/{name}"): 422,
    ("PUT", "/packages/{sha256}"): 422,
    ("PUT", "/work/checkpoints/{step}/{sha256}"): 409,
    ("HEAD", "/work/checkpoints/{step}/{sha256}"): 409,
}
#: What else their addresses need.
QUERIES = {
    ("GET", "/studies/{study_id}/curves"): "?numbers=0",
    ("GET", "/studies/{study_id}/finished-trials"): "?since=0",
    ("GET", "/studies/{study_id}/trials/{number}/log"): "?attempt=1",
}


def routes() -> Iterator[tuple[str, str, APIRoute]]:
    """Method, address and route, for all that there are."""
    for router in ROUTERS:
        for route in router.routes:
            assert isinstance(route, APIRoute), f"{route}: whoever is it for?"
            for method in sorted(route.methods):
                yield method, route.path, route


def scopes_of(dependant: Dependant) -> Iterator[Scope | None]:
    """What a route says that it needs, anywhere among what it depends on."""
    for found in dependant.dependencies:
        if hasattr(found.call, "scope"):
            yield found.call.scope
        yield from scopes_of(found)


def test_every_route_says_what_it_takes_and_the_table_says_the_same() -> None:
    said = {}
    for method, path, route in routes():
        if (method, path) in OPEN:
            assert list(scopes_of(route.dependant)) == []
            continue
        scopes = list(scopes_of(route.dependant))
        assert len(scopes) == 1, f"{method} {path} says {len(scopes)} times who may come in: say it once, with needs()"
        said[method, path] = scopes[0]
    assert said == TABLE


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with open_house(f"sqlite:///{folder}/automl.db", folder / "artifacts") as opened:
        study = opened.engine.declare(spec("theirs"), queued=True)
        suggest(opened.engine, study, 2)
        token = new_token()
        assert opened.engine.claim([study.id], "w-0", token, LEASE_S)
        opened.engine.finish(token, Outcome(TrialState.COMPLETE, (0.5,)))
        for path in ("/schedules", "/batches", "/channels"):
            made = ask(opened, _bodies(opened), "POST", path, "admin")
            assert made.status < 300, f"{path}: {made.data!r}"
        yield opened


@pytest.fixture(scope="module")
def bodies(house: House) -> dict[tuple[str, str], bytes]:
    return _bodies(house)


def _bodies(house: House) -> dict[tuple[str, str], bytes]:
    """A body that each operation understands."""
    described = document(house.app)
    found = {}
    for method, path, operation in operations(described):
        for media, content in operation.get("requestBody", {}).get("content", {}).items():
            if media == "application/json":
                example = next(iter(examples_of(content, described)), {})
                found[method, path.removeprefix(API)] = json.dumps(example).encode()
    return found


def ask(house: House, bodies: dict[tuple[str, str], bytes], method: str, path: str, who: str | None) -> Any:
    filled = {"study_id": "1", "trial_id": "1", "number": "0", "schedule_id": "1", "token": "reader", "step": "1"}
    names = {"channels": "team", "batches": "night", "files": "model.safetensors"}
    filled |= {"sha256": "0" * 64, "name": names.get(path.split("/")[1], "")}
    address = re.sub(r"\{([a-z0-9_]+)\}", lambda found: filled.get(found[1], "1"), path) + QUERIES.get(
        (method, path), ""
    )
    prefix = "" if path in {route.path for route in health.router.routes} else API
    options: dict[str, Any] = {"headers": {LEASE: "0" * 32}}
    if (method, path) in bodies:
        options = {"body": bodies[method, path], "headers": {"Content-Type": "application/json"}}
    answer = house.ask(method, prefix + address, who=who, preload_content=False, **options)
    if path != "/events" or answer.status != 200:
        answer.read()
    answer.close()
    return answer


def test_what_is_of_another_project_is_not_there(house: House, bodies: dict[tuple[str, str], bytes]) -> None:
    wrong = []
    for method, path in sorted(TABLE):
        if "{" in path:
            status = ask(house, bodies, method, path, "foreign").status
            if status != ELSEWHERE.get((method, path), 404):
                wrong.append(f"{method} {path} -> {status}")
    assert wrong == []


def test_who_has_not_the_scope_is_refused_everywhere_and_who_has_it_nowhere(
    house: House, bodies: dict[tuple[str, str], bytes]
) -> None:
    wrong = []
    for who in (None, "read", "submit", "submit-code", "work", "promote", "admin"):
        for (method, path), scope in sorted(TABLE.items()):
            identity = None if who is None else Identity(who, "default", frozenset({Scope(who)}))
            status = ask(house, bodies, method, path, who).status
            if identity is None:
                is_right = status == 401
            elif scope is not None and not identity.may(scope):
                is_right = status == 403
            else:
                is_right = status not in (401, 403) and status < 500
            if not is_right:
                wrong.append(f"{who}: {method} {path} -> {status}")
        if who == "promote":
            assert [study.name for study in house.engine.studies()][:1] == ["theirs"]
    assert wrong == []
