"""Deployments that failed without any failure of a task: something hung, or never became healthy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from ._failures import Case
from ._groups import ONGOING, RECOVERED, STOPPED
from ._tables import Job, numbers
from .finding import Thresholds, plain
from .incident import Cause, Evidence, Incident

REQUESTED = (
    "requested restart",
    "migration",
    "preemption",
    "purge",
    "stop",
    "scale",
    "pause",
    "promotion",
    "withdrawal",
    "failed by hand",
)
"""Mechanisms of what somebody asked for: they explain no failure."""


def newest_deployments(history: Any, *needed: str) -> dict[Job, dict[Any, Any]]:
    """Return the newest deployment of each job, of those that have these columns."""
    table = getattr(history, "deployments", None)
    if table is None or table.empty:
        return {}
    known = table.dropna(subset=["job_version", *needed]).sort_values("create_index", kind="stable")
    rows = known.drop_duplicates(["namespace", "job_id"], keep="last").to_dict("records")
    return {(str(row["namespace"]), str(row["job_id"])): row for row in rows}


_BY_HAND = "Deployment marked as failed"
"""What Nomad writes for `nomad deployment fail`, alone or before what it rolls back to.

It has no other use: what Nomad itself ends is "Failed due to ..." or "Failed because of ...".
"""

_MARGIN = pd.Timedelta("1min")


def find_failed_deployments(
    case: Case, history: Any, incidents: list[Incident], limits: Thresholds
) -> Iterator[Incident]:
    """Yield the deployments that failed and that no incident of their job explains."""
    table = getattr(history, "deployments", None)
    if table is None or table.empty:
        return
    now = pd.Timestamp(case.now, tz="UTC")
    failed = table[table["status"].astype("str").eq("failed")]
    for row in failed.sort_values("started_at", kind="stable").to_dict("records"):
        job, version = (str(row["namespace"]), str(row["job_id"])), plain(row["job_version"])
        began, ended = plain(row["started_at"]), plain(row["ended_at"])
        known = version is not None and began is not None and ended is not None
        recent = known and now - ended <= pd.Timedelta(limits.history_age)
        if recent and not _told(job, int(version), began, ended, incidents):
            yield _incident(case, job, int(version), began, ended, plain(row["status_description"]))


def _told(
    job: tuple[str, str],
    version: int,
    began: pd.Timestamp,
    ended: pd.Timestamp,
    incidents: list[Incident],
) -> bool:
    """Return whether an incident tells of this job in that time; what somebody asked for is none."""
    about = [each for each in incidents if job in each.jobs and each.cause.kind != "kill timeout"]
    about = [each for each in about if each.cause.mechanism not in REQUESTED]
    for each in about:
        # one with a truncated event history may have begun long before the first event left
        end = None if each.began_before else ended + _MARGIN
        if each.reaches_into(began - _MARGIN, end) or each.cause.subject.get("job_version") == version:
            return True
    return False


def _incident(
    case: Case,
    job: tuple[str, str],
    version: int,
    began: pd.Timestamp,
    ended: pd.Timestamp,
    words: str | None,
) -> Incident:
    rows, instances = case.evidence.allocations, case.instances
    mine = instances.family == (instances.families.index(job) if job in instances.families else -1)
    of_version = mine & (numbers(rows["job_version"], -1) == version)
    runs = mine & instances.wanted & rows["client_status"].eq("running").to_numpy(dtype=bool)
    waits = of_version & instances.wanted & rows["client_status"].eq("pending").to_numpy(dtype=bool)
    state = ONGOING if waits.any() else RECOVERED if runs.any() else STOPPED
    by_hand = (words or "").startswith(_BY_HAND)
    facts = {"failed_by_hand" if by_hand else "deployment": "failed", "reason": words, "job_version": version}
    ids = rows["alloc_id"][of_version].astype("str").tolist()
    evidence = Evidence("failed deployment", facts, [{"alloc_id": each} for each in ids[:20]])
    subject = {"namespace": job[0], "job_id": job[1], "job_version": version}
    nodes = sorted({case.node_names[each] for each in case.nodes[of_version]} - {""})
    if by_hand:
        cause = Cause("operator", "failed by hand", subject, "certain", [evidence])
        return Incident("info", STOPPED, cause, [cause], [job], nodes, ids, ended, ended, False, facts)
    # by a version that hangs, or by what it waits for
    cause = Cause("job version", "deployment", subject, "possible", [evidence])
    return Incident("warning", state, cause, [cause], [job], nodes, ids, began, ended, False, facts)
