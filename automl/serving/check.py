"""`python -m automl.serving.check FOLDER`: does a saved model still give what it gave when it was saved?

For a process of its own, because a damaged model, or the code that it names, may end the process that loads it. Each
part of the model is loaded as `automl.load_model` loads it and runs its recorded example at two numbers of rows. One
JSON object per line on standard output, torch before ONNX, so that a crash in the second leaves the first::

    {"name": "torch", "passed": true, "figure": "largest difference 1.2e-07 at 4 and 7 rows", "why": ""}

A part that the model does not have gives no line; without any there is one line named "files". The exit status is 0
when all was said. A caller must take a missing line, or another status, for a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from automl.core import Gate
from automl.errors import AutoMLError, ModelUnusable
from automl.serving.predictor import Predictor, open_model
from automl.trainers.outputs import OTHER_ATOL, OTHER_RTOL
from automl.trainers.recipe import reason

#: The second number of rows is larger than the example's by this: a graph that was traced for one number shows it.
_MORE_ROWS = 3

_PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib")

_Arrays = dict[str, np.ndarray]


def check(folder: Path, name: str = "model", *, make_onnx: bool = False) -> Iterator[Gate]:
    """A gate for each part of model `name` in `folder`; `make_onnx` adds its ONNX file first where there is none.

    A model whose ONNX file cannot be made is usable through torch all the same: its gate passes and says why.
    """
    about = _about(folder / f"{name}.json")
    # Without a word about a recipe the JSON is damaged, which loading it will say better.
    has_torch = (folder / f"{name}.safetensors").is_file() and about.get("recipe", "") is not None
    onnx = folder / f"{name}.onnx"
    if not has_torch and not onnx.is_file():
        yield Gate("files", False, f"no usable file of {name!r}", _why_no_files(folder, name, about))
        return
    sound = False
    if has_torch:
        gate = _compare(folder, name, about, "torch")
        sound = gate.passed
        yield gate
    if sound and make_onnx and not onnx.is_file():
        try:
            from automl.trainers.models import export_onnx

            export_onnx(folder, name=name)
        except Exception as error:  # it traces the user's code
            yield Gate("onnx", True, f"none: {_one_line(error)}")
            return
    if onnx.is_file():
        yield _compare(folder, name, about, "onnx")


def _compare(folder: Path, name: str, about: Mapping[str, Any], runtime: Any) -> Gate:
    """Run the example; whatever goes wrong is a gate that did not pass."""
    try:
        predictor = open_model(folder, name=name, runtime=runtime)
        inputs, outputs = _example(folder / f"{name}.example.safetensors", about)
        rows = len(next(iter(inputs.values())))
        if len(predictor.inputs) != len(inputs) or len(predictor.outputs) != len(outputs):
            raise ModelUnusable(f"it has other inputs or outputs than its example, {list(inputs)} and {list(outputs)}")
        sizes = (rows, rows + _MORE_ROWS)
        largest = max(_difference(predictor, _with_rows(inputs, n), _with_rows(outputs, n), n) for n in sizes)
        return Gate(runtime, True, f"largest difference {largest:.1e} at {sizes[0]} and {sizes[1]} rows")
    except (Exception, SystemExit) as error:  # of the user's modules and constructors too
        return Gate(runtime, False, "not the recorded output", _one_line(error))


def _difference(predictor: Predictor, inputs: _Arrays, outputs: _Arrays, rows: int) -> float:
    """The largest difference from the recorded outputs. Raises `ModelUnusable` when it is more than rounding."""
    feed = {port.name: array for port, array in zip(predictor.inputs, inputs.values(), strict=True)}
    found = predictor(feed, batch_size=rows)
    arrays = list(found.values()) if isinstance(found, dict) else [found]
    largest = 0.0
    for (name, expected), array in zip(outputs.items(), arrays, strict=True):
        where = f"output {name!r} at {rows} rows"
        if array.shape != expected.shape or array.dtype != expected.dtype:
            is_what = f"{array.dtype} {array.shape}, not {expected.dtype} {expected.shape}"
            raise ModelUnusable(f"{where} is {is_what} as recorded")
        if expected.dtype.kind != "f":
            if not np.array_equal(array, expected):
                raise ModelUnusable(f"{where} differs in {np.count_nonzero(array != expected)} numbers")
            continue
        finite = np.isfinite(expected)
        same_elsewhere = np.array_equal(array[~finite], expected[~finite], equal_nan=True)
        off = np.abs(array[finite].astype(np.float64) - expected[finite])
        scale = np.abs(expected[finite]).max(initial=0.0)
        # The rule of outputs.difference: next to the largest entry, rounding is no difference.
        allowed = max(OTHER_ATOL, OTHER_RTOL * float(scale)) + OTHER_RTOL * np.abs(expected[finite])
        if not (same_elsewhere and np.all(off <= allowed)):  # NaN is not <= anything
            worst = f"by {off.max(initial=0.0):.2g}" if same_elsewhere else "in what is not finite"
            cure = "use the code and the versions that it was saved with, or train and save it again"
            raise ModelUnusable(f"{where} differs {worst} from what was recorded; {cure}")
        largest = max(largest, float(off.max(initial=0.0)))
    return largest


def _about(path: Path) -> Mapping[str, Any]:
    """model.json as it is; {} when it is not there or damaged, which the parts that need it will find."""
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _example(path: Path, about: Mapping[str, Any]) -> tuple[_Arrays, _Arrays]:
    """The recorded inputs and outputs, in order. Raises `ModelUnusable`: there are none, or they are damaged."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file() or not about.get("inputs"):
        cure = "save the model with example_input=, so that it can be checked"
        raise ModelUnusable(f"there is no recorded example; {cure}")
    try:
        # NumPy has no bfloat16; the predictor gives float32 for it too.
        found = {k: (v.float() if v.dtype is torch.bfloat16 else v).numpy() for k, v in load_file(path).items()}
        inputs = {entry["name"]: found[f"input.{entry['name']}"] for entry in about["inputs"]}
        outputs = {entry["name"]: found[f"output.{entry['name']}"] for entry in about["outputs"]}
        rows = {array.shape[:1] for array in (*inputs.values(), *outputs.values())}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelUnusable(f"{path.name} or its JSON is damaged ({reason(error)}); save the model again") from error
    if len(rows) != 1 or () in rows or (0,) in rows or not outputs:
        shapes = {name: array.shape for name, array in (inputs | outputs).items()}
        cure = "let the model return one row of each output for each row of input"
        raise ModelUnusable(f"the example's arrays have shapes {shapes}; {cure}")
    return inputs, outputs


