"""The table of trials: what its filter understands, and what leaves it as CSV."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest

from automl.board import Column
from automl.core import TrialState
from automl.errors import InvalidInput
from dashboard.study_views.tables import TrialTable, front_table
from dashboard.study_views.trials import csv_text, side_by_side
from tests.unit.dashboard.boards import board, record, with_states

BASE = with_states(board(60), {3: TrialState.RUNNING, 4: TrialState.PRUNED, 5: TrialState.FAILED})


def found(text: str, states: tuple[str, ...] = ()) -> set[int]:
    return set(np.flatnonzero(TrialTable(BASE).matching(text, states)).tolist())


def test_no_filter_is_all_trials() -> None:
    assert found("") == set(range(60))


def test_conditions_on_numbers_and_words_hold_together() -> None:
    lr, optimizer = BASE.params["lr"], BASE.params["optimizer"]
    wanted = {i for i in range(60) if lr.values[i] < 0.01 and optimizer.at(i) == "sgd"}
    assert 0 < len(wanted) < 60
    assert found("lr < 0.01, optimizer = sgd") == wanted
    assert found("optimizer=SGD and lr<1e-2") == wanted


def test_what_a_trial_lacks_holds_no_condition() -> None:
    has = {i for i in range(60) if not np.isnan(BASE.params["momentum"].values[i])}
    assert found("momentum >= 0") == has
    assert found("momentum != 0.123") == has


def test_states_narrow_a_filter() -> None:
    assert found("", ("running", "failed")) == {3, 5}
    assert found("state = pruned") == {4}
    assert 3 not in found("loss < 100")


def test_a_number_equals_what_is_shown() -> None:
    value = BASE.values[7, 0]
    assert found(f"loss = {value:.5g}") == {7}


def test_a_word_is_sought_in_all_words_and_a_number_is_a_trial() -> None:
    assert found("alpha-1") == set(range(1, 60, 2))
    assert found("17") == {17}


def test_names_may_be_odd_and_contain_each_other() -> None:
    base = board(3, params={"a": Column(np.arange(3.0)), "a b": Column(np.arange(3.0) + 10.0)})
    table = TrialTable(base)
    assert table.matching("a b > 11").tolist() == [False, False, True]
    assert table.matching("a > 0").tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("foo < 1", "there is no column 'foo'"),
        ("lr < quick", "'quick' is no number"),
        ("optimizer < sgd", "optimizer is words; use = or !="),
    ],
)
def test_a_condition_that_means_nothing_says_so(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        found(text)


def test_a_parameter_that_is_called_like_a_fact_or_a_metric_keeps_a_column_of_its_own() -> None:
    base = board(3, params={"state": Column(np.arange(3.0)), "loss": Column(np.arange(3.0))})
    names = list(TrialTable(base).fields)
    assert {"state", "loss", "param.state", "param.loss"} <= set(names)
    assert TrialTable(base).arrow.num_rows == 3


def test_the_table_holds_what_the_board_does() -> None:
    table = TrialTable(BASE).arrow
    assert table.column("number").to_pylist() == list(range(60))
    assert table.column("state").to_pylist()[3:6] == ["running", "pruned", "failed"]
    assert table.column("loss").to_pylist()[5] is None
    assert table.column("optimizer").to_pylist() == [BASE.params["optimizer"].at(i) for i in range(60)]
    assert table.column("failure").to_pylist()[5] == "error"


def test_an_empty_study_is_an_empty_table() -> None:
    assert TrialTable(board(0)).arrow.num_rows == 0
    assert TrialTable(board(0)).matching("lr < 1").tolist() == []


def test_no_cell_of_the_csv_can_become_a_formula() -> None:
    table = TrialTable(BASE)
    rows = list(csv.DictReader(io.StringIO(csv_text(table, np.ones(60, dtype=bool)))))
    odd = [row["<b>$x$</b>"] for row in rows]
    assert set(odd) == {"", "<script>", "'=1+1"}
    assert [float(row["lr"]) for row in rows] == BASE.params["lr"].values.tolist()
    assert rows[5]["loss"] == ""


def test_the_csv_of_a_filter_holds_its_trials_alone() -> None:
    table = TrialTable(BASE)
    rows = list(csv.DictReader(io.StringIO(csv_text(table, table.matching("state = pruned")))))
    assert [row["number"] for row in rows] == ["4"]


def test_side_by_side_what_differs_stands_out_and_text_stays_text() -> None:
    sgd = [i for i in range(60) if BASE.params["optimizer"].at(i) == "sgd"][:2]
    html = side_by_side(BASE, sgd)
    assert '<span class="am-same">optimizer</span>' in html
    assert '<span class="am-differs">lr</span>' in html
    assert "<script>" not in html
    assert "<b>$x$" not in html


def test_the_table_of_the_front_is_the_front() -> None:
    base = board(60, study=record({"loss": "min", "accuracy": "max"}))
    table, _ = front_table(base, base.front)
    assert table.column("number").to_pylist() == base.front.tolist()


def test_a_name_inside_of_another_word_is_no_condition() -> None:
    base = board(3, params={"r": Column(np.arange(3.0))})
    with pytest.raises(InvalidInput, match="there is no column 'flor'"):
        TrialTable(base).matching("flor > 1")
