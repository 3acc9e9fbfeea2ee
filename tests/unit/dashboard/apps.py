"""The dashboard's script without a browser: Streamlit's AppTest over a study that was made for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

APP = Path(__file__).parents[3] / "dashboard" / "app.py"


def opened(monkeypatch: pytest.MonkeyPatch, url: str, artifacts: Path, page: str, **address: str) -> AppTest:
    """The page at `screens/PAGE.py` with this in its address."""
    monkeypatch.setenv("AUTOML_STORAGE", url)
    monkeypatch.setenv("AUTOML_ARTIFACTS", str(artifacts))
    app = AppTest.from_file(str(APP), default_timeout=60)
    app.run()
    for key, value in address.items():
        app.query_params[key] = value
    return turned(app, page)


def turned(app: AppTest, page: str) -> AppTest:
    app.switch_page(f"screens/{page}.py")
    app.run()
    return sound(app)


def sound(app: AppTest) -> AppTest:
    """`app`, which showed no error."""
    assert not app.exception, app.exception
    return app


def words(app: AppTest) -> str:
    """All HTML of the page."""
    return "\n".join(element.proto.body for element in app.get("html"))
