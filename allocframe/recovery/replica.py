"""What the entries of a Raft log, states and events say, applied one after the other.

Unlike a server, it forgets nothing: purged jobs, collected allocations and deleted evaluations stay. Commands
and fields that it does not know are skipped and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..tables.json_rows import read_time
from .allocations import Allocations
from .jobs import JobVersions

JSON = dict[str, Any]

_EVALUATION = (
    "ID", "Namespace", "JobID", "Type", "TriggeredBy", "Status", "StatusDescription", "NodeID",
    "DeploymentID", "PreviousEval", "NextEval", "BlockedEval", "QueuedAllocations", "FailedTGAllocs",
    "JobModifyIndex", "WaitUntil", "CreateTime", "ModifyTime",
)  # fmt: skip
_NODE = (
    "Name", "NodeClass", "NodePool", "Datacenter", "Status", "StatusDescription", "StatusUpdatedAt",
    "SchedulingEligibility", "LastDrain", "CreateIndex", "Drain", "Version",
)  # fmt: skip
"""What is kept of evaluations and nodes. The rest is large, or secret as the SecretID of a node."""

_NO_HISTORY = frozenset({
    "AutopilotRequestType", "SchedulerConfigRequestType", "ClusterMetadataRequestType",
    "WrappedRootKeysUpsertRequestType", "RootKeyMetaUpsertRequestType", "RootKeyMetaDeleteRequestType",
    "WrappedRootKeysDeleteRequestType", "DeploymentDeleteRequestType",
    "OneTimeTokenExpireRequestType", "OneTimeTokenUpsertRequestType", "OneTimeTokenDeleteRequestType",
    "EvalUpdateRequestType", "VaultAccessorRegisterRequestType", "VaultAccessorDeregisterRequestType",
    "ServiceRegistrationUpsertRequestType", "ServiceRegistrationDeleteByIDRequestType",
    "ServiceRegistrationDeleteByNodeIDRequestType", "NamespaceUpsertRequestType",
    "NamespaceDeleteRequestType", "ACLPolicyUpsertRequestType", "ACLPolicyDeleteRequestType",
    "ACLTokenUpsertRequestType", "ACLTokenDeleteRequestType", "ACLTokenBootstrapRequestType",
    "VarApplyStateRequestType", "JobStabilityRequestType", "PeriodicLaunchRequestType",
    "ScalingEventRegisterRequestType", "NodePoolUpsertRequestType", "NodePoolDeleteRequestType",
    "CSIVolumeRegisterRequestType", "CSIVolumeDeregisterRequestType", "CSIVolumeClaimRequestType",
    "CSIVolumeClaimBatchRequestType", "CSIPluginDeleteRequestType", "NodeDeregisterRequestType",
    "NodeBatchDeregisterRequestType", "JobVersionTagRequestType", "ReconcileJobSummariesRequestType",
})  # fmt: skip
"""Commands whose evaluations are all that a history needs, if they have any."""


class Replica:
    """The objects of a cluster, as far as entries tell.

    Attributes
    ----------
    unknown : Counter
        Commands that were skipped, and how often.
    """

    def __init__(self) -> None:
        self.allocations: Allocations = Allocations()
        self.jobs: JobVersions = JobVersions()
        self.evaluations: dict[str, JSON] = {}
        self.deployments: dict[str, JSON] = {}
        self.nodes: dict[str, JSON] = {}
        self.changes: list[JSON] = []
        self.unknown: Counter[str] = Counter()
        self.first_index: int | None = None
        self.last_index: int | None = None
        self.first_time: int | None = None
        self.last_time: int | None = None
        self._blocked: dict[tuple[Any, Any], list[JSON]] = {}
        self._seen: set[int] = set()
        self._commands: dict[str, Callable[[JSON, int], None]] = {
            "AllocClientUpdateRequestType": self._client_update,
            "ApplyPlanResultsRequestType": self._plan_results,
            "AllocUpdateRequestType": self._plan_results,
            "AllocUpdateDesiredTransitionRequestType": self._desired_transitions,
            "EvalDeleteRequestType": self._collect,
            "JobRegisterRequestType": self._job_register,
            "JobDeregisterRequestType": self._job_deregister,
            "JobBatchDeregisterRequestType": self._jobs_deregister,
            "DeploymentStatusUpdateRequestType": self._deployment_status,
            "DeploymentAllocHealthRequestType": self._deployment_health,
            "DeploymentPromoteRequestType": self._deployment_promote,
            "NodeRegisterRequestType": self._node_register,
            "NodeUpdateStatusRequestType": self._node_update,
            "NodeUpdateDrainRequestType": self._node_update,
            "NodeUpdateEligibilityRequestType": self._node_update,
            "BatchNodeUpdateDrainRequestType": self._nodes_drain,
            "UpsertNodeEventsType": self._node_events,
        }

    def apply(self, entry: JSON) -> bool:
        """Apply one entry of a Raft log; return whether it was new."""
        index, body = entry.get("Index"), entry.get("Body")
        if not isinstance(index, int) or index in self._seen:
            return False
        self._seen.add(index)
        self.first_index = index if self.first_index is None else min(index, self.first_index)
        self.last_index = index if self.last_index is None else max(index, self.last_index)
        command = entry.get("CommandType")
        if not isinstance(body, dict) or not isinstance(command, str):
            return True
        try:
            self._apply(command, body, index)
        except (TypeError, ValueError, AttributeError, KeyError):
            # Fields of other types than any server writes: the entry counts as one that is not understood.
            self.unknown[command] += 1
        return True

    def _apply(self, command: str, body: JSON, index: int) -> None:
        for evaluation in _dicts([body.get("Eval"), *_list(body.get("Evals"))]):
            self.add_evaluation(evaluation, index)
        handle = self._commands.get(command)
        if handle is not None:
            handle(body, index)
        elif command not in _NO_HISTORY:
            self.unknown[command] += 1

    @property
    def entries(self) -> int:
        return len(self._seen)

    def missing_entries(self) -> int:
        """Return how many entries lack between the first and the last."""
        if self.first_index is None or self.last_index is None:
            return 0
        return self.last_index - self.first_index + 1 - len(self._seen)

    def link_replacements(self) -> None:
        """Note with each allocation which one replaced it: logs may have been read in another order."""
        for alloc in self.allocations:
            previous = alloc.fields.get("PreviousAllocation")
            if isinstance(previous, str) and previous in self.allocations:
                self.allocations[previous].fields.setdefault("NextAllocation", alloc.fields["ID"])

    # Objects as states, lists and events have them

    def add_allocation(self, row: JSON) -> None:
        """Note a whole allocation of a state, a list or an event."""
        if isinstance(row.get("ID"), str):
            index = row.get("ModifyIndex")
            self.allocations[row["ID"]].merge(row, index if isinstance(index, int) else 0)
            self.jobs.observe(row.get("Job"))
            self._tick(row.get("CreateTime"), row.get("ModifyTime"))

    def add_evaluation(self, row: JSON, index: int | None = None) -> None:
        """Note an evaluation; `index` is that of the entry which has it."""
        identity = row.get("ID")
        if not isinstance(identity, str):
            return
        at = index if index is not None else row.get("ModifyIndex") or 0
        known = self.evaluations.setdefault(identity, {"CreateIndex": row.get("CreateIndex") or at})
        if at >= known.get("ModifyIndex", -1):
            known |= {name: row[name] for name in _EVALUATION if row.get(name) not in (None, "", {})}
            known["ModifyIndex"] = at
            self._unblock(known, at)
        self._tick(row.get("CreateTime"), row.get("ModifyTime"))

    def _unblock(self, evaluation: JSON, index: int) -> None:
        """Cancel what waited for resources, as servers do once a job is placed whole. No entry says so."""
        job = evaluation.get("Namespace"), evaluation.get("JobID")
        if evaluation.get("Status") == "blocked":
            self._blocked.setdefault(job, []).append(evaluation)
        elif evaluation.get("Status") == "complete" and not evaluation.get("FailedTGAllocs"):
            for waiting in self._blocked.pop(job, ()):
                if waiting["Status"] == "blocked" and waiting["ModifyIndex"] <= index:
                    waiting["Status"], waiting["ModifyIndex"] = "canceled", index
                    waiting["StatusDescription"] = f'evaluation "{evaluation.get("ID")}" successful'

    def add_deployment(self, row: JSON, index: int | None = None) -> None:
        """Note a whole deployment."""
        identity = row.get("ID")
        if not isinstance(identity, str):
            return
        at = index if index is not None else row.get("ModifyIndex") or 0
        known = self.deployments.setdefault(identity, {})
        if at >= known.get("ModifyIndex", -1):
            created = known.get("CreateIndex") or row.get("CreateIndex") or at
            known |= {**row, "CreateIndex": created, "ModifyIndex": at}

    def add_node(self, row: JSON, index: int | None = None) -> None:
        """Note a node, with its events if it has them."""
        identity = row.get("ID")
        if not isinstance(identity, str):
            return
        at = index if index is not None else row.get("ModifyIndex") or 0
        known = self.nodes.setdefault(identity, {"ID": identity, "ModifyIndex": -1, "Events": []})
        attributes = row.get("Attributes")
        version = attributes.get("nomad.version") if isinstance(attributes, dict) else None
        if at >= known["ModifyIndex"]:
            kept = {name: row[name] for name in _NODE if row.get(name) is not None}
            if index is not None:
                # A node that registers again keeps what servers decided about it.
                for name in ("SchedulingEligibility", "LastDrain"):
                    if name in known:
                        kept.pop(name, None)
                kept["CreateIndex"] = known.get("CreateIndex") or at
            known |= kept
            known["ModifyIndex"] = at
            known["Drain"] = row.get("DrainStrategy") is not None or bool(row.get("Drain"))
            if version:
                known["Version"] = version
        self._add_node_events(known, row.get("Events"))

    # Entries

    def _client_update(self, body: JSON, index: int) -> None:
        for row in _dicts(body.get("Alloc")):
            if isinstance(row.get("ID"), str):
                self.allocations[row["ID"]].report(row, index)
                self._tick(row.get("ModifyTime"))

    def _plan_results(self, body: JSON, index: int) -> None:
        job = body.get("Job")
        self.jobs.observe(job)
        for row in _dicts([*_list(body.get("AllocsUpdated")), *_list(body.get("Alloc"))]):
            if not isinstance(row.get("ID"), str):
                continue
            self.allocations[row["ID"]].place(row, index, row.get("Job") or job)
            self._tick(row.get("CreateTime"), row.get("ModifyTime"))
            self._link(row["ID"], index)
        for row in _dicts(body.get("AllocsStopped")):
            self._stop(row, index)
        for row in _dicts(body.get("AllocsPreempted")):
            by = row.get("PreemptedByAllocation")
            if isinstance(row.get("ID"), str):
                decision = {"DesiredStatus": "evict", "PreemptedByAllocation": by}
                decision["DesiredDescription"] = f"Preempted by alloc ID {by}"
                self.allocations[row["ID"]].decide(decision, index)
                self._link(row["ID"], index)
        at = read_time(body.get("UpdatedAt")) or self.last_time
        for evaluation in _dicts(body.get("PreemptionEvals")):
            self.add_evaluation(evaluation, index)
        if isinstance(body.get("Deployment"), dict):
            deployment = body["Deployment"]
            started = read_time(deployment.get("CreateTime")) or at
            self.add_deployment({**deployment, "started_at": started}, index)
        for update in _dicts(body.get("DeploymentUpdates")):
            self._update_deployment(update, index, at)

    def _stop(self, row: JSON, index: int) -> None:
        if not isinstance(row.get("ID"), str):
            return
        decision = {"DesiredStatus": "stop"}
        names = ("DesiredDescription", "FollowupEvalID", "ModifyTime", "RescheduleTracker")
        decision |= {name: row[name] for name in names if row.get(name)}
        alloc = self.allocations[row["ID"]]
        alloc.decide(decision, index)
        if isinstance(row.get("ClientStatus"), str):
            alloc.end(row["ClientStatus"], index)
        self._tick(row.get("ModifyTime"))
        self._link(row["ID"], index)

    def _link(self, alloc_id: str, index: int) -> None:
        """Note with the allocation before which one replaced it, as servers do with each plan."""
        previous = self.allocations[alloc_id].fields.get("PreviousAllocation")
        if isinstance(previous, str) and previous in self.allocations:
            self.allocations[previous].decide({"NextAllocation": alloc_id}, index)

    def _desired_transitions(self, body: JSON, index: int) -> None:
        wishes = body.get("Allocs")
        evaluations = list(_dicts(body.get("Evals")))
        for alloc_id, transition in (wishes if isinstance(wishes, dict) else {}).items():
            if not isinstance(transition, dict):
                continue
            alloc = self.allocations[alloc_id]
            earlier = alloc.fields.get("DesiredTransition") or {}
            wanted = {name: value for name, value in transition.items() if value is not None}
            alloc.decide({"DesiredTransition": {**earlier, **wanted}}, index)
            for evaluation in evaluations:
                if evaluation.get("TriggeredBy") == "alloc-stop" and transition.get("Migrate"):
                    self.changes.append({
                        "kind": "operator stop",
                        "at": read_time(evaluation.get("CreateTime")),
                        "namespace": evaluation.get("Namespace"),
                        "job_id": evaluation.get("JobID"),
                        "alloc_id": alloc_id,
                        "source": "evaluations",
                        "detail": {"eval_id": evaluation.get("ID"), "triggered_by": "alloc-stop"},
                    })  # fmt: skip

    def _collect(self, body: JSON, index: int) -> None:
        for alloc_id in _list(body.get("Allocs")):
            if isinstance(alloc_id, str):
                self.allocations.collect(alloc_id, index)

    def _job_register(self, body: JSON, index: int) -> None:
        self.jobs.register(body.get("Job"), index)
        job = body.get("Job")
        self._tick(job.get("SubmitTime") if isinstance(job, dict) else None)

    def _job_deregister(self, body: JSON, index: int) -> None:
        evaluation = body.get("Eval")
        at = read_time(body.get("SubmitTime")) or (
            read_time(evaluation.get("CreateTime")) if isinstance(evaluation, dict) else None
        )
        self._end_job(
            str(body.get("Namespace")), str(body.get("JobID")), index, at, body.get("Purge") is True
        )

    def _jobs_deregister(self, body: JSON, index: int) -> None:
        times = {row.get("JobID"): read_time(row.get("CreateTime")) for row in _dicts(body.get("Evals"))}
        jobs = body.get("Jobs")
        for name, options in (jobs if isinstance(jobs, dict) else {}).items():
            namespace, _, job_id = name.partition(".")  # namespaces have no dot
            purge = isinstance(options, dict) and options.get("Purge") is True
            self._end_job(namespace, job_id, index, times.get(job_id) or self.last_time, purge, "collected")

    def _end_job(
        self, namespace: str, job_id: str, index: int, at: int | None, purge: bool, how: str = "deregistered"
    ) -> None:
        self.jobs.stop(namespace, job_id, index, at, purge=purge)
        if purge:
            self.changes.append({
                "kind": "purge", "at": at, "namespace": namespace, "job_id": job_id,
                "source": "evaluations", "detail": {"how": how},
            })  # fmt: skip

    def _deployment_status(self, body: JSON, index: int) -> None:
        evaluation = body.get("Eval")
        at = read_time(evaluation.get("CreateTime")) if isinstance(evaluation, dict) else None
        self.jobs.register(body.get("Job"), index)  # a rollback
        for update in _dicts([body.get("DeploymentUpdate")]):
            self._update_deployment(update, index, read_time(update.get("UpdatedAt")) or at or self.last_time)

    def _update_deployment(self, update: JSON, index: int, at: int | None) -> None:
        identity = update.get("DeploymentID")
        if not isinstance(identity, str):
            return
        known = self.deployments.setdefault(identity, {"ID": identity})
        if index >= known.get("ModifyIndex", -1):
            known["Status"], known["StatusDescription"] = (
                update.get("Status"),
                update.get("StatusDescription"),
            )
            known["ModifyIndex"] = index
            known["ended_at"] = at

    def _deployment_health(self, body: JSON, index: int) -> None:
        self.jobs.register(body.get("Job"), index)
        for name, healthy in (("HealthyAllocationIDs", True), ("UnhealthyAllocationIDs", False)):
            for alloc_id in _list(body.get(name)):
                alloc = self.allocations[str(alloc_id)]
                earlier = alloc.fields.get("DeploymentStatus") or {}
                alloc.fields["DeploymentStatus"] = {**earlier, "Healthy": healthy}
        for update in _dicts([body.get("DeploymentUpdate")]):
            self._update_deployment(update, index, read_time(body.get("Timestamp")) or self.last_time)

    def _deployment_promote(self, body: JSON, index: int) -> None:
        known = self.deployments.get(str(body.get("DeploymentID")))
        groups = known.get("TaskGroups") if known else None
        for name, group in (groups if isinstance(groups, dict) else {}).items():
            if body.get("All") or name in _list(body.get("Groups")):
                group["Promoted"] = True

    def _node_register(self, body: JSON, index: int) -> None:
        node = body.get("Node")
        if not isinstance(node, dict):
            return
        known = self.nodes.get(str(node.get("ID")))
        is_new, was_down = known is None, known is not None and known.get("Status") == "down"
        self.add_node({**node, "Events": None}, index)
        message = "Node registered" if is_new else "Node re-registered" if was_down else None
        if message and isinstance(node.get("ID"), str):
            # The server makes this event as it applies the entry.
            event = {"Message": message, "Subsystem": "Cluster", "CreateIndex": 0 if is_new else index}
            seconds = node.get("StatusUpdatedAt")
            stamp = seconds * 10**9 if isinstance(seconds, int) else None
            self._add_node_events(self.nodes[node["ID"]], [{**event, "Timestamp": stamp}])

    def _node_update(self, body: JSON, index: int) -> None:
        self._change_node(str(body.get("NodeID")), body, body, index)

    def _nodes_drain(self, body: JSON, index: int) -> None:
        updates, events = body.get("Updates"), body.get("NodeEvents")
        for node_id, update in (updates if isinstance(updates, dict) else {}).items():
            event = events.get(node_id) if isinstance(events, dict) else None
            change = {**update, "NodeEvent": event} if isinstance(update, dict) else {"NodeEvent": event}
            self._change_node(node_id, change, body, index)

    def _change_node(self, node_id: str, change: JSON, body: JSON, index: int) -> None:
        known = self.nodes.setdefault(node_id, {"ID": node_id, "ModifyIndex": -1, "Events": []})
        if index >= known["ModifyIndex"]:
            known["ModifyIndex"] = index
            if change.get("Status"):
                known["Status"], known["StatusUpdatedAt"] = change["Status"], body.get("UpdatedAt")
            if change.get("Eligibility"):
                known["SchedulingEligibility"] = change["Eligibility"]
            if "DrainStrategy" in change:
                self._drain(known, change)
        event = change.get("NodeEvent")
        if isinstance(event, dict):
            self._add_node_events(known, [{**event, "CreateIndex": index}])

    def _drain(self, known: JSON, change: JSON) -> None:
        strategy = change["DrainStrategy"]
        known["Drain"] = strategy is not None
        if isinstance(strategy, dict):
            known["SchedulingEligibility"] = "ineligible"
            known["LastDrain"] = {"StartedAt": strategy.get("StartedAt"), "Status": "draining"}
        else:
            known["LastDrain"] = {**(known.get("LastDrain") or {}), "Status": "complete"}
            if change.get("MarkEligible"):
                known["SchedulingEligibility"] = "eligible"

    def _node_events(self, body: JSON, index: int) -> None:
        events = body.get("NodeEvents")
        for node_id, rows in (events if isinstance(events, dict) else {}).items():
            known = self.nodes.setdefault(node_id, {"ID": node_id, "ModifyIndex": -1, "Events": []})
            self._add_node_events(known, [{**row, "CreateIndex": index} for row in _dicts(rows)])

    def _add_node_events(self, node: JSON, events: Any) -> None:
        """Add events that the node does not have: states and entries both have them."""
        keys = {(read_time(event.get("Timestamp")), event.get("Message")) for event in node["Events"]}
        for event in _dicts(events):
            key = read_time(event.get("Timestamp")), event.get("Message")
            if key not in keys:
                keys.add(key)
                node["Events"].append(event)
            self._tick(key[0])

    def _tick(self, *times: Any) -> None:
        """Note times of servers: the span of what is known."""
        for value in times:
            time = read_time(value)
            if time is not None:
                self.first_time = time if self.first_time is None else min(time, self.first_time)
                self.last_time = time if self.last_time is None else max(time, self.last_time)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dicts(values: Any) -> Iterator[JSON]:
    """Yield the JSON objects among some values."""
    items: Iterable[Any] = values if isinstance(values, list) else ()
    return (item for item in items if isinstance(item, dict))
