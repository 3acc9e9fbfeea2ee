"""What this machine is, and what it is busy with."""

from __future__ import annotations

import importlib
import logging
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata
from typing import Any

from automl.core import Load

log = logging.getLogger("automl.dispatch")

#: `nvidia-smi` is a process that takes a while: it is asked no more often, and not for longer.
SMI_EVERY_S = 10.0
SMI_LIMIT_S = 5.0
_SMI = ("index", "name", "memory.used", "memory.total", "utilization.gpu")
_MIB = 2**20

#: Packages that decide what a training gives. Those of the file's own, all together, may be hundreds.
_PACKAGES = (
    *("automl", "torch", "torchvision", "torchaudio", "lightning", "pytorch-lightning", "tensorflow", "keras"),
    *("jax", "flax", "optax", "transformers", "datasets", "accelerate", "peft", "timm", "tokenizers", "diffusers"),
    *("numpy", "scipy", "pandas", "polars", "pyarrow", "scikit-learn", "xgboost", "lightgbm", "catboost"),
    *("optuna", "onnx", "onnxruntime", "safetensors"),
)


def environment() -> dict[str, str]:
    """The versions of Python, of the platform, and of the packages that matter to a training."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


class Meter:
    """Reads the load of the machine. What cannot be read is unknown, and nothing is ever raised."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._asked_at = -SMI_EVERY_S
        self._answer: tuple[Mapping[str, Any], ...] = ()
        self._nvml = _nvml()
        _processor()  # the share is that since the call before

    def read(self) -> Load:
        """Of now; the processors' share is of the time since it was read before."""
        cpu, memory = _processor()
        return Load(cpu, memory, self._gpus())

    def close(self) -> None:
        if self._nvml is not None:
            _quietly(self._nvml.nvmlShutdown)

    def _gpus(self) -> tuple[Mapping[str, Any], ...]:
        if self._nvml is not None:
            return _quietly(lambda: _by_nvml(self._nvml)) or ()
        if self._clock() - self._asked_at >= SMI_EVERY_S and shutil.which("nvidia-smi"):
            self._answer = _quietly(_by_smi) or ()
            self._asked_at = self._clock()
        return self._answer


def _quietly(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # a driver that is gone or of another version must not end a search
        log.debug("the load is not known: %s", error)
        return None


def _processor() -> tuple[float | None, float | None]:
    """Shares of the processors and of the memory in use."""

    def read() -> tuple[float, float]:
        import psutil

        return psutil.cpu_percent() / 100.0, psutil.virtual_memory().percent / 100.0

    return _quietly(read) or (None, None)


def _nvml() -> Any:
    """NVIDIA's library, ready for questions; None where there is none."""

    def ready() -> Any:
        library = importlib.import_module("pynvml")
        library.nvmlInit()
        return library

    return _quietly(ready)


def _by_nvml(nvml: Any) -> tuple[Mapping[str, Any], ...]:
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        device = nvml.nvmlDeviceGetHandleByIndex(index)
        name, memory = nvml.nvmlDeviceGetName(device), nvml.nvmlDeviceGetMemoryInfo(device)
        busy = _quietly(partial(nvml.nvmlDeviceGetUtilizationRates, device))  # a part of a GPU (MIG) does not know
        found.append(
            {
                "index": index,
                "name": name.decode() if isinstance(name, bytes) else name,
                "memory_used": int(memory.used),
                "memory_total": int(memory.total),
                "load": None if busy is None else busy.gpu / 100.0,
            }
        )
    return tuple(found)


def _by_smi() -> tuple[Mapping[str, Any], ...]:
    command = ["nvidia-smi", f"--query-gpu={','.join(_SMI)}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=SMI_LIMIT_S, check=True).stdout
    found = []
    for line in filter(None, answer.splitlines()):
        index, name, used, total, share = (cell.strip() for cell in line.split(","))
        found.append(
            {
                "index": int(index),
                "name": name,
                "memory_used": _scaled(used, _MIB),
                "memory_total": _scaled(total, _MIB),
                "load": _scaled(share, 0.01),
            }
        )
    return tuple(found)


def _scaled(cell: str, unit: float) -> float | None:
    """None for what the driver does not know, which it writes as [N/A]."""
    try:
        return float(cell) * unit
    except ValueError:
        return None
