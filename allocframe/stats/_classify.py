"""The rules that say what an event means, as expressions that any engine runs."""

from __future__ import annotations

from typing import Any

import narwhals as nw

from . import _attempts, vocabulary

TEXTS = ("exit_meaning", "oom", "decision", "cause")
TOLD = ("attempt", "killed_by_nomad", "cause_code", "exit_meaning", "oom", "failure", "decision", "cause")
"""The columns that say what an event means."""

_CAUSED = ("Terminated", "Restarting", "Not Restarting", "Killing", "Killed", *vocabulary.FAILED_STARTS)


def with_meaning(joined: nw.LazyFrame[Any]) -> nw.LazyFrame[Any]:
    """Return events that know their attempt with the columns that say what they mean."""
    terminated = nw.col("type") == "Terminated"
    code, signal = nw.col("exit_code"), nw.col("signal")
    killed = (code.fill_null(0) == vocabulary.SIGKILL_CODE) | (signal.fill_null(0) == 9)
    confirmed = (nw.col("_oom") == 1).fill_null(value=False)
    oom = (
        nw.when(terminated & confirmed).then(nw.lit("confirmed"))
        .when(terminated & code.is_null() & signal.is_null()).then(nw.lit("unknown"))
        .when(terminated & killed & ~nw.col("killed_by_nomad")).then(nw.lit("suspected"))
        .when(terminated).then(nw.lit("no"))
    )  # fmt: skip
    failed = (code.fill_null(0) != 0) | (signal.fill_null(0) != 0) | confirmed
    mine = nw.col("cause_code").is_in([vocabulary.CAUSES.index(cause) for cause in OWN_FAULT])
    return joined.with_columns(
        exit_meaning=_exit_meaning(confirmed, killed),
        oom=oom,
        failure=(
            (terminated & failed & mine) | nw.col("type").is_in(list(vocabulary.FAILED_STARTS))
        ).fill_null(value=False),
        decision=_decision(),
        cause=nw.when(nw.col("type").is_in(list(_CAUSED))).then(_attempts.labelled(nw.col("cause_code"))),
    )


OWN_FAULT = ("failure", "out of memory", "health check", "unknown")
"""Causes under which a bad end counts as a failure of the task itself."""


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
    said = nw.coalesce(by_signal, by_code, nw.when(~code.is_null()).then(nw.lit("error")), nw.lit("unknown"))
    return nw.when(nw.col("type") == "Terminated").then(
        nw.when(confirmed).then(nw.lit("out of memory"))
        .when(killed & nw.col("killed_by_nomad")).then(nw.lit("kill timeout exceeded"))
        .otherwise(said)
    )  # fmt: skip


def _decision() -> nw.Expr:
    reason = nw.col("restart_reason")
    known = [nw.when(reason == said).then(nw.lit(means)) for said, means in vocabulary.DECISIONS.items()]
    spent = nw.when(reason.str.starts_with(vocabulary.EXHAUSTED)).then(nw.lit("given up: attempts used up"))
    asked = nw.when(reason.is_null() & (nw.col("type") == "Restarting")).then(nw.lit("on request"))
    decided = nw.col("type").is_in(["Restarting", "Not Restarting"])
    return nw.when(decided).then(nw.coalesce(*known, spent, asked, nw.lit("unknown")))
