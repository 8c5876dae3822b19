"""Jobs that wait for room now: what they lack, and what took their place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from .._utils.prose import count, listed
from ..stats.placement import placement_failures
from ..tables.run_ids import split_run_id
from ._asked import INELIGIBLE, asked_for
from ._changes import BEFORE, Ledger
from ._failures import Case
from ._tables import NEVER, Array, Job, numbers
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
    failures = failures.astype({"namespace": "str", "job_id": "str"})
    by_job = dict(iter(failures.groupby(["namespace", "job_id"], sort=False)))
    found: list[Incident] = []
    for job, rows in _by_job(waiting).items():
        each = set(rows["job_id"].astype("str"))
        mine = [by_job[job[0], run] for run in sorted(each) if (job[0], run) in by_job]
        its_failures = pd.concat(mine) if mine else failures.iloc[:0]
        of_job = known[known["job_id"].isin(each) & known["namespace"].eq(job[0])]
        found.append(_waiting(case, job, rows, its_failures, nodes, of_job, ledger, limits))
    yield from _together(found, limits)


def _by_job(waiting: pd.DataFrame) -> dict[Job, pd.DataFrame]:
    """Return the evaluations that wait, by job; the runs of a periodic or parameterized job are one."""
    jobs = waiting["job_id"].astype("str").tolist()
    runs = [split_run_id(job) for job in jobs]
    parents = [job if run is None else run[0] for job, run in zip(jobs, runs, strict=True)]
    keys = [waiting["namespace"].astype("str").to_numpy(), np.array(parents, dtype=object)]
    return {(str(name), str(job)): rows for (name, job), rows in waiting.groupby(keys, sort=False)}


def _together(found: list[Incident], limits: Thresholds) -> Iterator[Incident]:
    """Yield one incident for several jobs that wait for the same, and the others as they are."""
    by_obstacle: dict[str, list[Incident]] = {}
    for each in found:
        # what only one version of one job asks for is its own
        what = "" if each.facts["asked"] else re.sub(r" on [\d,]+ nodes?\b", "", each.facts["lacking"])
        by_obstacle.setdefault(what, []).append(each)
    for what, members in by_obstacle.items():
        if not what or what.startswith(_NO_WORDS) or len(members) < limits.critical_jobs:
            yield from members
            continue
        amounts = ("queued", "running", "running_newest", "instances_wanted", "evaluations")
        facts = {name: sum(each.facts[name] or 0 for each in members) for name in amounts}
        facts |= {"runs_waiting": None, "asks": {}}
        facts |= {"lacking": what, "asked": [], "left_out": [], "job_version": None, "versions_running": []}
        facts["nodes"] = sorted({name for each in members for name in each.facts["nodes"]})
        keys = [key for each in members for key in each.cause.supporting[0].keys]
        more = [text for each in members for text in each.cause.supporting[1:]]
        cause = Cause("placement", "placement", {}, "certain", [Evidence("not placed", facts, keys), *more])
        begins = [each.began_at for each in members if each.began_at is not None]
        ends = [each.last_at for each in members if each.last_at is not None]
        yield Incident(
            "critical", "ongoing", cause, [cause], sorted(job for each in members for job in each.jobs),
            began_at=min(begins, default=None), last_at=max(ends, default=None), facts=facts,
        )  # fmt: skip


_NO_WORDS = "no node fits"
"""What is said where the scheduler names no obstacle: jobs may lack different things."""


def _waiting(
    case: Case,
    job: tuple[str, str],
    rows: pd.DataFrame,
    failures: pd.DataFrame,
    nodes: pd.DataFrame | None,
    known: pd.DataFrame,
    ledger: Ledger,
    limits: Thresholds,
) -> Incident:
    by_time = failures.sort_values("created_at", kind="stable")
    # a run has the version of its own, whichever its parent has
    runs = sorted(set(rows["job_id"].astype("str")))
    of_runs = runs != [job[1]]
    named = (job[0], runs[-1])
    newest = _newest_that_tells(by_time, ledger.submitted_at(named, ledger.newest_version(named) or 0))
    lacking = [text for row in newest if (text := _obstacles(row))]
    # an evaluation that is blocked has no count; the one that made it has
    counted = by_time.dropna(subset=["queued"]).drop_duplicates(["job_id", "task_group"], keep="last")
    queued = int(counted["queued"].sum()) if len(counted) else None
    allocs = _allocations(case, job)
    asked = asked_for(named, _versions_placed(case, allocs), newest, ledger)
    facts: dict[str, Any] = {
        "runs_waiting": len(runs) if of_runs else None,
        "asks": _asks(rows),
        "queued": queued or None,
        "lacking": "; ".join(lacking) or _no_node(rows),
        "evaluations": len(failures),
        **_running(case, allocs, asked.version),
        "job_version": asked.version,
        "asked": asked.things,
        "asked_since": asked.since,
        "nodes": _nodes_looked_at(rows, nodes),
        "left_out": _left_out(rows, nodes),
    }
    groups = {str(row["task_group"]) for row in newest}
    known_groups = set(case.evidence.allocations["task_group"].iloc[allocs].astype("str")) | groups
    facts |= {
        "task_group": next(iter(groups)) if len(groups) == 1 else None,
        "groups_of_job": len(known_groups),
    }
    facts["filtered"] = _filtered_out(rows) if not lacking else 0
    more = list(_circumstances(case, allocs, facts))
    if facts["filtered"]:
        began = failures["created_at"].min() if len(failures) else rows["created_at"].min()
        more += _of_filtered(case, allocs, facts, known, nodes, began)
    if facts["left_out"]:
        more.append(Evidence("left out", {"nodes": [f"{node} ({why})" for node, why in facts["left_out"]]}))
    running = facts["running"]
    # an old version that cannot be replaced runs on: it waits for its update, and is not missing
    total = max((queued or 0) + facts["running_newest"], running)
    facts["instances_wanted"] = total
    # without a number, none of its allocations may have found a place
    serious = not queued or of_runs or total - running >= limits.critical_share * total
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
        [node for node, _ in facts["left_out"]],
        began_at=plain(times.min()) if len(times) else None,
        last_at=plain(times.max()) if len(times) else None,
        facts=facts,
    )  # fmt: skip


def _left_out(rows: pd.DataFrame, nodes: pd.DataFrame | None) -> list[tuple[str, str]]:
    """Return the nodes of the same datacenters that take nothing now, and why: a few of many are not news."""
    if nodes is None:
        return []
    centers = {center for each in _metrics(rows) for center in each.get("NodesAvailable") or {}}
    mine = nodes[nodes["datacenter"].astype("str").isin(centers)]
    down = ~mine["status"].astype("str").eq("ready")
    draining = mine["draining"].eq(True).fillna(False)
    closed = ~mine["eligibility"].astype("str").eq("eligible")
    why = np.select([down, draining, closed], ["down", "draining", "ineligible"], default="")
    found = [(str(name), str(each)) for name, each in zip(mine["node_name"], why, strict=True) if each]
    return sorted(found) if len(found) <= _MOST_LEFT_OUT else []


_MOST_LEFT_OUT = 5
"""More nodes that take nothing are how a large cluster is."""


def _newest_that_tells(failures: pd.DataFrame, since: int) -> list[dict[Any, Any]]:
    """Return the newest failure of each task group; of its newest version, the last that says why.

    Where the scheduler has seen such a node before, it only says so.
    """
    found: dict[str, dict[Any, Any]] = {}
    for row in failures.to_dict("records"):
        at = row["created_at"]
        current = since == NEVER or (pd.notna(at) and at.value >= since)
        if str(row["task_group"]) not in found or (current and _obstacles(row)):
            found[str(row["task_group"])] = row
    return list(found.values())


def _no_node(rows: pd.DataFrame) -> str:
    """Return what there is to say where the scheduler names no obstacle."""
    metrics = _metrics(rows)
    if filtered := _filtered_out(rows):
        return f"{_NO_WORDS}, {count(filtered, 'nodes')} filtered out"
    if not metrics or any(each.get("NodesEvaluated") for each in metrics):
        return _NO_WORDS
    centers = sorted({center for each in metrics for center in each.get("NodesAvailable") or {}})
    pools = sorted({str(each["NodePool"]) for each in metrics if each.get("NodePool")} - {"default", "all"})
    where = [f"datacenter {listed(centers)}"] if centers else []
    where += [f"node pool {listed(pools)}"] if pools else []
    return " in ".join(["no node is ready and eligible", *([" and ".join(where)] if where else [])])


def _filtered_out(rows: pd.DataFrame) -> int:
    """Return how many nodes the scheduler filtered out, if it did so with all that it looked at."""
    metrics = _metrics(rows)
    evaluated, filtered = (
        max((int(each.get(name) or 0) for each in metrics), default=0)
        for name in ("NodesEvaluated", "NodesFiltered")
    )
    return filtered if filtered == evaluated else 0


def _of_filtered(
    case: Case,
    allocs: Array,
    facts: dict[str, Any],
    evaluations: pd.DataFrame,
    nodes: pd.DataFrame | None,
    began: Any,
) -> Iterator[Evidence]:
    """Yield that nodes which are filtered out run the job still, and when they had changed."""
    rows, wanted = case.evidence.allocations.iloc[allocs], case.instances.wanted[allocs]
    runs = rows["client_status"].eq("running").to_numpy(dtype=bool) & wanted
    runs &= rows["node_name"].isin(facts["nodes"]).to_numpy(dtype=bool)
    if nodes is None or not runs.any():
        return
    mine = rows[runs]
    names = sorted(set(mine["node_name"].astype("str")))
    facts["still_on"] = {
        "nodes": names,
        "instances": len(mine),
        "versions": sorted({int(each) for each in numbers(mine["job_version"], -1) if each >= 0}),
    }
    keys = [{"alloc_id": each} for each in mine["alloc_id"].astype("str").head(5)]
    yield Evidence("filtered and used", {**facts["still_on"]}, keys)
    ids = dict(zip(nodes["node_id"].astype("str"), nodes["node_name"].astype("str"), strict=True))
    updates = evaluations[evaluations["triggered_by"].astype("str").eq("node-update")]
    for row in updates.sort_values("created_at", kind="stable").tail(1).to_dict("records"):
        name, at = ids.get(str(row["node_id"])), row["created_at"]
        if name in names and pd.notna(began) and at <= began <= at + BEFORE:
            facts["node_changed"] = {"node": name, "before": began - at}
            yield Evidence("node changed", {**facts["node_changed"]}, [{"eval_id": str(row["eval_id"])}])


def _metrics(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what the newest of some evaluations counted, by task group."""
    texts = rows["failed_task_groups"].dropna().astype("str").tolist()
    return [each or {} for each in json.loads(texts[-1]).values()] if texts else []


