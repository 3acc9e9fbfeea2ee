"""Where a study's code comes from, and how a template loads it.

A *declared study* is anything with `.spec` (a `StudySpec`) and `.train` (the training function), and optionally
`.evaluate` (the function of its confirmation), `.sampler_object` and `.pruner_object` (Optuna objects): `automl.Study`
belongs to a layer above this one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import os
import pickle
import re
import shlex
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from automl.declaration import Budget, Direction, StudySpec
from automl.errors import AutoMLError, InvalidInput, InvalidStudy, StudyFailed
from automl.storage.artifacts import file_sha256
from automl.trainers.failures import one_line, user_traceback

_DIRECTIONS: Mapping[str, Direction] = {"minimize": "min", "maximize": "max", "min": "min", "max": "max"}
_loading: ContextVar[bool] = ContextVar("automl_loading", default=False)


@dataclass(frozen=True)
class FileSource:
    """`automl run FILE[:NAME]`. `direction` and `trials` are for a plain Optuna objective."""

    path: str
    name: str | None = None
    direction: str | None = None  #: minimize | maximize
    trials: int | None = None  #: a Study has a budget of its own

    @property
    def entrypoint(self) -> str:
        """What one would type after `automl run`; the inverse of `from_entrypoint`."""
        words = [f"{self.path}:{self.name}" if self.name else self.path]
        words += ["--direction", self.direction] if self.direction else []
        words += ["--trials", str(self.trials)] if self.direction and self.trials else []
        return shlex.join(words)

    @classmethod
    def from_entrypoint(cls, text: str) -> FileSource:
        target, *options = shlex.split(text)
        path, _, name = target.partition(":")
        given = dict(zip(options[::2], options[1::2], strict=True))
        trials = int(given["--trials"]) if "--trials" in given else None
        return cls(path, name or None, given.get("--direction"), trials)


@dataclass(frozen=True)
class PickledSource:
    """A study of a script or notebook that is running, as `pickle_source` wrote it down."""

    path: str


Source = FileSource | PickledSource


@dataclass(frozen=True)
class Declared:
    """A declared study that is not the user's own object."""

    spec: StudySpec
    train: Callable[[Any], Any]
    sampler_object: Any = None
    pruner_object: Any = None
    evaluate: Callable[[Any], Any] | None = None


def source_to_json(source: Source) -> dict[str, Any]:
    return {"kind": type(source).__name__} | asdict(source)


def source_from_json(data: Mapping[str, Any]) -> Source:
    kinds: dict[str, type[FileSource] | type[PickledSource]] = {
        "FileSource": FileSource,
        "PickledSource": PickledSource,
    }
    return kinds[data["kind"]](**{key: value for key, value in data.items() if key != "kind"})


def code_sha256(path: str | Path) -> str:
    """sha256 of a study file, 64 hex digits. Raises `InvalidStudy` when there is no such file."""
    return file_sha256(_existing(path))


def is_loading() -> bool:
    """Whether this code runs because its file is being loaded: then nothing may start a search."""
    return _loading.get()


def pickle_source(declared: Any, directory: Path) -> PickledSource:
    """Write a declared study to a new file in `directory` that only this user can read.

    Functions of scripts and notebooks go into it by value; those of importable modules are imported again,
    along the same `sys.path` and from the same working directory.

    Raises:
        InvalidStudy: the training function holds on to something that cannot be pickled.
    """
    import cloudpickle

    optional = ("sampler_object", "pruner_object", "evaluate")
    code = (declared.train, *(getattr(declared, name, None) for name in optional))
    try:
        pickled = cloudpickle.dumps(code)
    except Exception as error:
        cure = "create such things inside the training function, or put the study into a file and `automl run` it"
        raise InvalidStudy(f"train: it cannot be sent to a worker ({one_line(error)}); {cure}", "train") from error
    travels = {"cwd": os.getcwd(), "sys_path": list(sys.path), "spec": declared.spec.to_json(), "code": pickled}  # noqa: PTH109
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{re.sub(r'[^A-Za-z0-9_-]', '_', declared.spec.name)[:40]}-{uuid.uuid4().hex}.pkl"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pickle.dumps(travels))
    return PickledSource(str(path))


def load(source: Source) -> Any:
    """The declared study of a source; this runs the user's module, so only a template calls it.

    Raises:
        InvalidStudy: there is no such file or study, there are several, or a declaration in it is wrong.
        StudyFailed: the file raised; `traceback` shows where.
    """
    token = _loading.set(True)
    try:
        return _load_file(source) if isinstance(source, FileSource) else _load_pickle(source)
    finally:
        _loading.reset(token)


