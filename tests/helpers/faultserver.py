"""A raw-socket server that answers exactly what a test says, one scripted answer for each request."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

Answer = bytes | Callable[[socket.socket], None]

ROW = {"ID": "5457f16d-0f87-8e6b-5e91-0c7da3a41eb7", "Namespace": "default", "JobID": "web", "CreateIndex": 1}
BODY = json.dumps([ROW]).encode()


def http(
    body: bytes = BODY,
    status: str = "200 OK",
    *,
    length: int | None = None,
    kind: str = "application/json",
    **headers: str,
) -> bytes:
    """Return one answer; `length` None means that the body ends with the connection."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {kind}",
        *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items()),
    ]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def good(body: bytes = BODY, **headers: str) -> bytes:
    return http(body, length=len(body), **headers)


def packed(body: bytes = BODY) -> bytes:
    data = gzip.compress(body)
    return http(data, length=len(data), Content_Encoding="gzip")


class Counted:
    """An answer that takes a while, and how many of it were under way at the same time at most."""

    def __init__(self, answer: bytes, seconds: float) -> None:
        self.most = 0
        self._answer, self._seconds = answer, seconds
        self._lock = threading.Lock()
        self._now = 0

    def __call__(self, connection: socket.socket) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self._seconds)
        with self._lock:
            self._now -= 1
        connection.sendall(self._answer)


class FaultServer:
    """Serves `answers` in turn, the last one again and again. Other paths are absent, as on old servers."""

    def __init__(self, *answers: Answer, keep_alive: bool = False) -> None:
        self.answers = list(answers)
        self.requests: list[str] = []
        self.raw: list[bytes] = []
        self._keep_alive = keep_alive
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while self._answer(connection) and self._keep_alive:
                pass

    def _request(self, connection: socket.socket) -> bytes:
        """Return the head of the next request, empty where there is none."""
        request = b""
        while b"\r\n\r\n" not in request:
            data = connection.recv(65536)
            if not data:
                return b""
            request += data
        return request

    def _answer(self, connection: socket.socket) -> bool:
        request = self._request(connection)
        if not request:
            return False
        target = request.split()[1].decode()
        if not urlsplit(target).path.startswith(("/v1/alloc", "/v1/client/")):
            connection.sendall(http(b"", "404 Not Found", length=0))
            return True
        self.requests.append(target)
        self.raw.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if callable(answer):
            answer(connection)
        elif self._keep_alive:
            connection.sendall(answer)
        else:  # said in time, or a client that asks again at once meets a connection that is about to close
            connection.sendall(answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        return True

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)


@contextlib.contextmanager
def serving(*answers: Answer, keep_alive: bool = False) -> Iterator[FaultServer]:
    server = FaultServer(*answers, keep_alive=keep_alive)
    try:
        yield server
    finally:
        server.close()


def reset(connection: socket.socket) -> None:
    """Break the connection so that the peer sees a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    connection.close()


def any_json(value: Any) -> bytes:
    return good(json.dumps(value).encode())
