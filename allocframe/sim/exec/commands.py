"""Toy commands without a terminal. Nothing is run on this machine."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

_SHELLS = ("sh", "/bin/sh", "bash", "/bin/bash")


@dataclass
class Output:
    """The result of a toy command. With `echoes`, it copies stdin to stdout."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    echoes: bool = False
    seconds: float = 0.0


class NoSuchCommand(Exception):
    """There is no toy command of that name."""


def run(command: list[str]) -> Output:
    """Return the output of echo, cat, uname, true, false, seq, sleep, or of sh -c with some of them."""
    program, *arguments = command
    name = program.rsplit("/", 1)[-1]
    if program in _SHELLS and arguments[:1] == ["-c"] and len(arguments) > 1:
        return _script(arguments[1])
    simple = {
        "true": Output(),
        "false": Output(exit_code=1),
        "cat": Output(echoes=True),
        "uname": Output(b"Linux\n"),
    }
    if name == "echo":
        return Output(" ".join(arguments).encode() + b"\n")
    if name == "sleep" and arguments:
        return Output(seconds=float(arguments[0]))
    if name == "seq" and arguments:
        return Output(b"".join(b"%d\n" % n for n in range(1, int(arguments[0]) + 1)))
    if name not in simple:
        raise NoSuchCommand(program)
    return simple[name]


def _script(text: str) -> Output:
    """Run the parts of a script, separated by semicolons, one after the other."""
    total = Output()
    for part in re.split(r"\s*;\s*", text.strip()):
        if exit_call := re.fullmatch(r"exit (\d+)", part):
            total.exit_code = int(exit_call[1])
            return total
        if part == "kill -9 $$":
            total.exit_code = 137
            return total
        to_stderr = part.endswith(">&2")
        output = run(shlex.split(part.removesuffix(">&2")))
        total.stderr += output.stdout if to_stderr else b""
        total.stdout += b"" if to_stderr else output.stdout
        total.exit_code, total.seconds = output.exit_code, total.seconds + output.seconds
        total.echoes = total.echoes or output.echoes
    return total


class ToyCommand:
    """Runs a toy command. As in a real session without a terminal, it ends only after stdin is closed."""

    def __init__(
        self, command: list[str], write: Callable[[Literal["stdout", "stderr"], bytes], Awaitable[None]]
    ) -> None:
        self._output = run(command)
        self._write = write
        self._stdin: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def run(self) -> int:
        await self._write("stdout", self._output.stdout)
        await self._write("stderr", self._output.stderr)
        while (data := await self._stdin.get()) is not None:
            if self._output.echoes:
                await self._write("stdout", data)
        await asyncio.sleep(self._output.seconds)
        return self._output.exit_code

    def feed(self, data: bytes) -> None:
        self._stdin.put_nowait(data)

    def close_stdin(self) -> None:
        self._stdin.put_nowait(None)

    def resize(self, rows: int, cols: int) -> None:
        """Do nothing: without a terminal there is no size."""
