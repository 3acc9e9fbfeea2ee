"""Attacks 16 to 19 and 21: files, code and models."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from automl.core import Artifact
from automl.engine import Engine
from tests.attacks.knocks import API, begun, everything, files, refused, result
from tests.conformance.gallery import Gallery, write_onnx_model
from tests.unit.service.house import House, heard

OCTETS = {"Content-Type": "application/octet-stream"}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(house: House, name: str, content: bytes) -> tuple[int, str, str | None]:
    """What is said of a model's file that is not taken."""
    return refused(house, "PUT", f"files/{sha256(content)}/{name}", content, who="work", headers=OCTETS)


def raw(house: House, method: str, path: str, body: bytes = b"") -> int:
    """The status of a request whose address nobody has tidied up on its way."""
    with house.knock() as connection:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        head += f"Authorization: Bearer {house.tokens['admin']}\r\n"
        head += "Content-Type: application/octet-stream\r\n" if body else ""
        connection.sendall(f"{head}\r\n".encode("latin-1") + body)
        return int(heard(connection).split(b" ", 2)[1])


CLIMBING = (
    "../../x.json",
    "%2e%2e/x.json",
    "%2e%2e%2fx.json",
    "%252e%252e%252fx.json",
    "..\\..\\x.json",
    "..%5c..%5cx.json",
    "/etc/x.json",
    "%2fetc%2fx.json",
    "file:///etc/x.json",
    "file:%2f%2f%2fetc%2fx.json",
    "x%00.json",
    "x.json%00",
    "x.json%23.pt",
    "x.json%3fy",
    "%e2%80%a4%e2%80%a4/x.json",
    "%EF%BC%8E%EF%BC%8E%EF%BC%8Fx.json",
    "%c0%ae%c0%ae/x.json",
    "..",
    ".",
    "CON%3a.json",
    "x.json%0d%0aX-Evil:1",
    "a" * 300 + ".json",
)


def test_16_no_name_leads_out_of_the_folder(house: House, tmp_path: Path) -> None:
    """A name is no path: where it is not of the few characters that names have it is 422, elsewhere there is no route.

    Thorough: tests/unit/service/test_work.py.
    """
    begun(house)
    before, there = everything(house), files(tmp_path)
    content = b"{}"
    for name in CLIMBING:
        for method, path, body in (
            ("PUT", f"{API}/files/{sha256(content)}/{name}", content),
            ("PUT", f"{API}/files/{name}/model.json", content),
            ("GET", f"{API}/files/{sha256(content)}/{name}", b""),
            ("GET", f"{API}/files/{name}/model.json", b""),
            ("GET", f"{API}/packages/{name}", b""),
            ("PUT", f"{API}/work/checkpoints/1/{name}", content),
            ("GET", f"{API}/models/files?reference=lab@1&name={name}", b""),
            ("GET", f"{API}/batches/{name}/report", b""),
            ("GET", f"{API}/studies/1/trials/0/{name}", b""),
        ):
            assert raw(house, method, path, body) in (400, 404, 405, 409, 415, 422), f"{method} {path}"
    assert everything(house) == before
    assert files(tmp_path) == there


def test_17_there_is_no_archive_that_is_opened(house: House, tmp_path: Path) -> None:
    """Code is one JSON object of names and texts: an archive is of another type."""
    there = files(tmp_path)
    for archive in (_zip({"../../evil.py": b"x"}), _zip({f"{n}.py": b"" for n in range(2000)}), _bomb(), _tar()):
        path = f"packages/{sha256(archive)}"
        for media in ("application/zip", "application/x-tar", "application/octet-stream"):
            said = refused(house, "PUT", path, archive, headers={"Content-Type": media})
            assert said[:2] == (415, "unsupported_media_type")
        assert refused(house, "PUT", path, archive)[:2] == (422, "invalid_input")
        for name in ("model.json", "model.onnx", "model.safetensors"):
            assert put(house, name, archive)[0] in (415, 422)
    for name in (
        "../evil.py",
        "/etc/evil.py",
        "a/../../evil.py",
        "a\\b.py",
        "evil.pth",
        "x\n.py",
        "․․/x.py",
        "C:\\x.py",
    ):
        assert package(house, {"study.py": "", name: ""})[0] == 422, name
    assert package(house, {f"m{n}.py": "" for n in range(20_000)})[0] == 422
    assert package(house, {f"module_{n}.py": "" for n in range(500_000)})[0] == 413
    assert files(tmp_path) == there


