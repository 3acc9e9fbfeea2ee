"""JSON that can hold no surprise: what Python's own reader lets through or falls over is refused, by name.

NaN and infinities (also as 1e999), numbers of thousands of digits, a key that comes twice, NUL characters and halves
of characters (PostgreSQL stores neither), and whatever is too deep or too long.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from automl.errors import InvalidInput

MAX_DEPTH = 64
MAX_DIGITS = 1000
MAX_ITEMS = 10_000
MAX_TEXT = 64 * 1024

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class _Wrong:
    """Stands where something is wrong until it is known where that is."""

    why: str


class _Odd(Exception):
    """Something is wrong, or needs a closer look."""


def parse(body: bytes, max_text: int = MAX_TEXT, max_items: int = MAX_ITEMS) -> Any:
    """The value that `body` is the JSON of.

    Its texts may have up to `max_text` characters, its arrays and objects up to `max_items` items. Raises
    `InvalidInput`, which names the field in dotted form and what is wrong with it.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"body: byte {error.start} is no UTF-8", field="body") from None
    # Most bodies are too small for a text or a list that is too long, and hold no escaped characters: where their
    # numbers and keys are good, everything is.
    is_small = len(text) <= min(max_text, max_items) and text.count("{") + text.count("[") <= MAX_DEPTH
    if is_small and "\\u" not in text:
        with suppress(_Odd, ValueError):
            return _QUICK_DECODER.decode(text)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidInput(f"body: is no JSON: {error.msg} at {where}", field="body") from None
    except RecursionError:
        raise InvalidInput(f"body: is more than {MAX_DEPTH} levels deep", field="body") from None
    _Look(max_text, max_items).at(value, ())
    return value


@dataclass(frozen=True, slots=True)
class _Look:
    max_text: int
    max_items: int

    def at(self, value: Any, path: tuple[str | int, ...]) -> None:
        if isinstance(value, str):
            self._at_text(value, path)
        elif isinstance(value, dict):
            self._at_size(value, path)
            for key, item in value.items():
                self._at_text(key, path)
                self.at(item, (*path, key))
        elif isinstance(value, list):
            self._at_size(value, path)
            for index, item in enumerate(value):
                if item.__class__ is not float and item.__class__ is not int:  # most of what is long
                    self.at(item, (*path, index))
        elif isinstance(value, _Wrong):
            _refuse(path, value.why)

    def _at_size(self, value: Any, path: tuple[str | int, ...]) -> None:
        if len(path) >= MAX_DEPTH:
            _refuse(path[:3], f"is more than {MAX_DEPTH} levels deep")
        if len(value) > self.max_items:
            _refuse(path, f"has {len(value)} items, more than {self.max_items}")

    def _at_text(self, text: str, path: tuple[str | int, ...]) -> None:
        if len(text) > self.max_text:
            _refuse(path, f"has {len(text)} characters, more than {self.max_text}")
        if "\0" in text:
            _refuse(path, "has a NUL character")
        if not text.isascii() and _SURROGATE.search(text):
            _refuse(path, "has half of a character (a lone surrogate)")


def _refuse(path: tuple[str | int, ...], why: str) -> NoReturn:
    # Keys are the sender's, and may be of any kind.
    field = ".".join(str(part) for part in path).encode("ascii", "backslashreplace").decode()[:200] or "body"
    raise InvalidInput(f"{field}: {why}", field=field)


def _constant(name: str) -> Any:
    return _Wrong(f"{name} is no JSON; where it is meant, it is the text {json.dumps(name)}")


def _float(text: str) -> Any:
    if len(text) > MAX_DIGITS:
        return _Wrong(f"is a number of more than {MAX_DIGITS} digits")
    value = float(text)
    return value if math.isfinite(value) else _Wrong(f"{text[:20]} is beyond what a number can be")


def _int(text: str) -> Any:
    return int(text) if len(text) <= MAX_DIGITS else _Wrong(f"is a number of more than {MAX_DIGITS} digits")


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return _Wrong(f"the key {json.dumps(twice[:40])} comes twice")


def _sure(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`check`, where what it finds wrong ends the reading."""

    def checked(given: Any) -> Any:
        found = check(given)
        if found.__class__ is _Wrong:
            raise _Odd
        return found

    return checked


_DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_float, parse_int=_int, object_pairs_hook=_object)
_QUICK_DECODER = json.JSONDecoder(
    parse_constant=_sure(_constant), parse_float=_sure(_float), parse_int=_sure(_int), object_pairs_hook=_sure(_object)
)
