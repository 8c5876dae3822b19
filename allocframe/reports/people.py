"""Sections that people write, and how they survive when a report is made again."""

from __future__ import annotations

import hashlib
import re
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ConfigError

# At the beginning of a line: log lines and names, which stand in the report, too, never begin one.
_SECTION = re.compile(
    r"^<!-- people: (?P<key>[a-z-]+) -->\r?\n(?P<text>.*?)^<!-- end of people: (?P=key) -->\r?$",
    re.MULTILINE | re.DOTALL,
)
_STARS = re.compile(r"^<!-- stars:(?P<keys>[ 0-9a-f]*) -->\r?$", re.MULTILINE)
_TAG = re.compile(r"<[^>]*>")
_SEAL = re.compile(
    r"^<!-- as written: (?P<rest>[0-9a-f]{16}) (?P<people>[0-9a-f]{16}|-) -->\r?\n?", re.MULTILINE
)


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
            "'<!-- people: lessons -->', so nothing was written"
        )
    keys = [match["key"] for match in found]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ConfigError(f"update {path} has the section {twice[0]} twice; remove one of them")
    opened = re.findall(r"^<!-- people: ([a-z-]+) -->\r?$", text, re.MULTILINE)
    if lost := [key for key in opened if key not in keys]:
        raise ConfigError(
            f"update {path}: the section {lost[0]} has no end. Put back its line "
            f"'<!-- end of people: {lost[0]} -->'"
        )
    stars = _STARS.search(text)
    sections = {match["key"]: match["text"] for match in found}
    return Written(sections, stars["keys"].split() if stars else [], path.suffix)


def sealed(text: str, prompts: Iterable[str]) -> str:
    """Return a report with a last line that shows a later run whether somebody has changed it.

    `prompts` are what stands in the sections for people until they write there.
    """
    sections = (_TAG.sub("", match["text"]).strip() for match in _SECTION.finditer(text))
    people = "-" if set(sections) - set(prompts) else _digest(_words(text))
    return f"{text}<!-- as written: {_digest(_SECTION.sub('', text))} {people} -->\n"


def keep_copy(target: Path, *, updates: bool) -> None:
    """Copy a file that is about to be replaced, and say so, if something that somebody typed would be lost.

    The copy is ``NAME.bak``, or the first of ``NAME.bak2``, ``NAME.bak3``, ... that is free.

    Parameters
    ----------
    target : Path
        The file that is about to be replaced.
    updates : bool
        What stands in its sections for people will be in the new one, too.
    """
    if not target.is_file() or _is_as_written(target, updates=updates):
        return
    number, copy = 1, target.with_name(f"{target.name}.bak")
    while copy.exists():
        number += 1
        copy = target.with_name(f"{target.name}.bak{number}")
    shutil.copy2(target, copy)
    why = (
        f"{target} was changed outside its sections for people, and the new report lacks these changes."
        if updates
        else f"{target} was not a report, or people had written into it. Use update to keep their words."
    )
    warnings.warn(f"{why} The old file is kept as {copy.name}.", stacklevel=4)


def _is_as_written(path: Path, *, updates: bool) -> bool:
    text = path.read_bytes().decode("utf-8", errors="replace")
    seal = _SEAL.search(text)
    if seal is None:
        return False
    text = _SEAL.sub("", text)
    same = seal["rest"] == _digest(_SECTION.sub("", text))
    return same and (updates or seal["people"] == _digest(_words(text)))


def _words(text: str) -> str:
    """Return what stands in the sections for people."""
    return "\n".join(match["text"] for match in _SECTION.finditer(text))


def _digest(text: str) -> str:
    # editors cut spaces at the ends of lines, and change the ends of lines
    lines = "\n".join(line.rstrip() for line in text.splitlines())
    return hashlib.sha256(lines.strip().encode()).hexdigest()[:16]
