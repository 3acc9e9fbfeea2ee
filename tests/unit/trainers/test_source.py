"""Finding the study in a file, or in a pickle."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from automl.declaration import Budget, Float, Space, StudySpec
from automl.errors import InvalidStudy, StudyFailed
from automl.trainers import source as source_module
from automl.trainers.source import (
    Declared,
    FileSource,
    PickledSource,
    code_sha256,
    load,
    pickle_source,
    source_from_json,
    source_to_json,
)

StudyFile = Callable[..., Path]


@pytest.fixture(autouse=True)
def _imports_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not name.startswith(("automl.", "optuna", "cloudpickle")):
            del sys.modules[name]


OBJECTIVE = "def objective(trial):\n    return trial.suggest_float('x', 0, 1)\n"


def test_the_only_study_needs_no_name(study_file: StudyFile) -> None:
    declared = load(FileSource(str(study_file("def train(trial): return 1.0"))))
    assert declared.spec.name == "test" and declared.train(None) == 1.0


@pytest.mark.parametrize("name", ["study", "test"])
def test_a_study_is_found_by_variable_and_by_its_own_name(study_file: StudyFile, name: str) -> None:
    path = study_file("def train(trial): return 1.0")
    assert load(FileSource(str(path), name)).spec.name == "test"


def test_two_names_of_one_study_are_one_study(study_file: StudyFile) -> None:
    path = study_file("def train(trial): return 1.0\nalias = other = study_of(train)\n", study=True)
    path.write_text(path.read_text().replace("\nstudy = study_of(train)", "\nstudy = alias"))
    assert load(FileSource(str(path))).spec.name == "test"


def test_the_module_is_importable_and_its_main_guard_does_not_run(study_file: StudyFile) -> None:
    path = study_file(
        """
        import dataclasses, pickle
        @dataclasses.dataclass
        class Config:
            width: int = 3
        assert pickle.loads(pickle.dumps(Config())) == Config()
        from beside import VALUE
        if __name__ == "__main__":
            raise SystemExit("the guard ran")
        def train(trial): return VALUE
        """,
        name="my_digits.py",
    )
    (path.parent / "beside.py").write_text("VALUE = 4.0")
    assert load(FileSource(str(path))).train(None) == 4.0
    assert sys.modules["my_digits"].__file__ == str(path)


def test_a_file_that_is_called_like_a_module_in_use_replaces_nothing(study_file: StudyFile) -> None:
    path = study_file("def train(trial): return 1.0", name="json.py")
    import json

    load(FileSource(str(path)))
    assert sys.modules["json"] is json


@pytest.mark.parametrize("direction", ["maximize", "max"])
def test_a_plain_objective_becomes_a_study(study_file: StudyFile, direction: str) -> None:
    path = study_file(OBJECTIVE, study=False)
    declared = load(FileSource(str(path), direction=direction, trials=5))
    assert declared.spec == StudySpec("some_study", None, {"value": "max"}, Budget(trials=5))
    named = load(FileSource(str(path), "objective", "minimize", 5))
    assert named.spec.name == "some_study" and named.spec.metrics == {"value": "min"}


def test_another_objective_gets_its_own_name(study_file: StudyFile) -> None:
    path = study_file(OBJECTIVE.replace("objective", "evaluate"), study=False)
    assert load(FileSource(str(path), "evaluate", "minimize", 5)).spec.name == "some_study-evaluate"


@pytest.mark.parametrize(
    ("code", "study", "source", "says"),
    [
        ("x = 1", False, {}, "holds no study; make a Study(...) in it"),
        ("def go(trial): ...", False, {}, "with one of go"),
        (OBJECTIVE, False, {}, "say --direction minimize or --direction maximize"),
        (OBJECTIVE, False, {"direction": "up", "trials": 1}, "--direction: 'up'; say minimize or maximize"),
        (OBJECTIVE, False, {"direction": "maximize"}, "--trials 100"),
        (OBJECTIVE, False, {"direction": "maximize", "trials": 0}, "budget.trials"),
        ("def train(t): ...\nother = study_of(train, name='b')", True, {}, "holds 2 studies (other, study)"),
        ("def train(t): ...", True, {"name": "digits"}, "'digits' is not there, where a Study is needed; it has"),
        ("def train(t): ...\nx = 3", True, {"name": "x"}, "'x' is a int"),
        ("def train(t): ...", True, {"direction": "maximize"}, "drop --direction"),
        ("def train(t): ...\nFloat(2, 1)", True, {}, "line 11: low: 2.0 is above high=1.0; swap them"),
    ],
)
def test_the_users_mistakes_are_named(
    study_file: StudyFile, code: str, study: bool, source: dict[str, object], says: str
) -> None:
    path = study_file(code, study=study)
    with pytest.raises(InvalidStudy) as caught:
        load(FileSource(str(path), **source))  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["nowhere.py", ""])
def test_a_file_that_is_not_there_is_named(path: str) -> None:
    with pytest.raises(InvalidStudy, match="no such file"):
        load(FileSource(path))
    with pytest.raises(InvalidStudy, match="no such file"):
        code_sha256(path)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import no_such_module", "line 2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def train(trial:", "line 2: SyntaxError"),
        ("1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("raise SystemExit(4)", "line 2: SystemExit: sys.exit(4) was called"),
        ("def inner():\n    raise KeyError('a')\ninner()", "line 3: KeyError: 'a'"),
    ],
)
def test_a_file_that_raises_is_blamed_with_its_line_and_traceback(study_file: StudyFile, code: str, says: str) -> None:
    path = study_file("# first line\n" + code, study=False)
    with pytest.raises(StudyFailed) as caught:
        load(FileSource(str(path)))
    assert str(caught.value).startswith(str(path)) and says in str(caught.value)
    assert "some_study.py" in caught.value.traceback and "importlib" not in caught.value.traceback


def test_code_can_tell_that_it_is_being_loaded(study_file: StudyFile) -> None:
    path = study_file(
        """
        from automl.trainers import source
        SEEN = source.is_loading()
        def train(trial): return (SEEN, source.is_loading())
        """
    )
    assert load(FileSource(str(path))).train(None) == (True, False)
    assert not source_module.is_loading()


def test_the_digest_is_that_of_the_file(study_file: StudyFile) -> None:
    path = study_file("def train(trial): return 1.0")
    before = code_sha256(path)
    assert code_sha256(str(path)) == before
    path.write_text(path.read_text() + "\n")
    assert code_sha256(path) != before


@pytest.mark.parametrize("source", [FileSource("a.py", "b", "maximize", 3), FileSource("a.py"), PickledSource("c")])
def test_sources_survive_json(source: FileSource | PickledSource) -> None:
    assert source_from_json(source_to_json(source)) == source


def test_the_entrypoint_names_file_and_study() -> None:
    assert FileSource("a.py", "b").entrypoint == "a.py:b"
    assert FileSource("a.py").entrypoint == "a.py"


SPEC = StudySpec("a b*c", Space({"x": Float(0, 1)}), {"score": "max"}, Budget(trials=1))


def test_a_study_of_a_script_travels_with_its_surroundings(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import os, sys
sys.path.append({str(tmp_path / "library")!r})
from pathlib import Path
from automl.declaration import *
from automl.trainers.source import Declared, pickle_source
factor = 3
def scale(x):
    return factor * x
def train(trial):
    import travelled
    return scale(travelled.VALUE), os.getcwd()
if __name__ == "__main__":
    spec = StudySpec("s", Space({{"x": Float(0, 1)}}), {{"score": "max"}}, Budget(trials=1))
    print(pickle_source(Declared(spec, train), Path({str(tmp_path)!r})).path)
"""
    )
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "travelled.py").write_text("VALUE = 5")
    environment = {"PYTHONPATH": str(Path(source_module.__file__).parents[2])}
    path = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout.strip()
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    code = (
        "import sys; from automl.trainers.source import *; declared = load(PickledSource(sys.argv[1])); "
        "print(declared.spec.name, declared.train(None))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, path], env=environment, capture_output=True, text=True, check=True, cwd="/"
    ).stdout
    assert out == f"s (15, '{tmp_path}')\n"


def test_a_study_that_cannot_be_pickled_is_refused(tmp_path: Path) -> None:
    import threading

    lock = threading.Lock()
    with pytest.raises(InvalidStudy, match=r"train: it cannot be sent to a worker .*lock"):
        pickle_source(Declared(SPEC, lambda trial: lock), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_name_of_a_study_is_no_path(tmp_path: Path) -> None:
    source = pickle_source(Declared(SPEC, lambda trial: 1.0), tmp_path / "new")
    assert Path(source.path).parent == tmp_path / "new"
    assert Path(source.path).name.startswith("a_b_c-")
