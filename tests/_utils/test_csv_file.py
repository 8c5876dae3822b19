"""CSV files hold what pandas would write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import allocframe as af
from allocframe._utils.csv_file import write_csv
from allocframe._utils.text import without_formula


@pytest.mark.parametrize("name", ["allocations", "task_states", "events", "reschedules", "issues"])
def test_tables_are_written_byte_for_byte_as_pandas_writes_them(
    snap: af.Snapshot, name: str, tmp_path: Path
) -> None:
    frame = getattr(snap, name)
    # How pandas writes a duration depends on the others in the same thousand rows.
    frame = frame.drop(columns=[column for column in frame if frame[column].dtype.kind == "m"])
    write_csv(frame, tmp_path / "ours.csv")
    frame.to_csv(tmp_path / "theirs.csv", index=False)
    assert (tmp_path / "ours.csv").read_bytes() == (tmp_path / "theirs.csv").read_bytes()


def test_quotes_commas_line_ends_and_missing_values_are_read_back(tmp_path: Path) -> None:
    text = ['a,"b"', "two\nlines", "a\rb", None, "plain", "ü"]
    frame = pd.DataFrame(
        {
            "with, comma": pd.array(text, dtype="str"),
            "label": pd.Categorical(text),
            "number": pd.array([1, None, 2**64 - 1, 0, 3, 1], dtype="UInt64"),
            "float": np.array([1.5, np.nan, 1e300, -0.0, 3, 1]),
            "flag": pd.array([True, None, False, True, True, None], dtype="boolean"),
            "length": pd.to_timedelta([1, None, 2, 10**9, 0, 5], unit="ns"),
        }
    )
    write_csv(frame, tmp_path / "odd.csv")
    read = pd.read_csv(tmp_path / "odd.csv", dtype={"number": "UInt64", "flag": "boolean"})
    assert list(read) == list(frame)
    for name in ("with, comma", "label"):
        assert [None if pd.isna(value) else value for value in read[name]] == text
    assert read["number"].equals(frame["number"])
    assert read["float"].equals(frame["float"])
    assert read["flag"].equals(frame["flag"])
    assert pd.to_timedelta(read["length"]).equals(frame["length"])


def test_a_table_without_rows_has_its_header(tmp_path: Path) -> None:
    write_csv(pd.DataFrame({"a": pd.array([], "str"), "b": pd.array([], "Int64")}), tmp_path / "none.csv")
    assert (tmp_path / "none.csv").read_text() == "a,b\n"


def test_only_formulas_get_an_apostrophe_and_missing_texts_stay_missing() -> None:
    column = pd.Series(["=1+1", "plain", None, " -2", "=1+1"], dtype="str", index=[5, 6, 7, 8, 9])
    fixed = without_formula(column)
    assert fixed.fillna("missing").tolist() == ["'=1+1", "plain", "missing", "' -2", "'=1+1"]
    assert fixed.index.tolist() == [5, 6, 7, 8, 9]
