"""The example study, one click away: `automl run digits.py` as a process of its own, over the dashboard's database."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

import automl
from dashboard import connection

#: Its name, as its file says.
NAME = "digits"
WORKERS = 2


@dataclass
class Run:
    """The process that searches the example, and what it prints. It goes on when the dashboard ends."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def failed(self) -> bool:
        return self.process.poll() not in (None, 0)

    def last_lines(self, count: int = 6) -> str:
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-count:])


def path() -> Path:
    """The study file: a wheel carries it in the package, a checkout has it beside the package."""
    package = Path(automl.__file__).parent
    packaged = package / "examples" / "digits.py"
    return packaged if packaged.is_file() else package.parent / "studies" / "digits.py"


def start() -> None:
    """Once; while it runs, a second click changes nothing."""
    runs = _runs()
    if runs and not runs[-1].failed:
        return
    output = connection.engine().artifacts.root / "logs" / "example.log"
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "automl", "run", str(path()), "--workers", str(WORKERS)]
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    runs.append(Run(process, output))


def current() -> Run | None:
    """The last run that was started from here."""
    runs = _runs()
    return runs[-1] if runs else None


@st.cache_resource(show_spinner=False)
def _runs() -> list[Run]:
    return []
