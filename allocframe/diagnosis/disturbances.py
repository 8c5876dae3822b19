"""Disturbances: every failure, restart on request and loss in a snapshot."""

from __future__ import annotations

import pandas as pd

from ..snapshot.snapshot import Snapshot
from ..stats import explain, vocabulary
from ..stats._source import pandas_table

_COLUMNS = ["alloc_id", "task", "namespace", "job_id", "job_version", "node_name", "at", "cause"]


def disturbances(snapshot: Snapshot) -> pd.DataFrame:
    """Return one row per failure, restart on request and lost allocation, in order of time.

    Columns: alloc_id, task (none for a lost allocation), namespace, job_id, job_version, node_name, at,
    cause.
    """
    ended = explain.select_failures_and_requests(snapshot).rename(columns={"time": "at"})
    allocations = pandas_table(
        snapshot, "allocations", "alloc_id", "namespace", "job_id", "job_version", "node_name", "modified_at",
        "client_status",
    )  # fmt: skip
    lost = allocations[allocations["client_status"].isin(vocabulary.LOST_STATUSES)]
    lost = lost.rename(columns={"modified_at": "at"}).assign(cause=vocabulary.LOST, task=None)
    # the two tables have categories of their own, which concat cannot join
    dtypes = dict.fromkeys(("task", "namespace", "job_id", "node_name", "cause"), "str")
    rows: pd.DataFrame = pd.concat(
        [part[_COLUMNS].astype(dtypes) for part in (ended, lost)], ignore_index=True
    )
    return rows.dropna(subset=["at"]).sort_values("at", kind="stable", ignore_index=True)
