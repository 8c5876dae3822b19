"""From groups of failures to incidents: common causes before many causes, and versions by exact tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from ._comparisons import (
    NodeTest,
    OnsetTest,
    VersionTest,
    begins_with_placement,
    compare_nodes,
    compare_onsets,
    compare_versions,
    typical_run,
)
from ._failures import Case
from ._groups import GAVE_UP, ONGOING, RECOVERED, STOPPED, Group, Jobs
from ._tables import NEVER, Array, categories, moment
from ._words import answered, fault_of_node, shared_thing
from .finding import SEVERITIES, Thresholds
from .incident import CONFIDENCES, Cause, Evidence, Hypothesis, Incident

MOST_KEYS = 20
"""Keys kept of the rows behind a fact: enough to look at, and a mass failure stays small."""

_ERRORS = ("artifact", "driver", "template", "secrets", "volume", "run duration", "health check")
"""Mechanisms that Nomad names itself, in a text that says more."""


@dataclass
class Investigation:
    """What is known while causes are looked for.

    Attributes
    ----------
    case, jobs, groups, limits
        The evidence of one cluster, its groups of failures, and the limits.
    nodes, node_names : array and list
        Number of the node of each allocation, and the names.
    versions : dict
        The test of each group whose job has several versions.
    usable : list of int
        Groups whose beginning says something: not at their job's first placement, and with a known time.
    deployed : set of int
        Groups that began with a new version of their job, as if it were to blame.
    """

    case: Case
    jobs: Jobs
    groups: list[Group]
    limits: Thresholds
    nodes: Array
    node_names: list[str]
    versions: dict[int, VersionTest]
    usable: list[int] = field(default_factory=list)
    deployed: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        # plain arrays: taking a few rows of a frame for each of thousands of groups would cost seconds
        self.ids = self.case.evidence.allocations["alloc_id"].astype("str").to_numpy(dtype=object)
        self.tasks = self.case.evidence.tasks["task"].to_numpy()
        self.failures = {str(name): self.case.failures[name].to_numpy() for name in self.case.failures}


def find_causes(case: Case, jobs: Jobs, groups: list[Group], limits: Thresholds) -> list[Incident]:
    """Return the incidents that the groups of failures make."""
    nodes, names = categories(case.evidence.allocations["node_name"])
    look = Investigation(case, jobs, groups, limits, nodes, names, compare_versions(case, groups))
    look.usable = [
        index
        for index, group in enumerate(groups)
        if group.onset != NEVER and not begins_with_placement(case, jobs, group, limits)
    ]
    taken: set[int] = set()
    incidents: list[Incident] = []
    for node, members in _faulty_nodes(look):
        taken |= set(members)
        incidents.append(_by_fault(look, node, members))
    for test in sorted(compare_nodes(case, groups, nodes), key=lambda test: test.p):
        if test.p < limits.level and not taken & set(test.groups):
            taken |= set(test.groups)
            incidents.append(_by_node(look, test))
    # what begins with a deploy of its own has an explanation, unless others begin with it
    look.deployed = {index for index in look.versions if _begins_with_version(look, index)}
    usable = [index for index in look.usable if index not in taken | look.deployed]
    for onset in compare_onsets(case, jobs, groups, usable, limits):
        if onset.p < limits.level:
            onset = replace(onset, groups=onset.groups + _at_the_same_time(look, onset, taken))
            taken |= set(onset.groups)
            incidents.append(_begun_together(look, onset))
    for members, what in _sharing_a_thing(look, taken):
        taken |= set(members)
        incidents.append(_by_shared_thing(look, members, what))
    incidents += [_of_one_job(look, index) for index in range(len(groups)) if index not in taken]
    return incidents


# One job


def _of_one_job(look: Investigation, index: int) -> Incident:
    group = look.groups[index]
    hypotheses = [_by_mechanism(look, group)]
    if memory := _by_memory(look, group):
        hypotheses.append(memory)
    version = _by_version(look, index)
    if version:
        hypotheses.append(version)
    if shared := _with_others(look, index):
        hypotheses.append(shared)
    if node := _on_one_node(look, group):
        hypotheses.append(node)
    best = version if version and version.confidence == "likely" else hypotheses[0]
    severity = group.severity
    if best is version and severity == "info":
        severity = "warning"  # a deploy that failed is more than a single failure
    incident = _incident(look, [index], best, hypotheses, severity, group.state)
    if best is version and incident.began_at is not None:
        # a stray failure of the version before is not its beginning
        placed_at = moment(look.versions[index].placed_at)
        if placed_at is not None and incident.began_at < placed_at:
            incident = replace(incident, began_at=placed_at + _length(look.versions[index].delay))
    return incident


def _by_mechanism(look: Investigation, group: Group) -> Hypothesis:
    facts = describe(look, group)
    keys = _keys(look, group.rows)
    subject = {**_job(look, group), "task": facts["task"]}
    error = facts["error"]
    if group.kind in _ERRORS:
        evidence = [Evidence("error", {"error": error, "failures": group.total}, keys)]
        return Hypothesis(group.kind, group.kind, subject, "certain", evidence)
    if group.kind == "out of memory":
        evidence = [Evidence("oom killed", {"failures": len(group.rows)}, keys)]
        return Hypothesis(group.kind, group.kind, subject, "certain", evidence)
    if group.kind == "unknown":
        evidence = [Evidence("failed without a word", {"failures": group.total, "error": error}, keys)]
        return Hypothesis("unknown", None, subject, "unknown", evidence)
    numbers = {name: facts[name] for name in ("exit_code", "signal", "median_run", "failures")}
    evidence = [Evidence("exits", numbers, keys)]
    # who sent a signal is not on record
    confidence = "certain" if group.kind == "crash" else "possible"
    return Hypothesis(group.kind, group.kind, subject, confidence, evidence)


def _by_memory(look: Investigation, group: Group) -> Hypothesis | None:
    """Return that memory may have run out, after a SIGKILL that nothing else explains."""
    rows = look.case.failures.iloc[group.rows]
    sigkill = (rows["signal"] == 9) | (rows["code"] == 137)
    if group.kind != "killed" or not bool(sigkill.any()):
        return None
    told = int((sigkill & rows["told"]).sum())
    supporting = [Evidence("sigkill", {"failures": int(sigkill.sum())}, _keys(look, group.rows))]
    run = rows["run"][rows["run"] > 0]
    if len(run) > 2 and float(run.std() / run.mean()) < 0.2:
        supporting.append(Evidence("same length", {"median_run": _length(int(run.median()))}))
    # measured: drivers without memory accounting say "false" whatever happened
    against = [Evidence("driver denies oom", {"failures": told})] if told else []
    return Hypothesis("out of memory", "killed", _job(look, group), "possible", supporting, against)


def _by_version(look: Investigation, index: int) -> Hypothesis | None:
    test, group = look.versions.get(index), look.groups[index]
    if test is None or not test.failures:
        return None
    run = typical_run(look.case, group)
    numbers = {
        "job_version": test.version, "base_version": test.base, "failures": test.failures,
        "starts": test.starts, "base_failures": test.base_failures, "base_starts": test.base_starts,
        "hours": test.hours, "base_hours": test.base_hours, "p": test.p,
    }  # fmt: skip
    keys = _keys(look, group.rows)
    supporting, against = [], []
    differs = test.p < look.limits.level
    compared = Evidence("version compared", numbers, keys)
    if differs:
        supporting.append(compared)
    elif test.base_failures:
        against.append(compared)
    soon = max(pd.Timedelta(look.limits.after_change).value, 3 * run)
    placed = {"job_version": test.version, "placed_at": moment(test.placed_at), "delay": _length(test.delay)}
    began_with = differs or test.placed_at == NEVER or group.onset >= test.placed_at
    if not began_with:
        against.append(Evidence("began before version", {**placed, "began_at": moment(group.onset)}))
    elif test.delay <= soon:
        supporting.append(Evidence("soon after version", placed))
    else:
        against.append(Evidence("long after version", placed))
    if test.later_well:
        supporting.append(Evidence("later version well", {"job_version": test.version}))
    # a version that ran well at first, and then failed at every start, met something new
    late = test.ran_well > max(pd.Timedelta(look.limits.together).value, 5 * run)
    if late:
        against.append(Evidence("ran well", {**placed, "ran_well": _length(test.ran_well)}))
    if test.healthy:
        against.append(Evidence("healthy deploy", {"job_version": test.version, "allocations": test.healthy}))
    others = _others_at(look, index, test)
    if others:
        against.append(Evidence("others at once", {"jobs": [_name(look, each) for each in others]}))
    if not supporting:
        return None
    first_change = began_with and test.delay <= soon and not late and not others
    exposed = test.base_hours > 0 or test.base_starts > 0
    sure = differs or (not test.base_failures and test.failures >= look.limits.version_tasks)
    likely = first_change and exposed and sure
    subject = {**_job(look, group), "job_version": test.version}
    return Hypothesis(
        "job version", group.kind, subject, "likely" if likely else "possible", supporting, against
    )


def _begins_with_version(look: Investigation, index: int) -> bool:
    """Return whether a group began right after a new version, which fails more than the one before."""
    test, group = look.versions[index], look.groups[index]
    run = typical_run(look.case, group)
    soon = max(pd.Timedelta(look.limits.after_change).value, 3 * run)
    late = test.ran_well > max(pd.Timedelta(look.limits.together).value, 5 * run)
    return test.delay <= soon and not late and test.p < look.limits.level


def _at_the_same_time(look: Investigation, onset: OnsetTest, taken: set[int]) -> list[int]:
    """Return the groups that a deploy would explain, and that began when several others did."""
    groups, window = look.groups, pd.Timedelta(look.limits.together).value
    first = min(groups[index].onset for index in onset.groups)
    kind = groups[onset.groups[0]].kind
    return [
        index
        for index in sorted(look.deployed - taken)
        if groups[index].kind == kind and abs(groups[index].onset - first) <= window
    ]


def _others_at(look: Investigation, index: int, test: VersionTest) -> list[int]:
    """Return the groups of other jobs that began when this version began to fail."""
    group, window = look.groups[index], pd.Timedelta(look.limits.together).value
    onset = max(group.onset, test.placed_at)
    return [
        other
        for other in look.usable
        if other not in look.deployed
        and look.groups[other].family != group.family
        and abs(look.groups[other].onset - onset) <= window
        and (look.groups[other].kind == group.kind or look.groups[other].severity != "info")
    ]


def _with_others(look: Investigation, index: int) -> Hypothesis | None:
    group, window = look.groups[index], pd.Timedelta(look.limits.together).value
    if index not in look.usable:
        return None
    others = [
        other
        for other in look.usable
        if look.groups[other].family != group.family
        and look.groups[other].kind == group.kind
        and abs(look.groups[other].onset - group.onset) <= window
    ]
    if not others:
        return None
    evidence = Evidence("others at once", {"jobs": [_name(look, each) for each in others]})
    return Hypothesis("common cause", group.kind, {}, "possible", [evidence])


def _on_one_node(look: Investigation, group: Group) -> Hypothesis | None:
    """Return that the node may be the cause, if all failures are on one and others run the job well."""
    alloc = np.unique(look.failures["alloc"][group.rows])
    on = np.unique(look.nodes[alloc])
    mine = look.case.instances.family == group.family
    elsewhere = mine & (look.nodes != on[0])
    often = len(group.rows) >= look.limits.loop_restarts
    if len(on) != 1 or not often or not elsewhere.any() or not look.node_names[on[0]]:
        return None
    numbers = {"node_name": look.node_names[on[0]], "failed": len(alloc), "elsewhere": int(elsewhere.sum())}
    against = []
    neighbours = (look.nodes == on[0]) & ~mine
    neighbours[np.unique(look.case.failures["alloc"])] = False
    running = look.case.evidence.allocations["client_status"].eq("running").to_numpy(dtype=bool)
    if (well := int((neighbours & running).sum())) > 0:
        against.append(
            Evidence("others well on node", {"node_name": numbers["node_name"], "allocations": well})
        )
    subject = {"node_name": numbers["node_name"]}
    evidence = [Evidence("only on node", numbers, _keys(look, group.rows))]
    return Hypothesis("node", group.kind, subject, "possible", evidence, against)


# Several jobs


def _by_node(look: Investigation, test: NodeTest) -> Incident:
    groups = [look.groups[index] for index in test.groups]
    node = {"node_name": look.node_names[test.node]}
    numbers = {
        **node, "failed": test.failed, "placed": test.placed, "failed_elsewhere": test.failed_elsewhere,
        "placed_elsewhere": test.placed_elsewhere, "p": test.p, "jobs": len(groups),
    }  # fmt: skip
    keys = _keys(look, np.concatenate([group.rows for group in groups]))
    cause = Hypothesis("node", groups[0].kind, node, "likely", [Evidence("node compared", numbers, keys)])
    others = [version for index in test.groups if (version := _by_version(look, index))]
    others = [_less_than_likely(version) for version in others]
    return _of_several(look, test.groups, cause, [cause, *others, _by_mechanism(look, groups[0])])


def _faulty_nodes(look: Investigation) -> Iterable[tuple[int, list[int]]]:
    """Yield each node that is alone in a fault of its own, by Nomad's words, and the groups that name it."""
    by_fault: dict[str, list[int]] = {}
    for index, group in enumerate(look.groups):
        fault = fault_of_node(describe(look, group)["error"] or "")
        if fault:
            by_fault.setdefault(fault, []).append(index)
    for members in by_fault.values():
        alloc = look.failures["alloc"][np.concatenate([look.groups[index].rows for index in members])]
        on = np.unique(look.nodes[alloc])
        families = {look.groups[index].family for index in members}
        elsewhere = (look.nodes != on[0]) & np.isin(look.case.instances.family, list(families))
        # one job alone, on one node alone: either may be at fault
        if len(on) == 1 and look.node_names[on[0]] and (len(families) > 1 or elsewhere.any()):
            if np.any(look.nodes != on[0]):
                yield int(on[0]), members


