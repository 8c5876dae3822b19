"""Spans: when each attempt of a task ran, and whether either end of it is cut."""

from __future__ import annotations

from typing import Any

from . import vocabulary
from ._attempts import ATTEMPT
from ._expressions import nw


def cut_spans(
    attempts: nw.LazyFrame[Any], tasks: nw.LazyFrame[Any], task_columns: list[str], observed_us: int
) -> nw.LazyFrame[Any]:
    """Return one row for each attempt that ran: `start_us`, `end_us`, and whether either is cut.

    A run whose `Started` is gone from the ring begins with its first event that is left.
    """
    frame = attempts.join(tasks, on=task_columns, how="left")
    columns = set(frame.collect_schema().names())
    never = nw.when(
        nw.col("events") < 0
    )  # a typed column of missing values; not every engine casts a literal
    for name in {"state", "client_status"} - columns:
        frame = frame.with_columns(never.then(nw.lit("")).alias(name))
    for name in {"started_at_us", "finished_at_us", "modified_at_us"} - columns:
        frame = frame.with_columns(never.then(nw.col("first_us")).alias(name))
    last = nw.col(ATTEMPT) == nw.col(ATTEMPT).max().over(*task_columns)
    frame = frame.with_columns(
        _last=last, _next_start=nw.when(nw.col("again") == 1).then(nw.col("started_us"))
    )
    frame = frame.with_columns(
        _next_start=nw.col("_next_start").shift(-1).over(*task_columns, order_by=ATTEMPT)
    )
    started = frame.with_columns(start_us=_start_us(), left_truncated=nw.col("started_us").is_null())
    started = started.filter(~nw.col("start_us").is_null())
    ended_us = nw.coalesce("terminated_us", "killed_us")
    lost = nw.col("client_status").is_in(list(vocabulary.LOST_STATUSES))
    # without a state the allocation was gone before its end was seen
    over = (nw.col("state") == "dead") | nw.col("state").is_null()
    end_us = nw.coalesce(
        ended_us,
        # started again without an end: it ended before the node was back, or at the latest at the next start
        nw.when(~nw.col("_next_start").is_null()).then(nw.coalesce("restored_us", "_next_start")),
        nw.when(~nw.col("_last")).then(nw.col("last_us")),
        nw.when(lost).then(nw.col("modified_at_us")),
        nw.when(over).then(nw.coalesce("finished_at_us", "last_us")),
        nw.when(nw.col("state") == "pending").then(nw.col("last_us")),
        nw.lit(observed_us),
    )
    spans = started.with_columns(_end=end_us, _ended=~ended_us.is_null())
    return spans.drop(*_DROPPED_COLUMNS, strict=False).with_columns(
        end_us=nw.max_horizontal(
            "_end", "start_us"
        ),  # never before the start, even if the clock was set back
        skewed=nw.col("_end") < nw.col("start_us"),
        right_censored=~nw.col("_ended"),
        lost=(~nw.col("_ended") & nw.col("_last") & lost).fill_null(value=False),
    )


_DROPPED_COLUMNS = (
    "_signal_sent", "_signaled", "_signaled_by",
    "_asked", "_requested", "_start_failed", "_hook_failed", "_hook_failed_seq", "_ended_by", "_killed_for",
    "_killed_for_seq", "_killing_seq", "_terminated_seq", "_next", "_next_start", "again", "first_us",
    "last_us", "started_us", "terminated_us", "killed_us", "restored_us", "first_seq", "events", "received",
    "delayed", "restarts_seen", "modified_at_us", "started_at_us", "finished_at_us",
    "restarts", "parent_job_id", "truncated",
)  # fmt: skip
"""Columns that spans are made of and that nothing reads afterwards."""


def _start_us() -> nw.Expr:
    """Return when a run began: at `Started`, else by its task state, else at its first event that is left."""
    terminated = ~nw.col("terminated_us").is_null()
    killed = ~nw.col("killed_us").is_null()
    cut = nw.col("received") == 0
    # the state holds the task's last start only, so it belongs to the last attempt
    by_state = nw.when(nw.col("_last") & cut & ((nw.col("state") == "running") | killed)).then(
        nw.col("started_at_us")
    )
    # only the first attempt of a ring can have lost its start
    by_first_event = nw.when((terminated | killed) & cut & (nw.col(ATTEMPT) == 0)).then(nw.col("first_us"))
    return nw.coalesce("started_us", by_state, by_first_event)
