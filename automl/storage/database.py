"""One way into PostgreSQL and SQLite: connections, transactions, the clock, JSON, errors.

Connections are in autocommit, so that a life-cycle step is one statement and one round trip. Where two statements
belong together, `Database.transaction` says BEGIN itself; on SQLite it says BEGIN IMMEDIATE, because a read that turns
into a write inside a deferred transaction fails at once, whatever the timeout.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement, GenericFunction

from automl.core import constraints_of
from automl.errors import DatabaseUnavailable, InvalidTarget, StorageError

#: A connection that a thread has kept idle for longer is asked whether it still lives before it is used.
PING_AFTER_IDLE_S = 5.0

#: A statement waits this long for another process to end its transaction.
SQLITE_TIMEOUT_S = 30.0

_POSTGRES_ARGUMENTS = {
    "connect_timeout": 5,
    "application_name": "automl",
    "keepalives_idle": 30,
    "tcp_user_timeout": 10_000,
    # A statement that waits longer is stuck behind a bug, not behind work: let it fail and be tried again.
    # None runs long enough to be worth compiling to machine code.
    "options": "-c jit=off -c statement_timeout=60s -c lock_timeout=10s -c idle_in_transaction_session_timeout=20s",
}


class now(FunctionElement[float]):  # noqa: N801  (reads as the SQL function that it is)
    """The database's clock, at this statement: seconds since the epoch."""

    type = sa.Double()
    inherit_cache = True
    name = "now"


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **_: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


class json_merge(GenericFunction[Any]):  # noqa: N801
    """`json_merge(column, patch)`: the object in `column` with the keys of `patch` set. Atomic in an UPDATE."""

    type = sa.JSON()
    inherit_cache = True
    name = "json_merge"


@compiles(json_merge, "postgresql")
def _merge_postgresql(element: json_merge, compiler: Any, **kw: Any) -> str:
    column, patch = element.clauses
    return f"({compiler.process(column, **kw)} || CAST({compiler.process(patch, **kw)} AS jsonb))"


class json_append(GenericFunction[Any]):  # noqa: N801
    """`json_merge` for a column of type JSON, whose keys stay in the order in which they were set."""

    type = sa.JSON()
    inherit_cache = True
    name = "json_append"


@compiles(json_append, "postgresql")
def _append_postgresql(element: json_append, compiler: Any, **kw: Any) -> str:
    column, patch = (compiler.process(clause, **kw) for clause in element.clauses)
    # By its text: JSONB forgets the order. A key that comes twice counts as its last value, at its first place.
    head = f"CASE WHEN {column}::text = '{{}}' THEN '{{' ELSE left({column}::text, -1) || ',' END"
    return f"CAST({head} || substr({patch}, 2) AS json)"


@compiles(json_append, "sqlite")
def _append_sqlite(element: json_append, compiler: Any, **kw: Any) -> str:
    column, patch = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"json_merge({column}, {patch})"


class json_member(GenericFunction[Any]):  # noqa: N801
    """`json_member(key, column)`: an object with the column's JSON under this key."""

    type = sa.JSON()
    inherit_cache = True
    name = "json_member"


@compiles(json_member, "postgresql")
def _member_postgresql(element: json_member, compiler: Any, **kw: Any) -> str:
    key, column = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"json_build_object({key}, {column})"


@compiles(json_member, "sqlite")
def _member_sqlite(element: json_member, compiler: Any, **kw: Any) -> str:
    key, column = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"json_object({key}, json({column}))"


class is_one_of(GenericFunction[bool]):  # noqa: N801
    """`is_one_of(column, texts)`: whether a text is in a JSON array. Unlike IN the statement stays the same."""

    type = sa.Boolean()
    inherit_cache = True
    name = "is_one_of"


@compiles(is_one_of, "postgresql")
def _one_of_postgresql(element: is_one_of, compiler: Any, **kw: Any) -> str:
    column, texts = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} = ANY (ARRAY(SELECT jsonb_array_elements_text(CAST({texts} AS jsonb))))"


@compiles(is_one_of, "sqlite")
def _one_of_sqlite(element: is_one_of, compiler: Any, **kw: Any) -> str:
    column, texts = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({texts}))"


class packed(GenericFunction[str]):  # noqa: N801
    """`packed(step, value)`: an aggregate, "step value step value ..." with every bit of the values."""

    type = sa.Text()
    inherit_cache = True
    name = "packed"


@compiles(packed, "postgresql")
def _packed_postgresql(element: packed, compiler: Any, **kw: Any) -> str:
    step, value = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"string_agg({step}::text || ' ' || {value}::text, ' ' ORDER BY {step})"


class violates(GenericFunction[bool]):  # noqa: N801
    """`violates(system_attrs)`: whether one of the constraints in a trial's attributes is above zero."""

    type = sa.Boolean()
    inherit_cache = True
    name = "violates"


