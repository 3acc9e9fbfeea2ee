"""`Study`: a declaration with its code, and the ways to run it from Python; `Result`: what came of it."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from automl.core import StudyRecord, StudyState, TrialRecord, TrialState
from automl.declaration import Budget, Direction, Fidelity, Parameter, Resources, Space, StudySpec
from automl.display import open_display
from automl.engine import Engine, connect
from automl.errors import InvalidInput, InvalidStudy, StudyFailed
from automl.session import Session, in_declared_order
from automl.trainers.host import StudyHost
from automl.trainers.source import code_sha256, is_loading, pickle_source
from automl.trainers.worker import slots_for

if TYPE_CHECKING:
    import pandas


class Study:
    """A training function, a search space, metrics and a budget. Declaring it runs nothing; see `run`.

    Everything is checked here, before any training: raises `InvalidStudy`, which names the field and the cure.
    """

    def __init__(
        self,
        name: str,
        train: Callable[[Any], Any],
        space: Mapping[str, Parameter] | None,
        *,
        metrics: Mapping[str, Direction],
        budget: Budget,
        fidelity: Fidelity | None = None,
        resources: Resources = Resources(),  # noqa: B008  (frozen)
        sampler: Any = "auto",
        pruner: Any = "auto",
        seed: int = 0,
        retries: int = 0,
    ):
        """`sampler` and `pruner` are names or Optuna objects.

        Args:
            name: unique in a database; running the same name again goes on where it was.
            train: takes an `automl.Trial`, returns the metric (or all metrics by name).
            space: parameters by name; None for a function that asks for its own (`trial.suggest_float(...)`).
            metrics: name -> "min" or "max". With several, the search looks for the best trade-offs.
            budget: when the search ends.
            fidelity: what `trial.steps()` counts; with it, bad trials end early.
            resources: what one trial may use.
            sampler: "auto", "tpe", "gp", "cmaes", "skopt", "random", "grid", or an Optuna sampler.
            pruner: "auto", "none", "median", "hyperband", "asha", or an Optuna pruner.
            seed: the same seed gives the same suggestions for the same results.
            retries: how often a trial whose function raised is tried again.
        """
        if not callable(train):
            raise InvalidStudy(f"train: {train!r} cannot be called; give a function that takes a trial", field="train")
        self.train = train
        self.sampler_object, sampler_name = _named(sampler)
        self.pruner_object, pruner_name = _named(pruner)
        self.spec = StudySpec(
            name=name,
            space=None if space is None else Space(space),
            metrics=metrics,
            budget=budget,
            fidelity=fidelity,
            resources=resources,
            sampler=sampler_name,
            pruner=pruner_name,
            seed=seed,
            retries=retries,
        )

    @classmethod
    def from_optuna(
        cls,
        objective: Callable[[Any], Any],
        *,
        name: str,
        metrics: Mapping[str, Direction],
        budget: Budget,
        **options: Any,
    ) -> Study:
        """A study of a define-by-run Optuna objective, as it is; `options` are those of `Study`."""
        return cls(name, objective, None, metrics=metrics, budget=budget, **options)

    @property
    def name(self) -> str:
        return self.spec.name

    def run(
        self,
        workers: int = 1,
        storage: str | None = None,
        *,
        gpus: Iterable[int | str] = (),
        extend: bool = False,
        progress: bool = True,
        lease_s: float = 30.0,
    ) -> Result:
        """Search here until the budget is used; the same call again goes on where an interrupted one was.

        Args:
            workers: trials at a time.
            storage: database URL; None: `$AUTOML_STORAGE`, else `.automl/automl.db`.
            gpus: GPUs to use, one trial on each at a time; then `workers` does not count.
            extend: accept a wider space than the one that the study of this name had.
            progress: show the search while it runs.
            lease_s: seconds after which a dead process's trials are taken over.

        Raises:
            StudyConflict: the name is taken by another definition.
            StudyFailed: the trials could not work; `.traceback` is what the function raised.
            KeyboardInterrupt: after running trials were handed back with their checkpoints.
        """
        if is_loading():
            raise InvalidStudy(
                "run() was called while the study's file was being loaded by a worker; "
                'put it under `if __name__ == "__main__":`'
            )
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise InvalidInput(f"workers: {workers!r}; give a whole number above zero", field="workers")
        slots = slots_for(workers, [str(gpu) for gpu in gpus], gpus_per_slot=max(1, self.spec.resources.gpus))
        engine = connect(storage)
        with tempfile.TemporaryDirectory(prefix="automl-") as private:
            source = pickle_source(self, Path(private))
            host = StudyHost.start(source, log_path=Path(private) / "template.log")
            try:
                record = engine.declare(self.spec, extend=extend)
            except BaseException:
                host.close()
                raise
            display = open_display() if progress else None
            record, _ = Session(engine, slots, lease_s, display).run(record, host)
        raise_if_failed(engine, record)
        return Result(engine, record)

    def submit(self, storage: str | None = None, *, extend: bool = False) -> StudyRecord:
        """Queue the study for `automl worker` and return at once. Its function must live in a file.

        Raises:
            InvalidStudy: the function was written in a notebook or an interactive session.
            StudyConflict: the name is taken by another definition.
        """
        try:
            path = Path(inspect.getsourcefile(inspect.unwrap(self.train)) or "")
        except TypeError:
            path = Path()
        if not path.is_file() or path.suffix != ".py":
            raise InvalidStudy("train: it is in no file that a worker could load; save the study as FILE.py", "train")
        engine = connect(storage)
        return engine.declare(
            self.spec,
            entrypoint=f"{path.resolve()}:{self.name}",
            code_sha256=code_sha256(path),
            queued=True,
            extend=extend,
        )

    def __repr__(self) -> str:
        return f"Study({self.name!r})"


class Result:
    """What a search came to. A snapshot: it does not change when the study goes on."""

    def __init__(self, engine: Engine, record: StudyRecord):
        """Reads the trials of `record` from `engine`."""
        self.study = record
        self._spec = StudySpec.from_json(record.spec) if record.spec is not None else None
        self.trials: list[TrialRecord] = engine.trials(record)  #: by number
        self._best = engine.best_trials(record, 1)

    @property
    def best_trial(self) -> TrialRecord:
        """The best complete trial. Raises `InvalidInput` when there is none, or when several metrics compete."""
        if len(self.study.directions) > 1:
            raise InvalidInput("the study has several metrics; use .best_trials", field="metrics")
        if not self._best:
            raise InvalidInput(f"no trial of {self.study.name!r} is complete", field="trials")
        return self._best[0]

    @property
    def best_trials(self) -> list[TrialRecord]:
        """The complete trials that no other beats in every metric (one or more for a single metric), by number."""
        complete = [t for t in self.trials if t.state is TrialState.COMPLETE and t.values is not None]
        return [t for t in complete if not any(self._dominates(other, t) for other in complete)]

    @property
    def best_params(self) -> dict[str, Any]:
        best = dict(self.best_trial.params)
        return in_declared_order(self._spec, best) if self._spec is not None else best

    @property
    def best_value(self) -> float:
        value = self.best_trial.value
        assert value is not None  # best_trials have one
        return value

    def to_dataframe(self) -> pandas.DataFrame:
        """A row for each trial: number, state, metrics, `params.*`, duration_s, attempt, failure."""
        import pandas

        return pandas.DataFrame([trial_row(self.study, trial) for trial in self.trials])

    def _dominates(self, one: TrialRecord, other: TrialRecord) -> bool:
        assert one.values is not None and other.values is not None
        signs = [1 if direction == "minimize" else -1 for direction in self.study.directions]
        pairs = [(s * a, s * b) for s, a, b in zip(signs, one.values, other.values, strict=True)]
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    def __repr__(self) -> str:
        return f"Result({self.study.name!r}, {len(self.trials)} trials, state={self.study.state.value!r})"


def trial_row(record: StudyRecord, trial: TrialRecord) -> dict[str, Any]:
    """A trial as one flat row, for tables and CSV."""
    values = trial.values or (None,) * len(record.metric_names)
    return {
        "number": trial.number,
        "state": trial.state.value,
        **dict(zip(record.metric_names, values, strict=True)),
        **{f"metrics.{name}": value for name, value in trial.metrics.items()},
        **{f"params.{name}": value for name, value in trial.params.items()},
        "duration_s": trial.duration_s,
        "attempt": trial.attempt,
        "failure": trial.failure.message if trial.failure is not None else None,
    }


def raise_if_failed(engine: Engine, record: StudyRecord) -> None:
    """Raises `StudyFailed`, with the traceback of its trials, when the study has failed."""
    if record.state is StudyState.FAILED:
        failed = engine.trials(record, states=[TrialState.FAILED])
        tracebacks = [trial.failure.traceback for trial in failed if trial.failure is not None]
        raise StudyFailed(f"study {record.name!r} failed: {record.reason}", tracebacks[0] if tracebacks else "")


def _named(choice: Any) -> tuple[Any, str]:
    """(object or None, its name in the declaration)."""
    if isinstance(choice, str):
        return None, choice
    return choice, f"custom:{type(choice).__name__}"
