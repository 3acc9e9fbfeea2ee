"""Small requests over a connection that stays, before a server that answers what it was told to."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from automl.client import connection
from automl.client.connection import BadAnswer, Connections

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n42"


class Server:
    """Gives, on each connection, the answers of `script` in turn, and closes it after the last one."""

    def __init__(self) -> None:
        self.script: list[list[bytes]] = []  # of each connection
        self.heard: list[tuple[int, bytes]] = []  # connection, request
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/below"
        self.closed = threading.Event()  # one connection at least
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        index = 0
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            script = self.script[min(index, len(self.script) - 1)]
            threading.Thread(target=self._answer, args=(accepted, index, script), daemon=True).start()
            index += 1

    def _answer(self, accepted: socket.socket, index: int, script: list[bytes]) -> None:
        with accepted:
            for answer in script:
                if not (request := accepted.recv(65_536)):
                    break
                self.heard.append((index, request))
                accepted.sendall(answer)
        self.closed.set()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def connections(server: Server) -> Iterator[Connections]:
    opened = Connections(server.url)
    yield opened
    opened.close()


def test_requests_of_a_thread_share_a_connection(server: Server, connections: Connections) -> None:
    server.script = [[OK] * 3]
    for _ in range(3):
        answer = connections.ask("POST", "/x?y=1", {"Accept": "a/b"}, b"{}")
        assert (answer.status, answer.data, answer.header("content-type")) == (200, b"42", "application/json")
    host = server.url.split("/")[2]
    asked = f"POST /x?y=1 HTTP/1.1\r\nHost: {host}\r\nAccept: a/b\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    assert server.heard == [(0, asked)] * 3


def test_each_thread_has_its_own(server: Server, connections: Connections) -> None:
    server.script = [[OK] * 9]
    together = threading.Barrier(4)

    def ask(_: int) -> bytes:
        together.wait(10)
        return connections.ask("GET", "/", {}).data

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [b"42"] * 4
    assert {index for index, _ in server.heard} == {0, 1, 2, 3}


def test_a_connection_that_was_closed_meanwhile_is_no_trouble(server: Server, connections: Connections) -> None:
    server.script = [[OK], [OK]]
    assert connections.ask("GET", "/1", {}).data == b"42"
    assert server.closed.wait(10)
    assert connections.ask("GET", "/2", {}).data == b"42"
    assert [index for index, _ in server.heard] == [0, 1]


def test_a_new_connection_that_breaks_off_is_not_tried_for_ever(server: Server, connections: Connections) -> None:
    server.script = [[b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"]]
    with pytest.raises(ConnectionError, match="before the answer was here"):
        connections.ask("GET", "/", {})
    assert len(server.heard) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n4\r\n1\r\n2\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n" + OK,
        OK.replace(b"Content-Length", b"CONTENT-length"),
    ],
    ids=["chunked", "continue", "case"],
)
def test_what_proxies_make_of_an_answer_is_understood(server: Server, connections: Connections, answer: bytes) -> None:
    server.script = [[answer, OK]]
    assert connections.ask("GET", "/1", {}).data == b"42"
    assert connections.ask("GET", "/2", {}).data == b"42"
    assert [index for index, _ in server.heard] == [0, 0]


def test_a_connection_is_given_up_where_the_server_says_so(server: Server, connections: Connections) -> None:
    server.script = [[OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK], [OK]]
    for _ in range(2):
        assert connections.ask("GET", "/", {}).data == b"42"
    assert [index for index, _ in server.heard] == [0, 1]


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x15\x03\x01\x00\x02\x02P"])
def test_what_is_no_http_is_called_that(server: Server, connections: Connections, answer: bytes) -> None:
    server.script = [[answer]]
    with pytest.raises(BadAnswer, match="no HTTP"):
        connections.ask("GET", "/", {})


def test_a_server_that_says_nothing_is_not_waited_for_for_ever(
    server: Server, connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ANSWER_S", 0.2)
    server.script = [[b"", OK]]
    with pytest.raises(TimeoutError):
        connections.ask("GET", "/", {})


def test_a_forked_child_does_not_write_into_its_parents_connection(server: Server, connections: Connections) -> None:
    server.script = [[OK] * 9]
    connections.ask("GET", "/parent", {})
    child = os.fork()
    if child == 0:  # pragma: no cover
        os._exit(0 if connections.ask("GET", "/child", {}).data == b"42" else 1)
    assert os.waitpid(child, 0)[1] == 0
    connections.ask("GET", "/parent", {})
    assert [index for index, _ in server.heard] == [0, 1, 0]


def test_a_client_that_is_forgotten_leaves_no_connection(server: Server) -> None:
    server.script = [[OK, OK]]
    forgotten = Connections(server.url)
    forgotten.ask("GET", "/", {})
    forgotten.itself = forgotten  # type: ignore[attr-defined]  # as in a client whose parts know it
    del forgotten
    gc.collect()  # a socket that is not closed by then is an error here
    assert server.closed.wait(10)


def test_an_answer_leaves_nothing_to_the_garbage_collector(server: Server, connections: Connections) -> None:
    server.script = [[OK] * 3]
    gc.disable()
    try:
        for _ in range(3):
            connections.ask("GET", "/", {})
        assert not [known for known in gc.get_objects() if type(known) is connection._Reading]
    finally:
        gc.enable()