def _load_pickle(source: PickledSource) -> Declared:
    travels = pickle.loads(_existing(source.path).read_bytes())  # written by the same user, mode 0600
    sys.path[:] = [*travels["sys_path"], *(entry for entry in sys.path if entry not in travels["sys_path"])]
    with contextlib.suppress(FileNotFoundError):
        os.chdir(travels["cwd"])
    with _blaming("the study"):
        code = pickle.loads(travels["code"])
    return Declared(StudySpec.from_json(travels["spec"]), *code)


def _load_file(source: FileSource) -> Any:
    path = _existing(source.path)
    module = _import(path)
    studies = _studies_of(module)
    if source.name is not None:
        found = _named(source, module, studies)
    elif len(studies) == 1:
        found = next(iter(studies.values()))
    elif studies:
        names = ", ".join(studies)
        raise InvalidStudy(f"{path} holds {len(studies)} studies ({names}); say which one: {path}:NAME", "name")
    elif inspect.isfunction(found := getattr(module, "objective", None)):
        pass
    else:
        raise InvalidStudy(f"{path} holds no study; {_what_there_is(module)}", "name")
    if inspect.isfunction(found):
        return _wrapped(found, source)
    if source.direction is not None:
        problem = f"{found.spec.name!r} is a Study, which names its metrics itself"
        raise InvalidStudy(f"{problem}; drop --direction", "direction")
    return found


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise InvalidStudy(f"{path}: there is no such file; give the path of a Python file", field="path")
    return Path(path).resolve()


def _import(path: Path) -> ModuleType:
    # Found again by pickle, dataclasses and torch under its name; a file called like a module that is in use
    # must not replace that one. Never `__main__`: the file's own `if __name__ == "__main__"` is not meant for us.
    name = path.stem if path.stem not in sys.modules else f"study_{path.stem}"
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidStudy(f"{path} is no Python file; give one that ends in .py", field="path")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _blaming(str(path)):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _blaming(where: str) -> Iterator[None]:
    """Say in one line where the user's code went wrong. A wrong declaration needs no traceback, the rest does."""
    try:
        yield
    except AutoMLError as error:
        field = error.field if isinstance(error, InvalidInput) else None
        raise InvalidStudy(f"{_place(where, error)}: {error}", field) from error
    except BaseException as error:  # sys.exit() in a file is its failure, not our end
        raise StudyFailed(f"{_place(where, error)}: {one_line(error)}", user_traceback(error)) from error


def _place(where: str, error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    line, entry = None, error.__traceback__
    while entry is not None:
        if entry.tb_frame.f_code.co_filename == where:
            line = entry.tb_lineno
        entry = entry.tb_next
    return where if line is None else f"{where}, line {line}"


def _studies_of(module: ModuleType) -> dict[str, Any]:
    """The declared studies of a module by variable name, each once."""
    found: dict[str, Any] = {}
    for name, value in vars(module).items():
        if _is_study(value) and not any(value is other for other in found.values()):
            found[name] = value
    return found


def _is_study(value: Any) -> bool:
    if isinstance(value, type):  # a class may well have both attributes; its instances are the studies
        return False
    return isinstance(getattr(value, "spec", None), StudySpec) and callable(getattr(value, "train", None))


def _named(source: FileSource, module: ModuleType, studies: Mapping[str, Any]) -> Any:
    value = getattr(module, source.name or "", None)
    if any(value is study for study in studies.values()) or inspect.isfunction(value):
        return value
    for study in studies.values():
        if study.spec.name == source.name:
            return study
    problem = f"{source.name!r} is not there" if value is None else f"{source.name!r} is a {type(value).__name__}"
    raise InvalidStudy(f"{source.path}: {problem}, where a Study is needed; {_what_there_is(module)}", "name")


def _what_there_is(module: ModuleType) -> str:
    studies = list(_studies_of(module))
    functions = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__
    ]
    if studies:
        return f"it has the studies {', '.join(studies)}"
    if functions:
        objectives = f"FILE:NAME --direction minimize|maximize --trials N with one of {', '.join(functions)}"
        return f"make a Study(...) in it, or name an Optuna objective as {objectives}"
    return "make a Study(...) in it"


def _wrapped(objective: Callable[[Any], Any], source: FileSource) -> Declared:
    stem = Path(source.path).stem
    called = f"{objective.__name__}() in {source.path} is a plain objective"
    if source.direction is None:
        raise InvalidStudy(f"{called}: say --direction minimize or --direction maximize", "direction")
    if source.direction not in _DIRECTIONS:
        raise InvalidStudy(f"--direction: {source.direction!r}; say minimize or maximize", "direction")
    if source.trials is None:
        raise InvalidStudy(f"{called}: say how many trials, as in --trials 100", "trials")
    name = stem if objective.__name__ == "objective" else f"{stem}-{objective.__name__}"
    metrics = {"value": _DIRECTIONS[source.direction]}
    return Declared(StudySpec(name=name, space=None, metrics=metrics, budget=Budget(trials=source.trials)), objective)