def _with_rows(arrays: _Arrays, rows: int) -> _Arrays:
    """`rows` rows of each, the given ones again and again."""
    return {name: array[np.arange(rows) % len(array)] for name, array in arrays.items()}


def _why_no_files(folder: Path, name: str, about: Mapping[str, Any]) -> str:
    if about.get("why"):
        return f"the model cannot be rebuilt ({about['why']}), and there is no ONNX file"
    pickled = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLED)
    if pickled:
        return f"{', '.join(pickled)} may be pickled and is never loaded; save the model with trial.save_model"
    return f"{name}.json with {name}.safetensors, or {name}.onnx, is needed; save one with trial.save_model"


def _one_line(error: BaseException) -> str:
    text = str(error) if isinstance(error, AutoMLError) else reason(error)
    return " ".join(text.split())[:600]


def _die_alone() -> None:
    """A damaged model may ask for more memory than there is: then nobody but this process shall suffer."""
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        import psutil

        free = psutil.virtual_memory().available
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (free if hard < 0 else min(free, hard), hard))


def _own_stdout() -> TextIO:
    """Standard output for our lines only: what the model's code prints goes to standard error."""
    ours = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return ours


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m automl.serving.check", description="Check a saved model.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="model", help="of the files, without suffix")
    parser.add_argument("--make-onnx", action="store_true", help="make the ONNX file first where there is none")
    parser.add_argument("--path", action="append", default=[], metavar="DIR", help="where the model's code is")
    given = parser.parse_args(arguments)
    sys.path[:0] = given.path
    _die_alone()
    with _own_stdout() as stream:
        for gate in check(given.folder, given.name, make_onnx=given.make_onnx):
            line = {"name": gate.name, "passed": gate.passed, "figure": gate.figure, "why": gate.why}
            print(json.dumps(line), file=stream, flush=True)


if __name__ == "__main__":
    main()
