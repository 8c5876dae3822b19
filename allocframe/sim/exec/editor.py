"""A toy full-screen editor, with just enough of vi to test a terminal: i, Escape and :q."""

from __future__ import annotations


class Editor:
    """Takes keys and draws a screen."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.quits: bool = False
        self._lines = [""]
        self._mode = "command"
        self._typed = ""

    def key(self, key: str) -> None:
        """Handle one key. An empty one only redraws the screen."""
        if self._mode == "insert":
            self._handle_insert(key)
        elif self._mode == "command line":
            self._handle_command_line(key)
        elif key == "i":
            self._mode = "insert"
        elif key == ":":
            self._mode, self._typed = "command line", ""

    def _handle_insert(self, key: str) -> None:
        if key == "\x1b":
            self._mode = "command"
        elif key == "\r":
            self._lines.append("")
        elif key in ("\x7f", "\b"):
            self._lines[-1] = self._lines[-1][:-1]
        elif key.isprintable():
            self._lines[-1] += key

    def _handle_command_line(self, key: str) -> None:
        if key == "\r":
            self.quits = self._typed.startswith(("q", "wq"))
            self._mode = "command"
        elif key.isprintable():
            self._typed += key

    def draw(self, rows: int, cols: int) -> bytes:
        """Return the bytes that draw the screen: text, tildes, and a status line with mode and size."""
        text = self._lines[-(rows - 1) :]
        body = [line[:cols] for line in text] + ["~"] * (rows - 1 - len(text))
        status = {"command": f'"{self.name}"', "insert": "-- INSERT --", "command line": f":{self._typed}"}
        size = f"{rows}x{cols}"
        width = cols - len(size) - 1
        last = f"{status[self._mode][:width]:<{width}}{size}"
        lines = "".join(f"\x1b[{n};1H\x1b[2K{line}" for n, line in enumerate([*body, last], 1))
        return f"{lines}\x1b[{len(text)};{min(len(text[-1]) + 1, cols)}H".encode()
