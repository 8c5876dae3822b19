"""A toy shell in a simulated terminal: a prompt, line editing, and a few programs."""

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


class ToyShell:
    """The shell of one session. It has echo, printf, cat, ls, seq, sleep, stty, vi, yes, clear and exit."""

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
        self.rows: int = 24
        self.cols: int = 80

    async def run(self) -> int:
        exit_code = 0
        while True:
            line = await self._read_line(PROMPT)
            if line is None:
                return exit_code
            try:
                words = shlex.split(line)
            except ValueError as error:
                await self.put(f"sh: {error}\n")
                continue
            for command in _split_commands(words):
                if command[0] == "exit":
                    return int(command[1]) if len(command) > 1 else exit_code
                exit_code = await self._run_in_foreground(self._run(command))

    def feed(self, data: bytes) -> None:
        for key in self._decoder.decode(data):
            # Ctrl-C goes to the running program; at the prompt, it is a key like others.
            if key == INTERRUPT and self._program is not None:
                self._program.cancel()
            else:
                self._keys.put_nowait(key)

    def close_stdin(self) -> None:
        self._keys.put_nowait(END)

    def resize(self, rows: int, cols: int) -> None:
        self.rows, self.cols = rows, cols
        # An empty key makes the editor redraw at the new size.
        if self._editor is not None:
            self._keys.put_nowait("")

    async def put(self, text: str) -> None:
        """Write text with the line endings of a terminal."""
        await self._write("stdout", text.replace("\n", "\r\n").encode())

    async def _run_in_foreground(self, program: Coroutine[None, None, int]) -> int:
        self._program = asyncio.create_task(program)
        try:
            return await self._program
        except asyncio.CancelledError:
            if not self._program.cancelled():  # the session was cancelled, not the program by Ctrl-C
                raise
            await self.put("^C\n")
            return 130
        finally:
            self._program.cancel()
            self._program = None

    async def _read_line(self, prompt: bytes = b"") -> str | None:
        """Read a line with echo and backspace; None at the end of input (Ctrl-D)."""
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
        """Write text with Python's escapes, such as \\x1b for ESC."""
        await self._write("stdout", " ".join(words).encode().decode("unicode_escape").encode("latin-1"))

    async def _do_cat(self, words: list[str]) -> None:
        while (line := await self._read_line()) is not None:
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
                await self._write("stdout", self._editor.draw(self.rows, self.cols))
                self._editor.key(await self._keys.get())
        finally:
            self._editor = None
            await self._write("stdout", b"\x1b[?1049l")


def _split_commands(words: list[str]) -> list[list[str]]:
    """Split words into commands after each word that ends with a semicolon."""
    commands: list[list[str]] = [[]]
    for word in words:
        commands[-1].append(word.rstrip(";") if word.endswith(";") else word)
        if word.endswith(";"):
            commands.append([])
    return [[word for word in command if word] for command in commands if any(command)]
