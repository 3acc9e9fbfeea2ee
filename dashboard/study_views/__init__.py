"""The views of a study's page: each draws one `Look` at it, and only the one that is open runs."""

from __future__ import annotations
