"""A toy shell behind a simulated terminal: a prompt, line editing, a few programs, one of them full screen."""

from __future__ import annotations

import asyncio
import codecs
import re
import shlex
from collections.abc import Awaitable, Callable, Coroutine
from typing import Literal

from .commands import NoSuchCommand
from .editor import Editor

PROMPT = b"# "
INTERRUPT, END, BACKSPACE = "\x03", "\x04", ("\x7f", "\b")
_SHELL = re.compile(r"(?:\S*/)?(?:ba|da|a)?sh")
_FLOOD = b"y\r\n" * 8000


class Interrupted(Exception):
    """Ctrl-C was typed."""


class Tty:
    """The shell of one session; it knows echo, printf, cat, ls, seq, sleep, stty size, vi, yes, clear and exit."""

    def __init__(
        self, command: list[str], write: Callable[[Literal["stdout", "stderr"], bytes], Awaitable[None]]
    ) -> None:
        if not _SHELL.fullmatch(command[0]):
            raise NoSuchCommand(command[0])
        self._write = write
        self._keys: asyncio.Queue[str] = asyncio.Queue()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._program: asyncio.Task[int] | None = None
        self._editor: Editor | None = None
        self.rows, self.cols = 24, 80

    async def run(self) -> int:
        last = 0
        while True:
            line = await self._line(PROMPT)
            if line is None:
                return last
            try:
                words = shlex.split(line)
            except ValueError as error:
                await self.put(f"sh: {error}\n")
                continue
            for part in _parts(words):
                if part[0] == "exit":
                    return int(part[1]) if len(part) > 1 else last
                last = await self._foreground(self._run(part))

    def feed(self, data: bytes) -> None:
        for key in self._decoder.decode(data):
            if key == INTERRUPT and self._program is not None:
                self._program.cancel()
            else:
                self._keys.put_nowait(key)

    def close_stdin(self) -> None:
        self._keys.put_nowait(END)

    def resize(self, rows: int, cols: int) -> None:
        self.rows, self.cols = rows, cols
        if self._editor is not None:
            self._keys.put_nowait("")

    async def put(self, text: str) -> None:
        """Write text as a terminal shows it: every line begins at the left."""
        await self._write("stdout", text.replace("\n", "\r\n").encode())

    async def _foreground(self, program: Coroutine[None, None, int]) -> int:
        self._program = asyncio.create_task(program)
        try:
            return await self._program
        except asyncio.CancelledError:
            if not self._program.cancelled():
                raise
            await self.put("^C\n")
            return 130
        finally:
            self._program.cancel()
            self._program = None

    async def _line(self, prompt: bytes = b"") -> str | None:
        """Read a line as a terminal does, with echo and backspace; None at its end (Ctrl-D)."""
        await self._write("stdout", prompt)
        line = ""
        while True:
            key = await self._keys.get()
            if key in ("\r", "\n"):
                await self.put("\n")
                return line
            if key == INTERRUPT:
                await self._write("stdout", b"^C\r\n" + prompt)
                line = ""
            elif key == END and not line:
                return None
            elif key in BACKSPACE and line:
                line = line[:-1]
                await self._write("stdout", b"\b \b")
            elif key.isprintable() and key:
                line += key
                await self._write("stdout", key.encode())

    async def _run(self, words: list[str]) -> int:
        program = getattr(self, f"_do_{words[0]}", None)
        if program is None:
            await self.put(f"sh: {words[0]}: not found\n")
            return 127
        return await program(words[1:]) or 0

    async def _do_echo(self, words: list[str]) -> None:
        await self.put(" ".join("xterm" if word == "$TERM" else word for word in words) + "\n")

    async def _do_printf(self, words: list[str]) -> None:
        """Write what Python's escapes mean, such as \\x1b for ESC."""
        await self._write("stdout", " ".join(words).encode().decode("unicode_escape").encode("latin-1"))

    async def _do_cat(self, words: list[str]) -> None:
        while (line := await self._line()) is not None:
            await self.put(line + "\n")

    async def _do_ls(self, words: list[str]) -> None:
        await self.put("\x1b[1;34malloc\x1b[0m  \x1b[1;34mlocal\x1b[0m  \x1b[1;34msecrets\x1b[0m\n")

    async def _do_seq(self, words: list[str]) -> None:
        await self.put("".join(f"{n}\n" for n in range(1, int(words[0]) + 1)))

    async def _do_sleep(self, words: list[str]) -> None:
        await asyncio.sleep(float(words[0]))

    async def _do_stty(self, words: list[str]) -> None:
        await self.put(f"{self.rows} {self.cols}\n")

    async def _do_clear(self, words: list[str]) -> None:
        await self._write("stdout", b"\x1b[H\x1b[2J")

    async def _do_yes(self, words: list[str]) -> None:
        while True:
            await self._write("stdout", _FLOOD)

    async def _do_vi(self, words: list[str]) -> None:
        self._editor = Editor(words[0] if words else "")
        await self._write("stdout", b"\x1b[?1049h")
        try:
            while not self._editor.quits:
                await self._write("stdout", self._editor.drawn(self.rows, self.cols))
                self._editor.key(await self._keys.get())
        finally:
            self._editor = None
            await self._write("stdout", b"\x1b[?1049l")


def _parts(words: list[str]) -> list[list[str]]:
    """Split words at the semicolons that end some of them."""
    parts: list[list[str]] = [[]]
    for word in words:
        parts[-1].append(word.rstrip(";") if word.endswith(";") else word)
        if word.endswith(";"):
            parts.append([])
    return [[word for word in part if word] for part in parts if any(part)]
