"""From groups of failures to incidents: common causes before many causes, and versions by exact tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ._after_change import AfterChange, by_change, evidence_of_change, find_after_change
from ._changes import Ledger
from ._comparisons import (
    AT_ONCE,
    NodeTest,
    OnsetTest,
    ReturnTest,
    begins_with_placement,
    compare_nodes,
    compare_onsets,
    compare_returns,
)
from ._failures import Case
from ._groups import GAVE_UP, ONGOING, RECOVERED, STOPPED, Group, Jobs, judge, make_group
from ._investigation import (
    Investigation,
    alike,
    describe,
    fails_in_a_telling_way,
    keys_of,
    length_of,
    make_incident,
    name_of,
)
from ._node_return import by_return, ended_before, evidence_of_return, killed_with_nodes
from ._one_job import by_mechanism, explain_group, how_they_show
from ._places import where_it_shows
from ._rhythm import as_evidence, joined, rhythm_of
from ._tables import NEVER, moment
from ._version_cause import begins_with_version, by_version
from ._versions import compare_versions
from ._words import answered, fault_of_node, shared_thing
from .finding import SEVERITIES, Thresholds
from .incident import Evidence, Hypothesis, Incident


def find_causes(
    case: Case, jobs: Jobs, groups: list[Group], limits: Thresholds, ledger: Ledger
) -> list[Incident]:
    """Return the incidents that the groups of failures make."""
    made_by = ledger.made_by(case)
    look = Investigation(case, jobs, groups, limits, {}, ledger, made_by)
    look.versions = compare_versions(case, groups, look.known_of_versions())
    look.usable = _usable(look)
    taken: set[int] = set()
    incidents: list[Incident] = []
    for node, members in _faulty_nodes(look):
        ended = ended_before(look, node, members, taken)
        taken |= {*members, *ended}
        incidents.append(_by_fault(look, node, members, ended))
    for node, members in killed_with_nodes(look, taken):
        taken |= set(members)
        cause = by_return(look, node, members)
        how = by_mechanism(look, groups[members[0]])
        incidents.append(_of_several(look, members, cause, [cause, how]))
    tests = sorted(compare_nodes(case, groups), key=lambda test: test.p)
    for test in tests:
        if test.p < limits.significance_level and not taken & set(test.groups):
            test = replace(test, groups=test.groups + _parts_on_node(look, test, taken))
            taken |= set(test.groups)
            incidents.append(_by_node(look, test))
    look.usable = _usable(look)
    # what begins with a deploy of its own has an explanation, unless others begin with it
    look.deployed = {index for index in look.versions if begins_with_version(look, index)}
    held = _held_by_nodes(look, tests)
    look.deployed -= set(held)
    usable = [index for index in look.usable if index not in taken | look.deployed]

    def same_way(index: int, other: int) -> bool:
        # what several programs lose with a node, each reports in its own way
        on_one_node = index in held and held[index] == held.get(other)
        return on_one_node or alike(look, groups[index], groups[other])

    def is_telling(index: int) -> bool:
        return index in held or fails_in_a_telling_way(look, groups[index])

    for onset in compare_onsets(case, jobs, groups, usable, limits, same_way, is_telling):
        if onset.p < limits.significance_level:
            onset = replace(onset, groups=onset.groups + _at_the_same_time(look, onset, taken))
            taken |= set(onset.groups)
            at_once = _one_node_at_once(look, onset, tests)
            incidents.append(_by_node(look, at_once, onset) if at_once else _begun_together(look, onset))
    usable = [index for index in look.usable if index not in taken | look.deployed]

    def moments(index: int) -> tuple[int, ...]:
        group = groups[index]
        if min(len(group.lanes), len(group.rows) // 2) < 2:
            return ()
        rhythm = rhythm_of(look, index)
        return rhythm.moments if rhythm else ()

    for again in compare_returns(case, jobs, groups, usable, limits, moments):
        taken |= set(again.groups)
        incidents.append(_returned_together(look, again))
    for after in find_after_change(look, taken):
        taken |= {fall.index for fall in after.falls}
        incidents.append(_fallen_after_change(look, after))
    for members, what in _sharing_a_thing(look, taken):
        taken |= set(members)
        incidents.append(_by_shared_thing(look, members, what))
    look.joined = set(taken)
    incidents += [explain_group(look, index) for index in range(len(groups)) if index not in taken]
    return incidents


def _usable(look: Investigation) -> list[int]:
    return [
        index
        for index, group in enumerate(look.groups)
        if group.onset != NEVER and not begins_with_placement(look.case, look.jobs, group, look.limits)
    ]


def _held_by_nodes(look: Investigation, tests: list[NodeTest]) -> dict[int, int]:
    """Return, for each group whose job runs well elsewhere, the node on which it and other jobs fail.

    A version that fails on one node and runs well on others is not why it fails, if other jobs fail there.
    """
    held: dict[int, int] = {}
    for test in tests:
        members = [index for index in test.groups if _runs_well_off(look, index, test.node)]
        if len({look.groups[index].family for index in members}) >= look.limits.critical_jobs:
            held |= dict.fromkeys(members, test.node)
    return held


def _runs_well_off(look: Investigation, index: int, node: int) -> bool:
    """Return whether the version that fails on a node has an allocation elsewhere that runs well."""
    group = look.groups[index]
    failed = np.unique(look.failures["alloc"][group.rows])
    mine = np.setdiff1d(look.of_family(group.family), failed)
    mine = mine[look.runs_well[mine] & (look.case.nodes[mine] != node)]
    on_node = failed[look.case.nodes[failed] == node]
    return bool(np.isin(look.made_by[on_node], look.made_by[mine]).all())


def _parts_on_node(look: Investigation, test: NodeTest, taken: set[int]) -> list[int]:
    """Return the failures of other jobs on a bad node that ended as those did, as groups of their own.

    A stray failure elsewhere must not hide that the rest of a job's failures are the node's.
    """
    rows = look.failures
    ends = {look.groups[index].rows[-1] for index in test.groups}
    ends_like = {(int(rows["code"][row]), int(rows["signal"][row])) for row in ends}
    parts: list[int] = []
    for index, group in enumerate(list(look.groups)):
        if index in taken or index in test.groups or group.kind != look.groups[test.groups[0]].kind:
            continue
        pairs = zip(rows["code"][group.rows].tolist(), rows["signal"][group.rows].tolist(), strict=True)
        here = look.case.nodes[rows["alloc"][group.rows]] == test.node
        here &= np.array([pair in ends_like for pair in pairs], dtype=bool)
        if not here.any() or here.all():
            continue
        part = make_group(look.case, group.family, group.kind, group.rows[here])
        rest = make_group(look.case, group.family, group.kind, group.rows[~here])
        judge(look.case, look.jobs, [rest, part], look.limits)
        look.groups[index] = rest
        look.groups.append(part)
        parts.append(len(look.groups) - 1)
    if parts:
        look.versions = compare_versions(look.case, look.groups, look.known_of_versions())
    return parts


def _at_the_same_time(look: Investigation, onset: OnsetTest, taken: set[int]) -> list[int]:
    """Return the groups that a deploy would explain, and that began when several others did."""
    groups = look.groups
    first = min(groups[index].onset for index in onset.groups)
    return [
        index
        for index in sorted(look.deployed - taken)
        if abs(groups[index].onset - first) <= AT_ONCE
        and any(_same_fault(look, groups[index], groups[each]) for each in onset.groups)
    ]


def _same_fault(look: Investigation, group: Group, other: Group) -> bool:
    """Return whether two groups fail alike, and not only as programs of any team do."""
    namespaces = {look.case.instances.families[each.family][0] for each in (group, other)}
    return alike(look, group, other) and (len(namespaces) == 1 or fails_in_a_telling_way(look, group))


def _one_node_at_once(look: Investigation, onset: OnsetTest, tests: list[NodeTest]) -> NodeTest | None:
    """Return the test of the one node on which several jobs began to fail, while each runs well elsewhere.

    Each of the two coincidences may be chance; both together hardly are (Fisher's method).
    """
    members = set(onset.groups)
    test = next((each for each in tests if members <= set(each.groups)), None)
    if test is None:
        return None
    product = max(test.p * onset.p, np.finfo(float).tiny)
    return test if product * (1 - np.log(product)) < look.limits.significance_level else None


def _by_node(look: Investigation, test: NodeTest, onset: OnsetTest | None = None) -> Incident:
    members = onset.groups if onset else test.groups
    groups = [look.groups[index] for index in members]
    node = {"node_name": look.case.node_names[test.node]}
    numbers = {
        **node, "failed": test.failed, "placed": test.placed, "failed_elsewhere": test.failed_elsewhere,
        "placed_elsewhere": test.placed_elsewhere, "p": test.p, "jobs": len(groups),
    }  # fmt: skip
    keys = keys_of(look, np.concatenate([group.rows for group in groups]))
    evidence = [Evidence("node compared", numbers, keys)]
    if onset:
        names = [name_of(look, index) for index in members]
        together = {"jobs": names, "spread": length_of(onset.spread), "p": onset.p}
        evidence.append(Evidence("begun together", together))
    cause = Hypothesis("node", groups[0].kind, node, "likely", evidence)
    for group in groups:
        if group.runs and group.state == RECOVERED and not _succeeded_since(look, group, test.node):
            group.state = ONGOING  # what ran well after it ran elsewhere
    others = [version for index in members if (version := by_version(look, index))]
    others = [_less_than_likely(version) for version in others]
    return _of_several(look, members, cause, [cause, *others, by_mechanism(look, groups[0])])


def _succeeded_since(look: Investigation, group: Group, node: int) -> bool:
    """Return whether the job ran well on a node after its last failure there."""
    rows, on_node = look.case.evidence.allocations, look.case.nodes == node
    created = rows["created_at"].to_numpy()
    failed = np.zeros(len(rows), dtype=bool)
    failed[look.failures["alloc"][group.rows]] = True
    done = rows["client_status"].isin(["complete", "running"]).to_numpy(dtype=bool) & ~failed
    mine = (look.case.instances.family == group.family) & on_node
    last = created[mine & failed].max(initial=NEVER)
    return bool((mine & done & (created > last)).any())


def _faulty_nodes(look: Investigation) -> Iterable[tuple[int, list[int]]]:
    """Yield each node that is alone in a fault of its own, by Nomad's words, and the groups that name it."""
    by_fault: dict[str, list[int]] = {}
    for index, group in enumerate(look.groups):
        fault = fault_of_node(describe(look, group)["error"] or "")
        if fault:
            by_fault.setdefault(fault, []).append(index)
    for members in by_fault.values():
        alloc = look.failures["alloc"][np.concatenate([look.groups[index].rows for index in members])]
        on = np.unique(look.case.nodes[alloc])
        families = {look.groups[index].family for index in members}
        elsewhere = (look.case.nodes != on[0]) & np.isin(look.case.instances.family, list(families))
        # one job alone, on one node alone: either may be at fault
        alone = len(families) == 1 and not elsewhere.any()
        if len(on) == 1 and look.case.node_names[on[0]] and np.any(look.case.nodes != on[0]) and not alone:
            yield int(on[0]), members


def _by_fault(look: Investigation, node: int, members: list[int], ended: list[int]) -> Incident:
    groups = [look.groups[index] for index in members]
    keys = keys_of(look, np.concatenate([group.rows for group in groups]))
    name = look.case.node_names[node]
    error = describe(look, groups[0])["error"]
    jobs = len({group.family for group in groups})
    evidence = [Evidence("fault of node", {"node_name": name, "error": error, "jobs": jobs}, keys)]
    if ended:
        evidence += evidence_of_return(look, node, ended)
    evidence += where_it_shows(look, groups)
    cause = Hypothesis("node", groups[0].kind, {"node_name": name}, "certain", evidence)
    return _of_several(look, [*members, *ended], cause, [cause, by_mechanism(look, groups[0])])


def _begun_together(look: Investigation, onset: OnsetTest) -> Incident:
    groups = [look.groups[index] for index in onset.groups]
    names = [name_of(look, index) for index in onset.groups]
    numbers = {"jobs": names, "spread": length_of(onset.spread), "p": onset.p}
    keys = keys_of(look, np.concatenate([group.rows for group in groups]))
    evidence = [Evidence("begun together", numbers, keys)]
    things = {shared_thing(group.kind, describe(look, group)["error"] or "") for group in groups}
    what = things.pop() if len(things) == 1 else None
    if what:
        evidence.append(Evidence("shared", {"what": what, "jobs": names}))
    untouched = [index for index in onset.groups if index not in look.versions]
    if untouched and len(untouched) < len(groups):
        evidence.append(Evidence("not deployed", {"jobs": [name_of(look, index) for index in untouched]}))
    evidence += where_it_shows(look, groups)
    subject = {"shared": what} if what else {}
    cause = Hypothesis("common cause", groups[0].kind, subject, "likely", evidence)
    versions = [version for index in onset.groups if (version := by_version(look, index))]
    versions = [_less_than_likely(version) for version in versions]
    node = _one_node(look, onset.groups)
    hypotheses = [cause, *versions, *([node] if node else []), *how_they_show(look, groups, [])]
    return _of_several(look, onset.groups, cause, hypotheses)


def _returned_together(look: Investigation, again: ReturnTest) -> Incident:
    groups = [look.groups[index] for index in again.groups]
    numbers = {
        "jobs": [name_of(look, index) for index in again.groups],
        "times": [moment(time) for time in again.times],
        "p": again.p,
    }
    keys = keys_of(look, np.concatenate([group.rows for group in groups]))
    rhythms = [rhythm_of(look, index) for index in again.groups]
    by_clock = [each for each in rhythms if each and len(each.moments) == len(again.times)]
    clock = [as_evidence(joined(by_clock))] if len(by_clock) == len(groups) else []
    if clock:
        for group in groups:
            describe(look, group)["median_run"] = None  # how long they had run means nothing
    evidence = [Evidence("failed together again", numbers, keys), *clock, *where_it_shows(look, groups)]
    cause = Hypothesis("common cause", groups[0].kind, {}, "likely", evidence)
    return _of_several(look, again.groups, cause, [cause, *how_they_show(look, groups, clock)])


def _fallen_after_change(look: Investigation, after: AfterChange) -> Incident:
    members = [fall.index for fall in after.falls]
    groups = [look.groups[index] for index in members]
    evidence = [*evidence_of_change(look, after), *where_it_shows(look, groups)]
    cause = Hypothesis("common cause", groups[0].kind, {}, "likely", evidence)
    change = by_change(look, after)
    hypotheses = [cause, *([change] if change else []), *how_they_show(look, groups, [])]
    incident = _of_several(look, members, cause, hypotheses)
    # what failed now and then before that is not its beginning
    return replace(incident, began_at=moment(after.falls[0].first))


def _one_node(look: Investigation, members: list[int]) -> Hypothesis | None:
    """Return that the node may be the cause, if all these failures are on one of several nodes."""
    rows = np.concatenate([look.groups[index].rows for index in members])
    alloc = np.unique(look.failures["alloc"][rows])
    on = np.unique(look.case.nodes[alloc])
    elsewhere = int((look.case.nodes != on[0]).sum())
    if len(on) != 1 or not elsewhere or not look.case.node_names[on[0]]:
        return None
    name = {"node_name": look.case.node_names[on[0]]}
    numbers = {**name, "failed": len(alloc), "elsewhere": elsewhere}
    evidence = [Evidence("only on node", numbers, keys_of(look, rows))]
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
    numbers = {"what": what, "jobs": [name_of(look, index) for index in members]}
    keys = keys_of(look, np.concatenate([group.rows for group in groups]))
    cause = Hypothesis(
        "common cause", groups[0].kind, {"shared": what}, "certain", [Evidence("shared", numbers, keys)]
    )
    versions = [version for index in members if (version := by_version(look, index))]
    versions = [_less_than_likely(version) for version in versions]
    return _of_several(look, members, cause, [cause, *versions, by_mechanism(look, groups[0])])


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
    return make_incident(look, members, cause, hypotheses, severity, state)
