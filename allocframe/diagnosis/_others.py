"""Incidents that are not failures of tasks: losses, requests, kills by force, counters."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..stats import vocabulary
from ._attempts import ENDS
from ._changes import Ledger
from ._failures import Case
from ._groups import ONGOING, RECOVERED, SECOND, STOPPED, Jobs
from ._investigation import MOST_KEYS
from ._tables import NEVER, Array, categories, moment, numbers
from .finding import Thresholds
from .incident import Cause, Evidence, Hypothesis, Incident

_ONE_EVENT = 600 * SECOND
"""Losses of one node within ten minutes are one: servers notice a lost node after its heartbeat's grace."""


def find_others(
    case: Case, jobs: Jobs, in_groups: Array, fail_now: Array, limits: Thresholds, ledger: Ledger
) -> list[Incident]:
    """Return the incidents that are not failures of tasks.

    `in_groups` says which allocations belong to the incidents of failures already, and `fail_now` which of
    them have not recovered.
    """
    return [
        *_lost_nodes(case, jobs, fail_now, limits, ledger),
        *_reconnected(case, ledger),
        *_interrupted(case),
        *_unhealthy(case, in_groups),
    ]


def families_of(case: Case, alloc: Array) -> list[tuple[str, str]]:
    return sorted({case.instances.families[each] for each in np.unique(case.instances.family[alloc])})


def _ids(case: Case, alloc: Array) -> list[str]:
    return case.evidence.allocations["alloc_id"].iloc[np.unique(alloc)].astype("str").tolist()


def _node_names(case: Case, alloc: Array) -> list[str]:
    names = case.evidence.allocations["node_name"].iloc[np.unique(alloc)].dropna().astype("str")
    return sorted(set(names))


def make(
    case: Case, alloc: Array, cause: Cause, severity: str, state: str, times: Array, facts: dict[str, Any]
) -> Incident:
    known = times[times != NEVER]
    return Incident(
        severity,
        state,
        cause,
        [cause],
        families_of(case, alloc),
        _node_names(case, alloc),
        _ids(case, alloc),
        moment(int(known.min()) if len(known) else NEVER),
        moment(int(known.max()) if len(known) else NEVER),
        False,
        facts,
    )


def alloc_keys(case: Case, alloc: Array) -> list[dict[str, Any]]:
    return [{"alloc_id": each} for each in _ids(case, np.unique(alloc)[:MOST_KEYS])]


# Nodes


def _lost_nodes(
    case: Case, jobs: Jobs, fail_now: Array, limits: Thresholds, ledger: Ledger
) -> Iterator[Incident]:
    rows, instances = case.evidence.allocations, case.instances
    lost = np.flatnonzero(instances.lost)
    if not len(lost):
        return
    created, modified = rows["created_at"].to_numpy(), rows["modified_at"].to_numpy()
    after = instances.successor[lost]
    # the servers replaced it at once; its row may have changed again when the node came back
    replaced_at = np.where(after >= 0, created[np.maximum(after, 0)], modified[lost])
    at = np.where(
        replaced_at == NEVER, modified[lost], np.minimum(replaced_at, np.maximum(modified[lost], 0))
    )
    node, _ = categories(rows["node_id"].where(rows["node_id"].notna(), rows["node_name"].astype("str")))
    order = np.lexsort((at, node[lost]))
    lost, at = lost[order], at[order]
    begins = np.append(True, (np.diff(node[lost]) != 0) | (np.diff(at) > _ONE_EVENT))
    for part in np.split(np.arange(len(lost)), np.flatnonzero(begins)[1:]):
        yield _lost_node(case, jobs, lost[part], at[part], fail_now, limits, ledger)


