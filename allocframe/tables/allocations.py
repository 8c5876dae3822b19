"""The allocations table: one row for each allocation."""

from __future__ import annotations

from .table import Column, Table

_RUN = f"(periodic-[0-9]+|dispatch-(?:.+-)?[0-9]+-{'[0-9a-f]' * 8})"
"""How Nomad names the children of a periodic or parameterized job, after their parent's ID and a slash."""


def _from_child_id(job_id: str, group: int) -> str:
    """Return the SQL of the parent's ID (group 1) or of the run's name (group 2), NULL if this is no child's ID.

    DuckDB and Spark both read it, so no backslash and no brace is in it. The greedy first group makes the
    last run the one that counts: the launches of a dispatched periodic job are children of that dispatch.
    """
    extract = f"nullif(regexp_extract({job_id}, '(?s)^(.+)/{_RUN}$', {group}), '')"
    # Few job IDs have a slash, and looking for one costs far less than the pattern.
    return f"CASE WHEN contains({job_id}, '/') THEN {extract} END"


# A full read says who the parent is, or "" for none; the list and the event stream leave only the ID to go by.
_PARENT = f"CASE WHEN Job.ParentID IS NULL THEN {_from_child_id('JobID', 1)} ELSE given(Job.ParentID) END"
_RUN_OF_PARENT = f"""CASE WHEN Job.ParentID IS NULL THEN {_from_child_id("JobID", 2)}
  WHEN Job.ParentID <> '' AND starts_with(JobID, Job.ParentID || '/')
  THEN given(substr(JobID, length(Job.ParentID) + 2)) END"""

ALLOCATIONS = Table(
    name="allocations",
    key=("alloc_id",),
    doc="One row for each allocation that the server listed, in the order they were created.",
    source="listed",
    columns=(
        Column("alloc_id", "ID", "text", "the allocation's UUID"),
        Column("namespace", "given(Namespace)", "category", "namespace of its job"),
        Column(
            "name", "given(Name)", "text", "job.group[index], the same for every replacement in that slot"
        ),
        Column("job_id", "given(JobID)", "category", "the job"),
        Column(
            "parent_job_id",
            _PARENT,
            "category",
            "the periodic or parameterized job that its job is a run of; missing for other jobs",
            derived=_from_child_id("job_id", 1),
        ),
        Column(
            "run",
            _RUN_OF_PARENT,
            "category",
            "that run: dispatch-<seconds>-<hex> or periodic-<seconds>, the end of job_id",
            derived=_from_child_id("job_id", 2),
        ),
        Column(
            "job_type", "given(coalesce(JobType, Job.Type))", "category", "service, batch, system or sysbatch"
        ),
        Column(
            "job_version", "coalesce(JobVersion, Job.Version)", "uint", "version of the job it was placed for"
        ),
        Column("task_group", "given(TaskGroup)", "category", "the task group"),
        Column("node_id", "given(NodeID)", "category", "UUID of the node it was placed on"),
        Column("node_name", "given(NodeName)", "category", "name of that node"),
        Column("eval_id", "given(EvalID)", "text", "the evaluation that placed it"),
        Column("followup_eval_id", "given(FollowupEvalID)", "text", "the evaluation that will reschedule it"),
        Column(
            "client_status",
            "given(ClientStatus)",
            "category",
            "what the node says: pending, running, complete, failed, lost, unknown",
        ),
        Column("client_description", "given(ClientDescription)", "text", "the node's words for it"),
        Column(
            "desired_status", "given(DesiredStatus)", "category", "what the servers want: run, stop, evict"
        ),
        Column("desired_description", "given(DesiredDescription)", "text", "the servers' words for it"),
        Column(
            "deployment_healthy",
            "DeploymentStatus.Healthy",
            "bool",
            "health in its deployment, missing while undecided",
        ),
        Column(
            "canary", "DeploymentStatus.Canary", "bool", "placed as a canary; missing outside deployments"
        ),
        Column(
            "previous_alloc_id",
            "coalesce(given(PreviousAllocation), given(RescheduleTracker.Events[-1].PrevAllocID))",
            "text",
            "the allocation it replaces, where the answer says so",
        ),
        Column(
            "next_alloc_id",
            "given(NextAllocation)",
            "text",
            "the allocation that replaced it (servers from 1.6 on, and full reads)",
        ),
        Column(
            "reschedule_count",
            "coalesce(len(RescheduleTracker.Events), 0)",
            "int",
            "reschedules that its tracker remembers; servers keep about five",
        ),
        Column(
            "preempted_by",
            "given(PreemptedByAllocation)",
            "text",
            "the allocation that took its place by priority",
        ),
        Column("create_index", "CreateIndex", "uint", "Raft index of its creation"),
        Column("modify_index", "ModifyIndex", "uint", "Raft index of its last change"),
        Column("created_at", "at_ns(CreateTime)", "time", "created, by the server's clock", "UTC"),
        Column("modified_at", "at_ns(ModifyTime)", "time", "last changed, by the server's clock", "UTC"),
    ),
)