def _by_fault(look: Investigation, node: int, members: list[int]) -> Incident:
    groups = [look.groups[index] for index in members]
    keys = _keys(look, np.concatenate([group.rows for group in groups]))
    name = look.node_names[node]
    error = describe(look, groups[0])["error"]
    evidence = Evidence("fault of node", {"node_name": name, "error": error, "jobs": len(groups)}, keys)
    cause = Hypothesis("node", groups[0].kind, {"node_name": name}, "certain", [evidence])
    return _of_several(look, members, cause, [cause, _by_mechanism(look, groups[0])])


def _begun_together(look: Investigation, onset: OnsetTest) -> Incident:
    groups = [look.groups[index] for index in onset.groups]
    names = [_name(look, index) for index in onset.groups]
    numbers = {"jobs": names, "spread": _length(onset.spread), "p": onset.p}
    keys = _keys(look, np.concatenate([group.rows for group in groups]))
    evidence = [Evidence("begun together", numbers, keys)]
    things = {shared_thing(group.kind, describe(look, group)["error"] or "") for group in groups}
    what = things.pop() if len(things) == 1 else None
    if what:
        evidence.append(Evidence("shared", {"what": what, "jobs": names}))
    untouched = [index for index in onset.groups if index not in look.versions]
    if untouched and len(untouched) < len(groups):
        evidence.append(Evidence("not deployed", {"jobs": [_name(look, index) for index in untouched]}))
    subject = {"shared": what} if what else {}
    cause = Hypothesis("common cause", groups[0].kind, subject, "likely", evidence)
    versions = [version for index in onset.groups if (version := _by_version(look, index))]
    versions = [_less_than_likely(version) for version in versions]
    node = _one_node(look, onset.groups)
    hypotheses = [cause, *versions, *([node] if node else []), _by_mechanism(look, groups[0])]
    return _of_several(look, onset.groups, cause, hypotheses)


