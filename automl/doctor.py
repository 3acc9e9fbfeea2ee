"""`automl doctor`: what works on this machine, what does not, and the cure."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from automl.display import format_count
from automl.engine import DEFAULT_STORAGE, Engine, connect
from automl.errors import AutoMLError

Level = Literal["ok", "note", "bad"]

#: Less free disk than this, and a study's checkpoints may not fit.
LOW_DISK_BYTES = 2 * 2**30
#: A clock this far from the database's makes logs hard to read. Leases do not mind: only the database's clock counts.
CLOCK_DIFFERENCE_S = 5.0
#: File systems on which SQLite's locks are not to be trusted.
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "glusterfs", "ceph", "lustre")

_PROBE = """
import automl
study = automl.Study("probe", lambda trial: trial.params["x"], {"x": automl.Float(0, 1)},
                     metrics={"value": "min"}, budget=automl.Budget(trials=1))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `bad` needs mending, `note` is worth knowing."""

    level: Level
    subject: str
    message: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.level:4}  {self.subject}: {self.message}"


def examine(storage: str | None, study: str | None) -> Iterator[Finding]:
    """Look at everything, one finding after the other; with `study`, audit its history too."""
    yield Finding("ok", "python", f"{platform.python_version()} on {platform.platform()}")
    yield from _guarded("packages", _packages)
    yield from _guarded("gpu", _gpus)
    yield from _guarded("trial process", _trial_process)
    try:
        engine = connect(storage)
    except AutoMLError as error:
        yield Finding("bad", "storage", str(error))
        return
    yield from _guarded("storage", lambda: _storage(engine))
    yield from _guarded("artifacts", lambda: _artifacts(engine.artifacts.root))
    if study is not None:
        yield from _guarded("history", lambda: _history(engine, study))


def _guarded(subject: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from look()
    except Exception as error:  # a check that breaks is a finding, and the others still have their say
        yield Finding("bad", subject, f"{type(error).__name__}: {' '.join(str(error).split())}")


def _packages() -> Iterator[Finding]:
    missing = []
    for requirement in importlib.metadata.requires("automl") or ():
        name = requirement.partition(";")[0].strip().split(">")[0].split("<")[0].split("=")[0].split("[")[0].strip()
        if "extra ==" in requirement:
            continue
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("automl", "torch", "optuna", "sqlalchemy")]
    if missing:
        yield Finding("bad", "packages", f"not installed: {', '.join(missing)}; pip install -c constraints.txt automl")
    else:
        yield Finding("ok", "packages", ", ".join(versions))


def _gpus() -> Iterator[Finding]:
    import torch

    if not torch.cuda.is_available():
        yield Finding("note", "gpu", "torch sees none; trials run on CPUs")
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield Finding("ok", "gpu", f"{index}: {device.name}, {device.total_memory / 2**30:.0f} GiB")


def _trial_process() -> Iterator[Finding]:
    from automl.trainers import wire
    from automl.trainers.host import StudyHost
    from automl.trainers.source import FileSource

    with tempfile.TemporaryDirectory(prefix="automl-doctor-") as folder:
        file, log_path = Path(folder) / "probe.py", Path(folder) / "log"
        file.write_text(_PROBE)
        began = time.monotonic()
        with StudyHost.start(FileSource(str(file)), log_path=log_path, timeout_s=60.0) as host:
            loaded = time.monotonic()
            metrics = {"value": "min"}
            job = wire.Job(trial_id=0, number=0, attempt=1, artifacts=folder, params={"x": 0.5}, metrics=metrics)
            answer = host.launch(job, log_path).receive(30.0)
        load_s, trial_s = loaded - began, time.monotonic() - loaded
    if isinstance(answer, wire.Done):
        yield Finding("ok", "trial process", f"loads a study in {load_s:.1f} s, runs an empty trial in {trial_s:.2f} s")
    else:
        yield Finding("bad", "trial process", f"an empty trial came to {answer!r}")


def _storage(engine: Engine) -> Iterator[Finding]:
    began = time.monotonic()
    clock = engine.clock()
    answer_ms = (time.monotonic() - began) * 1000
    studies = len(engine.studies())
    yield Finding(
        "ok", "storage", f"{engine}: {format_count(studies, 'study', 'studies')}, answers in {answer_ms:.1f} ms"
    )
    difference_s = clock - time.time()
    if abs(difference_s) > CLOCK_DIFFERENCE_S:
        yield Finding("note", "clock", f"this machine differs from the database by {difference_s:+.0f} s; set it right")
    if isinstance(engine, Engine) and engine.database.dialect == "sqlite":  # no service
        path = Path(engine.database.url.database or "").absolute()
        kind = _file_system(path)
        if kind in NETWORK_FILE_SYSTEMS:
            yield Finding(
                "bad", "storage", f"{path} is on {kind}, where SQLite may corrupt; use a local disk or PostgreSQL"
            )
        elif str(engine.database.url) == str(DEFAULT_STORAGE):
            yield Finding("note", "storage", "the embedded default: for one machine; a team uses postgresql://")


def _file_system(path: Path) -> str:
    """The type of the file system that holds `path`, "" where it is unknown."""
    if sys.platform != "linux":
        return ""
    best, kind = "", ""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount, fs, *_ = line.split()
        if path.is_relative_to(mount) and len(mount) > len(best):
            best, kind = mount, fs
    return kind


def _artifacts(root: Path) -> Iterator[Finding]:
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=root) as file:
        file.write(b"automl")
        os.fsync(file.fileno())
    free = shutil.disk_usage(root).free
    level: Level = "ok" if free >= LOW_DISK_BYTES else "bad"
    cure = "" if level == "ok" else "; free some, or set AUTOML_ARTIFACTS to another disk"
    yield Finding(level, "artifacts", f"{root} is writable, {free / 2**30:.0f} GiB free{cure}")


def _history(engine: Engine, name: str) -> Iterator[Finding]:
    violations = engine.audit(engine.study(name))
    for violation in violations:
        yield Finding("bad", "history", violation)
    if not violations:
        yield Finding("ok", "history", f"study {name}: every number, lease and result is accounted for")
