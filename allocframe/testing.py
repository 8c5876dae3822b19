"""Equality of tables and snapshots, for tests of code that uses them.

from allocframe.testing import assert_tables_equal
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pandas as pd

from .snapshot.snapshot import Snapshot
from .tables import SNAPSHOT_TABLES, TABLES

__all__ = ["assert_snapshots_equal", "assert_tables_equal"]

_MOST_TOLD = 5


def assert_tables_equal(left: pd.DataFrame, right: pd.DataFrame, table: str) -> None:
    """Fail unless two frames hold the same rows of a table, in whatever order.

    Rows are matched by the table's key. Categories that no row has, the index and pandas' attributes do not count; a column
    that differs in its dtype does.

    Parameters
    ----------
    left, right : pandas.DataFrame
    table : str
        allocations, task_states, events, reschedules or resources.

    Raises
    ------
    AssertionError
        Says which columns, rows or cells differ.

    Examples
    --------
    >>> from allocframe.testing import assert_tables_equal
    >>> assert_tables_equal(snap.events, snap.events.sample(frac=1, random_state=1), "events")
    >>> assert_tables_equal(snap.events, snap.events.head(3), "events")
    Traceback (most recent call last):
    AssertionError: events: ... rows are only in the left one, such as ...
    """
    key = [*(["cluster"] if "cluster" in left.columns else []), *TABLES[table].key]
    for side, frame in (("left", left), ("right", right)):
        missing = [name for name in key if name not in frame.columns]
        _check(not missing, f"{table}: the {side} one lacks the key {', '.join(missing)}")
        doubled = frame.loc[frame.duplicated(key), key]
        _check(doubled.empty, f"{table}: the {side} one has rows twice, such as {_told(doubled.to_numpy())}")
    unlike = sorted(set(left.columns) ^ set(right.columns))
    _check(not unlike, f"{table}: only one of them has the columns {', '.join(unlike)}")
    ours, theirs = _plain(left, key), _plain(right, key)
    for side, one, other in (("left", ours, theirs), ("right", theirs, ours)):
        only = one.index[~one.index.isin(other.index)]
        _check(only.empty, f"{table}: {len(only):,} rows are only in the {side} one, such as {_told(only)}")
    for name in ours.columns:
        _compare(table, ours[name], theirs[name])


def assert_snapshots_equal(left: Snapshot, right: Snapshot) -> None:
    """Fail unless two snapshots hold the same tables; how and when they were got does not count.

    Raises
    ------
    AssertionError
        Says in which table, and what differs.

    Examples
    --------
    >>> from allocframe.testing import assert_snapshots_equal
    >>> assert_snapshots_equal(snap, af.load(snap.save("outage.allocframe")))
    """
    for table in SNAPSHOT_TABLES:
        assert_tables_equal(getattr(left, table), getattr(right, table), table)


def _plain(frame: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Return a frame by its key and in the order of it, with text for categories."""
    repeated = frame.select_dtypes("category").columns
    plain = frame.astype({name: frame[name].cat.categories.dtype for name in repeated})
    return plain.set_index(key, drop=False).sort_index()


def _compare(table: str, ours: pd.Series[Any], theirs: pd.Series[Any]) -> None:
    """Fail unless two columns, in the same order, hold the same."""
    kinds = f"{ours.dtype} in the left one and {theirs.dtype} in the right one"
    _check(ours.dtype == theirs.dtype, f"{table}: {ours.name} is {kinds}")
    mine, its = ours.array, theirs.array
    differ = ~(pd.isna(mine) & pd.isna(its)) & pd.array(mine != its, dtype="boolean").fillna(True).to_numpy(
        dtype=bool
    )
    rows = [f"{_told([ours.index[n]])}: {mine[n]!r} and {its[n]!r}" for n in differ.nonzero()[0][:_MOST_TOLD]]
    _check(not rows, f"{table}: {ours.name} differs in {int(differ.sum()):,} rows: {'; '.join(rows)}")


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def _told(keys: Iterable[Any]) -> str:
    first = itertools.islice(keys, _MOST_TOLD)
    return "; ".join(key if isinstance(key, str) else " ".join(map(str, key)) for key in first)