#: The second half is for infinities, which `dumps` writes as objects; the third for lists, as old Optunas kept them.
_VIOLATED = (
    '$.keyvalue() ? (@.key starts with "constraints:" && (@.value > 0'
    ' || (exists(@.value."$float") && !(@.value."$float" starts with "-"))))',
    "$.constraints[*] ? (@ > 0)",
)


@compiles(violates, "postgresql")
def _violates_postgresql(element: violates, compiler: Any, **kw: Any) -> str:
    (column,) = (compiler.process(clause, **kw) for clause in element.clauses)
    return "(" + " OR ".join(f"jsonb_path_exists({column}, '{path}')" for path in _VIOLATED) + ")"


#: JSON columns: JSONB where there is one. NULL means SQL's NULL.
Json = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


_JSONB_KEEPS_BELOW = 1e16
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def dumps(value: Any) -> str:
    """JSON that PostgreSQL gives back as it was.

    NaN and infinities, which JSON lacks, become {"$float": "nan"}, and so do floats like 1e+20, which JSONB would
    write as integers.
    """
    try:
        text = _ENCODER.encode(value)
    except ValueError:
        text = ""
    if text and "e+" not in text:
        return text
    return json.dumps(_without_specials(value), separators=(",", ":"))


def loads(text: str) -> Any:
    return json.loads(text, object_hook=_special) if '"$float"' in text else json.loads(text)


