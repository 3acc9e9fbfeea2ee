"""A trial's torch model as files that can be rebuilt without unpickling anything.

::

    model.safetensors           the state dict on the CPU; tied tensors once
    model.json                  the recipe (recipe.py) or null and why, inputs, outputs, torch version
    model.example.safetensors   an example input and what the model gave for it, to check a loaded model by
    model.onnx                  at once for a model without a recipe, else by `export_onnx` for the one that counts

The recipe is proved when it is written: the model is built from it and must give the same outputs. A model that
cannot be rebuilt (a class in a notebook, constructor arguments that it does not keep) is exported to ONNX there
and then, while it still exists; for all others these seconds are spent once, on the best.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automl.errors import InvalidInput, ModelUnusable
from automl.trainers.onnx_file import export
from automl.trainers.outputs import (
    OTHER_ATOL,
    OTHER_RTOL,
    Tensors,
    detached,
    device_of,
    difference,
    quiet,
    run,
)
from automl.trainers.recipe import RecipeError, build, constructor_parameters, describe, encode, reason

if TYPE_CHECKING:
    import torch

_FORMAT = 1

#: Where the files are: their folder, their paths, or paths by file name (a store may call them otherwise).
Source = str | Path | Iterable[str | Path] | Mapping[str, str | Path]


def save_model(
    model: torch.nn.Module,
    directory: str | Path,
    *,
    example_input: torch.Tensor | tuple[torch.Tensor, ...] | None = None,
    arguments: Mapping[str, Any] | None = None,
    name: str = "model",
) -> list[Path]:
    """Write `model` into `directory` and return the files written; one that was there is replaced.

    Args:
        model: left as it is, in its mode and on its device.
        example_input: what `forward` takes, one tensor or a tuple of them, each `(rows, ...)` with the same
            number of rows; without it neither outputs are checked nor an ONNX file can be made.
        arguments: of the model's constructor, where it does not keep them under their own names.
        name: of the files, without suffix.

    Raises:
        InvalidInput: not a torch module, or one that cannot run on `example_input`. Nothing is written.
    """
    import torch
    from safetensors.torch import load_file, save_file

    model = _unwrapped(model)
    if not name or Path(name).name != name:
        raise InvalidInput(f"name: {name!r} is no file name; leave out folders", field="name")
    _check_arguments(model, arguments or {})
    inputs = _named_inputs(model, example_input)
    weights, tied = _state(model)
    try:
        outputs = run(model, inputs) if inputs else {}
    except Exception as error:  # forward is the user's code
        message = f"example_input: the model cannot run on it ({reason(error)}); give a batch as forward takes it"
        raise InvalidInput(message, field="example_input") from error

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = {suffix: directory / f"{name}{suffix}" for suffix in _SUFFIXES}
    for path in paths.values():
        path.unlink(missing_ok=True)  # an ONNX file of an earlier save must not outlive its weights
    _write(paths[".safetensors"], lambda path: save_file(weights, path, metadata={"format": "pt"}))

    about: dict[str, Any] = {"format": _FORMAT, "torch": str(torch.__version__), "recipe": None, "tied": tied}
    try:
        recipe = json.loads(json.dumps(describe(model, arguments), allow_nan=False))
        rebuilt = _rebuild(recipe, load_file(paths[".safetensors"]), tied)
        if differing := difference(run(rebuilt.to(device_of(model)), inputs) if inputs else {}, outputs):
            raise RecipeError(f"built again from its constructor's arguments it gives another {differing}")
        about["recipe"] = recipe
        if inputs and device_of(model).type != "cpu":
            outputs = run(rebuilt.to("cpu"), inputs)  # what a machine without the accelerator will compare with
    except Exception as error:  # constructors are the user's code
        about["why"] = reason(error)
    about["inputs"], about["outputs"] = _shapes(inputs), _shapes(outputs)

    if inputs:
        example = {f"input.{k}": v for k, v in inputs.items()} | {f"output.{k}": v for k, v in outputs.items()}
        _write(paths[".example.safetensors"], lambda path: save_file(example, path))
    if about["recipe"] is None:
        try:
            if not inputs:
                raise ModelUnusable("there is no example_input to trace it with")
            _write(paths[".onnx"], lambda path: export(model, inputs, list(outputs), path))
        except ModelUnusable as error:
            about["why_no_onnx"] = str(error)
    text = json.dumps(about, indent=1, allow_nan=False)
    _write(paths[".json"], lambda path: path.write_text(text, encoding="utf-8"))  # last: it completes the set
    return [path for path in paths.values() if path.exists()]


def load_model(source: Source, name: str = "model") -> torch.nn.Module:
    """The saved model on the CPU in eval mode, checked against its recorded example.

    Only classes that can be imported here are built; nothing is unpickled or evaluated.

    Raises:
        InvalidInput: a file is not there.
        ModelUnusable: a file is damaged, there is no recipe, or the model is not what it was when it was saved.
    """
    about = _about(source, name)
    if about["recipe"] is None:
        raise ModelUnusable(f"{name}: it can only be used through its ONNX file, because {about['why']}")
    weights = _tensors(_required(source, f"{name}.safetensors"))
    try:
        model = _rebuild(about["recipe"], weights, about["tied"])
    except Exception as error:  # constructors are the user's code
        raise ModelUnusable(f"{name}: it cannot be rebuilt: {reason(error)}") from error
    inputs, outputs = _example(source, name, about)
    if inputs:
        try:
            differing = difference(run(model, inputs), outputs, OTHER_RTOL, OTHER_ATOL)
        except Exception as error:  # forward is the user's code
            raise ModelUnusable(f"{name}: it cannot run on its recorded example: {reason(error)}") from error
        if differing:
            cure = "use the code and the torch version that it was saved with"
            raise ModelUnusable(f"{name} (saved with torch {about['torch']}): it now gives another {differing}; {cure}")
    return model


def export_onnx(directory: str | Path, *, name: str = "model") -> Path:
    """Make `<name>.onnx` from the saved files, any number of rows in one call; seconds of work.

    The file holds its weights itself. It is compared with torch in onnxruntime at several numbers of rows before
    it gets its name. That of a model without a recipe, made when it was saved, is returned as it is.

    Raises:
        InvalidInput: a file is not there.
        ModelUnusable: it cannot be made; the message says why.
    """
    path = Path(directory) / f"{name}.onnx"
    about = _about(directory, name)
    if about["recipe"] is None and path.exists():
        return path
    if about["recipe"] is None:
        raise ModelUnusable(f"{name}: no ONNX file: {about.get('why_no_onnx', 'it is gone')}, and {about['why']}")
    inputs, outputs = _example(directory, name, about)
    if not inputs:
        raise ModelUnusable(f"{name}: no ONNX file: save the model with example_input=, to trace it with")
    try:
        model = load_model(directory, name)
        return _write(path, lambda path: export(model, inputs, list(outputs), path))
    except ModelUnusable as error:
        raise ModelUnusable(f"{name}: no ONNX file: {error}") from error


_SUFFIXES = (".safetensors", ".json", ".example.safetensors", ".onnx")


def _unwrapped(model: object) -> torch.nn.Module:
    """The module inside `torch.compile`, DataParallel and DistributedDataParallel."""
    import torch

    if isinstance(model, type) and issubclass(model, torch.nn.Module):
        raise InvalidInput(f"model: {model.__name__} is a class; give an instance of it", field="model")
    if not isinstance(model, torch.nn.Module):
        cure = "give a torch.nn.Module, and save anything else yourself"
        raise InvalidInput(f"model: a {type(model).__name__} is no torch module; {cure}", field="model")
    if isinstance(model, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        return _unwrapped(model.module)
    compiled_from = model._modules.get("_orig_mod")  # to ask for torch.compile's class costs a second of imports
    return model if compiled_from is None else _unwrapped(compiled_from)


def _check_arguments(model: torch.nn.Module, arguments: Mapping[str, Any]) -> None:
    known = constructor_parameters(type(model))
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for name, value in arguments.items():
        where = f"arguments[{name!r}]"
        if name not in known and not takes_any:
            cure = f"name some of {list(known)}"
            raise InvalidInput(f"{where}: {type(model).__qualname__} takes no such argument; {cure}", field=where)
        try:
            encode(value)
        except RecipeError as error:
            raise InvalidInput(f"{where}: {error}; give numbers, strings, lists or modules", field=where) from None


def _named_inputs(model: torch.nn.Module, example_input: object) -> Tensors:
    """`example_input` on the CPU, by the names of forward's arguments."""
    import torch

    if example_input is None:
        return {}
    many = tuple(example_input) if isinstance(example_input, tuple | list) else (example_input,)
    for value in many:
        if not isinstance(value, torch.Tensor) or value.ndim == 0 or len(value) == 0:
            what = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
            cure = "give tensors whose first dimension counts the rows, one or more"
            raise InvalidInput(f"example_input: {what}; {cure}", field="example_input")
    if not many or len({len(value) for value in many}) > 1:
        rows = [len(value) for value in many]
        raise InvalidInput(f"example_input: {rows} rows; give every input the same number", field="example_input")
    parameters = list(inspect.signature(model.forward).parameters.values())
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)][: len(many)]
    names += [f"input_{i}" for i in range(len(names), len(many))]
    return {name: detached(value) for name, value in zip(names, many, strict=True)}


