"""Run a torch module on an example and compare what it gives, without leaving a trace on it.

A batch of inputs, and what came out, is a `Tensors`: contiguous CPU tensors by name, in order.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

SAME_PROCESS_RTOL = 1e-5  # the same operations on the same machine: only their order may differ
OTHER_RTOL, OTHER_ATOL = 1e-3, 1e-4  # another runtime, device or torch version: other kernels

Tensors = dict[str, "torch.Tensor"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode, no gradients, no warnings; afterwards every submodule is in the mode that it was in."""
    import torch

    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), quiet():
            model.eval()
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def run(model: torch.nn.Module, inputs: Tensors) -> Tensors:
    """The outputs on the CPU, by name."""
    with evaluating(model):
        device = device_of(model)
        output = model(*(tensor.to(device) for tensor in inputs.values()))
    # ONNX has one namespace for both.
    named = ((f"{name}_out" if name in inputs else name, tensor) for name, tensor in _flat(output, "output"))
    return {name: detached(tensor) for name, tensor in named}


def _flat(output: object, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Depth first, as torch's exporter orders outputs: "output", or "output_0", ..., or the keys of a dict."""
    import torch

    if isinstance(output, torch.Tensor):
        yield name, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _flat(value, str(key) if name == "output" else f"{name}_{key}")
    elif isinstance(output, tuple | list):
        for i, value in enumerate(output):
            yield from _flat(value, f"{name}_{i}")
    elif output is not None:
        raise TypeError(f"forward returns a {type(output).__name__} where a tensor, tuple or dict is needed")


def difference(new: Tensors, old: Tensors, rtol: float = SAME_PROCESS_RTOL, atol: float = 0.0) -> str | None:
    """Which output differs and how far, or None. Next to an output's largest entry, rounding is not a difference."""
    import torch

    if list(new) != list(old):
        return f"set of outputs ({list(new)}, not {list(old)})"
    for name, expected in old.items():
        has_scale = expected.is_floating_point() and expected.numel()
        scale = float(expected.abs().nan_to_num(0.0, 0.0, 0.0).max()) if has_scale else 0.0
        try:
            tolerance = max(atol, rtol * scale)
            torch.testing.assert_close(new[name], expected, rtol=rtol, atol=tolerance, equal_nan=True)
        except AssertionError as error:
            lines = str(error).splitlines()
            how_far = next((line for line in lines if line.startswith("Greatest absolute")), lines[0])
            return f"{name} ({how_far})"
    return None


def device_of(model: torch.nn.Module) -> torch.device:
    import torch

    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))


def with_rows(inputs: Tensors, rows: int) -> Tensors:
    """`rows` rows of each input, the given ones again and again."""
    import torch

    return {name: tensor[torch.arange(rows) % len(tensor)] for name, tensor in inputs.items()}


def detached(tensor: torch.Tensor) -> torch.Tensor:
    """Contiguous, on the CPU, with memory of its own: what safetensors can store."""
    import torch

    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
