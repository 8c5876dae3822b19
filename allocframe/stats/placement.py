"""Placement: what the scheduler could not place, and why."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from ._per_cluster import per_cluster

_COLUMNS = [
    "eval_id", "namespace", "job_id", "task_group", "created_at", "triggered_by", "status", "queued",
    "nodes_evaluated", "nodes_filtered", "nodes_exhausted", "constraints", "exhausted",
]  # fmt: skip


@per_cluster
def placement_failures(evaluations: pd.DataFrame) -> pd.DataFrame:
    """List the task groups that an evaluation could not place, and what stood in the way.

    Parameters
    ----------
    evaluations : pandas.DataFrame
        What `Client.evaluations` returned. Servers remove evaluations after about an hour.

    Returns
    -------
    pandas.DataFrame
        One row for each evaluation and task group: eval_id, namespace, job_id, task_group, created_at,
        triggered_by, status, queued (allocations that wait), nodes_evaluated, nodes_filtered,
        nodes_exhausted, constraints and exhausted (text: each constraint or resource with its number of
        nodes).

    Raises
    ------
    KeyError
        `evaluations` lacks a column.

    Examples
    --------
    >>> af.stats.placement_failures(client.evaluations(namespace="*")).shape[0]
    0
    """
    rows = []
    failed = evaluations.dropna(subset=["failed_task_groups"])
    for evaluation in failed.to_dict("records"):
        queued = json.loads(evaluation["queued"]) if isinstance(evaluation["queued"], str) else {}
        for group, metrics in json.loads(evaluation["failed_task_groups"]).items():
            rows.append(_row(evaluation, group, metrics or {}, queued))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    counts = ["queued", "nodes_evaluated", "nodes_filtered", "nodes_exhausted"]
    table[counts] = table[counts].astype("Int64")
    return table


def _row(
    evaluation: dict[Any, Any], group: str, metrics: dict[str, Any], queued: dict[str, Any]
) -> list[Any]:
    return [
        *(evaluation[name] for name in ("eval_id", "namespace", "job_id")),
        group,
        *(evaluation[name] for name in ("created_at", "triggered_by", "status")),
        queued.get(group),
        *(metrics.get(name) for name in ("NodesEvaluated", "NodesFiltered", "NodesExhausted")),
        _list_counts(metrics.get("ConstraintFiltered")),
        _list_counts(metrics.get("DimensionExhausted")),
    ]


def _list_counts(counts: dict[str, Any] | None) -> str | None:
    return ", ".join(f"{name}: {number}" for name, number in sorted((counts or {}).items())) or None
