"""Studies in and out: CSV, Optuna databases, the best model's files."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from automl.core import Artifact, StudyRecord
from automl.engine import Engine
from automl.errors import InvalidInput, NotFound
from automl.result import trial_row

#: A cell that starts like this is a formula to a spreadsheet.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def write_csv(engine: Engine, record: StudyRecord, target: str) -> None:
    """All trials but invalid ones, one row each, to a file or, for "-", to standard output.

    Text cells can not become formulas.
    """
    rows = [trial_row(record, trial) for trial in engine.trials(record) if trial.invalid is None]
    columns = list(dict.fromkeys(column for row in rows for column in row)) or ["number"]
    if target == "-":
        write_rows(sys.stdout, columns, rows)
        return
    try:
        with Path(target).open("w", newline="", encoding="utf-8") as file:
            write_rows(file, columns, rows)
        print(f"{len(rows)} trials of {record.name} are in {target}")
    except OSError as error:
        raise InvalidInput(f"--csv: {target} cannot be written ({error.strerror})", field="csv") from error


def write_rows(file: Any, columns: list[str], rows: Iterable[dict[str, Any]]) -> None:
    """Rows as CSV into an open text file. Text cells can not become formulas."""
    writer = csv.DictWriter(file, columns, restval="")
    writer.writerow({column: _harmless(column) for column in columns})
    for row in rows:
        writer.writerow({column: _harmless(value) for column, value in row.items()})


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA_STARTS) else cell


def to_optuna(engine: Engine, record: StudyRecord, url: str) -> int:
    """Copy a study into an Optuna database; how many trials. Raises `InvalidInput` when the name is taken there."""
    import optuna

    with _optuna_errors(url, target=url):
        optuna.copy_study(
            from_study_name=record.name,
            from_storage=engine.optuna,
            to_storage=optuna.storages.RDBStorage(_driven(url)),
        )
    return engine.counts([record])[record.id]["total"]


def from_optuna(engine: Engine, url: str, name: str) -> int:
    """Copy a study from an Optuna database; how many trials. Raises `InvalidInput`, `NotFound`."""
    import optuna

    target = engine.optuna  # before the other database is touched: a service has none
    with _optuna_errors(url, target=str(engine)):
        source = optuna.storages.RDBStorage(_driven(url, existing=True))
        optuna.copy_study(from_study_name=name, from_storage=source, to_storage=target)
    record = engine.study(name)
    return engine.counts([record])[record.id]["total"]


def _driven(url: str, *, existing: bool = False) -> str:
    """`url` with the PostgreSQL driver that is installed. Raises `InvalidInput` for a SQLite file that is missing."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg2")
    elif existing and parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
        raise InvalidInput(f"--optuna: there is no file {parsed.database}; correct the URL", field="optuna")
    return parsed.render_as_string(hide_password=False)


def _without_password(url: str) -> str:
    try:
        return sa.make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        return url


class _optuna_errors:  # noqa: N801  (a context manager)
    """Optuna's ways to fail, as ours."""

    def __init__(self, url: str, target: str):
        """`target` is where the copy goes."""
        self._url = _without_password(url)
        self._target = _without_password(target)

    def __enter__(self) -> None:
        import optuna

        self._verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        import optuna

        optuna.logging.set_verbosity(self._verbosity)
        if isinstance(error, optuna.exceptions.DuplicatedStudyError):
            cure = "use another database, or delete that study first"
            raise InvalidInput(f"study: {self._target} has one of that name already; {cure}", "study") from error
        if isinstance(error, KeyError):
            raise NotFound(f"study: {self._url} has none of that name", field="study") from error
        if isinstance(error, sa.exc.SQLAlchemyError | ImportError | RuntimeError):
            reason = " ".join(str(error).split())[:200]
            cure = "give a URL as in sqlite:///study.db"
            raise InvalidInput(f"--optuna: {self._url} cannot be used ({reason}); {cure}", field="optuna") from error


def show_best_model(engine: Engine, record: StudyRecord) -> list[Path]:
    """Put the best trial's files under `<artifacts>/best/<study>/`, by name; where they are, [] when there are none.

    The store keeps files by their sha256; these are copies for people, made anew each time. (Not links: whoever edits
    one must not change the store.)
    """
    folder = engine.artifacts.root / "best" / record.name
    shutil.rmtree(folder, ignore_errors=True)
    paths = []
    for item in _best_files(engine, record):
        if not engine.artifacts.path(item).is_file():
            continue  # it is on the machine that trained it
        folder.mkdir(parents=True, exist_ok=True)
        paths.append(Path(shutil.copyfile(engine.artifacts.path(item), folder / item.name)))
    return paths


def copy_best_model(engine: Engine, record: StudyRecord, folder: Path) -> list[Path]:
    """Copy the best trial's files, checked against their sha256. Raises `NotFound`, `ArtifactCorrupt`."""
    files = _best_files(engine, record)
    if not files:
        raise NotFound(f"the best trial of {record.name!r} has saved no files; call trial.save_model in it", "model")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copyfile(engine.artifacts.verify(item), folder / item.name)) for item in files]
    except OSError as error:
        raise InvalidInput(f"--model: {folder} cannot be written ({error.strerror})", field="model") from error


def _best_files(engine: Engine, record: StudyRecord) -> tuple[Artifact, ...]:
    best = engine.best_trials(record, 1)
    return engine.trial(record, best[0].number).artifacts if best else ()
