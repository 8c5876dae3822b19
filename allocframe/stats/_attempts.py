"""Attempts: what a task does from one restart to the next, found by grouping its events.

An attempt ends with `Restarting` or `Not Restarting`, or with the next `Started` if it has no other end; it
holds at most one `Started` and one `Terminated`.
The first attempt of a truncated ring has lost its beginning. Everything here is lazy and runs on any engine.
"""

from __future__ import annotations

from typing import Any

from ..tables.run_ids import RUN_SUFFIX
from . import vocabulary
from ._expressions import nw

ATTEMPT = "attempt"
_CODES = {cause: code for code, cause in enumerate(vocabulary.CAUSES)}
"""Causes are numbered in order of precedence, so that the smallest number of an attempt is its cause."""

RESTARTING, GAVE_UP = 1, 2
"""Values of the helper column `_next`: what the restart policy decided at the end of an attempt.

A restart on request is not a decision of the policy. A task that Nomad killed as failed is given up.
"""


def mark_events(events: nw.LazyFrame[Any], task_columns: list[str]) -> nw.LazyFrame[Any]:
    """Return the events with the number of their attempt, from 0, and the helper columns of attempts."""
    kind, when, seq = nw.col("type"), nw.col("time_us"), nw.col("seq")
    terminated = kind == "Terminated"
    frame = _number_attempts(events, task_columns)
    announced = nw.col("_announced") == 1
    decided = (nw.col("_decides") == 1) & (is_given("restart_reason") | (kind == "Not Restarting"))
    frame = frame.with_columns(
        nw.when(kind == "Started").then(when).alias("_started"),
        nw.when(terminated).then(when).alias("_terminated"),
        nw.when(kind == "Killed").then(when).alias("_killed"),
        nw.when(kind == "Failed Restoring Task").then(when).alias("_restored"),
        nw.when(terminated).then(seq).alias("_terminated_seq"),
        nw.when(kind == "Killing").then(seq).alias("_killing_seq"),
        nw.coalesce(_request_code(), nw.when(announced).then(nw.lit(_CODES["plugin"]))).alias("_asked"),
        nw.when((nw.col("_decides") == 1) & (kind == "Restarting") & ~is_given("restart_reason"))
        .then(nw.lit(_CODES["requested"]))
        .alias("_requested"),
        nw.coalesce(
            _code_of_text(kind == "Setup Failure", vocabulary.FAILED_START_TEXTS),
            _code_of_type(vocabulary.FAILED_STARTS),
        ).alias("_start_failed"),
        _code_of_text(kind == vocabulary.HOOK_FAILED, vocabulary.FAILED_START_TEXTS, "hook").alias(
            "_hook_failed"
        ),
        _code_of_type(vocabulary.ENDED_BY).alias("_ended_by"),
        _killed_code(events).alias("_killed_for"),
        _signal_sent(events).alias("_signal_sent"),
        nw.when(kind == "Signaling").then(when).alias("_signaled"),
        nw.when((kind == "Signaling") & (nw.col("message") == vocabulary.TEMPLATE_SIGNAL))
        .then(nw.lit(_CODES["template"]))
        .when(kind == "Signaling")
        .then(nw.lit(_CODES["operator"]))
        .alias("_signaled_by"),
        _oom_confirmed(events).alias("_oom"),
        nw.when(decided & (kind == "Restarting"))
        .then(nw.lit(RESTARTING))
        .when(decided)
        .then(nw.lit(GAVE_UP))
        .alias("_next"),
        (nw.col("restart_reason") == vocabulary.DELAYED)
        .fill_null(value=False)
        .cast(nw.Int64)
        .alias("_delayed"),
        (kind == "Received").fill_null(value=False).cast(nw.Int64).alias("_received"),
    )
    return frame.with_columns(
        nw.when(~nw.col("_killed_for").is_null()).then(seq).alias("_killed_for_seq"),
        nw.when(~nw.col("_hook_failed").is_null()).then(seq).alias("_hook_failed_seq"),
    )


