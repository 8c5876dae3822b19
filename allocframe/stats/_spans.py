"""Spans: when each task ran, from its attempts, cut where the ring or the present cuts them. Engine-neutral and lazy."""

from __future__ import annotations

from typing import Any

import narwhals as nw

from . import _attempts
from ._source import Tables

DIMENSIONS = ("namespace", "job_id", "job_version", "task_group", "node_name")
"""What the events table says of the allocation of each event."""

OF_ALLOCATION = ("name", "node_id", "job_type", "client_status", "desired_status", "modified_at_us")
RING = 10


def tasks(given: Tables) -> nw.LazyFrame[Any]:
    """Return one row for each task of each allocation: its names, what it belongs to, and whether its ring is truncated."""
    events = given.events
    columns = events.collect_schema().names()
    kept = [name for name in DIMENSIONS if name in columns]
    size = events.with_columns(
        _received=(nw.col("type") == "Received").fill_null(value=False).cast(nw.Int64),
        _restarting=(nw.col("type") == "Restarting").fill_null(value=False).cast(nw.Int64),
    )
    rings = size.group_by(*given.task).agg(
        nw.len().alias("_events"),
        nw.col("_received").max().alias("_received"),
        nw.col("_restarting").sum().alias("restarts_seen"),
        nw.col("time_us").min().alias("first_seen_us"),
    )
    named = events.unique(subset=given.task).select(*dict.fromkeys([*given.task, "alloc_id", "task", *kept]))
    found = named.join(rings, on=given.task, how="left").with_columns(
        truncated=(nw.col("_events") >= RING) & (nw.col("_received") == 0)
    )
    if given.allocations is not None:
        more = given.allocations.collect_schema().names()
        wanted = [name for name in OF_ALLOCATION if name in more]
        found = found.join(given.allocations.select("alloc_id", *wanted), on="alloc_id", how="left")
    if given.task_states is not None:
        states = given.task_states.select(
            "alloc_id", "task", "state", "restarts", "started_at_us", "finished_at_us"
        )
        found = found.join(states, on=["alloc_id", "task"], how="left")
    return found


def spans(given: Tables, attempts: nw.LazyFrame[Any], of_task: nw.LazyFrame[Any]) -> nw.LazyFrame[Any]:
    """Return one row for each attempt that ran: `start_us`, `end_us`, and what cuts them.

    A run whose `Started` is gone from the ring begins, as far as can be seen, with its first event.
    """
    frame = attempts.join(of_task, on=given.task, how="left")
    names = set(frame.collect_schema().names())
    never = nw.when(nw.col("events") < 0)  # a missing literal of a type is not one in every engine
    for name in {"state", "client_status"} - names:
        frame = frame.with_columns(never.then(nw.lit("")).alias(name))
    for name in {"started_at_us", "finished_at_us", "modified_at_us"} - names:
        frame = frame.with_columns(never.then(nw.col("first_us")).alias(name))
    last = nw.col(_attempts.ATTEMPT) == nw.col(_attempts.ATTEMPT).max().over(*given.task)
    frame = frame.with_columns(_last=last)
    begun = frame.with_columns(start_us=_start(), left_truncated=nw.col("started_us").is_null())
    begun = begun.filter(~nw.col("start_us").is_null())
    ended = nw.coalesce("terminated_us", "killed_us")
    lost = nw.col("client_status").is_in(["lost", "unknown"])
    over = (nw.col("state") == "dead") | nw.col("state").is_null()  # not known: gone before its end was seen
    still = given.observed_us
    end = nw.coalesce(
        ended,
        nw.when(~nw.col("_last")).then(nw.col("last_us")),
        nw.when(lost).then(nw.col("modified_at_us")),
        nw.when(over).then(nw.coalesce("finished_at_us", "last_us")),
        nw.when(nw.col("state") == "pending").then(nw.col("last_us")),
        nw.lit(still),
    )
    raw = begun.with_columns(_end=end, _ended=~ended.is_null())
    return raw.drop(*_MADE_OF, strict=False).with_columns(
        end_us=nw.max_horizontal("_end", "start_us"),
        skewed=nw.col("_end") < nw.col("start_us"),
        right_censored=~nw.col("_ended"),
        lost=(~nw.col("_ended") & nw.col("_last") & lost).fill_null(value=False),
    )


_MADE_OF = (
    "_asked", "_start_failed", "_ended_by", "_killing_seq", "_terminated_seq", "_next", "first_us", "last_us", "started_us",
    "terminated_us", "killed_us", "first_seq", "events", "received", "delayed", "_events", "_received", "restarts_seen",
    "first_seen_us", "modified_at_us", "started_at_us", "finished_at_us", "restarts",
)  # fmt: skip
"""What spans are made of, and what nobody asks them for."""


def _start() -> nw.Expr:
    """Return when a run began: `Started`, the last start that the task remembers, or its first event that is left."""
    terminated = ~nw.col("terminated_us").is_null()
    killed = ~nw.col("killed_us").is_null()
    cut = nw.col("received") == 0
    remembered = nw.when(nw.col("_last") & cut & ((nw.col("state") == "running") | killed)).then(
        nw.col("started_at_us")
    )
    first = nw.when((terminated | killed) & cut & (nw.col(_attempts.ATTEMPT) == 0)).then(nw.col("first_us"))
    return nw.coalesce("started_us", remembered, first)
