"""The allocations table: one row for each allocation."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from .rows import TEXT, Reader, Rows, flag, nanoseconds, numbers, repeated, rfc3339, text, unsigned
from .run_ids import RUN, split_run_id
from .table import Column, Table


def _from_child_id(job_id: str, group: int) -> str:
    """Return the SQL of the parent's ID (group 1) or the run's name (group 2); NULL for other IDs.

    DuckDB and Spark both read it, so it has no backslash and no brace.
    """
    extract = f"nullif(regexp_extract({job_id}, '(?s)^(.+)/{RUN}$', {group}), '')"
    # Few job IDs have a slash, and looking for one costs far less than the pattern.
    return f"CASE WHEN contains({job_id}, '/') THEN {extract} END"


def _from_parent(group: int) -> Reader:
    """Read the parent's ID (group 1) or the run's name (group 2) of a child.

    A full read names the parent, or "" for none; in the list and the event stream only the ID tells.
    """

    def read(rows: Rows) -> Any:
        if not any(rows.field("Job")):
            jobs = rows.repeated("JobID")
            if jobs is None:
                return None
            labels = jobs.dictionary.to_pylist()
            runs = [split_run_id(label) for label in labels]
            if not any(runs):
                return None
            found = pa.array([run and run[group - 1] for run in runs], TEXT)
            return found.take(jobs.indices).dictionary_encode()
        pairs = zip(rows.field("JobID"), rows.field("Job.ParentID"), strict=True)
        return pa.array([_child(job, parent)[group - 1] for job, parent in pairs], TEXT).dictionary_encode()

    return read


def _child(job_id: str | None, parent: str | None) -> tuple[str | None, str | None]:
    """Return the parent's ID and the run's name."""
    if parent is None:
        return split_run_id(job_id) or (None, None)
    if parent and job_id and job_id.startswith(f"{parent}/"):
        return parent, job_id[len(parent) + 1 :] or None
    return parent or None, None


def _job_type(rows: Rows) -> Any:
    """Read the type of the job; full reads have it only in the job."""
    types, jobs = rows.field("JobType"), rows.field("Job")
    if not any(jobs):
        return rows.repeated("JobType")
    pairs = zip(types, rows.field("Job.Type"), strict=True)
    return pa.array([(inner if outer is None else outer) or None for outer, inner in pairs], TEXT)


def _job_version(rows: Rows) -> Any:
    if not any(rows.field("Job")):
        return unsigned("JobVersion")(rows)
    pairs = zip(rows.field("JobVersion"), rows.field("Job.Version"), strict=True)
    return numbers([inner if outer is None else outer for outer, inner in pairs], pa.uint64())


def _previous(rows: Rows) -> Any:
    """Read the allocation that it replaces; the list names it only in the reschedule tracker."""
    trackers = rows.field("RescheduleTracker.Events")
    direct = rows.field("PreviousAllocation")
    if not any(trackers):
        return rows.given("PreviousAllocation")
    last = [events[-1].PrevAllocID if events and events[-1] else None for events in trackers]
    return pa.array([first or second or None for first, second in zip(direct, last, strict=True)], TEXT)


def _preempted(rows: Rows) -> Any:
    lists = rows.field("PreemptedAllocations")
    if not any(lists):
        return None
    return pa.array([",".join(filter(None, ids)) if ids else None for ids in lists], TEXT)


def _reschedule_count(rows: Rows) -> Any:
    return pa.array([len(events or ()) for events in rows.field("RescheduleTracker.Events")], pa.int64())


ALLOCATIONS = Table(
    name="allocations",
    key=("alloc_id",),
    doc="One row for each allocation that the server listed, in order of creation.",
    source="allocations",
    columns=(
        Column("alloc_id", text("ID"), "text", "the allocation's UUID"),
        Column("namespace", repeated("Namespace"), "category", "namespace of its job"),
        Column("name", text("Name"), "text", "job.group[index]; replacements keep it"),
        Column("job_id", repeated("JobID"), "category", "the job"),
        Column(
            "parent_job_id",
            _from_parent(1),
            "category",
            "the periodic or parameterized job that its job is a run of; missing for other jobs",
            derived=_from_child_id("job_id", 1),
        ),
        Column(
            "run",
            _from_parent(2),
            "category",
            "that run: dispatch-<seconds>-<hex> or periodic-<seconds>, the end of job_id",
            derived=_from_child_id("job_id", 2),
        ),
        Column("job_type", _job_type, "category", "service, batch, system or sysbatch"),
        Column("job_version", _job_version, "uint", "version of the job that it runs"),
        Column("task_group", repeated("TaskGroup"), "category", "the task group"),
        Column("node_id", repeated("NodeID"), "category", "UUID of its node"),
        Column("node_name", repeated("NodeName"), "category", "name of its node"),
        Column("eval_id", text("EvalID"), "text", "the evaluation that placed it"),
        Column("followup_eval_id", text("FollowupEvalID"), "text", "the evaluation that will reschedule it"),
        Column(
            "client_status",
            repeated("ClientStatus"),
            "category",
            "its state on the node: pending, running, complete, failed, lost, unknown",
        ),
        Column(
            "client_description", text("ClientDescription"), "text", "the node's description of that state"
        ),
        Column(
            "desired_status", repeated("DesiredStatus"), "category", "what the servers want: run, stop, evict"
        ),
        Column("desired_description", text("DesiredDescription"), "text", "the servers' reason for it"),
        Column(
            "deployment_healthy",
            flag("DeploymentStatus.Healthy"),
            "bool",
            "health in its deployment; missing while undecided",
        ),
        Column(
            "canary",
            flag("DeploymentStatus.Canary"),
            "bool",
            "placed as a canary; missing outside deployments",
        ),
        Column(
            "previous_alloc_id",
            _previous,
            "text",
            "the allocation that it replaces, if Nomad says so",
        ),
        Column(
            "next_alloc_id",
            text("NextAllocation"),
            "text",
            "the allocation that replaced it (since Nomad 1.6, and in full reads)",
        ),
        Column(
            "reschedule_count",
            _reschedule_count,
            "int",
            "reschedules in its tracker; Nomad keeps about 5",
        ),
        Column(
            "preempted_by",
            text("PreemptedByAllocation"),
            "text",
            "the allocation of higher priority that took its place",
        ),
        Column("create_index", unsigned("CreateIndex"), "uint", "Raft index of its creation"),
        Column("modify_index", unsigned("ModifyIndex"), "uint", "Raft index of its last change"),
        Column(
            "created_at",
            nanoseconds("CreateTime"),
            "time",
            "when it was created, by the server's clock",
            "UTC",
        ),
        Column(
            "modified_at",
            nanoseconds("ModifyTime"),
            "time",
            "when it last changed, by the server's clock",
            "UTC",
        ),
        Column(
            "must_migrate",
            flag("DesiredTransition.Migrate"),
            "bool",
            "the servers want it moved: its node drains, or somebody stopped it",
            derived="NULL",
        ),
        Column(
            "must_reschedule",
            flag("DesiredTransition.Reschedule"),
            "bool",
            "the servers reschedule it; Nomad 2.0.5 says so only here",
            derived="NULL",
        ),
        Column(
            "forced_reschedule",
            flag("DesiredTransition.ForceReschedule"),
            "bool",
            "somebody asked to reschedule it, whatever its policy says",
            derived="NULL",
        ),
        Column(
            "preempted_allocs",
            _preempted,
            "text",
            "the allocations of lower priority whose place it took, separated by commas",
            derived="NULL",
        ),
        Column(
            "deployment_health_at",
            rfc3339("DeploymentStatus.Timestamp"),
            "time",
            "when its health in the deployment was decided",
            "UTC",
            derived="NULL",
        ),
        Column(
            "deployment_health_index",
            unsigned("DeploymentStatus.ModifyIndex"),
            "uint",
            "Raft index of that decision",
            derived="NULL",
        ),
    ),
)
