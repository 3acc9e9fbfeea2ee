"""The check of a saved model: what is sound passes with its figure, what is damaged never does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from torch import nn

from automl.core import Gate
from automl.serving.check import check
from automl.trainers.models import save_model
from tests.unit.serving.test_predictor import floats, graph
from tests.unit.serving.zoo import Crowd, Forgetful, Total, example, saved

ROOT = Path(__file__).parents[3]
FIGURE = re.compile(r"largest difference (\S+) at 4 and 7 rows")


def gates(folder: Path, **options: Any) -> dict[str, Gate]:
    return {gate.name: gate for gate in check(folder, **options)}


def spoken(folder: Path, *options: str | Path, rc: int = 0) -> list[dict[str, Any]]:
    """The lines of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "automl.serving.check", folder, *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == rc, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def edit_json(folder: Path, change: Any) -> None:
    path = folder / "model.json"
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def test_a_sound_model_passes_in_both_formats_with_its_figure(plain: Path) -> None:
    found = list(check(plain))
    assert [gate.name for gate in found] == ["torch", "onnx"]
    for gate in found:
        assert gate.passed and gate.why == ""
        assert float(FIGURE.fullmatch(gate.figure)[1]) < 1e-5


def test_several_outputs_are_compared_each(pair: Path) -> None:
    assert [(gate.name, gate.passed) for gate in check(pair)] == [("torch", True), ("onnx", True)]


def test_a_process_of_its_own_says_the_same_in_json(plain: Path) -> None:
    lines = spoken(plain)
    assert [line["name"] for line in lines] == ["torch", "onnx"]
    assert all(line.keys() == {"name", "passed", "figure", "why"} and line["passed"] is True for line in lines)


def test_an_absent_onnx_file_is_made_and_checked_when_asked(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    assert list(gates(folder)) == ["torch"]
    assert not (folder / "model.onnx").exists()
    found = gates(folder, make_onnx=True)
    assert found["onnx"].passed and FIGURE.fullmatch(found["onnx"].figure)
    assert (folder / "model.onnx").is_file()


def test_a_model_that_has_no_onnx_form_passes_through_torch(tmp_path: Path) -> None:
    saved(tmp_path, nn.Linear(4, 2).to(torch.bfloat16), torch.randn(4, 4, dtype=torch.bfloat16))
    found = gates(tmp_path, make_onnx=True)
    assert found["torch"].passed
    assert found["onnx"].passed and found["onnx"].figure.startswith("none: ")
    assert "half precision" in found["onnx"].figure


def test_a_model_that_cannot_be_rebuilt_is_checked_by_its_onnx_file(tmp_path: Path) -> None:
    saved(tmp_path, Forgetful(5), example(columns=3))
    assert [(gate.name, gate.passed) for gate in check(tmp_path, make_onnx=True)] == [("onnx", True)]
    (tmp_path / "model.onnx").unlink()
    (gate,) = check(tmp_path, make_onnx=True)
    assert (gate.name, gate.passed) == ("files", False)
    assert "does not keep its argument 'hidden'" in gate.why


def test_a_model_of_another_name_is_found(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("model", "teacher", 1)))
    assert not gates(folder)["files"].passed
    assert [gate.passed for gate in check(folder, "teacher")] == [True, True]


@pytest.mark.parametrize("files", [[], ["model.pt"], ["model.pkl", "model.joblib"]])
def test_a_folder_without_a_usable_model_says_so(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"\x80\x04.")
    (gate,) = check(tmp_path)
    assert (gate.name, gate.passed) == ("files", False)
    assert "trial.save_model" in gate.why
    assert all(name in gate.why for name in files)


def test_a_model_without_an_example_does_not_pass(tmp_path: Path) -> None:
    save_model(nn.Linear(2, 2), tmp_path)
    (gate,) = check(tmp_path)
    assert (gate.name, gate.passed) == ("torch", False)
    assert "example_input=" in gate.why


# -- damage -------------------------------------------------------------------------------------------------------


