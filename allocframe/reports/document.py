"""What a report is made of: sections of blocks. Facts become blocks, and blocks become HTML or Markdown.

Texts are plain: names of the cluster stand in them as they are, and each renderer escapes what it writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from .render import count_left_out, format_table


@dataclass(frozen=True)
class Strong:
    """A part of a text that stands out."""

    text: str


@dataclass(frozen=True)
class Code:
    """A part of a text that is code, such as a command."""

    text: str


@dataclass(frozen=True)
class Ref:
    """A part of a text that leads to another part of the report."""

    text: str
    anchor: str


Inline = str | Strong | Code | Ref
Text = str | tuple[Inline, ...]


@dataclass(frozen=True)
class Marks:
    """How a form of reports, such as HTML, writes a text: its plain parts, and each kind of marked ones.

    Attributes
    ----------
    words, strong, code : callable
        Take a text, and return it safe and marked.
    ref : callable
        Takes a text and the anchor it leads to.
    """

    words: Callable[[str], str]
    strong: Callable[[str], str]
    code: Callable[[str], str]
    ref: Callable[[str, str], str]

    def write(self, text: Text) -> str:
        """Return a text as it stands in a file."""
        return self.words(text) if isinstance(text, str) else "".join(map(self._part, text))

    def _part(self, part: Inline) -> str:
        if isinstance(part, str):
            # spaces at the edges of a part count; `words` drops them
            left, right = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
            return f"{left}{self.words(part.strip())}{right}" if part.strip() else part
        if isinstance(part, Ref):
            return self.ref(part.text, part.anchor)
        return self.strong(part.text) if isinstance(part, Strong) else self.code(part.text)


def plain(text: Text) -> str:
    """Return a text without its marks."""
    if isinstance(text, str):
        return text
    return "".join(part if isinstance(part, str) else part.text for part in text)


@dataclass(frozen=True)
class Paragraph:
    """One or more sentences."""

    text: Text


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: list[Text]


@dataclass(frozen=True)
class Number:
    """A number that is seen at once: its value with its unit, what it counts, and what limits it."""

    value: str
    label: str
    note: str = ""


@dataclass(frozen=True)
class Numbers:
    """Numbers side by side."""

    items: list[Number]


@dataclass(frozen=True)
class Table:
    """A table of texts. Columns of numbers stand to the right."""

    columns: list[str]
    rows: list[list[Text]]
    numeric: list[bool] = field(default_factory=list)
    note: str = ""

    @classmethod
    def of(cls, frame: pd.DataFrame, rows: int = 50, *, among: int | None = None) -> Table:
        """Return a table of a DataFrame, as `format_table` shows it.

        If `frame` has only the first rows, `among` is how many there are.
        """
        shown = format_table(frame, rows=rows)
        note = shown.left_out if among is None else count_left_out(among - len(shown))
        return cls(shown.columns, [list(row) for row in shown.rows], shown.numeric, note)


@dataclass(frozen=True)
class Command:
    """A command to run."""

    text: str


PICTURES = ("timeline", "days", "failures", "failures-over-time", "nodes", "memory")
"""The names of all pictures. An older report's pictures are removed by these names."""


@dataclass(frozen=True)
class Picture:
    """A picture, with the words for those who do not see it."""

    name: str
    alt: str
    png: bytes

    def __post_init__(self) -> None:
        if self.name not in PICTURES:
            raise ValueError(f"a picture's name must be one of PICTURES, got {self.name!r}")


@dataclass(frozen=True)
class Live:
    """A part that a browser runs, such as the interactive timeline; Markdown has none of it.

    Paper, and a browser without scripts, show `still` instead. `script` is the hash of the script that the
    page's policy allows.
    """

    html: str
    script: str
    still: Picture


@dataclass(frozen=True)
class Fold:
    """Blocks that are folded until somebody wants them."""

    title: str
    blocks: list[Block]


@dataclass(frozen=True)
class Part:
    """Blocks under a heading of their own; `tone` is a severity, or empty."""

    title: str
    blocks: list[Block]
    anchor: str = ""
    tone: str = ""


@dataclass(frozen=True)
class People:
    """A place for what only people know. What they write there survives when the report is made again."""

    key: str
    title: str
    prompt: str


Block = Paragraph | Bullets | Numbers | Table | Command | Picture | Live | Fold | Part | People


@dataclass(frozen=True)
class Section:
    """A section of a report."""

    key: str
    title: str
    blocks: list[Block]


@dataclass(frozen=True)
class Document:
    """A report: its title, the facts below it, and its sections."""

    kind: str
    title: str
    facts: list[tuple[str, str]]
    sections: list[Section]

    def section(self, key: str) -> Section:
        """Return a section by its key."""
        return next(section for section in self.sections if section.key == key)

    def with_blocks(self, key: str, blocks: Iterable[Block]) -> Document:
        """Return the document with blocks put before the others of a section."""
        sections = [
            replace(each, blocks=[*blocks, *each.blocks]) if each.key == key else each
            for each in self.sections
        ]
        return replace(self, sections=sections)

    def texts(self, *keys: str) -> list[str]:
        """Return the texts of all sections, or of those with these keys, without tables and commands."""
        blocks = [
            block for section in self.sections if not keys or section.key in keys for block in section.blocks
        ]
        return [text for block in blocks for text in _texts(block)]


def _texts(block: Any) -> list[str]:
    if isinstance(block, Paragraph):
        return [plain(block.text)]
    if isinstance(block, Bullets):
        return [plain(item) for item in block.items]
    if isinstance(block, Fold | Part):
        return [block.title, *(text for each in block.blocks for text in _texts(each))]
    return []


def walk(blocks: Sequence[Block]) -> Iterable[Block]:
    """Yield blocks and those inside them."""
    for block in blocks:
        yield block
        if isinstance(block, Fold | Part):
            yield from walk(block.blocks)
