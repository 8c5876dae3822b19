"""Numbers, times and counts as people write them; paragraphs and points in which names are safe."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable, Sequence

import pandas as pd

from .text import escaped, visible

_MARKUP = re.compile(r"([\\`*_\[\]|~$@#])")


def clock(moment: pd.Timestamp, after: pd.Timestamp | None = None) -> str:
    """Return a time for a sentence; without the date if it is on the same day as `after`."""
    if pd.isna(moment):
        return "an unknown time"
    same_day = after is not None and not pd.isna(after) and after.date() == moment.date()
    return f"{moment:%H:%M}" if same_day else f"{moment:%Y-%m-%d %H:%M}"


def count(amount: int, noun: str) -> str:
    """Return a number with its noun, which is given in the plural."""
    if amount != 1:
        return f"{amount:,} {noun}"
    if noun.endswith("ies"):
        return f"1 {noun.removesuffix('ies')}y"
    return f"1 {noun.removesuffix('es' if noun.endswith('shes') else 's')}"


def listed(things: Iterable[str], limit: int = 5) -> str:
    """Return things with commas, at most `limit`, and how many more there are; one more is written out.

    Examples
    --------
    >>> from allocframe._utils.prose import listed
    >>> listed("abcd", 3), listed("abcde", 3)
    ('a, b, c, d', 'a, b, c and 2 more')
    """
    things = list(things)
    if len(things) <= limit + 1:  # its name takes no more room than "and 1 more"
        return ", ".join(things)
    return f"{', '.join(things[:limit])} and {len(things) - limit:,} more"


def number(value: float) -> str:
    """Return a number with three significant digits."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def p_value(p: float) -> str:
    """Return a p value: nobody decides by how far it is below 0.0001."""
    return f"p = {p:.2g}" if p >= 1e-4 else "p < 0.0001"


def span(length: pd.Timedelta) -> str:
    """Return a duration in seconds, minutes or hours."""
    seconds = length.total_seconds()
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def percent(share: float) -> str:
    """Return a share as people write availability: 99.990 %, 87.1 %, 0 %.

    Examples
    --------
    >>> from allocframe._utils.prose import percent
    >>> percent(0.9999), percent(0.871), percent(0.0), percent(0.99999999)
    ('99.990 %', '87.1 %', '0 %', 'over 99.999 %')
    """
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if value > 99.9995:
        return "over 99.999 %"
    return f"{value:.3f} %" if value >= 99 else f"{value:.1f} %"


def markdown(value: object) -> str:
    """Return `value` as Markdown that shows it literally, without elements, emphasis or links."""
    text = html.escape(_MARKUP.sub(r"\\\1", visible(value)), quote=False)
    return text.replace("://", ":\\//").replace("www.", "www\\.")


class Prose:
    """Paragraphs and lists: a text is a paragraph, a sequence of texts is a list."""

    def __init__(self, *blocks: str | Sequence[str]) -> None:
        self.blocks: list[str | list[str]] = [
            block if isinstance(block, str) else list(block) for block in blocks if block
        ]

    @property
    def text(self) -> str:
        """Everything in one line."""
        return " ".join(block if isinstance(block, str) else " ".join(block) for block in self.blocks)

    def __str__(self) -> str:
        return "\n".join(
            one_line(text) for block in self.blocks for text in ([block] if isinstance(block, str) else block)
        )

    def __repr__(self) -> str:
        return "\n".join(
            _filled(block)
            if isinstance(block, str)
            else "\n".join(_filled(text, "- ", "  ") for text in block)
            for block in self.blocks
        )

    def _repr_html_(self) -> str:
        return "".join(
            f"<p>{as_html(block)}</p>"
            if isinstance(block, str)
            else f"<ul>{''.join(f'<li>{as_html(text)}</li>' for text in block)}</ul>"
            for block in self.blocks
        )

    def _repr_markdown_(self) -> str:
        return "\n\n".join(
            as_markdown(block)
            if isinstance(block, str)
            else "\n".join(f"- {as_markdown(text)}" for text in block)
            for block in self.blocks
        )


def one_line(text: str) -> str:
    """Return a text of any length as one line without control characters."""
    return " ".join(_pieces(text))


def _filled(text: str, first: str = "", others: str = "") -> str:
    return textwrap.fill(one_line(text), 110, initial_indent=first, subsequent_indent=others)


def verbatim(text: str) -> str:
    """Return a line of any length as it is, but without control characters, such as a command to copy."""
    # `visible` shortens text of more than 200 characters
    return "".join(visible(text[start : start + 190]) for start in range(0, len(text), 190))


def as_html(text: str) -> str:
    """Return a text of any length as HTML that is safe in an element."""
    return " ".join(html.escape(piece) for piece in _pieces(text))


def as_markdown(text: str) -> str:
    """Return a text of any length as Markdown that shows it literally."""
    return " ".join(markdown(piece) for piece in _pieces(text))


def _pieces(text: str) -> list[str]:
    """Cut a text between words, because `visible` shortens text of more than 200 characters."""
    return [visible(line) for line in textwrap.wrap(text, 190, break_on_hyphens=False)]


class Points:
    """A list of points, each a heading and its paragraphs."""

    def __init__(self, points: Iterable[tuple[str, Iterable[str]]]) -> None:
        self.points: list[tuple[str, list[str]]] = [(head, list(texts)) for head, texts in points]

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return "\n".join(
            "\n".join([f"* {visible(head)}", *(textwrap.indent(repr(Prose(text)), "  ") for text in texts)])
            for head, texts in self.points
        )

    def _repr_html_(self) -> str:
        return "".join(
            f"<section class='point'><h3>{escaped(head)}</h3>"
            f"{''.join(Prose(text)._repr_html_() for text in texts)}</section>"
            for head, texts in self.points
        )

    def _repr_markdown_(self) -> str:
        return "\n\n".join(
            "\n\n".join([f"### {markdown(head)}", *(Prose(text)._repr_markdown_() for text in texts)])
            for head, texts in self.points
        )
