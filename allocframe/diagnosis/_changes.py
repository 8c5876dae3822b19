"""What had changed near the beginning of each incident, the most telling first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ._failures import Case
from ._tables import NEVER, numbers
from .finding import Thresholds, plain, plain_facts
from .incident import Incident

BEFORE = pd.Timedelta("30min")
"""Changes this long before an incident are shown with it: a slow rollout takes as long."""

AFTER = pd.Timedelta("10s")
"""Clocks of servers and nodes differ by so much at least."""

MOST_CHANGES = 10

_TOUCHES = {
    "out of memory": ("MemoryMB", "MemoryMaxMB"),
    "killed": ("MemoryMB", "MemoryMaxMB", "KillTimeout"),
    "artifact": ("Artifact", "GetterSource"),
    "driver": ("Config", "Driver", "image", "User"),
    "crash": ("Config", "Env", "Command", "Template", "Artifact", "image"),
    "template": ("Template", "Vault", "Consul"),
    "secrets": ("Vault", "Identity", "Template"),
    "health check": ("Check", "Service", "Config", "Env", "Network", "image"),
    "volume": ("Volume", "Mount", "CSI"),
}
"""Fields of a job whose change can bring about each mechanism."""


def attach_changes(case: Case, incidents: list[Incident], history: Any, limits: Thresholds) -> list[Incident]:
    """Return the incidents with the rows of the change ledger near their beginning."""
    ledger = getattr(history, "changes", None)
    fields = getattr(history, "job_changes", None)
    if ledger is None:
        ledger = _placements(case)
    if ledger.empty:
        return incidents
    ledger = ledger.dropna(subset=["at"]).sort_values("at", kind="stable")
    at = pd.to_datetime(ledger["at"], utc=True).astype("datetime64[ns, UTC]").astype("int64").to_numpy()
    by_job = _by_job(fields)
    return [
        incident
        if incident.severity == "info"
        else replace(incident, changes=_near(incident, ledger, at, by_job))
        for incident in incidents
    ]


def _near(
    incident: Incident,
    ledger: pd.DataFrame,
    at: Any,
    by_job: dict[tuple[str, str, int], list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    begin = incident.facts.get("estimated_onset") or incident.began_at
    if begin is None:
        return []
    first, last = (
        np.searchsorted(at, (begin - BEFORE).value), np.searchsorted(at, (begin + AFTER).value, side="right")
    )  # fmt: skip
    jobs, nodes = set(incident.jobs), set(incident.nodes)
    mechanism = incident.cause.mechanism or incident.cause.kind
    ranked = []
    for row in ledger.iloc[first:last].to_dict("records"):
        change = plain_facts(row)
        job = (str(change.get("namespace")), str(change.get("job_id")))
        same_job = job in jobs
        same_node = change.get("node_name") is not None and str(change["node_name"]) in nodes
        if not (same_job or same_node):
            continue
        version = plain(change.get("version_after"))
        diff = by_job.get((*job, int(version)), []) if version is not None else []
        touches = any(part in str(field["path"]) for field in diff for part in _TOUCHES.get(mechanism, ()))
        change["before"] = max(begin - change["at"], pd.Timedelta(0))
        if diff:
            change["diff"] = diff
        change["touches"] = touches
        ranked.append(((not touches, not same_job, change["before"]), change))
    ranked.sort(key=lambda pair: pair[0])
    return [change for _, change in ranked[:MOST_CHANGES]]


def _by_job(fields: pd.DataFrame | None) -> dict[tuple[str, str, int], list[dict[str, Any]]]:
    """Return the changed fields of each job version."""
    found: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    if fields is None or fields.empty:
        return found
    names = [name for name in ("task_group", "task", "path", "kind", "old", "new") if name in fields.columns]
    for row in fields.to_dict("records"):
        version = plain(row.get("version"))
        if version is not None:
            key = (str(row["namespace"]), str(row["job_id"]), int(version))
            found.setdefault(key, []).append({name: plain(row[name]) for name in names})
    return found


def _placements(case: Case) -> pd.DataFrame:
    """Return the first placements of new job versions: all that allocations tell of changes."""
    rows = case.evidence.allocations
    family = case.instances.family
    table = pd.DataFrame(
        {
            "family": family,
            "version": numbers(rows["job_version"], -1),
            "at": rows["created_at"].to_numpy(),
        }
    )
    table = table[(table["version"] >= 0) & (table["at"] != NEVER) & ~case.instances.has_runs[family]]
    placed = table.groupby(["family", "version"], as_index=False)["at"].min()
    placed["before"] = placed.groupby("family")["version"].shift()
    placed = placed[placed["before"].notna()]
    jobs = [case.instances.families[each] for each in placed["family"].tolist()]
    return pd.DataFrame(
        {
            "kind": "job version",
            "at": pd.to_datetime(placed["at"].to_numpy(), utc=True),
            "namespace": [namespace for namespace, _ in jobs],
            "job_id": [job for _, job in jobs],
            "node_name": None,
            "version_before": placed["before"].astype("int64").to_numpy(),
            "version_after": placed["version"].to_numpy(),
            "source": "allocations",
        }
    )
