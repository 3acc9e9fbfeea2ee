"""Tables of trials as pyarrow has them: made from the board's columns in milliseconds, at fifty thousand rows too."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from automl.board import FAILURES, STATES, Board, Column
from automl.display.progress import clean
from automl.errors import InvalidInput

#: What a table says of a trial beside its metrics and parameters.
_FACTS = ("number", "state", "step", "minutes", "attempt", "failure", "worker", "invalid")

_CONDITION = re.compile(r"\s*(<=|>=|!=|==|=|<|>)\s*(\"[^\"]*\"|'[^']*'|[^\s,]+)")


@dataclass(frozen=True, eq=False)
class Field:
    """A column of the table: what the reader calls it, and what it holds."""

    name: str
    numbers: np.ndarray | None  #: (n,) float64, NaN for none; None: it is words
    words: np.ndarray | None = None  #: (n,) of str, "" for none
    kind: str = "fact"  #: "fact", "metric" or "param"

    @property
    def arrow(self) -> pa.Array:
        if self.words is not None:
            return pa.array(self.words, mask=self.words == "").dictionary_encode()
        assert self.numbers is not None
        return pa.array(self.numbers, from_pandas=True)


class TrialTable:
    """All trials of a board by column; filters are masks over its rows, and row i is trial i."""

    def __init__(self, board: Board):
        self.board = board

    @cached_property
    def fields(self) -> Mapping[str, Field]:
        """By name: number and state, the metrics, the parameters, further metrics, and what else is known."""
        board = self.board
        n = len(board)
        states = np.array([state.value for state in STATES], dtype=object)[board.state]
        found = [
            Field("number", np.arange(n, dtype=float)),
            Field("state", None, states.astype(object)),
            *(Field(name, board.values[:, i], kind="metric") for i, name in enumerate(board.study.metric_names)),
        ]
        taken = {*_FACTS, *board.study.metric_names}
        for kind, columns in (("param", board.params), ("metric", board.metrics)):
            for name, column in columns.items():
                label = f"{kind}.{name}" if name in taken else name
                taken.add(label)
                found.append(_field(label, column, kind))
        failures = np.array([*(kind.value for kind in FAILURES), ""], dtype=object)[board.failure]
        workers = np.array([*board.workers, ""], dtype=object)[board.worker]
        found += [
            Field("step", np.where(board.step >= 0, board.step, np.nan)),
            Field("minutes", board.duration_s / 60.0),
            Field("attempt", board.attempt.astype(float)),
            Field("failure", None, failures),
            Field("worker", None, workers),
            Field("invalid", None, np.where(board.invalid, "invalid", "").astype(object)),
        ]
        return {field.name: field for field in found}

    @cached_property
    def arrow(self) -> pa.Table:
        """The whole of it. Names are on one line; two of them may look alike, so they are numbered then."""
        names: list[str] = []
        for field in self.fields.values():
            name = clean(field.name) or "–"
            names.append(name if name not in names else f"{name} ({len(names)})")
        columns = {name: field.arrow for name, field in zip(names, self.fields.values(), strict=True)}
        for whole in ("number", "step", "attempt"):
            columns[whole] = columns[whole].cast(pa.int64())
        return pa.table(columns)

    @cached_property
    def filled(self) -> list[str]:
        """The fields that say anything."""
        return [
            name
            for name, field in self.fields.items()
            if (field.numbers is not None and not np.isnan(field.numbers).all())
            or (field.words is not None and (field.words != "").any())
        ]

    def matching(self, text: str, states: Sequence[str] = ()) -> np.ndarray:
        """(n,) bool: trials in one of `states` (any when empty) that hold all that `text` says.

        `text` is conditions as `lr < 0.01`, `optimizer = sgd`, `state != failed`, and further words, which a choice, a
        worker or a failure has to contain. Raises `InvalidInput` for a condition that means nothing.
        """
        mask = np.ones(len(self.board), dtype=bool)
        if states:
            mask &= np.isin(np.asarray(self.fields["state"].words), list(states))
        rest = text
        for name in sorted(self.fields, key=len, reverse=True):
            rest, found = self._taken(name, rest)
            mask &= found
        if unknown := re.search(r"([^\s,<>=!]+)\s*(<=|>=|!=|==|=|<|>)", rest):
            raise InvalidInput(
                f"filter: there is no column {unknown.group(1)!r}; there are {', '.join(self.filled)}", field="filter"
            )
        for word in re.split(r"[\s,]+", rest):
            if word and word.casefold() != "and":
                mask &= self._containing(word.casefold())
        return mask

    def _taken(self, name: str, text: str) -> tuple[str, np.ndarray]:
        """The text without its conditions on `name`, and the trials that hold them."""
        mask = np.ones(len(self.board), dtype=bool)
        start = 0
        while (at := text.find(name, start)) >= 0:
            condition = _CONDITION.match(text, at + len(name))
            if condition is None or (at > 0 and (text[at - 1].isalnum() or text[at - 1] in "._-")):
                start = at + len(name)
                continue
            mask &= _holds(self.fields[name], condition.group(1), condition.group(2).strip("\"'"))
            text = text[:at] + " " + text[condition.end() :]
            start = at
        return text, mask

    def _containing(self, word: str) -> np.ndarray:
        """(n,) bool: trials of which some field of words has `word` in it, or whose number it is."""
        found = np.zeros(len(self.board), dtype=bool)
        for field in self.fields.values():
            if field.words is not None:
                known, places = np.unique(field.words.astype(str), return_inverse=True)
                found |= np.array([word in value.casefold() for value in known], dtype=bool)[places]
        if word.isdecimal() and int(word) < len(found):
            found[int(word)] = True
        return found

    def rows(self, mask: np.ndarray) -> list[dict[str, Any]]:
        """The trials of a mask as flat rows, for CSV."""
        names = self.filled
        columns = {}
        for name in names:
            field = self.fields[name]
            if field.words is not None:
                columns[name] = field.words[mask].tolist()
            else:
                assert field.numbers is not None
                columns[name] = [_plain(value) for value in field.numbers[mask].tolist()]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _field(label: str, column: Column, kind: str) -> Field:
    if column.choices is None:
        return Field(label, column.values, kind=kind)
    words = np.array([*(clean(str(choice)) for choice in column.choices), ""], dtype=object)
    places = np.where(np.isnan(column.values), len(column.choices), column.values).astype(int)
    return Field(label, None, words[places], kind)


def _plain(value: float) -> float | int | str:
    if value != value:
        return ""
    return (
        int(value)
        if value == int(value) and abs(value) < 2**53
        else value
        if abs(value) != float("inf")
        else str(value)
    )


def _holds(field: Field, sign: str, given: str) -> np.ndarray:
    """(n,) bool: `field` `sign` `given`. Raises `InvalidInput`."""
    sign = {"==": "="}.get(sign, sign)
    if field.words is not None:
        if sign not in ("=", "!="):
            raise InvalidInput(f"filter: {field.name} is words; use = or !=", field="filter")
        equal = np.char.lower(field.words.astype(str)) == given.lower()
        return equal if sign == "=" else ~equal
    assert field.numbers is not None
    try:
        number = float(given)
    except ValueError as error:
        raise InvalidInput(
            f"filter: {given!r} is no number, but {field.name} is; write as in {field.name} {sign} 0.5", field="filter"
        ) from error
    known = field.numbers
    with np.errstate(invalid="ignore"):
        if sign in ("=", "!="):
            equal = np.isclose(known, number, rtol=1e-4, atol=0.0)  # as they are shown
            return equal if sign == "=" else ~equal & ~np.isnan(known)
        compared = {"<": known < number, ">": known > number, "<=": known <= number, ">=": known >= number}
    return compared[sign]


def front_table(board: Board, rows: np.ndarray) -> tuple[pa.Table, dict[str, Any]]:
    """The trials of a front with their metrics and parameters, and how Streamlit shows them."""
    table = TrialTable(board)
    names = ["number", *board.study.metric_names, *(f for f in table.filled if table.fields[f].kind == "param")]
    return table.arrow.select([clean(name) for name in names]).take(pa.array(rows)), column_config(table)


def column_config(table: TrialTable) -> dict[str, Any]:
    """How Streamlit shows the columns: numbers in a form that can be compared, the words plain."""
    import streamlit as st

    config: dict[str, Any] = {}
    for name, field in table.fields.items():
        if field.numbers is not None and name not in ("number", "step", "attempt"):
            config[clean(name)] = st.column_config.NumberColumn(format="%.2f" if name == "minutes" else "%.4g")
    config["number"] = st.column_config.NumberColumn("trial", format="%d", width=70, pinned=True)
    config["step"] = config["attempt"] = st.column_config.NumberColumn(format="%d")
    return config
