"""What the newest version of a job asks of nodes that the versions before it did not."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from ._changes import Ledger
from .finding import plain

INELIGIBLE = "computed class ineligible"
"""What the scheduler says where it has looked at such a node before: true, and no help."""


@dataclass(frozen=True)
class Asked:
    """What a version of a job asks for anew.

    Attributes
    ----------
    version : int or None
        The newest version of the job; None if it is not known.
    things : list of str
        What it asks for, as "host volume data", "port 8080".
    since : int or None
        The version that brought it.
    fields : list of str
        The paths of these fields in the job.
    """

    version: int | None = None
    things: list[str] = field(default_factory=list)
    since: int | None = None
    fields: list[str] = field(default_factory=list)


_THINGS = (
    (r"^Volumes\..*\.Source$", "volume {}", r"volume"),
    (r"ReservedPorts\[.*\]\.Value$", "port {}", r"network|port"),
    (r"MemoryMB$", "memory of {} MB", r"memory"),
    (r"MemoryMaxMB$", "memory of up to {} MB", r"memory"),
    (r"(^|\.)CPU$", "CPU of {} MHz", r"cpu"),
    (r"(^|\.)Cores$", "{} cores", r"cores|cpu"),
    (r"EphemeralDisk\.SizeMB$", "disk of {} MB", r"disk"),
    (r"Devices\[.*\]\.Name$", "device {}", r"device"),
    (r"^Driver$", "driver {}", r"driver"),
    (r"^Datacenters", "datacenter {}", r""),
    (r"^NodePool$", "node pool {}", r""),
    (r"^Count$", "{} instances", r"memory|cpu|disk|distinct|network|port|cores|device"),
)
"""Fields of a job that make demands on nodes: their words, and which obstacles they may explain."""


def asked_for(job: tuple[str, str], placed: list[int], failed: list[dict[Any, Any]], ledger: Ledger) -> Asked:
    """Return what the newest version of a job asks for that those placed before did not.

    Parameters
    ----------
    job : tuple of str
        Namespace and job.
    placed : list of int
        Its versions that have been placed.
    failed : list of dict
        What the scheduler said of the task groups that it could not place.
    ledger : Ledger
        Job versions and their changed fields.
    """
    version = ledger.newest_version(job)
    if version is None:
        return Asked()
    first = max([each for each in placed if each < version], default=-1) + 1
    groups = {str(row["task_group"]) for row in failed}
    words = " ".join(f"{plain(row['exhausted']) or ''} {plain(row['constraints']) or ''}" for row in failed)
    told = words.replace(INELIGIBLE, "")
    silent = not re.search("[a-z]", told)
    things: dict[str, str] = {}
    since: int | None = None
    for each in range(first, version + 1):
        fields = [
            row
            for row in ledger.changed_fields(job, each)
            if row["new"] is not None and row["new"] != row["old"]
            and (row.get("task_group") is None or str(row["task_group"]) in groups)
        ]  # fmt: skip
        found = _things(fields, told, silent)
        if silent or "${" in told:
            found |= _constraints(fields)
        if found:
            things |= found
            since = each
    return Asked(version, list(dict.fromkeys(things.values())), since, list(things))


def _things(fields: list[dict[str, Any]], told: str, silent: bool) -> dict[str, str]:
    """Return what changed fields ask for, by their paths: what may be the obstacle that the words name."""
    found: dict[str, str] = {}
    for row in fields:
        path = str(row["path"])
        for pattern, form, obstacle in _THINGS:
            explains = silent or (obstacle and re.search(obstacle, told))
            if explains and re.search(pattern, path):
                found[path] = form.format(row["new"])
    return found


def _constraints(fields: list[dict[str, Any]]) -> dict[str, str]:
    """Return the constraints that changed fields bring, by their paths."""
    parts: dict[str, dict[str, str]] = {}
    for row in fields:
        found = re.search(r"^(.*Constraints?\[[^\]]*\])\.(\w+)$", str(row["path"]))
        if found:
            parts.setdefault(found[1], {})[found[2]] = str(row["new"])
    names = ("LTarget", "Operand", "RTarget")
    return {path: " ".join(each[name] for name in names if name in each) for path, each in parts.items()}