_AMOUNTS = {"CPU": "cpu", "MemoryMB": "memory", "DiskMB": "disk"}


def _asks(rows: pd.DataFrame) -> dict[str, int]:
    """Return how much of what lacks one instance asks for, as "memory" in MB, if the scheduler says so."""
    groups = _metrics(rows)
    exhausted = [each.get("ResourcesExhausted") or {} for each in groups]
    # tries of the same group that failed alike are added up
    if len(groups) != 1 or not exhausted[0]:
        return {}
    tries = 1 + int(groups[0].get("CoalescedFailures") or 0)
    total: dict[str, int] = {}
    for task in exhausted[0].values():
        for name, what in _AMOUNTS.items():
            total[what] = total.get(what, 0) + int((task or {}).get(name) or 0)
    return {what: amount // tries for what, amount in total.items() if amount}


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
    metrics = _metrics(rows)
    if nodes is None or not metrics:
        return []
    available: dict[str, int] = {}
    for each in metrics:
        available |= each.get("NodesAvailable") or {}
    evaluated = max(int(each.get("NodesEvaluated") or 0) for each in metrics)
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
    lost = rows[case.instances.final[allocs] & case.instances.lost[allocs] & case.instances.wanted[allocs]]
    if len(lost):
        facts["lost_with"] = sorted(set(lost["node_name"].dropna().astype("str")))
        keys = [{"alloc_id": each} for each in lost["alloc_id"].astype("str").head(5)]
        yield Evidence("lost from node", {"nodes": facts["lost_with"], "allocations": len(lost)}, keys)
