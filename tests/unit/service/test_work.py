"""The worker protocol and the files, as somebody sees them who means harm."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import Request

from automl.core import Lease
from automl.service.app import create_app
from automl.service.routes import files
from automl.team import Identity, Package, Scope
from automl.trainers.package import digest, to_text
from tests.conformance.lab import LEASE_S, Lab, new_token, spec
from tests.service import running

API = "/api/v1"


def by_header(request: Request) -> Identity:
    """Whoever the caller says he is: tokens are another test's business."""
    project, _, scopes = request.headers["x-caller"].partition(" ")
    return Identity("somebody", project, frozenset(Scope(name) for name in scopes.split()))


class Service:
    """A running service with a study in each of two projects, and requests as they are."""

    def __init__(self, lab: Lab, address: str, root: Path):
        self.lab = lab
        self.root = root
        self._at = urlsplit(address).netloc

    def ask(
        self, method: str, path: str, body: Any = None, *, caller: str = "default work", **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON (or bytes) and headers of the answer."""
        connection = http.client.HTTPConnection(self._at, timeout=30)
        media = "application/octet-stream" if "files/" in path or "checkpoints" in path else "application/json"
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"X-Caller": caller} | ({"Content-Type": media} if data is not None else {})
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, f"{API}{path}", data, sent)
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        is_json = (answer.headers["content-type"] or "").startswith("application/json")
        return answer.status, json.loads(said) if is_json and said else said, dict(answer.headers)

    def refused(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, str, str | None]:
        status, said, _ = self.ask(method, path, body, **options)
        assert status >= 400, said
        return status, said["error"]["code"], said["error"].get("field")

    def claimed(self, caller: str = "default work") -> str:
        """The token of a new lease on a trial of the default project's study."""
        self.lab.suggest()
        token = new_token()
        body = {"study_ids": [self.lab.study.id], "worker": "alice", "token": token, "lease_s": LEASE_S}
        status, lease, _ = self.ask("POST", "/work/claim", body, caller=caller)
        assert (status, lease["token"]) == (200, token)
        return token

    def outside(self) -> set[Path]:
        """Everything beside the folder of the service."""
        return {path for path in self.root.parent.rglob("*") if not path.is_relative_to(self.root)}


@pytest.fixture
def service(url: str, tmp_path: Path) -> Iterator[Service]:
    root = tmp_path / "server" / "artifacts"
    lab = Lab(url, root)
    with running(create_app(lab.engine, by_header)) as address:
        yield Service(lab, address, root)
    lab.close()


def finished(token: str, **changes: Any) -> dict[str, Any]:
    return {"token": token, "outcome": {"state": "complete", "values": [0.5]} | changes}


def test_a_worker_confirms_what_a_study_declares_and_nothing_else(service: Service) -> None:
    of_lab = {"study_id": service.lab.study.id}
    assert service.refused("POST", "/work/confirm", of_lab, caller="acme work")[0] == 404
    assert service.refused("POST", "/work/confirm", of_lab) == (422, "invalid_input", "confirm")
    assert [record.name for record in service.lab.engine.studies()] == ["lab"]


# -- who may name a lease -------------------------------------------------------------------------------------------


def test_another_project_cannot_claim_name_or_end_a_lease(service: Service) -> None:
    token = service.claimed()
    before = service.lab.everything()
    theirs = {"caller": "acme work"}
    claim = {"study_ids": [service.lab.study.id], "worker": "eve", "token": new_token(), "lease_s": 60.0}
    service.lab.suggest()
    waiting = service.lab.everything()
    assert service.ask("POST", "/work/claim", claim, **theirs)[:2] == (200, None)
    assert service.ask("POST", "/work/claim", claim | {"token": token}, **theirs)[:2] == (200, None)
    assert service.ask("POST", "/work/renew", {"tokens": [token], "lease_s": 9e3}, **theirs)[:2] == (200, [])
    for verb, body in (
        ("report", {"token": token, "reports": [{"step": 1, "value": 1.0}]}),
        ("describe", {"token": token, "params": {}, "distributions": {}}),
        ("should-prune", {"token": token}),
        ("checkpoint", {"token": token, "step": 1, "sha256": "0" * 64}),
        ("finish", finished(token)),
        ("fail", {"token": token, "kind": "error", "message": ""}),
        ("release", {"token": token}),
    ):
        assert service.refused("POST", f"/work/{verb}", body, **theirs)[:2] == (409, "lease_lost"), verb
    assert service.refused(
        "POST", "/work/want", {"study_id": service.lab.study.id, "slots": 1, "lease_s": 9.0}, **theirs
    )[:2] == (404, "not_found")
    assert service.lab.everything() == waiting != before


def test_the_default_project_cannot_name_the_lease_of_a_worker_on_the_database(service: Service) -> None:
    direct: Lease = service.lab.claimed()
    for named in (direct.token, f"default:{direct.token}", f":{direct.token}"):
        status, code, _ = service.refused("POST", "/work/release", {"token": named})
        assert (status, code) in [(409, "lease_lost"), (422, "invalid_input")]
    assert service.ask("POST", "/work/renew", {"tokens": [direct.token], "lease_s": 1.0})[1] == []


@pytest.mark.parametrize(
    "token", ["", "short", "a" * 31, "a" * 65, "A" * 32, "acme:" + "a" * 32, "../" + "a" * 32, "a" * 32 + "\n", None, 7]
)
def test_a_token_that_could_be_read_as_anything_else_is_refused(service: Service, token: Any) -> None:
    assert service.refused("POST", "/work/release", {"token": token}) == (422, "invalid_input", "token")


def test_a_caller_without_the_scope_may_not_work(service: Service) -> None:
    token = service.claimed()
    for caller in ("default read", "default submit submit-code promote"):
        assert service.refused("POST", "/work/finish", finished(token), caller=caller)[0] == 403
        assert service.refused("PUT", f"/files/{'0' * 64}/model.json", b"{}", caller=caller)[0] == 403


# -- what is said ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"state":"complete","values":[NaN]}', "outcome.values"),
        ('{"state":"complete","values":["NaN"]}', "outcome.values"),
        ('{"state":"complete","values":[1e999]}', "outcome.values"),
        ('{"state":"complete","values":[true]}', "outcome.values"),
        ('{"state":"complete","values":["1.5"]}', "outcome.values"),
        ('{"state":"complete","values":[1,2]}', "outcome.values"),
        ('{"state":"complete","values":null}', "outcome.values"),
        ('{"state":"failed","values":[1]}', "outcome.state"),
        ('{"state":"complete","values":[1],"facts":{"a":NaN}}', "outcome.facts"),
        ('{"state":"complete","values":[1],"facts":{"a":"\\u0000"}}', "outcome.facts"),
        ('{"state":"complete","values":[1],"facts":{"a":"\\ud800"}}', "outcome.facts"),
        ('{"state":"complete","values":[1],"attempt":7}', "outcome.attempt"),
        ('{"state":"complete","values":[1],"params":{"x":0.5}}', "params"),
        (
            '{"state":"complete","values":[1],"artifacts":[{"name":"../x.json","sha256":"%s","size":1}]}' % ("0" * 64),
            "name",
        ),
        ('{"state":"complete","values":[1],"artifacts":[{"name":"x.json","sha256":"../..","size":1}]}', "sha256"),
    ],
)
def test_a_result_that_cannot_be_is_refused_with_its_field_and_changes_nothing(
    service: Service, text: str, field: str
) -> None:
    token = service.claimed()
    before = service.lab.everything()
    body = f'{{"token":"{token}","outcome":{text}}}'.encode()
    status, code, named = service.refused("POST", "/work/finish", body)
    assert (status, code) == (422, "invalid_input")
    assert named is not None and named.startswith(field)
    assert service.lab.everything() == before


