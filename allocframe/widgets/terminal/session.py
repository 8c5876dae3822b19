"""One exec session with a terminal, on threads of its own: a notebook's cell or event loop never stops it."""

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
from ...nomad import exec as _exec
from ...nomad import websocket
from ...nomad.config import Config
from ...nomad.exec import ExecRequest

MAX_TYPED = 1 << 20
"""Bytes of input that may wait for the command to read them."""

_INTERRUPT, _END_OF_INPUT = b"\x03", b"\x04"
_PATIENCE = 3.0
"""Seconds that a command has to end once it was interrupted."""


@dataclass(frozen=True)
class Standing:
    """How a session stands: connecting, connected, ended, refused, lost or closed; and what there is to say of it."""

    status: str
    message: str
    exit_code: int | None = None


class TtySession:
    """Connects, hands on what comes to `on_output`, which may block, and tells `on_standing` how it stands."""

    def __init__(
        self,
        config: Config,
        target: ExecRequest,
        size: tuple[int, int],
        audited: Callable[[], AbstractContextManager[Outcome]],
        on_output: Callable[[bytes], None],
        on_standing: Callable[[Standing], None],
    ) -> None:
        self._config = config
        self._target = target
        self._audited = audited
        self._on_output = on_output
        self._on_standing = on_standing
        self._frames: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._heard = threading.Event()
        self._over = threading.Event()
        self.resize(*size)
        self._reader = threading.Thread(target=self._run, name="allocframe-terminal-in", daemon=True)

    @property
    def closing(self) -> bool:
        return self._closing.is_set()

    def start(self) -> None:
        self._on_standing(Standing("connecting", "connecting"))
        self._reader.start()

    def type(self, data: bytes) -> bool:
        """Send input; False where the command reads nothing, and too much of it waits already."""
        with self._lock:
            if self._waiting + len(data) > MAX_TYPED:
                return False
            self._waiting += len(data)
        for start in range(0, len(data), _exec.CHUNK):
            piece = data[start : start + _exec.CHUNK]
            self._frames.put((_exec.stdin_frame(piece), len(piece)))
        return True

    def resize(self, rows: int, cols: int) -> None:
        self._frames.put((_exec.size_frame(rows, cols), 0))

    def close(self) -> None:
        """Interrupt what runs, since a dropped connection would let it run on; leave when it has ended, or soon after."""
        self._closing.set()
        self._frames.put(None)

    def join(self, timeout: float) -> None:
        """Wait for the session to be over."""
        self._reader.join(timeout)

    def _run(self) -> None:
        session = _exec.ExecSession(self._target.path)
        try:
            with self._audited() as outcome:
                self._talk(session)
                outcome.said = f"exit code {session.exit_code}"
            standing = Standing("ended", f"ended with exit code {session.exit_code}", session.exit_code)
        except (ExecError, ConnectionFailed) as error:
            standing = Standing("lost", visible(error))
        except AllocframeError as error:
            standing = Standing("refused", visible(error))
        if self.closing:
            said = (
                "it had not ended after Ctrl-C, and may run on"
                if session.exit_code is None
                else "it has ended"
            )
            standing = Standing("closed", f"closed; {said}", session.exit_code)
        self._on_standing(standing)

    def _talk(self, session: _exec.ExecSession) -> None:
        with websocket.open_session(self._config, self._target) as connection:
            writer = threading.Thread(
                target=self._write, args=(connection,), name="allocframe-terminal-keys", daemon=True
            )
            writer.start()
            try:
                self._on_standing(Standing("connected", "connected"))
                self._read(connection, session)
            finally:
                self._heard.set()
                self._over.set()
                self._frames.put(None)
                websocket.abort(connection)
                writer.join()

    def _read(self, connection: websocket.ClientConnection, session: _exec.ExecSession) -> None:
        while session.exit_code is None:
            frame = websocket.receive(connection, session)
            self._heard.set()
            if frame is not None and (data := frame.stdout + frame.stderr):
                self._on_output(data)

    def _write(self, connection: websocket.ClientConnection) -> None:
        """Send what is typed, and a heartbeat where nothing is; at the end what makes a program and its shell end."""
        self._heard.wait(websocket.REFUSED_WITHIN)
        with contextlib.suppress(websocket.WebSocketException, OSError):
            while (frame := self._next_frame()) is not None:
                connection.send(frame[0])
                with self._lock:
                    self._waiting -= frame[1]
            for last in (_INTERRUPT, _END_OF_INPUT):
                if not self._over.wait(0.1):
                    connection.send(_exec.stdin_frame(last))
            self._over.wait(_PATIENCE)
        websocket.abort(connection)

    def _next_frame(self) -> tuple[str, int] | None:
        try:
            return self._frames.get(timeout=_exec.HEARTBEAT_EVERY)
        except queue.Empty:
            return _exec.HEARTBEAT, 0
