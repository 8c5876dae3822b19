"""Jobs that wait for room now: what they lack, and what took their place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from .._utils.prose import count
from ..stats.placement import placement_failures
from ._asked import INELIGIBLE, asked_for
from ._changes import Ledger
from ._failures import Case
from ._tables import Array, numbers
from .finding import Thresholds, plain
from .incident import Cause, Evidence, Hypothesis, Incident


def find_waiting(
    case: Case,
    evaluations: pd.DataFrame | None,
    nodes: pd.DataFrame | None,
    ledger: Ledger,
    limits: Thresholds,
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
        yield _waiting(case, (str(namespace), str(job)), rows, mine, nodes, ledger, limits)


def _waiting(
    case: Case,
    job: tuple[str, str],
    rows: pd.DataFrame,
    failures: pd.DataFrame,
    nodes: pd.DataFrame | None,
    ledger: Ledger,
    limits: Thresholds,
) -> Incident:
    by_time = failures.sort_values("created_at", kind="stable")
    newest = by_time.drop_duplicates("task_group", keep="last")
    lacking = [text for row in newest.to_dict("records") if (text := _obstacles(row))]
    # an evaluation that is blocked has no count; the one that made it has
    counted = by_time.dropna(subset=["queued"]).drop_duplicates("task_group", keep="last")
    queued = int(counted["queued"].sum()) if len(counted) else None
    allocs = _allocations(case, job)
    asked = asked_for(job, _versions_placed(case, allocs), newest.to_dict("records"), ledger)
    facts: dict[str, Any] = {
        "queued": queued or None,
        "lacking": "; ".join(lacking) or "no node fits",
        "evaluations": len(failures),
        **_running(case, allocs, asked.version),
        "job_version": asked.version,
        "asked": asked.things,
        "asked_since": asked.since,
        "nodes": _nodes_looked_at(rows, nodes),
    }
    more = list(_circumstances(case, allocs, facts))
    running = facts["running"]
    # an old version that cannot be replaced runs on: it waits for its update, and is not missing
    total = max((queued or 0) + facts["running_newest"], running)
    facts["instances_wanted"] = total
    # without a number, none of its allocations may have found a place
    serious = not queued or total - running >= limits.critical_share * total
    keys = [{"eval_id": str(each)} for each in rows["eval_id"].tail(5)]
    subject = {"namespace": job[0], "job_id": job[1]}
    evidence = [Evidence("not placed", {**facts}, keys), *more]
    if asked.things and asked.since is not None:
        numbers = {"job_version": asked.since, "things": asked.things, "fields": asked.fields}
        evidence.append(Evidence("asked", numbers))
    cause = Cause("placement", "placement", subject, "certain", evidence)
    hypotheses: list[Hypothesis] = [cause]
    times = (failures if len(failures) else rows)["created_at"].dropna()
    return Incident(
        "critical" if serious else "warning", "ongoing", cause, hypotheses, [job],
        began_at=plain(times.min()) if len(times) else None,
        last_at=plain(times.max()) if len(times) else None,
        facts=facts,
    )  # fmt: skip


def _running(case: Case, allocs: Array, newest: int | None) -> dict[str, Any]:
    """Return how many allocations of a job run, how many of its newest version, and which versions do."""
    rows, wanted = case.evidence.allocations.iloc[allocs], case.instances.wanted[allocs]
    runs = rows["client_status"].eq("running").to_numpy(dtype=bool) & wanted
    version = numbers(rows["job_version"], -1)[runs]
    current = int((version == newest).sum()) if newest is not None else int(runs.sum())
    return {
        "running": int(runs.sum()),
        "running_newest": current,
        "versions_running": sorted({int(each) for each in version if each >= 0}),
    }


def _versions_placed(case: Case, allocs: Array) -> list[int]:
    """Return the versions of a job that have been placed."""
    placed = numbers(case.evidence.allocations["job_version"].iloc[allocs], -1)
    return sorted({int(each) for each in placed if each >= 0})


def _nodes_looked_at(rows: pd.DataFrame, nodes: pd.DataFrame | None) -> list[str]:
    """Return the names of the nodes that the scheduler looked at, if they are all of some datacenters."""
    texts = rows["failed_task_groups"].dropna().astype("str").tolist()
    if nodes is None or not texts:
        return []
    available: dict[str, int] = {}
    evaluated = 0
    for metrics in json.loads(texts[-1]).values():
        available |= (metrics or {}).get("NodesAvailable") or {}
        evaluated = max(evaluated, int((metrics or {}).get("NodesEvaluated") or 0))
    usable = nodes["status"].astype("str").eq("ready") & nodes["eligibility"].astype("str").eq("eligible")
    known = nodes[usable & nodes["datacenter"].astype("str").isin(list(available))]
    names = sorted(known["node_name"].dropna().astype("str"))
    return names if len(names) == evaluated == sum(available.values()) else []


def _obstacles(row: dict[Any, Any]) -> str:
    """Return what stood in the way of a task group, in words."""
    exhausted = _split(plain(row["exhausted"]), _EXHAUSTED)
    filtered = _split(plain(row["constraints"]), _FILTERED)
    return ", ".join([*exhausted, *filtered])


def _split(text: str | None, words: tuple[tuple[str, str], ...]) -> list[str]:
    """Return "memory: 2", as Nomad counts the nodes that lack it, in words."""
    found = []
    for part in (text or "").split(", "):
        what, _, nodes = part.rpartition(": ")
        if not nodes.isdigit() or what == INELIGIBLE:
            continue  # found unfit before, for a reason that this evaluation does not repeat
        on = count(int(nodes), "nodes")
        known = (
            (re.sub(pattern, form, what), pattern) for pattern, form in words if re.search(pattern, what)
        )
        found.append(f"{next(known, (what, ''))[0]} on {on}")
    return found


_EXHAUSTED = (
    (r"^(memory|cpu|disk|cores|bandwidth|devices)$", r"not enough \1"),
    (r"^network: reserved port collision (.*)$", r"port \1 is taken"),
    (r"^network: (.*)$", r"\1"),
)
_FILTERED = (
    (r"^distinct_hosts$", "an instance of it already (distinct_hosts)"),
    (r"^missing compatible host volumes$", "no such host volume"),
    (r"^missing (.*)$", r"no \1"),
    (r"^(\$\{.*)$", r"not \1"),
)


def _allocations(case: Case, job: tuple[str, str]) -> Array:
    families = case.instances.families
    return (
        np.flatnonzero(case.instances.family == families.index(job)) if job in families else np.zeros(0, int)
    )


def _circumstances(case: Case, allocs: Array, facts: dict[str, Any]) -> Iterator[Evidence]:
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
