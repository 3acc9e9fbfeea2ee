"""The README is true: its programs run, its commands exist, and it leaves none out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from automl.cli import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_study_in_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    study = next(block for block in _blocks("python") if "study = Study(" in block)
    (tmp_path / "my_study.py").write_text(study)
    command = [sys.executable, "-m", "automl", "run", "my_study.py", "--workers", "2", "--trials", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "3/3 trials" in done.stdout
    assert (tmp_path / ".automl/artifacts/best/sine/model.onnx").is_file()


def test_the_study_with_wishes_in_the_readme_runs_as_it_stands(tmp_path: Path) -> None:
    study = next(block for block in _blocks("python") if "constraints=" in block)
    (tmp_path / "small_net.py").write_text(study)

    def automl(*words: str) -> str:
        command = [sys.executable, "-m", "automl", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    automl("run", "small_net.py", "--trials", "12")
    best = json.loads(automl("show", "small-net", "--json"))["best"]
    assert best["violated"] == [] and best["params"]["width"] * 0.3 <= 20
    assert "why trial 11 of small-net:" in automl("show", "small-net", "--trial", "11", "--why")


def test_the_optuna_program_in_the_readme_runs_on_our_storage(tmp_path: Path) -> None:
    program = next(block for block in _blocks("python") if "OptunaStorage" in block)
    program = program.replace("postgresql://user@db/automl", f"sqlite:///{tmp_path}/a.db")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_is_in_the_readme_and_every_command_of_the_readme_exists() -> None:
    documented = set(re.findall(r"`automl ([a-z]+)", README))
    assert sorted(documented) == COMMANDS
    table = README[README.index("## Commands") :]
    assert [name for name in COMMANDS if f"`automl {name}" not in table] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_each_command_gives_an_example(name: str) -> None:
    command = [sys.executable, "-m", "automl", name, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    assert f"Example: automl {name}" in " ".join(done.stdout.split())


def test_only_the_documented_settings_are_read_from_the_environment() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "automl").rglob("*.py"))
    read = set(re.findall(r"[\"'](AUTOML_[A-Z_]+)[\"']", code))
    assert read == {"AUTOML_STORAGE", "AUTOML_ARTIFACTS"}
    assert all(f"`{name}`" in README for name in read)
