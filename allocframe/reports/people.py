"""Sections that people write, and how they survive when a report is made again."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError

# At the beginning of a line: log lines and names, which stand in the report, too, never begin one.
_SECTION = re.compile(
    r"^<!-- people: (?P<key>[a-z-]+) -->\r?\n(?P<text>.*?)^<!-- end of people: (?P=key) -->\r?$",
    re.MULTILINE | re.DOTALL,
)
_STARS = re.compile(r"^<!-- stars:(?P<keys>[ 0-9a-f]*) -->\r?$", re.MULTILINE)


@dataclass(frozen=True)
class Written:
    """What people have written into a report.

    Attributes
    ----------
    sections : dict
        Their text by the key of its section, byte for byte.
    stars : list of str
        Lines of the timeline that they chose.
    form : str
        ".html" or ".md", the form of the file it was written in.
    """

    sections: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    form: str = ""


def marked(key: str, text: str) -> str:
    """Return a section of people between its marks."""
    end = "" if not text or text.endswith("\n") else "\n"
    return f"<!-- people: {key} -->\n{text}{end}<!-- end of people: {key} -->"


def mark_stars(stars: list[str]) -> str:
    """Return the mark that holds the chosen lines."""
    return f"<!-- stars:{''.join(f' {key}' for key in stars)} -->"


def read_written(path: Path) -> Written:
    """Return what people have written into a report.

    Raises
    ------
    ConfigError
        There is no such file, or it is no postmortem of allocframe.
    """
    try:
        # newlines as they are: what people wrote is kept byte for byte
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"update {path} cannot be read: {error}") from None
    found = list(_SECTION.finditer(text))
    if not found:
        raise ConfigError(
            f"update {path} must be a postmortem that allocframe wrote. It has no line such as "
            "'<!-- people: lessons -->', so nothing was written."
        )
    keys = [match["key"] for match in found]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ConfigError(f"update {path} has the section {twice[0]} twice; remove one of them")
    opened = re.findall(r"^<!-- people: ([a-z-]+) -->\r?$", text, re.MULTILINE)
    if lost := [key for key in opened if key not in keys]:
        raise ConfigError(
            f"update {path}: the section {lost[0]} has no end. Put back its line "
            f"'<!-- end of people: {lost[0]} -->'."
        )
    stars = _STARS.search(text)
    sections = {match["key"]: match["text"] for match in found}
    return Written(sections, stars["keys"].split() if stars else [], path.suffix)
