"""`promote`, `rollback`, `models`: what a user types, sees, and gets back as an exit status."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.desk import Desk

#: Trials with a model of a class of the study's own file.
NET = """
import torch
from automl import Budget, Choice, Study


class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))

    def forward(self, x):
        return self.layers(x)


def train(trial):
    torch.manual_seed(trial.seed)
    net = Net(trial.params["width"])
    trial.save_model(net, example_input=torch.randn(4, 3))
    trial.log(latency_ms=trial.params["width"] / 2)
    return trial.params["width"] / 10


study = Study(
    name="net", train=train, space={"width": Choice(4, 8)}, metrics={"score": "max"},
    budget=Budget(trials=2), sampler="grid", gates={"score": {"min": 0.1}},
)
"""

CHECKS = """
def fair(version):
    return version.metrics["score"] < 0.5 or "too good to be true"

def broken(version):
    return version.params["nothing"]
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk with a finished study of two trials: trial 0 or 1 has width 8, and is the best."""
    desk = Desk(tmp_path_factory.mktemp("promoting"))
    desk.write("net.py", NET)
    desk.write("checks.py", CHECKS)
    assert desk.works("models").startswith("no models yet")
    assert desk.json("models") == []
    desk.works("run", "net.py", "--workers", "2")
    yield desk
    desk.leave()


def test_promote_rollback_and_models_tell_what_they_did(net: Desk) -> None:
    best = net.json("show", "net")["best"]["number"]
    other = 1 - best
    said = net.works("promote", "net", "--trial", str(other), "--reason", "a start")
    assert "net@champion: version 1 (trial" in said
    for gate in ("files", "loads (torch)", "loads (ONNX)", "constraints", "score >= 0.1"):
        assert any(line.split()[0] == "pass" and gate in line for line in said.splitlines() if line.strip()), said
    assert "rollback" not in said

    shown = net.json(
        "promote", "net", "--max", "latency_ms=4", "--check", "checks.py:fair", "--force", "--reason", "go"
    )
    assert (shown["promoted"], shown["from_version"], shown["to_version"], shown["forced"]) == (True, 1, 2, True)
    assert [gate["name"] for gate in shown["gates"] if not gate["passed"]] == ["check"]
    assert "nothing was changed" in net.works("promote", "net")
    assert net.json("promote", "net")["promoted"] is False

    back = net.works("rollback", "net", "--reason", "it was too good")
    assert "net@champion: version 2 -> version 1" in back
    net.works("promote", "net", "--alias", "accurate")
    assert net.json("models") == [
        {
            "name": "net",
            "aliases": {"accurate": 2, "champion": 1},
            "versions": 2,
            "created_at": net.json("models")[0]["created_at"],
        }
    ]
    shown = net.json("models", "net")
    assert shown["aliases"] == {"accurate": 2, "champion": 1}
    assert [version["number"] for version in shown["versions"]] == [best, other]
    assert [(move["alias"], move["kind"], move["to_version"]) for move in shown["history"]] == [
        ("accurate", "promote", 2),
        ("champion", "rollback", 1),
        ("champion", "promote", 2),
        ("champion", "promote", 1),
    ]
    said = net.works("models", "net")
    assert "width=8" in said
    assert "champion: 1 -> 2, promote" in said
    assert "FORCED, go" in said
    assert "it was too good" in said
    assert "accurate -> 2, champion -> 1" in net.works("models")


def test_a_gate_that_fails_is_shown_and_ends_with_status_1(net: Desk) -> None:
    done = net.automl("promote", "net", "--alias", "never", "--min", "score=99")
    assert done.status == 1
    assert any(line.split()[0] == "FAIL" and "score >= 99" in line for line in done.out.splitlines() if line.strip())
    assert "score >= 99" in done.err
    assert "net@never is not there yet" in done.err
    assert len(done.err.splitlines()) == 1
    done = net.automl("promote", "net", "--alias", "never", "--check", "checks.py:broken", "--json")
    assert done.status == 1
    assert '"promoted": false' in done.out
    assert "KeyError" in done.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["promote", "nets"], "there are net"),
        (["promote", "net", "--trial", "77"], "no trial 77"),
        (["promote", "net", "--alias", "3"], "alias: '3' is no name"),
        (["promote", "net", "--force"], "give a reason"),
        (["promote", "net", "--min", "score"], "--min: 'score'; write it as accuracy=0.97"),
        (["promote", "net", "--max", "=3"], "--max"),
        (["promote", "net", "--min", "score=nan"], "nan"),
        (["promote", "net", "--check", "nothing.py:fair"], "there is no file 'nothing.py'"),
        (["promote", "net", "--check", "checks.py:unfair"], "has no function 'unfair'"),
        (["promote", "net", "--check", "checks.py"], "write FILE.py:FUNCTION"),
        (["rollback", "nobody"], "model 'nobody' is not in"),
        (["rollback", "net", "--alias", "nobody"], "net@nobody names no version"),
        (["models", "nobody"], "model 'nobody' is not in"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_status_2(net: Desk, words: list[str], said: str) -> None:
    if words[0] == "rollback" and not net.json("models"):
        net.works("promote", "net")
    done = net.automl(*words)
    assert (done.status, len(done.err.splitlines())) == (2, 1), done.err
    assert said in done.err


def test_a_damaged_file_is_named_and_status_1(net: Desk) -> None:
    shown = net.json("promote", "net", "--model", "fragile")
    assert shown["to_version"] == 1
    (file,) = (item for item in net.json("models", "fragile")["versions"][0]["files"] if item["name"] == "model.onnx")
    path: Path = net.folder / ".automl" / "artifacts" / file["sha256"][:2] / file["sha256"] / file["name"]
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    try:
        done = net.automl("promote", "net", "--model", "fragile", "--alias", "other", "--force", "--reason", "please")
    finally:
        path.write_bytes(content)
    assert done.status == 1
    assert file["sha256"] in done.err
