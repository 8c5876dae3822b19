"""The rules on arrays, for pandas, give what DuckDB gives, whatever dtypes and order a frame has."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from tables import plain

import allocframe as af
from allocframe import stats
from allocframe.stats._arrays import Arrays
from allocframe.stats._expressions import InEngine, nw

KEY = ("alloc_id", "task", "seq")
COLUMNS = [*KEY, "attempt", "exit_meaning", "oom", "failure", "decision", "cause"]

FRAME = pd.DataFrame(
    {
        "group": [2, 1, 2, 1, 2, 3],
        "seq": [1, 1, 0, 0, 2, 0],
        "number": pd.array([5, None, 3, 7, None, None], dtype="Int64"),
        "flag": pd.array([True, False, None, True, None, False], dtype="boolean"),
        "text": pd.array(["Exit 1", None, "ok", "Exit 2", "", None], dtype="str"),
        "kind": pd.Categorical(["a", "b", None, "a", "c", "b"]),
        "nothing": pd.array([None] * 6, dtype="str"),
    }
)
NUMBER, FLAG, TEXT, KIND = (nw.col(name) for name in ("number", "flag", "text", "kind"))
EXPRESSIONS: dict[str, Any] = {
    "a comparison": NUMBER > 4,
    "texts of two columns": nw.coalesce(TEXT, KIND.cast(nw.String)) == "b",
    "and": FLAG & (NUMBER > 4),
    "or": FLAG | (NUMBER > 4),
    "not": ~FLAG,
    "a sum": NUMBER * 2 + nw.col("seq"),
    "among numbers": NUMBER.is_in([3, 9]),
    "among texts": KIND.is_in(["a", "z"]),
    "missing": NUMBER.is_null(),
    "filled": NUMBER.fill_null(0),
    "a beginning": TEXT.str.starts_with("Exit").fill_null(value=False),
    "cases": nw.when(KIND == "a").then(nw.lit(1)).when(FLAG).then(NUMBER).otherwise(nw.col("seq")),
    "an open case": nw.when(NUMBER > 4).then(nw.lit("large")).when(NUMBER > 2).then(TEXT),
    "by text": KIND.replace_strict(["a", "b"], [10, 20], default=None, return_dtype=nw.Int64),
    "by number": NUMBER.replace_strict([7, 5], ["seven", "five"], default=None, return_dtype=nw.String),
    "the first": nw.coalesce("number", nw.when(FLAG).then(nw.lit(1)), nw.lit(0)),
    "the largest": nw.max_horizontal("number", "seq"),
    "before": NUMBER.shift(1).over("group", order_by="seq"),
    "after": TEXT.shift(-1).over("group", order_by="seq"),
    "largest so far": nw.col("seq").cum_max().over("group", order_by="seq"),
    "sum so far": nw.col("seq").cum_sum().over("group", order_by="seq"),
    "largest of all": NUMBER.max().over("group"),
    "a column of nothing": nw.col("nothing") == "x",
}


def _in_duckdb(frame: pd.DataFrame) -> Any:
    import narwhals

    return InEngine(narwhals.from_native(duckdb.from_df(frame)).lazy())


def _rows(frame: Any, *order: str) -> list[tuple[Any, ...]]:
    native = frame.to_pandas() if isinstance(frame, Arrays) else frame.frame.collect("pandas").to_native()
    return plain(native.astype(object), *order)


def test_every_expression_is_that_of_duckdb() -> None:
    expressions = {name.replace(" ", "_"): expression for name, expression in EXPRESSIONS.items()}
    both = [
        frame.with_columns(**expressions).select("group", "seq", *expressions)
        for frame in (Arrays.of(FRAME), _in_duckdb(FRAME))
    ]
    here, there = (_rows(frame, "group", "seq") for frame in both)
    for place, name in enumerate(["group", "seq", *expressions]):
        assert [row[place] for row in here] == [row[place] for row in there], name


def test_groups_joins_and_filters_are_those_of_duckdb() -> None:
    names = pd.DataFrame({"kind": ["b", "a"], "weight": [20, 10], "label": pd.Categorical(["y", "x"])})
    found = []
    for make in (Arrays.of, _in_duckdb):
        frame, other = make(FRAME), make(names)
        grouped = frame.group_by("group").agg(
            NUMBER.min().alias("least"), NUMBER.max().alias("most"), nw.len().alias("rows")
        )
        joined = frame.join(other, on="kind", how="left").select("group", "seq", "weight", "label")
        chosen = frame.filter(NUMBER > 4).select("group", "number")
        found.append(
            [_rows(grouped, "group"), _rows(joined, "group", "seq"), _rows(chosen, "group", "number")]
        )
    assert found[0] == found[1]


def test_text_is_not_compared_with_numbers() -> None:
    with pytest.raises(TypeError, match="text cannot be compared with numbers"):
        Arrays.of(FRAME).with_columns(wrong=TEXT == 1)


def _as_objects(events: pd.DataFrame) -> pd.DataFrame:
    """Return events as Python objects, with None where a value is missing."""
    return events.astype(object).where(events.notna(), None).assign(time=events["time"])


def _as_floats(events: pd.DataFrame) -> pd.DataFrame:
    """Return events with the dtypes that a CSV file gives."""
    numbers = {name: events[name].astype("float64") for name in ("exit_code", "signal")}
    empty = {name: np.nan for name in events if events[name].isna().all()}
    return events.assign(**numbers, **empty)


def _in_disorder(events: pd.DataFrame) -> pd.DataFrame:
    return events.sample(frac=1, random_state=1)


@pytest.mark.parametrize("change", [_as_objects, _as_floats, _in_disorder])
def test_events_are_explained_alike_whatever_their_dtypes_and_order(snap: af.Snapshot, change: Any) -> None:
    events = change(snap.events)
    explained = stats.explain_events(events)
    assert explained["time"].tolist() == events["time"].tolist()
    assert plain(explained[COLUMNS], *KEY) == plain(stats.explain_events(snap)[COLUMNS], *KEY)
    here, there = (stats.failures(source, by="job_id") for source in (events, snap.events))
    assert plain(here, "job_id") == plain(there, "job_id")