def _without_specials(value: Any) -> Any:
    if isinstance(value, float) and not abs(value) < _JSONB_KEEPS_BELOW:
        return {"$float": repr(value)}
    if isinstance(value, dict):
        return {key: _without_specials(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_specials(item) for item in value]
    return value


def _special(value: dict[str, Any]) -> Any:
    return float(value["$float"]) if value.keys() == {"$float"} else value


class _Lane(threading.local):
    """What each thread keeps of its own."""

    connection: sa.Connection | None = None
    busy: bool = False
    used_at: float = 0.0


class Database:
    """An open database. Safe to share between threads, and to inherit through a fork."""

    def __init__(self, url: str):
        """Raises `InvalidTarget` for an address that cannot be used; does not connect yet."""
        self.url = _parse_url(url)
        self.dialect = self.url.get_backend_name()
        arguments: dict[str, Any] = {}
        if self.dialect == "sqlite":
            _make_parent(Path(self.url.database or ""))
            arguments = {"timeout": SQLITE_TIMEOUT_S}
        else:
            arguments = dict(_POSTGRES_ARGUMENTS)
        self._engine = sa.create_engine(
            self.url,
            isolation_level="AUTOCOMMIT",
            json_serializer=dumps,
            json_deserializer=loads,
            connect_args=arguments,
            pool_size=5,
            max_overflow=60,
            pool_pre_ping=True,
            pool_reset_on_return=None,
        )
        #: An INSERT that may say ON CONFLICT, which each dialect has of its own.
        self.insert: Callable[[sa.Table], Any] = postgresql.insert if self.dialect == "postgresql" else sqlite.insert
        #: `prepared.Prepared`, by their statements.
        self.prepared: dict[Any, Any] = {}
        self._lane = _Lane()
        self._prepare_connections()
        # A connection must not be used by two processes: a forked child starts with none.
        in_forked_child(self._forget_connections)

    def _prepare_connections(self) -> None:
        @sa.event.listens_for(self._engine, "connect")
        def _connected(connection: Any, record: Any) -> None:
            if self.dialect == "sqlite":
                _use_wal(connection)
                connection.execute("PRAGMA synchronous = FULL")  # NORMAL may lose the last commits on power loss
                connection.execute("PRAGMA foreign_keys = ON")
                connection.create_function("json_merge", 2, _merge_json, deterministic=True)
                connection.create_function("violates", 1, _violates_json, deterministic=True)
                connection.create_aggregate("packed", 2, _Packed)

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """A connection whose statements commit one by one. Raises `DatabaseUnavailable`, `StorageError`.

        It is the thread's own, kept from call to call: a pool takes longer to give one out than a statement needs.
        Only inside another `connection` of the same thread it is one of the pool's.
        """
        lane = self._lane
        try:
            if lane.busy:
                with self._engine.connect() as connection:
                    yield connection
                return
            lane.busy = True
            try:
                yield self._kept(lane)
            finally:
                lane.busy, lane.used_at = False, time.monotonic()
        except IntegrityError:
            raise  # a constraint spoke: the caller knows what it means
        except DBAPIError as error:
            raise self._translated(error) from error
        except sa.exc.TimeoutError as error:
            raise DatabaseUnavailable(f"no free connection to {self}") from error

    def _kept(self, lane: _Lane) -> sa.Connection:
        """The thread's connection, or another one when it is broken."""
        kept = lane.connection
        if kept is not None and not kept.invalidated and time.monotonic() - lane.used_at > PING_AFTER_IDLE_S:
            try:
                kept.exec_driver_sql("SELECT 1")
            except DBAPIError:
                kept.invalidate()
        if kept is None or kept.closed or kept.invalidated:
            lane.connection = None  # should connecting fail, the next call tries again
            if kept is not None:
                kept.close()
            lane.connection = kept = self._engine.connect()
        return kept

    def transaction(self) -> AbstractContextManager[sa.Connection]:
        """A connection whose statements commit together at the end, or not at all."""
        return self._between("BEGIN IMMEDIATE" if self.dialect == "sqlite" else "BEGIN")

    def snapshot(self) -> AbstractContextManager[sa.Connection]:
        """A connection that reads one moment of the database, however often it looks. Not for writing."""
        return self._between("BEGIN" if self.dialect == "sqlite" else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    @contextmanager
    def _between(self, begin: str) -> Iterator[sa.Connection]:
        with self.connection() as connection:
            connection.exec_driver_sql(begin)
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors; a broken connection has nothing to roll back.
                if not connection.invalidated:
                    try:
                        connection.exec_driver_sql("ROLLBACK")
                    except DBAPIError:
                        connection.invalidate()
                raise

    def first(self, statement: sa.Executable, parameters: Any = None) -> sa.Row[Any] | None:
        """The first row of one statement, committed; None when there is none."""
        with self.connection() as connection:
            return connection.execute(statement, parameters).first()

    def all(self, statement: sa.Executable, parameters: Any = None) -> list[sa.Row[Any]]:
        """All rows of one statement, committed."""
        with self.connection() as connection:
            return list(connection.execute(statement, parameters))

    def execute(self, statement: sa.Executable, parameters: Any = None) -> int:
        """One statement, committed; the number of rows that it changed."""
        with self.connection() as connection:
            return connection.execute(statement, parameters).rowcount

    def close(self) -> None:
        """Close the connections that are not in use; those that other threads keep, when these end."""
        if self._lane.connection is not None:
            self._lane.connection.close()
        self._lane.connection = None
        self._engine.dispose()

    def _forget_connections(self) -> None:
        self._inherited = self._lane  # kept, so that nothing here closes what the parent uses
        self._lane = _Lane()
        self._engine.dispose(close=False)

    def _translated(self, error: DBAPIError) -> Exception:
        reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
        if isinstance(error, OperationalError) or error.connection_invalidated:
            return DatabaseUnavailable(f"{self}: {reason}")
        return StorageError(f"{self}: {reason}")

    def __str__(self) -> str:
        return self.url.render_as_string(hide_password=True)


def _parse_url(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
        backend = url.get_backend_name()
    except sa.exc.ArgumentError as error:
        cure = "use postgresql://user@host/name or sqlite:///path/to/file.db"
        raise InvalidTarget(f"storage: {text!r} is no database URL; {cure}", field="storage") from error
    if backend in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg2")  # SQLAlchemy 2.1 means psycopg 3 by the plain name
    if backend != "sqlite":
        raise InvalidTarget(f"storage: {backend!r} is not supported; use postgresql:// or sqlite:///", field="storage")
    if not url.database or url.database == ":memory:":
        message = "storage: an in-memory database cannot be shared by processes; name a file, as in sqlite:///my.db"
        raise InvalidTarget(message, field="storage")
    return url


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        cure = "choose a folder that you may write to"
        message = f"storage: {path.parent} cannot be made ({error.strerror}); {cure}"
        raise InvalidTarget(message, field="storage") from error


def _use_wal(connection: Any) -> None:
    """Readers and the one writer do not wait for each other. Who loses a race for the switch is told so at once."""
    deadline = time.monotonic() + SQLITE_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


class _Packed:
    """`packed` for SQLite, whose own conversion to text keeps 15 digits only."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def step(self, step: int, value: float | None) -> None:
        self._parts.append(f"{step} {'nan' if value is None else repr(value)}")

    def finalize(self) -> str | None:
        return " ".join(self._parts) or None


def _merge_json(column: str, patch: str) -> str:
    return json.dumps(json.loads(column) | json.loads(patch), separators=(",", ":"))


def _violates_json(system_attrs: str) -> bool:
    if '"constraints' not in system_attrs:
        return False
    return any(not value <= 0 for value in constraints_of(loads(system_attrs)).values())


def in_forked_child(method: Callable[[], None]) -> None:
    """Call a bound method in every process that is forked from here on, as long as its object lives."""
    reference = weakref.WeakMethod(method)

    def call() -> None:
        if (live := reference()) is not None:
            live()

    os.register_at_fork(after_in_child=call)
