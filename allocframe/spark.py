"""An archive's tables as Spark DataFrames, for more history than one machine can read.

The statistics take them as they are. Delta Lake reads the tables and Spark distributes the work.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .errors import MissingExtra
from .tables import ALLOCATIONS, EVENTS, TASK_STATES
from .tables.table import Kind, Table

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_TABLES = ("snapshots", "events", "task_states", "allocations")
"""In the order of opening: a batch that `snapshots` names is then complete in the other tables."""

_COUNTED = "SELECT * FROM {rows} WHERE batch IN (SELECT batch FROM {snapshots})"

# Each event once, in the order in which it was first seen: a recorder sees an event again in every answer
# until Nomad drops it.
_EVENTS = """
    SELECT {columns},
      CAST(row_number() OVER (PARTITION BY alloc_id, task ORDER BY {age}) - 1 AS BIGINT) AS seq
    FROM (SELECT *, row_number() OVER (PARTITION BY alloc_id, task, event_key ORDER BY {age}) AS copy
      FROM {{events}}) AS e
    WHERE copy = 1"""
_AGE = "modify_index NULLS LAST, seq, seen_at, seen_at_ns"

# Each allocation as it was last seen. The row that marks it as gone may hold nothing else.
_ALLOCATIONS = """
    WITH aged AS (
      SELECT *, first_value(gone) OVER later AS is_gone, first_value(seen_at) OVER later AS marked_at,
        first_value(batch) OVER later AS marked_in,
        min(seen_at) OVER (PARTITION BY alloc_id) AS first_seen_at,
        row_number() OVER (PARTITION BY alloc_id
          ORDER BY gone, seen_at DESC, seen_at_ns DESC, modify_index DESC, batch DESC) AS age
      FROM {{allocations}}
      WINDOW later AS (PARTITION BY alloc_id
        ORDER BY seen_at DESC, seen_at_ns DESC, coalesce(modify_index, 0) DESC, gone DESC, batch DESC)),
    recorders AS (SELECT batch, min(recorder) AS recorder FROM {{snapshots}} GROUP BY batch),
    last AS (
      SELECT a.*, r.recorder FROM aged a LEFT JOIN recorders r ON r.batch = a.marked_in WHERE age = 1),
    compared AS (
      SELECT l.alloc_id, max(w.seen_at) AS at FROM last l JOIN {{snapshots}} w
      ON w.whole AND w.recorder = l.recorder AND (NOT l.is_gone OR w.seen_at < l.marked_at)
      GROUP BY l.alloc_id)
    SELECT {columns}, l.first_seen_at, greatest(l.seen_at, c.at) AS last_seen_at,
      CASE WHEN l.is_gone THEN l.marked_at END AS gone_at
    FROM last l LEFT JOIN compared c ON c.alloc_id = l.alloc_id"""

# If an allocation is gone and nobody saw its end, its tasks no longer run, and their last state is unknown.
_TASK_STATES = """
    SELECT {columns}, CASE WHEN NOT unended THEN state END AS state,
      CASE WHEN unended THEN last_seen_at ELSE finished_at END AS finished_at
    FROM (SELECT t.*, a.last_seen_at,
        a.gone_at IS NOT NULL AND a.client_status IN ('pending', 'running', 'unknown') AS unended,
        row_number() OVER (PARTITION BY t.alloc_id, t.task ORDER BY t.seen_at DESC, t.seen_at_ns DESC) AS age
      FROM {{task_states}} t JOIN {{allocations}} a
      ON a.alloc_id = t.alloc_id AND a.modify_index <=> t.modify_index) AS t
    WHERE age = 1"""


def tables(session: SparkSession, path: str | os.PathLike[str]) -> dict[str, DataFrame]:
    """Return everything that an archive ever saw as Spark DataFrames, which the statistics take.

    Parameters
    ----------
    session : pyspark.sql.SparkSession
        With Delta Lake. Spark computes a DataFrame anew for each result: ``cache()`` what you use often.
    path : path or URL
        The archive, as Spark's cluster reaches it, such as ``s3a://bucket/nomad``.

    Returns
    -------
    dict of str to pyspark.sql.DataFrame
        ``events``, ``allocations`` (with first_seen_at, last_seen_at, gone_at) and ``task_states`` (without
        event_count and events_truncated; see `Archive.coverage`). Times have microseconds, durations are
        whole nanoseconds.

    Raises
    ------
    FileNotFoundError
        There is no archive at `path`.
    MissingExtra
        The session has no Delta Lake.

    Notes
    -----
    `restarts`, `failures`, `failed_starts`, `oom_kills` and `explain_events` run in Spark, and only their
    results come back. The other statistics fetch the tables that they need, so filter the tables first.

    Examples
    --------
    >>> tables = af.spark.tables(session, folder)
    >>> restarting = tables["events"].filter("type = 'Restarting'").count()
    >>> bool(af.stats.restarts(tables, by="job_id")["count"].sum() == restarting)
    True
    """
    stored = _open_tables(session, os.fspath(path).rstrip("/"))
    snapshots = stored["snapshots"]
    counted = {name: session.sql(_COUNTED, rows=stored[name], snapshots=snapshots) for name in _TABLES[1:]}
    events = _EVENTS.format(columns=EVENTS.list_columns("e", "seq"), age=_AGE)
    allocations = session.sql(
        _ALLOCATIONS.format(columns=ALLOCATIONS.list_columns("l")),
        allocations=_with_derived(counted["allocations"], ALLOCATIONS),
        snapshots=snapshots,
    )
    states = _TASK_STATES.format(
        columns=TASK_STATES.list_columns("t", "state", "finished_at", "event_count", "events_truncated")
    )
    tasks = _with_derived(counted["task_states"], TASK_STATES)
    return {
        "events": session.sql(events, events=_with_derived(counted["events"], EVENTS)),
        "allocations": allocations,
        "task_states": session.sql(states, task_states=tasks, allocations=allocations),
    }


def _with_derived(rows: DataFrame, table: Table) -> DataFrame:
    """Fill the columns that an older version did not write, from the others."""
    from pyspark.sql.functions import coalesce, col, expr, lit

    for column in table.columns:
        if column.derived:
            written = col(column.name) if column.name in rows.columns else lit(None)
            value = coalesce(written, expr(column.derived)).cast(_SPARK_TYPES[column.kind])
            rows = rows.withColumn(column.name, value)
    return rows


_SPARK_TYPES: dict[Kind, str] = {
    "text": "string", "category": "string", "int": "bigint", "uint": "bigint", "float": "double",
    "bool": "boolean", "time": "timestamp", "duration": "bigint",
}  # fmt: skip


def _open_tables(session: SparkSession, root: str) -> dict[str, DataFrame]:
    from pyspark.errors import AnalysisException

    read = session.read.format("delta")
    try:
        return {name: read.load(f"{root}/{name}") for name in _TABLES}
    except AnalysisException as error:
        condition = error.getCondition() or ""
        if condition == "DATA_SOURCE_NOT_FOUND":
            raise MissingExtra(
                "this Spark session has no Delta Lake. "
                "Start it with the io.delta:delta-spark package of its version"
            ) from error
        if condition in ("PATH_NOT_FOUND", "DELTA_TABLE_NOT_FOUND", "DELTA_PATH_DOES_NOT_EXIST"):
            raise FileNotFoundError(f"there is no archive in {root}") from error
        raise
