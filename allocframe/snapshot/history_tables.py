"""Nomad's answers on jobs, deployments, nodes and evaluations, as the tables of a history."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from .._utils.prose import count
from ..tables import (
    DEPLOYMENTS,
    EVALUATIONS,
    JOB_CHANGES,
    JOB_VERSIONS,
    NODE_EVENTS,
    NODES,
    evaluations_frame,
    frame_of_rows,
)
from ..tables.json_rows import read_time
from .job_diff import Hasher, compare_jobs, digest_job

_ENDED = ("successful", "failed", "cancelled")
_ROLLED_BACK = re.compile(r" - rolling back to job version \d+")
_LONGEST_SPAN = 1_000_000_000
"""Nanoseconds. A longer evaluation does not say when its deployment began or ended."""


def make_tables(
    *,
    jobs: Iterable[Sequence[Mapping[str, Any]]] = (),
    deployments: Iterable[Mapping[str, Any]] = (),
    nodes: Iterable[Mapping[str, Any]] = (),
    evaluations: Iterable[Mapping[str, Any]] = (),
    values: bool = False,
) -> dict[str, pd.DataFrame]:
    """Return every table but the ledger.

    Parameters
    ----------
    jobs : iterable of lists
        The known versions of each job, as specifications, in any order. A job of Nomad's list of jobs, which
        has no ``Version`` and no ``TaskGroups``, stands for a version that is not known further.
    deployments, nodes, evaluations : iterable of dict
        As Nomad's API has them. A deployment may have ``started_at`` and ``ended_at``, in nanoseconds.
    values : bool
        Show values that may be secret, instead of hashing them.
    """
    versions, changed = _job_rows(jobs, Hasher(values=values))
    rows = list(evaluations)
    known_nodes = list(nodes)
    return {
        JOB_VERSIONS.name: frame_of_rows(JOB_VERSIONS, versions),
        JOB_CHANGES.name: frame_of_rows(JOB_CHANGES, changed),
        DEPLOYMENTS.name: frame_of_rows(DEPLOYMENTS, _deployment_rows(deployments, rows)),
        NODES.name: frame_of_rows(NODES, map(_node_row, known_nodes)),
        NODE_EVENTS.name: frame_of_rows(NODE_EVENTS, _node_event_rows(known_nodes)),
        EVALUATIONS.name: evaluations_frame(dict(row) for row in rows),
    }


def _job_rows(
    jobs: Iterable[Sequence[Mapping[str, Any]]], hasher: Hasher
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows of `job_versions` and `job_changes`."""
    versions: list[dict[str, Any]] = []
    changed: list[dict[str, Any]] = []
    for specs in jobs:
        before: Mapping[str, Any] | None = None
        digests: dict[str, int] = {}
        for spec in sorted(specs, key=_version):
            row = {key: value for key, value in spec.items() if key != "TaskGroups"}
            if spec.get("TaskGroups"):
                digest = digest_job(spec)
                row["same_as"] = digests.get(digest)
                digests[digest] = _version(spec)
                if before is not None:
                    differences = [
                        _changed_row(spec, before, difference)
                        for difference in compare_jobs(before, spec, hasher)
                    ]
                    row["changed_fields"] = len(differences)
                    changed += differences
                before = spec
            versions.append(row)
    return versions, changed


def _version(spec: Mapping[str, Any]) -> int:
    version = spec.get("Version")
    return version if isinstance(version, int) else 0


def _changed_row(
    spec: Mapping[str, Any], before: Mapping[str, Any], difference: dict[str, Any]
) -> dict[str, Any]:
    return {
        "namespace": spec.get("Namespace"),
        "job_id": spec.get("ID"),
        "version": _version(spec),
        "version_before": _version(before),
        "job_modify_index": spec.get("JobModifyIndex"),
        **difference,
    }


