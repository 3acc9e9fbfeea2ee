"""A torch module as an ONNX file that is known to agree with it, whatever the number of rows.

The dynamo exporter only: the older one can be silently wrong at shapes other than the traced one, which is also
why the file is compared with torch at several.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from automl.errors import ModelUnusable
from automl.trainers.outputs import (
    OTHER_ATOL,
    OTHER_RTOL,
    Tensors,
    device_of,
    difference,
    evaluating,
    run,
    with_rows,
)
from automl.trainers.recipe import reason

if TYPE_CHECKING:
    import torch


def export(model: torch.nn.Module, inputs: Tensors, output_names: list[str], path: Path) -> None:
    """Write `model`, in eval mode and with its weights inside, to `path`, and compare it in onnxruntime.

    Args:
        model: left as it is, in its mode and on its device.
        inputs: each `(rows, ...)`; the number of rows stays open.

    Raises:
        ModelUnusable: it cannot be made or does not agree. What lies at `path` then is worth nothing.
    """
    import torch

    state = model.state_dict().values()
    if any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in (*state, *inputs.values())):
        raise ModelUnusable("half precision is not safe in onnxruntime on a CPU; call model.float() before saving")
    rows = len(next(iter(inputs.values())))
    # torch.export takes a dimension of 1 for a constant, so trace with two rows or more.
    traced = tuple(with_rows(inputs, max(rows, 2)).values())
    batch = torch.export.Dim("batch")
    try:
        if device_of(model).type != "cpu":
            model = copy.deepcopy(model).to("cpu")  # a copy: its optimizer must find the model where it was
        with evaluating(model), _without_log():
            torch.onnx.export(
                model,
                traced,
                path,
                dynamo=True,
                external_data=False,
                input_names=list(inputs),
                output_names=output_names,
                dynamic_shapes=tuple({0: batch} for _ in traced),
                verbose=False,
            )
        _check(model, path, [with_rows(inputs, n) for n in (rows, rows + 1, 1)])
    except ModelUnusable:
        raise
    except Exception as error:  # the exporter traces the user's code, and raises whatever that meets
        raise ModelUnusable(f"the exporter failed ({reason(error)})") from error


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """The exporter logs a warning for each optional package that is not installed."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _check(model: torch.nn.Module, path: Path, batches: list[Tensors]) -> None:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about graph rewriting, not about results
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for batch in batches:
        expected = run(model, batch)
        found = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        if len(found) != len(expected):
            raise ModelUnusable(f"onnxruntime gives {len(found)} outputs, torch {len(expected)}")
        given = {name: torch.from_numpy(array) for name, array in zip(expected, found, strict=True)}
        if differing := difference(given, expected, OTHER_RTOL, OTHER_ATOL):
            rows = len(next(iter(batch.values())))
            raise ModelUnusable(f"at {rows} rows onnxruntime gives another {differing} than torch")
