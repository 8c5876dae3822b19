"""An event stream can be closed at any time, from any thread."""

from __future__ import annotations

import socket
import threading
import time

from sockets import listening

from allocframe.nomad.config import Config
from allocframe.nomad.event_stream import EventStream


def test_a_stream_that_is_closed_before_it_starts_starts_nothing_and_says_so() -> None:
    ends: list[str] = []
    config = Config.load("http://127.0.0.1:9", environ={})
    stream = EventStream(config, {}, lambda line: None, ends.append, quiet=1.0)
    before = threading.active_count()
    stream.close()
    stream.start()
    stream.close()
    assert threading.active_count() == before
    assert ends == ["it was closed"]


def test_a_stream_of_a_silent_server_ends_at_once_when_it_is_closed() -> None:
    asked = threading.Event()

    def handler(connection: socket.socket) -> None:
        connection.recv(65536)
        asked.set()
        connection.recv(1)

    with listening(handler) as address:
        config = Config.load(f"http://{address}", environ={})
        ends: list[str] = []
        stream = EventStream(config, {}, lambda line: None, ends.append, quiet=60.0)
        stream.start()
        assert asked.wait(60)
        started = time.monotonic()
        stream.close()
        assert time.monotonic() - started < 30
        assert ends == ["it was closed"]
        assert "allocframe-stream" not in {thread.name for thread in threading.enumerate()}
