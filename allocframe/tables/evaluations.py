"""The evaluations table: one row for each evaluation, the scheduler's answer to a change."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pandas as pd
import pyarrow as pa

from .table import Column, Table

EVALUATIONS = Table(
    name="evaluations",
    key=("eval_id",),
    doc="One row for each evaluation; servers remove them about an hour after they end.",
    source="evaluations",
    columns=(
        Column("eval_id", "ID", "text", "the evaluation's UUID"),
        Column("namespace", "Namespace", "category", "namespace of its job"),
        Column("job_id", "JobID", "category", "the job"),
        Column("job_type", "Type", "category", "service, batch, system or sysbatch"),
        Column(
            "triggered_by",
            "TriggeredBy",
            "category",
            "job-register, alloc-stop, node-drain, alloc-failure, ...",
        ),
        Column("status", "Status", "category", "complete, blocked, pending, failed or canceled"),
        Column("status_description", "StatusDescription", "text", "the servers' words for it"),
        Column("node_id", "NodeID", "text", "the node, where a node triggered it"),
        Column("deployment_id", "DeploymentID", "text", "the deployment it belongs to"),
        Column("previous_eval_id", "PreviousEval", "text", "the evaluation before it"),
        Column("blocked_eval_id", "BlockedEval", "text", "the evaluation that waits for room"),
        Column("queued", "QueuedAllocations", "text", "allocations that wait, by task group, as JSON"),
        Column(
            "failed_task_groups",
            "FailedTGAllocs",
            "text",
            "why groups could not be placed, as JSON; missing if they were",
        ),
        Column("create_index", "CreateIndex", "uint", "Raft index of its creation"),
        Column("modify_index", "ModifyIndex", "uint", "Raft index of its last change"),
        Column("created_at", "CreateTime", "time", "created, by the server's clock", "UTC"),
        Column("modified_at", "ModifyTime", "time", "last changed, by the server's clock", "UTC"),
    ),
)


def evaluations_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return evaluations as sent as the `EVALUATIONS` table; a value of another type is missing."""
    sent = list(rows)
    columns: dict[str, Any] = {}
    for column in EVALUATIONS.columns:
        values = [_fitting(row.get(column.sql), column.kind) for row in sent]
        columns[column.name] = pa.chunked_array([pa.array(values, column.arrow)])
    return EVALUATIONS.frame(columns)


def _fitting(value: Any, kind: str) -> Any:
    if kind in ("uint", "time"):
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value if whole and (0 if kind == "uint" else 1) <= value < 2**63 else None
    if isinstance(value, dict):
        return json.dumps(value, separators=(",", ":")) if value else None
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and value else None