def _one_node(look: Investigation, members: list[int]) -> Hypothesis | None:
    """Return that the node may be the cause, if these failures of several jobs are on one of several nodes."""
    rows = np.concatenate([look.groups[index].rows for index in members])
    alloc = np.unique(look.failures["alloc"][rows])
    on = np.unique(look.nodes[alloc])
    elsewhere = int((look.nodes != on[0]).sum())
    if len(on) != 1 or not elsewhere or not look.node_names[on[0]]:
        return None
    name = {"node_name": look.node_names[on[0]]}
    numbers = {**name, "failed": len(alloc), "elsewhere": elsewhere}
    evidence = [Evidence("only on node", numbers, _keys(look, rows))]
    return Hypothesis("node", look.groups[members[0]].kind, name, "possible", evidence)


def _less_than_likely(hypothesis: Hypothesis) -> Hypothesis:
    return replace(hypothesis, confidence="possible") if hypothesis.confidence == "likely" else hypothesis


def _sharing_a_thing(look: Investigation, taken: set[int]) -> Iterable[tuple[list[int], str]]:
    """Yield the groups of several jobs whose errors name the same thing at the same time."""
    by_thing: dict[tuple[str, str], list[int]] = {}
    for index, group in enumerate(look.groups):
        error = describe(look, group)["error"] or ""
        what = shared_thing(group.kind, error) if index not in taken and not answered(error) else None
        if what:
            by_thing.setdefault((group.kind, what), []).append(index)
    for (_, what), members in by_thing.items():
        members.sort(key=lambda index: look.groups[index].onset)
        times = [(look.groups[index].onset, look.groups[index].last_at) for index in members]
        overlap = max(begin for begin, _ in times) <= min(end for _, end in times)
        if len({look.groups[index].family for index in members}) >= look.limits.critical_jobs and overlap:
            yield members, what


