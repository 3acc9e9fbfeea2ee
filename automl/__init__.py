"""Hyperparameter search that needs few trials and loses nothing."""

from __future__ import annotations

__all__: list[str] = []
