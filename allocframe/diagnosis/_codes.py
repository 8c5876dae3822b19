"""The codes of incidents: the same facts under a code that stays the same.

The rules of all other findings are in `rules`.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from ._deployments import REQUESTED
from .finding import Finding, plain_facts
from .incident import Incident

_BY_KIND = {
    "out of memory": "AF202",
    "artifact": "AF204",
    "driver": "AF205",
    "template": "AF205",
    "secrets": "AF205",
    "volume": "AF205",
    "run duration": "AF206",
}
_LOOPS = ("crash", "killed", "health check", "unknown")


def code_incident(incident: Incident, loop: int) -> list[Finding]:
    """Return the findings of an incident, that of its cause first.

    `loop` is the number of failures that make a crash loop.
    """
    cause = incident.cause
    parts = incident.facts.get("parts", [])
    of_parts = [_finding(_code_of_part(part, loop), incident, part) for part in parts]
    if cause.kind == "node":
        code = {"lost": "AF301", "restart": "AF303"}.get(str(cause.mechanism), "AF302")
        return [_finding(code, incident, _numbers(incident)), *of_parts]
    if cause.kind == "common cause":
        return [_finding("AF501", incident, _numbers(incident)), *of_parts]
    if quiet := _code_of_quiet(incident):
        return [_finding(quiet, incident, incident.facts)]
    if cause.kind == "job version":
        return [_finding("AF401", incident, _numbers(incident)), *of_parts]
    if parts:
        return of_parts
    if cause.kind == "kill timeout":
        return [_finding("AF203", incident, incident.facts)]
    if cause.kind == "placement":
        return []  # AF601 has one for each task group
    if cause.mechanism in REQUESTED:
        return [_finding("AF208", incident, incident.facts)]
    return [_finding("AF207", incident, incident.facts)]


def _code_of_quiet(incident: Incident) -> str | None:
    """Return the code of what is stuck and has not failed; None for all else."""
    return next((code for name, code in _QUIET.items() if name in incident.facts), None)


_QUIET = {
    "waiting": "AF209",
    "blocked": "AF209",
    "undecided": "AF209",
    "hanging": "AF210",
    "no_run_for": "AF211",
    "waits_for": "AF402",
    "gone": "AF403",
    "missing": "AF602",
    "not_scheduled": "AF603",
}
"""Codes by the name of a fact."""


def _code_of_part(part: dict[str, Any], loop: int) -> str:
    if part["kind"] in _LOOPS:
        return "AF201" if part["failures"] >= loop and not part["runs"] else "AF206"
    return _BY_KIND[part["kind"]]


def _numbers(incident: Incident) -> dict[str, Any]:
    """Return the numbers of the evidence for the cause, with those of the incident."""
    numbers: dict[str, Any] = {"jobs": [job for _, job in incident.jobs]}
    numbers |= {name: incident.facts[name] for name in ("lost", "not_replaced") if name in incident.facts}
    numbers["mechanism"] = incident.cause.mechanism
    return numbers


def _finding(code: str, incident: Incident, facts: dict[str, Any]) -> Finding:
    of_part = "job_id" in facts
    subject: dict[str, Any] = dict(incident.cause.subject)
    if of_part:
        subject = {name: facts[name] for name in ("namespace", "job_id", "task")}
    elif not {"job_id", "node_name"} & set(subject) and len(incident.jobs) == 1:
        namespace, job = incident.jobs[0]
        subject = {"namespace": namespace, "job_id": job, **subject}
    keys = [key for each in incident.cause.supporting for key in each.keys]
    # the same rows may bear out several facts; pandas would take a millisecond to see that
    once = {tuple(key.items()): key for key in keys}
    return Finding(
        code,
        facts.get("severity", incident.severity) if of_part else incident.severity,
        plain_facts(subject),
        plain_facts(facts),
        began_at=incident.began_at,
        last_at=incident.last_at,
        observed_at=incident.observed_at,
        evidence=pd.DataFrame([*once.values()]),
    )
