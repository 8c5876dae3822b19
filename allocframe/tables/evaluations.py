"""The evaluations table: one row for each evaluation, the scheduler's reaction to a change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .json_rows import frame_of_rows
from .table import Column, Table

if TYPE_CHECKING:
    import pandas as pd

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
        Column("next_eval_id", "NextEval", "text", "the evaluation that it led to, if the server says so"),
        Column("blocked_eval_id", "BlockedEval", "text", "the evaluation that waits for resources"),
        Column(
            "related_eval_ids",
            "RelatedEvals",
            "text",
            "the evaluations related to it, as JSON, if it was read with them",
        ),
        Column("wait_until", "WaitUntil", "time", "when a delayed evaluation will run", "UTC"),
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
        Column("job_modify_index", "JobModifyIndex", "uint", "Raft index of the job that it looked at"),
        Column("create_index", "CreateIndex", "uint", "Raft index of its creation"),
        Column("modify_index", "ModifyIndex", "uint", "Raft index of its last change"),
        Column("created_at", "CreateTime", "time", "when it was created, by the server's clock", "UTC"),
        Column("modified_at", "ModifyTime", "time", "when it last changed, by the server's clock", "UTC"),
    ),
)


def evaluations_frame(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return the `EVALUATIONS` table of Nomad's answer. Values of the wrong type are missing."""
    return frame_of_rows(EVALUATIONS, rows)
