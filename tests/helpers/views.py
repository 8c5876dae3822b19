"""A view of a terminal without a page. It draws output at once, and types."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import allocframe as af


def eventually(condition: Callable[[], Any], timeout: float = 60.0) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "not reached"
        time.sleep(0.01)


class Page:
    """One view of a terminal."""

    def __init__(self, terminal: af.Terminal, name: str = "a", *, draws: bool = True) -> None:
        self.terminal, self.name, self.draws = terminal, name, draws
        self.drawn, self.next, self.typed, self.gaps = b"", 0, 0, 0
        original_send = terminal.send

        def send(content: dict[str, Any], buffers: Any = None) -> None:
            original_send(content, buffers)
            self.receive(content, buffers or [])

        terminal.send = send
        self.says("attach", rows=30, cols=100)

    def says(self, kind: str, *buffers: bytes, **content: Any) -> None:
        self.terminal._handle_custom_msg({"type": kind, "view": self.name, **content}, list(buffers))

    def receive(self, content: dict[str, Any], buffers: list[bytes]) -> None:
        if content["type"] == "replay" and content["view"] == self.name:
            self.drawn, self.next = buffers[0], content["end"]
        elif content["type"] == "output":
            self.gaps += content["offset"] != self.next
            self.next = content["offset"] + len(buffers[0])
            self.drawn = (self.drawn + buffers[0])[-100_000:]
            if self.draws:
                self.says("ack", offset=self.next)

    def type(self, text: str) -> None:
        self.says("input", text.encode(), number=self.typed)
        self.typed += 1

    def shows(self, text: str) -> None:
        eventually(lambda: text.encode() in self.drawn)
