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
from automl.report import (
    plain,
    print_study,
    print_trial,
    print_why,
    study_json,
    study_table,
    trial_json,
    why_json,
)
from tests.unit.searches import complete, fail, give_reason, spec

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


def test_a_studys_page_shows_the_forecast_and_marks_what_violates_constraints(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.9, constraints={"ms": 2.0, "mb": -1.0})
    complete(engine, record, 0.5, constraints={"ms": -2.0, "mb": -1.0})
    give_reason(engine, record, 1, {"forecast": {"trials": 20, "gain": 0.2, "sd": 0.1}})
    print_study(engine, record, engine.counts([record])[record.id])
    lines = capsys.readouterr().out.splitlines()
    assert "forecast: 20 more trials: +0.2 ± 0.1" in lines
    best = lines[lines.index("best:") + 2 :]
    assert [line.split()[0] for line in best] == ["1", "0"]
    assert best[1].endswith("violates ms") and "violates" not in best[0]
    shown = study_json(record, engine.counts([record])[record.id], engine.trial(record, 0))
    assert shown["best"]["violated"] == ["ms"]
    print_trial(engine, record, engine.trial(record, 0))
    said = capsys.readouterr().out
    assert "constraint ms: violated (2, at most 0 where it is kept)" in said
    assert "constraint mb: kept (-1, at most 0 where it is kept)" in said
    assert trial_json(engine, record, engine.trial(record, 0))["constraints"] == {"ms": 2.0, "mb": -1.0}


WHY = {
    "arm": "model",
    "model_rows": 30,
    "mean": 0.9713,
    "sd": 0.004,
    "acquisition": -4.213,
    "best": 0.9701,
    "feasible": 0.93,
    "ms": 17.21,
    "theta": [0.1, 0.2],
    "sources": {"digits-old": 0.625, "\x1b[31mother": 0.1},
    "forecast": {"trials": 20, "gain": 0.2, "sd": 0.1, "p_margin": 0.03},
}


def test_the_reason_of_a_suggestion_is_told_beside_what_came(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.9793)
    give_reason(engine, record, 0, WHY)
    trial = engine.trial(record, 0)
    assert why_json(record, trial) == {"number": 0, "state": "complete", "values": [0.9793], "why": WHY}
    print_why(record, trial)
    told = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert told == [
        "why trial 0 of toy:",
        "arm model",
        "model 30 results",
        "predicted score 0.9713 ± 0.004",
        "score that came 0.9793, 2.0 sd above",
        "best by then 0.9701",
        "chance to keep the constraints 0.93",
        "log of what it was worth -4.213",
        "learnt from digits-old 0.62, other 0.10",
        "forecast 20 more trials: +0.2 ± 0.1",
        "took 17.2 ms",
    ]


@pytest.mark.parametrize(
    "why", [{"arm": "design"}, {"mean": 0.5, "sd": 0.0}, {"mean": None, "sd": math.inf}, {"ms": 1}]
)
def test_a_reason_that_is_not_there_is_not_told(
    engine: Engine, capsys: pytest.CaptureFixture[str], why: dict[str, object]
) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.5)
    give_reason(engine, record, 0, {"arm": "design", **why})
    print_why(record, engine.trial(record, 0))
    said = capsys.readouterr().out
    assert "design" in said and "None" not in said
    assert ("predicted" in said) == ("mean" in why and why["mean"] is not None)
    assert " sd " not in said
    json.dumps(plain(why_json(record, engine.trial(record, 0))), allow_nan=False)


def test_a_trial_without_a_reason_says_so_plainly(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.5)
    print_why(record, engine.trial(record, 0))
    program = optuna.create_study(study_name="theirs", storage=engine.optuna)
    program.optimize(lambda trial: 1.0, n_trials=1)
    theirs = engine.study("theirs")
    print_why(theirs, engine.trial(theirs, 0))
    assert capsys.readouterr().out.splitlines() == [
        "trial 0 of toy has no reason: only sampler 'auto' leaves one, this study's is 'random'",
        "trial 0 of theirs has no reason: only sampler 'auto' leaves one, an Optuna program made this study",
    ]
    assert why_json(record, engine.trial(record, 0))["why"] is None


def test_a_stopped_study_says_why(engine: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    record = engine.declare(spec())
    engine.stop("toy")
    print_study(engine, engine.study("toy"), engine.counts([record])[record.id])
    assert capsys.readouterr().out.startswith("study toy: stopped (stopped by the user)\n")
