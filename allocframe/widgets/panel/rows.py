"""The rows of the panel's table: what one decides by, of every allocation. No widgets here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..._utils.text import visible
from ...client.client import Client
from ...snapshot.snapshot import Snapshot
from ...stats import vocabulary

PER_PAGE = 5_000
"""Allocations in one response: most clusters fit into one."""

RECENT = pd.Timedelta("10min")
"""A task that restarted since then is shown as restarting, although it may run at this moment."""

COLUMNS = (
    "id", "namespace", "job", "name", "status", "tasks", "restarts", "exit", "created", "version", "node",
)  # fmt: skip
"""What a row holds, in this order; `created` is in milliseconds since 1970."""

Row = tuple[Any, ...]


def fetch(client: Client, namespace: str | None, expression: str | None) -> dict[str, Row]:
    """Fetch the allocations to choose from, as rows by their ID."""
    with client.snapshot(namespace=namespace, filter=expression, per_page=PER_PAGE, progress=False) as snap:
        return make_rows(snap)


def make_rows(snap: Snapshot) -> dict[str, Row]:
    """Return the rows of a snapshot by the allocations' IDs. Names are safe to show."""
    allocs, tasks = snap.allocations, snap.task_states
    ids = allocs["alloc_id"].astype("str")
    fetched = snap.info.get("finished_at")
    observed = pd.Timestamp(fetched) if fetched else snap.events["time"].max()
    by_alloc = tasks.assign(alloc_id=tasks["alloc_id"].astype("str")).groupby("alloc_id")
    restarts = by_alloc["restarts"].sum().reindex(ids).fillna(0).astype("int64")
    recent = tasks["last_restart_at"] > observed - RECENT
    waiting = (tasks["state"] == "pending") & (tasks["restarts"] > 0)
    restarting = set(tasks.loc[recent | waiting, "alloc_id"].astype("str"))
    status = _statuses(allocs, ids.isin(restarting))
    created = allocs["created_at"].astype("datetime64[ns, UTC]")
    milliseconds = (created.astype("int64") // 1_000_000).where(created.notna(), 0)
    version = allocs["job_version"].astype("Int64")
    columns = [
        ids, _shown(allocs["namespace"]), _shown(allocs["job_id"]), _shown(allocs["name"]), status,
        _task_summaries(tasks, ids), restarts, _last_exits(snap.events, ids), milliseconds,
        ["" if pd.isna(number) else str(number) for number in version], _shown(allocs["node_name"]),
    ]  # fmt: skip
    rows = zip(*(np.asarray(column).tolist() for column in columns), strict=True)
    return {row[0]: row for row in rows}


def _shown(column: pd.Series[Any]) -> list[str]:
    # Names repeat, so only the different ones are made visible.
    codes, names = pd.factorize(column.astype("str").fillna(""))
    texts = [visible(name) for name in names]
    return [texts[code] for code in codes]


def _statuses(allocs: pd.DataFrame, restarting: pd.Series[bool]) -> list[str]:
    """Return a word for each allocation: its client status, or what says more."""
    client, desired = allocs["client_status"].astype("str"), allocs["desired_status"].astype("str")
    live = client.isin(["running", "pending"])
    over = client.isin(["failed", *vocabulary.LOST_STATUSES])
    replaced = over & (allocs["next_alloc_id"].notna() | (desired != "run"))
    words = np.select(
        [live & (desired != "run"), live & restarting.to_numpy(), replaced],
        ["stopping", "restarting", "replaced"],
        client,
    )
    return [visible(word) for word in words]


def _task_summaries(tasks: pd.DataFrame, ids: pd.Series[str]) -> list[str]:
    """Return "2 running", or the tasks that do not run: "init dead, server pending"."""
    states: dict[str, list[tuple[str, str]]] = {}
    plain = tasks[["alloc_id", "task", "state"]].astype("str")
    for alloc_id, task, state in plain.itertuples(index=False):
        states.setdefault(alloc_id, []).append((task, state))
    summaries = []
    for alloc_id in ids:
        mine = states.get(alloc_id, [])
        running = sum(state == "running" for _, state in mine)
        others = [f"{visible(task)} {visible(state)}" for task, state in mine if state != "running"]
        summaries.append(", ".join([*([f"{running} running"] if running else []), *others]))
    return summaries


def _last_exits(events: pd.DataFrame, ids: pd.Series[str]) -> list[str]:
    """Return how the last run of a task of each allocation ended."""
    ended = events.loc[events["type"] == "Terminated"].sort_values("time", kind="stable")
    last = ended.drop_duplicates("alloc_id", keep="last")
    told: dict[str, str] = {}
    for row in last[["alloc_id", "exit_code", "signal", "oom_killed"]].to_dict("records"):
        code, signal = row["exit_code"], row["signal"]
        killed = not pd.isna(signal) and int(signal) != 0
        name = vocabulary.SIGNALS.get(int(signal), f"signal {signal}") if killed else ""
        oom = "out of memory" if not pd.isna(row["oom_killed"]) and row["oom_killed"] else ""
        exit_code = "" if pd.isna(code) or (killed and int(code) == 0) else f"exit {int(code)}"
        told[str(row["alloc_id"])] = oom or name or exit_code
    return [told.get(alloc_id, "") for alloc_id in ids]


def as_columns(rows: dict[str, Row]) -> dict[str, list[Any]]:
    """Return rows as columns for the page; a column is sent as it is, without the names of its fields."""
    if not rows:
        return {name: [] for name in COLUMNS}
    return {
        name: list(column) for name, column in zip(COLUMNS, zip(*rows.values(), strict=True), strict=True)
    }


class AllocationTable:
    """The last fetched rows, and what has changed in them since they were sent to the page."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.number: int = 0
        """Number of the last change; a page that has missed one asks for all rows."""

    def update(self, rows: dict[str, Row]) -> dict[str, Any] | None:
        """Replace the rows; return the message that tells a page what changed, None if nothing did."""
        changed = {key: row for key, row in rows.items() if self.rows.get(key) != row}
        removed = [key for key in self.rows if key not in rows]
        self.rows = rows
        if not changed and not removed:
            return None
        self.number += 1
        return {"type": "changed", "number": self.number, "rows": as_columns(changed), "removed": removed}

    def message(self) -> dict[str, Any]:
        """Return the message with all rows."""
        return {"type": "rows", "number": self.number, "rows": as_columns(self.rows)}

    def frame(self) -> pd.DataFrame:
        """Return the rows as a frame."""
        frame = pd.DataFrame(as_columns(self.rows), columns=list(COLUMNS))
        return frame.assign(created=pd.to_datetime(frame["created"], unit="ms", utc=True)).rename(
            columns={"id": "alloc_id"}
        )

    def namespace(self, alloc_id: str) -> str | None:
        """Return the namespace of an allocation, or None if it no longer exists."""
        row = self.rows.get(alloc_id)
        return str(row[COLUMNS.index("namespace")]) if row else None
