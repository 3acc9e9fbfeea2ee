"""Checkpoints of a trial: what `trial.steps` saves, so that another process can go on from there.

A file lies under `<artifacts>/checkpoints/<trial id>/a<attempt>-s<step>-<sha256, 12 digits>.pt`; it appears whole
or not at all. It holds the state of the objects that were given to `trial.steps` and of the random generators of
Python, NumPy and torch, as types that `torch.load(weights_only=True)` accepts: reading a checkpoint runs no code.
"""

from __future__ import annotations

import io
import os
import random
import re
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl.core import Checkpoint
from automl.errors import ArtifactCorrupt, InvalidInput
from automl.storage.artifacts import file_sha256

#: A preempted trial loses at most this much work, or 5 % where writing takes longer than half a second.
MIN_INTERVAL_S = 10.0
_COST_FACTOR = 20

_FILE = re.compile(r"a(\d+)-s(\d+)-[0-9a-f]{12}\.pt")


@dataclass(frozen=True)
class Saved:
    """The content of a checkpoint."""

    step: int  #: the last one that is inside
    value: float | None  #: the objective as last reported
    state: Mapping[str, Any]  #: by argument name of `trial.steps`
    rng: Mapping[str, Any]


class Saver:
    """Writes the checkpoints of one attempt, seldom enough that they cost at most a twentieth of its time."""

    def __init__(self, root: Path, trial: tuple[int, int], objects: Mapping[str, Any], clock: Callable[[], float]):
        """`trial` is its id and the attempt's number; `clock` counts seconds."""
        check_stateful(objects)
        self._root = root
        self._trial = trial
        self._objects = objects
        self._clock = clock
        self._last = clock()
        self._cost_s = 0.0

    def is_due(self) -> bool:
        return self._clock() - self._last >= max(MIN_INTERVAL_S, _COST_FACTOR * self._cost_s)

    def save(self, step: int, value: float | None) -> Checkpoint:
        """Write a checkpoint that holds `step`. Raises `OSError`, and leaves nothing half-written then."""
        started = self._clock()
        try:
            return write(self._root, self._trial, Saved(step, value, state_of(self._objects), rng_state()))
        finally:  # after a failure too: a full disk is not tried again at every step
            self._last = self._clock()
            self._cost_s = self._last - started

    def restore(self, checkpoint: Checkpoint) -> Saved:
        """Put the objects and the random generators back. Raises `ArtifactCorrupt` before anything is changed."""
        saved = read(self._root, checkpoint)
        if missing := sorted(set(self._objects) ^ set(saved.state)):
            raise ArtifactCorrupt(f"{checkpoint.path} holds {sorted(saved.state)}, which differs in {missing}")
        for name, thing in self._objects.items():
            if isinstance(thing, dict):
                thing.clear()
                thing.update(saved.state[name])
            else:
                thing.load_state_dict(saved.state[name])
        set_rng_state(saved.rng)
        return saved


def check_stateful(objects: Mapping[str, Any]) -> None:
    """Raise `InvalidInput` for an object that could not be saved and restored, before any training."""
    import torch

    for name, thing in objects.items():
        methods = (getattr(thing, "state_dict", None), getattr(thing, "load_state_dict", None))
        if not isinstance(thing, dict) and not all(map(callable, methods)):
            cure = "give objects with state_dict() and load_state_dict(), or dicts"
            raise InvalidInput(f"steps({name}=...): a {type(thing).__name__} cannot be restored; {cure}", name)
        if isinstance(thing, torch.nn.Module | torch.optim.Optimizer):
            continue  # tensors and numbers, and perhaps gigabytes of them
        try:
            buffer = io.BytesIO()
            torch.save(state_of({name: thing}), buffer)
            buffer.seek(0)
            torch.load(buffer, weights_only=True)
        except Exception as error:
            first = str(error).strip().split("\n", 1)[0]
            cure = "keep tensors, plain numbers, strings, lists and dicts in it"
            raise InvalidInput(f"steps({name}=...): its state cannot be restored ({first}); {cure}", name) from error


def state_of(objects: Mapping[str, Any]) -> dict[str, Any]:
    return {n: dict(thing) if isinstance(thing, dict) else thing.state_dict() for n, thing in objects.items()}


def write(root: Path, trial: tuple[int, int], saved: Saved) -> Checkpoint:
    """Write a checkpoint of (trial id, attempt). Raises `OSError`, and leaves nothing half-written then."""
    import torch

    trial_id, attempt = trial
    directory = root / "checkpoints" / str(trial_id)
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f".incoming-a{attempt}-{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            try:
                torch.save(dict(vars(saved)), file)
            except RuntimeError as error:  # torch's zip writer may hide the errno of a full disk
                raise OSError(f"cannot write {directory}: {error}") from error
            file.flush()
            os.fsync(file.fileno())
        digest = file_sha256(temporary)
        path = directory / f"a{attempt}-s{saved.step}-{digest[:12]}.pt"
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Checkpoint(saved.step, str(path.relative_to(root)), digest)


def read(root: Path, checkpoint: Checkpoint) -> Saved:
    """The content of a checkpoint, on the CPU. Raises `ArtifactCorrupt` when it is gone, changed or unreadable."""
    import torch

    path = root / checkpoint.path
    try:
        found = file_sha256(path)
        if found != checkpoint.sha256:
            raise ArtifactCorrupt(f"{path} has sha256 {found}, recorded was {checkpoint.sha256}")
        return Saved(**torch.load(path, map_location="cpu", weights_only=True))
    except ArtifactCorrupt:
        raise
    except Exception as error:  # torch raises half a dozen types for a file that is no checkpoint
        raise ArtifactCorrupt(f"{path} cannot be read ({type(error).__name__}: {error})") from error


def discard(root: Path, trial_id: int, keep: Checkpoint | None = None) -> None:
    """Remove the checkpoints that nobody needs: all of a finished trial, else those that sort before `keep`.

    Call it when `keep` was acknowledged. A worker that lost its lease cannot hurt with it, because a newer
    attempt's files sort after its own.
    """
    directory = root / "checkpoints" / str(trial_id)
    if keep is None:
        shutil.rmtree(directory, ignore_errors=True)
    elif (kept := _order(Path(keep.path))) and directory.is_dir():
        for path in directory.iterdir():
            if (order := _order(path)) and order < kept:
                path.unlink(missing_ok=True)


def _order(path: Path) -> tuple[int, int] | None:
    """(attempt, step) of a checkpoint's file; None for other files."""
    match = _FILE.fullmatch(path.name)
    return (int(match[1]), int(match[2])) if match else None


def rng_state() -> dict[str, Any]:
    """The state of every global random generator in use, as plain numbers and tensors."""
    import torch

    version, words, gauss = random.getstate()
    state: dict[str, Any] = {"python": [version, list(words), gauss], "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        import numpy as np

        numpy: Any = np.random.get_state(legacy=False)
        state["numpy"] = {**numpy, "state": {**numpy["state"], "key": numpy["state"]["key"].tolist()}}
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """The inverse of `rng_state`. CUDA's are left alone where the number of devices differs."""
    import torch

    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        import numpy as np

        np.random.set_state({**state["numpy"], "state": dict(state["numpy"]["state"])})
    if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
        torch.cuda.set_rng_state_all(state["cuda"])
