"""What nobody needs any more, in all projects."""

from __future__ import annotations

import sqlalchemy as sa

from automl.storage.database import Database, now
from automl.storage.tables import package, schedule, study, token

#: Who makes the tokens of people who log in to the dashboard: there are many, and they last for hours.
LOGIN = "login"


class Leftovers:
    """Thread-safe. Each verb is one statement."""

    def __init__(self, database: Database):
        self._database = database

    def projects_with_deleted(self) -> list[str]:
        """Those with a study that was deleted and can be brought back."""
        found = sa.select(study.c.project).distinct().where(study.c.deleted_at.is_not(None))
        return [row.project for row in self._database.all(found.order_by(study.c.project))]

    def forget_logins(self, older_than_s: float) -> int:
        """Remove the tokens of log-ins that ended longer ago; how many."""
        ended = sa.func.coalesce(token.c.revoked_at, token.c.expires_at)
        old = sa.and_(token.c.created_by == LOGIN, ended < now() - older_than_s)
        return self._database.execute(sa.delete(token).where(old))

    def forget_packages(self, older_than_s: float) -> int:
        """Remove code that came longer ago and belongs to no study and no schedule; how many packages."""
        used = [
            sa.exists().where(table.c.project == package.c.project, table.c.package_sha256 == package.c.sha256)
            for table in (study, schedule)
        ]
        old = package.c.created_at < now() - older_than_s
        return self._database.execute(sa.delete(package).where(old, *(~one for one in used)))