def _by_shared_thing(look: Investigation, members: list[int], what: str) -> Incident:
    groups = [look.groups[index] for index in members]
    numbers = {"what": what, "jobs": [_name(look, index) for index in members]}
    keys = _keys(look, np.concatenate([group.rows for group in groups]))
    cause = Hypothesis(
        "common cause", groups[0].kind, {"shared": what}, "certain", [Evidence("shared", numbers, keys)]
    )
    versions = [version for index in members if (version := _by_version(look, index))]
    versions = [_less_than_likely(version) for version in versions]
    return _of_several(look, members, cause, [cause, *versions, _by_mechanism(look, groups[0])])


def _of_several(
    look: Investigation, members: list[int], cause: Hypothesis, hypotheses: list[Hypothesis]
) -> Incident:
    groups = [look.groups[index] for index in members]
    states = {group.state for group in groups}
    state = next(each for each in (ONGOING, GAVE_UP, RECOVERED, STOPPED) if each in states)
    severity = min((group.severity for group in groups), key=SEVERITIES.index)
    jobs = {group.family for group in groups}
    if len(jobs) >= look.limits.critical_jobs:
        severity = "critical" if state in (ONGOING, GAVE_UP) else "warning"
    return _incident(look, members, cause, hypotheses, severity, state)


