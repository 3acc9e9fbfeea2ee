"""`Study`: a declaration with its code, and the ways to run it from Python.

Training processes import this too, so what only a search needs is imported by the methods that start one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from automl.declaration import Budget, Confirm, Direction, Fidelity, Parameter, Resources, Space, StudySpec
from automl.errors import InvalidInput, InvalidStudy
from automl.trainers.source import FileSource, is_loading

if TYPE_CHECKING:
    from automl.core import StudyRecord
    from automl.result import Result
    from automl.team import Schedule


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
        cost: str | None = None,
        constraints: Mapping[str, Mapping[Direction, float]] = MappingProxyType({}),
        transfer: Literal["auto"] | Sequence[str] | None = None,
        gates: Mapping[str, Mapping[Direction, float]] = MappingProxyType({}),
        evaluate: Callable[[Any], Any] | None = None,
        confirm: bool | Confirm = False,
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
            cost: "seconds", or the name of a metric or fact that trials report: the search then looks for the most
                improvement per cost, the more so the more of the budget is left.
            constraints: further metrics that trials report -> {"max": bound}, {"min": bound} or both. A trial that is
                outside is never the best while one is inside.
            transfer: past studies to learn from: their names; "auto": those in the database that have at least half
                of the parameters; None: none.
            gates: what a model must reach to be promoted: any metric or fact of its trial -> {"min": bound},
                {"max": bound} or both.
            evaluate: called like `train`, on data that the search never sees. Only a confirmation runs it; without it
                a confirmation trains with fresh seeds.
            confirm: when the search is over, run its best trials again until one of them is clearly the best; True:
                as `Confirm()` says. `automl promote --confirm` does it at any time.
        """
        if not callable(train):
            raise InvalidStudy(f"train: {train!r} cannot be called; give a function that takes a trial", field="train")
        if evaluate is not None and not callable(evaluate):
            problem = f"evaluate: {evaluate!r} cannot be called; give a function that takes a trial"
            raise InvalidStudy(problem, field="evaluate")
        self.train = train
        self.evaluate = evaluate
        self.sampler_object, sampler_name = _named("sampler", sampler, "sample_relative")
        self.pruner_object, pruner_name = _named("pruner", pruner, "prune")
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
            cost=cost,
            constraints=constraints,  # type: ignore[arg-type]  # parsed there
            transfer=transfer,  # type: ignore[arg-type]
            gates=gates,  # type: ignore[arg-type]
            confirm=Confirm() if confirm is True else confirm or None,
            held_out=evaluate is not None,
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
        from automl.session import run_study, study_slots

        _refuse_while_loading("run")
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise InvalidInput(f"workers: {workers!r}; give a whole number above zero", field="workers")
        slots = study_slots(self.spec, workers, [str(gpu) for gpu in gpus])
        return run_study(self, storage, slots, lease_s=lease_s, extend=extend, progress=progress)

    def submit(self, storage: str | None = None, *, extend: bool = False) -> StudyRecord:
        """Queue the study for `automl worker` and return at once. Its function must live in a file.

        Raises:
            InvalidStudy: a worker could not load this study: its function was written in a notebook or an interactive
                session, or the study itself is made elsewhere than at the top level of the function's file.
            StudyConflict: the name is taken by another definition.
        """
        _refuse_while_loading("submit")
        from automl.session import submit_study

        return submit_study(self.spec, self._source(), storage, extend=extend)

    def schedule(self, cron: str, timezone: str = "UTC", storage: str | None = None, **options: Any) -> Schedule:
        """Search the study again and again, as `automl serve` and the workers do it. Its function must live in a file.

        Each search learns from those before it, runs the present champion again on today's data, and ends early when
        nothing better is to be expected.

        Args:
            cron: minute, hour, day of the month, month, day of the week: "0 2 * * *" is two at night.
            timezone: as "Europe/Paris"; see `automl.cron` for the days on which the clocks are changed.
            storage: database or service URL, as of `run`.
            options: `catch_up` ("one", "skip", "all"): times that came while nobody was there; `overlap` ("skip",
                "queue"): a time that comes while the last search runs; `promote`: the alias that a better model gets
                by itself; `replace`: change the schedule of this name.

        Raises:
            InvalidInput: the expression, the time zone; the name is taken by another schedule.
            InvalidStudy: a worker could not load this study.
        """
        _refuse_while_loading("schedule")
        from automl.session import schedule_study

        return schedule_study(self.spec, self._source(), storage, cron=cron, timezone=timezone, **options)

    def _source(self) -> FileSource:
        """The file that workers load. Raises `InvalidStudy` when there is none."""
        try:
            path = Path(inspect.getsourcefile(inspect.unwrap(self.train)) or "")
        except TypeError:
            path = Path()
        if not path.is_file() or path.suffix != ".py":
            raise InvalidStudy("train: it is in no file that a worker could load; save the study as FILE.py", "train")
        return FileSource(str(path.resolve()), self.name)

    def __repr__(self) -> str:
        return f"Study({self.name!r})"


def _refuse_while_loading(verb: str) -> None:
    if is_loading():
        raise InvalidStudy(
            f"{verb}() was called while the study's file was being loaded by a worker; "
            'put it under `if __name__ == "__main__":`'
        )


def _named(field: str, choice: Any, method: str) -> tuple[Any, str]:
    """(object or None, its name in the declaration). An Optuna object is known by its `method`."""
    if isinstance(choice, str):
        return None, choice
    if isinstance(choice, type) or not callable(getattr(choice, method, None)):
        raise InvalidStudy(f"{field}: {choice!r} is neither a name nor an Optuna {field} object; give one", field=field)
    return choice, f"custom:{type(choice).__name__}"
