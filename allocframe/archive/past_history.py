"""The history of a past moment: the tables of changes that an archive holds, and the ledger made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from .._utils.prose import clock
from ..snapshot.change_ledger import make_changes, records
from ..snapshot.history import History
from ..store.sql import where
from ..tables import ALLOCATIONS, EVENTS, HISTORY
from ..tables.table import Table
from ..watch.change import HistoryChange
from ..watch.history_watch import find_gap
from ..watch.row_filter import RowFilter
from .delta import DeltaTables
from .schema import OBSERVATIONS, STORED, Stored
from .views import Connection, empty_select, read_frame, source

_TIMES = {
    "changes": '"at"',
    "job_versions": "submitted_at",
    "deployments": "started_at",
    "node_events": "time",
    "evaluations": "created_at",
}
"""When a row happened. It may have been seen much later."""

_LATER = {"deployments": "coalesce(ended_at, started_at)", "evaluations": "coalesce(modified_at, created_at)"}
"""The last thing that a row tells."""

_ENDED = "('successful', 'failed', 'cancelled')"
_MADE_OF_TABLES = frozenset({"job_versions", "deployments", "nodes", "node_events", "events"})
"""Rows of the ledger that are made anew of these. Those of evaluations also depend on what else was known."""

_OF_NAMESPACE = frozenset(HISTORY) - {"nodes", "node_events"}
_LISTED_FOR = pd.Timedelta("2D")
"""Servers list evaluations for an hour after they have ended, unless they were told otherwise."""

_MOST_GAPS = 5
"""Gaps that notes name, the last ones."""

# A job's version that is read again after a pause may lack its predecessor, and with it what had changed.
_COLUMNS = {
    "job_versions": {
        name: f"first_value({name} IGNORE NULLS) OVER (PARTITION BY {{key}} ORDER BY seen_at "
        f"ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING)"
        for name in ("changed_fields", "same_as")
    },
    # Servers before 1.9 do not tell these times: they are known only to who was there.
    "deployments": {
        "started_at": "min(started_at) OVER (PARTITION BY {key})",
        "ended_at": f"CASE WHEN status IN {_ENDED} THEN min(ended_at) OVER (PARTITION BY {{key}}) END",
    },
}


def read_history(
    connection: Connection,
    tables: DeltaTables,
    at: pd.Timestamp | None = None,
    *,
    since: pd.Timestamp | None = None,
    namespace: str | None = None,
) -> History | None:
    """Return what had changed up to `at`, as far as it was recorded; None if nothing was.

    A change that happened before `at` and was seen later is included. What may change again, such as the
    status of a deployment, is as it was last seen at that time.

    Parameters
    ----------
    connection : Connection
        With the archive attached to it.
    tables : DeltaTables
    at : pandas.Timestamp, optional
        The last observation if omitted.
    since : pandas.Timestamp, optional
        Leave out what happened before.
    namespace : str, optional
        Only the jobs of this namespace.
    """
    frames = _read_frames(connection, tables, at, since=since, namespace=namespace)
    if frames is None:
        return None
    seen = list(records(frames["changes"]))
    allocations, events = _find_requests(connection, frames["evaluations"], at)
    frames["changes"] = make_changes(frames, allocations=allocations, events=events, more=seen, listed=())
    history = History(frames, _notes(connection, at))
    return history if since is None else history.since(since)


def _read_frames(
    connection: Connection,
    tables: DeltaTables,
    at: pd.Timestamp | None = None,
    *,
    since: pd.Timestamp | None = None,
    namespace: str | None = None,
) -> dict[str, pd.DataFrame] | None:
    """Return the recorded tables, without the ledger that is made of them; None if there are none."""
    names = [name for name in HISTORY if tables.exists(name)]
    if not names:
        return None
    frames = {}
    for name, table in HISTORY.items():
        if name not in names:
            frames[name] = table.empty()
            continue
        stored = STORED[name]
        connection.execute(
            f"CREATE VIEW stored.{name} AS SELECT {stored.select_list()} FROM ({empty_select(stored)} "
            f"UNION ALL BY NAME {source(connection, tables, name)}) "
            "WHERE batch IN (SELECT batch FROM stored.committed)"
        )
        frames[name] = _read_table(connection, stored, at, since, namespace)
        connection.execute(f"DROP VIEW stored.{name}")
    return frames


def _read_table(
    connection: Connection,
    stored: Stored,
    at: pd.Timestamp | None,
    since: pd.Timestamp | None,
    namespace: str | None,
) -> pd.DataFrame:
    """Return a table with one row per key: the last one seen up to `at`, else the first later one."""
    table = stored.table
    key = ", ".join(f'"{name}"' for name in table.key)  # `at` is a word of SQL
    age = "seen_at DESC"
    conditions = ["true"]
    if at is not None:
        moment = f"make_timestamp_ns({at.value})"
        age = (
            f"seen_at <= {moment} DESC, "
            f"CASE WHEN seen_at <= {moment} THEN -epoch_ns(seen_at) ELSE epoch_ns(seen_at) END"
        )
        time = _TIMES.get(table.name)
        conditions.append(f"coalesce({time}, seen_at) <= {moment}" if time else f"seen_at <= {moment}")
    if table.name == "job_changes":
        conditions, age = ["true"], "seen_at"
    if since is not None and table.name in ("evaluations", "node_events"):
        # These are many. Of the others, older ones explain what changed later.
        conditions.append(f"{_LATER.get(table.name, _TIMES[table.name])} >= make_timestamp_ns({since.value})")
    if namespace is not None and namespace != "*" and table.name in _OF_NAMESPACE:
        conditions.append(where([("namespace", namespace)]))
    columns = _COLUMNS.get(table.name, {})
    listed = ", ".join(
        f"{columns[column.name].format(key=key)} AS {column.name}"
        if column.name in columns
        else f'"{column.name}"'
        for column in table.columns
    )
    rest = f"""FROM (SELECT {listed}, {"gone" if table.name == "nodes" else "false"} AS gone,
          row_number() OVER (PARTITION BY {key} ORDER BY {age}) AS age
        FROM stored.{table.name} WHERE {" AND ".join(conditions)} {_same_predecessor(table)})
        WHERE age = 1 AND NOT gone ORDER BY {_TIMES.get(table.name) or key}, {key}"""
    return read_frame(connection, table, rest)


def _same_predecessor(table: Table) -> str:
    """Return a condition on changed fields: they are those since the last known version."""
    if table.name != "job_changes":
        return ""
    return """QUALIFY version_before IS NOT DISTINCT FROM max(version_before)
        OVER (PARTITION BY namespace, job_id, version, job_modify_index)"""


def _find_requests(
    connection: Connection, evaluations: pd.DataFrame, at: pd.Timestamp | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the allocations that somebody may have restarted or stopped, and the events that tell."""
    stops = evaluations.loc[evaluations["triggered_by"] == "alloc-stop", ["eval_id"]]
    before = "true" if at is None else f"time <= make_timestamp_ns({at.value})"
    connection.register("stops", stops)
    events = _read_columns(
        connection,
        EVENTS,
        ("alloc_id", "task", "time", "type", "message", "restart_reason"),
        f"FROM stored.events WHERE type = 'Restart Signaled' AND {before} GROUP BY ALL",
    )
    connection.register("signaled", events[["alloc_id"]])
    placed = "SELECT alloc_id FROM stored.allocations WHERE eval_id IN (SELECT eval_id FROM stops)"
    allocations = _read_columns(
        connection,
        ALLOCATIONS,
        ("alloc_id", "namespace", "job_id", "node_name", "job_version", "eval_id", "previous_alloc_id",
         "next_alloc_id"),
        f"""FROM stored.allocations WHERE NOT gone AND (alloc_id IN ({placed}) OR next_alloc_id IN ({placed})
          OR alloc_id IN (SELECT alloc_id FROM signaled))
        QUALIFY row_number() OVER (PARTITION BY alloc_id ORDER BY modify_index DESC, seen_at DESC) = 1""",
    )  # fmt: skip
    connection.unregister("stops")
    connection.unregister("signaled")
    return allocations, events