def _deployment_rows(
    deployments: Iterable[Mapping[str, Any]], evaluations: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    by_deployment: dict[str, list[Mapping[str, Any]]] = {}
    for evaluation in evaluations:
        if evaluation.get("DeploymentID"):
            by_deployment.setdefault(str(evaluation["DeploymentID"]), []).append(evaluation)
    for deployment in deployments:
        own = by_deployment.get(str(deployment.get("ID")), [])
        groups = _objects(deployment.get("TaskGroups"))
        has_ended = deployment.get("Status") in _ENDED
        canaried = [group for group in groups if group.get("DesiredCanaries")]
        deadlines = [group["ProgressDeadline"] for group in groups if group.get("ProgressDeadline")]
        yield {
            **deployment,
            "started_at": deployment.get("started_at")
            or read_time(deployment.get("CreateTime"))  # since Nomad 1.9
            or _time_at(deployment.get("CreateIndex"), own, "CreateTime"),
            "ended_at": (
                deployment.get("ended_at")
                or read_time(deployment.get("ModifyTime"))
                or _time_at(deployment.get("ModifyIndex"), own, "ModifyTime")
            )
            if has_ended
            else None,
            "placed": _total(groups, "PlacedAllocs"),
            "healthy": _total(groups, "HealthyAllocs"),
            "unhealthy": _total(groups, "UnhealthyAllocs"),
            "desired": _total(groups, "DesiredTotal"),
            "canaries": _total(groups, "DesiredCanaries"),
            "promoted": all(group.get("Promoted") is True for group in canaried) if canaried else None,
            "auto_reverted": bool(_ROLLED_BACK.search(str(deployment.get("StatusDescription")))),
            "progress_deadline": min(deadlines, default=None),
        }


def _time_at(index: Any, evaluations: Iterable[Mapping[str, Any]], field: str) -> int | None:
    """Return the time of a Raft index, if an evaluation was worked on for a moment around it.

    Before Nomad 1.9 deployments have no times. The plan that changes a deployment is applied between its
    evaluation's creation and last change.
    """
    if not isinstance(index, int):
        return None
    for evaluation in evaluations:
        first, last = evaluation.get("CreateIndex"), evaluation.get("ModifyIndex")
        begin, end = read_time(evaluation.get("CreateTime")), read_time(evaluation.get("ModifyTime"))
        if not (isinstance(first, int) and isinstance(last, int) and begin and end):
            continue
        if first <= index <= last and end - begin <= _LONGEST_SPAN:
            return begin if field == "CreateTime" else end
    return None


def _total(groups: Iterable[Mapping[str, Any]], field: str) -> int | None:
    numbers = [group[field] for group in groups if isinstance(group.get(field), int)]
    return sum(numbers) if numbers else None


def _node_row(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node of the list or a full read, which has its version among its attributes."""
    seconds = node.get("StatusUpdatedAt")
    attributes = node.get("Attributes")
    version = attributes.get("nomad.version") if isinstance(attributes, dict) else None
    return {
        **node,
        "Version": node.get("Version") or version,
        "Drain": node.get("Drain", node.get("DrainStrategy") is not None),
        "status_updated_at": seconds * 10**9 if isinstance(seconds, int) else None,
    }


def _node_event_rows(nodes: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for node in nodes:
        for event in _objects(node.get("Events")):
            yield {**event, "node_id": node.get("ID"), "node_name": node.get("Name")}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    """Return the JSON objects in a list, or among the values of an object."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, Mapping)]


def describe_rows(frames: Mapping[str, pd.DataFrame]) -> list[str]:
    """Return the number of rows of each table, as a reader counts them."""
    nouns = {
        "changes": "changes",
        "job_versions": "job versions",
        "job_changes": "changed fields",
        "deployments": "deployments",
        "nodes": "nodes",
        "node_events": "node events",
        "evaluations": "evaluations",
    }
    return [count(len(frames[name]), noun) for name, noun in nouns.items()]
