"""Past studies that a new one can learn from: which ones, and what they found.

Which trials of which studies is written down when a study first asks, so that a sampler rebuilt later learns from the
same ones, whatever those studies have found since.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from automl.core import Attr, TrialState
from automl.declaration import StudySpec
from automl.errors import InvalidStudy
from automl.storage.database import Database, violates
from automl.storage.studies import there
from automl.storage.tables import distribution, study, trial
from automl.team import DEFAULT_PROJECT

#: Studies that "auto" takes at most, the newest: models of more cost more than they tell.
MAX_SOURCES = 8

_KINDS = {"FloatDistribution": "float", "IntDistribution": "int", "CategoricalDistribution": "choice"}
_UNFINISHED = tuple(state.value for state in TrialState if not state.is_finished)
_WITH_RESULT = (trial.c.state == TrialState.COMPLETE.value, trial.c.value.is_not(None))


@dataclass(frozen=True, slots=True)
class Past:
    """A study to learn from: its trials up to number `last`, without those that did not count at that time."""

    study_id: int
    name: str
    last: int
    unfinished: tuple[int, ...]  #: or invalid


@dataclass(frozen=True, slots=True)
class Found:
    """What such a study found: a row for each complete trial that violates no constraint, by number."""

    name: str
    params: tuple[Mapping[str, Any], ...]
    values: tuple[float, ...]  #: signed, so that smaller is better


class Sources:
    """The past studies of one project."""

    def __init__(self, database: Database, project: str = DEFAULT_PROJECT):
        self._database = database
        self._there = there(project)

    def check(self, spec: StudySpec) -> None:
        """Raises `InvalidStudy` when `spec.transfer` names a study that is not there, or that has several metrics."""
        if not isinstance(spec.transfer, tuple):
            return
        there = {row.name: row for row in self._studies()}
        for name in spec.transfer:
            if name not in there:
                known = ", ".join([known for known in there if known != spec.name][-10:]) or "none yet"
                problem = f"transfer: study {name!r} is not in {self._database}"
                raise InvalidStudy(f"{problem}; there are {known}: name some of them, or say 'auto'", "transfer")
            if len(there[name].directions) > 1:
                cure = "name studies of one metric"
                raise InvalidStudy(f"transfer: study {name!r} has several metrics; {cure}", "transfer")

    def chosen(self, study_id: int, spec: StudySpec) -> tuple[Past, ...] | None:
        """What was written down for this study; None when nothing was, or it was for another `spec.transfer`."""
        row = self._database.first(sa.select(study.c.system_attrs).where(study.c.id == study_id))
        noted = None if row is None else row.system_attrs.get(Attr.SOURCES)
        if noted is None or noted["transfer"] != spec.to_json()["transfer"]:
            return None
        return tuple(Past(**{**item, "unfinished": tuple(item["unfinished"])}) for item in noted["studies"])

    def choose(self, study_id: int, spec: StudySpec) -> tuple[Past, ...]:
        """The studies that `spec.transfer` means, as they are now.

        "auto": the newest that have one metric, a result, and at least half of the parameters of `spec`, by name and
        kind. Names that are gone since the study was declared are passed over.
        """
        if spec.transfer is None:
            return ()
        known = {row.name: row for row in self._studies() if len(row.directions) == 1 and row.id != study_id}
        if spec.transfer == "auto":
            overlap = self._overlap(spec)
            needed = max(1.0, len(spec.space or ()) / 2)
            wanted = [row for row in reversed(known.values()) if overlap.get(row.id, 0) >= needed]
        else:
            wanted = [known[name] for name in spec.transfer if name in known]
        past = (self._past(row.id, row.name) for row in wanted)
        usable = [item for item in past if item is not None]
        return tuple(usable[:MAX_SOURCES] if spec.transfer == "auto" else usable)

    @staticmethod
    def to_json(spec: StudySpec, chosen: tuple[Past, ...]) -> dict[str, Any]:
        """What to write down under `Attr.SOURCES`."""
        return {"transfer": spec.to_json()["transfer"], "studies": [asdict(item) for item in chosen]}

    def found(self, past: Past) -> Found | None:
        """None when the study is gone."""
        row = self._database.first(sa.select(study.c.directions).where(study.c.id == past.study_id, self._there))
        if row is None:
            return None
        sign = -1.0 if row.directions[0] == "maximize" else 1.0
        wanted = sa.select(trial.c.params, trial.c.value).where(
            trial.c.study_id == past.study_id,
            trial.c.number <= past.last,
            trial.c.number.not_in(past.unfinished),
            *_WITH_RESULT,
            ~violates(trial.c.system_attrs),
        )
        rows = [row for row in self._database.all(wanted.order_by(trial.c.number)) if math.isfinite(row.value)]
        return Found(past.name, tuple(row.params for row in rows), tuple(sign * row.value for row in rows))

    def _studies(self) -> list[sa.Row[Any]]:
        """The oldest first."""
        wanted = sa.select(study.c.id, study.c.name, study.c.directions).where(self._there)
        return self._database.all(wanted.order_by(study.c.id))

    def _overlap(self, spec: StudySpec) -> Mapping[int, int]:
        """Study id -> how many parameters of `spec` it has, by name and kind."""
        kinds = {name: parameter.kind for name, parameter in (spec.space or {}).items()}
        columns = (distribution.c.study_id, distribution.c.name, distribution.c.body)
        mine = sa.select(*columns).join(study, study.c.id == distribution.c.study_id).where(self._there)
        rows = self._database.all(mine.where(distribution.c.name.in_(kinds)))
        shared = {(row.study_id, row.name) for row in rows if _kind(row.body) == kinds[row.name]}
        return Counter(owner for owner, _ in shared)

    def _past(self, study_id: int, name: str) -> Past | None:
        """What has a result now; None when nothing has."""
        mine = trial.c.study_id == study_id
        newest = sa.select(sa.func.max(trial.c.number).label("last")).where(mine, *_WITH_RESULT)
        last = self._database.first(newest.where(trial.c.invalid.is_(None)))
        if last is None or last.last is None:
            return None
        passed_over = sa.or_(trial.c.state.in_(_UNFINISHED), trial.c.invalid.is_not(None))
        before = sa.select(trial.c.number).where(mine, trial.c.number < last.last, passed_over)
        open_ones = tuple(row.number for row in self._database.all(before.order_by(trial.c.number)))
        return Past(study_id, name, last.last, open_ones)


def _kind(body: str) -> str | None:
    return _KINDS.get(json.loads(body)["name"])
