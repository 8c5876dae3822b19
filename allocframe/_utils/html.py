"""The pieces of HTML that results show in a notebook. Every text in them is escaped."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from .text import escaped

_LEFT = " style='text-align:left'"


def bullets(lines: Iterable[object]) -> str:
    """Return a list of lines."""
    return f"<ul>{''.join(f'<li>{escaped(line)}</li>' for line in lines)}</ul>"


def table(
    rows: Iterable[Sequence[object]], header: Sequence[str] = (), *, numbers: Collection[int] = ()
) -> str:
    """Return a table.

    Parameters
    ----------
    rows : iterable of sequences
        The cells of each row.
    header : sequence of str
        The names of the columns, if they are shown.
    numbers : collection of int
        Positions of the columns that notebooks should align as numbers; the others are aligned as text.
    """

    def cells(tag: str, row: Sequence[object]) -> str:
        sides = ("" if place in numbers else _LEFT for place in range(len(row)))
        return "".join(f"<{tag}{side}>{escaped(cell)}</{tag}>" for side, cell in zip(sides, row, strict=True))

    head = f"<thead><tr>{cells('th', header)}</tr></thead>" if header else ""
    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table>{head}<tbody>{body}</tbody></table>"


def summary(kind: str, title: object, lines: Iterable[object], middle: str = "") -> str:
    """Return the view of a result: its kind, title, `middle` (HTML), and lines that a reader must know."""
    return f"<div><strong>{escaped(kind)}</strong>: {escaped(title)}{middle}{bullets(lines)}</div>"
