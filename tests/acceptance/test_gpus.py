"""GPUs as trials see them. No device is needed: what counts is which ones a trial is shown, and when."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

STUDY = """
import os, time
from automl import Budget, Float, Resources, Study

def train(trial):
    trial.log(shown=os.environ["CUDA_VISIBLE_DEVICES"], device=trial.device)
    time.sleep(0.2)
    return trial.params["x"]

study = Study("gpus", train, {"x": Float(0, 1)}, metrics={"value": "min"}, budget=Budget(trials=6), sampler="random",
              resources=Resources(gpus=%d))
"""


def _seen(folder: Path, gpus_of_a_trial: int, *options: str) -> list[tuple[str, str, str]]:
    """Of each trial: the GPUs that it was shown, its device, its slot."""
    (folder / "study.py").write_text(STUDY % gpus_of_a_trial)
    automl = [sys.executable, "-m", "automl"]
    subprocess.run([*automl, "run", "study.py", *options], cwd=folder, check=True, capture_output=True, timeout=120)
    seen = []
    for number in range(6):
        show = [*automl, "show", "gpus", "--trial", str(number), "--json"]
        trial = json.loads(subprocess.run(show, cwd=folder, check=True, capture_output=True, timeout=60).stdout)
        seen.append((trial["facts"]["shown"], trial["facts"]["device"], trial["worker"]))
    return seen


def test_each_trial_is_shown_the_gpu_of_its_slot_and_no_other(tmp_path: Path) -> None:
    seen = _seen(tmp_path, 1, "--gpus", "0,1", "--slots-per-gpu", "2")
    assert {shown for shown, _, _ in seen} == {"0", "1"}
    assert {device for _, device, _ in seen} == {"cuda:0"}
    assert len({(shown, worker) for shown, _, worker in seen}) == len({worker for _, _, worker in seen})


def test_a_trial_that_needs_two_gpus_is_shown_two(tmp_path: Path) -> None:
    assert {shown for shown, _, _ in _seen(tmp_path, 2, "--gpus", "0,1,2,3")} <= {"0,1", "2,3"}


def test_a_trial_without_gpus_sees_none(tmp_path: Path) -> None:
    assert {(shown, device) for shown, device, _ in _seen(tmp_path, 0, "--workers", "2")} == {("", "cpu")}