def _number_attempts(events: nw.LazyFrame[Any], task_columns: list[str]) -> nw.LazyFrame[Any]:
    """Add the number of each event's attempt.

    `Restarting` ends an attempt, unless `Terminated` follows at once: then it only announces that Nomad ends
    the task, as the supervisor of CSI plugins does. A second `Started` without an end ends the attempt before
    it, too: the node was rebooted, or Nomad's client lost its state.
    """
    kind, seq = nw.col("type"), nw.col("seq")
    ends_or_starts = kind.is_in(["Started", "Terminated", "Killed", "Restarting", "Not Restarting"])
    started = (kind == "Started").fill_null(value=False).cast(nw.Int64)
    # even for a start, odd for an end; later events have larger numbers, so the maximum is the last one
    number = nw.when(ends_or_starts.fill_null(value=False)).then(seq * 2 + 3 - started).otherwise(nw.lit(1))
    # narwhals takes windows over columns only, so each one is made before it is looked through
    frame = events.with_columns(_mark=number.cast(nw.Int64), _is_start=started)
    frame = frame.with_columns(
        _last_mark=nw.col("_mark").cum_max().over(*task_columns, order_by="seq"),
        _following=kind.shift(-1).over(*task_columns, order_by="seq"),
    )
    frame = frame.with_columns(_mark_before=nw.col("_last_mark").shift(1).over(*task_columns, order_by="seq"))
    frame = frame.with_columns(
        _mark_before=nw.col("_mark_before").fill_null(1),
        _announced=((kind == "Restarting") & (nw.col("_following") == "Terminated"))
        .fill_null(value=False)
        .cast(nw.Int64),
    )
    frame = frame.with_columns(
        _again=nw.when((nw.col("_is_start") == 1) & (nw.col("_mark_before") % 2 == 0))
        .then(nw.lit(1))
        .otherwise(nw.lit(0)),
        _decides=(
            (kind.is_in(list(vocabulary.RESTART_DECISIONS))).fill_null(value=False).cast(nw.Int64)
            - nw.col("_announced")
        ),
    )
    frame = frame.with_columns(
        _boundary=nw.col("_again")
        + nw.when(kind == "Restarting").then(nw.col("_decides")).otherwise(nw.lit(0))
    )
    # `Restarting` belongs to the attempt that it ends, `Started` to the one that it begins
    before = nw.col("_boundary").cum_sum().over(*task_columns, order_by="seq")
    own = nw.when(kind == "Restarting").then(nw.col("_boundary")).otherwise(nw.lit(0))
    return frame.with_columns((before - own).alias(ATTEMPT))


def is_given(name: str) -> nw.Expr:
    """Return whether a text is there and not empty."""
    # pandas' categories say that a missing value is not equal to ""
    return ~nw.col(name).is_null() & (nw.col(name) != "").fill_null(value=False)


def _code_of_text(where: nw.Expr, causes: dict[str, str], otherwise: str | None = None) -> nw.Expr:
    """Return the number of the cause that an event's message names by its beginning."""
    message = nw.col("message")
    codes: list[nw.Expr] = [
        nw.when(where & message.str.starts_with(text).fill_null(value=False)).then(nw.lit(_CODES[cause]))
        for text, cause in causes.items()
    ]
    if otherwise is not None:
        codes.append(nw.when(where).then(nw.lit(_CODES[otherwise])))
    return nw.coalesce(*codes)


def _killed_code(events: nw.LazyFrame[Any]) -> nw.Expr:
    """Return the number of the cause of a kill that fails the task."""
    kill = nw.col("type").is_in(["Killing", "Killed"]).fill_null(value=False)
    too_long = kill & (nw.col("message") == vocabulary.RUN_DURATION).fill_null(value=False)
    by_duration = nw.when(too_long).then(nw.lit(_CODES["run duration"]))
    if "fails_task" not in events.collect_schema().names():
        return by_duration
    fails = kill & (nw.col("fails_task") == nw.lit(True)).fill_null(value=False)
    return nw.coalesce(by_duration, _code_of_text(fails, vocabulary.KILLED_AS_FAILED, "killed as failed"))


def _signal_sent(events: nw.LazyFrame[Any]) -> nw.Expr:
    """Return the number of the signal that somebody sent through Nomad."""
    if "task_signal" not in events.collect_schema().names():
        return nw.when(nw.col("seq") < 0).then(nw.lit(0))
    number = nw.col("task_signal").replace_strict(
        list(vocabulary.SIGNAL_NUMBERS),
        list(vocabulary.SIGNAL_NUMBERS.values()),
        default=None,
        return_dtype=nw.Int64,
    )
    return nw.when(nw.col("type") == "Signaling").then(number)


def _code_of_type(causes: dict[str, str]) -> nw.Expr:
    """Return the number of the cause that an event type stands for."""
    codes = [_CODES[cause] for cause in causes.values()]
    return nw.col("type").replace_strict(list(causes), codes, default=None, return_dtype=nw.Int64)


