"""How an append is written: part by part, of which none counts before all are there."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Sequence

import pyarrow as pa

from .._utils.memory import give_back
from ..watch.change import Change
from .delta import Tables
from .encode import rows

_LIMIT_S = 1800
"""An append that takes longer than this does not count; what it left may then be cleared away."""

_ROWS = 250_000
"""Rows that wait for a commit: fewer, and files are small; more, and they take memory."""


def append(
    tables: Tables, parts: Iterable[Sequence[Change]], recorder: str, indexes: dict[str, int | None]
) -> None:
    """Write parts of one batch, and last the observations, whose rows make it count.

    Raises
    ------
    OSError
        It could not be written.
    """
    batch, started = f"{time.time_ns():016x}{secrets.token_hex(4)}", time.monotonic()
    index = indexes.get(recorder)
    waiting: dict[str, list[pa.Table]] = {}
    observed: list[pa.Table] = []
    for part in parts:
        told = rows(part, batch, recorder, index, sum(map(len, observed)))
        index = part[-1].index
        observed.append(told.pop("snapshots"))
        for name, found in told.items():
            waiting.setdefault(name, []).append(found)
        tables.make()
        if sum(len(one) for found in waiting.values() for one in found) >= _ROWS:
            _write(tables, waiting)
            give_back()
    _write(tables, waiting)
    if time.monotonic() - started > _LIMIT_S:
        raise TimeoutError(f"an append to {tables.where} took over {_LIMIT_S} s; give it again")
    if observed:
        tables.append("snapshots", pa.concat_tables(observed))
        indexes[recorder] = index


def _write(tables: Tables, waiting: dict[str, list[pa.Table]]) -> None:
    """Write what waits, a commit for each table: few large files are read faster than many small ones."""
    for name, found in waiting.items():
        tables.append(name, pa.concat_tables(found))
    waiting.clear()
