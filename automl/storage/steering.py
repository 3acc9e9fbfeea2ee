"""What people do to a study that is there: pause it, change its budget, clone it, file it away, judge its trials.

Each verb is one transaction. Those that decide by the study's row lock it first, so that none of them decides by
trials that another one, or the search, makes in the same moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from automl.core import StudyRecord, StudyState, TrialState
from automl.declaration import StudySpec
from automl.errors import InvalidInput, NotFound
from automl.storage import batch_budget
from automl.storage.database import Database
from automl.storage.studies import new_study, new_trial, tell, there
from automl.storage.tables import study, trial
from automl.team import DEFAULT_PROJECT

MAX_TAGS = 20
MAX_TAG_LENGTH = 40
MAX_REASON_LENGTH = 500

#: So much less than a study has searched its minutes may be: a search notices that its time is over a little late, and
#: must take back the minutes that it had.
GRACE_S = 60.0

_MARKABLE = (TrialState.COMPLETE.value, TrialState.PRUNED.value, TrialState.FAILED.value)


class Steering:
    """The verbs of one project. Raises `InvalidInput` for what cannot be, and then has changed nothing."""

    def __init__(self, database: Database, project: str = DEFAULT_PROJECT):
        self._database = database
        self._project = project
        self._there = there(project)

    # -- studies ------------------------------------------------------------------------------------------------

    def set_paused(self, record: StudyRecord, paused: bool) -> bool:
        """Start no trial from here on, or go on; False when it was so already.

        What was being claimed in this moment has been claimed when this returns: claims hold the study's row.
        """
        with self._database.transaction() as connection:
            row = self._locked(connection, record)
            if row.spec is None:
                cure = "end the program instead; it goes on with the same study"
                raise InvalidInput(f"study: {record.name!r} is run by an Optuna program; {cure}", field="study")
            if row.state != StudyState.OPEN.value:
                cure = "`automl extend` gives it more trials" if paused else "`automl run` opens it again"
                raise InvalidInput(f"study: {record.name!r} is {row.state}, not open; {cure}", field="study")
            if row.paused == paused:
                return False
            connection.execute(sa.update(study).where(study.c.id == record.id).values(paused=paused))
            tell(connection, record.id, row.state, "paused" if paused else "resumed")
            return True

    def set_budget(self, record: StudyRecord, trials: int | None, minutes: float | None) -> None:
        """New totals, None: as it is. Opens a study that was finished or stopped; to close it again is the caller's."""
        if trials is None and minutes is None:
            raise InvalidInput("budget: what is new in it? give trials or minutes, the new totals", field="budget")
        with self._database.transaction() as connection:
            row = self._locked(connection, record)
            spec = _spec(record, row)
            if row.state == StudyState.FAILED.value:
                cure = "mend its code and run or submit it again, which opens it"
                raise InvalidInput(f"study: {record.name!r} has failed ({row.reason}); {cure}", field="study")
            values: dict[str, Any] = {}
            budget = spec.budget
            if trials is not None:
                budget = replace(budget, trials=trials)
                made = row.next_number - row.cancelled
                if trials < made:
                    problem = f"budget.trials: {made} of {record.name!r} are made already"
                    raise InvalidInput(f"{problem}, {trials} is too few; give {made} or more in all", "budget.trials")
                values["max_trials"] = trials
            if minutes is not None:
                budget = replace(budget, minutes=minutes)
                values["max_active_s"] = 60 * minutes
                if 60 * minutes < row.active_s - GRACE_S:
                    problem = f"budget.minutes: {record.name!r} has searched for {row.active_s / 60:.1f} already"
                    raise InvalidInput(f"{problem}, {minutes:g} is too few; give more in all", "budget.minutes")
            values["spec"] = replace(spec, budget=budget).to_json()
            connection.execute(sa.update(study).where(study.c.id == record.id).values(**values))
            _open_again(connection, record.id, row.state)

    def enqueue(self, record: StudyRecord, params: Mapping[str, Any]) -> int:
        """Add a trial with these parameters, whatever the budget: it grows by one if need be. The trial's number."""
        with self._database.transaction() as connection:
            row = self._locked(connection, record)
            if row.state not in (StudyState.OPEN.value, StudyState.FINISHED.value):
                raise InvalidInput(f"study: {record.name!r} is {row.state}; run it again, which opens it", "study")
            if row.max_active_s is not None and row.active_s >= row.max_active_s:
                cure = f"`automl extend {record.name} --minutes N` gives it more"
                raise InvalidInput(f"budget.minutes: those of {record.name!r} are used; {cure}", "budget.minutes")
            values: dict[str, Any] = {"next_number": row.next_number + 1}
            made = row.next_number - row.cancelled
            if row.max_trials is not None and made >= row.max_trials:
                values["max_trials"] = made + 1
                budget = row.spec["budget"] if row.spec is not None else {}
                if budget.get("trials") is not None:
                    values["spec"] = {**row.spec, "budget": {**budget, "trials": max(budget["trials"], made + 1)}}
            connection.execute(sa.update(study).where(study.c.id == record.id).values(**values))
            _open_again(connection, record.id, row.state)
            if row.batch_id is not None:
                batch_budget.take_extra(connection, row.batch_id)
            fixed = {"system_attrs": {"fixed_params": dict(params)}}
            connection.execute(new_trial(record.id, row.next_number, "enqueued", fixed))
            return row.next_number

    def clone(self, record: StudyRecord, new_name: str, trials: int | None, seed: int | None) -> None:
        """The same declaration under another name, without any trials; queued, so that a worker takes it up."""
        spec = _spec(record, record)
        if record.entrypoint is None:
            problem = f"study: the code of {record.name!r} is in no file that a worker could load"
            raise InvalidInput(f"{problem}; submit it from a file first, or run it under another name", field="study")
        if record.origin_id is not None:
            raise InvalidInput(f"study: {record.name!r} confirms another one; clone that one", field="study")
        budget = spec.budget if trials is None else replace(spec.budget, trials=trials)
        spec = replace(spec, name=new_name, budget=budget, seed=spec.seed if seed is None else seed)
        code = {name: getattr(record, name) for name in ("entrypoint", "code_sha256", "package_sha256")}
        try:
            self._database.execute(new_study(self._project, spec, queued=True, **code))
        except IntegrityError as error:
            raise InvalidInput(f"name: there is a study {new_name!r} already; choose another name", "name") from error

    def archive(self, record: StudyRecord, on: bool) -> None:
        self._change(record, archived=on)

    def tag(self, record: StudyRecord, tags: Sequence[str]) -> None:
        """Replace the study's tags."""
        self._change(record, tags=_checked_tags(tags))

    def _change(self, record: StudyRecord, **values: Any) -> None:
        if not self._database.execute(sa.update(study).where(study.c.id == record.id, self._there).values(**values)):
            raise NotFound(f"study {record.name!r} is gone", field="study")

    def _locked(self, connection: sa.Connection, record: StudyRecord) -> sa.Row[Any]:
        """The study's row, which is nobody else's until the transaction ends."""
        locked = sa.select(study).where(study.c.id == record.id, self._there).with_for_update()
        row = connection.execute(locked).first()
        if row is None:
            raise NotFound(f"study {record.name!r} is gone", field="study")
        return row

    # -- trials -------------------------------------------------------------------------------------------------

    def invalidate(self, record: StudyRecord, number: int, reason: str) -> None:
        """Let the result of a trial count for nothing."""
        given = reason.strip() if isinstance(reason, str) else ""
        if not given or len(given) > MAX_REASON_LENGTH:
            raise InvalidInput(f"reason: why is it invalid? say it in 1 to {MAX_REASON_LENGTH} characters", "reason")
        self._mark(record, number, given)

    def restore(self, record: StudyRecord, number: int) -> None:
        """Let the result of an invalid trial count again."""
        self._mark(record, number, None)

    def _mark(self, record: StudyRecord, number: int, reason: str | None) -> None:
        the_trial = sa.and_(trial.c.study_id == record.id, trial.c.number == number)
        changes = trial.c.invalid.is_(None) if reason is not None else trial.c.invalid.is_not(None)
        # The state is named, if only to stay as it is: so the trigger writes the event that tells all readers.
        marked = (
            sa.update(trial)
            .where(the_trial, trial.c.state.in_(_MARKABLE), changes)
            .values(invalid=reason, state=trial.c.state, cause="restored" if reason is None else "invalidated")
        )
        with self._database.transaction() as connection:
            if connection.execute(marked).rowcount:
                return
            row = connection.execute(sa.select(trial.c.state, trial.c.invalid).where(the_trial)).first()
        if row is None:
            raise NotFound(f"study {record.name!r} has no trial {number}", field="trial")
        if row.state not in _MARKABLE:
            problem = f"trial: {number} of {record.name!r} is {row.state} and has no result"
            raise InvalidInput(f"{problem}; only one that is complete, pruned or failed can be invalid", field="trial")
        if row.invalid is not None:
            raise InvalidInput(f"trial: {number} is invalid already ({row.invalid}); restore it first", field="trial")
        raise InvalidInput(f"trial: {number} is not invalid; there is nothing to restore", field="trial")


