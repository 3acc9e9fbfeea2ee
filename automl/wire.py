"""The system's nouns as JSON and back, by their own type hints: what the service says and the client understands.

A dataclass is an object of its fields, a tuple an array, a mapping an object in its order. JSON has no NaN and no
infinities: they are the strings "NaN", "Infinity" and "-Infinity" where a number is expected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from automl.errors import InvalidInput


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """What reads and writes a type; the same one each time, because making it takes milliseconds."""
    return TypeAdapter(kind)


def dump(kind: Any, value: Any) -> bytes:
    """`value`, of type `kind`, as JSON text."""
    plain = adapter(kind).dump_python(value)
    try:
        text = json.dumps(plain, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    except ValueError:
        text = json.dumps(_named(plain), separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def parse(kind: Any, text: bytes | str) -> Any:
    """What `dump` wrote. Raises `InvalidInput`, which names the first field that is wrong."""
    try:
        return adapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "body"
        raise InvalidInput(f"{field}: {first['msg']}", field=field) from error


def _named(value: Any) -> Any:
    """The same with the names of the floats that JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: _named(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_named(item) for item in value]
    return value