def test_a_changed_weight_does_not_pass(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x04  # in the exponent of the last weight
    path.write_bytes(data)
    found = gates(folder, make_onnx=True)
    assert not found["torch"].passed and found["torch"].why
    assert found["onnx"].passed  # a file of its own, as it was


def test_no_onnx_file_is_made_of_a_damaged_model(folder: Path) -> None:
    (folder / "model.onnx").unlink()
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "model.safetensors")
    assert [(gate.name, gate.passed) for gate in check(folder, make_onnx=True)] == [("torch", False)]
    assert not (folder / "model.onnx").exists()


def test_a_weight_of_nan_does_not_pass(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["2.bias"][0] = float("nan")
    save_file(weights, folder / "model.safetensors")
    assert not gates(folder)["torch"].passed


def test_the_onnx_file_of_another_training_does_not_pass(folder: Path) -> None:
    path = folder / "model.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "2.bias":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) + 0.01, tensor.name))
    path.write_bytes(model.SerializeToString())
    found = gates(folder)
    assert found["torch"].passed
    assert not found["onnx"].passed
    assert re.search(r"'output' at 4 rows differs by 0\.01", found["onnx"].why)


def test_onnx_that_is_right_for_the_examples_rows_only_does_not_pass(folder: Path) -> None:
    """As a graph that was traced with its number of rows in it: the recorded answer, whatever is asked."""
    recorded = load_file(folder / "model.example.safetensors")["output.output"].numpy()
    first = onnx.helper.make_node("Slice", ["answer", "zero", "rows"], ["y"])
    shape = onnx.helper.make_node("Shape", ["input"], ["rows"], start=0, end=1)
    constants = [numpy_helper.from_array(recorded, "answer"), numpy_helper.from_array(np.array([0]), "zero")]
    model = graph(shape, first, inputs=[floats("input", "n", 6)], outputs=[floats("y", "n", 3)], constants=constants)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    gate = gates(folder)["onnx"]
    assert not gate.passed
    assert "7 row" in gate.why


def test_rows_that_depend_on_each_other_do_not_pass(tmp_path: Path) -> None:
    (gate,) = check(saved(tmp_path, Crowd(), example(columns=2)))
    assert not gate.passed
    assert "at 7 rows" in gate.why


def test_an_output_without_rows_does_not_pass(tmp_path: Path) -> None:
    (gate,) = check(saved(tmp_path, Total(), example(columns=2)))
    assert not gate.passed
    assert "one row of each output" in gate.why


@pytest.mark.parametrize("keep", [0, 100, 2000])
@pytest.mark.parametrize("name", ["model.safetensors", "model.example.safetensors", "model.json", "model.onnx"])
def test_a_file_that_was_cut_off_does_not_pass(folder: Path, name: str, keep: int) -> None:
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(whole[: min(keep, len(whole) - 1)])
    found = gates(folder)
    part = "onnx" if name == "model.onnx" else "torch"
    assert not found[part].passed
    assert found[part].why and "\n" not in found[part].why


@pytest.mark.parametrize("name", ["model.safetensors", "model.example.safetensors", "model.json"])
def test_whatever_byte_is_changed_the_check_speaks(folder: Path, name: str) -> None:
    """And what it passes gives the recorded output: it compares, whatever was read."""
    (folder / "model.onnx").unlink()
    path = folder / name
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    passed = 0
    for _ in range(60):
        data = bytearray(whole)
        data[random.integers(len(data))] ^= 1 << random.integers(8)
        path.write_bytes(data)
        (gate,) = check(folder)
        assert gate.name in ("torch", "files")
        assert gate.passed or gate.why
        passed += gate.passed
    assert passed < 60


def test_an_example_that_does_not_belong_to_the_json_does_not_pass(folder: Path) -> None:
    edit_json(folder, lambda about: about["inputs"][0].update(name="other"))
    assert not gates(folder)["torch"].passed
    edit_json(folder, lambda about: about.update(inputs=7))
    assert not gates(folder)["torch"].passed


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ({"class": "gone_away:Model", "arguments": {}}, "'gone_away' importable"),
        ({"class": "os:system", "arguments": {"command": "touch exploded"}}, "no torch.nn.Module"),
        ({"class": "builtins:exec", "arguments": {}}, "no torch.nn.Module"),
        ({"class": "torch.nn:Linear", "arguments": {"in_features": 10**9, "out_features": 10**9}}, "cannot be rebuilt"),
        ({"class": "torch.nn:Linear", "arguments": {"in_features": 6, "out_features": 3}}, "cannot be rebuilt"),
    ],
)
def test_a_recipe_that_cannot_be_followed_does_not_pass(folder: Path, workdir: Path, recipe: Any, why: str) -> None:
    edit_json(folder, lambda about: about.update(recipe=recipe))
    found = gates(folder)
    assert not found["torch"].passed
    assert why in found["torch"].why
    assert found["onnx"].passed
    assert not list(workdir.iterdir())


