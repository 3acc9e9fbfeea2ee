"""Which files of models are kept: those that can be read without running what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from automl.errors import InvalidInput, ModelUnusable, UnsafeFormat
from automl.trainers.recipe import reason

KINDS = (".safetensors", ".onnx", ".json")
_MAX_JSON = 16 << 20


def check_name(name: str) -> None:
    """Raises `UnsafeFormat`, before any of the file was read."""
    if not name.lower().endswith(KINDS):
        cure = f"use {', '.join(KINDS)}; pickles (.pt, .pkl, .joblib) run code when they are opened"
        raise UnsafeFormat(f"name: {name!r} is of no kind that is kept; {cure}", field="name")


def check_content(path: Path, name: str) -> None:
    """Whether a file is what its name says, and no more. Raises `UnsafeFormat`, `ModelUnusable`."""
    with path.open("rb") as file:
        head = file.read(16)
    if head[:2] == b"PK" or (head[:1] == b"\x80" and head[1:2] <= b"\x05") or head[:2] == b"\x1f\x8b":
        raise UnsafeFormat(f"{name} is an archive or a pickle under another name", field="name")
    check = {".safetensors": _check_safetensors, ".onnx": _check_onnx, ".json": _check_json}
    check[Path(name).suffix.lower()](path, name)


def _check_safetensors(path: Path, name: str) -> None:
    from safetensors import safe_open

    try:
        with safe_open(path, "np"):  # reads the header, and compares it with the size: no gaps, no overlaps
            pass
    except Exception as error:
        raise ModelUnusable(f"{name} is damaged ({reason(error)}); save it again") from error


def _check_onnx(path: Path, name: str) -> None:
    from automl.serving.runtimes import refuse_external_data

    refuse_external_data(path.read_bytes(), Path(name))


def _check_json(path: Path, name: str) -> None:
    try:
        if path.stat().st_size > _MAX_JSON:
            raise InvalidInput(f"{name} has more than {_MAX_JSON >> 20} MiB", field="name")
        _object(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise ModelUnusable(f"{name} is no JSON ({reason(error)}); save it again") from error


def _object(value: Any) -> None:
    if not isinstance(value, dict):
        raise ValueError("it is no object")
