"""Lines of the event stream as news of jobs, deployments, nodes and evaluations. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..tables.json_rows import read_time
from .updates import read_line

JSON = dict[str, Any]

_NODE_FIELDS = (
    "ID", "Name", "NodeClass", "NodePool", "Datacenter", "Status", "StatusDescription", "StatusUpdatedAt",
    "SchedulingEligibility", "Drain", "DrainStrategy", "LastDrain", "Events", "CreateIndex", "ModifyIndex",
)  # fmt: skip
_ENDS = {"JobDeregistered": "deregistered", "JobBatchDeregistered": "collected"}
"""How a job ended, by the type of events. The servers' garbage collection deregisters batches."""

_ENDED = ("successful", "failed", "cancelled")


@dataclass
class News:
    """What lines of the stream tell, as Nomad's own JSON. The newest one of each thing is last."""

    index: int = 0
    jobs: list[JSON] = field(default_factory=list)
    deployments: list[JSON] = field(default_factory=list)
    nodes: list[JSON] = field(default_factory=list)
    evaluations: list[JSON] = field(default_factory=list)
    removed_nodes: list[JSON] = field(default_factory=list)
    _ends: dict[tuple[int, str, str], JSON] = field(default_factory=dict)
    """What ended a job at an index, by index, namespace and job."""

    def add(self, text: bytes, heard_at: float, live_after: int) -> None:
        """Add one complete line.

        Parameters
        ----------
        text : bytes
        heard_at : float
            When it came, in seconds since 1970.
        live_after : int
            Lines after this index came as they happened, and not from the server's buffer.

        Raises
        ------
        NotAnEvent
            The line is not a JSON object, or has no index.
        """
        index, events = read_line(text)
        if index is None:
            return
        self.index = max(self.index, index)
        moment = int(heard_at * 1e9) if index > live_after else None
        for topic, kind, payload, thing in _payloads(events):
            if kind in _ENDS:
                self._note_end(index, topic, kind, payload, thing, moment)
            if topic == "Deployment":
                self.deployments.append(_with_times(thing, index, moment))
            elif topic == "Evaluation":
                self.evaluations.append(thing)
            elif topic == "Node":
                node = _trim_node(thing)
                (self.removed_nodes if kind == "NodeDeregistration" else self.nodes).append(node)
            elif topic == "Job" and not payload.get("Deleted"):
                self.jobs.append(_without_payload(thing))

    def _note_end(
        self, index: int, topic: str, kind: str, payload: JSON, thing: JSON, moment: int | None
    ) -> None:
        """Note what one event tells of the end of a job; others of the same index tell the rest."""
        job_id = thing.get("JobID") if topic == "Evaluation" else thing.get("ID")
        end = self._ends.setdefault(
            (index, str(thing.get("Namespace") or "default"), str(job_id)),
            {"how": _ENDS[kind], "heard_at": moment, "stays": False, "at": None},
        )
        if topic == "Evaluation":
            end["at"] = read_time(thing.get("CreateTime"))
        elif not payload.get("Deleted"):
            end["stays"] = True

    def purges(self) -> Iterator[tuple[int, JSON]]:
        """Yield the index of each purge, and its row of the ledger.

        Newer servers send the job, marked as deleted. Older ones send only an evaluation; that of a job which
        was merely stopped comes together with the job's new version.
        """
        for (index, namespace, job_id), end in self._ends.items():
            if not end["stays"]:
                yield (
                    index,
                    {
                        "kind": "purge",
                        "at": end["at"] or end["heard_at"],
                        "namespace": namespace,
                        "job_id": job_id,
                        "source": "evaluations",
                        "detail": {"how": end["how"]},
                    },
                )


def _payloads(events: Any) -> Iterator[tuple[str, str, JSON, JSON]]:
    """Yield the topic, type, payload and object of each event."""
    for event in events if isinstance(events, list) else []:
        payload = event.get("Payload") if isinstance(event, dict) else None
        if not isinstance(payload, dict):
            continue
        topic = str(event.get("Topic"))
        thing = payload.get(topic)
        if isinstance(thing, dict) and isinstance(thing.get("ID"), str):
            yield topic, str(event.get("Type")), payload, thing


def _without_payload(spec: JSON) -> JSON:
    return {key: value for key, value in spec.items() if key != "Payload"}


def _trim_node(node: JSON) -> JSON:
    """Return what the tables need of a node: it also has a secret, and attributes that are many."""
    attributes = node.get("Attributes")
    version = attributes.get("nomad.version") if isinstance(attributes, Mapping) else None
    return {**{name: node[name] for name in _NODE_FIELDS if name in node}, "Version": version}


def _with_times(deployment: JSON, index: int, moment: int | None) -> JSON:
    """Return a deployment with the times that Nomad before 1.9 does not tell, if it began or ended now."""
    if moment is None or read_time(deployment.get("CreateTime")):
        return deployment
    times = {}
    if deployment.get("CreateIndex") == index:
        times["started_at"] = moment
    if deployment.get("Status") in _ENDED and deployment.get("ModifyIndex") == index:
        times["ended_at"] = moment
    return {**deployment, **times}


def _key(spec: JSON) -> tuple[str, str]:
    return str(spec.get("Namespace") or "default"), str(spec.get("ID"))
