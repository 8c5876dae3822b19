"""Tables for people to read, in notebooks and reports; names in them are shown and never obeyed."""

from __future__ import annotations

import html
import numbers
from typing import Any

import pandas as pd

from .._utils.prose import as_markdown, number, percent, span, verbatim
from .._utils.text import visible

_LONG_CELL = 45
_HEADINGS = {
    "job_id": "job", "job_version": "version", "alloc_id": "allocation", "node_name": "node",
    "task_group": "group", "client_status": "status",
}  # fmt: skip
_SHARES = ("availability", "availability_before", "used", "used_most", "full_share", "truncated_share")
_LONGEST_TEXT = 2_000
_IDS = ("alloc_id", "node_id", "eval_id", "chain_id", "replaced_by")


class FormattedTable:
    """A table for people to read, made by `format_table`."""

    def __init__(self, columns: list[str], rows: list[list[str]], numeric: list[bool], hidden: int) -> None:
        self.columns: list[str] = columns
        self.rows: list[list[str]] = rows
        self.numeric: list[bool] = numeric
        self.left_out: str = count_left_out(hidden)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        if not self.rows:
            return "none"
        cells = [self.columns, *self.rows]
        widths = [max(len(row[n]) for row in cells) for n in range(len(self.columns))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
        return "\n".join([*lines, *([self.left_out] if self.left_out else [])])

    def _repr_html_(self) -> str:
        if not self.rows:
            return "<p>None.</p>"
        long = [any(len(row[n]) > _LONG_CELL for row in self.rows) for n in range(len(self.columns))]
        sides = [
            "class='long' style='text-align:left;white-space:normal;min-width:15rem'" if wide
            else f"style='text-align:{'right' if number else 'left'}'"
            for wide, number in zip(long, self.numeric, strict=True)
        ]  # fmt: skip

        def line(cells: list[str], tag: str) -> str:
            pairs = zip(cells, sides, strict=True)
            texts = [f"<{tag} {side}>{html.escape(verbatim(cell))}</{tag}>" for cell, side in pairs]
            return f"<tr>{''.join(texts)}</tr>"

        body = "".join(line(row, "td") for row in self.rows)
        more = f"<p>{self.left_out}.</p>" if self.left_out else ""
        table = f"<table><thead>{line(self.columns, 'th')}</thead><tbody>{body}</tbody></table>"
        return f"<div class='table' style='overflow-x:auto'>{table}</div>{more}"

    def _repr_markdown_(self) -> str:
        if not self.rows:
            return "None."
        rule = ["---:" if number else "---" for number in self.numeric]
        rows = [[as_markdown(cell) for cell in row] for row in [self.columns, *self.rows]]
        lines = [f"| {' | '.join(row)} |" for row in [rows[0], rule, *rows[1:]]]
        return "\n".join(lines) + (f"\n\n{self.left_out}." if self.left_out else "")


def count_left_out(hidden: int) -> str:
    """Return the note below a table on the rows that it does not show; empty without any."""
    return f"{hidden:,} more row{'s are' if hidden > 1 else ' is'} not shown" if hidden else ""


def format_table(frame: pd.DataFrame, *, rows: int = 20) -> FormattedTable:
    """Format the first rows of a table for people to read.

    Times are cut to seconds, durations and numbers are rounded, IDs are shortened to eight characters as in
    the Nomad CLI, and missing values are blank. Markup in names is shown as it is, in HTML as well as in
    Markdown.

    Parameters
    ----------
    frame : pandas.DataFrame
        Any table of a snapshot or of `stats`.
    rows : int
        How many to show. The result says how many more there are.

    Examples
    --------
    >>> from datetime import timedelta
    >>> import pandas as pd
    >>> af.format_table(pd.DataFrame({"job_id": ["web"], "median_run": [timedelta(seconds=4.2)]}))
    job   median run
    web        4.2 s
    """
    shown = frame.head(rows)
    columns = [_heading(str(name)) for name in shown.columns]
    numeric = [_is_number(shown[name]) for name in shown.columns]
    cells = [[_cell(value, str(name)) for value in shown[name]] for name in shown.columns]
    return FormattedTable(
        columns, [list(row) for row in zip(*cells, strict=True)], numeric, len(frame) - len(shown)
    )


def _heading(name: str) -> str:
    return _HEADINGS.get(name) or visible(name).replace("_", " ")


def _is_number(column: pd.Series[Any]) -> bool:
    kinds = pd.api.types
    return (kinds.is_numeric_dtype(column) and not kinds.is_bool_dtype(column)) or kinds.is_timedelta64_dtype(
        column
    )


def _cell(value: Any, name: str) -> str:
    if isinstance(value, list | tuple):
        return visible(", ".join(map(str, value)))
    if pd.isna(value):
        return ""
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, pd.Timedelta):
        return span(value)
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    if isinstance(value, numbers.Real):
        return percent(float(value)) if name in _SHARES else number(float(value))
    text = str(value)
    if name in _IDS:
        return visible(text)[:8]
    # a sentence, such as an error, is worth its length
    return verbatim(text) if len(text) <= _LONGEST_TEXT else visible(text)
