"""Starting the dashboard: where it is, and what is said of addresses that cannot be."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from automl.errors import InvalidInput
from automl.launcher import check_port, dashboard_folder
from automl.outbound import is_loopback


def test_the_script_is_found_in_a_checkout() -> None:
    assert (dashboard_folder() / "dashboard" / "app.py").is_file()


@pytest.mark.parametrize(
    ("host", "answer"), [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("pc.lan", False)]
)
def test_it_knows_which_addresses_only_this_machine_reaches(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_a_port_that_is_taken_gets_one_clear_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InvalidInput, match="choose another --port"):
            check_port("127.0.0.1", taken.getsockname()[1])


def test_an_address_that_is_none_of_this_machine_is_refused() -> None:
    with pytest.raises(InvalidInput, match="cannot be used"):
        check_port("192.0.2.1", 8501)


_LOADED_LATE = """
import sys
from automl import launcher

launcher._set_up(sys.argv[1], "127.0.0.1", 8501)
launcher._warm_up(boards=False)
before = set(sys.modules)
import automl.beliefs, automl.racing, automl.search.what_if, dashboard.study_views.tables
print(*{"numpy", "pandas", "PIL.Image"} & (set(sys.modules) - before))
"""


def test_nothing_that_plotly_looks_for_is_loaded_while_pages_are_drawn(tmp_path: Path) -> None:
    # It takes what it finds in sys.modules, half loaded by another thread or not.
    command = [sys.executable, "-c", _LOADED_LATE, f"sqlite:///{tmp_path}/automl.db"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (found.stdout, found.returncode) == ("\n", 0), found.stderr
