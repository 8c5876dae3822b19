"""The protocol of exec sessions, without I/O: frames to send, frames received, and what the end means."""

from __future__ import annotations

import json
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from .._utils.text import visible
from ..errors import AllocframeError, ConfigError, ExecError
from . import protocol

HEARTBEAT = "{}"
HEARTBEAT_EVERY = 10.0
HANDSHAKE = {"ws_handshake": "true"}
CLOSE_STDIN = json.dumps({"stdin": {"close": True}})
CHUNK = 32 << 10
"""Maximum bytes of stdin in one frame."""

MAX_OUTPUT = 256 << 20
"""Maximum bytes of output of one command."""

_STATUS = {1008: 400, 1011: 500}
"""The HTTP statuses that correspond to the codes with which servers close a WebSocket."""


@dataclass(frozen=True)
class ExecResult:
    """The output and the exit code of a command."""

    stdout: bytes
    stderr: bytes
    exit_code: int

    @property
    def text(self) -> str:
        """The output as text. Invalid UTF-8 is replaced."""
        return self.stdout.decode("utf-8", "replace")


def check_command(command: Sequence[str]) -> list[str]:
    """Return a command as a list: the program and its arguments, without a shell.

    Raises
    ------
    ConfigError
        The command is not a list of strings, or is empty.
    """
    if isinstance(command, str) or not command or not all(isinstance(part, str) for part in command):
        expected = "a list of program and arguments, such as ['sh', '-c', 'ls | wc -l']"
        raise ConfigError(f"command must be {expected}, got {command!r}")
    return list(command)


@dataclass(frozen=True)
class ExecRequest:
    """The path and query of an exec request, and a title for people."""

    path: str
    params: dict[str, str]
    title: str


def exec_request(
    alloc_id: str, command: Sequence[str], task: str, *, tty: bool, region: str | None, title: str
) -> ExecRequest:
    """Return the request that opens an exec session."""
    words = check_command(command)
    params = {"command": json.dumps(words), "task": task, "tty": "true" if tty else "false", **HANDSHAKE}
    params |= {"region": region} if region else {}
    return ExecRequest(f"/v1/client/allocation/{alloc_id}/exec", params, visible(title))


def handshake(token: str) -> str:
    """Return the first frame of a session that is requested with `HANDSHAKE`."""
    return json.dumps({"version": 1, "auth_token": token})


def stdin_frames(data: bytes) -> Iterator[str]:
    """Yield the frames that send `data` to the command and then close its stdin.

    Unless stdin is closed, servers never report that a command has ended.
    """
    for start in range(0, len(data), CHUNK):
        yield stdin_frame(data[start : start + CHUNK])
    yield CLOSE_STDIN


def stdin_frame(data: bytes) -> str:
    """Return one frame of input. `data` should not be longer than `CHUNK`."""
    return json.dumps({"stdin": {"data": b64encode(data).decode()}})


def size_frame(rows: int, cols: int) -> str:
    """Return the frame that sets the size of the terminal."""
    return json.dumps({"tty_size": {"height": rows, "width": cols}})


@dataclass(frozen=True)
class Frame:
    """The content of one frame from the server."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None


@dataclass
class ExecSession:
    """Decodes the frames of a server. `exit_code` is None until the command has ended."""

    path: str
    exit_code: int | None = None
    visible: Callable[[object], str] = visible
    """Makes text of the server harmless to show."""

    def error(self, reason: str) -> ExecError:
        """Return the error for a session that failed."""
        return ExecError(f"exec {self.path}: {reason}")

    def receive(self, text: str | bytes) -> Frame:
        """Decode one frame.

        Raises
        ------
        ExecError
            The text is not a frame of Nomad's exec protocol.
        """
        try:
            message = json.loads(text)
            stdout, stderr = (
                a2b_base64((message.get(stream) or {}).get("data") or "", strict_mode=True)
                for stream in ("stdout", "stderr")
            )
            if message.get("exited"):
                self.exit_code = _exit_code((message.get("result") or {}).get("exit_code", 0))
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise self.error(f"the server sent an invalid frame: {self.visible(_start(text))!r}") from None
        return Frame(stdout, stderr, self.exit_code)

    def close_error(self, code: int | None, reason: str, hint: str = "") -> AllocframeError | None:
        """Return the error for a connection that ended; None if the command had ended before.

        `hint` says what may have become of the command if the server gives no reason.
        """
        # Some servers close properly after the exit, others drop the connection. Only the exit code is proof.
        if self.exit_code is not None:
            return None
        if "failed to start command" in reason:
            return self.error(f"the command could not be started: {self.visible(reason)}")
        if reason:
            return protocol.error_for("GET", self.path, _STATUS.get(code or 0, 500), self.visible(reason))
        hint = hint or "The command may still be running"
        return self.error(f"the session was lost before the command ended. {hint}")


def _start(text: str | bytes) -> str:
    """Return the start of a frame as text."""
    start = text[:4096]
    return start.decode("utf-8", "replace") if isinstance(start, bytes) else start


def _exit_code(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("not an exit code")
    return value


@dataclass
class BufferedSession(ExecSession):
    """A session that keeps all output, up to `MAX_OUTPUT`."""

    _parts: dict[str, list[bytes]] = field(default_factory=lambda: {"stdout": [], "stderr": []})
    _size: int = 0

    @property
    def stdout(self) -> bytes:
        return b"".join(self._parts["stdout"])

    @property
    def stderr(self) -> bytes:
        return b"".join(self._parts["stderr"])

    def error(self, reason: str) -> ExecError:
        """Return the error for a session that failed, with the output so far."""
        return ExecError(f"exec {self.path}: {reason}", stdout=self.stdout, stderr=self.stderr)

    def receive(self, text: str | bytes) -> Frame:
        """Decode one frame and keep its output.

        Raises
        ------
        ExecError
            The frame is invalid, or there is too much output.
        """
        frame = super().receive(text)
        self._parts["stdout"].append(frame.stdout)
        self._parts["stderr"].append(frame.stderr)
        self._size += len(frame.stdout) + len(frame.stderr)
        if self._size > MAX_OUTPUT:
            raise self.error(
                f"more than {MAX_OUTPUT:,} bytes of output. Write it to a file in the task, or filter it"
            )
        return frame

    def result(self) -> ExecResult:
        """Return the result of a command that has ended."""
        if self.exit_code is None:
            raise self.error("the command has not ended")
        return ExecResult(self.stdout, self.stderr, self.exit_code)
