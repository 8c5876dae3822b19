"""What each event means: exit meaning, out of memory, failure or not, and the cause of an end or restart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np
import pandas as pd

from ..snapshot.snapshot import Snapshot
from . import _classify, vocabulary
from ._derived import derive, explain_in_engine
from ._per_cluster import per_cluster
from ._source import (
    NS,
    TASK,
    Array,
    Source,
    collect,
    column_names,
    exact_times,
    look_up,
    of_pandas,
    pandas_table,
)
from .replacements import replacements

_EVENT_KEY = ("namespace", "alloc_id", "task", "seq")
_NUMBERS = {"attempt": "int32", "cause_code": "float32"}
"""Dtypes of results, whatever those in which a snapshot's events are kept."""


@per_cluster
def explain_events(source: Source) -> Any:
    """Add to the events what they mean.

    Parameters
    ----------
    source : Snapshot or events table
        A pandas DataFrame, DuckDB relation or Spark DataFrame with the columns of the table `events`.

    Returns
    -------
    pandas.DataFrame, or a frame of the source's engine
        The events with these columns. A value that is not known is "unknown"; one that does not apply is
        missing.

        attempt : int
            Number of the attempt, from 0, within the events at hand; a restart begins the next one.
        killed_by_nomad : bool
            Nomad ended the attempt's task.
        cause_code : int
            Position of `cause` in `vocabulary.CAUSES`, for every event of the attempt.
        exit_meaning : str
            For `Terminated`: "ok", "error", "out of memory", "kill timeout exceeded", "killed by SIGSEGV",
            ...
        oom : str
            For `Terminated`: "confirmed" by the driver, "suspected" (SIGKILL from elsewhere than Nomad),
            "no", or "unknown".
        failure : bool
            A run that failed by itself or by its health check, or a start that failed.
        decision : str
            For `Restarting` and `Not Restarting`: what the restart policy decided ("within policy", "within
            policy, delayed", "given up: ..."), or "on request" if somebody or something asked for the
            restart.
        cause : str
            Why the attempt ended or restarts, one of `vocabulary.CAUSES`: "failure", "out of memory",
            "operator", ...

    Raises
    ------
    TypeError
        `source` holds no events table, or it lacks a column.

    Notes
    -----
    Display messages are not parsed; two of Nomad's constants that appear nowhere else are compared as a
    whole. Exit code 137 after `Killing` is a kill timeout. Without `Killing`, and without a report by the
    driver, it may be an OOM kill that the driver did not see (docker with cgroup v2, others before Nomad
    1.7).

    Examples
    --------
    >>> explained = af.stats.explain_events(snap)
    >>> set(explained.loc[explained["failure"], "cause"]) >= {"failure", "out of memory"}
    True
    """
    if isinstance(source, Snapshot):
        events = derive(source).events
        return _add_explanation(source.events, collect(events.select(*_classify.EXPLANATION)))
    in_pandas = of_pandas(source)
    events = derive(source).events if in_pandas else explain_in_engine(source)
    helpers = [name for name in column_names(events) if name.startswith("_") or name.endswith("_us")]
    native = events.drop(*helpers, TASK, strict=False)
    if in_pandas:
        return native.collect(backend="pandas").to_native().astype(dict.fromkeys(_classify.TEXTS, "str"))
    return native.to_native()


@per_cluster
def select_explained_events(
    snapshot: Snapshot, column: str, values: Sequence[Any], *, latest: int | None = None
) -> pd.DataFrame:
    """Return the rows of `explain_events` with one of `values` in a column. The other rows are never built.

    With `latest`, return only that many of them, newest first.
    """
    events = collect(derive(snapshot).events)
    positions = np.flatnonzero(events[column].isin(list(values)))
    if latest is not None:
        times = events["time_us"].iloc[positions].fillna(0).to_numpy(dtype=np.int64)
        positions = positions[np.argsort(-times, kind="stable")[:latest]]
    return _rows_at(snapshot, events, positions)


class NewestFailures(NamedTuple):
    """The newest failures of a window."""

    rows: pd.DataFrame
    """Their rows of `explain_events`, newest first."""
    failures: int
    """How many failures there are in the window."""
    kinds: int
    """How many different kinds of them."""


def newest_failures(
    snapshot: Snapshot, since: pd.Timestamp, until: pd.Timestamp, most: int, *, kind: Sequence[str] = ()
) -> NewestFailures:
    """Return the `most` newest failures of a window of one cluster; with columns of a `kind`, one of each."""
    events = collect(derive(snapshot).events)
    positions = np.flatnonzero(events["failure"])
    times = exact_times(events.take(positions)).reset_index(drop=True)
    inside = times[times.between(since, until)].sort_values(ascending=False, kind="stable")
    newest = positions[inside.index]
    if kind:
        columns = pandas_table(snapshot, "events", *(name for name in kind if name != "cause"))
        kinds = columns.take(newest).assign(cause=events["cause"].to_numpy()[newest])
        newest = newest[~kinds.duplicated(list(kind)).to_numpy()]
    return NewestFailures(_rows_at(snapshot, events, newest[:most]), len(inside), len(newest))


