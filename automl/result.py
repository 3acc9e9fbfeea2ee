"""`Result`: what a search came to, as Python values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from automl.core import Estimate, StudyRecord, StudyState, TrialRecord, TrialState, confirmed_best
from automl.declaration import StudySpec, in_declared_order
from automl.errors import InvalidInput, StudyFailed

if TYPE_CHECKING:
    import pandas

    from automl.engine import Engine


class Result:
    """What a search came to. A snapshot: it does not change when the study goes on."""

    def __init__(self, engine: Engine, record: StudyRecord):
        """Reads the trials of `record` from `engine`."""
        self.study = record
        self._spec = StudySpec.from_json(record.spec) if record.spec is not None else None
        self.trials: list[TrialRecord] = engine.trials(record)  #: by number
        self._best = engine.best_trials(record, 1)
        self.estimates: Mapping[int, Estimate] = engine.estimates(record)
        """By the trial's number: what the best ones really give, once the study was confirmed; {} before."""

    @property
    def best_trial(self) -> TrialRecord:
        """The best complete trial, of those that keep all constraints if any does; see its `violated`.

        Where the study was confirmed, the trial that its fresh runs speak for: its `value` is still what the search
        saw, `estimates` has what is to be expected.

        Raises `InvalidInput` when there is none, or when several metrics compete.
        """
        if len(self.study.directions) > 1:
            raise InvalidInput("the study has several metrics; use .best_trials", field="metrics")
        if not self._best:
            raise InvalidInput(f"no trial of {self.study.name!r} is complete", field="trials")
        if self.estimates:
            return self.trials[confirmed_best(self.estimates)]
        return self._best[0]

    @property
    def best_trials(self) -> list[TrialRecord]:
        """The complete trials that no other beats in every metric (one or more for a single metric), by number.

        Of those that keep all constraints, if any does.
        """
        complete = [t for t in self.trials if t.state is TrialState.COMPLETE and t.values is not None and not t.invalid]
        complete = [t for t in complete if not t.violated] or complete
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
        **{f"constraints.{name}": value for name, value in trial.constraints.items()},
        **{f"params.{name}": value for name, value in trial.params.items()},
        "duration_s": trial.duration_s,
        "attempt": trial.attempt,
        "failure": trial.failure.message if trial.failure is not None else None,
    }


def raise_if_failed(engine: Engine, record: StudyRecord) -> None:
    """Raises `StudyFailed`, with the traceback of a trial, when the study has failed or all its trials have."""
    if record.state is StudyState.FAILED:
        reason = record.reason
    elif record.state is StudyState.FINISHED and not engine.best_trials(record, 1):
        reason = "no trial completed"
    else:
        return
    failures = [trial.failure for trial in engine.trials(record, states=[TrialState.FAILED]) if trial.failure]
    if failures and record.state is StudyState.FINISHED:
        reason = f"{reason}; the last failure was: {failures[-1].message}"
    tracebacks = [failure.traceback for failure in failures if failure.traceback]
    error = StudyFailed(f"study {record.name!r} failed: {reason}", tracebacks[-1] if tracebacks else "")
    if error.traceback:  # shown below ours, in scripts and notebooks
        error.add_note(f"\nIn the trial:\n{error.traceback}")
    raise error
