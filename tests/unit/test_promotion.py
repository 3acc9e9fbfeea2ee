"""Which trial is promoted, the gates by themselves, and what a rollback goes back to."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from automl.core import Artifact, Estimate, Gate, Load, ModelVersion, Promotion, WorkerRecord
from automl.declaration import Bound
from automl.engine import Engine
from automl.errors import InvalidInput, InvalidStudy
from automl.gates import bound_gates, check_gate, files_gate, loading_gates
from automl.promotion import Options, user_name
from automl.storage.artifacts import ArtifactStore
from automl.trainers.models import save_model
from tests.conformance.gallery import Gallery, write_onnx_model
from tests.conformance.lab import spec

VERSION = ModelVersion("m", 1, "s", 1, 1, 0, {}, {"score": 0.5}, ("maximize",), (), None, None, {}, 0.0)

#: A file beside a study with the class of its model, which does what HARM says when it is built.
NET = """
import os, signal, time
import torch

class Net(torch.nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.width = width
        self.layer = torch.nn.Linear(3, width)
        {harm}

    def forward(self, x):
        return self.layer(x)
"""


@pytest.fixture
def gallery(sqlite_url: str, artifacts: Path) -> Any:
    opened = Gallery(sqlite_url, artifacts, [])
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of a model."""
    return write_onnx_model(tmp_path_factory.mktemp("model"))


# -- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"alias": "3"}, "alias"),
        ({"alias": "a b"}, "alias"),
        ({"alias": ""}, "alias"),
        ({"alias": None}, "alias"),
        ({"model": "a@b"}, "model"),
        ({"model": ""}, "model"),
        ({"model": "-x"}, "model"),
        ({"force": True}, "reason"),
        ({"force": True, "reason": "  "}, "reason"),
        ({"reason": "a\0b"}, "reason"),
        ({"who": 3}, "who"),
        ({"gates": {"score": 0.9}}, "gates['score']"),
        ({"gates": {"score": {"least": 0.9}}}, "gates['score']"),
        ({"gates": [("score", 0.9)]}, "gates"),
        ({"check": "check.py"}, "check"),
    ],
)
def test_a_wrong_option_is_told_by_its_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as wrong:
        Options(**options)
    assert wrong.value.field == field
    assert field in str(wrong.value)


def test_a_study_whose_name_is_no_name_of_a_model_needs_one(sqlite_url: str, artifacts: Path) -> None:
    gallery = Gallery(sqlite_url, artifacts, [], spec("me@home"))
    number = gallery.trained(0.5)
    with pytest.raises(InvalidInput, match="--model NAME"):
        gallery.engine.check_gates(gallery.study, number)
    assert gallery.engine.check_gates(gallery.study, number, model="home")[0].number == number
    gallery.close()


def test_a_gate_of_a_study_that_is_no_bound_is_told_when_it_is_declared() -> None:
    with pytest.raises(InvalidStudy, match="gates"):
        spec(gates={"score": 0.9})


# -- choosing -----------------------------------------------------------------------------------------------------


def test_the_confirmed_best_is_promoted_and_not_the_luckiest(gallery: Gallery, model: list[Path]) -> None:
    gallery.files = model
    numbers = [gallery.trained(value) for value in (0.7, 0.9, 0.8)]
    lucky, best = (Estimate(0.9, 0.70, 0.66, 0.74, 0.02, 5, True), Estimate(0.8, 0.79, 0.77, 0.81, 0.98, 5, True))

    class Confirmed(Engine):
        """An engine of a study that was confirmed: the race itself has tests of its own."""

        def estimates(self, record: Any) -> dict[int, Estimate]:
            return {numbers[1]: lucky, numbers[2]: best}

    engine = Confirmed(gallery.url, gallery.engine.artifacts.root)
    made = engine.promote(gallery.study)
    assert engine.model_version("lab").number == numbers[2]
    assert made.estimate == best
    assert engine.promotions("lab")[0].estimate == best
    assert engine.promote(gallery.study, numbers[1]).estimate == lucky
    assert engine.rollback("lab").estimate == best
    assert engine.promote(gallery.study, numbers[0]).estimate is None
    engine.close()


def test_a_confirmed_trial_that_was_marked_as_invalid_is_passed_over(gallery: Gallery) -> None:
    numbers = [gallery.trained(value) for value in (0.7, 0.9)]
    estimates = {
        numbers[1]: Estimate(0.9, 0.9, 0.9, 0.9, 0.9, 5, False),
        numbers[0]: Estimate(0.7, 0.7, 0.7, 0.7, 0.1, 5, False),
    }
    choose = gallery.engine._promoter.choose
    assert choose(gallery.study, None, estimates).number == numbers[1]
    gallery.engine.invalidate(gallery.study, numbers[1], "trained on the test set")
    assert choose(gallery.study, None, estimates).number == numbers[0]
    gallery.engine.invalidate(gallery.study, numbers[0], "this one, too")
    with pytest.raises(InvalidInput, match="no trial of 'lab' is complete"):
        choose(gallery.study, None, estimates)


def test_the_environment_of_the_trial_is_kept_with_its_version(gallery: Gallery, model: list[Path]) -> None:
    gallery.files = model
    environment = {"python": "3.11.7", "torch": "2.9.0"}
    gallery.engine.enroll(WorkerRecord("bob", "gpu-1", 7, ((),), Load(), environment, 30.0, False, 0.0, 0.0, None))
    number = gallery.trained(0.5, worker="bob-0")
    gallery.promote(number)
    assert gallery.engine.model_version("lab").environment == environment


def test_who_promotes_is_the_user_of_the_process() -> None:
    assert user_name()


