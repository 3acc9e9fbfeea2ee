"""The README and the pages of `docs/` are true: their programs run, the commands exist, and none is left out."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer.main

from automl.cli import app
from automl.commands.batches import plan_from_toml
from automl.service.auth import TokenAuthenticator
from automl.service.duties.messages import signature
from automl.team import Scope
from tests.remote import served

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = sorted(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def _blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def _page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


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
    assert read == {"AUTOML_STORAGE", "AUTOML_ARTIFACTS", "AUTOML_TOKEN"}
    assert all(f"`{name}`" in README for name in read)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="there is no curl, or no jq")
def test_a_shell_takes_part_as_the_page_of_the_api_says(tmp_path: Path) -> None:
    script = "set -euo pipefail\n" + "\n".join(_blocks("bash", _page("http-api.md")))
    with served(f"sqlite:///{tmp_path}/a.db", tmp_path / "artifacts", TokenAuthenticator) as (address, engine):
        token, _ = engine.tokens.create("ann", (Scope.SUBMIT, Scope.WORK))
        settings = {"AUTOML_STORAGE": address, "AUTOML_TOKEN": token, "PATH": os.environ["PATH"]}
        done = subprocess.run(
            ["bash", "-c", script], env=settings, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        (best,) = engine.best_trials(engine.study("valley"))
        assert best.values == (pytest.approx(best.params["x"] ** 2),)
    for answer in _blocks("json", _page("http-api.md"))[1:]:
        assert answer.strip() in done.stdout
    table = _page("http-api.md").split("## The worker")[1]
    named = re.findall(r"`(?:PUT |GET )?(/(?:work|packages|files)/[^`]+)`", table)
    paths = {line.removeprefix("/api/v1") for line in done.stdout.splitlines()}
    assert {path for path in paths if path.startswith("/work/")} <= {*named, "/work/checkpoints"}
    assert set(named) <= paths


def test_the_receiver_of_a_webhook_believes_what_was_signed_just_now_and_nothing_else() -> None:
    space: dict[str, Any] = {}
    exec(_blocks("python", _page("notifications.md"))[0], space)
    secret, body, now = "a secret of 32 characters, or so.", b'{"text": "hello"}', f"{time.time():.0f}"

    def is_genuine(timestamp: str, key: str = secret, sent: bytes = body) -> bool:
        headers = {"x-automl-timestamp": timestamp, "x-automl-signature": signature(key, timestamp, body)}
        told: bool = space["is_genuine"](secret, headers, sent)
        return told

    assert is_genuine(now)
    assert not is_genuine(f"{time.time() - 301:.0f}"), "an old message, sent again"
    assert not is_genuine(now, key="another secret of characters")
    assert not is_genuine(now, sent=body + b" ")
    assert not space["is_genuine"](secret, {}, body)


def test_the_batch_in_its_page_is_one(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text(_blocks("toml", _page("batches.md"))[0])
    for name in ("digits.py", "objective.py"):
        (tmp_path / name).touch()
    plan = plan_from_toml(path)
    assert (plan.name, plan.priority, len(plan.entries)) == ("night", 5, 2)
    assert plan.budget == {"trials": 200, "hours": 8.0, "gpu_hours": 20.0}
