"""The system's nouns as JSON, and back by their own type hints: what the service says and the client understands.

A dataclass is an object of its fields, a tuple an array, a mapping an object in its order. JSON has no NaN and no
infinities: they are the strings "NaN", "Infinity" and "-Infinity" where a number is expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from automl.errors import InvalidInput


@cache
def adapter(kind: Any) -> TypeAdapter[Any]:
    """What reads and writes a type; the same one each time, because making it takes milliseconds."""
    return TypeAdapter(kind)


def dump(value: Any) -> bytes:
    """A noun, or nouns, as JSON text. Raises `TypeError` for what JSON has nothing for."""
    try:
        return to_json(value, inf_nan_mode="strings", fallback=_plain)
    except PydanticSerializationError as error:
        raise TypeError(str(error)) from error


def parse(kind: Any, text: bytes | str) -> Any:
    """What `dump` wrote. Raises `InvalidInput`, which names the first field that is wrong."""
    try:
        return adapter(kind).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "body"
        raise InvalidInput(f"{field}: {first['msg']}", field=field) from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no JSON")
