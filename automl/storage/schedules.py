"""Schedules and their ticks: what is searched again and again, and what was done about each time that it came.

A tick is a row of `firing` that can be inserted once, in the transaction that makes its study. So there is one search
for each tick, however many processes think that it is theirs to start, and whenever they die. `schedule.seen_until`
moves in the same transaction: what came before is never looked at again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from automl.core import Attr, StudyRecord, StudyState, TrialState, derived_seed
from automl.cron import Cron, Plan
from automl.declaration import StudySpec
from automl.errors import InvalidInput, NotFound
from automl.storage.database import Database, now
from automl.storage.registry import DEFAULT_ALIAS
from automl.storage.studies import Studies, new_study, new_trial, there
from automl.storage.tables import alias, firing, model, model_version, schedule, study, trial
from automl.storage.trials import Trials
from automl.team import Firing, FiringState, Schedule

#: Schedules that a project may have.
MAX_SCHEDULES = 1000
#: A scheduled search learns from so many searches before it: each model costs, and the newest data is the most alike.
LEARN_FROM = 3
#: Where they are looked for: a schedule of which nothing ever works must not read its whole past.
LOOKED_AT = 50
#: Studies of one name and tick, told apart by a number: from schedules that were removed and added again.
MOST_ALIKE = 20
#: Ticks, firings that a caller may ask for at once.
MOST_TICKS, MOST_FIRINGS = 100, 500

_NAME_LENGTH = 200
_COLUMNS = tuple(schedule.c[name] for name in Schedule.__dataclass_fields__)
_PLANNED = tuple(name for name in Plan.__dataclass_fields__)
_FIRINGS = sa.select(firing, study.c.name.label("study")).outerjoin(study, study.c.id == firing.c.study_id)


@dataclass(frozen=True, slots=True)
class Incumbent:
    """What a scheduled search has to beat."""

    params: Mapping[str, Any]
    source: str  #: for people: where it comes from
    study: str | None  #: whose trial it is


class Schedules:
    """The schedules of one project. Thread-safe."""

    def __init__(self, database: Database, project: str, studies: Studies, trials: Trials):
        self._database = database
        self._project = project
        self._studies = studies
        self._trials = trials
        self._upcoming: dict[int, tuple[tuple[str, str, float], float | None]] = {}

    # -- what people do -----------------------------------------------------------------------------------------

    def add(self, plan: Plan, *, who: str = "local", replace: bool = False) -> Schedule:
        """A schedule named like its study; the first tick is the next one. The same again is the one that is there.

        `replace` gives a schedule of this name the new plan; its firings stay, and what it learns from. Raises
        `InvalidInput` when the name is taken by another plan, or the project has `MAX_SCHEDULES`.
        """
        spec = _checked(plan)
        values = {**asdict(plan), "spec": spec.to_json()}
        found = self._find(spec.name)
        if found is None:
            counted = sa.select(sa.func.count()).select_from(schedule).where(schedule.c.project == self._project)
            with self._database.connection() as connection:
                there = connection.scalar(counted) or 0
            if there >= MAX_SCHEDULES:
                problem = f"schedule: this project has {there} already, and {MAX_SCHEDULES} are the most"
                raise InvalidInput(f"{problem}; remove one (`automl schedule rm NAME`)", field="schedule")
            known = {"project": self._project, "name": spec.name, "created_at": now(), "created_by": who}
            try:
                self._database.execute(sa.insert(schedule).values(**values, **known, seen_until=now()))
                return self.get(spec.name)
            except IntegrityError:  # somebody else has just added it
                found = self.get(spec.name)
        differences = [name for name in _PLANNED if values[name] != getattr(found, name)]
        if differences and not replace:
            what = ", ".join(differences)
            problem = f"schedule: {spec.name!r} is there with another definition ({what})"
            raise InvalidInput(f"{problem}; --replace (replace=True) changes it", field="schedule")
        if differences:
            self._change(found, **values, seen_until=_later(now()))
        return self.get(spec.name)

    def all(self) -> list[Schedule]:
        """By name."""
        wanted = sa.select(*_COLUMNS).where(schedule.c.project == self._project).order_by(schedule.c.name)
        return [Schedule(**row._asdict()) for row in self._database.all(wanted)]

    def get(self, name: str) -> Schedule:
        """Raises `NotFound`, which names some of those that there are."""
        found = self._find(name)
        if found is None:
            mine = sa.select(schedule.c.name).where(schedule.c.project == self._project).order_by(schedule.c.name)
            names = [row.name for row in self._database.all(mine.limit(10))]
            there = f"there are {', '.join(names)}" if names else "there is none yet"
            raise NotFound(f"schedule {name!r} is not here; {there}", field="schedule")
        return found

    def by_id(self, schedule_id: int) -> Schedule:
        """Raises `NotFound`, also for one of another project."""
        mine = (schedule.c.id == schedule_id, schedule.c.project == self._project)
        row = self._database.first(sa.select(*_COLUMNS).where(*mine))
        if row is None:
            raise NotFound(f"schedule {schedule_id} is not here", field="schedule")
        return Schedule(**row._asdict())

    def pause(self, name: str) -> bool:
        """Start nothing until it is resumed; False when it was paused already. A search that runs goes on."""
        return self._change(self.get(name), schedule.c.paused.is_(False), paused=True)

    def resume(self, name: str) -> bool:
        """Go on with the next tick: those that came meanwhile are not caught up with. False when it was not paused."""
        return self._change(self.get(name), schedule.c.paused.is_(True), paused=False, seen_until=_later(now()))

    def remove(self, name: str) -> None:
        """Forget the schedule and its firings. The studies that it has started stay as they are."""
        self._database.execute(sa.delete(schedule).where(schedule.c.id == self.get(name).id))

    def next(self, name: str, count: int = 10) -> tuple[float, ...]:
        """The next times, in seconds since the epoch, also of one that is paused."""
        if not isinstance(count, int) or not 1 <= count <= MOST_TICKS:
            raise InvalidInput(f"count: {count!r}; give 1 to {MOST_TICKS}", field="count")
        found = self.get(name)
        after = max(self._studies.clock(), found.seen_until)
        return tuple(islice(Cron(found.cron, found.timezone).ticks(after), count))

    def firings(self, name: str, limit: int = 50) -> list[Firing]:
        """What was done about its ticks, the newest first."""
        if not isinstance(limit, int) or not 1 <= limit <= MOST_FIRINGS:
            raise InvalidInput(f"limit: {limit!r}; give 1 to {MOST_FIRINGS}", field="limit")
        return self._fired(self.get(name).id, limit)

    def last_firings(self) -> dict[int, Firing]:
        """The newest firing of each schedule that has one, by the schedule's id."""
        newest = sa.select(firing.c.schedule_id, sa.func.max(firing.c.tick).label("tick")).group_by(
            firing.c.schedule_id
        )
        last = newest.where(
            firing.c.schedule_id.in_(sa.select(schedule.c.id).where(schedule.c.project == self._project))
        ).subquery()
        same = sa.and_(last.c.schedule_id == firing.c.schedule_id, last.c.tick == firing.c.tick)
        found = map(_firing, self._database.all(_FIRINGS.join(last, same)))
        return {item.schedule_id: item for item in found}

    # -- what the duty does -------------------------------------------------------------------------------------

    def due(self, until: float, limit: int = 100) -> list[Schedule]:
        """Schedules of all projects with a tick that came by `until` and that nobody has seen to, the oldest first."""
        light = sa.select(schedule.c.id, schedule.c.cron, schedule.c.timezone, schedule.c.seen_until)
        rows = self._database.all(light.where(schedule.c.paused.is_(False), schedule.c.seen_until < until))
        known, self._upcoming = self._upcoming, {}
        for row in rows:
            key = (row.cron, row.timezone, row.seen_until)
            if row.id in known and known[row.id][0] == key:
                self._upcoming[row.id] = known[row.id]
            else:
                coming = next(Cron(row.cron, row.timezone).ticks(row.seen_until), None)
                self._upcoming[row.id] = (key, coming)
        came = [(tick, id) for id, (_, tick) in self._upcoming.items() if tick is not None and tick <= until]
        wanted = sa.select(*_COLUMNS).where(schedule.c.id.in_([id for _, id in sorted(came)[:limit]]))
        return [Schedule(**row._asdict()) for row in self._database.all(wanted.order_by(schedule.c.seen_until))]

    def fire(
        self, of: Schedule, tick: float, state: FiringState, verdict: Mapping[str, Any] | None = None
    ) -> StudyRecord | None:
        """See to a tick, once: the study that it has started, None when it was none, or somebody has seen to it.

        Where the search of an earlier tick is not over, and the schedule says so, it is skipped instead of started.
        """
        made = self._next_study(of, tick) if state is FiringState.STARTED else None
        try:
            study_id = self._fire(of, tick, state, verdict, made)
        except IntegrityError:  # a study of that name was made in this very moment: another look sees it
            study_id = self._fire(of, tick, state, verdict, made)
        return None if study_id is None else self._studies.by_id(study_id)

    def _fire(
        self,
        of: Schedule,
        tick: float,
        state: FiringState,
        verdict: Mapping[str, Any] | None,
        made: tuple[StudySpec, Incumbent | None] | None,
    ) -> int | None:
        with self._database.transaction() as connection:
            current = sa.select(schedule.c.paused, schedule.c.seen_until).where(schedule.c.id == of.id)
            row = connection.execute(current.with_for_update()).first()
            if row is None or row.paused or tick <= row.seen_until:
                return None
            if made is not None and of.overlap == "skip" and _is_searched(connection, of.id):
                state, verdict, made = FiringState.SKIPPED, {"reason": "the search before is not over"}, None
            new = {"schedule_id": of.id, "tick": tick, "state": state.value, "verdict": verdict, "at": now()}
            is_first = connection.execute(self._database.insert(firing).values(**new).on_conflict_do_nothing()).rowcount
            connection.execute(sa.update(schedule).where(schedule.c.id == of.id).values(seen_until=tick))
            if not is_first or made is None:
                return None
            study_id = _start(connection, of, *made)
            mine = (firing.c.schedule_id == of.id, firing.c.tick == tick)
            connection.execute(sa.update(firing).where(*mine).values(study_id=study_id))
            return study_id

    def ended(self, limit: int = 100) -> list[tuple[Schedule, Firing]]:
        """Firings of all projects whose search is over, or gone, and that have no verdict yet; the oldest first."""
        is_over = sa.or_(study.c.id.is_(None), study.c.deleted_at.is_not(None), study.c.state != StudyState.OPEN.value)
        open_ones = (firing.c.state == FiringState.STARTED.value, firing.c.verdict.is_(None), is_over)
        found = [_firing(row) for row in self._database.all(_FIRINGS.where(*open_ones).order_by(firing.c.tick))]
        found = found[:limit]
        wanted = sa.select(*_COLUMNS).where(schedule.c.id.in_({item.schedule_id for item in found}))
        by_id = {row.id: Schedule(**row._asdict()) for row in self._database.all(wanted)}
        return [(by_id[item.schedule_id], item) for item in found if item.schedule_id in by_id]

    def judge(self, of: Firing, verdict: Mapping[str, Any]) -> bool:
        """Write down what came of a firing; False, and nothing written, when that was done already."""
        mine = (firing.c.schedule_id == of.schedule_id, firing.c.tick == of.tick, firing.c.verdict.is_(None))
        return bool(self._database.execute(sa.update(firing).where(*mine).values(verdict=dict(verdict))))

    def incumbent(self, of: StudyRecord) -> int | None:
        """The trial that ran the incumbent again; None for a search that had nothing to beat."""
        noted = self._studies.noted(of.id, Attr.INCUMBENT.value)
        return None if noted is None else int(noted["trial"])

    # -- the next search ----------------------------------------------------------------------------------------

    def _next_study(self, of: Schedule, tick: float) -> tuple[StudySpec, Incumbent | None]:
        """What is searched at this tick, but for the name, and what it has to beat."""
        spec = StudySpec.from_json(of.spec)
        runs = self._runs(of)
        incumbent = self._incumbent(of, runs)
        if incumbent is not None and spec.space is not None:
            incumbent = _within(spec, incumbent)
        earlier = [incumbent.study] if incumbent is not None and incumbent.study is not None else []
        earlier += [record.name for record, _ in runs if record.name not in earlier]
        local = Cron(of.cron, of.timezone).local(tick)
        # No colon: it is a word of FILE:NAME, and the name is one of a folder, too.
        ending = f" {local:%Y-%m-%d %H.%M}" + (f" {local:%z}" if local.fold else "")
        return replace(
            spec,
            name=spec.name[: _NAME_LENGTH - len(ending)] + ending,
            seed=derived_seed("schedule", spec.seed, int(tick)),
            transfer=_learning(spec, earlier[:LEARN_FROM]),
        ), incumbent

    def _runs(self, of: Schedule) -> list[tuple[StudyRecord, Firing]]:
        """The last searches that found anything, the newest first."""
        has_result = sa.exists().where(trial.c.study_id == study.c.id, trial.c.state == TrialState.COMPLETE.value)
        mine = (firing.c.schedule_id == of.id, firing.c.study_id.is_not(None))
        newest = sa.select(firing.c.study_id).where(*mine).order_by(firing.c.tick.desc()).limit(LOOKED_AT)
        usable = (firing.c.study_id.in_(newest), study.c.deleted_at.is_(None), has_result)
        rows = self._database.all(_FIRINGS.where(*usable).order_by(firing.c.tick.desc()).limit(LEARN_FROM))
        return [(self._studies.by_id(row.study_id), _firing(row)) for row in rows]

    def _incumbent(self, of: Schedule, runs: Sequence[tuple[StudyRecord, Firing]]) -> Incumbent | None:
        """The champion of the model that is named like the schedule; without one, what the last search came to."""
        name = of.promote or DEFAULT_ALIAS
        named = (
            sa.select(model_version.c.version, model_version.c.study, model_version.c.params)
            .join(alias, alias.c.version_id == model_version.c.id)
            .join(model, model.c.id == alias.c.model_id)
            .where(model.c.project == self._project, model.c.name == of.name, alias.c.name == name)
        )
        champion = self._database.first(named)
        if champion is not None:
            return Incumbent(champion.params, f"{of.name}@{name}, version {champion.version}", champion.study)
        for record, fired in runs:
            number = (fired.verdict or {}).get("winner")
            found = self._trials.of(record.id, numbers=[number]) if number is not None else []
            for best in found or self._trials.best(record, 1):
                return Incumbent(best.params, f"trial {best.number} of {record.name}", record.name)
        return None

    # -- rows ---------------------------------------------------------------------------------------------------

    def _fired(self, schedule_id: int, limit: int) -> list[Firing]:
        wanted = _FIRINGS.where(firing.c.schedule_id == schedule_id).order_by(firing.c.tick.desc()).limit(limit)
        return [_firing(row) for row in self._database.all(wanted)]

    def _find(self, name: str) -> Schedule | None:
        mine = (schedule.c.project == self._project, schedule.c.name == name)
        row = self._database.first(sa.select(*_COLUMNS).where(*mine))
        return None if row is None else Schedule(**row._asdict())

    def _change(self, found: Schedule, *conditions: sa.ColumnElement[bool], **values: Any) -> bool:
        changed = sa.update(schedule).where(schedule.c.id == found.id, *conditions).values(**values)
        return bool(self._database.execute(changed))


