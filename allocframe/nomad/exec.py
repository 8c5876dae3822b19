"""The exec session without I/O: frames out, frames in, and what its end means."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .._utils.text import visible
from ..errors import AllocframeError, ConfigError, ExecError
from . import protocol

HEARTBEAT = "{}"
HEARTBEAT_EVERY = 10.0
HANDSHAKE = {"ws_handshake": "true"}
CLOSE_STDIN = json.dumps({"stdin": {"close": True}})
CHUNK = 16 << 10
"""Bytes of stdin in one frame."""

MAX_OUTPUT = 64 << 20
"""Bytes of output that one command may have."""

_STATUS = {1008: 400, 1011: 500}
"""Servers close with these codes for what they answer with these statuses elsewhere; the meaning is in the text."""


@dataclass(frozen=True)
class ExecResult:
    """What a command wrote, and how it ended."""

    stdout: bytes
    stderr: bytes
    exit_code: int

    @property
    def text(self) -> str:
        """The output as text; what is not UTF-8 is replaced."""
        return self.stdout.decode("utf-8", "replace")


def check_command(command: Sequence[str]) -> list[str]:
    """Return a command as Nomad takes it: the program and its arguments, without a shell.

    Raises
    ------
    ConfigError
        It is no list of texts, or an empty one.
    """
    if isinstance(command, str) or not command or not all(isinstance(part, str) for part in command):
        said = "a list of program and arguments, such as ['sh', '-c', 'ls | wc -l']"
        raise ConfigError(f"command must be {said}, not {command!r}")
    return list(command)


@dataclass(frozen=True)
class ExecRequest:
    """What an exec asks for: of whom, and with which query."""

    path: str
    params: dict[str, str]
    title: str


def exec_request(
    alloc_id: str, command: Sequence[str], task: str, *, tty: bool, region: str | None, title: str
) -> ExecRequest:
    """Return what an exec asks for."""
    words = check_command(command)
    params = {"command": json.dumps(words), "task": task, "tty": "true" if tty else "false", **HANDSHAKE}
    params |= {"region": region} if region else {}
    return ExecRequest(f"/v1/client/allocation/{alloc_id}/exec", params, visible(title))


def handshake(token: str) -> str:
    """Return the first frame of a session that was asked for with `HANDSHAKE`."""
    return json.dumps({"version": 1, "auth_token": token})


def stdin_frames(data: bytes) -> Iterator[str]:
    """Yield the frames that carry `data` to the command and then close its stdin.

    Without that no server ever says that a command has ended.
    """
    for start in range(0, len(data), CHUNK):
        yield stdin_frame(data[start : start + CHUNK])
    yield CLOSE_STDIN


def stdin_frame(data: bytes) -> str:
    """Return one frame of input; it should be no longer than `CHUNK`."""
    return json.dumps({"stdin": {"data": b64encode(data).decode()}})


def size_frame(rows: int, cols: int) -> str:
    """Return the frame that tells a terminal's size."""
    return json.dumps({"tty_size": {"height": rows, "width": cols}})


@dataclass(frozen=True)
class Frame:
    """What one frame of the server says."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None


@dataclass
class ExecSession:
    """Takes in what the server sends; `exit_code` is None until the command has ended."""

    path: str
    exit_code: int | None = None

    def lost(self, why: str) -> ExecError:
        """Return the error of a session that went wrong."""
        return ExecError(f"exec {self.path}: {why}")

    def received(self, text: str | bytes) -> Frame:
        """Take in one frame.

        Raises
        ------
        ExecError
            It is none of Nomad's.
        """
        try:
            said = json.loads(text)
            stdout, stderr = (
                b64decode((said.get(stream) or {}).get("data") or "", validate=True)
                for stream in ("stdout", "stderr")
            )
            if said.get("exited"):
                self.exit_code = _exit_code((said.get("result") or {}).get("exit_code", 0))
        except (ValueError, AttributeError, TypeError, RecursionError):
            raise self.lost(f"the server sent what is no frame: {visible(text[:120])!r}") from None
        return Frame(stdout, stderr, self.exit_code)

    def closed(self, code: int | None, reason: str) -> AllocframeError | None:
        """Return what the end of the connection means: nothing where the command had ended before.

        Some servers close properly after the exit, others only drop the connection: the exit is the one proof.
        """
        if self.exit_code is not None:
            return None
        if "failed to start command" in reason:
            return self.lost(f"the command could not be started: {visible(reason)}")
        if reason:
            return protocol.error_for("GET", self.path, _STATUS.get(code or 0, 500), visible(reason))
        return self.lost(
            "the session was lost before the command had ended; it may run on, for nothing stops it by itself"
        )


def _exit_code(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("no exit code")
    return value


@dataclass
class BufferedSession(ExecSession):
    """A session whose output is kept whole, up to a bound."""

    _parts: dict[str, list[bytes]] = field(default_factory=lambda: {"stdout": [], "stderr": []})
    _size: int = 0

    @property
    def stdout(self) -> bytes:
        return b"".join(self._parts["stdout"])

    @property
    def stderr(self) -> bytes:
        return b"".join(self._parts["stderr"])

    def lost(self, why: str) -> ExecError:
        """Return the error of a session that went wrong, with what had come."""
        return ExecError(f"exec {self.path}: {why}", stdout=self.stdout, stderr=self.stderr)

    def received(self, text: str | bytes) -> Frame:
        """Take in one frame, and keep what it brings; ExecError where that becomes too much."""
        frame = super().received(text)
        self._parts["stdout"].append(frame.stdout)
        self._parts["stderr"].append(frame.stderr)
        self._size += len(frame.stdout) + len(frame.stderr)
        if self._size > MAX_OUTPUT:
            raise self.lost(
                f"more than {MAX_OUTPUT:,} bytes of output; write it to a file there, or filter it"
            )
        return frame

    def result(self) -> ExecResult:
        """Return the result of a command that has ended."""
        if self.exit_code is None:
            raise self.lost("the command has not ended")
        return ExecResult(self.stdout, self.stderr, self.exit_code)
