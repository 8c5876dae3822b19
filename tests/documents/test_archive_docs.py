"""docs/archive.md matches the archive: its SQL views, its columns and its reasons."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import deltalake
import duckdb
import pytest
from watched import moment

import allocframe as af
from allocframe.archive import views
from allocframe.archive.schema import STORED
from allocframe.watch.change import Change

ROOT = Path(__file__).parents[1]
PAGE = (ROOT.parent / "docs" / "archive.md").read_text()


def test_the_sql_views_show_each_row_once(tmp_path: Path) -> None:
    folder = shutil.copytree(ROOT / "data" / "archive-1", tmp_path / "archive")
    archive = af.Archive(folder)
    for n in range(2):
        archive.append(_change_everything(archive, n))
    connection = duckdb.connect()
    for name in ("snapshots", "allocations", "task_states", "events"):
        connection.register(f"raw_{name}", deltalake.DeltaTable(folder / name).to_pyarrow_dataset())
    statements = re.findall(r"CREATE VIEW .*?;", PAGE, re.DOTALL)
    assert len(statements) == 3
    for view in statements:
        connection.execute(view)
    order = "ORDER BY alloc_id, task, modify_index, seq"
    events = connection.sql(f"SELECT alloc_id, details FROM events_once {order}").fetchall()
    assert events == list(zip(archive.events()["alloc_id"], archive.events()["details"], strict=True))
    live = connection.sql("SELECT alloc_id FROM allocations_last WHERE NOT gone ORDER BY 1").fetchall()
    with archive.snapshot() as snap:
        assert [row[0] for row in live] == sorted(snap.allocations["alloc_id"])
    assert connection.sql("SELECT count(*) FROM task_states_last").fetchall() == [(3,)]


def _change_everything(archive: af.Archive, n: int) -> Change:
    """Return a change with a new version of every allocation."""
    with archive.snapshot() as snap:
        rows = snap.allocations.assign(modify_index=snap.allocations["modify_index"] + 100 + n)
        return Change(
            moment(1000 + n), 9, "list", True, rows.iloc[:0], rows, rows.iloc[:0], snap.task_states,
            snap.events, snap.reschedules, snap.events,
        )  # fmt: skip


def test_every_column_of_the_archive_s_own_is_described() -> None:
    own = {column.name for stored in STORED.values() for column in stored.more}
    own |= {column.name for column in STORED["snapshots"].columns}
    assert [name for name in sorted(own) if f"`{name}`" not in PAGE] == []


@pytest.mark.parametrize(
    "reason", ["BEFORE", "OVERFLOW", "UNWATCHED", "NEW_RING", "NOT_KEPT", "NO_END", "UNCOUNTED"]
)
def test_every_reason_is_explained(reason: str) -> None:
    assert f"| {getattr(views, reason)}" in PAGE
