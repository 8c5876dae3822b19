"""A proxy before the simulated cluster that is slow, sends small pieces, cuts, resets, or falls silent."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from faultserver import reset


@dataclass(frozen=True)
class Fault:
    """What happens to the answers of one connection.

    `latency` seconds pass before each piece; a piece is at most `piece` bytes, and `rate` of them pass in a
    second. After `after` bytes, the connection is `end`ed: "reset" breaks it, "cut" closes it as if the
    answer were complete, "silent" leaves it open and sends nothing more.
    """

    latency: float = 0.0
    piece: int = 65536
    rate: float = 0.0
    end: Literal["reset", "cut", "silent"] | None = None
    after: int = 0


CLEAN = Fault()


class FaultProxy:
    """Passes connections on to a server, each with the next of `faults`, the last one again and again."""

    def __init__(self, address: str, *faults: Fault) -> None:
        self.faults: Sequence[Fault] = faults or (CLEAN,)
        self.connections = 0
        self.asked: list[bytes] = []
        self._target = ("127.0.0.1", urlsplit(address).port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._threads = [threading.Thread(target=self._accept, name="proxy", daemon=True)]
        self.address = f"http://127.0.0.1:{self._port}"
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closed.is_set():
                near, _ = self._listener.accept()
                fault = self.faults[min(self.connections, len(self.faults) - 1)]
                self.connections += 1
                far = socket.create_connection(self._target)
                with self._lock:
                    self._open |= {near, far}
                for work, given in ((self._ask, (near, far)), (self._answer, (far, near, fault))):
                    thread = threading.Thread(target=work, args=given, name="proxy", daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _ask(self, near: socket.socket, far: socket.socket) -> None:
        """Pass on what the client says; the server must find its own name in it."""
        mine, real = (f"Host: 127.0.0.1:{port}".encode() for port in (self._port, self._target[1]))
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                self.asked.append(data.split(b"\r\n")[0])
                far.sendall(data.replace(mine, real).replace(mine.lower(), real.lower()))
            far.shutdown(socket.SHUT_WR)

    def _answer(self, far: socket.socket, near: socket.socket, fault: Fault) -> None:
        """Pass on what the server says, as the fault wants it."""
        left = fault.after if fault.end else None
        with contextlib.suppress(OSError):
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (left is None or left > 0) and (
                data := far.recv(65536 if left is None else min(left, 65536))
            ):
                left = None if left is None else left - len(data)
                for at in range(0, len(data), fault.piece):
                    piece = data[at : at + fault.piece]
                    pause = fault.latency + (len(piece) / fault.rate if fault.rate else 0.0)
                    if pause and self._closed.wait(pause):
                        return
                    near.sendall(piece)
            if left == 0 and fault.end == "silent":
                self._closed.wait()
        with self._lock:
            if fault.end == "reset" and left == 0:
                self._shut(far)
                with contextlib.suppress(OSError):
                    near.shutdown(socket.SHUT_RD)
                    reset(near)
            else:
                self._shut(far, near)

    def _shut(self, *sockets: socket.socket) -> None:
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def break_all(self) -> None:
        """Break every connection that is open."""
        with self._lock:
            self._shut(*self._open)

    def close(self) -> None:
        self._closed.set()
        self._shut(self._listener)
        self._listener.close()
        self.break_all()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        for one in self._open:
            one.close()


@contextlib.contextmanager
def through(address: str, *faults: Fault) -> Iterator[FaultProxy]:
    proxy = FaultProxy(address, *faults)
    try:
        yield proxy
    finally:
        proxy.close()


def waited(seconds: float = 60.0) -> Iterator[None]:
    """Yield until the time is over: for waiting on a condition."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.02)
