"""Promotion: which trial, whether it may, and the move of the alias.

Gates take seconds: they run outside of any transaction, and what they looked at is what the compare-and-swap at the end
(`Registry.move`) is held against.
"""

from __future__ import annotations

import os
import pwd
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import le
from pathlib import Path

from automl.core import (
    Artifact,
    Estimate,
    Gate,
    ModelVersion,
    Promotion,
    StudyRecord,
    TrialRecord,
    TrialState,
    confirmed_best,
)
from automl.declaration import Bound, StudySpec, in_declared_order
from automl.errors import InvalidInput, PromotionRefused
from automl.gates import FILES, bound_gates, check_gate, constraints_gate, files_gate, loading_gates, results
from automl.storage.artifacts import ArtifactStore
from automl.storage.registry import DEFAULT_ALIAS, Registry
from automl.storage.trials import Trials

#: Trials of a front that an error message lists.
_SHOWN = 20

_ALIAS = re.compile(r"[A-Za-z_][\w.-]{0,99}", re.ASCII)  # not a number: `digits@3` is version 3
_MODEL = re.compile(r"[^\s\x00-\x1f/:.\\@-][^\x00-\x1f/:\\@]{0,199}")


@dataclass(frozen=True)
class Options:
    """How to promote."""

    alias: str = DEFAULT_ALIAS
    model: str | None = None  #: None: the study's name
    reason: str | None = None
    force: bool = False  #: overrule the gates, but for the files'; needs a reason
    who: str | None = None  #: None: the user of this process
    gates: Mapping[str, Bound] = field(default_factory=dict)  #: further ones than the study's
    check: Callable[[ModelVersion], object] | None = None  #: refuses by False, by a text that says why, or by raising

    def __post_init__(self) -> None:
        check_alias(self.alias)
        if self.model is not None:
            _check_model(self.model)
        for name in ("reason", "who"):
            check_text(name, getattr(self, name))
        if self.force and not (self.reason or "").strip():
            raise InvalidInput("force: it overrules gates, and the history says why; give a reason", field="reason")
        if not isinstance(self.gates, Mapping):
            raise InvalidInput(f'gates: {self.gates!r}; write {{"accuracy": {{"min": 0.97}}}}', field="gates")
        bounds = {name: Bound.parse(f"gates[{name!r}]", bound) for name, bound in self.gates.items()}
        object.__setattr__(self, "gates", bounds)
        if self.check is not None and not callable(self.check):
            raise InvalidInput("check: it cannot be called; give a function of a ModelVersion", field="check")


@dataclass(frozen=True)
class Candidate:
    """A trial that is to be promoted."""

    study: StudyRecord
    trial: TrialRecord  #: with its artifacts
    estimate: Estimate | None
    environment: Mapping[str, str]

    def version(self, model: str, number: int) -> ModelVersion:
        """The version that the model would get of it."""
        spec = StudySpec.from_json(self.study.spec) if self.study.spec is not None else None
        params = dict(self.trial.params)
        data = self.trial.facts.get("data_sha256")
        return ModelVersion(
            model=model,
            version=number,
            study=self.study.name,
            study_id=self.study.id,
            trial_id=self.trial.id,
            number=self.trial.number,
            params=in_declared_order(spec, params) if spec is not None else params,
            metrics=results(self.study, self.trial) | dict(self.trial.metrics),
            directions=self.study.directions,
            files=self.trial.artifacts,
            code_sha256=self.study.code_sha256,
            data_sha256=data if isinstance(data, str) else None,
            environment=dict(self.environment),
            created_at=0.0,
        )


