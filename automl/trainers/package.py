"""The code of a study as it travels: its file and the modules beside it that it imports, as names and texts.

A package is JSON text, `{"environment": {...}, "files": {relative name: text}, "main": name}` in its one canonical
form, and is known by the sha256 of that text. Running a package runs the submitter's code: workers take one only when
they were started to.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from automl.errors import InvalidStudy
from automl.team import Package

MAX_FILES = 200
MAX_FILE_BYTES = 1 << 20
MAX_BYTES = 4 << 20
MAX_NAME_LENGTH = 200

#: A part of a name that means the same on every system: no dots at its ends, no drives, no letters that have twins.
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_. -]*[A-Za-z0-9_-])?")


# -- packing --------------------------------------------------------------------------------------------------------


def pack(path: str | Path, environment: Mapping[str, str] | None = None) -> Package:
    """The study file at `path`, and what it imports of the modules in its folder, and what these import in turn.

    Imports are found by reading the files; nothing is run. What a module imports by a name that it makes up while it
    runs is not found, and neither are files that are no Python.

    Raises:
        InvalidStudy: a file is no UTF-8 text, is no Python, lies outside of the folder, or there is too much.
    """
    main = Path(path).absolute()
    folder = main.parent
    texts: dict[str, str] = {}
    waiting = [main]
    while waiting:
        file = waiting.pop()
        name = file.relative_to(folder).as_posix()
        if name in texts:
            continue
        texts[name] = _read(file, folder)
        if len(texts) > MAX_FILES:
            cure = "import less, or install what it needs on the workers"
            raise InvalidStudy(f"package: {main} imports more than {MAX_FILES} files beside it; {cure}", "package")
        for module in _imported(file, folder, texts[name]):
            waiting += _files_of(module, folder)
    package = Package(dict(sorted(texts.items())), main.name, dict(environment or {}))
    check(package)
    return package


def _read(file: Path, folder: Path) -> str:
    real = file.resolve()
    if not real.is_relative_to(folder.resolve()):
        raise InvalidStudy(f"package: {file} is a link out of the study's folder; put the file itself there", "package")
    try:
        return real.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise InvalidStudy(f"package: {file} is no UTF-8 text; save it as UTF-8", "package") from error
    except OSError as error:
        raise InvalidStudy(f"package: {file} cannot be read ({error.strerror})", "package") from error


def _imported(file: Path, folder: Path, text: str) -> Iterator[str]:
    """Dotted names of all that a file may import, seen from the folder."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise InvalidStudy(f"package: {file} is no Python ({error})", "package") from error
    here = file.relative_to(folder).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - 1
            if up > len(here):
                continue  # beyond the folder: it would not work there either
            base = [*here[: len(here) - up]] if node.level else []
            base += node.module.split(".") if node.module else []
            if base:
                yield ".".join(base)
            yield from (".".join([*base, alias.name]) for alias in node.names)


def _files_of(module: str, folder: Path) -> Iterator[Path]:
    """The files in `folder` that importing a module runs; none where it is installed elsewhere."""
    place = folder
    for part in module.split("."):
        place = place / part
        package, file = place / "__init__.py", place.with_name(f"{part}.py")
        if package.is_file():
            yield package
        elif file.is_file():
            yield file
            return
        elif not place.is_dir():
            return


# -- as text --------------------------------------------------------------------------------------------------------