# -- gates --------------------------------------------------------------------------------------------------------


def test_a_bound_holds_at_its_edge_on_both_sides_and_for_whole_numbers(gallery: Gallery) -> None:
    number = gallery.trained(0.5, metrics={"n": 3.0}, facts={"flag": True, "text": "9", "epochs": 7})
    trial = gallery.engine.trial(gallery.study, number)
    bounds = {"score": Bound(0.5, 0.5), "n": Bound(min=3, max=2), "epochs": Bound(max=7), "text": Bound(min=0)}
    found = {gate.name: gate for gate in bound_gates(gallery.study, trial, bounds.items())}
    assert {name: gate.passed for name, gate in found.items()} == {
        "score >= 0.5": True,
        "score <= 0.5": True,
        "n >= 3": True,
        "n <= 2": False,
        "epochs <= 7": True,
        "text >= 0": False,
    }
    assert found["n <= 2"].figure == "3"
    assert found["text >= 0"].figure == "not measured"


@pytest.mark.parametrize("said", [False, np.bool_(False), "too slow", ""])
def test_a_check_refuses_by_false_or_by_a_text(said: object) -> None:
    gate = check_gate(lambda version: said, VERSION)
    assert not gate.passed
    assert gate.why


@pytest.mark.parametrize("said", [None, True, np.bool_(True), 0, 0.0, {"accuracy": 0.5}])
def test_a_check_passes_by_anything_else(said: object) -> None:
    assert check_gate(lambda version: said, VERSION).passed


def test_a_check_that_leaves_the_process_is_a_check_that_failed() -> None:
    def leave(version: ModelVersion) -> None:
        raise SystemExit("enough")

    assert check_gate(leave, VERSION) == Gate("check", False, "raised SystemExit", "enough")


def test_the_files_gate_counts_what_is_wrong(artifacts: Path, tmp_path: Path) -> None:
    store = ArtifactStore(artifacts)
    kept = []
    for name in ("model.json", "model.onnx"):
        (tmp_path / name).write_text(name)
        kept.append(store.put(tmp_path / name))
    assert files_gate(store, kept).passed
    gone = replace(kept[0], sha256="0" * 64)
    store.path(kept[1]).write_text("another")
    gate = files_gate(store, [gone, kept[1]])
    assert (gate.passed, gate.figure) == (False, "2 of 2 files not as recorded")
    assert not files_gate(store, [kept[0]]).passed  # no model among them
    assert not files_gate(store, [Artifact("model.onnx", "../" + "0" * 61, 1)]).passed


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `net_of_promotion.py`, and in `model/` a model of its class, without an ONNX file."""
    folder = tmp_path_factory.mktemp("net")
    (folder / "net_of_promotion.py").write_text(NET.format(harm="pass"))
    import torch

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        from net_of_promotion import Net

        save_model(Net(), folder / "model", example_input=torch.randn(4, 3))
    assert not (folder / "model" / "model.onnx").exists()
    return folder


@pytest.fixture
def study(gallery: Gallery, net: Path) -> Any:
    """As of a file that is in the folder of the class."""
    return replace(gallery.study, entrypoint=f"'{net}/my study.py:lab'")


def test_a_model_whose_class_is_beside_the_study_loads_and_gets_its_onnx_file(study: Any, net: Path) -> None:
    gates = loading_gates(net / "model", study, make_onnx=True)
    assert [(gate.name, gate.passed) for gate in gates] == [("loads (torch)", True), ("loads (ONNX)", True)]
    assert all("4 and 7 rows" in gate.figure for gate in gates)
    (net / "model" / "model.onnx").unlink()


@pytest.mark.parametrize(
    ("harm", "figure"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the process died of SIGSEGV"),
        ("os._exit(3)", "exit status 3"),
        ("raise MemoryError('too large')", "not the recorded output"),
        ("time.sleep(1000)", "no answer in 15 s"),
    ],
)
def test_a_model_that_ends_or_stops_the_process_that_loads_it_fails_a_gate(
    study: Any, net: Path, harm: str, figure: str
) -> None:
    path = net / "net_of_promotion.py"
    path.write_text(NET.format(harm=harm))
    try:
        gates = loading_gates(net / "model", study, make_onnx=True, timeout_s=15.0 if "sleep" in harm else 120.0)
    finally:
        path.write_text(NET.format(harm="pass"))
    assert [gate.figure for gate in gates if not gate.passed] == [figure]
    assert all(gate.why for gate in gates if not gate.passed)


def test_every_model_of_a_trial_is_loaded(study: Any, model: list[Path], tmp_path: Path) -> None:
    for path in model:
        (tmp_path / path.name.replace("model.", "small.", 1)).symlink_to(path)
    assert [gate.name for gate in loading_gates(tmp_path, study, make_onnx=False)] == ["loads (ONNX, small)"]


def test_the_onnx_file_that_was_made_is_kept_with_trial_and_version(gallery: Gallery, net: Path, study: Any) -> None:
    number = gallery.trained(0.5, files=sorted((net / "model").iterdir()))
    before = {item.name for item in gallery.engine.trial(gallery.study, number).artifacts}
    made: Promotion = gallery.engine.promote(study, number)
    assert [gate.name for gate in made.gates] == ["files", "loads (torch)", "loads (ONNX)", "constraints"]
    assert re.fullmatch(r"4 files, \d+ B, as recorded", made.gates[0].figure)
    version = gallery.engine.model_version("lab")
    assert {item.name for item in version.files} == before | {"model.onnx"}
    assert version.files == gallery.engine.trial(gallery.study, number).artifacts
    assert gallery.problems() == []
