"""A toy of a full-screen editor, as much vi as it takes to try a terminal: i, Escape, and :q."""

from __future__ import annotations


class Editor:
    """Keys in, a screen out."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.quits = False
        self._lines = [""]
        self._mode = "command"
        self._asked = ""

    def key(self, key: str) -> None:
        """Take in one key; an empty one only means that the screen must be drawn again."""
        if self._mode == "insert":
            self._insert(key)
        elif self._mode == "asking":
            self._ask(key)
        elif key == "i":
            self._mode = "insert"
        elif key == ":":
            self._mode, self._asked = "asking", ""

    def _insert(self, key: str) -> None:
        if key == "\x1b":
            self._mode = "command"
        elif key == "\r":
            self._lines.append("")
        elif key in ("\x7f", "\b"):
            self._lines[-1] = self._lines[-1][:-1]
        elif key.isprintable():
            self._lines[-1] += key

    def _ask(self, key: str) -> None:
        if key == "\r":
            self.quits = self._asked.startswith(("q", "wq"))
            self._mode = "command"
        elif key.isprintable():
            self._asked += key

    def drawn(self, rows: int, cols: int) -> bytes:
        """Return what draws the whole screen: the text, tildes below it, and a line that tells name, mode and size."""
        text = self._lines[-(rows - 1) :]
        body = [line[:cols] for line in text] + ["~"] * (rows - 1 - len(text))
        said = {"command": f'"{self.name}"', "insert": "-- INSERT --", "asking": f":{self._asked}"}[
            self._mode
        ]
        size = f"{rows}x{cols}"
        last = f"{said[: cols - len(size) - 1]:<{cols - len(size) - 1}}{size}"
        lines = "".join(f"\x1b[{n};1H\x1b[2K{line}" for n, line in enumerate([*body, last], 1))
        return f"{lines}\x1b[{len(text)};{min(len(text[-1]) + 1, cols)}H".encode()