def package(house: House, modules: dict[str, str]) -> tuple[int, str, str | None]:
    code = {"environment": {}, "files": modules, "main": "study.py"}
    content = json.dumps(code, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return refused(house, "PUT", f"packages/{sha256(content)}", content)


def _zip(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _bomb() -> bytes:
    inner = _zip({"zeros": b"\0" * 10_000_000})
    return _zip({f"{n}.zip": inner for n in range(10)})


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, kind in (("up", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE), ("null", tarfile.CHRTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../../etc/passwd"
            archive.addfile(member)
    return file.getvalue()


class Canary:
    """Leaves a mark when it is opened."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return (Path.touch, (self.mark,))


def test_18_a_pickle_is_neither_kept_nor_opened(house: House, tmp_path: Path) -> None:
    """Nor is it promoted, if somebody beside the database has given it to a trial."""
    mark = tmp_path / "opened"
    bomb = pickle.dumps(Canary(mark))
    pickle.loads(bomb)
    assert mark.exists(), "the canary is dead"
    mark.unlink()
    record, token = begun(house)
    there = files(house.engine.artifacts.root)
    for name in ("model.pt", "model.pkl", "model.joblib", "model.pth", "model.bin", "model.json.pkl", "model"):
        assert put(house, name, bomb)[:2] == (415, "unsafe_format")
    for name in ("model.safetensors", "model.onnx", "model.json"):
        for protocol in range(6):
            assert put(house, name, pickle.dumps(Canary(mark), protocol))[0] in (415, 422)
        assert put(house, name, _zip({"data.pkl": bomb}))[:2] == (415, "unsafe_format")
        assert put(house, name, b'{"a": 1}\n' + bomb)[0] == 422  # JSON for one reader, a pickle for another
    assert files(house.engine.artifacts.root) == there
    artifact = {"name": "model.pt", "sha256": sha256(bomb), "size": len(bomb)}
    assert refused(house, "POST", "work/finish", result(token, artifacts=[artifact]), who="work")[0] == 422
    (tmp_path / "model.pt").write_bytes(bomb)
    stored = house.engine.artifacts.put(tmp_path / "model.pt")
    artifact = {"name": stored.name, "sha256": stored.sha256, "size": stored.size}
    assert house.ask("POST", f"{API}/work/finish", who="work", json=result(token, artifacts=[artifact])).status == 200
    for body in ({"number": 0}, {"number": 0, "force": True, "reason": "x"}):
        status, _, _ = refused(house, "POST", f"studies/{record.id}/promotions", body)
        assert status == 422
    assert house.engine.models() == []
    assert not mark.exists()


def test_19_a_file_that_is_no_sound_model_is_not_kept(house: House, tmp_path: Path) -> None:
    """Thorough: tests/unit/service/test_work.py."""
    there = files(tmp_path)
    two = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for header, size in (
        ({"a": two, "b": two}, 4),  # they overlap
        ({"a": {**two, "data_offsets": [0, 2**40]}}, 4),
        ({"a": {**two, "data_offsets": [8, 12]}}, 12),  # a gap
        ({"a": {**two, "shape": [2**62]}}, 4),
        ({"a": two}, 400),  # more behind it
    ):
        text = json.dumps(header).encode()
        content = len(text).to_bytes(8, "little") + text + b"\0" * size
        assert put(house, "model.safetensors", content)[:2] == (422, "model_unusable"), header
    for content in (b"\xff" * 7 + b"\x7f{}", (2**31).to_bytes(8, "little") + b"{}", b"", b"{}"):
        assert put(house, "model.safetensors", content)[:2] == (422, "model_unusable"), content
    for location in ("../../automl.db", "/etc/passwd", "weights.bin", "link"):
        assert put(house, "model.onnx", external(location))[:2] == (422, "model_unusable"), location
    assert files(tmp_path) == there


def external(location: str) -> bytes:
    """An ONNX file that wants to read another one."""
    import onnx

    tensor = onnx.TensorProto(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=location))
    graph = onnx.GraphProto(name="g", initializer=[tensor])
    content: bytes = onnx.ModelProto(ir_version=8, graph=graph).SerializeToString()
    return content


# -- promotion -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_onnx_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def gallery(house: House, url: str, model: list[Path]) -> Iterator[Gallery]:
    made = Gallery(url, house.engine.artifacts.root, model)
    yield made
    made.close()


def serving_now(engine: Engine) -> int:
    return engine.model_version("lab@champion").version


def test_21_of_two_promotions_at_once_each_stands_or_is_a_conflict(house: House, gallery: Gallery) -> None:
    """Exactly one, where both have seen the same champion: tests/conformance/test_registry.py."""
    numbers = [gallery.trained(0.1), gallery.trained(0.2)]
    path, ready = f"{API}/studies/{gallery.study.id}/promotions", threading.Barrier(2, timeout=60)
    statuses: list[int] = []

    def promote(number: int) -> None:
        ready.wait()
        statuses.append(house.ask("POST", path, who="promote", json={"number": number}).status)

    racers = [threading.Thread(target=promote, args=(number,)) for number in numbers]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert set(statuses) <= {200, 409} and 200 in statuses
    assert len(house.engine.promotions("lab")) == statuses.count(200)
    assert gallery.problems() == []


def test_21_a_gate_that_fails_and_a_damaged_file_leave_the_old_model(house: House, gallery: Gallery) -> None:
    first, second = gallery.trained(0.5), gallery.trained(0.4)
    path = f"studies/{gallery.study.id}/promotions"
    assert house.ask("POST", f"{API}/{path}", who="promote", json={"number": first}).status == 200
    assert serving_now(house.engine) == 1
    before = gallery.held()
    gated = {"number": second, "gates": {"score": {"min": 0.45}}}
    answer = house.ask("POST", f"{API}/{path}", who="promote", json=gated)
    assert (answer.status, house.said(answer)["code"]) == (422, "promotion_refused")
    item: Artifact = gallery.damage(second, f"note-{second}.txt")
    for body in ({"number": second}, {"number": second, "force": True, "reason": "now"}):
        assert house.ask("POST", f"{API}/{path}", who="promote", json=body).status == 422
    assert refused(house, "GET", f"files/{item.sha256}/{item.name}")[:2] == (422, "artifact_corrupt")
    assert gallery.held() == before
    assert serving_now(house.engine) == 1
