"""What made incidents worse, and where it could have been worse: only what the data shows."""

from __future__ import annotations

from collections.abc import Iterator

from .._utils.prose import count
from ..diagnosis.incident import Incident
from ..diagnosis.incident_sentences import names
from .impact import Instances, JobImpact
from .ledger import Change


def contributing_factors(
    incidents: list[Incident], jobs: list[JobImpact], instances: Instances, changes: list[Change]
) -> list[str]:
    """Return what made incidents worse, each in one or two sentences."""
    found = [
        *_single_instances(jobs),
        *_one_node(jobs, instances),
        *(text for incident in incidents for text in _of_incident(incident)),
        *_hidden(incidents),
        *_not_rolled_back(incidents, changes),
    ]
    return list(dict.fromkeys(found))


def _single_instances(jobs: list[JobImpact]) -> Iterator[str]:
    alone = [each.job for each in jobs if each.instances == 1 and each.hit and each.during is not None]
    if alone:
        yield f"{names(alone)} {'has' if len(alone) == 1 else 'have'} one instance: one failure is an outage."


def _one_node(jobs: list[JobImpact], instances: Instances) -> Iterator[str]:
    rows = instances.allocations
    for each in jobs:
        family = instances.families.index(each.job)
        mine = rows[(rows["family"] == family) & rows["wanted"]]
        if each.hit and each.during is not None and len(mine) > 1 and mine["node"].nunique() == 1:
            all_of_them = "Both" if len(mine) == 2 else f"All {len(mine):,}"
            yield f"{all_of_them} instances of {names([each.job])} run on one node, {mine['node'].iloc[0]}."


def _of_incident(incident: Incident) -> Iterator[str]:
    who = names(incident.jobs)
    healthy = [
        each
        for hypothesis in incident.hypotheses
        for each in hypothesis.contradicting
        if each.fact == "healthy deploy"
    ]
    if healthy and incident.cause.kind == "job version":
        yield (
            f"The deployment of {who} called {count(healthy[0].numbers['allocations'], 'allocations')} "
            "healthy that failed later. Its health check or min_healthy_time missed it."
        )
    if incident.cause.kind == "kill timeout":
        yield f"The kill timeout of {who} is shorter than its tasks take to stop."


def _hidden(incidents: list[Incident]) -> Iterator[str]:
    hidden = [each for each in incidents if _is_hidden(each)]
    if hidden:
        jobs = list(dict.fromkeys(job for each in hidden for job in each.jobs))
        restarts = sum(int(each.facts["failures"]) for each in hidden)
        yield (
            f"Restart policies restarted tasks of {names(jobs)} in place, {restarts:,} times. "
            "No allocation of theirs failed, so Nomad moved none to another node."
        )


def _is_hidden(incident: Incident) -> bool:
    """Return whether tasks failed again and again inside allocations that did not."""
    facts = incident.facts
    failures, instances = facts.get("failures"), facts.get("instances")
    if incident.cause.mechanism not in ("crash", "killed", "out of memory") or not failures or not instances:
        return False
    return len(incident.alloc_ids) <= int(instances) and int(failures) >= 3 * int(instances)


def _not_rolled_back(incidents: list[Incident], changes: list[Change]) -> Iterator[str]:
    jobs = {job for incident in incidents for job in incident.jobs}
    for change in changes:
        if (
            change.kind == "deployment"
            and set(change.jobs) & jobs
            and change.detail.get("status") == "failed"
            and not change.detail.get("auto_reverted")
        ):
            yield (
                f"The deployment of {names(list(change.jobs))} version {change.version} failed, "
                "and nothing rolled it back."
            )


def lucky_breaks(
    incidents: list[Incident], jobs: list[JobImpact], instances: Instances, changes: list[Change]
) -> list[str]:
    """Return what went well, or could have been worse."""
    found = [
        *_rollbacks(incidents, changes),
        *(text for incident in incidents for text in _canary(incident)),
        *_spared(incidents, jobs),
        *(text for incident in incidents for text in _spread(incident, jobs, instances)),
        *(text for incident in incidents for text in _replaced(incident)),
    ]
    return list(dict.fromkeys(found))


def _rollbacks(incidents: list[Incident], changes: list[Change]) -> Iterator[str]:
    hit = {job for incident in incidents for job in incident.jobs}
    for change in changes:
        if change.detail.get("auto_reverted") and set(change.jobs) & hit:
            yield f"Nomad rolled {names(list(change.jobs))} back by itself at {change.at:%H:%M} UTC."


def _canary(incident: Incident) -> Iterator[str]:
    facts = incident.facts
    if incident.cause.kind == "job version" and facts.get("instances_bad") == 0 and facts.get("failures"):
        yield (
            f"The previous version kept running: version {incident.cause.subject['job_version']} of "
            f"{names(incident.jobs)} hit {count(facts['instances'], 'instances')}."
        )


def _spared(incidents: list[Incident], jobs: list[JobImpact]) -> Iterator[str]:
    """Yield the jobs that failed on their own account, if half of their instances or more were spared."""
    failing = {job for each in incidents if "lost" not in each.facts for job in each.jobs}
    spared = [
        each
        for each in jobs
        if each.job in failing and each.during is not None and 2 * each.hit <= each.instances
    ]
    if len(spared) > 2:
        jobs_of = names([each.job for each in spared])
        yield f"{len(spared):,} jobs kept half of their instances or more: {jobs_of}."
        return
    for each in spared:
        well, all_of_them = each.instances - each.hit, count(each.instances, "instances")
        yield f"{well:,} of {all_of_them} of {names([each.job])} were not hit."


def _spread(incident: Incident, jobs: list[JobImpact], instances: Instances) -> Iterator[str]:
    """Yield how much of any job a lost node ran."""
    if "lost" not in incident.facts:
        return
    rows = instances.allocations
    mine = rows[rows["instance"].isin(instances.of(incident))].drop_duplicates("instance")
    lost = mine.groupby("family")["instance"].nunique()
    wanted = {each.job: each.instances for each in jobs}
    shares = {
        instances.families[int(str(family))]: (
            int(number),
            wanted.get(instances.families[int(str(family))], 0),
        )
        for family, number in lost.items()
    }
    worst = max(shares.items(), key=lambda each: each[1][0] / max(each[1][1], 1), default=None)
    if worst is not None and 2 * worst[1][0] <= worst[1][1]:
        yield (
            f"{incident.nodes[0]} ran at most {worst[1][0]:,} of the {worst[1][1]:,} instances of a job "
            f"({names([worst[0]])})."
        )


def _replaced(incident: Incident) -> Iterator[str]:
    facts = incident.facts
    if facts.get("lost") and facts["running_again"] == facts["lost"]:
        yield f"All {count(facts['lost'], 'allocations')} lost with {incident.nodes[0]} were replaced."
