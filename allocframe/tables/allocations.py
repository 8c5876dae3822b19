"""The allocations table: one row for each allocation."""

from __future__ import annotations

from .table import Column, Table

_RUN = f"(periodic-[0-9]+|dispatch-(?:.+-)?[0-9]+-{'[0-9a-f]' * 8})"
"""How Nomad names the children of a periodic or parameterized job, after their parent's ID and a slash."""


def _from_child_id(job_id: str, group: int) -> str:
    """Return the SQL of the parent's ID (group 1) or the run's name (group 2); NULL if it is no child's ID.

    DuckDB and Spark both read it, so it has no backslash and no brace. The greedy first group finds the last
    run: the launches of a dispatched periodic job are children of that dispatch.
    """
    extract = f"nullif(regexp_extract({job_id}, '(?s)^(.+)/{_RUN}$', {group}), '')"
    # Few job IDs have a slash, and looking for one costs far less than the pattern.
    return f"CASE WHEN contains({job_id}, '/') THEN {extract} END"


# A full read names the parent, or "" for none; in the list and the event stream only the ID tells.
_PARENT = f"CASE WHEN Job.ParentID IS NULL THEN {_from_child_id('JobID', 1)} ELSE given(Job.ParentID) END"
_RUN_OF_PARENT = f"""CASE WHEN Job.ParentID IS NULL THEN {_from_child_id("JobID", 2)}
  WHEN Job.ParentID <> '' AND starts_with(JobID, Job.ParentID || '/')
  THEN given(substr(JobID, length(Job.ParentID) + 2)) END"""

ALLOCATIONS = Table(
    name="allocations",
    key=("alloc_id",),
    doc="One row for each allocation that the server listed, in order of creation.",
    source="listed",
    columns=(
        Column("alloc_id", "ID", "text", "the allocation's UUID"),
        Column("namespace", "given(Namespace)", "category", "namespace of its job"),
        Column("name", "given(Name)", "text", "job.group[index]; replacements keep it"),
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
        Column("job_version", "coalesce(JobVersion, Job.Version)", "uint", "version of the job that it runs"),
        Column("task_group", "given(TaskGroup)", "category", "the task group"),
        Column("node_id", "given(NodeID)", "category", "UUID of its node"),
        Column("node_name", "given(NodeName)", "category", "name of its node"),
        Column("eval_id", "given(EvalID)", "text", "the evaluation that placed it"),
        Column("followup_eval_id", "given(FollowupEvalID)", "text", "the evaluation that will reschedule it"),
        Column(
            "client_status",
            "given(ClientStatus)",
            "category",
            "its state on the node: pending, running, complete, failed, lost, unknown",
        ),
        Column(
            "client_description", "given(ClientDescription)", "text", "the node's description of that state"
        ),
        Column(
            "desired_status", "given(DesiredStatus)", "category", "what the servers want: run, stop, evict"
        ),
        Column("desired_description", "given(DesiredDescription)", "text", "the servers' reason for it"),
        Column(
            "deployment_healthy",
            "DeploymentStatus.Healthy",
            "bool",
            "health in its deployment; missing while undecided",
        ),
        Column(
            "canary", "DeploymentStatus.Canary", "bool", "placed as a canary; missing outside deployments"
        ),
        Column(
            "previous_alloc_id",
            "coalesce(given(PreviousAllocation), given(RescheduleTracker.Events[-1].PrevAllocID))",
            "text",
            "the allocation that it replaces, if Nomad says so",
        ),
        Column(
            "next_alloc_id",
            "given(NextAllocation)",
            "text",
            "the allocation that replaced it (since Nomad 1.6, and in full reads)",
        ),
        Column(
            "reschedule_count",
            "coalesce(len(RescheduleTracker.Events), 0)",
            "int",
            "reschedules in its tracker; Nomad keeps about 5",
        ),
        Column(
            "preempted_by",
            "given(PreemptedByAllocation)",
            "text",
            "the allocation of higher priority that took its place",
        ),
        Column("create_index", "CreateIndex", "uint", "Raft index of its creation"),
        Column("modify_index", "ModifyIndex", "uint", "Raft index of its last change"),
        Column(
            "created_at", "at_ns(CreateTime)", "time", "when it was created, by the server's clock", "UTC"
        ),
        Column(
            "modified_at", "at_ns(ModifyTime)", "time", "when it last changed, by the server's clock", "UTC"
        ),
    ),
)