def _request_code() -> nw.Expr:
    """Return the number of the cause of a requested restart.

    Templates and Vault give no reason; their message is a constant of Nomad's, and is compared as a whole.
    """
    reason, message = nw.col("restart_reason"), nw.col("message")
    codes = [_CODES[cause] for cause in vocabulary.REQUESTS.values()]
    by_reason, by_message = (
        text.replace_strict(list(vocabulary.REQUESTS), codes, default=None, return_dtype=nw.Int64)
        for text in (reason, message)
    )
    by_check = nw.when(reason.str.starts_with(vocabulary.HEALTH_CHECK)).then(nw.lit(_CODES["health check"]))
    signaled = nw.col("type") == "Restart Signaled"
    by_prefix = _code_of_text(signaled, vocabulary.REQUEST_PREFIXES)
    return nw.when(signaled).then(
        nw.coalesce(
            by_reason,
            nw.when(~is_given("restart_reason")).then(by_message),
            by_check,
            by_prefix,
            nw.lit(_CODES["requested"]),
        )
    )


def _oom_confirmed(events: nw.LazyFrame[Any]) -> nw.Expr:
    """Return 1 where the driver reports an OOM kill, by its flag or by its exit message.

    A snapshot's narrow events have both in the flag already; a full events table still has `details`.
    """
    flag = nw.col("oom_killed").fill_null(value=False)
    if "details" in events.collect_schema().names():
        in_message = nw.col("details").str.contains(vocabulary.OOM_DETAIL, literal=True)
        flag = flag | in_message.fill_null(value=False)
    return nw.when((nw.col("type") == "Terminated") & flag).then(nw.lit(1))


def group_attempts(marked: nw.LazyFrame[Any], task_columns: list[str]) -> nw.LazyFrame[Any]:
    """Return one row for each attempt of each task, with the number of its cause in `vocabulary.CAUSES`.

    `failed` says whether its run failed: Nomad killed it as failed, or it ended by itself or by its health
    check, and badly or so that its restart policy had to decide. A service's exit with 0 is such an end; a
    batch or hook task that exits with 0 leaves nothing to decide.
    """
    grouped = marked.group_by(*task_columns, ATTEMPT).agg(
        nw.col("time_us").min().alias("first_us"),
        nw.col("time_us").max().alias("last_us"),
        nw.col("_started").max().alias("started_us"),
        nw.col("_terminated").min().alias("terminated_us"),
        nw.col("_killed").min().alias("killed_us"),
        nw.col("_restored").min().alias("restored_us"),
        nw.col("exit_code").max().alias("exit_code"),
        nw.col("signal").max().alias("signal"),
        nw.col("_terminated_seq").max().alias("_terminated_seq"),
        nw.col("_killing_seq").min().alias("_killing_seq"),
        nw.col("_asked").min().alias("_asked"),
        nw.col("_requested").min().alias("_requested"),
        nw.col("_start_failed").min().alias("_start_failed"),
        nw.col("_hook_failed").min().alias("_hook_failed"),
        nw.col("_hook_failed_seq").min().alias("_hook_failed_seq"),
        nw.col("_ended_by").min().alias("_ended_by"),
        nw.col("_killed_for").min().alias("_killed_for"),
        nw.col("_signal_sent").max().alias("_signal_sent"),
        nw.col("_signaled").max().alias("_signaled"),
        nw.col("_signaled_by").max().alias("_signaled_by"),
        nw.col("_killed_for_seq").min().alias("_killed_for_seq"),
        nw.col("_oom").max().alias("_oom"),
        nw.col("_next").max().alias("_next"),
        nw.col("_again").max().alias("again"),
        nw.col("_delayed").max().alias("delayed"),
        nw.col("_received").max().alias("received"),
        nw.col("seq").min().alias("first_seq"),
        nw.len().alias("events"),
    )
    # the order of events is that of `seq`: clocks of nodes go backwards
    killed_first = nw.col("_killing_seq") < nw.col("_terminated_seq")
    ran = ~nw.col("started_us").is_null() | ~nw.col("_terminated_seq").is_null()
    killed_for, asked, requested = nw.col("_killed_for"), nw.col("_asked"), nw.col("_requested")
    # ended by the signal that an operator sent through Nomad, or Nomad for a template
    by_number = (nw.col("signal") == nw.col("_signal_sent")) | (
        nw.col("exit_code") == nw.col("_signal_sent") + vocabulary.SHELL_SIGNAL
    )
    soon = nw.col("terminated_us") - nw.col("_signaled") <= vocabulary.SIGNAL_DELAY_US
    after = nw.col("terminated_us") >= nw.col("_signaled")
    grouped = grouped.with_columns(
        _asked=nw.when(asked.is_null() & (by_number & soon & after).fill_null(value=False))
        .then(nw.col("_signaled_by"))
        .otherwise(asked)
    )
    policy_decided = nw.col("_next") > 0
    grouped = grouped.with_columns(
        # a hook that fails while the task runs ends nothing
        _hook_failed=nw.when(~ran).then(nw.col("_hook_failed")),
        _hook_failed_seq=nw.when(~ran & nw.col("_start_failed").is_null()).then(nw.col("_hook_failed_seq")),
        # of a restart by an unknown wording, the policy's reason says that it counts as a failure
        _asked=nw.when((asked == _CODES["requested"]) & policy_decided.fill_null(value=False))
        .then(nw.lit(_CODES["unknown"]))
        .otherwise(asked),
        _requested=nw.when(asked.is_null()).then(requested),
        _next=nw.when(~killed_for.is_null()).then(nw.lit(GAVE_UP)).otherwise(nw.col("_next")),
    )
    grouped = grouped.with_columns(
        killed_by_nomad=killed_first.fill_null(value=False)
        | ~nw.col("killed_us").is_null()
        | ~nw.col("_asked").is_null()
        | ~nw.col("_requested").is_null()
        | ~killed_for.is_null()
    )
    # a column of its own: pandas would compute it for each of its uses
    grouped = grouped.with_columns(_exited=_exited()).with_columns(cause_code=_cause_code()).drop("_exited")
    return grouped.with_columns(failed=_failed())


