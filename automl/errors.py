"""Every error that automl raises on purpose.

::

    AutoMLError
    ├── InvalidInput            the caller's mistake; the message names the field and the cure
    │   ├── InvalidStudy        a study declaration that cannot work
    │   ├── TooLarge            more than is taken
    │   ├── UnsafeFormat        a file of a kind that is not kept, because opening it may run code
    │   ├── InvalidTarget       a storage or service address that cannot be used
    │   └── NotFound            no study or trial of that name or number
    ├── StudyConflict           the name is taken by a study with another definition
    ├── PromotionRefused        a gate failed; the alias is where it was
    ├── PromotionConflict       somebody else moved the alias in the meantime
    ├── StudyFailed             the search stopped because its trials could not work
    ├── LeaseLost               a write came with a lease that is no longer the current one
    ├── ArtifactCorrupt         a file does not match its recorded sha256
    ├── ModelUnusable           a saved model cannot be rebuilt or exported
    ├── Refused                 the service does not serve this caller
    │   ├── Unauthorized        no token, or one that is not good (any more)
    │   ├── Forbidden           a good token without the scope that this takes
    │   └── TooMany             more requests than are served; `retry_after_s` says when to come again
    └── StorageError
        ├── DatabaseUnavailable no answer; worth another try
        │   └── StorageFull     no room left; worth another try when somebody has made some
        └── SchemaMismatch      the database belongs to a newer automl

Catch `AutoMLError` for all of them. Facts that a program needs are attributes, not only text.
"""

from __future__ import annotations

from typing import Any


class AutoMLError(Exception):
    """Base of every error of this package."""


class InvalidInput(AutoMLError, ValueError):
    """The caller's mistake. `field` names what was wrong with it."""

    def __init__(self, message: str, field: str | None = None):
        super().__init__(message)
        self.field = field


class InvalidStudy(InvalidInput):
    """A study declaration that cannot work."""


class TooLarge(InvalidInput):
    """More than is taken. The message says how much that is."""


class UnsafeFormat(InvalidInput):
    """A file of a kind that is not kept: opening it may run code that is in it."""


class InvalidTarget(InvalidInput):
    """A storage or service address that cannot be used."""


class NotFound(InvalidInput, LookupError):
    """No study or trial of that name or number."""


class StudyConflict(AutoMLError):
    """The name is taken by a study with another definition. `differences` lists them, one line each."""

    def __init__(self, name: str, differences: list[str], extendable: bool):
        cure = "pass --extend (extend=True) to widen it, or choose" if extendable else "choose"
        lines = "; ".join(differences)
        super().__init__(f"study {name!r} exists with another definition ({lines}): {cure} another name")
        self.name = name
        self.differences = differences
        self.extendable = extendable


class PromotionRefused(AutoMLError):
    """A gate failed and nothing was changed. `gates` (of `core.Gate`) are all that were looked at."""

    def __init__(self, message: str, gates: tuple[Any, ...] = ()):
        super().__init__(message)
        self.gates = gates


class PromotionConflict(AutoMLError):
    """Somebody else moved the alias while this promotion or rollback was under way; theirs stands."""


class StudyFailed(AutoMLError):
    """The search stopped because its trials could not work. `traceback` is what the training function raised."""

    def __init__(self, message: str, traceback: str = ""):
        super().__init__(message)
        self.traceback = traceback


class LeaseLost(AutoMLError):
    """The lease token is not the current one: another worker has the trial, or nobody. Nothing was changed."""


class ArtifactCorrupt(AutoMLError):
    """A stored file does not match the sha256 that was recorded for it."""


class ModelUnusable(AutoMLError):
    """A saved model cannot be rebuilt or exported, or is not what it was; the message says why."""


class Refused(AutoMLError):
    """The service does not serve this caller."""


class Unauthorized(Refused):
    """No token, or one that is unknown, expired or revoked."""


class Forbidden(Refused):
    """The token is good, but has not the scope that this takes."""


class TooMany(Refused):
    """More requests than are served."""

    def __init__(self, message: str, retry_after_s: float = 1.0):
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageError(AutoMLError):
    """The database could not do what was asked."""


class DatabaseUnavailable(StorageError):
    """The database did not answer. Nothing is known to be wrong with the request: try again."""


class StorageFull(DatabaseUnavailable):
    """There is no room left where files are kept. Nothing was stored."""


class SchemaMismatch(StorageError):
    """The database was migrated by a newer automl than this one."""
