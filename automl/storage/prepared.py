"""Statements for the calls that come for every parameter, report and result: compiled once, planned once.

`Database.execute` is as quick as SQLAlchemy is: half of the time of such a call goes into finding the compiled
statement again, and on the server another half into planning it again. Here the text is kept, and on PostgreSQL each
connection prepares it when it first needs it.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, StatementError

from automl.storage.database import Database, dumps, loads

T = TypeVar("T")


def prepared(database: Database, statement: sa.UpdateBase | sa.Select[Any]) -> Prepared:
    """For a statement that is a constant of its module: made at the first call, the same one from then on."""
    return database.prepared.get(statement) or database.prepared.setdefault(statement, Prepared(database, statement))


class Prepared:
    """One statement of one database. Its parameters are numbers, texts, None, and what JSON can hold. Thread-safe."""

    def __init__(self, database: Database, statement: sa.UpdateBase | sa.Select[Any]):
        self._database = database
        self._on_postgresql = database.dialect == "postgresql"
        dialect: Any = sqlite.dialect(json_deserializer=loads)
        if self._on_postgresql:
            dialect = postgresql.dialect(paramstyle="numeric_dollar")
        compiled: Any = statement.compile(dialect=dialect)
        self._order: tuple[str, ...] = tuple(compiled.positiontup)
        self._constants: dict[str, Any] = compiled.params
        self._json = [name for name in self._order if isinstance(compiled.binds[name].type, sa.JSON)]
        self._text = str(compiled)
        columns = compiled._result_columns
        self._row = _named([column.keyname for column in columns])
        # PostgreSQL's driver knows the types of what it returns.
        self._converters = [] if self._on_postgresql else list(_converters(dialect, columns))
        if self._on_postgresql:
            # The same for the same text: a connection then has it once, however many objects like this there are.
            self._name = f"automl_{sha256(self._text.encode()).hexdigest()[:20]}"
            self._prepare = f"PREPARE {self._name} AS {self._text}"
            self._text = f"EXECUTE {self._name} ({', '.join('%s' for _ in self._order)})"

    def execute(self, parameters: Mapping[str, Any], connection: sa.Connection | None = None) -> int:
        """The number of rows that it changed; committed, unless `connection` is in a transaction."""
        return self._run(parameters, connection, _rowcount)

    def first(self, parameters: Mapping[str, Any], connection: sa.Connection | None = None) -> Any | None:
        """The first row that it returns, with its columns as attributes, or None."""
        row = self._run(parameters, connection, _first)
        return None if row is None else self._as_row(row)

    def all(self, parameters: Mapping[str, Any], connection: sa.Connection | None = None) -> list[Any]:
        """All rows that it returns."""
        return list(map(self._as_row, self._run(parameters, connection, _all)))

    def _run(self, parameters: Mapping[str, Any], connection: sa.Connection | None, answer: Callable[[Any], T]) -> T:
        if connection is None:
            with self._database.connection() as own:
                return self._run(parameters, own, answer)
        values = self._as_sent({**self._constants, **parameters})
        raw = connection.connection
        cursor = raw.cursor()
        try:
            if self._on_postgresql and self._name not in raw.info:
                cursor.execute(self._prepare)
                raw.info[self._name] = True
            cursor.execute(self._text, values)
            return answer(cursor)
        except connection.dialect.loaded_dbapi.Error as error:
            # What SQLAlchemy would make of it, had the call gone its way.
            broken = connection.dialect.is_disconnect(error, raw, cursor)
            if broken:
                connection.invalidate(error)
            kind = connection.dialect.loaded_dbapi.Error
            raise DBAPIError.instance(self._text, None, error, kind, connection_invalidated=broken) from error
        finally:
            cursor.close()

    def _as_row(self, values: tuple[Any, ...]) -> Any:
        if not self._converters:
            return self._row._make(values)
        changed = list(values)
        for index, convert in self._converters:
            changed[index] = convert(values[index])
        return self._row._make(changed)

    def _as_sent(self, values: dict[str, Any]) -> list[Any]:
        try:
            for name in self._json:
                if values[name] is not None:
                    values[name] = dumps(values[name])
        except (TypeError, ValueError) as error:
            raise StatementError(str(error), self._text, None, error) from error
        return [values[name] for name in self._order]


def _named(columns: list[str]) -> Any:
    return namedtuple("Row", columns, rename=True)


def _converters(dialect: Any, columns: Iterable[Any]) -> Iterator[tuple[int, Callable[[Any], Any]]]:
    """Place and function of the columns whose values are not what the driver returns."""
    for index, column in enumerate(columns):
        convert = column.type.dialect_impl(dialect).result_processor(dialect, None)
        if convert is not None:
            yield index, convert


def _rowcount(cursor: Any) -> int:
    return cursor.rowcount


def _first(cursor: Any) -> Any:
    return cursor.fetchone()


def _all(cursor: Any) -> Any:
    return cursor.fetchall()