class Promoter:
    """Moves aliases of the models in `registry`."""

    def __init__(self, registry: Registry, trials: Trials, artifacts: ArtifactStore):
        self._registry = registry
        self._trials = trials
        self._artifacts = artifacts

    def choose(self, study: StudyRecord, number: int | None, estimates: Mapping[int, Estimate]) -> TrialRecord:
        """Trial `number`, or the best: by its confirmation, where there is one, else by what the search saw.

        Raises `InvalidInput` for a trial that is not complete or does not count, and where several metrics have no one
        best; `NotFound` when there is no such trial.
        """
        if number is None:
            number = self._best(study, estimates)
        trial = self._trials.get(study, number)
        where = f"trial {number} of {study.name!r}"
        if trial.state is not TrialState.COMPLETE:
            raise InvalidInput(f"trial: {where} is {trial.state.value}; choose one that is complete", field="trial")
        if trial.invalid is not None:
            cure = "take the mark back, or choose another one"
            raise InvalidInput(f"trial: {where} is marked as invalid ({trial.invalid}); {cure}", field="trial")
        return trial

    def _best(self, study: StudyRecord, estimates: Mapping[int, Estimate]) -> int:
        if len(study.directions) > 1:
            front = _front(study, self._complete(study))
            more = f" and {len(front) - _SHOWN} more" if len(front) > _SHOWN else ""
            there = f"the trials that no other one beats are {', '.join(map(str, front[:_SHOWN]))}{more}"
            what = f"trial: {study.name!r} has several metrics and so no one best; choose with --trial N"
            raise InvalidInput(f"{what}: {there if front else 'no trial is complete yet'}", field="trial")
        confirmed = [trial.number for trial in self._complete(study, list(estimates))] if estimates else []
        if confirmed:
            return confirmed_best({number: found for number, found in estimates.items() if number in confirmed})
        best = self._trials.best(study, 1)
        if not best:
            raise InvalidInput(f"trial: no trial of {study.name!r} is complete; run it first", field="trial")
        return best[0].number

    def _complete(self, study: StudyRecord, numbers: Sequence[int] | None = None) -> list[TrialRecord]:
        """Complete trials that count, by number; of all, or of these."""
        found = self._trials.of(study.id, states=[TrialState.COMPLETE], numbers=numbers)
        return [trial for trial in found if trial.invalid is None]

    def examine(self, candidate: Candidate, options: Options) -> tuple[ModelVersion, tuple[Gate, ...]]:
        """The version-to-be and what its gates say. Writes nothing but an ONNX file that was missing."""
        name = _model_name(candidate.study, options)
        version = self._registry.of_trial(name, candidate.trial.id)
        is_new = version is None
        if version is None:
            newest = max((move.to_version for move in self._registry.promotions(name)), default=0)
            version = candidate.version(name, newest + 1)
        gates = [files_gate(self._artifacts, version.files)]
        if gates[0].passed:
            with tempfile.TemporaryDirectory(prefix="automl-gate-") as folder:
                for item in version.files:
                    (Path(folder) / item.name).symlink_to(self._artifacts.path(item))
                gates += loading_gates(Path(folder), candidate.study, make_onnx=is_new)
                if is_new:
                    version = replace(version, files=self._with_made_files(candidate, version.files, Path(folder)))
        declared = StudySpec.from_json(candidate.study.spec).gates if candidate.study.spec is not None else {}
        gates.append(constraints_gate(candidate.trial))
        gates += bound_gates(candidate.study, candidate.trial, [*declared.items(), *options.gates.items()])
        if options.check is not None and gates[0].passed:
            gates.append(check_gate(options.check, version))
        return version, tuple(gates)

    def _with_made_files(self, candidate: Candidate, files: tuple[Artifact, ...], folder: Path) -> tuple[Artifact, ...]:
        """The trial's files with those that the loading process made; stored and recorded, so that it is done once."""
        known = {item.name for item in files}
        made = [path for path in sorted(folder.glob("*.onnx")) if path.name not in known and not path.is_symlink()]
        if not made:
            return files
        self._trials.add_artifacts(candidate.trial.id, [self._artifacts.put(path) for path in made])
        return self._trials.get(candidate.study, candidate.trial.number).artifacts

    def promote(self, candidate: Candidate, options: Options) -> Promotion:
        """Let the alias name this trial. Where it does already, nothing is done: its last move is given back.

        Raises `PromotionRefused`, `PromotionConflict`.
        """
        name = _model_name(candidate.study, options)
        history = self._registry.promotions(name, options.alias)
        seen = history[0].to_version if history else None
        same = self._registry.of_trial(name, candidate.trial.id)
        if same is not None and same.version == seen:
            return history[0]
        version, gates = self.examine(candidate, options)
        failed = [gate for gate in gates if not gate.passed]
        if failed and (not options.force or any(gate.name == FILES for gate in failed)):
            stays = f"{name}@{options.alias} " + ("is not there yet" if seen is None else f"stays at version {seen}")
            what = f"trial {candidate.trial.number} of {candidate.study.name!r} is not promoted"
            raise PromotionRefused(f"{what} ({stays}): {_reasons(failed)}", gates)
        draft = Promotion(
            model=name,
            alias=options.alias,
            kind="promote",
            from_version=seen,
            to_version=version.version,
            who=options.who or user_name(),
            reason=options.reason,
            forced=bool(failed),
            gates=gates,
            estimate=candidate.estimate,
            at=0.0,
        )
        return self._registry.move(version, draft, len(history))

    def rollback(self, model: str, alias: str, reason: str | None, who: str | None) -> Promotion:
        """Take the newest promotion back that was not taken back yet: n rollbacks in a row go n back, as undo does.

        The version's files are compared with their sha256 first. Raises `NotFound`, `InvalidInput` when there is
        nothing to go back to, `PromotionRefused`, `PromotionConflict`.
        """
        check_alias(alias)
        for name, text in (("reason", reason), ("who", who)):
            check_text(name, text)
        history = self._registry.promotions(model, alias)
        if not history:
            self._registry.version(f"{model}@{alias}")  # raises, and says what there is
        standing = _standing(reversed(history))
        if len(standing) < 2:
            only = f"{model}@{alias} has named nothing before version {history[0].to_version}"
            raise InvalidInput(f"alias: {only}; promote another trial instead", field="alias")
        version = self._registry.version(f"{model}@{standing[-2].to_version}")
        gate = files_gate(self._artifacts, version.files)
        if not gate.passed:
            stays = f"it stays at version {history[0].to_version}"
            raise PromotionRefused(f"{model}@{alias} is not rolled back ({stays}): {_reasons([gate])}", (gate,))
        draft = replace(
            standing[-2],  # with its estimate
            kind="rollback",
            from_version=history[0].to_version,
            who=who or user_name(),
            reason=reason,
            forced=False,
            gates=(gate,),
        )
        return self._registry.move(version, draft, len(history))


