"""The wheel works, not only the checkout: installed on its own, it runs a study that lies anywhere."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(folder), str(ROOT)]
    subprocess.run([sys.executable, *build], check=True, timeout=120)
    return next(folder.glob("automl-*.whl"))


def test_it_carries_the_migrations_and_the_example_studies(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("automl/storage/migrations/versions/0001") for name in names)
    assert "automl/storage/migrations/env.py" in names
    assert "automl/examples/digits.py" in names
    assert [name for name in names if name.startswith("tests")] == []


def test_it_runs_a_study_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    base = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    site = Path(sysconfig.get_path("purelib", vars=base))
    zipfile.ZipFile(wheel).extractall(site)
    # The dependencies come from the tests' own environment. Its editable automl does not: .pth files do not nest.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "copy.py").write_text((ROOT / "studies/digits.py").read_text())
    python = tmp_path / "venv/bin/python"
    where = "import automl; print(automl.__file__)"
    found = subprocess.run([python, "-c", where], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert found.stdout.startswith(str(site))
    command = [python, "-m", "automl", "run", "elsewhere/copy.py", "--trials", "2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "2/2 trials" in done.stdout