def _failed() -> nw.Expr:
    """Return whether an attempt's run failed."""
    terminated = ~nw.col("_terminated_seq").is_null()
    own_fault = nw.col("cause_code").is_in([_CODES[cause] for cause in vocabulary.FAILURE_CAUSES])
    by_nomad = nw.col("cause_code").is_in([_CODES["health check"], _CODES["plugin"]])
    counts = _ended_badly() | (nw.col("_next") > 0).fill_null(value=False) | by_nomad
    return (terminated & own_fault & counts).fill_null(value=False) | ~nw.col("_killed_for").is_null()


def _ended_badly() -> nw.Expr:
    return (
        (nw.col("exit_code").fill_null(0) != 0)
        | (nw.col("signal").fill_null(0) != 0)
        | (nw.col("_oom") == 1).fill_null(value=False)
    )


def _exited() -> nw.Expr:
    """Return the number of the cause that the end of an attempt's run has by itself."""
    exit_code, signal = nw.col("exit_code"), nw.col("signal")
    terminated = ~nw.col("_terminated_seq").is_null()
    decided = (nw.col("_next") > 0).fill_null(value=False)
    result_known = ~exit_code.is_null() | ~signal.is_null()
    return (
        nw.when(terminated & (nw.col("_oom") == 1)).then(nw.lit(_CODES["out of memory"]))
        .when(terminated & result_known & (_ended_badly() | decided)).then(nw.lit(_CODES["failure"]))
        .when(terminated & result_known).then(nw.lit(_CODES["completed"]))
        .when(terminated | decided).then(nw.lit(_CODES["unknown"]))
    )  # fmt: skip


def _cause_code() -> nw.Expr:
    """Return the number of the first cause that applies; missing while the attempt is running."""
    exited, terminated = nw.col("_exited"), ~nw.col("_terminated_seq").is_null()
    stopped = nw.when(nw.col("killed_by_nomad") | ~nw.col("_killing_seq").is_null()).then(
        nw.lit(_CODES["stopped"])
    )
    # `Killing` after `Terminated`, or after `Not Restarting`, is housekeeping: the task had ended by itself
    killed_after_exit = nw.when(terminated & (nw.col("_killing_seq") > nw.col("_terminated_seq"))).then(
        exited
    )
    gave_up = nw.when((nw.col("_next") == GAVE_UP) & ~nw.col("killed_by_nomad")).then(exited)
    return nw.coalesce(
        nw.col("_asked"),
        nw.col("_requested"),
        nw.col("_killed_for"),
        nw.col("_start_failed"),
        nw.col("_hook_failed"),
        nw.col("_ended_by"),
        killed_after_exit,
        gave_up,
        stopped,
        exited,
    )


def cause_name(code: nw.Expr) -> nw.Expr:
    """Return the names of causes for their numbers."""
    codes = list(range(len(vocabulary.CAUSES)))
    return code.replace_strict(codes, list(vocabulary.CAUSES), default=None, return_dtype=nw.String)


