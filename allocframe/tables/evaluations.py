"""The evaluations table: one row for each evaluation, the scheduler's reaction to a change."""

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
    doc="One row for each evaluation; Nomad removes them about an hour after they end.",
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
        Column("status_description", "StatusDescription", "text", "the reason for that status"),
        Column("node_id", "NodeID", "text", "the node that triggered it"),
        Column("deployment_id", "DeploymentID", "text", "its deployment"),
        Column("previous_eval_id", "PreviousEval", "text", "the evaluation that led to it"),
        Column("blocked_eval_id", "BlockedEval", "text", "the evaluation that waits for resources"),
        Column(
            "queued",
            "QueuedAllocations",
            "text",
            "number of allocations still to be placed, by task group, as JSON",
        ),
        Column(
            "failed_task_groups",
            "FailedTGAllocs",
            "text",
            "why task groups could not be placed, as JSON; missing if they were",
        ),
        Column("create_index", "CreateIndex", "uint", "Raft index of its creation"),
        Column("modify_index", "ModifyIndex", "uint", "Raft index of its last change"),
        Column("created_at", "CreateTime", "time", "when it was created, by the server's clock", "UTC"),
        Column("modified_at", "ModifyTime", "time", "when it last changed, by the server's clock", "UTC"),
    ),
)


def evaluations_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return the `EVALUATIONS` table of Nomad's answer. Values of the wrong type are missing."""
    answer = list(rows)
    columns: dict[str, Any] = {}
    for column in EVALUATIONS.columns:
        values = [_to_value(row.get(column.sql), column.kind) for row in answer]
        columns[column.name] = pa.chunked_array([pa.array(values, column.arrow)])
    return EVALUATIONS.frame(columns)


def _to_value(value: Any, kind: str) -> Any:
    if kind in ("uint", "time"):
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        # A time of 0 is no time.
        return value if is_whole and (0 if kind == "uint" else 1) <= value < 2**63 else None
    if isinstance(value, dict):
        return json.dumps(value, separators=(",", ":")) if value else None
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and value else None
