"""Studies and trials as text and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from automl.declaration import Budget
from automl.engine import Engine, connect
from automl.report import plain, print_study, print_trial, study_json, study_table, trial_json
from tests.unit.searches import complete, fail, spec

HOSTILE = "\x1b[31mred\x1b[0m\nnext"


@pytest.fixture
def engine(sqlite_url: str, artifacts: Path) -> Iterator[Engine]:
    opened = connect(sqlite_url, artifacts)
    yield opened
    opened.close()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_anything_becomes_what_strict_json_can_say(data: object) -> None:
    text = json.dumps(plain(data), allow_nan=False)
    assert plain(json.loads(text)) == plain(data)


def test_numbers_that_json_lacks_become_null() -> None:
    assert plain({"a": math.nan, 1: (math.inf, 0.5)}) == {"a": None, "1": [None, 0.5]}


def test_the_json_of_a_study_without_results_has_no_best(engine: Engine) -> None:
    record = engine.declare(spec(budget=Budget(minutes=2)))
    shown = study_json(record, engine.counts([record])[record.id], None)
    assert shown["best"] is None
    assert shown["budget"] == {"trials": None, "minutes": 2}
    assert shown["state"] == "open"


def test_the_json_of_an_optuna_study_has_the_same_shape(engine: Engine) -> None:
    study = optuna.create_study(study_name="theirs", storage=engine.optuna, directions=["maximize", "minimize"])
    study.optimize(lambda trial: (trial.suggest_float("b", 0, 1), trial.suggest_float("a", 0, 1)), n_trials=2)
    record = engine.study("theirs")
    ours = study_json(engine.declare(spec()), engine.counts([record])[record.id], None)
    shown = study_json(record, engine.counts([record])[record.id], engine.best_trials(record)[0])
    assert shown.keys() == ours.keys()
    assert shown["budget"] == {"trials": None, "minutes": None}
    assert shown["metrics"] == {"value": "max", "value_1": "min"}
    assert len(shown["best"]["values"]) == 2
    assert list(shown["best"]["params"]) == ["a", "b"]


def test_the_json_of_a_trial_tells_what_failed(engine: Engine) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.5, accuracy=0.25)
    fail(engine, record, "boom", "File 'toy.py', line 3")
    done, failed = (trial_json(engine, record, engine.trial(record, number)) for number in (0, 1))
    assert done["values"] == [0.5]
    assert done["metrics"] == {"accuracy": 0.25}
    assert done["reports"] == [{"step": 1, "value": 0.5, "loss": 0.5}]
    assert done["failure"] is None
    assert failed["values"] is None
    assert failed["failure"] == {"kind": "error", "message": "boom", "traceback": "File 'toy.py', line 3"}


def test_the_columns_of_the_list_are_aligned(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    records = [engine.declare(spec(name)) for name in ("a", "a-longer-name")]
    complete(engine, records[1], 0.123456789)
    bests = {record.id: next(iter(engine.best_trials(record)), None) for record in records}
    study_table(records, engine.counts(records), bests)
    head, first, second = capsys.readouterr().out.splitlines()
    at = head.index("STATE")
    assert first[at:].startswith("open")
    assert second[at:].startswith("open")
    assert first.endswith("-")
    assert second.endswith("score 0.1235")
    assert "1/10" in second


def test_control_codes_of_users_never_reach_the_terminal(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.5)
    fail(engine, record, HOSTILE)
    print_study(engine, record, engine.counts([record])[record.id])
    print_trial(engine, record, engine.trial(record, 1))
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "red next" in said


def test_a_studys_page_says_how_far_it_is_and_what_failed(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.5)
    complete(engine, record, 0.75)
    fail(engine, record, "boom")
    print_study(engine, record, engine.counts([record])[record.id])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "study toy: open"
    assert lines[1] == "trials: 3 of 10 done (2 complete, 1 failed)"
    assert "  x: Float(0.0, 1.0)" in lines
    best = lines[lines.index("best:") + 1 :]
    assert best[0].split() == ["TRIAL", "SCORE", "TIME", "PARAMETERS"]
    assert [line.split()[:2] for line in best[1:3]] == [["1", "0.7500"], ["0", "0.5000"]]
    assert lines[-1] == "trial 2 failed (error): boom"


def test_a_stopped_study_says_why(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    record = engine.declare(spec())
    engine.stop("toy")
    print_study(engine, engine.study("toy"), engine.counts([record])[record.id])
    assert capsys.readouterr().out.startswith("study toy: stopped (stopped by the user)\n")
