"""Numbers, times and counts as people write them; paragraphs and points that show names without obeying them."""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Iterable

import pandas as pd

from .text import escaped, visible

_MARKUP = re.compile(r"([\\`*_\[\]|~$@#])")


def clock(moment: pd.Timestamp, after: pd.Timestamp | None = None) -> str:
    """Return a moment as a sentence says it, without the day where that is the one of `after`."""
    same_day = after is not None and after.date() == moment.date()
    return f"{moment:%H:%M}" if same_day else f"{moment:%Y-%m-%d %H:%M}"


def count(amount: int, what: str) -> str:
    """Return a number with its noun, in the singular for one."""
    return (
        f"{amount:,} {what}"
        if amount != 1
        else f"1 {what.removesuffix('es' if what.endswith('shes') else 's')}"
    )


def number(value: float) -> str:
    """Return a number with three digits that count."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def span(length: pd.Timedelta) -> str:
    """Return a duration in the unit that suits it."""
    seconds = length.total_seconds()
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def markdown(value: object) -> str:
    """Return `value` as Markdown that shows it as it is: no element, emphasis or link is made of it."""
    text = html.escape(_MARKUP.sub(r"\\\1", visible(value)), quote=False)
    return text.replace("://", ":\\//").replace("www.", "www\\.")


class Prose:
    """One paragraph."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return "\n".join(_lines(self.text))

    def __repr__(self) -> str:
        return textwrap.fill(str(self), 110)

    def _repr_html_(self) -> str:
        return f"<p>{' '.join(html.escape(line) for line in _lines(self.text))}</p>"

    def _repr_markdown_(self) -> str:
        return " ".join(markdown(line) for line in _lines(self.text))


def _lines(text: str) -> list[str]:
    """Return a text in pieces short enough for `visible` to leave whole."""
    return [visible(line) for line in textwrap.wrap(text, 190, break_on_hyphens=False)]


class Points:
    """A list of points, each with a heading of its own where it has one."""

    def __init__(self, points: Iterable[tuple[str, Iterable[str]]]) -> None:
        self.points = [(head, list(texts)) for head, texts in points]

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        return "\n".join(
            "\n".join([f"* {visible(head)}", *(textwrap.indent(repr(Prose(text)), "  ") for text in texts)])
            for head, texts in self.points
        )

    def _repr_html_(self) -> str:
        return "".join(
            f"<section class='point'><h3>{escaped(head)}</h3>{''.join(Prose(text)._repr_html_() for text in texts)}</section>"
            for head, texts in self.points
        )

    def _repr_markdown_(self) -> str:
        return "\n\n".join(
            "\n\n".join([f"### {markdown(head)}", *(Prose(text)._repr_markdown_() for text in texts)])
            for head, texts in self.points
        )
