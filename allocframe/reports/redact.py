"""Evidence without names: what may be told apart stays apart, and no word of the cluster's own is left.

A redacted snapshot is built anew from the columns of the tables that are listed here. What is not listed cannot get into it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ..nomad import protocol
from ..snapshot.snapshot import Snapshot
from ..stats import vocabulary
from ..store.capture import Capture
from ..tables.events import KNOWN_TYPES

_STATUSES = ("pending", "running", "complete", "failed", "lost", "unknown", "dead", "run", "stop", "evict")
_JOB_TYPES = ("service", "batch", "system", "sysbatch")
_NOMADS_OWN = frozenset(
    [
        *_STATUSES,
        *_JOB_TYPES,
        *KNOWN_TYPES,
        *vocabulary.STOP_REASONS,
        *vocabulary.REQUESTS,
        *vocabulary.DECISIONS,
        *vocabulary.SIGNALS.values(),
    ]
)
"""Words that are Nomad's, whatever the cluster: these stay."""

_EXHAUSTED = re.compile(re.escape(vocabulary.EXHAUSTED) + r"\d+ in interval [0-9hms.]+ and mode is \"\w+\"")
_IN_SLOT = re.compile(r"\[(\d+)\]\Z")
_TEXTS = {
    "kill_reason": "KillReason", "kill_error": "KillError", "driver_error": "DriverError", "driver_message": "DriverMessage",
    "setup_error": "SetupError", "download_error": "DownloadError", "validation_error": "ValidationError", "vault_error": "VaultError",
    "task_signal_reason": "TaskSignalReason",
}  # fmt: skip
_DETAILS = ("exit_code", "signal", "oom_killed", "fails_task", "disk_limit")
_FACTS = (
    "started_at",
    "finished_at",
    "index_first",
    "index_last",
    "complete",
    "pages",
    "duplicates",
    "at",
    "since",
    "recorded_since",
    "missing",
)
"""What of a snapshot's `info` holds no name."""


class _Names:
    """Replacements, the same one for the same name of a kind, numbered in the order in which they are asked for."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, str], str] = {}
        self._next: dict[str, int] = {}

    def __call__(self, kind: str, name: Any) -> str | None:
        if pd.isna(name):
            return None
        if (kind, name) not in self._given:
            number = self._next[kind] = self._next.get(kind, 0) + 1
            self._given[kind, name] = (
                f"{number:08x}-0000-0000-0000-000000000000" if kind.endswith("id") else f"{kind}-{number}"
            )
        return self._given[kind, name]

    def word(self, kind: str, text: Any) -> str | None:
        """Return one of Nomad's own words as it is, and a replacement of any other."""
        return text if text in _NOMADS_OWN else self(kind, text)

    def reason(self, text: Any) -> str | None:
        if pd.isna(text) or _EXHAUSTED.fullmatch(text):
            return None if pd.isna(text) else str(text)
        if text.startswith(vocabulary.HEALTH_CHECK):
            return f"{vocabulary.HEALTH_CHECK}{self('check', text)}"
        return self.word("text", text)


def redacted(snapshot: Snapshot, path: Path) -> Path:
    """Save a snapshot with every name and text replaced, the same by the same; `load` opens it."""
    names = _Names()
    capture = Capture.create()
    try:
        rows = list(_rows(snapshot, names))
        capture.add(json.dumps(rows).encode(), path=protocol.LIST, params={})
        info = {name: snapshot.info[name] for name in _FACTS if name in snapshot.info}
        if "recorded_since" in info:
            told = [{**gap, "reason": None} for gap in snapshot.info["gaps"]]
            info |= {"gaps": told, "tasks_incomplete": snapshot.info["tasks_truncated"]}
        capture.describe(**info, source="redacted", notes=list(_notes(snapshot)))
        return capture.save(path)
    finally:
        capture.close()


def _notes(snapshot: Snapshot) -> Iterator[str]:
    yield "names, addresses and messages: they are replaced, the same by the same, so that this can be shared"
    if snapshot.info["filtered"] or snapshot.info.get("notes"):
        yield "what else was noted of the fetch, because it may hold names"
    if snapshot.info["issues"]:
        yield f"{snapshot.info['issues']:,} values that did not fit"