def _state(model: torch.nn.Module) -> tuple[Tensors, dict[str, str]]:
    """The state dict with each tensor once, and the other names of those that have several."""
    import torch

    weights: Tensors = {}
    tied: dict[str, str] = {}
    first: dict[int, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided or tensor.is_meta:
            what = "a sparse or meta tensor" if isinstance(tensor, torch.Tensor) else f"a {type(tensor).__name__}"
            raise InvalidInput(f"model: its state {name!r} is {what}; keep dense tensors only", field="model")
        kept = first.setdefault(id(tensor), name)
        if kept == name:
            weights[name] = detached(tensor)
        else:
            tied[name] = kept
    return weights, tied


def _rebuild(recipe: Mapping[str, Any], weights: Tensors, tied: Mapping[str, str]) -> torch.nn.Module:
    """Build, tie, load; in eval mode. The caller's random numbers are not used up."""
    import torch

    with torch.random.fork_rng(devices=[]), torch.device("cpu"), quiet():
        model = build(recipe)
    own = model.state_dict(keep_vars=True)
    for name, kept in tied.items():
        if own[name] is not own[kept]:
            prefix, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(prefix), leaf, own[kept])
    for name, tensor in own.items():
        if name in weights:
            tensor.data = tensor.data.to(weights[name].dtype)  # a model may have been cast after it was built
    model.load_state_dict({**weights, **{name: weights[kept] for name, kept in tied.items()}})
    return model.eval()


