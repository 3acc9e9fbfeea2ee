"""What is looked at before an alias moves, each check with its figure.

Loading is tried in a process of its own, because a damaged or unsupported model may end the process; the user's own
check runs here, because it is the user's own.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from automl.core import Artifact, Gate, ModelVersion, StudyRecord, TrialRecord
from automl.declaration import Bound
from automl.display import format_count, format_size
from automl.errors import AutoMLError
from automl.storage.artifacts import ArtifactStore

#: The gate that `force` does not overrule: an alias never names what is not there.
FILES = "files"

#: Importing torch and exporting a large model takes minutes on a busy machine; a process that hangs takes for ever.
LOADING_TIMEOUT_S = 600.0

_LOADERS = {"torch": "torch", "onnx": "ONNX"}
_WEIGHTS = (".safetensors", ".onnx")


def files_gate(artifacts: ArtifactStore, files: Sequence[Artifact]) -> Gate:
    """Whether the files of a model are all there, as they were recorded."""
    if not any(item.name.endswith(_WEIGHTS) for item in files):
        return Gate(FILES, False, "no model", "the trial kept none: call trial.save_model in it, and run it again")
    wrong = []
    for item in files:
        try:
            artifacts.verify(item)
        except (AutoMLError, OSError) as error:
            wrong.append(str(error))
    if wrong:
        return Gate(
            FILES, False, f"{len(wrong)} of {format_count(len(files), 'file')} not as recorded", "; ".join(wrong)
        )
    size = format_size(sum(item.size for item in files))
    return Gate(FILES, True, f"{format_count(len(files), 'file')}, {size}, as recorded")


def loading_gates(
    folder: Path, study: StudyRecord, *, make_onnx: bool, timeout_s: float = LOADING_TIMEOUT_S
) -> list[Gate]:
    """Load each model in `folder` in a fresh process, which compares it with its recorded output: a gate per format.

    `make_onnx`: let it make the ONNX file where there is none and it can be made.
    """
    stems = {path.name.removesuffix(".json") for path in folder.glob("*.json")}
    named = [stem for stem in sorted(stems) if any((folder / f"{stem}{end}").exists() for end in _WEIGHTS)]
    command = [sys.executable, "-m", "automl.serving.check", str(folder), *(["--make-onnx"] if make_onnx else [])]
    command += [word for path in _code_folders(study) for word in ("--path", path)]
    return [gate for name in named or ["model"] for gate in _try_loading([*command, "--name", name], name, timeout_s)]


def _try_loading(command: Sequence[str], name: str, timeout_s: float) -> list[Gate]:
    of_name = "" if name == "model" else f", {name}"
    try:
        done = subprocess.run(
            command,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        why = "loading the model hangs; load it by hand to see where"
        return [Gate(f"loads{of_name}", False, f"no answer in {timeout_s:.0f} s", why)]
    gates = []
    for said in map(json.loads, done.stdout.split("\n")[:-1]):  # what a process that died was about to say is no line
        loader = _LOADERS.get(said["name"])
        title = f"loads ({loader}{of_name})" if loader else f"loads{of_name}"
        gates.append(Gate(title, said["passed"], said["figure"], said["why"]))
    if done.returncode < 0:
        figure, cure = f"the process died of {_signal_name(-done.returncode)}", "train the trial again"
        why = f"the model cannot be loaded in a process of its own; {cure}"
        gates.append(Gate(f"loads{of_name}", False, figure, why))
    elif done.returncode or not gates:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        gates.append(Gate(f"loads{of_name}", False, f"exit status {done.returncode}", last[:300]))
    return gates


def _code_folders(study: StudyRecord) -> list[str]:
    """Where the study's file is: a model's class may be in it."""
    if not study.entrypoint:
        return []
    return [str(Path(shlex.split(study.entrypoint)[0].partition(":")[0]).parent)]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def constraints_gate(trial: TrialRecord) -> Gate:
    """Whether the trial keeps all that it was measured on."""
    if not trial.constraints:
        return Gate("constraints", True, "the study has none")
    count, violated = len(trial.constraints), trial.violated
    if not violated:
        return Gate("constraints", True, f"{count} of {count} kept")
    excess = ", ".join(f"{name} is {trial.constraints[name]:.4g} outside" for name in violated)
    return Gate("constraints", False, f"{len(violated)} of {count} violated", f"{excess}; choose another trial")


def bound_gates(study: StudyRecord, trial: TrialRecord, bounds: Iterable[tuple[str, Bound]]) -> list[Gate]:
    """A gate for each side of each bound, against the trial's metrics and facts. The same one twice counts once."""
    known = {**trial.facts, **trial.metrics, **results(study, trial)}
    found = {name: value for name, value in known.items() if isinstance(value, int | float)}
    gates = {}
    for name, bound in bounds:
        if (low := bound.min) is not None:
            title = f"{name} >= {low:.12g}"
            gates[title] = _bound_gate(title, name, found, Bound(min=low))
        if (high := bound.max) is not None:
            title = f"{name} <= {high:.12g}"
            gates[title] = _bound_gate(title, name, found, Bound(max=high))
    return list(gates.values())


def _bound_gate(title: str, name: str, found: Mapping[str, float], bound: Bound) -> Gate:
    if name not in found:
        there = f"it has {', '.join(found)}" if found else "it has none"
        return Gate(title, False, "not measured", f"the trial has no metric {name!r}, {there}; report it in the trial")
    value = float(found[name])
    if bound.excess(value) > 0:
        return Gate(title, False, f"{value:.6g}", f"{name} is {value:.6g}; choose another trial, or train a better one")
    return Gate(title, True, f"{value:.6g}")


def check_gate(check: Callable[[ModelVersion], object], version: ModelVersion) -> Gate:
    """Whether the user's own function has nothing against it: no False, no text, no exception."""
    try:
        said = check(version)
    except (Exception, SystemExit) as error:
        return Gate("check", False, f"raised {type(error).__name__}", str(error) or "it gave no reason")
    if isinstance(said, str):
        return Gate("check", False, "refused", said or "it gave no reason")
    if str(said) == "False":  # NumPy's, too
        return Gate("check", False, "refused", "it returned False")
    return Gate("check", True, "passed" if said is None else f"returned {said!r}"[:100])


def results(study: StudyRecord, trial: TrialRecord) -> dict[str, float]:
    """The values of the study's metrics by name, in their order."""
    return dict(zip(study.metric_names, trial.values or (), strict=False))
