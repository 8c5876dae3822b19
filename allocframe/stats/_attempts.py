"""Attempts: what a task does from one restart to the next, made of its events by grouping alone.

An attempt ends with `Restarting` or `Not Restarting`; it holds at most one `Started` and one `Terminated`. The first
attempt of a truncated ring has lost its beginning. Everything here is engine-neutral and lazy.
"""

from __future__ import annotations

from typing import Any

import narwhals as nw

from . import _attempts, vocabulary
from ._source import Tables

ATTEMPT = "attempt"
_CODE = {cause: number for number, cause in enumerate(vocabulary.CAUSES)}


def marked(tables: Tables) -> nw.LazyFrame[Any]:
    """Return the events with the number of their attempt, from 0, and the helper columns that attempts are made of."""
    kind, when, seq = nw.col("type"), nw.col("time_us"), nw.col("seq")
    restarting = (kind == "Restarting").cast(nw.Int64)
    frame = tables.events.with_columns(_restarting=restarting)
    before = nw.col("_restarting").cum_sum().over(*tables.task, order_by="seq") - nw.col("_restarting")
    terminated = kind == "Terminated"
    return frame.with_columns(
        before.alias(ATTEMPT),
        nw.when(kind == "Started").then(when).alias("_started"),
        nw.when(terminated).then(when).alias("_terminated"),
        nw.when(kind == "Killed").then(when).alias("_killed"),
        nw.when(terminated).then(seq).alias("_terminated_seq"),
        nw.when(kind == "Killing").then(seq).alias("_killing_seq"),
        _asked().alias("_asked"),
        _coded(vocabulary.FAILED_STARTS).alias("_start_failed"),
        _coded(vocabulary.ENDED_BY).alias("_ended_by"),
        oom_confirmed(tables).alias("_oom"),
        nw.when(kind == "Restarting")
        .then(nw.lit(1))
        .when(kind == "Not Restarting")
        .then(nw.lit(2))
        .alias("_next"),
        (nw.col("restart_reason") == vocabulary.DELAYED)
        .fill_null(value=False)
        .cast(nw.Int64)
        .alias("_delayed"),
        (kind == "Received").fill_null(value=False).cast(nw.Int64).alias("_received"),
    )


def _coded(types: dict[str, str]) -> nw.Expr:
    """Return the number of the cause that an event type stands for."""
    return nw.coalesce(
        *(nw.when(nw.col("type") == kind).then(nw.lit(_CODE[cause])) for kind, cause in types.items())
    )


def _asked() -> nw.Expr:
    """Return who asked for a restart; templates and Vault say so in the message only, by a constant."""
    signaled = nw.col("type") == "Restart Signaled"
    reason, message = nw.col("restart_reason"), nw.col("message")
    found = []
    for who in sorted(set(vocabulary.REQUESTS.values())):
        words = [said for said, asker in vocabulary.REQUESTS.items() if asker == who]
        said = reason.is_in(words) | (reason.is_null() & message.is_in(words))
        found.append(nw.when(signaled & said).then(nw.lit(_CODE[who])))
    checked = signaled & reason.str.starts_with(vocabulary.HEALTH_CHECK)
    found.append(nw.when(checked).then(nw.lit(_CODE["health check"])))
    return nw.coalesce(*found, nw.when(signaled).then(nw.lit(_CODE["unknown"])))


def oom_confirmed(tables: Tables) -> nw.Expr:
    """Return 1 where the driver says that the kernel killed for memory, by its flag or by its exit message."""
    flag = nw.col("oom_killed").fill_null(value=False)
    if "details" in tables.events.collect_schema().names():
        said = nw.col("details").str.contains('"exit_message":"OOM Killed"', literal=True)
        flag = flag | said.fill_null(value=False)
    return nw.when((nw.col("type") == "Terminated") & flag).then(nw.lit(1))


def attempts(tables: Tables, events: nw.LazyFrame[Any]) -> nw.LazyFrame[Any]:
    """Return one row for each attempt of each task, with the number of its cause in `meanings.CAUSES`.

    `events` are those that `marked` returned, filtered or not.
    """
    grouped = events.group_by(*tables.task, ATTEMPT).agg(
        nw.col("time_us").min().alias("first_us"),
        nw.col("time_us").max().alias("last_us"),
        nw.col("_started").max().alias("started_us"),
        nw.col("_terminated").min().alias("terminated_us"),
        nw.col("_killed").min().alias("killed_us"),
        nw.col("exit_code").max().alias("exit_code"),
        nw.col("signal").max().alias("signal"),
        nw.col("_terminated_seq").max().alias("_terminated_seq"),
        nw.col("_killing_seq").min().alias("_killing_seq"),
        nw.col("_asked").min().alias("_asked"),
        nw.col("_start_failed").min().alias("_start_failed"),
        nw.col("_ended_by").min().alias("_ended_by"),
        nw.col("_oom").max().alias("_oom"),
        nw.col("_next").max().alias("_next"),
        nw.col("_delayed").max().alias("delayed"),
        nw.col("_received").max().alias("received"),
        nw.col("seq").min().alias("first_seq"),
        nw.len().alias("events"),
    )
    killed = nw.col("_killing_seq") < nw.col("_terminated_seq")
    return grouped.with_columns(
        killed_by_nomad=killed.fill_null(value=False)
        | ~nw.col("killed_us").is_null()
        | ~nw.col("_asked").is_null()
    ).with_columns(cause_code=_cause())


def _cause() -> nw.Expr:
    """Return the number of the first cause that applies; none while the attempt goes on."""
    exit_code, signal = nw.col("exit_code"), nw.col("signal")
    terminated = ~nw.col("_terminated_seq").is_null()
    failed = (exit_code.fill_null(0) != 0) | (signal.fill_null(0) != 0)
    told = ~exit_code.is_null() | ~signal.is_null()
    exited = (
        nw.when(terminated & (nw.col("_oom") == 1)).then(nw.lit(_CODE["out of memory"]))
        .when(terminated & told & failed).then(nw.lit(_CODE["failure"]))
        .when(terminated & told).then(nw.lit(_CODE["completed"]))
        .when(terminated | (nw.col("_next") > 0)).then(nw.lit(_CODE["unknown"]))
    )  # fmt: skip
    stopped = nw.when(nw.col("killed_by_nomad") | ~nw.col("_killing_seq").is_null()).then(
        nw.lit(_CODE["stopped"])
    )
    after_exit = nw.when(terminated & (nw.col("_killing_seq") > nw.col("_terminated_seq"))).then(exited)
    return nw.coalesce(
        nw.col("_asked"),
        nw.col("_start_failed"),
        nw.col("_ended_by"),
        after_exit,
        _given_up(exited),
        stopped,
        exited,
    )


def _given_up(exited: nw.Expr) -> nw.Expr:
    """Killing after `Not Restarting` is housekeeping: the cause is how the run ended."""
    return nw.when((nw.col("_next") == 2) & ~nw.col("killed_by_nomad")).then(exited)


def labelled(code: nw.Expr) -> nw.Expr:
    """Return the names of causes for their numbers."""
    numbers = list(range(len(vocabulary.CAUSES)))
    return code.replace_strict(numbers, list(vocabulary.CAUSES), default=None, return_dtype=nw.String)


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