@pytest.mark.parametrize("step", [-1, 2**31, 1.5, True, "1", None])
def test_a_step_that_cannot_be_is_refused(service: Service, step: Any) -> None:
    body = {"token": service.claimed(), "reports": [{"step": step, "value": 1.0}]}
    assert service.refused("POST", "/work/report", body) == (422, "invalid_input", "reports.0.step")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"lease_s": -1}, "lease_s"),
        ({"lease_s": 1e9}, "lease_s"),
        ({"study_ids": [2**63]}, "study_ids.0"),
        ({"study_ids": [True]}, "study_ids.0"),
        ({"worker": "x" * 501}, "worker"),
        ({"worker": "a\0b"}, "worker"),
        ({"project": "acme"}, "project"),
    ],
)
def test_a_claim_that_cannot_be_is_refused(service: Service, changed: dict[str, Any], field: str) -> None:
    body = {"study_ids": [1], "worker": "a", "token": new_token(), "lease_s": 60.0} | changed
    assert service.refused("POST", "/work/claim", body) == (422, "invalid_input", field)


def test_the_same_result_again_is_a_success_and_another_one_is_not(service: Service) -> None:
    token = service.claimed()
    assert service.ask("POST", "/work/finish", finished(token))[0] == 200
    before = service.lab.everything()
    assert service.ask("POST", "/work/finish", finished(token))[0] == 200
    assert service.refused("POST", "/work/finish", finished(token, values=[0.7]))[:2] == (409, "lease_lost")
    assert service.lab.everything() == before