def _checked(plan: Plan) -> StudySpec:
    try:
        spec = StudySpec.from_json(plan.spec)
    except InvalidInput:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput("spec: it is no declaration of a study; send that of a Study(...)", "spec") from error
    if spec.race is not None:
        raise InvalidInput(f"spec: {spec.name!r} confirms another study; schedule that one", field="spec")
    return spec


def _later(moment: sa.ColumnElement[float]) -> sa.ColumnElement[float]:
    """The moment, or what was seen to already if that is later."""
    return sa.case((schedule.c.seen_until > moment, schedule.c.seen_until), else_=moment)


def _is_searched(connection: sa.Connection, schedule_id: int) -> bool:
    is_open = (study.c.state == StudyState.OPEN.value, study.c.deleted_at.is_(None))
    wanted = sa.select(study.c.id).where(study.c.schedule_id == schedule_id, *is_open).limit(1)
    return connection.execute(wanted).first() is not None


def _start(connection: sa.Connection, of: Schedule, spec: StudySpec, incumbent: Incumbent | None) -> int:
    """Make the study, queued, and its first trial: the incumbent's parameters on today's data. Its id."""
    names = [spec.name, *(f"{spec.name[: _NAME_LENGTH - 6]} {k}" for k in range(2, MOST_ALIKE + 1))]
    alike = sa.select(study.c.name).where(there(of.project), study.c.name.in_(names))
    taken = set(connection.scalars(alike))
    spec = replace(spec, name=next((name for name in names if name not in taken), names[-1]))
    noted = {} if incumbent is None else {Attr.INCUMBENT.value: {"trial": 0, "source": incumbent.source}}
    code = {name: getattr(of, name) for name in ("entrypoint", "code_sha256", "package_sha256")}
    begun = {"next_number": 0 if incumbent is None else 1, "system_attrs": noted}
    new = new_study(of.project, spec, queued=True, schedule_id=of.id, **code, **begun)
    study_id = int(connection.execute(new.returning(study.c.id)).scalar_one())
    if incumbent is not None:
        fixed = {"fixed_params": dict(incumbent.params)}
        connection.execute(new_trial(study_id, 0, "enqueued", {"system_attrs": fixed}))
    return study_id


def _within(spec: StudySpec, incumbent: Incumbent) -> Incumbent | None:
    """What of the incumbent the space still has; None when nothing is left, or it lies outside."""
    assert spec.space is not None
    params = {name: value for name, value in incumbent.params.items() if name in spec.space}
    try:
        spec.space.check(params, partial=True)
    except InvalidInput:
        return None
    return replace(incumbent, params=params) if params else None


def _learning(spec: StudySpec, earlier: Sequence[str]) -> Any:
    """The studies to learn from: those that the user names, and the last searches. "auto" finds these by itself."""
    if spec.transfer == "auto" or spec.sampler != "auto" or spec.space is None or len(spec.metrics) > 1:
        return spec.transfer
    return tuple(dict.fromkeys([*earlier, *(spec.transfer or ())])) or None


def _firing(row: sa.Row[Any]) -> Firing:
    return Firing(**{**row._asdict(), "state": FiringState(row.state)})