def _read_columns(connection: Connection, table: Table, names: Sequence[str], rest: str) -> pd.DataFrame:
    columns = tuple(column for column in table.columns if column.name in names)
    return read_frame(connection, table.with_columns(columns), rest)


def _notes(connection: Connection, at: pd.Timestamp | None) -> list[str]:
    """Return since when changes were recorded, when nobody recorded them, and what could not be read."""
    seen = _read_columns(
        connection,
        OBSERVATIONS,
        ("history_at", "history_gap_since", "history_notes"),
        "FROM stored.observations WHERE history_at IS NOT NULL ORDER BY history_at",
    )
    if at is not None:
        seen = seen[(seen["history_at"] <= at).to_numpy()]
    if seen.empty:
        return ["jobs and nodes were first looked at later than this"]
    first = clock(seen["history_at"].iloc[0])
    notes = [f"jobs and nodes were watched since {first} UTC; of before, what Nomad still knew"]
    gaps = seen[seen["history_gap_since"].notna()].tail(_MOST_GAPS)
    notes += [
        f"nobody watched jobs and nodes from {clock(since)} to {clock(until, since)} UTC: what Nomad forgot "
        "meanwhile is missing"
        for since, until in zip(gaps["history_gap_since"], gaps["history_at"], strict=True)
    ]
    last = seen["history_notes"].iloc[-1]
    return notes + ([] if pd.isna(last) else [str(note) for note in json.loads(last)])


class Known(NamedTuple):
    """What an archive knows of jobs and nodes, and up to when."""

    rows: RowFilter
    at: pd.Timestamp | None


def read_known(connection: Connection, tables: DeltaTables) -> Known:
    """Return the rows that an archive has of what Nomad may still list, and up to when they are known."""
    seen = connection.sql("SELECT max(history_at) FROM stored.observations").fetchall()[0][0]
    at = None if seen is None else pd.Timestamp(seen).tz_localize("UTC")
    since = None if at is None else at - _LISTED_FOR
    known = RowFilter()
    known.new_rows(_read_frames(connection, tables, since=since) or {})
    return Known(known, at)


def history_change(history: History, at: pd.Timestamp, known: Known) -> HistoryChange:
    """Return what a fetched or recovered history has that an archive does not know.

    Of its ledger, this keeps what follows from no other table.
    """
    frames = {name: getattr(history, name) for name in HISTORY}
    changes = frames["changes"]
    is_made = changes["source"].isin(_MADE_OF_TABLES).to_numpy()
    frames["changes"] = changes[~is_made].reset_index(drop=True)
    return HistoryChange(at, known.rows.new_rows(frames), find_gap(known.at, at), history.notes)
