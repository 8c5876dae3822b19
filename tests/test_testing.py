"""The helpers for users' own tests see every difference that counts, and no other."""

from __future__ import annotations

import re

import pandas as pd
import pytest

import allocframe as af
from allocframe.testing import assert_snapshots_equal, assert_tables_equal


def changed(frame: pd.DataFrame, column: str, value: object) -> pd.DataFrame:
    copy = frame.copy()
    copy.loc[copy.index[1], column] = value
    return copy


def test_order_index_attributes_and_unused_categories_do_not_count(snap: af.Snapshot) -> None:
    shuffled = snap.events.sample(frac=1, random_state=2).reset_index(drop=True)
    shuffled.attrs.clear()
    shuffled["job_id"] = shuffled["job_id"].cat.add_categories(["never-seen"])
    assert_tables_equal(snap.events, shuffled, "events")
    assert_snapshots_equal(snap, snap)


@pytest.mark.parametrize(
    ("table", "change", "message"),
    [
        ("events", lambda frame: frame.head(5), r"events: [\d,]+ rows are only in left, such as \w+"),
        ("events", lambda frame: changed(frame, "message", "x"), "message differs in 1 rows: .* and 'x'"),
        ("events", lambda frame: changed(frame, "exit_code", 3),
         "exit_code differs in 1 rows: .*<NA> and .*3"),
        ("events", lambda frame: changed(frame, "time", pd.NaT), "events: time differs in 1 rows"),
        ("events", lambda frame: frame.drop(columns="type"), "events: only one side has the columns type"),
        ("events", lambda frame: frame.drop(columns="seq"), "events: right lacks the key seq"),
        ("events", lambda frame: pd.concat([frame, frame.head(1)]), "events: right has duplicate rows"),
        ("resources", lambda frame: frame.astype({"cpu_mhz": "float64"}),
         "cpu_mhz is Int64 in left and float64"),
    ],
)  # fmt: skip
def test_a_difference_is_an_error_that_shows_it(
    snap: af.Snapshot, table: str, change: object, message: str
) -> None:
    frame = getattr(snap, table)
    with pytest.raises(AssertionError) as caught:
        assert_tables_equal(frame, change(frame), table)  # type: ignore[operator]
    assert re.search(message, str(caught.value))


def test_snapshots_that_differ_are_an_error(snap: af.Snapshot) -> None:
    with pytest.raises(AssertionError, match=r"allocations: .* only in left"):
        assert_snapshots_equal(snap, snap.filter(job_id="checkout"))