DIMENSIONS = ("namespace", "job_id", "job_version", "task_group", "node_name")
"""Columns of the events table that describe the allocation of an event."""

_ALLOCATION_COLUMNS = (
    "node_id", "parent_job_id", "job_type", "client_status", "desired_status", "created_at_us",
    "modified_at_us",
)  # fmt: skip
RING_SIZE = 10
"""Events that Nomad keeps of each task; it drops older ones."""


def describe_rings(events: nw.LazyFrame[Any], task_columns: list[str]) -> nw.LazyFrame[Any]:
    """Return one row for each task of an allocation: names, dimensions, and whether its ring is truncated."""
    columns = events.collect_schema().names()
    dimensions = [name for name in DIMENSIONS if name in columns]
    flagged = events.with_columns(
        _received=(nw.col("type") == "Received").fill_null(value=False).cast(nw.Int64),
        _restarting=(nw.col("type") == "Restarting").fill_null(value=False).cast(nw.Int64),
    )
    rings = flagged.group_by(*task_columns).agg(
        nw.len().alias("_events"),
        nw.col("_received").max().alias("_received"),
        nw.col("_restarting").sum().alias("restarts_seen"),
        nw.col("time_us").min().alias("first_seen_us"),
    )
    named = events.unique(subset=task_columns).select(
        *dict.fromkeys([*task_columns, "alloc_id", "task", *dimensions])
    )
    # every task begins with `Received`: a full ring without it has lost its first events
    described = named.join(rings, on=task_columns, how="left").with_columns(
        truncated=(nw.col("_events") >= RING_SIZE) & (nw.col("_received") == 0)
    )
    return described.drop("_events", "_received")


def describe_tasks(
    rings: nw.LazyFrame[Any], allocations: nw.LazyFrame[Any] | None, task_states: nw.LazyFrame[Any] | None
) -> nw.LazyFrame[Any]:
    """Return the tasks with what their allocations and states say of them."""
    tasks = rings
    if allocations is not None:
        columns = allocations.collect_schema().names()
        details = [name for name in _ALLOCATION_COLUMNS if name in columns]
        tasks = tasks.join(allocations.select("alloc_id", *details), on="alloc_id", how="left")
    tasks = _fold_runs(tasks)
    if task_states is not None:
        states = task_states.select(
            "alloc_id", "task", "state", "restarts", "started_at_us", "finished_at_us"
        )
        tasks = tasks.join(states, on=["alloc_id", "task"], how="left")
    return tasks


def add_known_from(
    tasks: nw.LazyFrame[Any], attempts: nw.LazyFrame[Any], task_columns: list[str]
) -> nw.LazyFrame[Any]:
    """Add `known_from_us` to tasks with a truncated ring: from when on counts and exposure are unbiased.

    A full ring reaches back until it holds ten events, so the more a task fails, the less time it covers. A
    count over that time is too small: the event that filled the ring belongs to it. Observation therefore
    begins with the oldest end that is left, and includes it: going back from the present, the time of the
    n-th end is a stopping time. What began before it is dropped.
    """
    of_start = [_CODES[cause] for cause in (*vocabulary.FAILED_STARTS.values(), "hook", "volume")]
    killed = [_CODES[cause] for cause in vocabulary.KILLED_CAUSES]
    without_exit = nw.col("cause_code").is_in([*of_start, *killed])
    ended = nw.coalesce("terminated_us", "killed_us", nw.when(without_exit).then(nw.col("last_us")))
    ends = (
        attempts.with_columns(_end=ended)
        .group_by(*task_columns)
        .agg(nw.col("_end").min().alias("_oldest_end"))
    )
    joined = tasks.join(ends, on=task_columns, how="left")
    since = nw.coalesce("_oldest_end", "first_seen_us")
    known_from = nw.when(nw.col("truncated")).then(since)
    return joined.with_columns(known_from_us=known_from).drop("_oldest_end")


def _fold_runs(tasks: nw.LazyFrame[Any]) -> nw.LazyFrame[Any]:
    """Put the parent in the place of the runs of periodic and parameterized jobs: they are one job."""
    columns = tasks.collect_schema().names()
    if "job_id" not in columns:
        return tasks
    parent = nw.col("job_id").cast(nw.String).str.replace_all(RUN_SUFFIX, "")
    if "parent_job_id" in columns:
        parent = nw.coalesce(nw.col("parent_job_id").cast(nw.String), parent)
    return tasks.with_columns(job_id=parent)