def test_a_result_with_a_file_that_was_not_sent_is_refused(service: Service) -> None:
    token = service.claimed()
    artifact = {"name": "model.json", "sha256": "0" * 64, "size": 2}
    assert service.refused("POST", "/work/finish", finished(token, artifacts=[artifact]))[0] == 422
    assert service.lab.engine.trial(service.lab.study, 0).state == "running"


# -- files ----------------------------------------------------------------------------------------------------------


def _at(content: bytes, name: str = "model.json") -> str:
    return f"/files/{hashlib.sha256(content).hexdigest()}/{name}"


def test_a_file_comes_back_as_it_went_and_only_to_its_project(service: Service) -> None:
    content = b'{"recipe": null}'
    assert service.ask("PUT", _at(content), content)[0] == 204
    status, said, headers = service.ask("GET", _at(content), caller="default read")
    assert (status, said) == (200, content)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-disposition"].startswith("attachment")
    for caller in ("acme read", "acme work", "acme admin"):
        assert service.refused("GET", _at(content), caller=caller)[:2] == (404, "not_found")
        assert service.ask("HEAD", _at(content), caller=caller)[0] == 404


def test_naming_the_file_of_another_project_does_not_give_it_away(service: Service) -> None:
    content = b'{"secret": 1}'
    service.ask("PUT", _at(content), content)
    acme = service.lab.engine.of_project("acme")
    theirs = acme.declare(spec("theirs"))
    held = acme._studies.hold(theirs.id, "s", 60.0)
    assert held is not None
    acme._studies.add_suggestion(theirs.id, "s", 0, {"params": {}, "distributions": {}, "system_attrs": {}, "basis": 0})
    token = new_token()
    body = {"study_ids": [theirs.id], "worker": "eve", "token": token, "lease_s": 60.0}
    assert service.ask("POST", "/work/claim", body, caller="acme work")[1] is not None
    artifact = {"name": "model.json", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    outcome = finished(token, artifacts=[artifact])
    assert service.refused("POST", "/work/finish", outcome, caller="acme work")[0] == 422
    assert service.refused("GET", _at(content), caller="acme work")[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        *(
            "../../x.json",
            "%2e%2e/x.json",
            "%2e%2e%2fx.json",
            "%252e%252e%252fx.json",
            "..%5c..%5cx.json",
            "%2fetc%2fx.json",
        ),
        *("file:%2f%2f%2fetc%2fx.json", "x%00.json", "%e2%80%a4%e2%80%a4/x.json", "x.json%23", "x.json%3fy", "..", "."),
        *("%EF%BC%8E%EF%BC%8E%EF%BC%8Fx.json", "a" * 300 + ".json", "CON%3a.json", "x.json%0d%0aX-Evil: 1"),
    ],
)
def test_no_name_leads_out_of_the_folder(service: Service, path: str) -> None:
    content = b"{}"
    inside, outside = set(service.root.rglob("*")), service.outside()
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        status, *_ = service.ask("PUT", f"/files/{sha256}/{path}", content)
    except (ValueError, http.client.InvalidURL):  # this client will not even send it
        return
    assert 400 <= status < 500
    status, *_ = service.ask("PUT", f"/files/{path}/model.json", content)
    assert 400 <= status < 500
    assert service.outside() == outside
    assert set(service.root.rglob("*")) == inside


def _pickled() -> bytes:
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return (print, ("opened",))

    return pickle.dumps(Bomb().__reduce__()[1])


