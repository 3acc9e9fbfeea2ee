"""Saving a model, building it again from its files, and exporting it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from automl.errors import InvalidInput, ModelUnusable
from automl.trainers.models import export_onnx, load_model, save_model
from automl.trainers.recipe import RecipeError, build, describe


class Plain(nn.Module):
    """Keeps its arguments under their own names."""

    def __init__(self, width: int, depth: int = 2, bias: bool = True, dropout: float = 0.1):
        super().__init__()
        self.width, self.depth = width, depth
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = self.dropout(torch.relu(layer(x)))
        return x if self.bias is None else x + self.bias


class Forgetful(nn.Module):
    """Cannot be guessed: `hidden` is needed and not kept."""

    def __init__(self, hidden: int):
        super().__init__()
        self.up, self.down = nn.Linear(3, hidden), nn.Linear(hidden, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x)))


class Misleading(nn.Module):
    """Can be built from what it keeps, and is then another function."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.factor = scale
        self.linear = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * self.linear(x)


class Tied(nn.Module):
    def __init__(self, words: int, width: int):
        super().__init__()
        self.words, self.width = words, width
        self.embed = nn.Embedding(words, width)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embed(tokens).mean(dim=1))


@dataclass
class Config:
    width: int = 4
    activation: type[nn.Module] = nn.GELU
    sizes: tuple[int, ...] = (3, 5)
    limit: float = float("inf")


class Configured(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.body = nn.Sequential(nn.Linear(3, config.width), config.activation())

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": self.body(left) + right, "left": (self.body(left), right)[0]}


def mlp() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3, bias=False))
    model(torch.randn(32, 6))  # running statistics that differ from fresh ones
    return model


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same", bias=False),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.2),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


def encoder(**extra: object) -> nn.Module:
    return nn.TransformerEncoderLayer(
        8, 2, 16, 0.1, nn.functional.gelu, 1e-4, batch_first=True, norm_first=True, **extra
    )


MODELS = {
    "mlp": (mlp, (torch.randn(5, 6),)),
    "cnn": (cnn, (torch.randn(3, 1, 8, 8),)),
    "plain": (lambda: Plain(4, depth=3, bias=False, dropout=0.2), (torch.randn(2, 4),)),
    "tied": (lambda: Tied(11, 4), (torch.randint(0, 11, (3, 5)),)),
    "configured": (lambda: Configured(Config(width=7)), (torch.randn(4, 3), torch.randn(4, 7))),
    "encoder layer": (encoder, (torch.randn(3, 4, 8),)),
    "encoder": (lambda: nn.TransformerEncoder(encoder(), 2, nn.LayerNorm(8)), (torch.randn(3, 4, 8),)),
    "decoder layer": (
        lambda: nn.TransformerDecoderLayer(8, 2, 16, batch_first=True, bias=False),
        (torch.randn(2, 3, 8), torch.randn(2, 4, 8)),
    ),
    "lstm": (lambda: nn.LSTM(3, 4, 2, batch_first=True, proj_size=2), (torch.randn(2, 5, 3),)),
    "gru": (lambda: nn.GRU(3, 4, bias=False, bidirectional=True), (torch.randn(2, 5, 3),)),
    "rnn": (lambda: nn.RNN(3, 4, nonlinearity="relu"), (torch.randn(2, 5, 3),)),
    "attention": (
        lambda: nn.MultiheadAttention(4, 2, bias=False, add_bias_kv=True, batch_first=True),
        (torch.randn(2, 3, 4),) * 3,
    ),
    "double": (lambda: nn.Sequential(nn.Linear(2, 2)).double(), (torch.randn(2, 2, dtype=torch.float64),)),
    "half": (lambda: nn.Linear(2, 2).to(torch.bfloat16), (torch.randn(2, 2, dtype=torch.bfloat16),)),
    "no weights": (lambda: nn.Sequential(nn.Flatten(), nn.Softmax(dim=-1)), (torch.randn(2, 2, 2),)),
}


