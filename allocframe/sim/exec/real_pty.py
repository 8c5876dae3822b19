"""A real program on this machine in a real pseudo-terminal (``shell="pty"``)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import shutil
import signal
import struct
import subprocess
import termios
from collections.abc import Awaitable, Callable
from typing import Literal

from .commands import NoSuchCommand

_READ = 64 << 10
_OPEN_TERMINAL = 'exec "$@" <>"$0" >&0 2>&0'
"""Opens the terminal in the new session: the first open makes it the controlling one, for Ctrl-C."""


class RealPty:
    """Runs a command as the current user, until the command or the session ends."""

    def __init__(
        self, command: list[str], write: Callable[[Literal["stdout", "stderr"], bytes], Awaitable[None]]
    ) -> None:
        self._write = write
        self._input: asyncio.Queue[bytes] = asyncio.Queue()
        self._master, slave = pty.openpty()
        # Check first: the shell that starts the command would hide the error.
        if shutil.which(command[0]) is None:
            os.close(self._master)
            os.close(slave)
            raise NoSuchCommand(command[0])
        self._process = subprocess.Popen(  # noqa: S603 - the caller asked for a real program
            ["/bin/sh", "-c", _OPEN_TERMINAL, os.ttyname(slave), *command],
            stdin=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "PS1": "# "},
        )
        os.close(slave)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        writing = asyncio.create_task(self._write_input())
        try:
            while data := await loop.run_in_executor(None, self._read):
                await self._write("stdout", data)
            return await loop.run_in_executor(None, self._process.wait)
        finally:
            writing.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            os.close(self._master)

    def _read(self) -> bytes:
        try:
            return os.read(self._master, _READ)
        except OSError:  # the last program that held the terminal has ended
            return b""

    async def _write_input(self) -> None:
        """Write input in a thread: a program that reads nothing must not block the server."""
        loop = asyncio.get_running_loop()
        while data := await self._input.get():
            while data:
                data = data[await loop.run_in_executor(None, os.write, self._master, data) :]

    def feed(self, data: bytes) -> None:
        self._input.put_nowait(data)

    def close_stdin(self) -> None:
        self.feed(b"\x04")

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
