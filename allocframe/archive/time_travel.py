"""The tables of a past moment, for a Snapshot, in a database of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ..snapshot.history import History
from ..store.capture import Capture
from ..store.sql import select
from ..store.table_store import TableStore
from ..tables import TABLES
from ..watch.change import LOST_RIGHTS
from .delta import DeltaTables
from .past_history import read_history
from .views import MAX_PAUSE, attach, derive, gaps_to_json

_TABLES = ("allocations", "task_states", "events", "reschedules")
_MAX_GAPS = 1000

_HISTORY_BEFORE = pd.Timedelta("7D")
"""The history of a snapshot begins this long before it: what broke today may have changed days ago."""

_SEEN = "(SELECT u.last_seen_at FROM seen.unended u WHERE u.alloc_id = task_states.alloc_id)"
_UNENDED = {
    ("task_states", "state"): f"CASE WHEN {_SEEN} IS NULL THEN state END AS state",
    ("task_states", "finished_at"): f"coalesce({_SEEN}, finished_at) AS finished_at",
}
"""Columns of tasks that were removed before their end was seen.

They do not run on, and their state is unknown.
"""


class PastTables(TableStore):
    """The tables of selected allocations, as they were seen at a moment."""

    def __init__(
        self, tables: DeltaTables, at: pd.Timestamp | None, since: pd.Timestamp | None, condition: str
    ) -> None:
        super().__init__()
        try:
            attach(self._con, tables, at)
            self.history: History | None = self._read_history(tables, at, since)
            derive(self._con, condition)
            self._create_views()
        except BaseException:
            self.close()
            raise

    def _read_history(
        self, tables: DeltaTables, at: pd.Timestamp | None, since: pd.Timestamp | None
    ) -> History | None:
        first = since if since is not None else at
        if first is None:
            last = self._con.sql("SELECT max(seen_at) FROM stored.observations").fetchall()[0][0]
            first = None if last is None else pd.Timestamp(last).tz_localize("UTC")
        return None if first is None else read_history(self._con, tables, at, since=first - _HISTORY_BEFORE)

    def _create_views(self) -> None:
        """Create views named like a snapshot's tables, and drop those that read the archive's files."""
        self._con.execute(
            """CREATE TABLE seen.unended AS
            SELECT alloc_id, last_seen_at FROM seen.allocations JOIN seen.chosen USING (alloc_id)
            WHERE gone_at IS NOT NULL AND client_status IN ('pending', 'running', 'unknown')"""
        )
        self._con.register("none", TABLES["resources"].schema().empty_table())
        self._con.execute("CREATE TABLE main.resources AS SELECT * FROM none")
        for name in _TABLES:
            columns = ", ".join(
                _UNENDED.get((name, column.name), column.name) for column in TABLES[name].columns
            )
            chosen = "SELECT alloc_id FROM seen.chosen"
            self._con.execute(
                f"CREATE VIEW main.{name} AS SELECT {columns} FROM seen.{name} WHERE alloc_id IN ({chosen})"
            )
            self._con.execute(f"DROP VIEW stored.{name}")

    def observations(self) -> pa.Table:
        """Return every observation of the archive, in order of time."""
        with self._con.cursor() as cursor:
            observations: pa.Table = cursor.sql(
                "SELECT * FROM stored.observations ORDER BY seen_at, position"
            ).to_arrow_table()
            return observations

    def gaps(self) -> pd.DataFrame:
        """Return the periods in which nobody watched, or without observations: since, until, reason."""
        with self._con.cursor() as cursor:
            recorded = select(cursor, "SELECT * FROM stored.gaps")
            times = select(cursor, "SELECT DISTINCT seen_at FROM stored.observations ORDER BY 1")["seen_at"]
        pauses = pd.DataFrame({"since": times.shift(), "until": times, "reason": "nothing was observed"})
        pauses = pauses[(pauses["until"] - pauses["since"]) > MAX_PAUSE]
        is_recorded = [
            bool(((recorded["since"] < pause.until) & (recorded["until"] > pause.since)).any())
            for pause in pauses.itertuples()
        ]
        unrecorded = pauses[~np.array(is_recorded, bool)]
        gaps: pd.DataFrame = pd.concat([part for part in (recorded, unrecorded) if len(part)] or [recorded])
        return gaps.sort_values("since", kind="stable", ignore_index=True)

    def missing(self) -> dict[str, int]:
        """Return the number of tasks that lack events, for each day since the archive began."""
        with self._con.cursor() as cursor:
            days = cursor.sql(
                """SELECT CAST(day AS VARCHAR) AS day, count(DISTINCT (alloc_id, task)) AS tasks
                FROM (SELECT alloc_id, task, unnest(generate_series(
                    greatest(since, began)::DATE::TIMESTAMP, until::DATE::TIMESTAMP, INTERVAL 1 DAY))::DATE AS
                    day
                  FROM seen.missing, (SELECT min(seen_at) AS began FROM stored.observations))
                GROUP BY 1 ORDER BY 1"""
            )
            return dict(days.fetchall())

    def unended(self) -> int:
        """Return the number of allocations that were removed before their end was seen."""
        with self._con.cursor() as cursor:
            count = cursor.sql("SELECT count(*) FROM seen.unended")
            return int(count.fetchall()[0][0])


def describe(past: PastTables, location: str, at: pd.Timestamp | None, since: pd.Timestamp | None) -> Capture:
    """Return a capture without pages that has the `info` of a past moment.

    Raises
    ------
    ValueError
        The archive has no observation before `at`.
    """
    observations = past.observations().to_pandas()
    times = pd.to_datetime(observations["seen_at"], utc=True)
    before = observations[(times <= at).to_numpy()] if at is not None else observations
    if before.empty:
        began = f"It begins at {times.min().isoformat()}" if len(observations) else "It is empty"
        raise ValueError(f"the archive in {location} has no observation before {at}. {began}")
    last = pd.Timestamp(before["seen_at"].iloc[-1]).tz_localize("UTC")
    moment = at if at is not None else last
    gaps = past.gaps()
    current_gaps = gaps[(gaps["since"] < moment) & (moment < gaps["until"])]
    # Observations continue while the token lacks rights, each at the end of such a gap.
    reason = before["gap_reason"].iloc[-1]
    lost_rights = not pd.isna(reason) and str(reason).startswith(LOST_RIGHTS) and not before["whole"].iloc[-1]
    notes = [f"as seen at {last:%Y-%m-%d %H:%M:%S} UTC, from an archive"]
    notes += [
        f"nobody watched from {gap['since']} to {gap['until']}: {gap['reason']}"
        for gap in gaps_to_json(current_gaps)
    ]
    if not before["whole"].any():
        notes.append("no observation before this time compared every allocation")
    if lost_rights:
        notes.append(f"{reason}: its rows are as last seen before")
    unended = past.unended()
    if unended:
        notes.append(
            f"{unended:,} allocations were removed before their end was seen: their tasks count as running "
            "until they were last seen"
        )
    capture = Capture.create()
    capture.describe(
        source="archive",
        archive=location,
        at=moment.isoformat(),
        started_at=last.isoformat(),
        finished_at=last.isoformat(),
        index_first=_number(before["index_to"].iloc[-1]),
        index_last=_number(before["index_to"].iloc[-1]),
        recorded_since=times.min().isoformat(),
        since=None if since is None else since.isoformat(),
        gaps=merge_gaps(gaps_to_json(gaps[gaps["since"] <= moment]))[-_MAX_GAPS:],
        missing=past.missing(),
        complete=bool(before["whole"].any()) and current_gaps.empty and not lost_rights,
        notes=notes,
    )
    return capture


def merge_gaps(gaps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge adjacent gaps that have the same reason."""
    merged: list[dict[str, Any]] = []
    for gap in gaps:
        if merged and merged[-1]["until"] == gap["since"] and merged[-1]["reason"] == gap["reason"]:
            merged[-1] = {**merged[-1], "until": gap["until"]}
        else:
            merged.append(gap)
    return merged


def _number(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
