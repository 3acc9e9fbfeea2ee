"""Studies in and out: CSV, Optuna databases, the best model's files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from automl import transfer
from automl.core import Artifact, StudyRecord
from automl.engine import Engine, connect
from automl.errors import ArtifactCorrupt, InvalidInput, NotFound
from tests.unit.searches import complete, fail, spec


@pytest.fixture
def engine(sqlite_url: str, artifacts: Path) -> Iterator[Engine]:
    opened = connect(sqlite_url, artifacts)
    yield opened
    opened.close()


def stored(engine: Engine, folder: Path, text: str, name: str = "model.safetensors") -> Artifact:
    (folder / name).write_text(text)
    return engine.artifacts.put(folder / name)


def with_models(engine: Engine, folder: Path, name: str = "toy") -> StudyRecord:
    """A study with three trials, of which the second is the best; each has a model."""
    record = engine.declare(spec(name))
    for value in (0.1, 0.9, 0.5):
        complete(engine, record, value, artifacts=[stored(engine, folder, f"weights of {value}")])
    return record


def test_no_text_cell_of_a_csv_is_a_formula_and_numbers_stay_numbers(
    engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    record = engine.declare(spec(metrics={"=score": "max"}))
    complete(engine, record, -0.5)
    for message in ("=1+1", "+1", "-1", "@x", "\tx", "\rx", "plain, with a comma\nand a line"):
        fail(engine, record, message)
    transfer.write_csv(engine, record, "-")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    assert rows[0]["'=score"] == "-0.5"
    failures = [row["failure"] for row in rows[1:]]
    assert failures == ["'=1+1", "'+1", "'-1", "'@x", "'\tx", "'\rx", "plain, with a comma\nand a line"]
    assert not any(row["params.kind"].startswith("=") for row in rows)


def test_a_csv_of_a_study_without_trials_has_a_head(engine: Engine, tmp_path: Path) -> None:
    transfer.write_csv(engine, engine.declare(spec()), str(tmp_path / "empty.csv"))
    assert (tmp_path / "empty.csv").read_text().split() == ["number"]


def test_a_csv_that_cannot_be_written_names_the_file(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"absent/x\.csv") as caught:
        transfer.write_csv(engine, engine.declare(spec()), str(tmp_path / "absent" / "x.csv"))
    assert caught.value.field == "csv"


def test_a_study_goes_to_optuna_and_comes_back(engine: Engine, tmp_path: Path) -> None:
    record = with_models(engine, tmp_path)
    fail(engine, record, "boom")
    url = f"sqlite:///{tmp_path}/there.db"
    assert transfer.to_optuna(engine, record, url) == 4
    with pytest.raises(InvalidInput, match=r"there\.db has one of that name already"):
        transfer.to_optuna(engine, record, url)
    with pytest.raises(InvalidInput, match=r"automl\.db has one of that name already"):
        transfer.from_optuna(engine, url, "toy")
    other = connect(f"sqlite:///{tmp_path}/other.db", tmp_path)
    assert transfer.from_optuna(other, url, "toy") == 4
    first, second = (e.trials(e.study("toy")) for e in (engine, other))
    assert [(t.number, t.state, t.values, dict(t.params)) for t in first] == [
        (t.number, t.state, t.values, dict(t.params)) for t in second
    ]
    other.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nonsense", "nonsense cannot be used"),
        ("sqlite:////dev/null/absent.db", "no file /dev/null/absent.db"),
        ("postgresql://me:secret@127.0.0.1:1/x", "refused"),
    ],
)
def test_an_optuna_database_that_cannot_be_read_is_named(engine: Engine, url: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as caught:
        transfer.from_optuna(engine, url, "toy")
    assert caught.value.field == "optuna"
    assert "secret" not in str(caught.value)
    assert engine.studies() == []


def test_a_study_that_is_not_in_the_optuna_database_is_not_found(engine: Engine, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/there.db"
    optuna.storages.RDBStorage(url).engine.dispose()
    with pytest.raises(NotFound, match="none of that name"):
        transfer.from_optuna(engine, url, "toy")
    assert engine.studies() == []


def test_optunas_loudness_is_what_it_was(engine: Engine, tmp_path: Path) -> None:
    before = optuna.logging.get_verbosity()
    transfer.to_optuna(engine, with_models(engine, tmp_path), f"sqlite:///{tmp_path}/there.db")
    assert optuna.logging.get_verbosity() == before


def test_the_best_model_is_copied_as_it_was_stored(engine: Engine, tmp_path: Path) -> None:
    record = with_models(engine, tmp_path)
    (path,) = transfer.copy_best_model(engine, record, tmp_path / "a" / "best")
    assert path == tmp_path / "a" / "best" / "model.safetensors"
    assert path.read_text() == "weights of 0.9"


def test_a_model_that_was_changed_is_not_copied(engine: Engine, tmp_path: Path) -> None:
    record = with_models(engine, tmp_path)
    (file,) = engine.trial(record, 1).artifacts
    engine.artifacts.path(file).write_text("weights of somebody else")
    with pytest.raises(ArtifactCorrupt, match="sha256"):
        transfer.copy_best_model(engine, record, tmp_path / "best")


def test_without_a_saved_model_there_is_none_to_copy(engine: Engine, tmp_path: Path) -> None:
    record = engine.declare(spec())
    complete(engine, record, 0.5)
    with pytest.raises(NotFound, match="save_model"):
        transfer.copy_best_model(engine, record, tmp_path / "best")
    assert transfer.show_best_model(engine, record) == []
    assert not (tmp_path / "best").exists()


def test_a_folder_that_cannot_be_made_is_named(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="/dev/null/best"):
        transfer.copy_best_model(engine, with_models(engine, tmp_path), Path("/dev/null/best"))


def test_the_shown_model_follows_the_best_trial(engine: Engine, tmp_path: Path) -> None:
    record = with_models(engine, tmp_path)
    (path,) = transfer.show_best_model(engine, record)
    assert path == engine.artifacts.root / "best" / "toy" / "model.safetensors"
    assert path.read_text() == "weights of 0.9"
    complete(engine, record, 0.99, artifacts=[stored(engine, tmp_path, "better", "other.bin")])
    (path,) = transfer.show_best_model(engine, record)
    assert [file.name for file in path.parent.iterdir()] == ["other.bin"]


def test_a_model_that_lies_on_another_machine_is_not_shown(engine: Engine, tmp_path: Path) -> None:
    record = with_models(engine, tmp_path)
    (file,) = engine.trial(record, 1).artifacts
    engine.artifacts.path(file).unlink()
    assert transfer.show_best_model(engine, record) == []