def _shapes(tensors: Tensors) -> list[dict[str, Any]]:
    """Name, shape and dtype of each; null is the number of rows."""
    return [
        {"name": name, "shape": [None, *tensor.shape[1:]], "dtype": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in tensors.items()
    ]


def _write(path: Path, write: Callable[[Path], object]) -> Path:
    """Whole or not at all: `write` to another name in the same folder, then rename."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _locate(source: Source, file_name: str) -> Path | None:
    if isinstance(source, str | Path):
        path = Path(source) / file_name
    else:
        named = source if isinstance(source, Mapping) else {Path(p).name: p for p in source}
        if file_name not in named:
            return None
        path = Path(named[file_name])
    return path if path.is_file() else None


def _required(source: Source, file_name: str) -> Path:
    path = _locate(source, file_name)
    if path is None:
        where = source if isinstance(source, str | Path) else "the given files"
        raise InvalidInput(f"{where}: there is no {file_name}; give what save_model wrote", field="source")
    return path


def _about(source: Source, name: str) -> dict[str, Any]:
    path = _required(source, f"{name}.json")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        number, kinds = about["format"], {"tied": dict, "inputs": list, "outputs": list, "torch": str}
        if number != _FORMAT:
            raise ModelUnusable(f"{path}: format {number!r}, not {_FORMAT}; use the automl that wrote it")
        if not all(isinstance(about[key], kind) for key, kind in kinds.items()):
            raise TypeError("a field has the wrong type")
        about["recipe"] or about["why"]  # one of them is there
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelUnusable(f"{path} is damaged ({reason(error)}); save the model again") from error
    return about


def _tensors(path: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ModelUnusable(f"{path} is damaged ({error}); save the model again") from error


def _example(source: Source, name: str, about: Mapping[str, Any]) -> tuple[Tensors, Tensors]:
    """The recorded inputs and outputs, in order; both empty where none were recorded."""
    if not about["inputs"]:
        return {}, {}
    path = _required(source, f"{name}.example.safetensors")
    found = _tensors(path)
    try:
        inputs = {entry["name"]: found[f"input.{entry['name']}"] for entry in about["inputs"]}
        outputs = {entry["name"]: found[f"output.{entry['name']}"] for entry in about["outputs"]}
    except (KeyError, TypeError) as error:
        raise ModelUnusable(f"{path} does not belong to {name}.json ({reason(error)}); save it again") from error
    return inputs, outputs
