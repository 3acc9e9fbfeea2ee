"""`Trial`, the handle that a training function gets. It is the whole of automl that training code needs to know."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from automl.core import Artifact
from automl.errors import ArtifactCorrupt, InvalidInput
from automl.storage.artifacts import ArtifactStore
from automl.trainers import wire
from automl.trainers.failures import Interrupted, NonFinite, Pruned, TrialEnded, number
from automl.trainers.link import Link
from automl.trainers.suggestions import Suggestions

if TYPE_CHECKING:
    from automl.trainers.checkpoint import Saver


class ReadOnlyParams(dict[str, Any]):
    """A dict (so that json, pickle and `**` take it) that refuses to change."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("trial.params is read-only; change a copy: dict(trial.params)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return dict, (dict(self),)


@dataclass
class Ledger:
    """What the trial's process has to know of a trial after its function has ended."""

    ended: TrialEnded | None = None  #: raised into the function, whether or not it came out at the other end
    told_to_prune: bool = False
    last_value: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)  #: further ones, as last reported
    constraints: dict[str, float] = field(default_factory=dict)  #: as `set_constraint` set them
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Trial:
    """One trial, as its training function sees it.

    Made by automl, never by you. An Optuna objective can use it as if it were an `optuna.Trial`.
    """

    def __init__(
        self,
        job: wire.Job,
        link: Link,
        suggestions: Suggestions,
        ledger: Ledger,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._job = job
        self._link = link
        self._suggestions = suggestions
        self._ledger = ledger
        self._clock = clock
        self._step: int | None = None  # of `steps`, while it runs
        self._last_step = 0
        self._reported = False  # an objective value, in the present step
        self._told_found = False
        self._used_steps = False

    @property
    def params(self) -> Mapping[str, Any]:
        """The hyperparameters by name, without those that a condition switches off; read-only.

        For a define-by-run function: those that it has asked for so far.
        """
        return ReadOnlyParams(self._suggestions.params)

    @property
    def number(self) -> int:
        """0, 1, 2, ... within the study."""
        return self._job.number

    @property
    def seed(self) -> int:
        """In [0, 2**32), the same in every attempt. Python, NumPy and torch were seeded with it already."""
        return self._job.seed

    @property
    def device(self) -> str:
        """Where to train, for `torch.device`: "cuda:0" when the trial was given a GPU, else "cpu"."""
        return "cuda:0" if self._job.gpus else "cpu"

    @property
    def attempt(self) -> int:
        """1, or more when earlier attempts were interrupted."""
        return self._job.attempt

    @property
    def max_step(self) -> int | None:
        """The fidelity's `max`, None without a fidelity. Constant for a trial: schedules may depend on it."""
        return self._job.max_step

    def report(self, value: float | None = None, step: int | None = None, **metrics: float) -> None:
        """Report metrics of the present step.

        Args:
            value: the study's metric; None for further metrics only, and for a study with several metrics.
            step: a whole number >= 0; the step of `trial.steps` when None, else 1, 2, 3, ...
            metrics: metrics by name, those of the study or any others.

        Raises:
            InvalidInput: something is not a number, or `value` is given for a study with several metrics.
        """
        names = list(self._job.metrics)
        step = self._checked_step(step)
        if len(names) > 1 and value is not None:
            cure = f"name them: trial.report({', '.join(f'{name}=...' for name in names)})"
            raise InvalidInput(f"report(value): the study has the metrics {names}; {cure}", "value")
        numbers = {name: _number(f"report({name}=...)", given) for name, given in metrics.items()}
        objective = numbers.pop(names[0], None) if len(names) == 1 else None
        if value is not None:
            objective = _number("report(value)", value)
        for name, given in {names[0]: objective, **{n: numbers.get(n) for n in names[1:]}}.items():
            if given is not None and not math.isfinite(given):
                self._end(NonFinite(f"{name} = {given} was reported at step {step}"))
        if objective is not None:
            self._ledger.last_value = objective
            self._reported = True
        self._ledger.metrics.update({name: given for name, given in numbers.items() if name not in names})
        self._last_step = max(self._last_step, step)
        found = (None, None) if self._told_found else self._suggestions.found
        self._told_found = True
        self._link.send(wire.Reported(step, objective, numbers, *found))
        self._make_way()

    def should_prune(self) -> bool:
        """Whether the trial is worth ending now, by what was reported; then return, or raise `optuna.TrialPruned`.

        `trial.steps` of a study with a fidelity asks by itself, after each step with a report.
        """
        self._make_way()
        ledger = self._ledger
        if not ledger.told_to_prune:
            ledger.told_to_prune = self._link.stop == "prune" or (self._job.prunable and self._link.ask_prune())
        return ledger.told_to_prune

    def steps(self, total: int | None = None, **stateful: Any) -> Iterator[int]:
        """Yield the steps 1, 2, ..., and make the loop over them interruptible.

        The trial's last checkpoint is restored first, and the loop goes on behind it. Between two steps it may
        save a checkpoint, and may end: because the trial is pruned, or because it makes way and goes on later,
        here or on another machine. The code behind the loop then never runs.

        The last step is never inside a checkpoint, so that each attempt runs at least that one, and variables
        which the loop assigns exist behind it. Variables that must survive from step to step belong into
        `stateful`, if need be in a dict.

        Args:
            total: number of steps; the fidelity's `max` when None.
            stateful: what changes from step to step, by name: anything with `state_dict()` and
                `load_state_dict()` (modules, optimizers, schedulers), or dicts of plain values.

        Raises:
            InvalidInput: the number of steps is unknown, or an object cannot be restored.
        """
        last = self._checked_total(total)
        if self._used_steps:
            raise InvalidInput("steps(): called twice; one loop can be resumed, put both phases into it", "steps")
        self._used_steps = True
        return self._run_steps(last, stateful)

    def log(self, message: str = "", /, **facts: Any) -> None:
        """Print a line to the trial's log, and keep `facts` (JSON values) with the trial.

        Raises `InvalidInput` for a fact that JSON cannot hold.
        """
        noted = {name: _fact(name, value) for name, value in facts.items()}
        words = [message, *(f"{name}={value}" for name, value in noted.items())]
        print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}", *filter(None, words), flush=True)
        self._note(noted)

    def save_model(
        self,
        model: Any,
        example_input: Any = None,
        arguments: Mapping[str, Any] | None = None,
        name: str = "model",
    ) -> None:
        """Keep a trained torch module with the trial, as safetensors and, where it can be exported, ONNX.

        Args:
            model: the `torch.nn.Module`.
            example_input: a tensor or a tuple of tensors that `model` takes; needed for ONNX.
            arguments: what `type(model)` was made with, where that is not to be seen on its attributes.
            name: of the files; one trial may keep several models.
        """
        from automl.trainers.models import save_model

        store = ArtifactStore(Path(self._job.artifacts))
        scratch = Path(tempfile.mkdtemp(prefix="automl-model-"))
        try:
            files = save_model(model, scratch, example_input=example_input, arguments=arguments, name=name)
            for artifact in map(store.put, files):
                self._ledger.artifacts[artifact.name] = artifact
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def set_constraint(self, key: str, value: float) -> None:
        """Say whether this trial keeps the constraint `key`: it does where `value` is 0 or less, as in Optuna.

        For what `Study(constraints=...)` cannot say. The first value of a constraint counts, later ones are ignored
        with a warning; what an interrupted attempt set is forgotten.

        Raises `InvalidInput` for what is no number, and for NaN.
        """
        where = f"set_constraint({key!r})"
        converted = _number(where, value)
        if math.isnan(converted):
            raise InvalidInput(f"{where}: nan says nothing; give a number, 0 or less where the constraint is kept", key)
        if key in self._ledger.constraints:
            warnings.warn(f"{where} is ignored: it was set to {self._ledger.constraints[key]} before", stacklevel=2)
            return
        self._ledger.constraints[key] = converted

    @property
    def constraints(self) -> dict[str, float]:
        """What `set_constraint` has set so far."""
        return dict(self._ledger.constraints)

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A real number in [low, high], as in Optuna. With a declared space: the trial's value."""
        from optuna.distributions import FloatDistribution

        return self._suggestions.suggest(name, FloatDistribution(low, high, log=log, step=step))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number in [low, high], as in Optuna. With a declared space: the trial's value."""
        from optuna.distributions import IntDistribution

        return self._suggestions.suggest(name, IntDistribution(low, high, log=log, step=step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of `choices`, as in Optuna. With a declared space: the trial's value."""
        from optuna.distributions import CategoricalDistribution

        return self._suggestions.suggest(name, CategoricalDistribution(choices))

    def set_user_attr(self, key: str, value: Any) -> None:
        """Keep a fact (a JSON value) with the trial, as in Optuna; `log` without the line."""
        self._note({key: _fact(key, value)})

    @property
    def user_attrs(self) -> dict[str, Any]:
        """The facts noted so far."""
        return dict(self._ledger.facts)

    def _note(self, facts: Mapping[str, Any]) -> None:
        if facts:
            self._ledger.facts.update(facts)
            self._link.send(wire.Noted(facts))

    def _end(self, how: TrialEnded) -> NoReturn:
        self._ledger.ended = how
        raise how

    def _make_way(self) -> None:
        """Outside `steps` there is no better moment for it than this one; inside, the step's end is near."""
        if self._link.stop == "preempt" and self._step is None and not self._used_steps:
            self._end(Interrupted("preempted"))

    def _checked_step(self, step: int | None) -> int:
        if step is None:
            return self._step if self._step is not None else self._last_step + 1
        given = number(step)
        if given is None or given < 0 or not given.is_integer():
            raise InvalidInput(f"report(step={step!r}): no step; give a whole number >= 0", "step")
        return int(given)

    def _checked_total(self, total: int | None) -> int:
        maximum = self._job.max_step
        if total is None and maximum is None:
            cure = "pass steps(total) or declare fidelity=Fidelity(name, min, max)"
            raise InvalidInput(f"steps(): how many? {cure}", "total")
        if total is not None and (isinstance(total, bool) or not isinstance(total, int) or total < 1):
            raise InvalidInput(f"steps({total!r}): no number of steps; give a whole number >= 1", "total")
        if total is not None and maximum is not None and total != maximum:
            raise InvalidInput(f"steps({total}): the study's fidelity has max={maximum}; leave one out", "total")
        return total or maximum or 0

    def _run_steps(self, last: int, stateful: Mapping[str, Any]) -> Iterator[int]:
        saver = self._saver(stateful) if stateful else None
        try:
            for step in range(self._restore(saver) + 1, last + 1):
                self._step, self._last_step, self._reported = step, max(self._last_step, step), False
                yield step
                # Nothing may happen behind the last step: what is left (a test, saving the model) is nearer than
                # doing a step again, and a checkpoint of it would make the next attempt skip the whole loop.
                if step < last:
                    self._between_steps(saver, step)
        finally:
            self._step = None

    def _saver(self, stateful: Mapping[str, Any]) -> Saver:
        from automl.trainers.checkpoint import Saver  # it needs torch, which not every study does

        trial = (self._job.trial_id, self._job.attempt)
        return Saver(Path(self._job.artifacts), trial, stateful, self._clock)

    def _between_steps(self, saver: Saver | None, step: int) -> None:
        preempted = self._link.stop == "preempt"
        if saver and (preempted or saver.is_due()):
            try:
                checkpoint = saver.save(step, self._ledger.last_value)
                self._link.send(wire.Checkpointed(checkpoint))
            except OSError as error:  # worth less than the training itself
                self.log(f"step {step}: no checkpoint, {error}")
        if preempted:
            self._end(Interrupted("preempted"))
        told = self._ledger.told_to_prune or self._link.stop == "prune"
        judged = self._reported and self._job.max_step is not None  # without a fidelity, steps are nobody's business
        if (told or judged) and self.should_prune():
            self._end(Pruned(f"pruned after step {step}"))

    def _restore(self, saver: Saver | None) -> int:
        """The step to go on behind: that of the last checkpoint, 0 where there is none that can be used."""
        checkpoint = self._job.checkpoint
        if checkpoint is None or saver is None:
            return 0
        try:
            saved = saver.restore(checkpoint)
        except ArtifactCorrupt as error:  # failing would fail every later attempt as well
            self.log(f"starting from scratch: {error}")
            return 0
        self._ledger.last_value = saved.value
        self.log(f"going on behind step {saved.step}")
        return saved.step


def _number(where: str, value: Any) -> float:
    converted = number(value)
    if converted is None:
        cure = "give a number or a tensor of one element"
        raise InvalidInput(f"{where}: {value!r} is a {type(value).__name__}; {cure}", where)
    return converted


def _fact(name: str, value: Any) -> Any:
    """`value` as JSON holds it. NaN and infinity become text: databases refuse them as JSON numbers."""
    if callable(getattr(value, "item", None)):  # a NumPy scalar, a tensor
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _fact(name, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fact(name, item) for item in value]
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError):
        cure = "give strings, numbers, booleans, None, or lists and dicts of them"
        raise InvalidInput(f"log({name}=...): {value!r} is no JSON value; {cure}", name) from None