# -- helpers ------------------------------------------------------------------------------------------------------


def check_alias(alias: object) -> None:
    """Raises `InvalidInput` for what is no name of an alias."""
    if not isinstance(alias, str) or not _ALIAS.fullmatch(alias):
        cure = "use letters, digits, '_', '.' and '-', not beginning with a digit"
        raise InvalidInput(f"alias: {alias!r} is no name; {cure}", field="alias")


def check_text(field_name: str, text: object) -> None:
    """Raises `InvalidInput` for what the history cannot hold."""
    if text is not None and (not isinstance(text, str) or "\0" in text):
        raise InvalidInput(f"{field_name}: {text!r} is no text; give a line of it", field=field_name)


def user_name() -> str:
    """The user of this process."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in a container
        return f"user {os.getuid()}"


def _check_model(name: object) -> None:
    if not isinstance(name, str) or not _MODEL.fullmatch(name):
        cure = "use 1 to 200 characters without '/', '\\', ':' and '@', not starting with '.' or '-'"
        raise InvalidInput(f"model: {name!r} is no name; {cure} (--model NAME)", field="model")


def _model_name(study: StudyRecord, options: Options) -> str:
    name = options.model if options.model is not None else study.name
    _check_model(name)
    return name


def _standing(history: Iterable[Promotion]) -> list[Promotion]:
    """The promotions that were not taken back, oldest first; `history` begins with the oldest."""
    standing: list[Promotion] = []
    for move in history:
        if move.kind == "rollback":
            standing.pop()
        else:
            standing.append(move)
    return standing


def _front(study: StudyRecord, trials: Sequence[TrialRecord]) -> list[int]:
    """Numbers of the trials that no other beats in every metric, of those that keep all constraints if any does."""
    signs = [1.0 if direction == "minimize" else -1.0 for direction in study.directions]
    counted = [trial for trial in trials if trial.values is not None]
    counted = [trial for trial in counted if not trial.violated] or counted
    points = [([sign * value for sign, value in zip(signs, t.values or (), strict=True)], t.number) for t in counted]
    front: list[tuple[list[float], int]] = []
    for cost, number in sorted(points):  # whoever beats it comes before
        if not any(other != cost and all(map(le, other, cost)) for other, _ in front):
            front.append((cost, number))
    return sorted(number for _, number in front)


def _reasons(failed: Sequence[Gate]) -> str:
    return "; ".join(f"gate {gate.name!r}: {gate.why or gate.figure}" for gate in failed)
