"""Compare tables and snapshots in tests: ``from allocframe.testing import assert_tables_equal``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pandas as pd

from .snapshot.snapshot import Snapshot
from .tables import SNAPSHOT_TABLES, TABLES

__all__ = ["assert_snapshots_equal", "assert_tables_equal"]

_MAX_SHOWN = 5
"""Rows that a message shows."""


def assert_tables_equal(left: pd.DataFrame, right: pd.DataFrame, table: str) -> None:
    """Fail unless two DataFrames hold the same rows of a table, in any order.

    Rows are matched by the table's key. Dtypes count; unused categories, the index and pandas' attributes do
    not.

    Parameters
    ----------
    left, right : pandas.DataFrame
    table : str
        allocations, task_states, events, reschedules or resources.

    Raises
    ------
    AssertionError
        They differ; the message shows the columns, rows or cells.

    Examples
    --------
    >>> from allocframe.testing import assert_tables_equal
    >>> assert_tables_equal(snap.events, snap.events.sample(frac=1, random_state=1), "events")
    >>> assert_tables_equal(snap.events, snap.events.head(3), "events")
    Traceback (most recent call last):
    AssertionError: events: ... rows are only in left, such as ...
    """
    key = [*(["cluster"] if "cluster" in left.columns else []), *TABLES[table].key]
    for side, frame in (("left", left), ("right", right)):
        missing = [name for name in key if name not in frame.columns]
        _check(not missing, f"{table}: {side} lacks the key {', '.join(missing)}")
        duplicates = frame.loc[frame.duplicated(key), key]
        shown = _format_keys(duplicates.to_numpy())
        _check(duplicates.empty, f"{table}: {side} has duplicate rows, such as {shown}")
    unshared = sorted(set(left.columns) ^ set(right.columns))
    _check(not unshared, f"{table}: only one side has the columns {', '.join(unshared)}")
    left, right = _normalize(left, key), _normalize(right, key)
    for side, frame, other in (("left", left, right), ("right", right, left)):
        only = frame.index[~frame.index.isin(other.index)]
        _check(only.empty, f"{table}: {len(only):,} rows are only in {side}, such as {_format_keys(only)}")
    for name in left.columns:
        _compare(table, left[name], right[name])


def assert_snapshots_equal(left: Snapshot, right: Snapshot) -> None:
    """Fail unless two snapshots hold the same tables. When and how they were fetched does not count.

    Raises
    ------
    AssertionError
        They differ; the message names the table and shows the difference.

    Examples
    --------
    >>> from allocframe.testing import assert_snapshots_equal
    >>> assert_snapshots_equal(snap, af.load(snap.save("outage.allocframe")))
    """
    for table in SNAPSHOT_TABLES:
        assert_tables_equal(getattr(left, table), getattr(right, table), table)


def _normalize(frame: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Return a DataFrame sorted by its key, with text instead of categories."""
    categories = frame.select_dtypes("category").columns
    plain = frame.astype({name: frame[name].cat.categories.dtype for name in categories})
    return plain.set_index(key, drop=False).sort_index()


def _compare(table: str, left: pd.Series[Any], right: pd.Series[Any]) -> None:
    """Fail unless two columns, in the same order, hold the same values."""
    dtypes = f"{left.dtype} in left and {right.dtype} in right"
    _check(left.dtype == right.dtype, f"{table}: {left.name} is {dtypes}")
    ours, theirs = left.array, right.array
    unequal = pd.array(ours != theirs, dtype="boolean").fillna(True).to_numpy(dtype=bool)
    # NA equals only NA here.
    differ = ~(pd.isna(ours) & pd.isna(theirs)) & unequal
    rows = [
        f"{_format_keys([left.index[place]])}: {ours[place]!r} and {theirs[place]!r}"
        for place in differ.nonzero()[0][:_MAX_SHOWN]
    ]
    _check(not rows, f"{table}: {left.name} differs in {int(differ.sum()):,} rows: {'; '.join(rows)}")


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _format_keys(keys: Iterable[Any]) -> str:
    shown = itertools.islice(keys, _MAX_SHOWN)
    return "; ".join(key if isinstance(key, str) else " ".join(map(str, key)) for key in shown)
