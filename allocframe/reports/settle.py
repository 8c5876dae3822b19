"""Commands that would settle what the evidence leaves open."""

from __future__ import annotations

import re
import shlex
from typing import Any

from ..diagnosis.incident import Hypothesis, Incident
from .impact import Instances

_URL = re.compile(r"https?://[^\s\"'<>]+")


def settling_commands(incident: Incident, instances: Instances) -> list[str]:
    """Return commands, two at most, whose answers would confirm or refute the cause of an incident."""
    mechanism = incident.cause.mechanism or incident.cause.kind
    commands = []
    if incident.cause.kind in _BY_KIND:
        commands.append(_BY_KIND[incident.cause.kind](incident.cause, incident))
    if mechanism in _BY_MECHANISM and incident.alloc_ids:
        # its node may still have the logs of the newest one
        alloc = instances.newest(incident)
        commands.append(_BY_MECHANISM[mechanism](alloc, incident))
    return [command for command in dict.fromkeys(commands) if command][:2]


def _quote(text: object) -> str:
    return shlex.quote(str(text))


def _job(cause: Hypothesis, verb: str) -> str:
    subject = cause.subject
    return f"nomad job {verb} -namespace {_quote(subject['namespace'])} {_quote(subject['job_id'])}"


def _version(cause: Hypothesis, _: Incident) -> str:
    return _job(cause, "history -p")


def _node(cause: Hypothesis, _: Incident) -> str:
    return f"nomad node status -verbose {_quote(cause.subject['node_name'])}"


def _placement(_: Hypothesis, incident: Incident) -> str:
    # several jobs may wait for the same: the evaluations of one of them say for what
    namespace, job = incident.jobs[0]
    return f"nomad job status -evals -namespace {_quote(namespace)} {_quote(job)}"


_BY_KIND = {"job version": _version, "node": _node, "placement": _placement}


def _logs(alloc: dict[str, str], incident: Incident) -> str:
    task = _quote(incident.facts.get("task") or "TASK")
    return (
        f"nomad alloc logs -stderr -tail -namespace {_quote(alloc['namespace'])} {alloc['alloc_id']} {task}"
    )


def _status(alloc: dict[str, str], _: Incident) -> str:
    return f"nomad alloc status -verbose -namespace {_quote(alloc['namespace'])} {alloc['alloc_id']}"


def _kernel(alloc: dict[str, str], incident: Incident) -> str:
    since = f" --since '{incident.began_at:%Y-%m-%d %H:%M} UTC'" if incident.began_at is not None else ""
    return f"journalctl -k{since} --grep 'out of memory|oom'   # on node {_quote(alloc['node_name'])}"


def _download(alloc: dict[str, str], incident: Incident) -> str:
    address = _URL.search(str(incident.facts.get("error") or ""))
    if address is None:
        return _status(alloc, incident)
    return f"curl -fIsS {_quote(address[0])}   # on node {_quote(alloc['node_name'])}"


def _checks(alloc: dict[str, str], _: Incident) -> str:
    return f"nomad alloc checks -namespace {_quote(alloc['namespace'])} {alloc['alloc_id']}"


_BY_MECHANISM: dict[str, Any] = {
    "crash": _logs,
    "killed": _kernel,
    "out of memory": _kernel,
    "artifact": _download,
    "driver": _status,
    "template": _status,
    "secrets": _status,
    "health check": _checks,
    "volume": _status,
    "unknown": _status,
    "kill timeout": _logs,
}