def _spec(record: StudyRecord, row: Any) -> StudySpec:
    if row.spec is None:
        raise InvalidInput(f"study: {record.name!r} was made by an Optuna program, which decides alone", field="study")
    return StudySpec.from_json(row.spec)


def _open_again(connection: sa.Connection, study_id: int, state: str) -> None:
    if state != StudyState.OPEN.value:
        opened = {"state": StudyState.OPEN.value, "reason": None}
        connection.execute(sa.update(study).where(study.c.id == study_id).values(**opened))
        batch_budget.open_again(connection, study_id)


def _checked_tags(tags: Sequence[str]) -> list[str]:
    """Without blanks around them and repeats."""
    if isinstance(tags, str) or not all(isinstance(tag, str) for tag in tags):
        raise InvalidInput(f"tags: {tags!r} is no list of texts; give one, as in ['vision', 'paper']", field="tags")
    cleaned = list(dict.fromkeys(tag.strip() for tag in tags))
    for tag in cleaned:
        if not 1 <= len(tag) <= MAX_TAG_LENGTH or not tag.isprintable():
            raise InvalidInput(f"tags: {tag!r}; use 1 to {MAX_TAG_LENGTH} printable characters", field="tags")
    if len(cleaned) > MAX_TAGS:
        raise InvalidInput(f"tags: {len(cleaned)} are too many; use {MAX_TAGS} at most", field="tags")
    return cleaned
