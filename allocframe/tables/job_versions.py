"""The job_versions table: one row for each version of a job."""

from __future__ import annotations

from .table import Column, Table

JOB_VERSIONS = Table(
    name="job_versions",
    key=("namespace", "job_id", "version", "job_modify_index"),
    doc="One row for each version of a job; Nomad keeps six. After a purge, they begin again at 0.",
    source="job_versions",
    columns=(
        Column("namespace", "Namespace", "category", "namespace of the job"),
        Column("job_id", "ID", "category", "the job"),
        Column("parent_job_id", "ParentID", "category", "the job that it is a run of; missing for others"),
        Column("version", "Version", "uint", "its version, from 0"),
        Column("submitted_at", "SubmitTime", "time", "when it was submitted, by the server's clock", "UTC"),
        Column("stable", "Stable", "bool", "whether a deployment of it was healthy"),
        Column("stopped", "Stop", "bool", "whether this version stops the job"),
        Column("type", "Type", "category", "service, batch, system or sysbatch"),
        Column("priority", "Priority", "int", "priority, 1 to 100"),
        Column("job_modify_index", "JobModifyIndex", "uint", "Raft index of its registration"),
        Column(
            "changed_fields",
            "changed_fields",
            "uint",
            "fields that differ from the previous known version; missing if there is none",
        ),
        Column("same_as", "same_as", "uint", "the newest earlier version with the same specification"),
    ),
)
