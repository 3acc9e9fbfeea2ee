"""What runs a saved model: onnxruntime on its ONNX file, or torch on its recipe and weights.

Both take and give NumPy arrays in the order of their ports, the first dimension the rows. Neither unpickles anything,
reads a file that is not the model's own, or touches the network.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from automl.errors import ModelUnusable
from automl.trainers.recipe import reason

if TYPE_CHECKING:
    from google.protobuf.message import Message


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model. In `shape` None means any size; the first dimension is the rows."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        """As `float32 (n, 64)`."""
        sizes = ", ".join(["n", *("any" if size is None else str(size) for size in self.shape[1:])])
        return f"{self.dtype} ({sizes}{',' if len(self.shape) == 1 else ''})"


class Runtime(Protocol):
    """A loaded model. `run` may be called by several threads at a time."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for one batch. The arrays have the shape and dtype of the inputs and are not changed."""


class OnnxRuntime:
    """A model as onnxruntime runs it, on the CPU."""

    name = "onnx"

    def __init__(self, path: Path):
        """Raises `ModelUnusable`: damaged, with weights in other files, or of a kind that has no rows."""
        import onnxruntime

        data = path.read_bytes()  # once: what is looked at is what is run
        refuse_external_data(data, path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what matters is raised
        options.intra_op_num_threads = _cores()
        options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has no common base of its errors
            raise ModelUnusable(f"{path} is damaged or unsupported ({reason(error)}); export it again") from error
        self.inputs = tuple(_onnx_port(value, path) for value in self._session.get_inputs())
        self.outputs = tuple(_onnx_port(value, path) for value in self._session.get_outputs())

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        feed = {port.name: array for port, array in zip(self.inputs, arrays, strict=True)}
        return list(self._session.run(None, feed))


class TorchRuntime:
    """A model as torch runs it, on the CPU, built from its recipe."""

    name = "torch"

    def __init__(self, paths: Mapping[str, Path], name: str):
        """Load model `name` from `paths`, by file name. Raises `InvalidInput`, `ModelUnusable`."""
        from automl.trainers.models import load_model

        self._model = load_model(paths, name)
        self._lock = threading.Lock()  # forward may keep things on the module
        about = json.loads(paths[f"{name}.json"].read_text(encoding="utf-8"))
        if not about["inputs"]:
            cure = "save it with example_input=, to record the shapes of its inputs"
            raise ModelUnusable(f"{name}: what it takes is unknown; {cure}")
        try:
            self._dtypes = [str(entry["dtype"]) for entry in about["inputs"]]
            self.inputs = tuple(_torch_port(entry) for entry in about["inputs"])
            self.outputs = tuple(_torch_port(entry) for entry in about["outputs"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelUnusable(f"{name}.json is damaged ({reason(error)}); save the model again") from error

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        import torch

        from automl.trainers.outputs import run

        tensors = {
            port.name: torch.tensor(array, dtype=getattr(torch, dtype))  # a copy: forward may work in place
            for port, array, dtype in zip(self.inputs, arrays, self._dtypes, strict=True)
        }
        with self._lock:
            found = run(self._model, tensors)
        return [(value.float() if value.dtype is torch.bfloat16 else value).numpy() for value in found.values()]


def _cores() -> int:
    """Those that this process may use; onnxruntime itself would count, and pin threads to, all of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_external_data(data: bytes, path: Path) -> None:
    """Raises `ModelUnusable` for a file that is no ONNX, or that would make onnxruntime read other files."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelUnusable(f"{path} is damaged ({reason(error)}); export it again") from error
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto) and (
            message.external_data or message.data_location == onnx.TensorProto.EXTERNAL
        ):
            raise ModelUnusable(f"{path}: {message.name!r} is kept in another file; export it with its weights inside")


def _messages(message: Message) -> Iterator[Message]:
    """`message` and all inside of it: weights may be in subgraphs, functions, attributes."""
    from google.protobuf.message import Message

    yield message
    for _, value in message.ListFields():
        if isinstance(value, Message):
            yield from _messages(value)
        elif not isinstance(value, str | bytes | int | float) and len(value) and isinstance(value[0], Message):
            for item in value:
                yield from _messages(item)


def _onnx_port(value: Any, path: Path) -> Port:
    dtype = _ONNX_DTYPES.get(value.type)
    shape = list(value.shape or ())
    if dtype is None or not shape or isinstance(shape[0], int):
        what = f"of type {value.type} and shape {shape}"
        cure = "export it with numeric tensors whose first dimension is an open number of rows"
        raise ModelUnusable(f"{path}: {value.name!r} is {what}; {cure}")
    sizes = tuple(size if isinstance(size, int) else None for size in shape)
    return Port(value.name, sizes, np.dtype(dtype))


_ONNX_DTYPES = {
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
}


def _torch_port(entry: Mapping[str, Any]) -> Port:
    # NumPy has no bfloat16.
    dtype = "float32" if entry["dtype"] == "bfloat16" else entry["dtype"]
    return Port(str(entry["name"]), (None, *(int(size) for size in entry["shape"][1:])), np.dtype(dtype))
