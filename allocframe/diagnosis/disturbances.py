"""Disturbances: every failure, restart on request and loss in a snapshot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..snapshot.snapshot import Snapshot
from ..stats import explain, vocabulary
from ..stats._source import find_texts, pandas_table


def disturbances(snapshot: Snapshot) -> pd.DataFrame:
    """Return one row per failure, restart on request and lost allocation, in order of time.

    Columns: alloc_id and task (categories; no task for a lost allocation), at, and whether it was lost.
    """
    ended = explain.failures_and_requests(snapshot)[["alloc_id", "task", "at"]].assign(lost=False)
    table = pandas_table(snapshot, "allocations", "alloc_id", "modified_at", "client_status")
    table = table[table["client_status"].isin(vocabulary.LOST_STATUSES)]
    ids: Any = ended["alloc_id"].dtype
    tasks: Any = ended["task"].dtype
    place = find_texts(table["alloc_id"], ids.categories)[:-1]
    lost = pd.DataFrame(
        {
            "alloc_id": pd.Categorical.from_codes(place, dtype=ids),
            "task": pd.Categorical.from_codes(np.full(len(table), -1), dtype=tasks),
            "at": table["modified_at"].array,
            "lost": True,
        }
    )
    rows: pd.DataFrame = pd.concat(
        [part for part in (ended, lost) if len(part)] or [ended], ignore_index=True
    )
    return rows.dropna(subset=["at"]).sort_values("at", kind="stable", ignore_index=True)
