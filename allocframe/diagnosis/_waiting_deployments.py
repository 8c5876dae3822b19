"""Deployments that wait for an operator: paused, or with healthy canaries that nobody has promoted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from ._changes import Ledger
from ._deployments import newest_deployments
from ._failures import Case
from ._groups import ONGOING
from ._others import alloc_keys
from ._tables import NEVER, moment, numbers
from .finding import plain
from .incident import Cause, Evidence, Incident

_WAITS = ("paused", "blocked", "pending")
"""Statuses of deployments that continue only if an operator, or another region, acts."""


def find_waiting_deployments(
    case: Case, history: Any, incidents: list[Incident], ledger: Ledger
) -> Iterator[Incident]:
    """Yield the deployments of newest versions that wait for an operator.

    Nobody should promote what fails: those canaries are left to the incident that tells of them.
    """
    failing = {alloc for each in incidents if each.severity != "info" for alloc in each.alloc_ids}
    for job, row in newest_deployments(history).items():
        version, what = int(row["job_version"]), _waits_for(row)
        newest = ledger.newest_version(job)
        if what is None or newest not in (None, version) or job not in case.instances.families:
            continue
        if ledger.ended_by(job, ledger.submitted_at(job, version)) is not None:
            continue
        incident = _incident(case, job, version, row, what)
        if what == "promotion":
            runs = incident.facts["running_newest"] >= incident.facts["canaries"]
            if not runs or failing & set(incident.alloc_ids):
                continue
        yield incident


def _waits_for(row: dict[Any, Any]) -> str | None:
    """Return what a deployment waits for: "promotion", its status if it is one that waits, else None."""
    if str(row["status"]) in _WAITS:
        return str(row["status"])
    canaries, healthy = plain(row.get("canaries")) or 0, plain(row.get("healthy")) or 0
    by_hand = "manual promotion" in str(plain(row["status_description"]) or "")
    is_open = str(row["status"]) == "running" and plain(row.get("promoted")) is False
    return "promotion" if is_open and by_hand and 0 < canaries <= healthy else None


def _incident(case: Case, job: tuple[str, str], version: int, row: dict[Any, Any], what: str) -> Incident:
    rows, instances = case.evidence.allocations, case.instances
    runs = (instances.family == instances.families.index(job)) & instances.wanted
    runs &= rows["client_status"].eq("running").to_numpy(dtype=bool)
    of_version = numbers(rows["job_version"], -1) == version
    alloc = np.flatnonzero(runs & of_version)
    times = np.concatenate([
        rows["created_at"].to_numpy()[alloc], rows["deployment_health_at"].to_numpy()[alloc]
    ])  # fmt: skip
    times = times[times != NEVER]
    began = plain(row["started_at"])
    last = moment(int(times.max())) if len(times) else began
    facts = {
        "waits_for": what,
        "words": plain(row["status_description"]),
        "job_version": version,
        "running_newest": len(alloc),
        "running_older": int((runs & ~of_version).sum()),
        "desired": plain(row["desired"]),
        "canaries": plain(row.get("canaries")) or None,
        # when it was paused is not on record: since then nothing was placed, and nothing became healthy
        "still_for": None if last is None else pd.Timestamp(case.now, tz="UTC") - last,
    }
    evidence = Evidence("deployment waits", facts, alloc_keys(case, alloc))
    subject = {"namespace": job[0], "job_id": job[1], "job_version": version}
    cause = Cause("operator", "promotion" if what == "promotion" else "pause", subject, "certain", [evidence])
    ids = rows["alloc_id"].iloc[alloc].astype("str").tolist()
    nodes = sorted({case.node_names[each] for each in case.nodes[alloc]} - {""})
    return Incident("info", ONGOING, cause, [cause], [job], nodes, ids, began, last, False, facts)