def outputs(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> object:
    model.eval()
    with torch.no_grad():
        return model(*inputs)


def about(directory: Path) -> dict:
    return json.loads((directory / "model.json").read_text())


@pytest.mark.filterwarnings("ignore:.*(nested tensors|enable_nested_tensor)")
@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_gives_the_same_outputs_and_needs_no_onnx(name: str, tmp_path: Path) -> None:
    make, inputs = MODELS[name]
    model = make()
    written = save_model(model, tmp_path, example_input=inputs)

    assert [path.name for path in written] == ["model.safetensors", "model.json", "model.example.safetensors"]
    assert sorted(tmp_path.iterdir()) == sorted(written)
    assert about(tmp_path)["recipe"] is not None
    loaded = load_model(tmp_path)
    assert not loaded.training
    torch.testing.assert_close(outputs(loaded, inputs), outputs(model, inputs), rtol=0, atol=0)
    assert {k: v.dtype for k, v in loaded.state_dict().items()} == {k: v.dtype for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", ["mlp", "cnn", "tied", "configured", "encoder layer"])
def test_an_exported_model_agrees_with_torch_at_any_number_of_rows(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make, inputs = MODELS[name]
    model = make()
    save_model(model, tmp_path, example_input=inputs)
    path = export_onnx(tmp_path)

    assert path == tmp_path / "model.onnx"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".") or p.suffix == ".data"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    many = tuple(x.repeat(7, *[1] * (x.ndim - 1)) for x in inputs)
    names = [entry["name"] for entry in about(tmp_path)["inputs"]]
    found = session.run(None, {k: v.numpy() for k, v in zip(names, many, strict=True)})
    expected = outputs(model, many)
    first = expected["sum"] if isinstance(expected, dict) else expected
    np.testing.assert_allclose(found[0], first.numpy(), rtol=1e-3, atol=1e-4)
    assert capfd.readouterr() == ("", "")


def test_the_json_names_inputs_and_outputs_with_the_number_of_rows_open(tmp_path: Path) -> None:
    make, inputs = MODELS["configured"]
    save_model(make(), tmp_path, example_input=inputs)
    assert about(tmp_path)["inputs"] == [
        {"name": "left", "shape": [None, 3], "dtype": "float32"},
        {"name": "right", "shape": [None, 7], "dtype": "float32"},
    ]
    assert [entry["name"] for entry in about(tmp_path)["outputs"]] == ["sum", "left_out"]
    assert about(tmp_path)["torch"] == torch.__version__


def test_a_model_that_cannot_be_guessed_becomes_onnx_at_once(tmp_path: Path) -> None:
    model = Forgetful(5)
    written = save_model(model, tmp_path, example_input=torch.randn(1, 3))
    assert [path.suffix for path in written] == [".safetensors", ".json", ".safetensors", ".onnx"]
    assert about(tmp_path)["recipe"] is None
    assert "does not keep its argument 'hidden'" in about(tmp_path)["why"]
    assert export_onnx(tmp_path) == tmp_path / "model.onnx"
    with pytest.raises(ModelUnusable, match=r"only be used through its ONNX file.*'hidden'"):
        load_model(tmp_path)


def test_arguments_given_by_the_caller_make_it_rebuildable(tmp_path: Path) -> None:
    model = Forgetful(5)
    save_model(model, tmp_path, example_input=torch.randn(2, 3), arguments={"hidden": np.int64(5)})
    loaded = load_model(tmp_path)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_recipe_that_gives_another_function_is_not_believed(tmp_path: Path) -> None:
    save_model(Misleading(3.0), tmp_path, example_input=torch.randn(2, 3))
    assert about(tmp_path)["recipe"] is None
    assert "another output" in about(tmp_path)["why"]
    assert (tmp_path / "model.onnx").exists()


def test_without_an_example_a_model_is_rebuilt_but_not_exported(tmp_path: Path) -> None:
    model = mlp()
    assert [path.suffix for path in save_model(model, tmp_path, name="best")] == [".safetensors", ".json"]
    torch.testing.assert_close(load_model(tmp_path, "best").state_dict(), model.state_dict())
    with pytest.raises(ModelUnusable, match="example_input="):
        export_onnx(tmp_path, name="best")


def test_without_recipe_and_example_the_weights_are_kept_and_the_reasons_said(tmp_path: Path) -> None:
    save_model(Forgetful(5), tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(Forgetful(5).state_dict())
    with pytest.raises(ModelUnusable, match=r"no example_input.*'hidden'"):
        export_onnx(tmp_path)


def test_saving_leaves_modes_random_numbers_and_weights_as_they_were(tmp_path: Path) -> None:
    model = mlp().train()
    model[1].eval()  # a frozen layer
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    save_model(model, tmp_path, example_input=torch.zeros(4, 6))
    assert torch.equal(torch.rand(4), expected)
    assert [module.training for module in model] == [True, False, True, True, True]
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)


def test_tied_weights_are_stored_once_and_tied_again_also_when_tied_from_outside(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    save_model(model, tmp_path, example_input=torch.randn(2, 3))
    assert "2.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = load_model(tmp_path)
    assert loaded[2].weight is loaded[0].weight


def test_one_module_used_twice_keeps_both_places(tmp_path: Path) -> None:
    linear = nn.Linear(3, 3)
    save_model(nn.Sequential(linear, nn.ReLU(), linear), tmp_path, example_input=torch.randn(2, 3))
    loaded = load_model(tmp_path)
    assert len(loaded) == 3
    assert loaded[0].weight is loaded[2].weight


def test_views_and_transposed_weights_are_stored(tmp_path: Path) -> None:
    whole = torch.randn(6, 4)
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[0].weight = nn.Parameter(whole.t())
    model[1].weight = nn.Parameter(whole[:4])
    save_model(model, tmp_path, example_input=torch.randn(2, 6))
    torch.testing.assert_close(load_model(tmp_path).state_dict(), model.state_dict(), rtol=0, atol=0)


def test_wrappers_are_taken_off(tmp_path: Path) -> None:
    save_model(torch.compile(nn.DataParallel(mlp()), backend="eager"), tmp_path, example_input=torch.randn(2, 6))
    assert type(load_model(tmp_path)) is nn.Sequential


def test_saving_again_leaves_nothing_of_the_model_before(tmp_path: Path) -> None:
    save_model(mlp(), tmp_path, example_input=torch.randn(2, 6))
    (tmp_path / "model.onnx").write_bytes(b"of the model before")
    save_model(Plain(3), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "model.json"}


def test_files_may_lie_elsewhere_under_other_names(tmp_path: Path) -> None:
    model, example = mlp(), torch.randn(2, 6)
    written = save_model(model, tmp_path, example_input=example)
    assert isinstance(load_model(written), nn.Sequential)
    stored = {path.name: path.rename(tmp_path / f"{i:064x}") for i, path in enumerate(written)}
    torch.testing.assert_close(outputs(load_model(stored), (example,)), outputs(model, (example,)))


def test_a_local_class_has_no_recipe() -> None:
    class Local(nn.Module):
        pass

    with pytest.raises(RecipeError, match="define it at module level"):
        describe(Local())


def test_a_class_of_a_script_is_exported_at_once_and_nothing_is_printed(tmp_path: Path) -> None:
    script = (
        "import sys, torch\n"
        "from automl.trainers.models import save_model\n"
        "class Net(torch.nn.Linear): pass\n"
        "save_model(Net(2, 2), sys.argv[1], example_input=torch.zeros(1, 2))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=True, timeout=200, capture_output=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert "script or notebook" in about(tmp_path)["why"]
    assert (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    "node",
    [
        {"class": "subprocess:Popen", "arguments": {"args": "true"}},
        {"class": "builtins:eval", "arguments": {}},
        {"class": "torch.nn.modules.container:Sequential", "arguments": {"args": {"type": "os:system"}}},
        {"class": "torch.nn.modules.linear:Linear", "children": {}},
        {"class": "no_such_module:Net", "arguments": {}},
        {"class": "torch.nn:Linear:x", "arguments": {}},
        {"dataclass": "subprocess:Popen", "fields": {"args": "true"}},
        {"function": "torch:load"},
        {"function": "os:system"},
        {"dtype": "load"},
        {"unknown": 1},
        ["torch.nn.modules.linear:Linear"],
        None,
    ],
)
def test_a_recipe_builds_torch_modules_only(node: object) -> None:
    with pytest.raises(RecipeError):
        build(node)


@pytest.mark.parametrize(
    ("model", "example", "match"),
    [
        ({"a": 1}, None, "a dict is no torch module; give a torch.nn.Module"),
        (nn.Linear, None, "Linear is a class; give an instance"),
        (nn.Linear(2, 2), np.zeros((1, 2)), "a ndarray; give tensors"),
        (nn.Linear(2, 2), torch.tensor(1.0), "first dimension counts the rows"),
        (nn.Linear(2, 2), torch.zeros(0, 2), "one or more"),
        (nn.Bilinear(2, 2, 2), (torch.zeros(1, 2), torch.zeros(2, 2)), "the same number"),
        (nn.Linear(2, 2), torch.zeros(1, 3), "cannot run on it .*give a batch"),
        (nn.Linear(2, 2), (torch.zeros(1, 2), torch.zeros(1, 2)), "cannot run on it"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    model: object, example: object, match: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=match) as caught:
        save_model(model, tmp_path / "new", example_input=example)
    assert caught.value.field in ("model", "example_input")
    assert not (tmp_path / "new").exists()


def test_arguments_and_names_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"Forgetful takes no such argument; name some of \['hidden'\]"):
        save_model(Forgetful(2), tmp_path, arguments={"width": 2})
    with pytest.raises(InvalidInput, match=r"arguments\['hidden'\]: a object cannot be written as JSON"):
        save_model(Forgetful(2), tmp_path, arguments={"hidden": object()})
    with pytest.raises(InvalidInput, match="leave out folders"):
        save_model(Forgetful(2), tmp_path, name="../model")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"there is no model\.json; give what save_model wrote"):
        load_model(tmp_path)
    written = save_model(mlp(), tmp_path, example_input=torch.randn(2, 6))
    with pytest.raises(InvalidInput, match=r"the given files: there is no model\.safetensors"):
        load_model(written[1:])


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "model.example.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_damaged_file_is_named(name: str, damage: str, tmp_path: Path) -> None:
    save_model(mlp(), tmp_path, example_input=torch.randn(2, 6))
    path = tmp_path / name
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"\xff" * len(whole)}[damage])
    for use in (load_model, export_onnx):
        with pytest.raises(ModelUnusable, match=f"{name} is damaged .*save the model again"):
            use(tmp_path)


@pytest.mark.parametrize("change", [{"format": 2}, {"tied": None}, {"recipe": {"class": 1}}, {"tied": {"x": "y"}}])
def test_a_json_that_is_none_of_ours_is_refused(change: dict, tmp_path: Path) -> None:
    save_model(mlp(), tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(about(tmp_path) | change))
    with pytest.raises(ModelUnusable):
        load_model(tmp_path)


def test_weights_of_another_training_do_not_pass_for_the_recorded_model(tmp_path: Path) -> None:
    save_model(nn.Linear(3, 2), tmp_path, example_input=torch.randn(2, 3))
    save_file(dict(nn.Linear(3, 2).state_dict()), tmp_path / "model.safetensors")
    with pytest.raises(ModelUnusable, match="it now gives another output"):
        load_model(tmp_path)


class FixedRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 6).sum(dim=1, keepdim=True)


def test_a_model_for_one_number_of_rows_only_says_why_it_has_no_onnx(tmp_path: Path) -> None:
    save_model(FixedRows(), tmp_path, example_input=torch.randn(2, 6))
    with pytest.raises(ModelUnusable, match="no ONNX file: "):
        export_onnx(tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".onnx"]


def test_half_precision_is_not_exported(tmp_path: Path) -> None:
    make, inputs = MODELS["half"]
    save_model(make(), tmp_path, example_input=inputs)
    with pytest.raises(ModelUnusable, match=r"call model\.float\(\)"):
        export_onnx(tmp_path)


def test_importing_the_module_loads_no_torch() -> None:
    code = "import sys, automl.trainers.models; sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
