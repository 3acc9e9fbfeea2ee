"""What the service says of itself is complete, and true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from automl.engine import connect
from automl.service.app import API, create_app
from automl.service.openapi import document, operations
from automl.service.routes import ROUTERS, health
from tests.unit.service.house import House


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("openapi")
    engine = connect(f"sqlite:///{folder}/automl.db", folder)
    yield document(create_app(engine))
    engine.close()


def test_it_lists_what_the_router_knows(described: dict[str, Any]) -> None:
    known = {
        (method, ("" if router is health.router else API) + route.path)
        for router in ROUTERS
        for route in router.routes
        for method in route.methods
    }
    assert {(method, path) for method, path, _ in operations(described)} == known


def test_each_operation_is_described(described: dict[str, Any]) -> None:
    ids = []
    tags = {tag["name"] for tag in described["tags"]}
    for method, path, operation in operations(described):
        where = f"{method} {path}"
        ids.append(operation["operationId"])
        assert len(operation["summary"]) >= 4, where
        assert set(operation["tags"]) <= tags and operation["tags"], where
        assert any(status.startswith(("2", "3")) for status in operation["responses"]), where
        errors = {status: found for status, found in operation["responses"].items() if status >= "400"}
        assert errors, where
        if path not in ("/healthz", "/readyz"):
            assert {"401", "403", "422", "429", "500", "503"} <= errors.keys(), where
            assert "security" not in operation, where
        for found in errors.values():
            schema = found["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Error"}, where
        for parameter in operation.get("parameters", ()):
            assert "schema" in parameter, where
    assert len(set(ids)) == len(ids)
    assert described["security"] == [{"token": []}]


def test_each_body_has_an_example_that_fits_it(described: dict[str, Any]) -> None:
    lacking = []
    for method, path, operation in operations(described):
        body = operation.get("requestBody")
        if body is None:
            continue
        content = body["content"].get("application/json")
        if content is None:
            assert list(body["content"]) == ["application/octet-stream"]
            continue
        found = list(examples_of(content, described))
        if not found:
            lacking.append(f"{method} {path}")
        for example in found:
            jsonschema.validate(example, {**content["schema"], "components": described["components"]})
    assert lacking == []


def test_it_is_handed_out_to_who_has_a_token_and_no_page_shows_it(hut: House) -> None:
    answer = hut.ask("GET", f"{API}/openapi.json", who="work")
    assert answer.status == 200
    assert json.loads(answer.data)["info"]["title"] == "automl"
    assert hut.ask("GET", f"{API}/openapi.json", who=None).status == 401
    for path in ("/docs", "/redoc", f"{API}/docs", f"{API}/redoc", "/openapi.json"):
        assert hut.ask("GET", path).status == 404


def examples_of(content: dict[str, Any], described: dict[str, Any]) -> Iterator[Any]:
    """Of a body, wherever they stand."""
    if "example" in content:
        yield content["example"]
    for named in content.get("examples", {}).values():
        yield named["value"]
    schema = content.get("schema", {})
    if "$ref" in schema:
        schema = {**described["components"]["schemas"][schema["$ref"].rpartition("/")[2]], **schema}
    yield from schema.get("examples", ())
    if "example" in schema:
        yield schema["example"]
