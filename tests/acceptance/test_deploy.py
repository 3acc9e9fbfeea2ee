"""What is in `deploy/` and in the service's pages can be read by the tools it is for, and names only what there is."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from automl.cli import app
from automl.service.config import Config, parse

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCS = ("service", "backup-and-upgrade", "schedules", "batches", "notifications", "http-api")
PAGES = (*(ROOT / "docs" / f"{name}.md" for name in DOCS), DEPLOY / "README.md", ROOT / "README.md")
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def problems_of(words: Sequence[str]) -> str | None:
    """What is wrong with `automl WORDS...`; None: there is such a command, with these options."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while rest and hasattr(command, "commands"):
        if rest[0] not in command.commands:
            return f"there is no command {rest[0]!r}"
        command = command.commands[rest.pop(0)]
    known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    wrong = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in known]
    return f"{command.name} has no {wrong}" if wrong else None


def compose() -> Any:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def documents() -> list[Any]:
    return [found for path in MANIFESTS for found in yaml.safe_load_all(path.read_text())]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every use of `automl` in these files: where, and the words after it."""
    for name, service in compose()["services"].items():
        if service["image"] == "automl":
            yield f"compose: {name}", service["command"]
    for found in documents():
        if found["kind"] == "Deployment":
            (container,) = found["spec"]["template"]["spec"]["containers"]
            yield f"kubernetes: {found['metadata']['name']}", container["args"]
    for path in UNITS:
        (line,) = re.findall(r"^ExecStart=/opt/automl/bin/automl (.*)$", path.read_text(), re.MULTILINE)
        yield path.name, shlex.split(line)
    for path in PAGES:
        text = path.read_text()
        for line in re.findall(r"^\$ automl (.*)$", text, re.MULTILINE) + re.findall(r"`automl ([a-z][^`]*)`", text):
            yield path.name, shlex.split(line, comments=True)


def test_the_commands_in_it_exist_with_their_options() -> None:
    found = list(commands())
    assert len(found) > 20
    assert [(where, said) for where, words in found if (said := problems_of(words))] == []
    assert problems_of(["serve", "--behind-a-proxy"]) is not None, "the check sees nothing"
    assert problems_of(["server"]) is not None


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze on this machine")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_units(path: Path, tmp_path: Path) -> None:
    unit = tmp_path / path.name
    unit.write_text(path.read_text().replace("/opt/automl/bin/automl", shutil.which("true") or "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_that_tries_it_on_one_machine_is_one() -> None:
    """What it does takes root and minutes; it was run by hand, see docs/backup-and-upgrade.md."""
    path = DEPLOY / "try" / "namespaces.sh"
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    used = re.findall(r"^type_at \w+ \S* ?automl (.*?)(?: \|\|.*)?$", path.read_text(), re.MULTILINE)
    assert len(used) > 8
    assert [said for line in used if (said := problems_of(shlex.split(line)))] == []


def test_the_manifests_agree_with_each_other() -> None:
    found = documents()
    pods = {
        item["metadata"]["name"]: item["spec"]["template"]["metadata"]["labels"]
        for item in found
        if item["kind"] == "Deployment"
    }
    for item in found:
        if item["kind"] == "Deployment":
            spec = item["spec"]["template"]["spec"]
            assert item["spec"]["selector"]["matchLabels"] == pods[item["metadata"]["name"]]
            names = {volume["name"] for volume in spec["volumes"]}
            assert {mount["name"] for mount in spec["containers"][0]["volumeMounts"]} == names
    kinds = {item["kind"]: item for item in found}
    assert kinds["Service"]["spec"]["selector"] in pods.values()
    backend = kinds["Ingress"]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend["name"] == kinds["Service"]["metadata"]["name"]
    assert backend["port"]["name"] == kinds["Service"]["spec"]["ports"][0]["name"]


def test_compose_names_only_what_it_declares() -> None:
    told = compose()
    services, volumes = told["services"], told["volumes"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        named = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert {name for name in named if not name.startswith(".")} <= set(volumes)
    assert (DEPLOY / services["serve"]["build"]["context"] / services["serve"]["build"]["dockerfile"]).is_file()


def test_the_image_is_made_of_files_that_are_there() -> None:
    lines = re.findall(r"^COPY (.*) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    sources = [source for line in lines for source in line.split()]
    assert {"automl", "dashboard", "studies"} <= set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []


def without_secrets(text: str, folder: Path) -> Config:
    """The file as the service reads it, with secrets that are none."""
    for name in re.findall(r'_file = "/run/secrets/([a-z-]+)"', text):
        (folder / name).write_text("0f1e2d3c4b5a69788796a5b4c3d2e1f0")
    return parse(tomllib.loads(text.replace("/run/secrets/", "")), folder)


def test_the_example_is_a_configuration_as_it_stands_and_with_all_of_it(tmp_path: Path) -> None:
    text = (DEPLOY / "serve.example.toml").read_text()
    assert without_secrets(text, tmp_path).oidc is None
    more = without_secrets(re.sub(r'^# (?=\[|"|[a-z_]+ = )', "", text, flags=re.MULTILINE), tmp_path)
    assert more.oidc is not None and more.smtp is not None


def test_the_page_of_the_service_shows_every_key_with_its_default(tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGES[0].read_text(), re.DOTALL)
    shown = tomllib.loads(text)
    config = without_secrets(text, tmp_path)
    for section in fields(Config):
        given = {name.removesuffix("_file") for name in shown[section.name]}
        assert given == {item.name for item in fields(getattr(config, section.name))}, section.name
    assert (config.auth, config.limits, config.duties) == (Config().auth, Config().limits, Config().duties)