def _zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../../evil.py", "x")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            (f"model{kind}", b"{}")
            for kind in (".pt", ".pkl", ".joblib", ".pth", ".bin", ".zip", ".tar", ".json.pkl", "")
        ),
        ("model.safetensors", _pickled()),
        ("model.safetensors", _zipped()),
        ("model.onnx", _pickled()),
        ("model.json", _zipped()),
        ("model.json", b"\x1f\x8b" + b"0" * 30),
    ],
)
def test_what_may_be_a_pickle_or_an_archive_is_not_kept(service: Service, name: str, content: bytes) -> None:
    assert service.refused("PUT", _at(content, name), content)[:2] == (415, "unsafe_format")
    assert not [path for path in service.root.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\xff\xff\xff\xff\xff\xff\xff\x7f{}"),
        ("model.safetensors", b"\x02\x00\x00\x00\x00\x00\x00\x00{}" + b"x" * 100),
        ("model.onnx", b"not a model"),
        ("model.json", b"[1"),
        ("model.json", b"[" * 100_000),
    ],
)
def test_a_file_that_is_no_model_is_not_kept(service: Service, name: str, content: bytes) -> None:
    assert service.refused("PUT", _at(content, name), content)[:2] == (422, "model_unusable")
    assert not [path for path in service.root.rglob("*") if path.is_file()]


def test_onnx_that_would_read_another_file_is_not_kept(service: Service) -> None:
    import onnx

    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor]))
    content = model.SerializeToString()
    assert service.refused("PUT", _at(content, "model.onnx"), content)[:2] == (422, "model_unusable")


def test_a_file_that_is_not_what_it_was_said_to_be_is_not_kept(service: Service) -> None:
    assert service.refused("PUT", _at(b"{}"), b'{"a": 1}')[:2] == (422, "artifact_corrupt")
    assert not [path for path in service.root.rglob("*") if path.is_file()]


def test_a_file_that_is_too_large_is_not_kept(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    content = b"[" + b" " * 200 + b"]"
    assert service.refused("PUT", _at(content), content)[:2] == (413, "too_large")
    assert not [path for path in service.root.rglob("*") if path.is_file()]


def test_a_full_disk_is_said_and_nothing_half_written_stays(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    assert service.refused("PUT", _at(b"{}"), b"{}")[:2] == (507, "storage_full")
    assert not [path for path in service.root.rglob("*") if path.is_file()]


def test_a_checkpoint_goes_where_the_service_says(service: Service) -> None:
    token, content = service.claimed(), b"anything: only the workers of this study open it"
    sha256 = hashlib.sha256(content).hexdigest()
    path = f"/work/checkpoints/3/{sha256}"
    assert service.refused("PUT", path, content, automl_lease=token, caller="acme work")[0] == 409
    assert service.refused("PUT", path, content)[0] == 422  # without a lease
    assert service.ask("PUT", path, content, automl_lease=token)[0] == 204
    saved = {"token": token, "step": 3, "sha256": sha256}
    assert service.refused("POST", "/work/checkpoint", saved | {"path": "../../x"}) == (422, "invalid_input", "path")
    assert service.refused("POST", "/work/checkpoint", saved | {"step": 4})[0] == 422  # its file was not sent
    assert service.ask("POST", "/work/checkpoint", saved)[0] == 200
    row = service.lab.row()
    assert row.checkpoint_path == f"checkpoints/{row.id}/a1-s3-{sha256[:12]}.pt"
    assert service.ask("GET", "/work/checkpoints", automl_lease=token)[1] == content
    assert service.refused("GET", "/work/checkpoints", automl_lease=token, caller="acme work")[0] == 409


# -- code -----------------------------------------------------------------------------------------------------------


def test_code_takes_its_own_scope_and_stays_in_its_project(service: Service) -> None:
    text = to_text(Package({"study.py": "x = 1\n"}, "study.py"))
    path, body = f"/packages/{digest(text)}", text.encode()
    for caller in ("default work", "default submit", "default read promote"):
        assert service.refused("PUT", path, body, caller=caller)[:2] == (403, "insufficient_scope")
    assert service.ask("PUT", path, body, caller="default submit-code")[0] == 204
    assert service.ask("GET", path)[1] == json.loads(text)
    assert service.refused("GET", path, caller="acme work")[0] == 404
    assert service.refused("GET", path, caller="default read")[0] == 403


@pytest.mark.parametrize("name", ["../up.py", "/etc/x.py", "a\\b.py", "x.pth", "․․/x.py"])
def test_a_package_that_climbs_out_is_refused(service: Service, name: str) -> None:
    text = to_text(Package({"study.py": "", name: ""}, "study.py"))
    said = service.refused("PUT", f"/packages/{digest(text)}", text.encode(), caller="default submit-code")
    assert said == (422, "invalid_study", "package")


def test_a_package_that_is_not_what_its_digest_says_is_refused(service: Service) -> None:
    text = to_text(Package({"study.py": ""}, "study.py"))
    said = service.refused("PUT", f"/packages/{'0' * 64}", text.encode(), caller="default submit-code")
    assert said[:2] == (422, "artifact_corrupt")
