"""Toy commands of a simulated cluster, without a terminal; nothing runs on this machine."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

_SHELLS = ("sh", "/bin/sh", "bash", "/bin/bash")


@dataclass
class Ran:
    """What a toy command wrote, and its exit code; `echoes` gives stdin back."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    echoes: bool = False
    seconds: float = 0.0


class NoSuchCommand(Exception):
    """The toy knows no such program."""


def run(command: list[str]) -> Ran:
    """Return what a command does: echo, cat, uname, true, false, sleep, and sh -c with a few of them."""
    program, *arguments = command
    name = program.rsplit("/", 1)[-1]
    if program in _SHELLS and arguments[:1] == ["-c"] and len(arguments) > 1:
        return _script(arguments[1])
    simple = {"true": Ran(), "false": Ran(exit_code=1), "cat": Ran(echoes=True), "uname": Ran(b"Linux\n")}
    if name == "echo":
        return Ran(" ".join(arguments).encode() + b"\n")
    if name == "sleep" and arguments:
        return Ran(seconds=float(arguments[0]))
    if name == "seq" and arguments:
        return Ran(b"".join(b"%d\n" % n for n in range(1, int(arguments[0]) + 1)))
    if name not in simple:
        raise NoSuchCommand(program)
    return simple[name]


def _script(text: str) -> Ran:
    """Run the parts of a script, separated by semicolons, one after the other."""
    total = Ran()
    for part in re.split(r"\s*;\s*", text.strip()):
        if found := re.fullmatch(r"exit (\d+)", part):
            total.exit_code = int(found[1])
            return total
        if part == "kill -9 $$":
            total.exit_code = 137
            return total
        to_stderr = part.endswith(">&2")
        done = run(shlex.split(part.removesuffix(">&2")))
        total.stderr += done.stdout if to_stderr else b""
        total.stdout += b"" if to_stderr else done.stdout
        total.exit_code, total.seconds = done.exit_code, total.seconds + done.seconds
        total.echoes = total.echoes or done.echoes
    return total


class Scripted:
    """Runs a toy command without a terminal: it ends when stdin is closed, whatever it does."""

    def __init__(
        self, command: list[str], write: Callable[[Literal["stdout", "stderr"], bytes], Awaitable[None]]
    ) -> None:
        self._ran = run(command)
        self._write = write
        self._stdin: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def run(self) -> int:
        await self._write("stdout", self._ran.stdout)
        await self._write("stderr", self._ran.stderr)
        while (data := await self._stdin.get()) is not None:
            if self._ran.echoes:
                await self._write("stdout", data)
        await asyncio.sleep(self._ran.seconds)
        return self._ran.exit_code

    def feed(self, data: bytes) -> None:
        self._stdin.put_nowait(data)

    def close_stdin(self) -> None:
        self._stdin.put_nowait(None)

    def resize(self, rows: int, cols: int) -> None:
        """A command without a terminal has no size."""
