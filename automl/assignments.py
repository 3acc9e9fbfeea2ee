"""`lr=0.01 width=32`: parameters as one types them on a command line, read by what the study declares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from automl.core import StudyRecord
from automl.declaration import StudySpec
from automl.errors import InvalidInput
from automl.parameters import Choice, Int, Parameter


def parse_params(record: StudyRecord, words: Sequence[str]) -> dict[str, Any]:
    """`["lr=0.01", "width=32"]` as values of the study's declared space; without one as JSON, and else as texts.

    Whether a value is inside its range is for the engine to say. Raises `InvalidInput`.
    """
    declared = StudySpec.from_json(record.spec).space if record.spec is not None else None
    space: Mapping[str, Parameter] = declared or {}
    params: dict[str, Any] = {}
    for word in words:
        name, is_assignment, text = word.partition("=")
        if not is_assignment or not name:
            raise InvalidInput(f"params: {word!r} gives no parameter a value; write NAME=VALUE", field="params")
        if name in params:
            raise InvalidInput(f"params[{name!r}]: it is given twice; give it once", field=f"params[{name!r}]")
        params[name] = _value(name, space[name], text) if name in space else _undeclared(text)
    return params


def _value(name: str, parameter: Parameter, text: str) -> Any:
    field = f"params[{name!r}]"
    if isinstance(parameter, Choice):
        found = [choice for choice in parameter.choices if text in (str(choice), json.dumps(choice))]
        if not found:
            known = ", ".join(map(str, parameter.choices))
            raise InvalidInput(f"{field}: {text!r} is none of its values; say one of {known}", field)
        return found[0]
    try:
        return int(text) if isinstance(parameter, Int) else float(text)
    except ValueError as error:
        kind = "whole number" if isinstance(parameter, Int) else "number"
        raise InvalidInput(f"{field}: {text!r} is no {kind}; give one", field) from error


def _undeclared(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
