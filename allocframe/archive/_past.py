"""The tables of a past moment, for a Snapshot: as they were seen, in a database of their own."""

from __future__ import annotations

import itertools
import shutil
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
from ._reading import attach, connect, derive, plain_gaps

_ORDER = {"allocations": "", "task_states": ", t.task", "events": ", t.task, t.seq", "reschedules": ", t.seq"}
_LONGEST = 100


class Past:
    """The tables of chosen allocations as they were seen at a moment; stands in for a capture's decoder."""

    def __init__(self, tables: Tables, at: pd.Timestamp | None, condition: str) -> None:
        spill = tempfile.mkdtemp(prefix="allocframe-")
        self._remove = weakref.finalize(self, shutil.rmtree, spill, ignore_errors=True)
        self._con = connect(spill)
        self._schemas = itertools.count(1)
        try:
            attach(self._con, tables, at)
            derive(self._con, condition)
            self._keep()
        except BaseException:
            self.close()
            raise

    def _keep(self) -> None:
        """Show what was derived under the names that people know, and let go of the archive's files."""
        self._con.register("none", TABLES["resources"].schema().empty_table())
        self._con.execute("CREATE TABLE main.resources AS SELECT * FROM none")
        for name in _ORDER:
            columns = ", ".join(column.name for column in TABLES[name].columns)
            chosen = "SELECT alloc_id FROM seen.chosen"
            self._con.execute(
                f"CREATE VIEW main.{name} AS SELECT {columns} FROM seen.{name} WHERE alloc_id IN ({chosen})"
            )
            self._con.execute(f"DROP VIEW stored.{name}")

    def frame(self, name: str, schema: str = "main") -> pd.DataFrame:
        """Return a table as a DataFrame, in the order in which the allocations were created."""
        columns = ", ".join(f"t.{column.name}" for column in TABLES[name].columns)
        with self._con.cursor() as cursor:
            data = cursor.sql(
                f"SELECT {columns} FROM {schema}.{name} t JOIN {schema}.allocations a ON a.alloc_id = t.alloc_id "
                f"ORDER BY a.create_index, t.alloc_id{_ORDER.get(name, '')}"
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
            found: pa.Table = cursor.sql(
                "SELECT * FROM stored.observations ORDER BY seen_at, position"
            ).to_arrow_table()
            return found

    def gaps(self) -> pd.DataFrame:
        """Return the times in which nobody watched: since, until, reason."""
        with self._con.cursor() as cursor:
            return answer(cursor, "SELECT * FROM stored.gaps")

    def close(self) -> None:
        """Let go of the database."""
        self._con.close()
        self._remove()


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
    gaps = past.gaps()
    unseen = gaps[(gaps["since"] < asked) & (asked < gaps["until"])]
    notes = [f"as seen at {last:%Y-%m-%d %H:%M:%S} UTC, from the archive in {where}"]
    notes += [
        f"nobody watched from {gap['since']} to {gap['until']}: {gap['reason']}" for gap in plain_gaps(unseen)
    ]
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
        gaps=plain_gaps(gaps[gaps["since"] <= asked].tail(_LONGEST)),
        complete=bool(before["whole"].any()) and unseen.empty,
        notes=notes,
    )
    return capture


def _number(value: Any) -> int | None:
    return None if pd.isna(value) else int(value)
