"""The package as a whole."""

from __future__ import annotations

import subprocess
import sys

import automl.search


def test_every_exported_name_is_there():
    for name in automl.search.__all__:
        assert getattr(automl.search, name) is not None


def test_importing_the_search_loads_nothing_heavy():
    code = "import sys, automl.search\nprint([m for m in ('torch', 'sklearn', 'skopt', 'cmaes') if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
