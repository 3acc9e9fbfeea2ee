"""Packages: what is packed, what can never be said in one, and how they are written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from automl.errors import InvalidStudy
from automl.team import Package
from automl.trainers import package as packages
from automl.trainers.package import check, digest, from_text, pack, to_text, unpack


def _write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / (name.replace("__in__", "/") + ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "study.py"


def test_what_a_study_imports_beside_it_is_packed_and_nothing_else(tmp_path: Path) -> None:
    main = _write(
        tmp_path,
        study="import json, torch\nimport data.load\nfrom nets import block\n\ndef train(t):\n    import late\n",
        data__in____init__="",
        data__in__load="from . import clean\nfrom .deep.more import x\n",
        data__in__clean="import study\n",
        data__in__deep__in__more="x = 1\n",
        data__in__unused="",
        nets__in__block="from data import load as l\n",
        late="import importlib\n",
        unrelated="raise SystemExit",
    )
    (tmp_path / "data" / "table.csv").write_text("a,b\n")
    assert set(pack(main).files) == {
        *("study.py", "data/__init__.py", "data/load.py", "data/clean.py", "data/deep/more.py"),
        *("nets/block.py", "late.py"),
    }


def test_relative_imports_do_not_climb_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("key = 1")
    main = _write(tmp_path / "mine", study="from .. import secret\nfrom ...etc import x\nimport secret\n")
    assert set(pack(main).files) == {"study.py"}


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.py").write_text("key = 1")
    main = _write(tmp_path / "mine", study="import secret\n")
    (tmp_path / "mine" / "secret.py").symlink_to(tmp_path / "secret.py")
    with pytest.raises(InvalidStudy, match="link out of the study's folder"):
        pack(main)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"x = '\xff'", "no UTF-8"), (b"def (", "no Python"), (b"x = 1\0", "no"), (b"#" * (1 << 20) + b"\n", "too much")],
)
def test_what_is_no_text_or_too_large_is_refused_by_its_name(tmp_path: Path, content: bytes, problem: str) -> None:
    main = _write(tmp_path, study="import helper\n")
    (tmp_path / "helper.py").write_bytes(content)
    with pytest.raises(InvalidStudy, match=problem) as raised:
        pack(main)
    assert "helper.py" in str(raised.value)


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    names = [f"m{i}" for i in range(packages.MAX_FILES)]
    main = _write(tmp_path, study="\n".join(f"import {name}" for name in names), **dict.fromkeys(names, ""))
    with pytest.raises(InvalidStudy, match="more than 200 files"):
        pack(main)


def test_a_package_is_the_same_byte_for_byte_after_its_journey(tmp_path: Path) -> None:
    main = tmp_path / "study.py"
    main.write_bytes("x = 'é'\r\n\ty\r".encode()[:-3])
    package = pack(main, {"python": "3.11"})
    assert from_text(to_text(package)) == package
    there = unpack(package, tmp_path / "code")
    assert there.read_bytes() == main.read_bytes()
    assert there.parent.name == digest(to_text(package))


@pytest.mark.parametrize(
    "name",
    [
        *("../up.py", "/etc/cron.py", "a/../../b.py", "C:x.py", "C:\\x.py", "a\\b.py", "./a.py", "a//b.py", "a/.py"),
        *("nul\0.py", "․․/x.py", "．．/x.py", "a/..", "", ".hidden.py", "x.py ", "x .py/", "x.pth", "x.so", "é.py"),
        "a" * 300 + ".py",
    ],
)
def test_a_name_that_could_be_anything_but_a_module_in_the_folder_is_refused(name: str) -> None:
    package = Package({"study.py": "", name: ""}, "study.py")
    for refuse in (lambda: check(package), lambda: from_text(to_text(package)), lambda: unpack(package, Path("x"))):
        with pytest.raises(InvalidStudy, match="package"):
            refuse()


@pytest.mark.parametrize("other", ["STUDY.py", "study.py/x.py"])
def test_names_that_collide_on_some_systems_are_refused(other: str) -> None:
    with pytest.raises(InvalidStudy, match="rename one"):
        check(Package({"study.py": "", other: ""}, "study.py"))


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "[" * 100_000, "{}", '{"files":{"a.py":""},"main":"a.py"}'),
        '{"environment":{},"files":{"a.py":1},"main":"a.py"}',
        '{"environment":{},"files":{"a.py":""},"main":"b.py"}',
        '{"environment":{},"files":{"a.py":""},"main":"a.py","more":1}',
        '{"environment":{},"main":"a.py","files":{"a.py":""}}',  # not in its order
        '{"environment": {},"files":{"a.py":""},"main":"a.py"}',  # not as small as it can be
        json.dumps({"environment": {}, "files": {"a.py": "\ud800"}, "main": "a.py"}, separators=(",", ":")),
    ],
)
def test_what_is_not_the_text_of_a_package_is_refused(text: str) -> None:
    with pytest.raises(InvalidStudy, match="package"):
        from_text(text)


def test_unpacking_again_uses_what_is_there_and_mends_what_was_changed(tmp_path: Path) -> None:
    package = Package({"study.py": "x = 1\n", "lib/a.py": "y = 2\n"}, "study.py")
    main = unpack(package, tmp_path)
    before = main.stat().st_ino
    assert unpack(package, tmp_path).stat().st_ino == before
    (main.parent / "lib" / "a.py").write_text("import os\n")
    assert (unpack(package, tmp_path).parent / "lib" / "a.py").read_text() == "y = 2\n"
    assert not list(tmp_path.glob(".*"))


def test_a_disk_that_is_full_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packages.os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        unpack(Package({"study.py": ""}, "study.py"), tmp_path)
    assert list(tmp_path.iterdir()) == []
