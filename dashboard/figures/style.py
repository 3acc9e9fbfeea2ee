"""The look that the figures share, on top of the theme's: merged axes, tints, scales."""

from __future__ import annotations

from typing import Any

from dashboard import theme
from dashboard.theme import Palette


def tint(colour: str, alpha: float) -> str:
    """`colour`, as `#rrggbb`, seen through."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def scale(colours: Palette) -> list[list[Any]]:
    """From the worst trial to the best one: out of the ground into the accent."""
    return [[0.0, tint(colours.muted, 0.35)], [0.5, tint(colours.complete, 0.6)], [1.0, colours.accent]]


def layout(colours: Palette, height: int, **changes: Any) -> dict[str, Any]:
    """The theme's layout with room for a legend; `xaxis2` and the like begin as its axes do."""
    axis = theme.layout(colours)["xaxis"] | {"zeroline": False}
    base = theme.layout(colours, height=height, margin={"l": 8, "r": 12, "t": 30, "b": 8})
    for key, value in ({"xaxis": {}, "yaxis": {}} | changes).items():
        if key[1:].startswith("axis"):
            merged = axis | value
            if isinstance(value.get("title"), dict):
                merged["title"] = axis["title"] | value["title"]
            base[key] = merged
        else:
            base[key] = value
    return base
