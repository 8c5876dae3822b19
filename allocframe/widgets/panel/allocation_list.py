"""The list to choose from: which allocations match, in an order that does not change under the hand. No widgets."""

from __future__ import annotations

import pandas as pd

from ..._utils.text import visible
from ...client.client import Client

SHOWN = 200
"""Rows to choose from: more cannot be looked through, and make browsers slow."""

PER_PAGE = 10_000
"""Allocations asked for at a time: most clusters in one answer, of a few megabytes without the tasks."""

MARKS = {"running": "●", "pending": "◐", "failed": "✕", "lost": "?", "unknown": "?", "complete": "○"}

_COLUMNS = ("alloc_id", "namespace", "name", "job_id", "node_name", "client_status", "desired_status")
_SHOWN = ("client_status", "desired_status", "name", "node_name", "namespace")
_WIDEST = 44
_STATUS = len("● complete")
_ORDER = {"running": 0, "pending": 1, "unknown": 2, "failed": 3, "lost": 4, "complete": 5}


def fetch(client: Client, namespace: str | None, expression: str | None) -> pd.DataFrame:
    """Return the allocations to choose from, without their tasks."""
    with client.snapshot(
        namespace=namespace, filter=expression, task_states=False, per_page=PER_PAGE, progress=False
    ) as snap:
        return snap.allocations


class Listing:
    """What was fetched last, and the rows of it that are shown.

    Fetching again neither moves nor removes a row, it only adds some: what is clicked at that moment stays what it was.
    """

    def __init__(self) -> None:
        self.table = pd.DataFrame(columns=list(_COLUMNS), dtype="str").set_index("alloc_id", drop=False)
        self.shown: tuple[str, ...] = ()
        self.matching = 0
        self._text: pd.Series = self.table["name"]
        self._last: dict[str, tuple[str, ...]] = {}

    def take(self, allocations: pd.DataFrame, needle: str, *, anew: bool) -> None:
        """Take in what was fetched; with `anew` the rows are chosen and ordered afresh."""
        table = allocations[list(_COLUMNS)].astype("str").fillna("")
        rank = table["client_status"].map(pd.Series(_ORDER)).fillna(2)
        table = table.assign(_rank=rank).sort_values(["_rank", "name", "alloc_id"], kind="stable")
        self.table = table.drop(columns="_rank").set_index("alloc_id", drop=False)
        joined = self.table[list(_COLUMNS)].apply(lambda column: column.str.lower())
        self._text = joined["alloc_id"].str.cat(joined[list(_COLUMNS[1:])], sep=" ")
        self.find(needle, anew=anew)

    def find(self, needle: str, *, anew: bool = True) -> None:
        """Show the first rows that hold every word of `needle`."""
        fits = pd.Series(True, index=self._text.index)
        for word in needle.lower().split():
            fits &= self._text.str.contains(word, regex=False)
        found = self._text.index[fits]
        self.matching = len(found)
        kept = () if anew else self.shown
        known = set(kept)
        new = [identity for identity in found[: SHOWN + len(kept)] if identity not in known]
        self.shown = (*kept, *new)[: max(SHOWN, len(kept))]
        self._last = {identity: self._row(identity) for identity in self.shown}

    def _row(self, identity: str) -> tuple[str, ...]:
        """Return what is shown of an allocation; of one that has gone, what was known last."""
        if identity in self.table.index:
            status, desired, *names = (str(self.table.at[identity, name]) for name in _SHOWN)
            stopping = desired != "run" and status in ("running", "pending")
            mark = f"{MARKS.get(status, '?')} {visible(status)}{' (stopping)' if stopping else ''}"
            return (mark, *map(visible, names))
        return ("✕ gone", *self._last.get(identity, ("", "?", "", ""))[1:])

    def namespace(self, identity: str) -> str | None:
        """Return the namespace of an allocation that is listed."""
        return str(self.table.at[identity, "namespace"]) if identity in self.table.index else None

    def options(self) -> list[tuple[str, str]]:
        """Return the rows as (label, ID): columns of one width, and no two labels alike."""
        rows = [(identity, *self._last[identity]) for identity in self.shown]
        widths = [min(max((len(row[n]) for row in rows), default=0), _WIDEST) for n in range(1, 4)]
        widths[:1] = [max(_STATUS, *widths[:1])]
        short = pd.Series([row[0][:8] for row in rows], dtype="str")
        twice = set(short[short.duplicated(keep=False)])
        return [
            ("\u00a0\u00a0".join([*map(_padded, row[1:4], widths), _identity(row[0], twice), row[4]]), row[0])
            for row in rows
        ]

    def counted(self) -> str:
        """Say how many there are, and how many of them are shown."""
        total = f"{len(self.table):,} allocations"
        if self.matching < len(self.table):
            total = f"{self.matching:,} of {total} match"
        more = self.matching - SHOWN
        return (
            total if more <= 0 else f"{total}; the first {SHOWN} are shown, {more:,} more: narrow the filter"
        )


def _identity(identity: str, twice: set[str]) -> str:
    return identity if identity[:8] in twice else identity[:8]


def _padded(text: str, width: int) -> str:
    """Return text of one width; browsers keep no-break spaces in an option."""
    cut = text if len(text) <= width else text[: width - 1] + "…"
    return cut.ljust(width).replace(" ", "\u00a0")
