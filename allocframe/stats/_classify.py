"""The rules that say what an event means, as expressions that run on any engine."""

from __future__ import annotations

from typing import Any

from . import _attempts, vocabulary
from ._expressions import nw

TEXTS = ("exit_meaning", "oom", "decision", "cause")
"""The columns of the explanation that hold text."""

EXPLANATION = (
    "attempt", "killed_by_nomad", "cause_code", "exit_meaning", "oom", "failure", "decision", "cause",
)  # fmt: skip
"""The columns that `explain_events` adds."""

_TYPES_WITH_CAUSE = (
    "Terminated",
    *vocabulary.RESTART_DECISIONS,
    "Killing",
    "Killed",
    *vocabulary.FAILED_STARTS,
    vocabulary.HOOK_FAILED,
)


def explain(events: nw.LazyFrame[Any]) -> nw.LazyFrame[Any]:
    """Return events, which know the cause of their attempt, with the columns that say what they mean."""
    terminated = nw.col("type") == "Terminated"
    code, signal = nw.col("exit_code"), nw.col("signal")
    # drivers report a kill as signal 9, as exit code 137, or as both
    killed = (code.fill_null(0) == vocabulary.SIGKILL_CODE) | (signal.fill_null(0) == 9)
    confirmed = (nw.col("_oom") == 1).fill_null(value=False)
    # not every driver sees OOM kills: SIGKILL from elsewhere than Nomad may be one
    oom = (
        nw.when(terminated & confirmed).then(nw.lit("confirmed"))
        .when(terminated & code.is_null() & signal.is_null()).then(nw.lit("unknown"))
        .when(terminated & killed & ~nw.col("killed_by_nomad")).then(nw.lit("suspected"))
        .when(terminated).then(nw.lit("no"))
    )  # fmt: skip
    killed_for, seq = nw.col("_killed_for_seq"), nw.col("seq")
    ended = terminated & nw.col("_failed") & killed_for.is_null()
    start_failed = nw.col("type").is_in(list(vocabulary.FAILED_STARTS))
    # once for each attempt: a kill as failed may have several events, and so may a start
    marked = (seq == killed_for) | (seq == nw.col("_hook_failed_seq"))
    has_cause = nw.col("type").is_in(list(_TYPES_WITH_CAUSE))
    return events.with_columns(
        exit_meaning=_exit_meaning(confirmed, killed),
        oom=oom,
        failure=ended.fill_null(value=False)
        | start_failed.fill_null(value=False)
        | marked.fill_null(value=False),
        decision=_decision(),
        cause=nw.when(has_cause).then(_attempts.cause_name(nw.col("cause_code"))),
    )


def _exit_meaning(confirmed: nw.Expr, killed: nw.Expr) -> nw.Expr:
    code, signal = nw.col("exit_code"), nw.col("signal")
    by_signal = signal.replace_strict(
        list(vocabulary.SIGNALS),
        [f"killed by {name}" for name in vocabulary.SIGNALS.values()],
        default=None,
        return_dtype=nw.String,
    )
    by_code = code.replace_strict(
        list(vocabulary.EXIT_CODES),
        list(vocabulary.EXIT_CODES.values()),
        default=None,
        return_dtype=nw.String,
    )
    # the signal first: raw_exec may report a signal with exit code 0
    conventional = nw.coalesce(
        by_signal, by_code, nw.when(~code.is_null()).then(nw.lit("error")), nw.lit("unknown")
    )
    return nw.when(nw.col("type") == "Terminated").then(
        nw.when(confirmed).then(nw.lit("out of memory"))
        .when(killed & nw.col("killed_by_nomad")).then(nw.lit("kill timeout exceeded"))
        .otherwise(conventional)
    )  # fmt: skip


def _decision() -> nw.Expr:
    reason = nw.col("restart_reason")
    by_policy = reason.replace_strict(
        list(vocabulary.DECISIONS),
        list(vocabulary.DECISIONS.values()),
        default=None,
        return_dtype=nw.String,
    )
    exhausted = nw.when(reason.str.starts_with(vocabulary.EXHAUSTED)).then(
        nw.lit("given up: attempts used up")
    )
    # the policy always gives a reason; a restart without one was requested
    on_request = nw.when(~_attempts.is_given("restart_reason") & (nw.col("type") == "Restarting")).then(
        nw.lit("on request")
    )
    decided = nw.col("type").is_in(list(vocabulary.RESTART_DECISIONS)) & (nw.col("_decides") == 1)
    return nw.when(decided).then(nw.coalesce(by_policy, exhausted, on_request, nw.lit("unknown")))
