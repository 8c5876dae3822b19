"""The list of allocations to choose from. Its order does not change while someone clicks. No widgets here."""

from __future__ import annotations

import pandas as pd

from ..._utils.text import visible
from ...client.client import Client

MAX_ROWS = 200
"""Rows to choose from. Nobody reads more, and browsers get slow."""

PER_PAGE = 10_000
"""Allocations in one response: most clusters fit into one, of a few megabytes without the tasks."""

MARKS = {"running": "●", "pending": "◐", "failed": "✕", "lost": "?", "unknown": "?", "complete": "○"}

_COLUMNS = ("alloc_id", "namespace", "name", "job_id", "node_name", "client_status", "desired_status")
_LABEL_COLUMNS = ("client_status", "desired_status", "name", "node_name", "namespace")
_MAX_WIDTH = 44
_STATUS_WIDTH = len("● complete")
_ORDER = {"running": 0, "pending": 1, "unknown": 2, "failed": 3, "lost": 4, "complete": 5}


def fetch(client: Client, namespace: str | None, expression: str | None) -> pd.DataFrame:
    """Fetch the allocations to choose from, without their tasks."""
    with client.snapshot(
        namespace=namespace, filter=expression, task_states=False, per_page=PER_PAGE, progress=False
    ) as snap:
        return snap.allocations


class AllocationList:
    """The last fetched allocations, and the rows that are shown.

    A new fetch adds rows, but it moves and removes none: a click must not hit another allocation than the one
    that was there.
    """

    def __init__(self) -> None:
        table = pd.DataFrame(columns=list(_COLUMNS), dtype="str")
        self.table: pd.DataFrame = table.set_index("alloc_id", drop=False)
        self.shown: tuple[str, ...] = ()
        self.matching: int = 0
        self._text: pd.Series = self.table["name"]
        self._last: dict[str, tuple[str, ...]] = {}

    def update(self, allocations: pd.DataFrame, text: str, *, reset: bool) -> None:
        """Replace the allocations. With `reset`, choose and sort the rows again."""
        table = allocations[list(_COLUMNS)].astype("str").fillna("")
        rank = table["client_status"].map(pd.Series(_ORDER)).fillna(2)
        table = table.assign(_rank=rank).sort_values(["_rank", "name", "alloc_id"], kind="stable")
        self.table = table.drop(columns="_rank").set_index("alloc_id", drop=False)
        # One lower-case text per allocation makes a search a single pass per word.
        joined = self.table[list(_COLUMNS)].apply(lambda column: column.str.lower())
        self._text = joined["alloc_id"].str.cat(joined[list(_COLUMNS[1:])], sep=" ")
        self.search(text, reset=reset)

    def search(self, text: str, *, reset: bool = True) -> None:
        """Show the first rows that contain every word of `text`."""
        matches = pd.Series(True, index=self._text.index)
        for word in text.lower().split():
            matches &= self._text.str.contains(word, regex=False)
        matching = self._text.index[matches]
        self.matching = len(matching)
        before = () if reset else self.shown
        already_shown = set(before)
        new = [identity for identity in matching[: MAX_ROWS + len(before)] if identity not in already_shown]
        self.shown = (*before, *new)[: max(MAX_ROWS, len(before))]
        self._last = {identity: self._row(identity) for identity in self.shown}

    def _row(self, identity: str) -> tuple[str, ...]:
        """Return the cells of an allocation's row. One that no longer exists keeps its last ones."""
        if identity in self.table.index:
            status, desired, *names = (str(self.table.at[identity, name]) for name in _LABEL_COLUMNS)
            stopping = desired != "run" and status in ("running", "pending")
            mark = f"{MARKS.get(status, '?')} {visible(status)}{' (stopping)' if stopping else ''}"
            return (mark, *map(visible, names))
        return ("✕ removed", *self._last.get(identity, ("", "?", "", ""))[1:])

    def namespace(self, identity: str) -> str | None:
        """Return the namespace of an allocation, or None if it no longer exists."""
        return str(self.table.at[identity, "namespace"]) if identity in self.table.index else None

    def options(self) -> list[tuple[str, str]]:
        """Return the rows as (label, ID), with aligned columns. No two labels are alike."""
        rows = [(identity, *self._last[identity]) for identity in self.shown]
        widths = [min(max((len(row[n]) for row in rows), default=0), _MAX_WIDTH) for n in range(1, 4)]
        widths[:1] = [max(_STATUS_WIDTH, *widths[:1])]
        short = pd.Series([row[0][:8] for row in rows], dtype="str")
        ambiguous = set(short[short.duplicated(keep=False)])
        return [
            (
                "\u00a0\u00a0".join([*map(_pad, row[1:4], widths), _short_id(row[0], ambiguous), row[4]]),
                row[0],
            )
            for row in rows
        ]

    def summary(self) -> str:
        """Say how many allocations there are, and how many are shown."""
        total = f"{len(self.table):,} allocations"
        if self.matching < len(self.table):
            total = f"{self.matching:,} of {total} match"
        if self.matching <= MAX_ROWS:
            return total
        return f"{total}. The first {MAX_ROWS} are shown; narrow the filter to see the others"


def _short_id(identity: str, ambiguous: set[str]) -> str:
    return identity if identity[:8] in ambiguous else identity[:8]


def _pad(text: str, width: int) -> str:
    """Pad or cut a text to a width, with no-break spaces: browsers drop ordinary ones in an option."""
    cut = text if len(text) <= width else text[: width - 1] + "…"
    return cut.ljust(width).replace(" ", "\u00a0")
