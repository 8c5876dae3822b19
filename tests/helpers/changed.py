"""Recordings of real agents on which jobs, nodes and allocations were changed by hand: plain readers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data"
VERSIONS = ("1.3.1", "2.0.5")


def path(version: str, name: str) -> Path:
    return DATA / f"changes-{version}" / name


def read(version: str, name: str) -> bytes:
    """Return a recorded file, which may be compressed."""
    packed = path(version, f"{name}.gz")
    return gzip.decompress(packed.read_bytes()) if packed.exists() else path(version, name).read_bytes()


def answers(version: str, name: str) -> list[Any]:
    """Return the JSON of each recorded answer that has some."""
    return [entry["json"] for entry in json.loads(read(version, f"{name}.json")) if "json" in entry]


def lines(version: str, name: str) -> Iterator[dict[str, Any]]:
    for line in read(version, name).splitlines():
        if line.strip() not in (b"", b"{}"):
            yield json.loads(line)


def jobs(version: str) -> list[list[dict[str, Any]]]:
    """Return the versions of each job, newest first, as the API has them."""
    return [answer["Versions"] for answer in answers(version, "changes-job-versions")]


def node(version: str) -> dict[str, Any]:
    """Return the full read of the node."""
    return next(answer for answer in answers(version, "changes-nodes") if isinstance(answer, dict))


def nomads_fields(diff: dict[str, Any]) -> set[tuple[str | None, str | None, str, str, str, str]]:
    """Return (group, task, path, kind, old, new) of each field that Nomad's own diff lists as changed."""
    found = set()

    def walk(part: dict[str, Any], group: str | None, task: str | None, prefix: str) -> None:
        for field in part.get("Fields") or []:
            if field["Type"] != "None":
                kind = {"Added": "added", "Deleted": "removed", "Edited": "edited"}[field["Type"]]
                found.add((group, task, prefix + field["Name"], kind, field["Old"], field["New"]))
        for child in part.get("Objects") or []:
            walk(child, group, task, f"{prefix}{child['Name']}.")

    walk(diff, None, None, "")
    for group in diff.get("TaskGroups") or []:
        walk(group, group["Name"], None, "")
        for task in group.get("Tasks") or []:
            walk(task, group["Name"], task["Name"], "")
    return found