@pytest.mark.parametrize("gigabytes", [10, 10**6])
def test_a_graph_that_asks_for_all_memory_harms_nobody(folder: Path, gigabytes: int) -> None:
    """It may pass no check and kill no process but its own; the line for torch has been said by then."""
    size = numpy_helper.from_array(np.array([gigabytes * 10**9 // 4]), "size")
    nodes = [
        onnx.helper.make_node("Gemm", ["input", "w"], ["y0"]),
        onnx.helper.make_node("ConstantOfShape", ["size"], ["many"]),
        onnx.helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=0),
        onnx.helper.make_node("Add", ["y0", "sum"], ["y"]),
    ]
    weight = numpy_helper.from_array(np.zeros((6, 3), np.float32), "w")
    model = graph(*nodes, inputs=[floats("input", "n", 6)], outputs=[floats("y", "n", 3)], constants=[weight, size])
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30)); "
    run = "sys.argv[:1] = []; runpy.run_module('automl.serving.check', run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-c", limit + run, "check", folder], cwd=ROOT, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["name"] == "torch" and lines[0]["passed"]
    assert done.returncode != 0 or (lines[1]["name"] == "onnx" and not lines[1]["passed"])


def test_the_process_offers_itself_when_memory_ends(folder: Path) -> None:
    script = "import sys; from automl.serving.check import _die_alone; _die_alone(); "
    script += "import resource; print(open('/proc/self/oom_score_adj').read().strip()); "
    script += "print(resource.getrlimit(resource.RLIMIT_DATA)[0] > 0)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["1000", "True"], done.stderr


MODULE = """
import os, sys
from torch import nn

class Net(nn.Linear):
    pass
"""


@pytest.fixture
def with_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose class is in code/my_net.py."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "my_net.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(code))
    import my_net  # type: ignore[import-not-found]

    try:
        return saved(tmp_path / "saved", my_net.Net(6, 3))
    finally:
        del sys.modules["my_net"]


def test_code_is_found_on_the_given_path_only(with_code: Path) -> None:
    (line,) = spoken(with_code)
    assert not line["passed"]
    assert "my_net" in line["why"] and "PYTHONPATH" in line["why"]
    (line,) = spoken(with_code, "--path", with_code.parent / "code")
    assert line["passed"], line


@pytest.mark.parametrize(
    ("extra", "rc", "lines"),
    [
        ('print(\'{"name": "torch", "passed": true}\'); os.system(\'echo noise\')', 0, [True]),
        ("sys.exit(0)", 0, [False]),
        ("raise RuntimeError('no such device')", 0, [False]),
        ("os.abort()", -6, []),
    ],
    ids=["prints", "exits", "raises", "crashes"],
)
def test_what_the_models_code_does_is_no_answer_of_ours(
    with_code: Path, extra: str, rc: int, lines: list[bool]
) -> None:
    code = with_code.parent / "code"
    (code / "my_net.py").write_text(MODULE + extra)
    found = spoken(with_code, "--path", code, rc=rc)
    assert [line["passed"] for line in found] == lines
    assert all(FIGURE.fullmatch(line["figure"]) for line in found if line["passed"])


def test_the_line_for_torch_is_out_before_onnx_is_tried(folder: Path, tmp_path: Path) -> None:
    """A crash inside onnxruntime: here its module is one that ends the process."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "onnxruntime.py").write_text("import os; os.abort()")
    shutil.rmtree(broken / "__pycache__", ignore_errors=True)
    (line,) = spoken(folder, "--path", broken, rc=-6)
    assert line["name"] == "torch" and line["passed"]
