"""Writes a document as Markdown, with its pictures next to it."""

from __future__ import annotations

from collections.abc import Iterable

from .._utils.prose import as_markdown, verbatim
from .._version import __version__
from .document import (
    Block,
    Bullets,
    Command,
    Document,
    Fold,
    Marks,
    Numbers,
    Paragraph,
    Part,
    People,
    Picture,
    Table,
    Text,
)
from .people import Written, mark_stars, marked


def render_markdown(document: Document, written: Written, folder: str) -> str:
    """Return a document as Markdown. Its pictures lie in `folder`, as ``NAME.png``."""
    lines = [f"# {as_markdown(document.title)}", ""]
    lines += [f"**{as_markdown(name)}:** {as_markdown(value)}  " for name, value in document.facts]
    parts = ["\n".join(lines)]
    for section in document.sections:
        if section.title:
            parts.append(f"## {as_markdown(section.title)}")
        parts += _blocks(section.blocks, written, folder)
    if document.kind == "postmortem":
        parts.append(mark_stars(written.stars))
    parts.append(f"Written by allocframe {__version__} from what Nomad knows. Times are UTC.")
    return "\n\n".join(filter(None, parts)) + "\n"


def _blocks(blocks: Iterable[Block], written: Written, folder: str, level: int = 3) -> list[str]:
    return [_block(block, written, folder, level) for block in blocks]


def _block(block: Block, written: Written, folder: str, level: int) -> str:
    if isinstance(block, Paragraph):
        return _text(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_text(item)}" for item in block.items)
    if isinstance(block, Numbers):
        head, rule = "| number | what it counts | |", "| ---: | --- | --- |"
        cells = [[each.value, each.label, each.note] for each in block.items]
        return "\n".join([head, rule, *(_row(row) for row in cells)])
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Command):
        # an indented block has no fence that a name could close
        return "\n".join(f"    {verbatim(line)}" for line in block.text.splitlines())
    if isinstance(block, Picture):
        return f"![{as_markdown(block.alt)}]({folder}/{block.name}.png)"
    if isinstance(block, Fold):
        inner = _blocks(block.blocks, written, folder, level + 1)
        body = "\n\n".join(inner)
        return f"<details>\n<summary>{as_markdown(block.title)}</summary>\n\n{body}\n\n</details>"
    if isinstance(block, Part):
        anchor = f'<a id="{block.anchor}"></a>\n\n' if block.anchor else ""
        head = f"{anchor}{'#' * level} {as_markdown(block.title)}"
        return "\n\n".join([head, *_blocks(block.blocks, written, folder, level + 1)])
    if isinstance(block, People):
        text = written.sections.get(block.key, f"{block.prompt}\n")
        return f"### {block.title}\n\n{marked(block.key, text)}"
    return ""  # what a browser runs


def _table(table: Table) -> str:
    if not table.rows:
        return "None."
    numeric = table.numeric or [False] * len(table.columns)
    head = _row(table.columns)
    rule = "| " + " | ".join("---:" if right else "---" for right in numeric) + " |"
    note = [f"\n{as_markdown(table.note)}."] if table.note else []
    return "\n".join([head, rule, *(_row(row) for row in table.rows), *note])


def _row(cells: Iterable[Text]) -> str:
    return "| " + " | ".join(_text(cell) or " " for cell in cells) + " |"


_text = Marks(
    words=as_markdown,
    strong=lambda text: f"**{as_markdown(text)}**",
    code=lambda text: f"<code>{as_markdown(text)}</code>",
    ref=lambda text, anchor: f"[{as_markdown(text)}](#{anchor})",
).write