def to_text(package: Package) -> str:
    """The canonical JSON of a package."""
    body = {"environment": dict(package.environment), "files": dict(package.files), "main": package.main}
    return json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(text: str) -> str:
    """What a package is known by, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def from_text(text: str) -> Package:
    """The inverse of `to_text`. Raises `InvalidStudy` for anything else."""
    try:
        body = json.loads(text)
        text.encode()
    except (ValueError, RecursionError) as error:
        raise InvalidStudy("package: it is no JSON", "package") from error
    if not isinstance(body, dict) or body.keys() != {"environment", "files", "main"}:
        raise InvalidStudy("package: give an object of environment, files and main", "package")
    files, main, environment = body["files"], body["main"], body["environment"]
    if not _all_text(files) or not _all_text(environment) or not isinstance(main, str):
        raise InvalidStudy("package: files and environment are objects of texts, main is a text", "package")
    package = Package(files, main, environment)
    check(package)
    if to_text(package) != text:
        cure = "sort its keys, leave out spaces, and write each character as itself"
        raise InvalidStudy(f"package: it is not in its canonical form; {cure}", "package")
    return package


def check(package: Package) -> None:
    """Raises `InvalidStudy` for a package that could not be written down safely on any system."""
    if package.main not in package.files:
        raise InvalidStudy(f"package: its main file {package.main!r} is not in it", "package")
    if len(package.files) > MAX_FILES:
        raise InvalidStudy(f"package: {len(package.files)} files; at most {MAX_FILES}", "package")
    total, seen = 0, set[str]()
    for name, text in package.files.items():
        _check_name(name)
        if name.casefold() in seen:
            raise InvalidStudy(f"package: {name!r} is there twice but for its case; rename one", "package")
        seen.add(name.casefold())
        size = len(text.encode(errors="surrogatepass"))
        total += size
        if size > MAX_FILE_BYTES or total > MAX_BYTES:
            limits = f"at most {MAX_FILE_BYTES >> 20} MiB a file and {MAX_BYTES >> 20} MiB in all"
            cure = "keep data elsewhere, and install large modules on the workers"
            raise InvalidStudy(f"package: {name!r} is too much, {limits}; {cure}", "package")
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise InvalidStudy(f"package: {name!r} is no text", "package")
    for name in package.files:
        for parent in PurePosixPath(name.casefold()).parents:
            if str(parent) in seen:
                raise InvalidStudy(f"package: {str(parent)!r} is a file and a folder; rename one", "package")


def _check_name(name: str) -> None:
    parts = name.split("/")
    plain = len(name) <= MAX_NAME_LENGTH and all(_PART.fullmatch(part) for part in parts)
    if not plain or not name.endswith(".py"):
        cure = "name modules with a-z, A-Z, 0-9, _ and -, and let them end in .py"
        raise InvalidStudy(f"package: {name[:MAX_NAME_LENGTH]!r} is no name of a file in it; {cure}", "package")


def _all_text(mapping: Any) -> bool:
    return isinstance(mapping, dict) and all(isinstance(value, str) for value in mapping.values())


# -- unpacking ------------------------------------------------------------------------------------------------------


def unpack(package: Package, root: Path) -> Path:
    """Write a package to `<root>/<its sha256>/`, whole or not at all; where its main file is.

    One that is there already is used, unless somebody has changed it. Raises `InvalidStudy`, `OSError`.
    """
    check(package)
    folder = root / digest(to_text(package))
    if not _is_there(package, folder):
        root.mkdir(parents=True, exist_ok=True)
        temporary = root / f".incoming-{uuid.uuid4().hex}"
        try:
            for name, text in package.files.items():
                file = temporary / name
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("xb") as written:
                    written.write(text.encode())
            _move(temporary, folder, package)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder / package.main


def _is_there(package: Package, folder: Path) -> bool:
    try:
        return all((folder / name).read_bytes() == text.encode() for name, text in package.files.items())
    except OSError:
        return False


def _move(temporary: Path, folder: Path, package: Package) -> None:
    """Put a finished folder in its place; another worker may do the same in this moment."""
    aside = folder.with_name(f".outgoing-{uuid.uuid4().hex}")
    if folder.exists():
        os.replace(folder, aside)  # noqa: PTH105  (of folders)
        shutil.rmtree(aside, ignore_errors=True)
    try:
        os.rename(temporary, folder)  # noqa: PTH104
    except OSError:
        if not _is_there(package, folder):
            raise
