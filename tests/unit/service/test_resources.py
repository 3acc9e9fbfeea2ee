"""What only somebody without our client meets: pages, filters, conditions, ask and tell, who is named, files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from automl.core import Artifact, TrialState
from automl.service.callers import LOCAL, Caller
from automl.service.routes.models import _who
from automl.team import Identity, Scope
from tests.conformance.lab import complete, new_token, spec
from tests.unit.service.house import House

API = "/api/v1"


def get(house: House, path: str, **query: Any) -> Any:
    answer = house.ask("GET", API + path, fields={name: str(value) for name, value in query.items()})
    assert answer.status == 200, answer.data
    return json.loads(answer.data)


def send(house: House, method: str, path: str, body: Any = None, *, status: int = 200, **options: Any) -> Any:
    headers = {"Content-Type": "application/json", **options.pop("headers", {})}
    data = json.dumps({} if body is None else body)
    answer = house.ask(method, API + path, body=data, headers=headers, **options)
    assert answer.status == status, answer.data
    return json.loads(answer.data) if answer.data else None


@pytest.fixture
def studies(hut: House) -> Iterator[list[int]]:
    """Seven studies, by their ids; in the order of names the other way round."""
    ids = [hut.engine.declare(spec(name), queued=name in "ab").id for name in "gfedcba"]
    hut.engine.archive("c")
    hut.engine.tag("d", ["x", "y"])
    hut.engine.stop("e")
    yield ids


@pytest.mark.parametrize("order", ["id", "-id", "name", "-name"])
@pytest.mark.parametrize("limit", [1, 2, 3, 7])
def test_pages_hold_each_study_once_in_the_order_that_was_asked_for(
    hut: House, studies: list[int], order: str, limit: int
) -> None:
    seen: list[str] = []
    query: dict[str, Any] = {"order": order, "limit": limit}
    while True:
        page = get(hut, "/studies", **query)
        assert len(page["items"]) <= limit
        seen += [item["name"] for item in page["items"]]
        if page["next"] is None:
            break
        query["after"] = page["next"]
    assert seen == list("gfedcba" if order in ("id", "-name") else "abcdefg")


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"name": "a"}, "a"),
        ({"name": "nobody"}, ""),
        ({"state": "stopped"}, "e"),
        ({"tag": "y"}, "d"),
        ({"archived": "true"}, "c"),
        ({"archived": "false", "state": "open"}, "gfdba"),
        ({"queued": "true"}, "ba"),
        ({"queued": "false", "archived": "false"}, "gfed"),
    ],
    ids=str,
)
def test_each_filter_leaves_out_what_it_says(hut: House, studies: list[int], query: dict[str, str], names: str) -> None:
    assert [item["name"] for item in get(hut, "/studies", **query)["items"]] == list(names)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"order": "spec"}, "order"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"after": 0}, "after"),
        ({"state": "odd"}, "state"),
        ({"sort": "name"}, "sort"),
        ({"order": "name", "after": 999}, "after"),
    ],
    ids=str,
)
def test_a_listing_that_cannot_be_is_refused_by_its_field(hut: House, query: dict[str, Any], field: str) -> None:
    answer = hut.ask("GET", f"{API}/studies", fields={name: str(value) for name, value in query.items()})
    assert (answer.status, hut.said(answer)["field"]) == (422, field)


def test_trials_come_in_pages(hut: House) -> None:
    record = hut.engine.declare(spec())
    for _ in range(5):
        hut.engine.enqueue(record, {"x": 0.5})
    first = get(hut, f"/studies/{record.id}/trials", limit=2)
    assert ([item["number"] for item in first["items"]], first["next"]) == ([0, 1], 1)
    last = get(hut, f"/studies/{record.id}/trials", limit=3, after=1)
    assert ([item["number"] for item in last["items"]], last["next"]) == ([2, 3, 4], None)
    assert get(hut, f"/studies/{record.id}/trials", state="complete")["items"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"paused": True, "archived": True},
        {"reason": "x"},
        {"paused": None},
        {"paused": True, "reason": "x"},
        {"state": "open"},
    ],
    ids=str,
)
def test_a_change_is_one_change(hut: House, body: Any) -> None:
    record = hut.engine.declare(spec())
    send(hut, "PATCH", f"/studies/{record.id}", body, status=422)
    assert hut.engine.study_by_id(record.id) == record


def test_what_was_changed_since_it_was_read_is_not_overwritten(hut: House) -> None:
    path = f"/studies/{hut.engine.declare(spec()).id}"
    tag = hut.ask("GET", API + path).headers["ETag"]
    send(hut, "PATCH", path, {"tags": ["a"]}, headers={"If-Match": tag})
    send(hut, "PATCH", path, {"tags": ["b"]}, headers={"If-Match": tag}, status=412)
    assert hut.engine.studies()[0].tags == ("a",)


def test_a_declaration_is_refused_by_the_field_that_is_wrong(hut: House) -> None:
    good = {"name": "s", "metrics": {"a": "max"}, "budget": {"trials": 3}}
    number = {"kind": "float", "low": 0, "high": 1}
    for change, field in (
        ({"budget": {}}, "budget"),
        ({"budget": {"trials": True}}, "spec.budget.trials"),
        ({"budget": {"trials": 3, "hours": 1}}, "spec.budget.hours"),
        ({"space": {"x": {"kind": "float", "low": 2, "high": 1}}}, "spec.space.x.low"),
        ({"space": {"x": {**number, "kind": "odd"}}}, "spec.space.x"),
        ({"space": {"x": {"kind": "choice", "choices": ["a"], "prior": [1, 2]}}}, "spec.space.x.choice"),
        ({"metrics": {}}, "metrics"),
        ({"sampler": "odd"}, "sampler"),
        ({"constraints": {"ms": {}}}, "constraints['ms']"),
        ({"odd": 1}, "spec.odd"),
    ):
        answer = send(hut, "POST", "/studies", {"spec": {**good, **change}}, status=422)
        assert answer["error"]["field"] == field
    assert send(hut, "POST", "/studies", {"spec": {**good, "space": {"x": number}}})["name"] == "s"


def test_code_takes_a_scope_of_its_own(hut: House) -> None:
    body = {"spec": spec().to_json(), "package_sha256": "0" * 64}
    said = send(hut, "POST", "/studies", body, who="submit", status=403)
    assert "submit-code" in said["error"]["message"]


# -- ask, tell, report -----------------------------------------------------------------------------------------------


def test_a_trainer_in_any_language_asks_reports_and_tells(hut: House) -> None:
    record = hut.engine.declare(spec())
    path = f"/studies/{record.id}/ask"
    none = send(hut, "POST", path, {"worker": "w"}, who="work")
    assert none["token"] is None and none["retry_after_s"] > 0
    suggester = hut.engine.suggester(record)
    suggester.step(2, 60.0)
    given = send(hut, "POST", path, {"worker": "w", "lease_s": 9.0}, who="work")
    assert given["params"] == hut.engine.trial(record, 0).params and given["lease_s"] == 9.0
    token = {"token": given["token"]}
    body = {**token, "step": 1, "value": 0.5, "metrics": {"loss": 1.0}, "lease_s": 60.0}
    assert send(hut, "POST", "/report", body, who="work") == {"prune": False}
    told = {**token, "values": [0.75], "metrics": {"loss": 0.5}, "constraints": {"ms": -1.0}}
    send(hut, "POST", "/tell", told, who="work", status=204)
    send(hut, "POST", "/tell", told, who="work", status=204)
    found = hut.engine.trial(record, 0)
    assert (found.state, found.values, found.worker) == (TrialState.COMPLETE, (0.75,), "w")
    assert (found.metrics, found.constraints) == ({"loss": 0.5}, {"ms": -1.0})
    assert [(item.step, item.value) for item in hut.engine.reports(found)] == [(1, 0.5)]
    failing = send(hut, "POST", path, {"worker": "w"}, who="work")
    body = {"token": failing["token"], "state": "failed", "message": "no memory"}
    send(hut, "POST", "/tell", body, who="work", status=204)
    failure = hut.engine.trial(record, 1).failure
    assert failure is not None and failure.message == "no memory"
    suggester.close()


def test_who_has_no_lease_is_not_heard(hut: House) -> None:
    record = hut.engine.declare(spec())
    hut.engine.suggester(record).step(1, 60.0)
    given = send(hut, "POST", f"/studies/{record.id}/ask", {}, who="work")
    for token, status in ((new_token(), 409), ("short", 422)):
        send(hut, "POST", "/tell", {"token": token, "values": [1.0]}, status=status)
    send(hut, "POST", "/tell", {"token": given["token"], "values": [1.0]}, who="foreign", status=409)
    send(hut, "POST", "/tell", {"token": given["token"], "values": [1.0, 2.0]}, status=422)
    send(hut, "POST", "/tell", {"token": given["token"]}, status=422)
    assert hut.engine.trial(record, 0).state is TrialState.RUNNING


# -- models ----------------------------------------------------------------------------------------------------------


def test_the_history_names_the_bearer_of_the_token_first(hut: House) -> None:
    ci = Caller(Identity("ci", "default", frozenset(Scope)), hut.engine)
    assert [_who(ci, said) for said in (None, "ci", "ada")] == ["ci", "ci", "ci (ada)"]
    assert [_who(Caller(LOCAL, hut.engine), said) for said in (None, "ada")] == [None, "ada"]


def test_a_file_of_a_version_is_compared_before_it_is_sent(hut: House, tmp_path: Path) -> None:
    source = tmp_path / 'odd "nämé".txt'
    source.write_text("content")
    stored = hut.engine.artifacts.put(source)
    version_of(hut, stored)
    query = {"reference": "lab@1", "name": source.name}
    answer = hut.ask("GET", f"{API}/models/files", fields=query)
    assert (answer.status, answer.data) == (200, b"content")
    assert answer.headers["Content-Disposition"].startswith("attachment; filename*=utf-8''odd%20%22n")
    assert answer.headers["ETag"] == f'"{hashlib.sha256(b"content").hexdigest()}"'
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert hut.ask("GET", f"{API}/models/files", fields={**query, "name": "../automl.db"}).status == 404
    assert hut.ask("GET", f"{API}/models/files", fields=query, who="foreign").status == 404
    hut.engine.artifacts.path(stored).write_text("damaged")
    assert hut.said(hut.ask("GET", f"{API}/models/files", fields=query))["code"] == "artifact_corrupt"


def version_of(house: House, stored: Artifact) -> None:
    """A model "lab" with one version that has this file."""
    from automl.core import Promotion
    from automl.promotion import Candidate

    record = house.engine.declare(spec())
    house.engine.suggester(record).step(1, 60.0)
    lease = house.engine.claim([record.id], "w", new_token(), 60.0)
    assert lease is not None
    house.engine.finish(lease.token, complete(0.5, artifacts=(stored,)))
    version = Candidate(record, house.engine.trial(record, 0), None, {}).version("lab", 0)
    draft = Promotion("lab", "champion", "promote", None, 0, "ada", None, False, (), None, 0.0)
    house.engine._registry.move(version, draft, 0)
