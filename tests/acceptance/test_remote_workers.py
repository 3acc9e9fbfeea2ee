"""`run`, `submit` and `worker` with the address of a service: no database, nothing shared but the network."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from automl.core import TrialState
from automl.engine import Engine
from automl.storage.audit import audit
from automl.team import Scope
from tests.acceptance.desk import PATIENT, TOY, Desk, ended, wait_until
from tests.remote import served

HELPER = "def score(x):\n    return -(x - 0.3) ** 2\n"
WITH_HELPER = TOY.replace("import automl\n", "import automl\nfrom helper import score as scored\n").replace(
    'score = -(trial.params["x"] - 0.3) ** 2', 'score = scored(trial.params["x"])'
)
MODEL = TOY.replace(
    "    return score",
    """    import torch
    trial.save_model(torch.nn.Linear(2, 1), torch.zeros(3, 2))
    return score""",
).replace("trials=6", "trials=2")


@pytest.fixture
def service(url: str, tmp_path: Path) -> Iterator[tuple[str, Engine]]:
    with served(url, tmp_path / "service") as (address, engine):
        yield address, engine


@pytest.fixture
def desks(service: tuple[str, Engine], tmp_path: Path) -> Iterator[list[Desk]]:
    """Two users on two machines, as far as that goes."""
    made = [Desk(tmp_path / name, service[0]) for name in ("here", "there")]
    yield made
    for desk in made:
        desk.leave()


def test_run_searches_to_the_end(service: tuple[str, Engine], desks: list[Desk]) -> None:
    desk = desks[0]
    desk.write("toy.py", TOY)
    assert "toy" in desk.works("run", "toy.py", "--workers", "2")
    engine = service[1]
    record = engine.study("toy")
    assert engine.counts([record])[record.id]["complete"] == 6
    assert desk.trained == list(range(6))
    assert audit(engine.database, record.id) == []
    assert "hello from trial 3" in (engine.log_tail(record, 3, 1) or "")


def test_a_worker_elsewhere_takes_the_code_only_when_it_was_told_to(
    service: tuple[str, Engine], desks: list[Desk]
) -> None:
    here, there = desks
    here.write("toy.py", WITH_HELPER)
    here.write("helper.py", HELPER)
    here.write("unrelated.py", "raise SystemExit")
    here.works("submit", "toy.py")
    (here.folder / "toy.py").rename(here.folder / "moved.py")

    said = there.works("worker", "--exit-when-idle")
    line = next(line for line in said.splitlines() if "passed over" in line)
    assert "--accept-code" in line and "put the file there" in line
    assert there.trained == []

    assert "toy: finished" in there.works("worker", "--exit-when-idle", "--accept-code")
    assert there.trained == list(range(6))
    (code,) = (there.folder / ".automl" / "artifacts" / "code").glob("*/")
    assert {path.name for path in code.glob("*.py")} == {"toy.py", "helper.py"}


def test_a_model_that_was_trained_elsewhere_is_exported_and_fetched(
    service: tuple[str, Engine], desks: list[Desk]
) -> None:
    here, there = desks
    here.write("toy.py", MODEL)
    here.works("submit", "toy.py")
    there.works("worker", "--exit-when-idle", "--accept-code")
    engine = service[1]
    best = engine.trial(engine.study("toy"), engine.best_trials(engine.study("toy"))[0].number)
    names = {artifact.name for artifact in best.artifacts}
    assert {"model.safetensors", "model.json", "model.onnx"} <= names
    assert all(engine.artifacts.verify(artifact).is_file() for artifact in best.artifacts)
    here.works("export", "toy", "--model", "taken")
    assert {path.name for path in (here.folder / "taken").iterdir()} >= names


def test_ctrl_c_hands_the_trial_back(service: tuple[str, Engine], desks: list[Desk]) -> None:
    desk, engine = desks[0], service[1]
    desk.write("patient.py", PATIENT)
    process = desk.start("-m", "automl", "run", "patient.py")

    def runs() -> Any:
        names = [record.name for record in engine.studies()]
        return "patient" in names and engine.trials(engine.study("patient"), states=[TrialState.RUNNING])

    wait_until(runs)
    process.send_signal(signal.SIGINT)
    ended(process)
    trial = engine.trial(engine.study("patient"), 0)
    assert trial.state is TrialState.WAITING
    assert engine.moves(trial)[-1]["cause"] == "preempted"


def test_a_sampler_object_is_refused_before_anything_is_made(service: tuple[str, Engine], desks: list[Desk]) -> None:
    desk = desks[0]
    text = TOY.replace("import automl\n", "import automl\nimport optuna\n", 1)
    desk.write("toy.py", text.replace("    metrics=", "    sampler=optuna.samplers.RandomSampler(),\n    metrics="))
    done = desk.automl("run", "toy.py")
    assert done.status == 2
    assert "sampler: an object works with a database only; name one" in done.err
    assert service[1].studies() == []


def test_a_confirmation_is_queued_and_run_by_a_worker_that_may_do_nothing_but_work(url: str, tmp_path: Path) -> None:
    from automl.service.auth import TokenAuthenticator

    text = TOY.replace("import automl\n", "import automl\nfrom automl.declaration import Confirm\n")
    with served(url, tmp_path / "service", TokenAuthenticator) as (address, engine):
        here, there = Desk(tmp_path / "here", address), Desk(tmp_path / "there", address)
        here.write("toy.py", text.replace("    budget=", "    confirm=Confirm(top=2, trials=6),\n    budget="))
        ann, _ = engine.tokens.create("ann", (Scope.READ, Scope.SUBMIT, Scope.SUBMIT_CODE), by="ada")
        box, _ = engine.tokens.create("box", (Scope.WORK,), by="ada")
        assert here.automl("submit", "toy.py", AUTOML_TOKEN=ann).status == 0
        done = there.automl("worker", "--exit-when-idle", "--accept-code", AUTOML_TOKEN=box)
        assert done.status == 0, done.err + done.out
        record = engine.study("toy")
        confirmation = engine.confirmation(record)
        assert confirmation is not None, done.err + done.out
        assert confirmation.package_sha256 == record.package_sha256 is not None
        assert engine.is_confirmed(record)


def test_without_the_scope_a_study_is_submitted_without_its_code(url: str, tmp_path: Path) -> None:
    from automl.service.auth import TokenAuthenticator

    with served(url, tmp_path / "service", TokenAuthenticator) as (address, engine):
        secret, _ = engine.tokens.create("ci", (Scope.READ, Scope.SUBMIT), by="ada")
        desk = Desk(tmp_path / "here", address)
        desk.write("toy.py", TOY)
        done = desk.automl("submit", "toy.py", AUTOML_TOKEN=secret)
        assert done.status == 0, done.err
        assert "not the scope submit-code" in done.out
        assert engine.study("toy").package_sha256 is None

        worker, _ = engine.tokens.create("gpu-1", (Scope.WORK,), by="ada")
        done = desk.automl("worker", "--exit-when-idle", AUTOML_TOKEN=worker)
        assert "toy: finished" in done.out, done.err + done.out
        assert desk.trained == list(range(6))


def test_a_clone_carries_its_code_along(service: tuple[str, Engine], desks: list[Desk]) -> None:
    here, there = desks
    here.write("toy.py", TOY)
    here.works("submit", "toy.py", "--trials", "2")
    here.works("clone", "toy", "second")
    there.works("worker", "--exit-when-idle", "--accept-code")
    engine = service[1]
    for name in ("toy", "second"):
        record = engine.study(name)
        assert engine.counts([record])[record.id]["complete"] == 2
