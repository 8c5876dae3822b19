"""One exec session with a terminal, on a thread of its own, so that no running cell can block it."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..._utils.text import visible
from ...client.audit_log import Outcome
from ...errors import AllocframeError, ConnectionFailed, ExecError
from ...nomad import exec, websocket  # noqa: A004 - the module of that name
from ...nomad.config import Config
from ...nomad.exec import ExecRequest

MAX_PENDING_INPUT = 16 << 20
"""Bytes of input that may wait until the command reads them."""

_INTERRUPT, _END_OF_INPUT = b"\x03", b"\x04"
_EXIT_TIMEOUT = 3.0
"""Seconds for a command to end after Ctrl-C."""

_AGAIN = 0.5
"""Seconds until the end of input is sent again."""


@dataclass(frozen=True)
class SessionStatus:
    """The status of a session: connecting, connected, ended, refused, lost or closed; and a message."""

    status: str
    message: str
    exit_code: int | None = None


class TtySession:
    """Runs a session.

    Parameters
    ----------
    on_output : callable
        Takes output. It is not called while `wants_output` returns False, and the command then has to wait.
    wants_output : callable
        Returns whether there is room for output. Call `wake` when that has changed.
    on_status : callable
        Takes each new status.
    """

    def __init__(
        self,
        config: Config,
        target: ExecRequest,
        size: tuple[int, int],
        audited: Callable[[], AbstractContextManager[Outcome]],
        *,
        on_output: Callable[[bytes], None],
        wants_output: Callable[[], bool],
        on_status: Callable[[SessionStatus], None],
    ) -> None:
        self._config = config
        self._target = target
        self._audited = audited
        self._on_output = on_output
        self._wants_output = wants_output
        self._on_status = on_status
        self._lock = threading.Lock()
        self._frames: deque[tuple[str, int]] = deque()
        self._pending_input = 0
        self._closing = threading.Event()
        self._link: websocket.WebSocket | None = None
        # Queued first, so that the command gets its size before any input.
        self.resize(*size)
        self._thread = threading.Thread(target=self._run, name="allocframe-terminal-in", daemon=True)

    @property
    def closing(self) -> bool:
        return self._closing.is_set()

    def start(self) -> None:
        self._on_status(SessionStatus("connecting", "connecting"))
        self._thread.start()

    def send_input(self, data: bytes) -> bool:
        """Send input. Return False if too much waits already because the command does not read it."""
        with self._lock:
            if self._pending_input + len(data) > MAX_PENDING_INPUT:
                return False
            self._pending_input += len(data)
            for start in range(0, len(data), exec.CHUNK):
                chunk = data[start : start + exec.CHUNK]
                self._frames.append((exec.stdin_frame(chunk), len(chunk)))
        self.wake()
        return True

    def resize(self, rows: int, cols: int) -> None:
        with self._lock:
            self._frames.append((exec.size_frame(rows, cols), 0))
        self.wake()

    def wake(self) -> None:
        """Let the session's thread look for input, and for room for output."""
        if (link := self._link) is not None:
            link.wake()

    def close(self) -> None:
        """Send Ctrl-C and leave when the command has ended, or soon after.

        If the connection were just dropped, the command would keep running.
        """
        self._closing.set()
        self.wake()

    def join(self, timeout: float) -> None:
        """Wait for the end of the session."""
        self._thread.join(timeout)

    def _run(self) -> None:
        session = exec.ExecSession(self._target.path, visible=self._config.scrub.visible)
        try:
            with self._audited() as outcome:
                self._connect(session)
                outcome.message = f"exit code {session.exit_code}"
            status = SessionStatus("ended", f"ended with exit code {session.exit_code}", session.exit_code)
        except (ExecError, ConnectionFailed) as error:
            status = SessionStatus("lost", visible(error))
        except AllocframeError as error:
            status = SessionStatus("refused", visible(error))
        if self.closing:
            still_running = session.exit_code is None
            end = "did not end after Ctrl-C and may still run" if still_running else "has ended"
            status = SessionStatus("closed", f"closed; the command {end}", session.exit_code)
        self._on_status(status)

    def _connect(self, session: exec.ExecSession) -> None:
        with websocket.open_session(self._config, self._target) as link:
            self._link = link
            try:
                self._on_status(SessionStatus("connected", "connected"))
                self._exchange(link, session)
            finally:
                self._link = None

    def _exchange(self, link: websocket.WebSocket, session: exec.ExecSession) -> None:
        """Send input and receive output until the command has ended. Neither waits for the other."""
        farewell, messages = _Farewell(), link.messages()
        while True:
            for message in messages:
                frame = session.receive(message)
                if data := frame.stdout + frame.stderr:
                    self._on_output(data)
            if session.exit_code is not None or farewell.is_over():
                return
            until = farewell.send(link) if self.closing else math.inf
            self._send_waiting(link)
            try:
                messages = link.step(until, reading=self.closing or self._wants_output())
            except websocket.Ended as ended:
                if (error := session.close_error(ended.code, ended.reason)) is not None:
                    raise error from None
                return

    def _send_waiting(self, link: websocket.WebSocket) -> None:
        """Send the input that waits, as far as the connection takes it."""
        while link.has_room:
            with self._lock:
                if not self._frames:
                    return
                text, size = self._frames.popleft()
                self._pending_input -= size
            link.send(text)


class _Farewell:
    """What is sent at the end: the keys that end a program, and then its shell."""

    def __init__(self) -> None:
        self._key = _INTERRUPT
        self._next = 0.0
        self._until = math.inf

    def is_over(self) -> bool:
        """Whether the command was given enough time to end."""
        return time.monotonic() >= self._until

    def send(self, link: websocket.WebSocket) -> float:
        """Send the next key if it is time; return when to call again."""
        now = time.monotonic()
        self._until = min(self._until, now + _EXIT_TIMEOUT)
        if now >= self._next and link.has_room:
            link.send(exec.stdin_frame(self._key))
            # Again and again: a shell loses what is typed while it takes the terminal back from its program.
            self._next = now + (0.1 if self._key == _INTERRUPT else _AGAIN)
            self._key = _END_OF_INPUT
        return min(self._next, self._until) if self._next > now else self._until