@per_cluster
def failures_and_requests(source: Source) -> pd.DataFrame:
    """Return the events that are failures, or ends of runs that somebody asked to restart, of those at hand.

    Columns: alloc_id, task, job_id (the parent of a run), node_name, at, cause; of a snapshot as categories.
    Losses are not events of a task; plots and reports add them from runs or allocations.
    """
    derived = derive(source)
    requested = (nw.col("type") == "Terminated") & nw.col("cause").is_in(list(vocabulary.REQUEST_CAUSES))
    chosen = nw.col("failure") | requested.fill_null(value=False)
    times = [name for name in ("time_us", NS) if name in column_names(derived.events)]
    rows = derived.events.filter(chosen).select(*dict.fromkeys([*derived.task_columns, *times, "cause"]))
    found = collect(derived.name_tasks(rows, "alloc_id", "task", "job_id", "node_name"))
    found["at"] = exact_times(found)
    return found.drop(columns=[TASK, *times], errors="ignore")


def _rows_at(snapshot: Snapshot, events: pd.DataFrame, positions: Array) -> pd.DataFrame:
    derived = derive(snapshot)
    rows = collect(derived.name_tasks(nw.from_native(events.iloc[positions]).lazy(), *_EVENT_KEY))
    return _add_explanation(
        snapshot._events_at(positions, rows[list(_EVENT_KEY)]), rows[list(_classify.EXPLANATION)]
    )


def _add_explanation(events: pd.DataFrame, explanation: pd.DataFrame) -> pd.DataFrame:
    """Add the columns of an explanation to the events, row by row."""
    types = dict.fromkeys(_classify.TEXTS, "str") | _NUMBERS
    columns = explanation.astype(types).set_axis(events.index)
    return events.assign(**{str(name): values for name, values in columns.items()})


@per_cluster
def explain_stops(source: Source, evaluations: pd.DataFrame | None = None) -> pd.DataFrame:
    """Add to the allocations why the servers stopped them.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the table `allocations`.
    evaluations : pandas.DataFrame, optional
        What `Client.evaluations` returned. Nomad says "migrated" both for a drained node and for
        ``nomad alloc stop``; the evaluation that placed the replacement tells which it was.

    Returns
    -------
    pandas.DataFrame
        The allocations with `stop_reason` (str): one of the values of `vocabulary.STOP_REASONS` and
        `vocabulary.MIGRATIONS`, "unknown" if the description is not one of the scheduler's, missing if the
        servers did not stop the allocation.

    Raises
    ------
    TypeError
        `source` holds no `allocations`.

    Examples
    --------
    >>> stops = af.stats.explain_stops(snap, client.evaluations(namespace="*"))
    >>> "node down" in set(stops["stop_reason"])
    True
    """
    allocations = pandas_table(source, "allocations").copy()
    description = allocations["desired_description"].astype("str")
    reason = description.map(vocabulary.STOP_REASONS)
    stopped = allocations["desired_status"].isin(vocabulary.STOPPING_STATUSES)
    reason = reason.where(description.notna(), "no reason given").where(stopped).astype("str")
    reason = reason.mask(
        stopped & description.notna() & ~description.isin(list(vocabulary.STOP_REASONS)), "unknown"
    )
    reason = reason.mask(stopped & allocations["preempted_by"].notna(), "preempted")
    if evaluations is not None:
        trigger = _replacement_trigger(allocations, evaluations)
        ambiguous = reason.eq("migrated") & trigger.isin(list(vocabulary.MIGRATIONS))
        reason = reason.mask(ambiguous, trigger.map(vocabulary.MIGRATIONS))
    return allocations.assign(stop_reason=reason)


def _replacement_trigger(allocations: pd.DataFrame, evaluations: pd.DataFrame) -> pd.Series[Any]:
    """Return what triggered the evaluation that placed the replacement of each allocation."""
    triggers = evaluations.drop_duplicates("eval_id").set_index("eval_id")["triggered_by"].astype("str")
    evaluation_by_id = allocations.drop_duplicates("alloc_id").set_index("alloc_id")["eval_id"]
    replaced_by = replacements({"allocations": allocations, "events": None})
    return look_up(look_up(replaced_by, evaluation_by_id), triggers)
