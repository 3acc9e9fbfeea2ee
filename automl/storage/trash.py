"""What was deleted and can be brought back: a study goes with its confirmations, and comes back with them.

To delete is to set the moment at which it happened, in the row's lock, so that no claim slips past. From then on no
listing, look-up, claim or Optuna program finds the study. What is older than somebody says is removed for good.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from automl.errors import InvalidInput, NotFound
from automl.storage.database import Database, now
from automl.storage.studies import UNFINISHED, cancel, tell, there
from automl.storage.tables import artifact, distribution, event, report, study, trial
from automl.team import DEFAULT_PROJECT


class Trash:
    """The deleted studies of one project. The files of trials and promoted models stay, whatever is done here."""

    def __init__(self, database: Database, project: str = DEFAULT_PROJECT):
        self._database = database
        self._project = project

    def delete(self, study_id: int) -> None:
        """Take away a study and its confirmations; what runs is cancelled, as if it was stopped. Raises `NotFound`."""
        chosen = sa.or_(study.c.id == study_id, study.c.origin_id == study_id)
        found = sa.select(study.c.id, study.c.state).where(there(self._project), chosen).order_by(study.c.id)
        with self._database.transaction() as connection:
            rows = connection.execute(found.with_for_update()).all()
            if study_id not in {row.id for row in rows}:
                raise NotFound(f"study {study_id} is gone", field="study")
            moment = connection.scalar(sa.select(now()))  # one for all, by which they are found again
            for row in rows:
                gone = {"deleted_at": moment, "suggester_token": None, "suggester_expires_at": None}
                connection.execute(sa.update(study).where(study.c.id == row.id).values(**gone))
                cancel(connection, row.id, trial.c.state.in_(UNFINISHED))
                tell(connection, row.id, row.state, "deleted")

    def restore(self, name: str) -> int:
        """Bring back the study that was deleted last under this name, and what was deleted with it; its id.

        Raises `NotFound`, and `InvalidInput` when the name was taken in the meantime.
        """
        deleted = sa.select(study).where(study.c.project == self._project, study.c.deleted_at.is_not(None))
        last = deleted.where(study.c.name == name).order_by(study.c.deleted_at.desc(), study.c.id.desc()).limit(1)
        with self._database.transaction() as connection:
            row = connection.execute(last.with_for_update()).first()
            if row is None:
                raise NotFound(f"study {name!r} was not deleted, or is gone for good", field="study")
            if row.origin_id is not None:
                origin = connection.execute(deleted.where(study.c.id == row.origin_id)).first()
                if origin is not None:
                    cure = f"bring back {origin.name!r}, which it confirms"
                    raise InvalidInput(f"study: {name!r} was deleted; {cure}", field="study")
            together = sa.or_(study.c.id == row.id, study.c.origin_id == row.id)
            back = connection.execute(deleted.where(together, study.c.deleted_at == row.deleted_at)).all()
            for item in back:
                try:
                    connection.execute(sa.update(study).where(study.c.id == item.id).values(deleted_at=None))
                except IntegrityError as error:
                    problem = f"name: another study has the name {item.name!r} now"
                    raise InvalidInput(f"{problem}; delete that one first", field="name") from error
                tell(connection, item.id, item.state, "undeleted")
            return int(row.id)

    def purge(self, older_than_s: float) -> int:
        """Remove for good what was deleted longer ago, with trials and history; how many studies."""
        old = sa.and_(study.c.project == self._project, study.c.deleted_at < now() - older_than_s)
        rows = self._database.all(sa.select(study.c.id).where(old).order_by(study.c.id))
        return sum(self._remove(row.id, old) for row in rows)

    def _remove(self, study_id: int, old: sa.ColumnElement[bool]) -> bool:
        """Whether it was still there, and still deleted."""
        locked = sa.select(study.c.id).where(study.c.id == study_id, old).with_for_update()
        with self._database.transaction() as connection:
            if connection.execute(locked).first() is None:
                return False
            connection.execute(sa.delete(event).where(event.c.study_id == study_id))
            trials = sa.select(trial.c.id).where(trial.c.study_id == study_id)
            connection.execute(trials.order_by(trial.c.id).with_for_update())  # no report can come from here on
            for table in (report, artifact):
                connection.execute(sa.delete(table).where(table.c.trial_id.in_(trials)))
            for table in (trial, distribution):
                connection.execute(sa.delete(table).where(table.c.study_id == study_id))
            connection.execute(sa.delete(study).where(study.c.id == study_id))
            return True
