"""Models, their versions, and the aliases that name one version each: who moved which alias, when, from what, and why.

An alias moves by compare-and-swap. Whoever wants to move it looks at its history first, decides in peace, and then says
how many moves it had seen: when there are more by now, nothing is changed. Versions, their files and the history are
only ever added to; triggers refuse anything else.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa

from automl.core import Artifact, Estimate, Gate, Model, ModelVersion, Promotion
from automl.errors import NotFound, PromotionConflict
from automl.storage.database import Database, now
from automl.storage.tables import alias, model, model_file, model_version, promotion
from automl.team import DEFAULT_PROJECT

#: The alias that a model's name alone stands for.
DEFAULT_ALIAS = "champion"

_NUMBER = re.compile(r"[0-9]{1,9}")
_VERSION_COLUMNS = tuple(model_version.c[name] for name in ModelVersion.__dataclass_fields__ if name in model_version.c)


class Registry:
    """The storage's half of promotion: the models of one project."""

    def __init__(self, database: Database, project: str = DEFAULT_PROJECT):
        self._database = database
        self._project = project

    # -- looking ------------------------------------------------------------------------------------------------

    def models(self) -> list[Model]:
        """By name."""
        counted = sa.select(model_version.c.model_id, sa.func.count().label("n")).group_by(model_version.c.model_id)
        named = sa.select(alias.c.model_id, alias.c.name, model_version.c.version).join(model_version)
        with self._database.snapshot() as connection:
            rows = connection.execute(sa.select(model).where(self._mine).order_by(model.c.name)).all()
            versions = {row.model_id: row.n for row in connection.execute(counted)}
            aliases: dict[int, dict[str, int]] = defaultdict(dict)
            for row in connection.execute(named.order_by(alias.c.name)):
                aliases[row.model_id][row.name] = row.version
        return [Model(row.name, row.created_at, aliases[row.id], versions.get(row.id, 0)) for row in rows]

    def versions(self, name: str) -> list[ModelVersion]:
        """Newest first. Raises `NotFound`, which names the models that there are."""
        self.check_model(name)
        return self._versions(self._named(name))

    def version(self, reference: str) -> ModelVersion:
        """`digits@champion`, `digits@3`, or `digits` for its champion. Raises `NotFound`, which says what there is."""
        name, at, wanted = reference.partition("@")
        wanted = wanted if at else DEFAULT_ALIAS
        if _NUMBER.fullmatch(wanted):
            found = self._versions(sa.and_(self._named(name), model_version.c.version == int(wanted)))
        else:
            named = sa.select(alias.c.version_id).where(alias.c.model_id == model.c.id, alias.c.name == wanted)
            found = self._versions(sa.and_(self._named(name), model_version.c.id == named.scalar_subquery()))
        if found:
            return found[0]
        self.check_model(name)
        there = next(item for item in self.models() if item.name == name)
        aliases = ", ".join(f"{name}@{item}" for item in there.aliases)
        raise NotFound(
            f"{name}@{wanted} names no version; there are {aliases} and versions 1 to {there.versions}", field="model"
        )

    def of_trial(self, name: str, trial_id: int) -> ModelVersion | None:
        """The version that the model has of this trial; None when it has none."""
        found = self._versions(sa.and_(self._named(name), model_version.c.trial_id == trial_id))
        return found[0] if found else None

    def promotions(self, name: str, alias_name: str | None = None) -> list[Promotion]:
        """The moves of the model's aliases, or of one of them, newest first; [] where there is none."""
        wanted = sa.select(promotion, model.c.name.label("model")).join(model).where(self._named(name))
        if alias_name is not None:
            wanted = wanted.where(promotion.c.alias == alias_name)
        return [_promotion(row) for row in self._database.all(wanted.order_by(promotion.c.id.desc()))]

    def check_model(self, name: str) -> None:
        """Raises `NotFound`, which names the models that there are."""
        known = sa.select(model.c.name).where(self._mine).order_by(model.c.name)
        names = [row.name for row in self._database.all(known)]
        if name not in names:
            there = f"there are {', '.join(names[:10])}" if names else "`automl promote STUDY` makes the first"
            raise NotFound(f"model {name!r} is not in {self._database}; {there}", field="model")

    @property
    def _mine(self) -> sa.ColumnElement[bool]:
        return model.c.project == self._project

    def _named(self, name: str) -> sa.ColumnElement[bool]:
        return sa.and_(self._mine, model.c.name == name)

    def _versions(self, which: sa.ColumnElement[bool]) -> list[ModelVersion]:
        wanted = sa.select(model_version.c.id, *_VERSION_COLUMNS, model.c.name.label("model")).join(model).where(which)
        with self._database.snapshot() as connection:
            rows: Sequence[Any] = connection.execute(wanted.order_by(model_version.c.version.desc())).all()
            ids = [row.id for row in rows]
            files: dict[int, list[Artifact]] = defaultdict(list)
            chosen = sa.select(model_file).where(model_file.c.version_id.in_(ids)).order_by(model_file.c.name)
            for row in connection.execute(chosen):
                files[row.version_id].append(Artifact(row.name, row.sha256, row.size))
            aliases: dict[int, list[str]] = defaultdict(list)
            for row in connection.execute(sa.select(alias).where(alias.c.version_id.in_(ids)).order_by(alias.c.name)):
                aliases[row.version_id].append(row.name)
        return [_version(row, files[row.id], aliases[row.id]) for row in rows]

    # -- moving -------------------------------------------------------------------------------------------------

    def move(self, version: ModelVersion, draft: Promotion, moves: int) -> Promotion:
        """Let an alias name this version, which is made where the model has none of its trial; the move as written.

        Args:
            version: its number and time are given here, unless the version is there already.
            draft: the move; `from_version` is what the alias named when the caller looked, `to_version` and `at` do
                not count.
            moves: how often the alias had been moved when the caller looked.

        Raises `PromotionConflict`, and changes nothing, when the alias was moved since.
        """
        with self._database.transaction() as connection:
            model_id = self._locked_model(connection, version.model)
            version_id, number = self._kept(connection, model_id, version)
            if not self._swapped(connection, model_id, version_id, draft, moves):
                raise PromotionConflict(
                    f"{draft.model}@{draft.alias} was moved by somebody else in the meantime, and theirs stands; "
                    f"look at `automl models {draft.model}`, then try again"
                )
            written = {
                "model_id": model_id,
                "to_version": number,
                "gates": [asdict(gate) for gate in draft.gates],
                "estimate": asdict(draft.estimate) if draft.estimate is not None else None,
                "at": now(),
            }
            names = ("alias", "kind", "from_version", "who", "reason", "forced")
            values = {name: getattr(draft, name) for name in names} | written
            made = connection.execute(sa.insert(promotion).values(**values).returning(promotion.c.at)).one()
        return replace(draft, to_version=number, at=made.at)

    def _locked_model(self, connection: sa.Connection, name: str) -> int:
        """The id of the model, made if it is new. Its other movers wait from here on until we are done."""
        new = self._database.insert(model).values(project=self._project, name=name, created_at=now())
        connection.execute(new.on_conflict_do_nothing())
        found = connection.execute(sa.select(model.c.id).where(self._named(name)).with_for_update()).one()
        return int(found.id)

    def _kept(self, connection: sa.Connection, model_id: int, version: ModelVersion) -> tuple[int, int]:
        """Id and number of the model's version of this trial, made if there is none.

        Raises `PromotionConflict` when somebody made it of other files in the meantime: not those that were checked.
        """
        found = connection.execute(
            sa.select(model_version.c.id, model_version.c.version).where(
                model_version.c.model_id == model_id, model_version.c.trial_id == version.trial_id
            )
        ).first()
        if found is not None:
            of_it = sa.select(model_file.c.name, model_file.c.sha256).where(model_file.c.version_id == found.id)
            if set(map(tuple, connection.execute(of_it))) != {(item.name, item.sha256) for item in version.files}:
                raise PromotionConflict(
                    f"version {found.version} of {version.model} was made of other files in the meantime; try again"
                )
            return found.id, found.version
        newest = sa.select(sa.func.coalesce(sa.func.max(model_version.c.version), 0) + 1)
        number = connection.scalar(newest.where(model_version.c.model_id == model_id))
        given = {column.name: getattr(version, column.name) for column in _VERSION_COLUMNS}
        row = given | {"model_id": model_id, "version": number, "created_at": now()}
        row |= {"directions": list(version.directions)}
        row |= {name: dict(getattr(version, name)) for name in ("params", "metrics", "environment")}
        made = connection.execute(sa.insert(model_version).values(**row).returning(model_version.c.id)).one()
        files = [{"version_id": made.id, **asdict(item)} for item in version.files]
        connection.execute(sa.insert(model_file), files)
        return int(made.id), int(number or 1)

    def _swapped(self, connection: sa.Connection, model_id: int, version_id: int, draft: Promotion, moves: int) -> bool:
        """Compare and swap: whether the alias was as the caller had seen it, and now names the version."""
        place = {"model_id": model_id, "name": draft.alias}
        if draft.from_version is None:
            new = self._database.insert(alias).values(**place, version_id=version_id).on_conflict_do_nothing()
            return bool(connection.execute(new).rowcount)
        seen = sa.select(model_version.c.id).where(
            model_version.c.model_id == model_id, model_version.c.version == draft.from_version
        )
        # Not only the version: the alias may have gone away and come back, and a rollback now means another one.
        so_far = sa.select(sa.func.count()).where(promotion.c.model_id == model_id, promotion.c.alias == draft.alias)
        is_as_seen = sa.and_(
            alias.c.model_id == model_id,
            alias.c.name == draft.alias,
            alias.c.version_id == seen.scalar_subquery(),
            so_far.scalar_subquery() == moves,
        )
        return bool(connection.execute(sa.update(alias).where(is_as_seen).values(version_id=version_id)).rowcount)


def _version(row: Any, files: Sequence[Artifact], aliases: Sequence[str]) -> ModelVersion:
    fields = {column.name: getattr(row, column.name) for column in _VERSION_COLUMNS}
    fields |= {"directions": tuple(row.directions), "files": tuple(files), "aliases": tuple(aliases)}
    return ModelVersion(**{**fields, "model": row.model})


def _promotion(row: sa.Row[Any]) -> Promotion:
    fields = {name: getattr(row, name) for name in Promotion.__dataclass_fields__}
    fields["gates"] = tuple(Gate(**gate) for gate in row.gates)
    fields["estimate"] = Estimate(**row.estimate) if row.estimate is not None else None
    return Promotion(**fields)
