"""Jobs that wait for room now: what they lack, and what took their place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from .._utils.prose import count
from ..stats.placement import placement_failures
from ._failures import Case
from ._tables import Array
from .finding import Thresholds, plain
from .incident import Cause, Evidence, Hypothesis, Incident

_INELIGIBLE = "computed class ineligible"
"""What the scheduler says where it has looked at such a node before: true, and no help."""


def find_waiting(
    case: Case, evaluations: pd.DataFrame | None, history: Any, limits: Thresholds
) -> Iterator[Incident]:
    """Yield the jobs that wait for room now, from the newest evaluation of each."""
    if evaluations is None or evaluations.empty:
        return
    known = evaluations.dropna(subset=["job_id"]).sort_values("created_at", kind="stable")
    waiting = known[known["status"].astype("str").eq("blocked")]
    failures = placement_failures(known)
    for (namespace, job), rows in waiting.groupby(["namespace", "job_id"], observed=True, sort=False):
        mine = failures[
            (failures["namespace"].astype("str") == str(namespace))
            & (failures["job_id"].astype("str") == str(job))
        ]
        yield _waiting(case, (str(namespace), str(job)), rows, mine, history, limits)


def _waiting(
    case: Case,
    job: tuple[str, str],
    rows: pd.DataFrame,
    failures: pd.DataFrame,
    history: Any,
    limits: Thresholds,
) -> Incident:
    by_time = failures.sort_values("created_at", kind="stable")
    newest = by_time.drop_duplicates("task_group", keep="last")
    lacking = [
        text
        for row in newest.to_dict("records")
        if (text := "; ".join(filter(None, (_exhausted(plain(row["exhausted"])), plain(row["constraints"])))))
    ]
    # an evaluation that is blocked has no count; the one that made it has
    counted = by_time.dropna(subset=["queued"]).drop_duplicates("task_group", keep="last")
    queued = int(counted["queued"].sum()) if len(counted) else None
    facts: dict[str, Any] = {
        "queued": queued or None,
        "lacking": "; ".join(lacking) or "no node fits",
        "evaluations": len(failures),
    }
    allocs = _allocations(case, job)
    more = list(_circumstances(case, job, allocs, facts, history))
    # without a number, none of its allocations may have found a place
    running = case.evidence.allocations["client_status"].eq("running").to_numpy(dtype=bool)
    runs = int((running & case.instances.wanted)[allocs].sum())
    facts["running"] = runs
    serious = not queued or queued >= limits.critical_share * (queued + runs)
    keys = [{"eval_id": str(each)} for each in rows["eval_id"].tail(5)]
    subject = {"namespace": job[0], "job_id": job[1]}
    evidence = [Evidence("not placed", {**facts}, keys), *more]
    cause = Cause("placement", "placement", subject, "certain", evidence)
    hypotheses: list[Hypothesis] = [cause]
    times = (failures if len(failures) else rows)["created_at"].dropna()
    return Incident(
        "critical" if serious else "warning", "ongoing", cause, hypotheses, [job],
        began_at=plain(times.min()) if len(times) else None,
        last_at=plain(times.max()) if len(times) else None,
        facts=facts,
    )  # fmt: skip


_AMOUNTS = ("memory", "cpu", "disk", "cores", "network", "bandwidth")


def _exhausted(text: str | None) -> str | None:
    """Return "memory: 2", as Nomad counts the nodes that lack it, in words."""
    if text is None:
        return None
    parts = []
    for part in text.split(", "):
        what, _, nodes = part.rpartition(": ")
        known = what in _AMOUNTS and nodes.isdigit()
        parts.append(f"not enough {what} on {count(int(nodes), 'nodes')}" if known else part)
    return ", ".join(parts)


def _allocations(case: Case, job: tuple[str, str]) -> Array:
    families = case.instances.families
    return (
        np.flatnonzero(case.instances.family == families.index(job)) if job in families else np.zeros(0, int)
    )


def _circumstances(
    case: Case, job: tuple[str, str], allocs: Array, facts: dict[str, Any], history: Any
) -> Iterator[Evidence]:
    """Yield what took the place of a job, or made it look for another, and note it in its facts."""
    rows = case.evidence.allocations.iloc[allocs]
    taken = rows[rows["preempted_by"].notna() & ~rows["desired_status"].eq("run")]
    if len(taken):
        every = case.evidence.allocations
        by = every[every["alloc_id"].astype("str").isin(taken["preempted_by"].astype("str"))]
        facts["preempted_by"] = sorted(set(by["job_id"].astype("str"))) or ["another job"]
        keys = [{"alloc_id": each} for each in taken["alloc_id"].astype("str").head(5)]
        yield Evidence("preempted", {"jobs": facts["preempted_by"], "allocations": len(taken)}, keys)
    gone = case.instances.final[allocs] & rows["desired_description"].eq("alloc is being migrated").to_numpy()
    moved = rows[gone]
    if len(moved):
        facts["moved_from"] = sorted(set(moved["node_name"].dropna().astype("str")))
        keys = [{"alloc_id": each} for each in moved["alloc_id"].astype("str").head(5)]
        yield Evidence("moved from node", {"nodes": facts["moved_from"], "allocations": len(moved)}, keys)
    if _INELIGIBLE in facts["lacking"]:
        found = _new_constraints(job, history)
        if found:
            version, constraints = found
            facts["lacking"] = f"no node meets {', '.join(constraints)}"
            yield Evidence("constraint", {"job_version": version, "constraints": constraints})


def _new_constraints(job: tuple[str, str], history: Any) -> tuple[int, list[str]] | None:
    """Return the constraints that the newest version of a job brought, if any."""
    fields = getattr(history, "job_changes", None)
    if fields is None or fields.empty:
        return None
    mine = fields[(fields["namespace"].astype("str") == job[0]) & (fields["job_id"].astype("str") == job[1])]
    mine = mine[mine["path"].astype("str").str.contains(r"Constraints?\[") & mine["new"].notna()]
    if mine.empty:
        return None
    version = int(mine["version"].max())
    parts: dict[str, dict[str, str]] = {}
    for row in mine[mine["version"] == version].to_dict("records"):
        found = re.search(r"^(.*Constraints?\[[^\]]*\])\.(\w+)$", str(row["path"]))
        if found:
            owner = f"{row['task_group']} {row['task']} {found[1]}"
            parts.setdefault(owner, {})[found[2]] = str(row["new"])
    texts = [
        " ".join(each.get(name, "?") for name in ("LTarget", "Operand", "RTarget")) for each in parts.values()
    ]
    return (version, texts) if texts else None
