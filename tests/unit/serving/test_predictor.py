"""Predictors: NumPy in, NumPy out, whatever runs the model."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from automl.errors import InvalidInput, ModelUnusable
from automl.serving import Predictor, open_model
from automl.trainers.models import load_model as load_torch
from tests.unit.serving.zoo import FEATURES, InPlace, Solitary, Total, saved

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["torch", "onnx"])
def runtime(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def predict(plain: Path, runtime: Any) -> Predictor:
    return open_model(plain, runtime=runtime)


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, FEATURES)).astype(np.float32)


@pytest.fixture
def truth(plain: Path) -> Iterator[Any]:
    model = load_torch(plain)
    with torch.no_grad():
        yield lambda x: model(torch.tensor(x, dtype=torch.float32)).numpy()


@pytest.mark.parametrize("batch_size", [None, 1, 3, 10, 1000])
def test_a_predictor_gives_what_the_model_gives_in_batches_of_any_size(
    predict: Predictor, truth: Any, batch_size: int | None
) -> None:
    x = rows(10)
    found = predict(x, batch_size=batch_size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, truth(x), rtol=1e-4, atol=1e-5)


def test_a_predictor_says_what_it_takes_and_gives(predict: Predictor, runtime: str) -> None:
    assert predict.runtime == runtime
    assert predict.version is None
    (taken,), (given,) = predict.inputs, predict.outputs
    assert taken.shape == (None, FEATURES) and taken.dtype == np.float32
    assert given.shape == (None, 3) and given.name == "output"
    assert repr(predict) == f"Predictor({runtime}, float32 (n, 6) -> float32 (n, 3))"


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(">f4"),
        lambda x: x.tolist(),
        np.asfortranarray,
        lambda x: np.repeat(x, 2, axis=0)[::2],
        lambda x: torch.from_numpy(x),
    ],
    ids=["float64", "float16", "big-endian", "lists", "by columns", "strided", "a tensor"],
)
def test_numbers_come_in_any_form(predict: Predictor, truth: Any, change: Any) -> None:
    x = rows(5)
    np.testing.assert_allclose(predict(change(x)), truth(x), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int8, np.bool_])
def test_whole_numbers_become_floats(predict: Predictor, truth: Any, dtype: Any) -> None:
    x = np.arange(2 * FEATURES).reshape(2, FEATURES).astype(dtype)
    np.testing.assert_allclose(predict(x), truth(x), rtol=1e-4, atol=1e-5)


def test_an_array_that_cannot_be_written_is_read(predict: Predictor, truth: Any) -> None:
    x = rows(3)
    x.flags.writeable = False
    np.testing.assert_allclose(predict(x), truth(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (np.zeros((2, FEATURES + 1)), "float64 (2, 7)"),
        (np.zeros((2, 1, FEATURES)), "float64 (2, 1, 6)"),
        (np.zeros(FEATURES), "x[None]"),
        (np.float32(1), "float32 ()"),
        (np.full((2, FEATURES), "1.0"), "<U3"),
        (np.full((2, FEATURES), None), "object"),
        (np.zeros((2, FEATURES), np.complex64), "complex64"),
        (np.zeros((2, FEATURES), "datetime64[s]"), "datetime64"),
        ([[1.0], [1.0, 2.0]], "no array"),
        (None, "object"),
    ],
)
def test_a_wrong_array_is_refused_with_what_is_expected(predict: Predictor, wrong: Any, what: str) -> None:
    with pytest.raises(InvalidInput) as error:
        predict(wrong)
    assert "float32 (n, 6)" in str(error.value)
    assert repr(predict.inputs[0].name) in str(error.value)
    assert what in str(error.value)


def test_numbers_that_the_dtype_cannot_hold_are_refused(predict: Predictor) -> None:
    x = rows(3).astype(np.float64)
    x[2, 0] = 1e300
    with pytest.raises(InvalidInput, match="beyond float32"):
        predict(x)


def test_nan_and_infinity_go_through(predict: Predictor) -> None:
    x = rows(3).astype(np.float64)
    x[1, 0], x[2, 0] = np.nan, np.inf
    found = predict(x)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).any()


def test_no_rows_give_no_rows(predict: Predictor) -> None:
    found = predict(np.zeros((0, FEATURES)))
    assert found.shape == (0, 3)
    assert found.dtype == np.float32


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "4"])
def test_a_batch_size_is_a_number_of_rows(plain: Path, size: Any) -> None:
    with pytest.raises(InvalidInput, match="batch_size"):
        open_model(plain)(rows(2), batch_size=size)
    with pytest.raises(InvalidInput, match="batch_size"):
        open_model(plain, batch_size=size)


def test_several_inputs_and_outputs_go_by_name(pair: Path, runtime: Any) -> None:
    predict = open_model(pair, runtime=runtime, batch_size=2)
    tokens, weight = np.arange(9).reshape(3, 3).astype(np.int32), np.array([1, 2, 3])
    found = predict({"weight": weight, "tokens": tokens})
    assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
        "scores": ((3, 2), "float32"),
        "label": ((3,), "int64"),
    }
    with torch.no_grad():
        expected = load_torch(pair)(torch.tensor(tokens), torch.tensor(weight))
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-4, atol=1e-5)
    empty = predict({"tokens": tokens[:0], "weight": weight[:0]})
    assert {name: array.shape for name, array in empty.items()} == {"scores": (0, 2), "label": (0,)}


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (np.zeros((2, 3), np.int64), ["tokens", "weight", "dict"]),
        ({"tokens": np.zeros((2, 3), np.int64)}, ["'tokens'", "'weight'"]),
        ({"tokens": np.zeros((2, 3), np.int64), "weight": [1, 1], "more": [1, 1]}, ["more"]),
        ({"tokens": np.zeros((2, 3), np.int64), "weight": [1, 1, 1]}, ["'weight' has 3 rows, 'tokens' has 2"]),
        ({"tokens": np.zeros((2, 3)), "weight": [1, 1]}, ["'tokens' takes int64 (n, 3), not float64"]),
        ({"tokens": np.full((2, 3), 2**63, np.uint64), "weight": [1, 1]}, ["'tokens' has values beyond int64"]),
        ({"tokens": np.full((2, 3), 99), "weight": [1, 1]}, ["rows 0 to 1"]),
    ],
)
def test_wrong_inputs_by_name_are_refused(pair: Path, runtime: Any, inputs: Any, words: list[str]) -> None:
    with pytest.raises(InvalidInput) as error:
        open_model(pair, runtime=runtime)(inputs)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_the_callers_array_stays_as_it_is(tmp_path: Path) -> None:
    x = np.ones((3, 2), np.float32)
    open_model(saved(tmp_path, InPlace(), torch.ones(2, 2)))(x)
    assert (x == 1).all()


def test_a_model_that_keeps_things_on_itself_serves_one_thread_at_a_time(tmp_path: Path) -> None:
    predict = open_model(saved(tmp_path, Solitary(), torch.randn(4, 256)), batch_size=50)
    x = np.random.default_rng(0).normal(size=(400, 256)).astype(np.float32)
    expected = predict(x)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(predict, [x] * 16):
            np.testing.assert_array_equal(found, expected)


def test_threads_get_their_own_rows(predict: Predictor, truth: Any) -> None:
    batches = [rows(50, seed) for seed in range(32)]
    with ThreadPoolExecutor(8) as pool:
        for x, found in zip(batches, pool.map(lambda x: predict(x, batch_size=7), batches), strict=True):
            np.testing.assert_allclose(found, truth(x), rtol=1e-4, atol=1e-5)


def test_many_rows_are_computed_some_at_a_time(tmp_path: Path) -> None:
    predict = open_model(saved(tmp_path, Solitary(), torch.randn(4, 256)))
    seen = predict._runtime._model.seen  # the only witness is inside of the model
    seen.clear()
    assert predict(np.zeros((9001, 256), np.float32)).shape == (9001, 256)
    assert sum(seen) == 9001
    assert max(seen) <= 4096


def test_half_precision_comes_out_as_float32(tmp_path: Path) -> None:
    inputs = torch.randn(2, 4, dtype=torch.bfloat16)
    predict = open_model(saved(tmp_path, nn.Linear(4, 2).to(torch.bfloat16), inputs))
    assert predict.inputs[0].dtype == np.float32
    found = predict(inputs.float().numpy())
    assert found.dtype == np.float32 and found.shape == (2, 2)


def test_a_model_without_a_row_for_each_row_is_refused(tmp_path: Path) -> None:
    predict = open_model(saved(tmp_path, Total(), torch.ones(2, 2)))
    with pytest.raises(ModelUnusable, match=r"'output' has shape \(\) for 3 row"):
        predict(np.ones((3, 2)))


def test_a_model_that_was_saved_without_an_example_is_refused(tmp_path: Path) -> None:
    from automl.trainers.models import save_model

    save_model(nn.Linear(2, 2), tmp_path)
    with pytest.raises(ModelUnusable, match="example_input="):
        open_model(tmp_path)


def test_auto_takes_onnx_where_there_is_one(plain: Path, folder: Path) -> None:
    assert open_model(plain).runtime == "onnx"
    (folder / "model.onnx").unlink()
    assert open_model(folder).runtime == "torch"
    with pytest.raises(InvalidInput, match="no files for onnx; use torch"):
        open_model(folder, runtime="onnx")


def test_a_model_that_is_not_there_is_named_with_those_that_are(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no model 'teacher'; use one of \['model'\]"):
        open_model(folder, name="teacher")
    with pytest.raises(InvalidInput, match=r"trial\.save_model"):
        open_model(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match="'tensorrt'; use auto, onnx or torch"):
        open_model(folder, runtime="tensorrt")  # type: ignore[arg-type]


def test_another_name_is_another_model(folder: Path) -> None:
    for path in list(folder.iterdir()):
        shutil.copy(path, path.with_name(path.name.replace("model", "teacher", 1)))
    (folder / "model.onnx").unlink()
    assert open_model(folder, name="teacher").runtime == "onnx"
    assert open_model(folder, name="teacher", runtime="torch")(rows(2)).shape == (2, 3)


def graph(*nodes: onnx.NodeProto, inputs: Any, outputs: Any, constants: Any = ()) -> onnx.ModelProto:
    made = helper.make_graph(list(nodes), "made by hand", list(inputs), list(outputs), list(constants))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def floats(name: str, *shape: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


@pytest.mark.parametrize("inside", ["graph", "subgraph"])
def test_onnx_whose_weights_are_in_another_file_is_refused(tmp_path: Path, inside: str) -> None:
    weight = numpy_helper.from_array(np.ones((2, 2), np.float32), "w")
    onnx.external_data_helper.set_external_data(weight, "secret.bin")
    weight.ClearField("raw_data")
    (tmp_path / "secret.bin").write_bytes(np.ones(4, np.float32).tobytes())
    if inside == "graph":
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        model = graph(node, inputs=[floats("x", "n", 2)], outputs=[floats("y", "n", 2)], constants=[weight])
    else:
        branch = helper.make_graph(
            [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("MatMul", ["x", "w"], ["z"])],
            "branch",
            [],
            [floats("z", "n", 2)],
        )
        yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
        node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
        model = graph(yes, node, inputs=[floats("x", "n", 2)], outputs=[floats("y", "n", 2)])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelUnusable, match="'w' is kept in another file"):
        open_model(tmp_path)


def test_onnx_without_open_rows_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model = graph(node, inputs=[floats("x", 4, 2)], outputs=[floats("y", 4, 2)])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelUnusable, match="first dimension is an open number of rows"):
        open_model(tmp_path)


def test_open_sizes_beside_the_rows_are_taken_as_they_come(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model = graph(node, inputs=[floats("x", "n", "length")], outputs=[floats("y", "n", "length")])
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    predict = open_model(tmp_path)
    assert str(predict.inputs[0]) == "float32 (n, any)"
    assert predict(np.ones((3, 5))).shape == (3, 5)
    assert predict(np.ones((0, 5))).shape == (0, 5)


@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_an_onnx_file_that_was_cut_off_is_refused(folder: Path, keep: int) -> None:
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelUnusable, match=r"model\.onnx"):
        open_model(folder)


class Bomb:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "model.example.safetensors", "model.onnx"])
def test_nothing_is_unpickled(folder: Path, workdir: Path, name: str) -> None:
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    runtime: Any = "onnx" if name.endswith("onnx") else "torch"
    with pytest.raises(ModelUnusable, match="damaged"):
        open_model(folder, runtime=runtime)
    assert not list(workdir.iterdir())


LIGHT = """
import sys
import automl.serving
import automl
automl.load_model
heavy = {"torch", "onnxruntime", "onnx", "pandas", "pyarrow", "optuna"} & set(sys.modules)
assert not heavy, heavy
import numpy
predict = automl.serving.open_model(sys.argv[1])
assert predict(numpy.zeros((2, 6))).shape == (2, 3)
assert "torch" not in sys.modules
"""


def test_serving_needs_torch_only_where_torch_runs_the_model(plain: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT, plain], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
