"""Job specifications of the simulated cluster as servers show them, and Nomad's diff of two of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .model import JSON, SECOND

if TYPE_CHECKING:
    from .jobs import Group, Job, Task

KEPT_VERSIONS = 6
"""Versions of a job that servers keep."""

_UPDATE: JSON = {
    "AutoPromote": False, "AutoRevert": False, "Canary": 0, "HealthCheck": "checks",
    "HealthyDeadline": 300 * SECOND, "MaxParallel": 1, "MinHealthyTime": 10 * SECOND,
    "ProgressDeadline": 600 * SECOND, "Stagger": 30 * SECOND,
}  # fmt: skip
_MIGRATE: JSON = {
    "HealthCheck": "checks", "HealthyDeadline": 300 * SECOND, "MaxParallel": 1,
    "MinHealthyTime": 10 * SECOND,
}  # fmt: skip
_IDENTITY: JSON = {
    "Audience": ["nomadproject.io"], "ChangeMode": "", "ChangeSignal": "", "Env": False, "ExtraClaims": None,
    "File": False, "Filepath": "", "Name": "default", "ServiceName": "", "TTL": 0,
}  # fmt: skip


def render_job(job: Job, version: str) -> JSON:
    """Return the specification of a job as a read of it shows it."""
    old = version == "1.3.1"
    update = {**_UPDATE, "HealthCheck": "", "HealthyDeadline": 0, "MinHealthyTime": 0, "ProgressDeadline": 0}
    return {
        **dict.fromkeys((
            "Affinities", "Constraints", "Meta", "Multiregion", "ParameterizedJob", "Payload", "Periodic",
            "Spreads",
        )),
        **dict.fromkeys((
            "ConsulNamespace", "DispatchIdempotencyToken", "NomadTokenID", "ParentID", "StatusDescription",
            "VaultNamespace",
        ), ""),
        **({"ConsulToken": "", "VaultToken": ""} if old else {"NodePool": "default", "UI": None}),
        **({} if old else {"VersionTag": None}),
        "AllAtOnce": False,
        "CreateIndex": job.create_index,
        "Datacenters": ["dc1"],
        "Dispatched": False,
        "ID": job.id,
        "JobModifyIndex": job.modify_index,
        "ModifyIndex": job.modify_index,
        "Name": job.id,
        "Namespace": job.namespace,
        "Priority": 50,
        "Region": "global",
        "Stable": True,
        "Status": job.status,
        "Stop": False,
        "SubmitTime": job.submit_time,
        "TaskGroups": [_render_group(job, group, old) for group in job.groups],
        "Type": job.kind,
        "Update": {**update, "Stagger": 30 * SECOND if job.kind == "service" else 0},
        "Version": job.version,
    }  # fmt: skip


def _render_group(job: Job, group: Group, old: bool) -> JSON:
    policy, restart = group.reschedule, _restart_policy(group, old)
    update = {**_UPDATE, "AutoRevert": job.auto_revert, "Canary": job.canaries}
    return {
        **dict.fromkeys((
            "Affinities", "Constraints", "MaxClientDisconnect", "Meta", "Networks", "Scaling", "Services",
            "ShutdownDelay", "Spreads", "StopAfterClientDisconnect", "Volumes",
        )),
        **({} if old else {"Disconnect": None, "MaxRunDuration": None, "PreventRescheduleOnLost": False}),
        "Consul": {"Namespace": ""} if old else None,
        "Count": group.count,
        "EphemeralDisk": {"Migrate": False, "SizeMB": 300, "Sticky": False},
        "Migrate": dict(_MIGRATE) if job.kind == "service" else None,
        "Name": group.name,
        "ReschedulePolicy": {
            "Attempts": policy.attempts, "Delay": policy.delay, "DelayFunction": policy.function,
            "Interval": policy.interval, "MaxDelay": policy.max_delay, "Unlimited": policy.unlimited,
        } if job.kind in ("service", "batch") else None,
        "RestartPolicy": restart,
        "Tasks": [_render_task(task, restart, old) for task in group.tasks],
        "Update": update if job.kind == "service" else None,
    }  # fmt: skip


def _restart_policy(group: Group, old: bool) -> JSON:
    restart = group.restart
    return {
        "Attempts": restart.attempts, "Delay": restart.delay, "Interval": restart.interval,
        "Mode": restart.mode, **({} if old else {"RenderTemplates": False}),
    }  # fmt: skip


def _render_task(task: Task, restart: JSON, old: bool) -> JSON:
    source = {"GetterMode": "any", "GetterSource": f"https://artifacts.example/{task.name}.tgz"}
    artifact = {**source, "GetterHeaders": None, "GetterOptions": None, "RelativeDest": "local/"}
    return {
        **dict.fromkeys((
            "Affinities", "CSIPluginConfig", "Constraints", "DispatchPayload", "Lifecycle", "Meta",
            "ScalingPolicies", "Services", "Templates", "Vault", "VolumeMounts",
        )),
        **({} if old else {
            **dict.fromkeys(("Actions", "Consul", "Identities", "Schedule", "Secrets")),
            "Identity": dict(_IDENTITY),
        }),
        "Artifacts": [artifact] if task.artifact else None,
        "Config": {"image": f"registry.example/{task.name}:{task.release}"},
        "Driver": "docker",
        "Env": dict(task.env) or None,
        "KillSignal": "",
        "KillTimeout": 5 * SECOND,
        "Kind": "",
        "Leader": task.leader,
        "LogConfig": {**({} if old else {"Disabled": False}), "MaxFileSizeMB": 10, "MaxFiles": 10},
        "Name": task.name,
        "Resources": {
            "CPU": task.cpu, "Cores": 0, "Devices": None, "DiskMB": 0, "IOPS": 0, "MemoryMB": task.memory,
            "MemoryMaxMB": 0, "Networks": None, **({} if old else {"NUMA": None, "SecretsMB": 0}),
        },
        "RestartPolicy": restart,
        "ShutdownDelay": 0,
        "User": "",
    }  # fmt: skip


def diff_jobs(before: JSON, after: JSON) -> JSON:
    """Return Nomad's diff of two versions: what the simulated stories change, and nothing else."""
    groups = []
    for old, new in zip(before["TaskGroups"], after["TaskGroups"], strict=False):
        tasks = [_diff_task(*pair) for pair in zip(old["Tasks"], new["Tasks"], strict=False)]
        fields = list(_diff_fields({"Count": old["Count"]}, {"Count": new["Count"]}))
        edited = fields or any(task["Type"] != "None" for task in tasks)
        groups.append({
            "Fields": fields or None, "Name": new["Name"], "Objects": None, "Tasks": tasks,
            "Type": "Edited" if edited else "None", "Updates": None,
        })  # fmt: skip
    is_edited = any(group["Type"] != "None" for group in groups)
    return {
        "Fields": None, "ID": after["ID"], "Objects": None, "TaskGroups": groups,
        "Type": "Edited" if is_edited else "None",
    }  # fmt: skip


def _diff_task(old: JSON, new: JSON) -> JSON:
    environments = (
        {f"Env[{key}]": value for key, value in (task["Env"] or {}).items()} for task in (old, new)
    )
    fields = list(_diff_fields(*environments))
    changed = {name: list(_diff_fields(old[name], new[name])) for name in ("Config", "Resources")}
    objects = [
        {"Fields": rows, "Name": name, "Objects": None, "Type": "Edited"}
        for name, rows in changed.items()
        if rows
    ]
    kind = "Edited" if fields or objects else "None"
    return {
        "Annotations": None, "Fields": fields or None, "Name": new["Name"], "Objects": objects or None,
        "Type": kind,
    }  # fmt: skip


def _diff_fields(old: JSON, new: JSON) -> Iterator[JSON]:
    def text(value: Any) -> str:
        return "" if value is None else str(value)

    for name in sorted(old.keys() | new.keys()):
        before, after = text(old.get(name)), text(new.get(name))
        if before != after:
            kind = "Added" if not before else "Deleted" if not after else "Edited"
            yield {"Annotations": None, "Name": name, "New": after, "Old": before, "Type": kind}