# Facts


def describe(look: Investigation, group: Group) -> dict[str, Any]:
    """Return the numbers of one group, as plain facts; computed once."""
    if group.facts:
        return group.facts
    rows = {name: values[group.rows] for name, values in look.failures.items()}
    codes = Counter(code for code in rows["code"].tolist() if code != -1)
    signals = Counter(signal for signal in rows["signal"].tolist() if signal > 0)
    run = typical_run(look.case, group)
    owners = rows["owner"]
    tasks = Counter(look.tasks[owners[owners >= 0]].tolist())
    errors = Counter(look.case.texts[text] for text in rows["text"].tolist())
    error = next((text for text, _ in errors.most_common() if text), None)
    group.facts = {
        "kind": group.kind,
        "task": next((name for name, _ in tasks.most_common(1)), None),
        "tasks": sorted(tasks),
        "exit_code": next((code for code, _ in codes.most_common(1)), None),
        "exit_codes": sorted(codes),
        "signal": next((signal for signal, _ in signals.most_common(1)), None),
        "median_run": _length(run) if bool((rows["run"] >= 0).any()) else None,
        "error": error if group.kind in (*_ERRORS, "unknown") else None,
        "failures": group.total,
        "failures_seen": len(group.rows),
        "instances": len(group.lanes),
        "instances_bad": group.bad_now,
        "instances_wanted": group.wanted,
        "runs": group.runs or None,
        "failed_runs": group.failed_runs if group.runs else None,
    }
    return group.facts