def _is_back(case: Case, alloc: Array, at: Array, ledger: Ledger) -> bool | None:
    """Return whether the node with which allocations were lost is back; None if nothing tells.

    A list of nodes says it. Without one, a client that came back reports what became of what was lost, or
    runs something new.
    """
    rows = case.evidence.allocations
    told = ledger.node_status.get(str(rows["node_id"].iloc[int(alloc[0])]))
    if told in ("ready", "down", "disconnected"):
        return told == "ready"
    if not rows["client_status"].iloc[alloc].isin(vocabulary.LOST_STATUSES).all():
        return True
    there = np.flatnonzero(case.nodes == case.nodes[alloc[0]])
    new = there[rows["created_at"].to_numpy()[there] > int(at.max())]
    runs = rows["client_status"].iloc[new].isin(["running", "complete", "failed"])
    return True if runs.any() else None


def _lost_node(
    case: Case, jobs: Jobs, alloc: Array, at: Array, fail_now: Array, limits: Thresholds, ledger: Ledger
) -> Incident:
    rows, instances = case.evidence.allocations, case.instances
    status = rows["client_status"].astype("str").to_numpy(dtype=object)
    everywhere = rows["job_type"].isin(vocabulary.NODE_BOUND_JOB_TYPES).to_numpy(dtype=bool)[alloc]
    after = instances.successor[alloc]
    waiting = (after < 0) & instances.wanted[alloc] & ~everywhere
    successor = np.maximum(after, 0)
    # a replacement in a crash loop is "running" between two crashes
    runs_again = (after >= 0) & np.isin(status[successor], ("running", "complete")) & ~fail_now[successor]
    out_of_reach = status[alloc] == "unknown"
    goes_on = waiting | out_of_reach & (after < 0)
    families = instances.family[alloc]
    share = [
        (int(goes_on[families == each].sum()), int((families == each).sum()), int(jobs.wanted[each]))
        for each in np.unique(families)
    ]
    serious = any(bad and bad >= limits.critical_share * wanted for bad, _, wanted in share)
    many = sum(1 for bad, _, _ in share if bad) >= limits.critical_jobs
    back = _is_back(case, alloc, at, ledger)
    state = ONGOING if (goes_on | out_of_reach).any() or back is False else RECOVERED
    names = _node_names(case, alloc)
    name = names[0] if names else str(rows["node_id"].iloc[alloc[0]])
    facts = {
        "node_name": name,
        "lost": len(alloc),
        "jobs": len(share),
        "replaced": int((after >= 0).sum()),
        "running_again": int(runs_again.sum()),
        "not_replaced": int(waiting.sum()),
        "out_of_reach": int(out_of_reach.sum()),
        "back": back,
    }
    evidence = Evidence("lost with node", facts, alloc_keys(case, alloc))
    cause = Cause("node", "lost", {"node_name": name}, "certain", [evidence])
    severity = "critical" if serious or many else "warning"
    return make(case, alloc, cause, severity, state, at, facts)


def _reconnected(case: Case, ledger: Ledger) -> Iterator[Incident]:
    """Yield nodes that were out of reach and came back while their allocations ran on."""
    events, instances = case.evidence.events, case.instances
    back = events["type"].eq("Reconnected").to_numpy(dtype=bool)
    if not back.any():
        return
    alloc = case.evidence.tasks["alloc"].to_numpy()[events["owner"].to_numpy()[back]]
    at = events["time"].to_numpy()[back]
    keep = ~instances.lost[alloc]  # one that is out of reach again is reported as such
    alloc, first = np.unique(alloc[keep], return_index=True)
    at = at[keep][first]
    node, names = case.nodes, case.node_names
    for each in np.unique(node[alloc]):
        mine = alloc[node[alloc] == each]
        facts = {
            "node_name": names[each], "lost": len(mine), "jobs": len(families_of(case, mine)),
            "replaced": 0, "running_again": len(mine), "not_replaced": 0, "out_of_reach": 0,
            "ran_on": len(mine), "back": True,
        }  # fmt: skip
        evidence = Evidence("reconnected", facts, alloc_keys(case, mine))
        cause = Cause("node", "lost", {"node_name": names[each]}, "certain", [evidence])
        times = at[node[alloc] == each]
        # the servers say when it was out of reach, the allocations when it came back
        times = np.append(times, ledger.went_down(names[each], int(times.min())))
        yield make(case, mine, cause, "warning", RECOVERED, times, facts)


