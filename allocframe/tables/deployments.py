"""The deployments table: one row for each rollout of a job's version."""

from __future__ import annotations

from .table import Column, Table

DEPLOYMENTS = Table(
    name="deployments",
    key=("deployment_id",),
    doc="One row for each deployment; Nomad removes them about an hour after they end.",
    source="deployments",
    columns=(
        Column("deployment_id", "ID", "text", "the deployment's UUID"),
        Column("namespace", "Namespace", "category", "namespace of its job"),
        Column("job_id", "JobID", "category", "the job"),
        Column("job_version", "JobVersion", "uint", "the version that it rolls out"),
        Column(
            "status", "Status", "category", "running, paused, successful, failed, cancelled, blocked, ..."
        ),
        Column("status_description", "StatusDescription", "text", "the reason for that status"),
        Column("started_at", "started_at", "time", "when it was created; missing if not known", "UTC"),
        Column("ended_at", "ended_at", "time", "when it ended; missing if it runs or if not known", "UTC"),
        Column("placed", "placed", "int", "allocations that it has placed"),
        Column("healthy", "healthy", "int", "of these, healthy ones"),
        Column("unhealthy", "unhealthy", "int", "of these, unhealthy ones"),
        Column("desired", "desired", "int", "allocations that it should place"),
        Column("canaries", "canaries", "int", "canaries that it should place"),
        Column("promoted", "promoted", "bool", "whether all its canaries were promoted; missing without any"),
        Column("auto_reverted", "auto_reverted", "bool", "whether it failed and the job was rolled back"),
        Column(
            "progress_deadline",
            "progress_deadline",
            "duration",
            "time in which an allocation must become healthy; the shortest of its groups",
        ),
        Column("create_index", "CreateIndex", "uint", "Raft index of its creation"),
        Column("modify_index", "ModifyIndex", "uint", "Raft index of its last change"),
    ),
)
