"""One exec session with a terminal, on its own threads, so that no running cell can block it."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from ..._utils.text import visible
from ...client.audit_log import Outcome
from ...errors import AllocframeError, ConnectionFailed, ExecError
from ...nomad import exec, websocket  # noqa: A004 - the module of that name
from ...nomad.config import Config
from ...nomad.exec import ExecRequest

MAX_PENDING_INPUT = 1 << 20
"""Bytes of input that may wait until the command reads them."""

_INTERRUPT, _END_OF_INPUT = b"\x03", b"\x04"
_EXIT_TIMEOUT = 3.0
"""Seconds for a command to end after Ctrl-C."""


@dataclass(frozen=True)
class SessionStatus:
    """The status of a session: connecting, connected, ended, refused, lost or closed; and a message."""

    status: str
    message: str
    exit_code: int | None = None


class TtySession:
    """Runs a session. Output goes to `on_output`, which may block, and its status to `on_status`."""

    def __init__(
        self,
        config: Config,
        target: ExecRequest,
        size: tuple[int, int],
        audited: Callable[[], AbstractContextManager[Outcome]],
        on_output: Callable[[bytes], None],
        on_status: Callable[[SessionStatus], None],
    ) -> None:
        self._config = config
        self._target = target
        self._audited = audited
        self._on_output = on_output
        self._on_status = on_status
        self._frames: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._pending_input = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._answered = threading.Event()
        self._finished = threading.Event()
        # Queued first, so that the command gets its size before any input.
        self.resize(*size)
        self._reader = threading.Thread(target=self._run, name="allocframe-terminal-in", daemon=True)

    @property
    def closing(self) -> bool:
        return self._closing.is_set()

    def start(self) -> None:
        self._on_status(SessionStatus("connecting", "connecting"))
        self._reader.start()

    def send_input(self, data: bytes) -> bool:
        """Send input. Return False if too much waits already because the command does not read it."""
        with self._lock:
            if self._pending_input + len(data) > MAX_PENDING_INPUT:
                return False
            self._pending_input += len(data)
        for start in range(0, len(data), exec.CHUNK):
            chunk = data[start : start + exec.CHUNK]
            self._frames.put((exec.stdin_frame(chunk), len(chunk)))
        return True

    def resize(self, rows: int, cols: int) -> None:
        self._frames.put((exec.size_frame(rows, cols), 0))

    def close(self) -> None:
        """Send Ctrl-C and leave when the command has ended, or soon after.

        If the connection were just dropped, the command would keep running.
        """
        self._closing.set()
        self._frames.put(None)

    def join(self, timeout: float) -> None:
        """Wait for the end of the session."""
        self._reader.join(timeout)

    def _run(self) -> None:
        session = exec.ExecSession(self._target.path)
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
        with websocket.open_session(self._config, self._target) as connection:
            writer = threading.Thread(
                target=self._write, args=(connection,), name="allocframe-terminal-keys", daemon=True
            )
            writer.start()
            try:
                self._on_status(SessionStatus("connected", "connected"))
                self._read(connection, session)
            finally:
                self._answered.set()
                self._finished.set()
                self._frames.put(None)
                # The writer may be blocked in a send, which only this ends.
                websocket.abort(connection)
                writer.join()

    def _read(self, connection: websocket.ClientConnection, session: exec.ExecSession) -> None:
        while session.exit_code is None:
            frame = websocket.receive(connection, session)
            self._answered.set()
            if frame is not None and (data := frame.stdout + frame.stderr):
                self._on_output(data)

    def _write(self, connection: websocket.ClientConnection) -> None:
        """Send input, or a heartbeat if there is none. At the end, send what ends a program and its shell."""
        # A refusal comes as the first message. Input sent before it would be an error of its own.
        self._answered.wait(websocket.REFUSED_WITHIN)
        with contextlib.suppress(websocket.WebSocketException, OSError):
            while (frame := self._next_frame()) is not None:
                connection.send(frame[0])
                with self._lock:
                    self._pending_input -= frame[1]
            for key in (_INTERRUPT, _END_OF_INPUT):
                if not self._finished.wait(0.1):
                    connection.send(exec.stdin_frame(key))
            self._finished.wait(_EXIT_TIMEOUT)
        websocket.abort(connection)

    def _next_frame(self) -> tuple[str, int] | None:
        try:
            return self._frames.get(timeout=exec.HEARTBEAT_EVERY)
        except queue.Empty:
            return exec.HEARTBEAT, 0
