"""Counts and exposure of each task over its whole life, by the nodes' counter if its events are truncated."""

from __future__ import annotations

from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd

from . import vocabulary
from ._derived import Derived, Part
from ._source import collect, column_names

_US_PER_HOUR = 3_600_000_000


def task_life(derived: Derived, columns: list[str]) -> pd.DataFrame:
    """Return one row for each task: `columns`, restarts, failures and hours of running over its life.

    A truncated event history has lost restarts, and the nodes' counter knows how many. The same share of them
    counts as failures as of those that are left. The task is taken to have run since its allocation was
    created, less its mean pause for each lost restart.
    """
    lives = [_life_of_part(part, derived.task_columns, columns) for part in derived.split()]
    return lives[0] if len(lives) == 1 else pd.concat(lives, ignore_index=True)


def _life_of_part(part: Part, task_columns: list[str], columns: list[str]) -> pd.DataFrame:
    is_restart = (nw.col("type") == vocabulary.RESTART).fill_null(value=False)
    counts = (
        part.events.filter(nw.col("failure") | is_restart)
        .with_columns(
            _failures=nw.col("failure").cast(nw.Int64),
            _restarts=is_restart.cast(nw.Int64),
            _policy=nw.col("decision").str.starts_with("within policy").fill_null(value=False).cast(nw.Int64),
        )
        .group_by(*task_columns)
        .agg(*(nw.col(name).sum() for name in ("_failures", "_restarts", "_policy")))
    )
    spans = part.spans.with_columns(_length=nw.col("end_us") - nw.col("start_us")).group_by(*task_columns)
    ran = spans.agg(
        nw.col("_length").sum().alias("_up"),
        nw.col("start_us").min().alias("_first"),
        nw.col("end_us").max().alias("_last"),
        nw.len().alias("_runs"),
    )
    more = ("created_at_us", "restarts", "truncated", "first_seen_us")
    have = [name for name in more if name in column_names(part.tasks)]
    tasks = part.tasks.select(*dict.fromkeys([*task_columns, *columns, *have]))
    rows = collect(tasks.join(counts, on=task_columns, how="left").join(ran, on=task_columns, how="left"))
    return _extend(rows, columns)


def _extend(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return `columns`, restarts, failures and hours, with what the rings of truncated tasks have lost.

    Beside them stays what the rings show: `_failures`, and `_up` in microseconds.
    """

    kept = [*columns, "_failures", "_up"]

    def number(name: str, missing: float = 0.0) -> Any:
        if name not in rows.columns:
            return np.full(len(rows), missing)
        values = rows[name] if name in kept else rows.pop(name)
        return values.astype("Float64").fillna(missing).to_numpy(dtype="float64")

    seen, failures, up = number("_restarts"), number("_failures"), number("_up")
    cut = rows["truncated"].to_numpy(dtype=bool)
    lost = np.where(cut, np.maximum(number("restarts") - seen, 0), 0)
    # without a restart that is left, a lost one is taken for a failure: on request they are rare
    of_policy = np.where(seen > 0, number("_policy") / np.maximum(seen, 1), 1.0)
    pauses = np.maximum(number("_runs") - 1, 0)
    first = number("_first", np.nan)
    down = np.nan_to_num(np.maximum(number("_last") - first - up, 0))
    pause = np.where(pauses > 0, down / np.maximum(pauses, 1), 0)
    before = np.nan_to_num(first - number("created_at_us", np.nan))
    lost_up = np.where(cut, np.maximum(before - lost * pause, 0), 0)
    return rows[kept].assign(
        restarts=seen + lost, failures=failures + lost * of_policy, hours=(up + lost_up) / _US_PER_HOUR
    )
