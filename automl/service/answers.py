"""What routes hand over."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response

from automl import wire


def answer(value: Any, status: int = 200) -> Response:
    """A noun, or nouns, as the body of an answer."""
    return Response(wire.dump(value), status, media_type="application/json")


def says(kind: Any, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """The type of a route's answers, for the API's description: nothing is looked at a second time."""
    return {status: {"model": kind, "description": "Successful"}}
