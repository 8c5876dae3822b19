"""Deployments: how they went, how long they took, and how often a change fails (DORA)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ..snapshot.snapshot import Snapshot
from . import _confidence
from ._per_cluster import per_cluster
from ._source import Source, groups, has_table, names, pandas_table
from .availability import censored_quantiles

_COLUMNS = [
    "namespace", "job_id", "job_version", "status", "began_at", "ended_at", "duration", "placed", "healthy",
    "unhealthy", "failed", "next_version", "restored_after", "known_from",
]  # fmt: skip
_VERSION = ["namespace", "job_id", "job_version"]


@per_cluster
def deployments(source: Source) -> pd.DataFrame:
    """Return the deployments: how each ended, how long it took, and how soon a failed one was followed.

    With the table `deployments` (of a snapshot with history, or in the mapping) they are Nomad's own.
    Otherwise they are read off the allocations, which keep whether they became healthy: one for each version
    of a job of which some allocation did or did not. Versions whose allocations are all gone are missing.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        With the table `deployments` or `allocations`.

    Returns
    -------
    pandas.DataFrame
        One row for each deployment, by time: namespace, job_id, job_version; status (Nomad's; from
        allocations "successful", "failed" or "running"); began_at, ended_at (datetime64[ns, UTC]), duration
        (timedelta64[ns]; missing if the end is not known); placed, healthy, unhealthy (allocations); failed
        (bool: failed, rolled back, or an allocation did not become healthy; missing while it runs or if it
        was cancelled); next_version and restored_after (timedelta64[ns]: from its beginning to that of the
        next version, if it failed); and known_from ("deployments" or "allocations").

    Raises
    ------
    TypeError
        `source` holds neither table.

    Examples
    --------
    >>> rows = af.stats.deployments(snap)
    >>> set(rows["known_from"]) <= {"allocations", "deployments"}
    True
    """
    own = _own_table(source)
    table = _from_allocations(source) if own is None else _from_table(own)
    table = table.sort_values([*_VERSION[:2], "began_at"], kind="stable", ignore_index=True)
    following = table.groupby(_VERSION[:2], sort=False, dropna=False)[["job_version", "began_at"]].shift(-1)
    table["next_version"] = following["job_version"]
    table["restored_after"] = (following["began_at"] - table["began_at"]).where(
        table["failed"].fillna(value=False).astype(bool)
    )
    table["duration"] = table["ended_at"] - table["began_at"]
    for name in ("duration", "restored_after"):
        table[name] = table[name].astype("timedelta64[ns]")
    return table[_COLUMNS].sort_values("began_at", kind="stable", ignore_index=True)


def _own_table(source: Source) -> pd.DataFrame | None:
    """Return Nomad's deployments, if the source has them."""
    if isinstance(source, Snapshot):
        table = getattr(getattr(source, "history", None), "deployments", None)
    else:
        table = pandas_table(source, "deployments") if has_table(source, "deployments") else None
    return table if table is not None and len(table) else None


def _from_table(own: pd.DataFrame) -> pd.DataFrame:
    table = own.rename(columns={"started_at": "began_at"})
    for name in ("namespace", "job_id", "status"):
        table[name] = table[name].astype("str")
    reverted = table["auto_reverted"].fillna(value=False).astype(bool)
    failed = (table["status"].eq("failed") | reverted).astype("boolean")
    ended = table["status"].isin(["successful", "failed"])
    table["failed"] = failed.where(ended | reverted)
    return table.assign(known_from="deployments")


def _from_allocations(source: Source) -> pd.DataFrame:
    """Return a deployment for each version of which allocations say whether they became healthy."""
    columns = (*_VERSION, "alloc_id", "deployment_healthy", "created_at", "client_status", "desired_status")
    allocations = pandas_table(source, "allocations", *columns)
    for name in _VERSION[:2]:
        allocations[name] = allocations[name].astype("str")
    health = allocations["deployment_healthy"]
    rows = allocations.assign(
        healthy=health.eq(True).fillna(value=False).astype("int64"),
        unhealthy=health.eq(False).fillna(value=False).astype("int64"),
        waiting=(health.isna() & allocations["client_status"].isin(["pending", "running"])).astype("int64"),
    )
    rows = rows.dropna(subset=["job_version"])
    table = rows.groupby(_VERSION, as_index=False, dropna=False).agg(
        began_at=("created_at", "min"), placed=("alloc_id", "size"), healthy=("healthy", "sum"),
        unhealthy=("unhealthy", "sum"), waiting=("waiting", "sum"),
    )  # fmt: skip
    table = table[(table["healthy"] + table["unhealthy"]) > 0].reset_index(drop=True)
    status = np.where(
        table["unhealthy"] > 0, "failed", np.where(table["waiting"] > 0, "running", "successful")
    )
    table["status"] = pd.Series(status, index=table.index, dtype="str")
    failed = (table["unhealthy"] > 0).astype("boolean")
    ended_at = pd.Series(pd.NaT, index=table.index, dtype="datetime64[ns, UTC]")
    return table.assign(
        failed=failed.where(table["status"] != "running"), ended_at=ended_at, known_from="allocations"
    )


@per_cluster
def change_failure_rate(source: Source, by: str | Iterable[str] = "job_id") -> pd.DataFrame:
    """Return how often deployments fail, how long they take, and how soon failed ones are followed.

    Parameters
    ----------
    source : Snapshot or mapping of tables
        As in `deployments`.
    by : str or list of str
        Columns of `deployments`, such as ``"job_id"``; ``[]`` for all together.

    Returns
    -------
    pandas.DataFrame
        One row for each group, the one with most failed deployments first: the columns of `by`, deployments
        (that ended), failed, failed_share, lower, upper (Wilson's 95 %), per_day (deployments over the
        window), median_duration, restored_median (of failed ones, from the beginning to the next version's;
        missing while half of them wait), window_start, window_end. Nomad removes deployments about an hour
        after they end: without an archive these are the last ones.

    References
    ----------
    Forsgren, Humble and Kim, Accelerate, 2018, chapter 2 (the four measures of DORA).

    Examples
    --------
    >>> rates = af.stats.change_failure_rate(snap, by=[])
    >>> bool(rates["failed_share"].dropna().between(0, 1).all())
    True
    """
    keys = names(by)
    table = deployments(source)
    start, end = table["began_at"].min(), table["began_at"].max()
    days = max((end - start) / pd.Timedelta("1D"), 1.0) if len(table) else 1.0
    rows = []
    for group, rows_of_group in groups(table, keys):
        part = rows_of_group[rows_of_group["failed"].notna()]
        failed = part[part["failed"].astype(bool)]
        share, lower, upper = (float(value) for value in _confidence.wilson(len(failed), len(part)))
        # a failed deployment without a next version still waits
        waits = failed["restored_after"].fillna(end - failed["began_at"]).dt.total_seconds().clip(lower=0)
        restored = censored_quantiles(waits.to_numpy(), failed["restored_after"].notna().to_numpy())[0]
        rows.append(
            [*group, len(part), len(failed), share, lower, upper, len(part) / days, part["duration"].median(),
             pd.to_timedelta(restored, unit="s") if len(failed) else pd.NaT, start, end]
        )  # fmt: skip
    columns = [
        *keys, "deployments", "failed", "failed_share", "lower", "upper", "per_day", "median_duration",
        "restored_median", "window_start", "window_end",
    ]  # fmt: skip
    result = pd.DataFrame(rows, columns=columns)
    return result.sort_values("failed", ascending=False, kind="stable", ignore_index=True)