def _interrupted(case: Case) -> Iterator[Incident]:
    """Yield restarts of nodes or clients: a task started again, and no end of its run is on record."""
    attempts = case.attempts[case.attempts["end"] == ENDS.index("interrupted")]
    alloc = attempts["alloc"].to_numpy()
    alloc, at = alloc[~case.instances.lost[alloc]], attempts["at"].to_numpy()[~case.instances.lost[alloc]]
    if not len(alloc):
        return
    node, names = case.nodes, case.node_names
    order = np.lexsort((at, node[alloc]))
    alloc, at = alloc[order], at[order]
    begins = np.append(True, (np.diff(node[alloc]) != 0) | (np.diff(at) > _ONE_EVENT))
    for part in np.split(np.arange(len(alloc)), np.flatnonzero(begins)[1:]):
        name = names[node[alloc[part[0]]]]
        facts = {"node_name": name, "tasks": len(part)}
        evidence = Evidence("started again", facts, alloc_keys(case, alloc[part]))
        # a node that restarts and a client that lost its state look the same
        cause = Cause("node", "restart", {"node_name": name}, "possible", [evidence])
        yield make(case, alloc[part], cause, "info", RECOVERED, at[part], facts)


# Deployments


def _unhealthy(case: Case, in_groups: Array) -> Iterator[Incident]:
    """Yield allocations that their deployment calls unhealthy, although their tasks run, or ran well.

    Of those that run now, whatever Nomad says of it: there is no service without a healthy allocation.
    """
    rows = case.evidence.allocations
    healthy = rows["deployment_healthy"].astype("boolean")
    bad = healthy.eq(False).fillna(False).to_numpy(dtype=bool) & ~in_groups & ~case.instances.lost
    events = case.evidence.events
    told = events[events["type"].eq("Alloc Unhealthy") & events["text"].notna()]
    text_of = dict(
        zip(case.evidence.tasks["alloc"].to_numpy()[told["owner"]], told["text"].astype("str"), strict=True)
    )
    family, version = case.instances.family, numbers(rows["job_version"], -1)
    runs = rows["client_status"].eq("running").to_numpy(dtype=bool) & case.instances.wanted
    good = healthy.fillna(False).to_numpy(dtype=bool)
    by_check = np.zeros(len(rows), dtype=bool)
    by_check[[row for row, text in text_of.items() if _of_check(text)]] = True
    places = np.flatnonzero(bad & (by_check | runs))
    for each, number in sorted(set(zip(family[places].tolist(), version[places].tolist(), strict=True))):
        mine = family == each
        alloc = places[mine[places] & (version[places] == number)]
        over = RECOVERED if np.any(mine & runs) else STOPPED
        state = ONGOING if runs[alloc].any() else over
        facts = {"unhealthy": len(alloc), "message": text_of.get(int(alloc[0]))}
        evidence = Evidence("unhealthy deploy", facts, alloc_keys(case, alloc))
        namespace, job = case.instances.families[each]
        subject = {"namespace": namespace, "job_id": job}
        confidence = "likely" if by_check[alloc].all() else "possible"
        check = Cause("health check", "health check", subject, confidence, [evidence])
        causes: list[Hypothesis] = [check]
        best = check
        before = mine & good & (version < number) & (version >= 0)
        if before.any() and not np.any(mine & good & (version == number)):
            base = int(version[before].max())
            compared = {
                "job_version": number, "unhealthy": len(alloc), "base_version": base,
                "base_healthy": int((before & (version == base)).sum()),
            }  # fmt: skip
            support = [Evidence("unhealthy version", compared, alloc_keys(case, alloc)), evidence]
            blamed = {**subject, "job_version": number}
            best = Cause("job version", "health check", blamed, "likely", support)
            causes.insert(0, best)
        times = rows["modified_at"].to_numpy()[alloc]
        incident = make(case, alloc, best, "warning", state, times, facts)
        yield replace(incident, hypotheses=causes)


def _of_check(text: str) -> bool:
    return "check" in text.lower() or "services not healthy" in text.lower()
