"""The allocations table: one row for each allocation."""

from __future__ import annotations

from .table import Column, Table

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
