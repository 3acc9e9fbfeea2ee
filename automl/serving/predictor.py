"""A model version as a function: NumPy in, NumPy out.

::

    predict = automl.load_model("digits@champion")
    scores = predict(images)          # float32 (n, 64) -> float32 (n, 10)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np

from automl.core import ModelVersion
from automl.errors import InvalidInput, ModelUnusable
from automl.serving.runtimes import OnnxRuntime, Port, Runtime, TorchRuntime
from automl.trainers.recipe import reason

RuntimeName = Literal["auto", "onnx", "torch"]

#: Input bytes of one batch: large enough to keep all cores busy, small enough for what layers make of it.
_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 4096


class Predictor:
    """A loaded model, to be called from any number of threads.

    Attributes:
        version: the registry's record of it; None for one that was opened from a folder.
        runtime: "onnx" or "torch".
        inputs: name, shape and dtype of each.
        outputs: likewise.
    """

    def __init__(self, runtime: Runtime, version: ModelVersion | None = None, batch_size: int | None = None):
        """`batch_size` is the number of rows that are computed at a time; None: as many as fit into 4 MiB."""
        self._runtime = runtime
        self._batch_size = _checked_batch_size(batch_size)
        self.version = version
        self.runtime = runtime.name
        self.inputs = runtime.inputs
        self.outputs = runtime.outputs

    def __call__(self, inputs: Any, *, batch_size: int | None = None) -> np.ndarray | dict[str, np.ndarray]:
        """What the model gives: `(n, ...)`, or a dict of such arrays where it has several outputs.

        Args:
            inputs: `(n, ...)`, or a dict of such arrays by the name of the input; n may be 0. Numbers become the
                model's dtype where that loses no more than digits.
            batch_size: rows at a time, here only. The memory that is needed beside inputs and outputs grows with it.

        Raises:
            InvalidInput: a name, shape or dtype that the model does not take, or values that it cannot work with.
            ModelUnusable: an output that has not one row for each row of input.
        """
        given = self._named(inputs)
        arrays = [_fitting(port, given[port.name]) for port in self.inputs]
        rows = len(arrays[0])
        for port, array in zip(self.inputs, arrays, strict=True):
            if len(array) != rows:
                what = f"has {len(array)} rows, {self.inputs[0].name!r} has {rows}"
                raise InvalidInput(f"inputs: {port.name!r} {what}; give each the same number", field=port.name)
        if rows == 0:  # how wide the outputs are, a row of zeros tells
            blank = [
                np.zeros((1, *array.shape[1:]), port.dtype) for port, array in zip(self.inputs, arrays, strict=True)
            ]
            return self._named_outputs([output[:0] for output in self._run(blank, 0)])

        step = _checked_batch_size(batch_size) or self._batch_size or self._rows_at_a_time()
        whole: list[np.ndarray] = []
        for start in range(0, rows, step):
            batch = [_cast(port, array[start : start + step]) for port, array in zip(self.inputs, arrays, strict=True)]
            found = self._run(batch, start)
            if not whole:
                whole = [np.empty((rows, *output.shape[1:]), output.dtype) for output in found]
            for target, output, port in zip(whole, found, self.outputs, strict=True):
                if output.shape[1:] != target.shape[1:]:
                    shapes = f"{target.shape[1:]} in one batch and {output.shape[1:]} in another"
                    raise ModelUnusable(f"output {port.name!r}: the shape of a row is {shapes}; give fewer rows")
                target[start : start + step] = output
        return self._named_outputs(whole)

    def __repr__(self) -> str:
        name = f"{self.version.model}@{self.version.version}, " if self.version else ""
        taken, given = (", ".join(map(str, ports)) for ports in (self.inputs, self.outputs))
        return f"Predictor({name}{self.runtime}, {taken} -> {given})"

    def _rows_at_a_time(self) -> int:
        row_bytes = sum(port.dtype.itemsize * row_size(port) for port in self.inputs)
        return min(max(_BATCH_BYTES // max(row_bytes, 1), 1), _BATCH_ROWS)

    def _named(self, inputs: Any) -> Mapping[str, Any]:
        names = [port.name for port in self.inputs]
        if not isinstance(inputs, Mapping):
            if len(names) != 1:
                raise InvalidInput(f"inputs: the model takes {names}; give a dict of arrays by name", field="inputs")
            return {names[0]: inputs}
        if set(inputs) != set(names):
            raise InvalidInput(f"inputs: {list(inputs)} were given, the model takes {names}", field="inputs")
        return inputs

    def _run(self, batch: Sequence[np.ndarray], start: int) -> list[np.ndarray]:
        rows = len(batch[0])
        try:
            outputs = self._runtime.run(batch)
        except Exception as error:  # the model is the user's, and its values are
            where = f"rows {start} to {start + rows - 1}"
            raise InvalidInput(f"inputs: the model cannot work with {where} ({reason(error)})", "inputs") from error
        if len(outputs) != len(self.outputs):
            raise ModelUnusable(f"the model gives {len(outputs)} outputs, not {len(self.outputs)}; save it again")
        for port, output in zip(self.outputs, outputs, strict=True):
            if output.shape[:1] != (rows,):
                what = f"has shape {output.shape} for {rows} row(s)"
                cure = "let the model return one row of each output for each row of input"
                raise ModelUnusable(f"output {port.name!r} {what}; {cure}")
        return outputs

    def _named_outputs(self, arrays: Sequence[np.ndarray]) -> np.ndarray | dict[str, np.ndarray]:
        if len(arrays) == 1:
            return arrays[0]
        return {port.name: array for port, array in zip(self.outputs, arrays, strict=True)}


def load_model(
    reference: str,
    storage: str | None = None,
    *,
    runtime: RuntimeName = "auto",
    name: str = "model",
    batch_size: int | None = None,
) -> Predictor:
    """The predictor of a model version: "digits@champion", "digits@3", "digits".

    Args:
        storage: database; None: `$AUTOML_STORAGE`, else the embedded default.
        runtime: "auto" takes ONNX where there is such a file.
        name: which model, where the trial saved several.
        batch_size: see `Predictor`.

    Raises:
        NotFound: no such model, version or alias.
        InvalidInput: no model of that `name` or for that `runtime`.
        ArtifactCorrupt: a file is gone or is not what was promoted.
        ModelUnusable: it cannot be loaded here; the message says why.
    """
    from automl.engine import connect

    _check_runtime(runtime)
    with closing(connect(storage)) as engine:
        version = engine.model_version(reference)
        stored = {file.name: file for file in version.files}
        wanted = _files_for(stored, name, runtime, f"{version.model}@{version.version}")
        paths = {file: engine.artifacts.verify(stored[file]) for file in wanted}
    return open_model(paths, name=name, runtime=runtime, version=version, batch_size=batch_size)


def open_model(
    source: str | Path | Mapping[str, Path],
    *,
    name: str = "model",
    runtime: RuntimeName = "auto",
    version: ModelVersion | None = None,
    batch_size: int | None = None,
) -> Predictor:
    """The predictor of a model in a folder, as `save_model` wrote it, or of files by their names. See `load_model`."""
    _check_runtime(runtime)
    _checked_batch_size(batch_size)
    if isinstance(source, Mapping):
        paths, where = dict(source), "the given files"
    else:
        folder = Path(source)
        paths, where = {path.name: path for path in folder.glob("*") if path.is_file()}, str(folder)
    wanted = _files_for(paths, name, runtime, where)
    loaded = OnnxRuntime(paths[wanted[0]]) if len(wanted) == 1 else TorchRuntime(paths, name)
    return Predictor(loaded, version, batch_size)


def row_size(port: Port) -> int:
    """Numbers in one row; an open size counts as 1."""
    return int(np.prod([size or 1 for size in port.shape[1:]], dtype=np.int64))


def _files_for(stored: Mapping[str, Any], name: str, runtime: str, where: str) -> list[str]:
    """The names of the files to load: the ONNX file alone, or those that torch needs."""
    onnx = f"{name}.onnx"
    torch = [f"{name}.json", f"{name}.safetensors"]
    if runtime != "torch" and onnx in stored:
        return [onnx]
    if runtime != "onnx" and all(file in stored for file in torch):
        example = f"{name}.example.safetensors"
        return [*torch, *([example] if example in stored else [])]
    if onnx in stored or all(file in stored for file in torch):
        other = "torch" if runtime == "onnx" else "onnx"
        raise InvalidInput(f"runtime: {where} has no files for {runtime}; use {other}", field="runtime")
    suffixes = (".onnx", ".safetensors")
    there = {file.removesuffix(s).removesuffix(".example") for file in stored for s in suffixes if file.endswith(s)}
    cure = f"use one of {sorted(there)}" if there else "save one with trial.save_model"
    raise InvalidInput(f"name: {where} has no model {name!r}; {cure}", field="name")


def _check_runtime(runtime: str) -> None:
    if runtime not in ("auto", "onnx", "torch"):
        raise InvalidInput(f"runtime: {runtime!r}; use auto, onnx or torch", field="runtime")


def _checked_batch_size(batch_size: int | None) -> int | None:
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise InvalidInput(f"batch_size: {batch_size!r}; give a whole number of rows, 1 or more", field="batch_size")
    return batch_size


def _fitting(port: Port, value: Any) -> np.ndarray:
    """`value` as an array whose shape and kind of numbers the input takes, not cast yet."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of unequal length; a tensor on another device
        raise InvalidInput(
            f"inputs: {port.name!r} is no array ({reason(error)}); it takes {port}", port.name
        ) from error
    sizes_fit = array.ndim == len(port.shape) and all(
        size is None or size == found for size, found in zip(port.shape[1:], array.shape[1:], strict=True)
    )
    kind_fits = array.dtype.kind in "biuf" and "bif".index(_kind(array.dtype)) <= "bif".index(_kind(port.dtype))
    if not (sizes_fit and kind_fits):
        message = f"inputs: {port.name!r} takes {port}, not {array.dtype} {array.shape}"
        if array.shape == port.shape[1:]:
            message += "; for one row, give x[None]"
        raise InvalidInput(message, field=port.name)
    return array


def _kind(dtype: np.dtype[Any]) -> str:
    """b, i or f: each kind of number can become the next, where its values fit."""
    return "i" if dtype.kind == "u" else dtype.kind


def _cast(port: Port, array: np.ndarray) -> np.ndarray:
    """`array` in the input's dtype and in one piece. Raises `InvalidInput` for values that the dtype cannot hold."""
    if port.dtype.kind in "iu" and array.dtype.kind in "iu" and not np.can_cast(array.dtype, port.dtype):
        limits = np.iinfo(port.dtype)
        if array.size and (int(array.min()) < limits.min or int(array.max()) > limits.max):
            raise InvalidInput(f"inputs: {port.name!r} has values beyond {port.dtype}; it takes {port}", port.name)
    try:
        with np.errstate(over="raise"):
            return np.ascontiguousarray(array, port.dtype)
    except FloatingPointError:
        cure = "scale them or give inf"
        raise InvalidInput(f"inputs: {port.name!r} has values beyond {port.dtype}; {cure}", port.name) from None
