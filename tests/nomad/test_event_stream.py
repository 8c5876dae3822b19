"""An event stream can be closed at any time, from any thread."""

from __future__ import annotations

import threading

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
