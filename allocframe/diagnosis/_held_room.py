"""Runs that do not end, and hold what others wait for: the effect is told with what may be behind it."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from ._failures import Case
from .incident import Evidence, Hypothesis, Incident

_ROOM = re.compile(r"not enough (memory|cpu|disk|cores|devices|bandwidth)|port .* is taken")
"""What stands in the way and is free again once something that runs has ended."""


def join_hung_runs(case: Case, incidents: list[Incident]) -> list[Incident]:
    """Return incidents in which those that wait for room name the runs that hang where they would be placed.

    Runs that hang are a warning where others have no room beside them.
    """
    hung = [each for each in incidents if "hanging" in each.facts]
    if not hung:
        return incidents
    sizes = {each.jobs[0]: each.facts.get("asks") or {} for each in incidents if _waits(each)}
    held_by = {id(each): _on_nodes_of(case, each) for each in hung}
    blamed: set[int] = set()
    joined = []
    for incident in incidents:
        if not _waits(incident):
            joined.append(incident)
            continue
        more = []
        for each in hung:
            on_nodes = [row for row, node in held_by[id(each)] if node in incident.facts["nodes"]]
            if on_nodes:
                blamed.add(id(each))
                more.append(_hypothesis(case, each, on_nodes, sizes.get(each.jobs[0], {})))
        joined.append(replace(incident, hypotheses=[*incident.hypotheses, *more]))
    return [
        replace(each, severity="warning") if id(each) in blamed and each.severity == "info" else each
        for each in joined
    ]


def _waits(incident: Incident) -> bool:
    return incident.cause.kind == "placement" and bool(_ROOM.search(incident.facts["lacking"]))


def _on_nodes_of(case: Case, hung: Incident) -> list[tuple[int, str]]:
    """Return the rows of the allocations that hang, with their nodes."""
    ids = case.evidence.allocations["alloc_id"].astype("str").isin(hung.alloc_ids).to_numpy(dtype=bool)
    return [(row, case.node_names[case.nodes[row]]) for row in np.flatnonzero(ids).tolist()]


def _hypothesis(case: Case, hung: Incident, rows: list[int], asks: dict[str, int]) -> Hypothesis:
    namespace, job = hung.jobs[0]
    numbers = {
        "job_id": job,
        "runs": len(rows),
        "nodes": sorted({case.node_names[case.nodes[each]] for each in rows}),
        "running_for": hung.facts["running_for"],
        "longest_before": hung.facts["longest_before"],
        # one that waits says what each of them holds
        "holds": {name: amount * len(rows) for name, amount in asks.items()},
    }
    keys = [{"alloc_id": each} for each in case.evidence.allocations["alloc_id"].iloc[rows].astype("str")]
    subject = {"namespace": namespace, "job_id": job}
    return Hypothesis("placement", "hang", subject, "possible", [Evidence("room held", numbers, keys)])
