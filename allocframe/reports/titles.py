"""The title of a postmortem: what happened, in the past tense, made of the worst incidents."""

from __future__ import annotations

from ..diagnosis.incident import Incident
from ..diagnosis.incident_sentences import names
from ..diagnosis.quiet_sentences import is_open

_MOST = 3

_PAST = {
    "crash": "crashed",
    "killed": "was killed",
    "out of memory": "ran out of memory",
    "artifact": "could not download its artifact",
    "driver": "could not be started",
    "template": "could not render its template",
    "secrets": "could not get its secrets",
    "health check": "failed its health check",
    "volume": "could not mount its volume",
    "run duration": "ran for too long",
    "placement": "could not be placed",
    "kill timeout": "was killed by force",
    "requested restart": "was restarted",
    "migration": "was moved",
    "purge": "was purged",
    "scale": "was scaled to 0",
    "stop": "was stopped",
    "promotion": "waits for its promotion",
    "preemption": "was preempted",
}


_OPEN = {
    "health": "did not become healthy",
    "hang": "did not end",
    "missing": "had too few instances",
    "not scheduled": "was not scheduled",
}
"""What was stuck, and had not failed."""


def headline(incidents: list[Incident], minor: list[Incident] | None = None) -> str:
    """Return the title: what the worst incidents were; if there are none, what is stuck without a failure.

    Examples
    --------
    >>> from allocframe.reports.titles import headline
    >>> headline([])
    'Nothing stands out'
    """
    if not incidents:
        titles = [each.title for each in minor or [] if is_open(each)]
        more = f"; {len(titles) - _MOST:,} more" if len(titles) > _MOST else ""
        return "; ".join(titles[:_MOST]) + more if titles else "Nothing stands out"
    phrases: list[str] = []
    deployed = [each for each in incidents if each.cause.kind == "job version" and not is_open(each)]
    for incident in incidents:
        if incident not in deployed:
            phrases.append(_phrase(incident))
        elif incident is deployed[0]:
            jobs = list(dict.fromkeys(job for each in deployed for job in each.jobs))
            phrases.append(f"{_and(jobs)} failed after {'a deploy' if len(jobs) == 1 else 'deploys'}")
    phrases = list(dict.fromkeys(phrases))
    more = f"; {len(phrases) - _MOST:,} more" if len(phrases) > _MOST else ""
    return "; ".join(phrases[:_MOST]) + more


def short_title(incident: Incident) -> str:
    """Return the title of an incident without the names of many jobs, for lines and tables.

    Its full title, with the names, stands where it is explained.
    """
    if len(incident.jobs) <= 2 or "lost" in incident.facts:
        return incident.title
    jobs, cause = f"{len(incident.jobs):,} jobs", incident.cause
    if cause.kind == "node":
        return f"{jobs} fail on node {cause.subject['node_name']}"
    if cause.kind == "common cause":
        return incident.title.rpartition(": ")[0]
    return incident.title.replace(names(incident.jobs), jobs)


def _and(jobs: list[tuple[str, str]]) -> str:
    return names(jobs).replace(", ", " and ") if len(jobs) == 2 else names(jobs)


def _phrase(incident: Incident) -> str:
    cause, who = incident.cause, _and(incident.jobs)
    if cause.kind == "node":
        node = cause.subject["node_name"]
        if cause.mechanism == "lost":
            return f"node {node} lost"
        if cause.mechanism == "restart":
            return f"node {node} restarted"
        return f"{who} failed on node {node}"
    if cause.kind == "common cause":
        shared = cause.subject.get("shared")
        what = f"{len(incident.jobs):,} jobs failed{f' ({shared})' if shared else ' at once'}"
        return f"{what}: {names(incident.jobs)}"
    past = _PAST.get(cause.mechanism or cause.kind, "failed")
    if cause.mechanism == "killed" and not incident.facts.get("signal"):
        past = f"ended with exit code {incident.facts.get('exit_code')}"
    if is_open(incident):
        past = _OPEN.get(str(cause.mechanism), "did not start")
    many = len(incident.jobs) > 1
    return f"{who} {past.replace('was ', 'were ', 1).replace(' its ', ' their ') if many else past}"