def _incident(
    look: Investigation,
    members: list[int],
    best: Hypothesis,
    hypotheses: list[Hypothesis],
    severity: str,
    state: str,
) -> Incident:
    groups = [look.groups[index] for index in members]
    allocs = np.unique(look.failures["alloc"][np.concatenate([group.rows for group in groups])])
    rest = [each for each in hypotheses if each is not best]
    rest.sort(key=lambda each: CONFIDENCES.index(each.confidence))
    onsets = [group.onset for group in groups if group.onset != NEVER]
    lasts = [group.last_at for group in groups if group.last_at != NEVER]
    facts = dict(describe(look, groups[0]))
    for name in ("failures", "failures_seen", "instances", "instances_bad", "instances_wanted"):
        facts[name] = sum(describe(look, group)[name] for group in groups)
    # a bound from the counter is not a time on record
    seen = [int(t) for group in groups if (t := _first_seen(look, group)) != NEVER]
    return Incident(
        severity,
        state,
        Cause(**best.__dict__),
        [best, *rest],
        sorted({look.case.instances.families[group.family] for group in groups}),
        sorted({look.node_names[node] for node in np.unique(look.nodes[allocs])} - {""}),
        look.ids[allocs].tolist(),
        moment(min(seen, default=NEVER)),
        moment(max(lasts, default=NEVER)),
        any(group.began_before for group in groups),
        {
            **facts,
            "estimated_onset": moment(min(onsets, default=NEVER)),
            "parts": [
                describe(look, g) | _job(look, g) | {"state": g.state, "severity": g.severity} for g in groups
            ],
        },
    )


def _first_seen(look: Investigation, group: Group) -> int:
    times = look.failures["at"][group.rows]
    known = times[times != NEVER]
    return int(known.min()) if len(known) else NEVER


def _job(look: Investigation, group: Group) -> dict[str, Any]:
    namespace, job = look.case.instances.families[group.family]
    return {"namespace": namespace, "job_id": job}


def _name(look: Investigation, index: int) -> str:
    return look.case.instances.families[look.groups[index].family][1]


def _length(nanoseconds: int) -> pd.Timedelta:
    return pd.Timedelta(nanoseconds, unit="ns")


def _keys(look: Investigation, rows: Array) -> list[dict[str, Any]]:
    """Return the keys of the rows of some failures, the latest first."""
    pairs = zip(look.failures["alloc"][rows[::-1]], look.failures["owner"][rows[::-1]], strict=True)
    latest = list(dict.fromkeys(pairs))[:MOST_KEYS]
    return [
        {"alloc_id": str(look.ids[alloc]), "task": str(look.tasks[owner]) if owner >= 0 else None}
        for alloc, owner in latest
    ]
