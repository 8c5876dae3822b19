"""The tables of a past moment, for a Snapshot: as they were seen, in a database of their own."""

from __future__ import annotations

import itertools
import tempfile
import weakref
from collections.abc import Iterable
from typing import Any

import pandas as pd
import pyarrow as pa

from ..capture import Capture
from ..decode import ISSUES, answer, terms
from ..frames import SNAPSHOT_TABLES, TABLES
from ._delta import Tables
from ._reading import attach, connect, derive

_ORDER = {
    "allocations": "",
    "task_states": ", t.task",
    "events": ", t.task, t.seq",
    "reschedules": ", t.seq",
    "resources": "",
}
_LONGEST = 100


class Past:
    """The tables of chosen allocations as they were seen at a moment; stands in for a capture's decoder."""

    def __init__(self, tables: Tables, at: pd.Timestamp | None, condition: str) -> None:
        self._spill = tempfile.TemporaryDirectory(prefix="allocframe-")
        self._con = connect(self._spill.name)
        self._schemas = itertools.count(1)
        weakref.finalize(self, self._con.close)
        try:
            attach(self._con, tables, at)
            derive(self._con, condition)
            self._keep()
        except BaseException:
            self.close()
            raise

    def _keep(self) -> None:
        """Copy what was derived, so that it stays whatever becomes of the archive."""
        for name in SNAPSHOT_TABLES:
            if name == "resources":
                self._con.register("none", TABLES[name].schema().empty_table())
                self._con.execute("CREATE TABLE main.resources AS SELECT * FROM none")
                continue
            columns = ", ".join(f"t.{column.name}" for column in TABLES[name].columns)
            chosen = "SELECT alloc_id FROM seen.chosen"
            self._con.execute(
                f"CREATE TABLE main.{name} AS SELECT {columns} FROM seen.{name} t WHERE t.alloc_id IN ({chosen})"
            )
        self._con.execute("CREATE TABLE main.observations AS SELECT * FROM stored.observations")
        self._con.execute("DROP SCHEMA seen CASCADE")
        self._con.execute("DROP SCHEMA stored CASCADE")

    def frame(self, name: str, schema: str = "main") -> pd.DataFrame:
        """Return a table as a DataFrame, in the order in which the allocations were created."""
        columns = ", ".join(f"t.{column.name}" for column in TABLES[name].columns)
        with self._con.cursor() as cursor:
            data = cursor.sql(
                f"SELECT {columns} FROM {schema}.{name} t JOIN {schema}.allocations a ON a.alloc_id = t.alloc_id "
                f"ORDER BY a.create_index, t.alloc_id{_ORDER[name]}"
            ).to_arrow_table()
        return TABLES[name].frame(dict(zip(data.column_names, data.columns, strict=True)))

    def query(self, query: str, schema: str = "main") -> pd.DataFrame:
        """Answer one SELECT over the tables."""
        with self._con.cursor() as cursor:
            return answer(cursor, query, schema)

    def narrow(self, schema: str, conditions: Iterable[tuple[str, Any]]) -> str:
        """Make a schema in which every table holds only the allocations that meet `conditions`; return its name."""
        name = f"view_{next(self._schemas)}"
        self._con.execute(f"CREATE SCHEMA {name}")
        chosen = f"SELECT alloc_id FROM {schema}.allocations WHERE {terms(conditions)}"
        for table in SNAPSHOT_TABLES:
            self._con.execute(
                f"CREATE VIEW {name}.{table} AS SELECT * FROM {schema}.{table} WHERE alloc_id IN ({chosen})"
            )
        return name

    def issues(self) -> pd.DataFrame:
        """Return the `ISSUES` table without rows: what did not fit was noted when it was recorded."""
        return ISSUES.empty()

    def observations(self) -> pa.Table:
        """Return every observation of the archive, in order."""
        with self._con.cursor() as cursor:
            return cursor.sql("SELECT * FROM main.observations ORDER BY seen_at, position").to_arrow_table()

    def close(self) -> None:
        """Let go of the database."""
        self._con.close()
        self._spill.cleanup()


def described(past: Past, where: str, at: pd.Timestamp | None) -> Capture:
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
    gaps = [_gap(row) for row in seen.dropna(subset=["gap_until"]).itertuples()]
    unseen = [gap for gap in gaps if (gap["since"] or "") < asked.isoformat() < gap["until"]]
    notes = [f"as seen at {last:%Y-%m-%d %H:%M:%S} UTC, from the archive in {where}"]
    notes += [f"nobody watched from {gap['since']} to {gap['until']}: {gap['reason']}" for gap in unseen]
    if not before["whole"].any():
        notes.append("no observation before had compared every allocation")
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
        gaps=[gap for gap in gaps if (gap["since"] or "") <= asked.isoformat()][-_LONGEST:],
        complete=bool(before["whole"].any()) and not unseen,
        notes=notes,
    )
    return capture


def _gap(row: Any) -> dict[str, Any]:
    since = None if pd.isna(row.gap_since) else pd.Timestamp(row.gap_since).tz_localize("UTC").isoformat()
    until = pd.Timestamp(row.gap_until).tz_localize("UTC").isoformat()
    return {"since": since, "until": until, "reason": row.gap_reason}


def _number(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