def _rows(snapshot: Snapshot, names: _Names) -> Iterator[dict[str, Any]]:
    events = _by_task(_records(snapshot.events), names)
    states: dict[str, dict[str, Any]] = {}
    for row in _records(snapshot.task_states):
        task = str(names("task", row["task"]))
        states.setdefault(row["alloc_id"], {})[task] = {
            "State": names.word("state", row["state"]), "Failed": row["failed"], "Restarts": row["restarts"],
            **{wire: _rfc3339(row[column]) for wire, column in
               (("LastRestart", "last_restart_at"), ("StartedAt", "started_at"), ("FinishedAt", "finished_at"))},
            "Events": events.get((row["alloc_id"], row["task"]), []),
        }  # fmt: skip
    trackers: dict[str, list[dict[str, Any]]] = {}
    for row in _records(snapshot.reschedules):
        trackers.setdefault(row["alloc_id"], []).append(
            {
                "PrevAllocID": names("alloc_id", row["prev_alloc_id"]), "PrevNodeID": names("node_id", row["prev_node_id"]),
                "RescheduleTime": _ns(row["time"]), "Delay": _ns(row["delay"]),
            }
        )  # fmt: skip
    for row in _records(snapshot.allocations):
        tracker = trackers.get(row["alloc_id"])
        yield {
            **_allocation(row, names),
            "TaskStates": states.get(row["alloc_id"]),
            "RescheduleTracker": tracker and {"Events": tracker},
        }


def _allocation(row: dict[str, Any], names: _Names) -> dict[str, Any]:
    job, group = names("job", row["job_id"]), names("group", row["task_group"])
    place = _IN_SLOT.search(row["name"] or "")
    health = {"Healthy": row["deployment_healthy"], "Canary": row["canary"]}
    return {
        "ID": names("alloc_id", row["alloc_id"]), "Namespace": names("namespace", row["namespace"]), "JobID": job, "TaskGroup": group,
        "Name": f"{job}.{group}[{place[1]}]" if place else names("name", row["name"]),
        "JobType": names.word("type", row["job_type"]), "JobVersion": row["job_version"],
        "NodeID": names("node_id", row["node_id"]), "NodeName": names("node", row["node_name"]),
        "ClientStatus": names.word("status", row["client_status"]), "DesiredStatus": names.word("status", row["desired_status"]),
        "ClientDescription": names("text", row["client_description"]),
        "DesiredDescription": names.word("text", row["desired_description"]),
        "PreviousAllocation": names("alloc_id", row["previous_alloc_id"]), "NextAllocation": names("alloc_id", row["next_alloc_id"]),
        "PreemptedByAllocation": names("alloc_id", row["preempted_by"]),
        "CreateIndex": row["create_index"], "ModifyIndex": row["modify_index"],
        "CreateTime": _ns(row["created_at"]), "ModifyTime": _ns(row["modified_at"]),
        "DeploymentStatus": health if any(value is not None for value in health.values()) else None,
    }  # fmt: skip


def _by_task(events: list[dict[str, Any]], names: _Names) -> dict[tuple[str, str], list[dict[str, Any]]]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in events:
        found.setdefault((row["alloc_id"], row["task"]), []).append(_event(row, names))
    return found


def _event(row: dict[str, Any], names: _Names) -> dict[str, Any]:
    details = {name: str(row[name]).lower() for name in _DETAILS if row[name] is not None}
    return {
        "Type": names.word("type", row["type"]), "Time": _ns(row["time"]), "DisplayMessage": names("text", row["message"]),
        "Details": details, "RestartReason": names.reason(row["restart_reason"]),
        "StartDelay": _ns(row["start_delay"]), "KillTimeout": _ns(row["kill_timeout"]),
        "FailedSibling": names("task", row["failed_sibling"]), "TaskSignal": names.word("signal", row["task_signal"]),
        **{wire: names("text", row[column]) for column, wire in _TEXTS.items()},
    }  # fmt: skip


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as plain values: None for what is missing, whole numbers as int."""
    plain = frame.astype(object)
    return plain.where(frame.notna(), None).to_dict("records")  # type: ignore[return-value]


def _ns(moment: Any) -> int | None:
    return None if moment is None else int(moment.value)


def _rfc3339(moment: Any) -> str | None:
    return None if moment is None else f"{moment.tz_localize(None).isoformat()}Z"
