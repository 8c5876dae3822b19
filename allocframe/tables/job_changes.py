"""The job_changes table: one row for each field that differs between two versions of a job."""

from __future__ import annotations

from .table import Column, Table

JOB_CHANGES = Table(
    name="job_changes",
    key=("namespace", "job_id", "version", "job_modify_index", "task_group", "task", "path"),
    doc="One row for each field that differs between a version of a job and the previous known version.",
    source="job_changes",
    columns=(
        Column("namespace", "namespace", "category", "namespace of the job"),
        Column("job_id", "job_id", "category", "the job"),
        Column("version", "version", "uint", "the version that has the new value"),
        Column("version_before", "version_before", "uint", "the version that has the old value"),
        Column("task_group", "task_group", "category", "the task group; missing for fields of the job"),
        Column("task", "task", "category", "the task; missing for fields of the job or group"),
        Column("path", "path", "text", "the field: Resources.MemoryMB, Env[DB_HOST], Config.image, ..."),
        Column("kind", "kind", "category", "added, removed or edited"),
        Column("old", "old", "text", "the old value, or its salted hash; missing if it was added"),
        Column("new", "new", "text", "the new value, or its salted hash; missing if it was removed"),
        Column("sensitive", "sensitive", "bool", "whether the values may be secret, and are hashed"),
        Column("job_modify_index", "job_modify_index", "uint", "Raft index of that version's registration"),
    ),
)
