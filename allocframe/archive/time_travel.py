"""The tables of a past moment, for a Snapshot: as they were seen, in a database of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ..store.capture import Capture
from ..store.sql import select
from ..store.table_store import TableStore
from ..tables import TABLES
from .delta import DeltaTables
from .views import attach, derive, plain_gaps

_TABLES = ("allocations", "task_states", "events", "reschedules")
_MOST_GAPS = 1000
_PAUSE = pd.Timedelta("1h")
"""Between two observations: what ended meanwhile may have been removed by the servers. A recorder writes each minute."""


_SEEN = "(SELECT u.last_seen_at FROM seen.unended u WHERE u.alloc_id = task_states.alloc_id)"
_UNENDED = {
    ("task_states", "state"): f"CASE WHEN {_SEEN} IS NULL THEN state END AS state",
    ("task_states", "finished_at"): f"coalesce({_SEEN}, finished_at) AS finished_at",
}
"""Tasks of allocations that are gone, whose end was not seen: they are not running on, and their state is not known."""


class PastTables(TableStore):
    """The tables of chosen allocations as they were seen at a moment."""

    def __init__(self, tables: DeltaTables, at: pd.Timestamp | None, condition: str) -> None:
        super().__init__()
        try:
            attach(self._con, tables, at)
            derive(self._con, condition)
            self._keep()
        except BaseException:
            self.close()
            raise

    def _keep(self) -> None:
        """Show what was derived under the names that people know, and let go of the archive's files."""
        self._con.execute(
            """CREATE TABLE seen.unended AS SELECT alloc_id, last_seen_at FROM seen.allocations JOIN seen.chosen USING (alloc_id)
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
        """Return every observation of the archive, in order."""
        with self._con.cursor() as cursor:
            found: pa.Table = cursor.sql(
                "SELECT * FROM stored.observations ORDER BY seen_at, position"
            ).to_arrow_table()
            return found

    def gaps(self) -> pd.DataFrame:
        """Return the times in which nobody watched, or of which no observation is left: since, until, reason."""
        with self._con.cursor() as cursor:
            told = select(cursor, "SELECT * FROM stored.gaps")
            times = select(cursor, "SELECT DISTINCT seen_at FROM stored.observations ORDER BY 1")["seen_at"]
        pauses = pd.DataFrame({"since": times.shift(), "until": times, "reason": "nothing was observed"})
        pauses = pauses[(pauses["until"] - pauses["since"]) > _PAUSE]
        known = [
            bool(((told["since"] < row.until) & (told["until"] > row.since)).any())
            for row in pauses.itertuples()
        ]
        both = pd.concat([part for part in (told, pauses[~np.array(known, bool)]) if len(part)] or [told])
        return both.sort_values("since", kind="stable", ignore_index=True)

    def missing(self) -> dict[str, int]:
        """Return, for each day since the archive began, how many tasks lack events of it."""
        with self._con.cursor() as cursor:
            found = cursor.sql(
                """SELECT CAST(day AS VARCHAR) AS day, count(DISTINCT (alloc_id, task)) AS tasks
                FROM (SELECT alloc_id, task, unnest(generate_series(
                    greatest(since, began)::DATE::TIMESTAMP, until::DATE::TIMESTAMP, INTERVAL 1 DAY))::DATE AS day
                  FROM seen.missing, (SELECT min(seen_at) AS began FROM stored.observations)) GROUP BY 1 ORDER BY 1"""
            )
            return dict(found.fetchall())

    def unended(self) -> int:
        """Return how many allocations are gone whose end was not seen."""
        with self._con.cursor() as cursor:
            found = cursor.sql("SELECT count(*) FROM seen.unended")
            return int(found.fetchall()[0][0])


def described(past: PastTables, where: str, at: pd.Timestamp | None, since: pd.Timestamp | None) -> Capture:
    """Return what is known of a past moment, in the place of captured pages.

    Raises
    ------
    ValueError
        Nothing had been seen by then.
    """
    seen = past.observations().to_pandas()
    times = pd.to_datetime(seen["seen_at"], utc=True)
    before = seen[(times <= at).to_numpy()] if at is not None else seen
    if before.empty:
        began = f"it begins at {times.min().isoformat()}" if len(seen) else "it is empty"
        raise ValueError(f"the archive in {where} holds nothing seen by {at}: {began}")
    last = pd.Timestamp(before["seen_at"].iloc[-1]).tz_localize("UTC")
    asked = at if at is not None else last
    gaps = past.gaps()
    unseen = gaps[(gaps["since"] < asked) & (asked < gaps["until"])]
    notes = [f"as seen at {last:%Y-%m-%d %H:%M:%S} UTC, from an archive"]
    notes += [
        f"nobody watched from {gap['since']} to {gap['until']}: {gap['reason']}" for gap in plain_gaps(unseen)
    ]
    if not before["whole"].any():
        notes.append("no observation before had compared every allocation")
    unended = past.unended()
    if unended:
        notes.append(
            f"the end of {unended:,} allocations that are gone was not seen: their tasks count as running until they were last seen"
        )
    capture = Capture.create()
    capture.describe(
        source="archive",
        archive=where,
        at=asked.isoformat(),
        started_at=last.isoformat(),
        finished_at=last.isoformat(),
        index_first=_number(before["index_to"].iloc[-1]),
        index_last=_number(before["index_to"].iloc[-1]),
        recorded_since=times.min().isoformat(),
        since=None if since is None else since.isoformat(),
        gaps=merged(plain_gaps(gaps[gaps["since"] <= asked]))[-_MOST_GAPS:],
        missing=past.missing(),
        complete=bool(before["whole"].any()) and unseen.empty,
        notes=notes,
    )
    return capture


def merged(gaps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return gaps of which those that follow each other at once, for the same reason, are one."""
    found: list[dict[str, Any]] = []
    for gap in gaps:
        if found and found[-1]["until"] == gap["since"] and found[-1]["reason"] == gap["reason"]:
            found[-1] = {**found[-1], "until": gap["until"]}
        else:
            found.append(gap)
    return found


def _number(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
