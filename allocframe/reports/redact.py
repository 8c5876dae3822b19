"""Evidence without names: different things stay different, and none of the cluster's own words is left.

A redacted snapshot is built anew from the columns listed here. What is not listed cannot get into it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ..nomad import protocol
from ..snapshot.history import put_history
from ..snapshot.snapshot import Snapshot
from ..stats import vocabulary
from ..store.capture import Capture
from ..tables.events import KNOWN_TYPES
from ..tables.run_ids import split_run_id
from .redact_history import redacted_history

_STATUSES = ("pending", "running", "complete", "failed", "lost", "unknown", "dead", "run", "stop", "evict")
_JOB_TYPES = ("service", "batch", "system", "sysbatch")
_NOMAD_WORDS = frozenset(
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
"""Nomad's own words, the same in every cluster: these stay."""

_EXHAUSTED = re.compile(re.escape(vocabulary.EXHAUSTED) + r"\d+ in interval [0-9hms.]+ and mode is \"\w+\"")
_RUN = re.compile(r"periodic-([0-9]{10})|dispatch-(?:.+-)?([0-9]{10})-[0-9a-f]{8}", re.DOTALL)
"""The name of a run, with its time in seconds since 1970; the prefix of a dispatch may be a name."""

_SLOT_INDEX = re.compile(r"\[(\d+)\]\Z")
_TEXTS = {
    "kill_reason": "KillReason", "kill_error": "KillError", "driver_error": "DriverError",
    "driver_message": "DriverMessage", "setup_error": "SetupError", "download_error": "DownloadError",
    "validation_error": "ValidationError", "vault_error": "VaultError",
    "task_signal_reason": "TaskSignalReason",
}  # fmt: skip
_DETAILS = ("exit_code", "signal", "oom_killed", "fails_task", "disk_limit")
_INFO = (
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
"""The parts of a snapshot's `info` that hold no name."""


class _Names:
    """Replacements of names: equal names of a kind get equal ones, numbered in the order of first use."""

    def __init__(self) -> None:
        self._numbers: dict[str, dict[str, int]] = {}

    def __call__(self, kind: str, name: Any) -> str | None:
        if pd.isna(name):
            return None
        parts = split_run_id(name) if kind == "job" else None
        if parts and (run := _RUN.fullmatch(parts[1])):
            # it still belongs to its job; its time is kept, as all times are
            launched, dispatched = run.groups()
            number = self._number("run", name) if dispatched else 0
            which = f"dispatch-{dispatched}-{number:08x}" if dispatched else f"periodic-{launched}"
            return f"{self(kind, parts[0])}/{which}"
        number = self._number(kind, name)
        return f"{number:08x}-0000-0000-0000-000000000000" if kind.endswith("id") else f"{kind}-{number}"

    def _number(self, kind: str, name: str) -> int:
        known = self._numbers.setdefault(kind, {})
        return known.setdefault(name, len(known) + 1)

    def word(self, kind: str, text: Any) -> str | None:
        """Keep one of Nomad's own words, and replace any other."""
        return text if text in _NOMAD_WORDS else self(kind, text)

    def reason(self, text: Any) -> str | None:
        if pd.isna(text) or _EXHAUSTED.fullmatch(text):
            return None if pd.isna(text) else str(text)
        if text.startswith(vocabulary.HEALTH_CHECK):
            return f"{vocabulary.HEALTH_CHECK}{self('check', text)}"
        return self.word("text", text)


def redacted(snapshot: Snapshot, path: Path) -> Path:
    """Save a snapshot with every name and text replaced, equal ones by equal ones; `load` opens it."""
    names = _Names()
    capture = Capture.create()
    try:
        rows = list(_rows(snapshot, names))
        capture.add(json.dumps(rows).encode(), path=protocol.LIST, params={})
        info = {name: snapshot.info[name] for name in _INFO if name in snapshot.info}
        if "recorded_since" in info:
            # a gap's reason may hold an error's text
            gaps = [{**gap, "reason": None} for gap in snapshot.info["gaps"]]
            info |= {"gaps": gaps, "tasks_incomplete": snapshot.info["tasks_truncated"]}
        capture.describe(**info, source="redacted", notes=list(_notes(snapshot)))
        if snapshot.history is not None:
            put_history(capture, redacted_history(snapshot.history, names))
        return capture.save(path)
    finally:
        capture.close()


def _notes(snapshot: Snapshot) -> Iterator[str]:
    yield "names, addresses and messages were replaced, equal ones by equal ones, so that this can be shared"
    if snapshot.info["filtered"] or snapshot.info.get("notes"):
        yield "notes of the fetch were left out, because they may hold names"
    if snapshot.info["issues"]:
        yield f"{snapshot.info['issues']:,} values of an unexpected type were left out"


def _rows(snapshot: Snapshot, names: _Names) -> Iterator[dict[str, Any]]:
    events = _by_task(_records(snapshot.events), names)
    states: dict[str, dict[str, Any]] = {}
    for row in _records(snapshot.task_states):
        task = str(names("task", row["task"]))
        states.setdefault(row["alloc_id"], {})[task] = {
            "State": names.word("state", row["state"]), "Failed": row["failed"], "Restarts": row["restarts"],
            **{wire: _rfc3339(row[column]) for wire, column in
               (("LastRestart", "last_restart_at"), ("StartedAt", "started_at"),
                ("FinishedAt", "finished_at"))},
            "Events": events.get((row["alloc_id"], row["task"]), []),
        }  # fmt: skip
    trackers: dict[str, list[dict[str, Any]]] = {}
    for row in _records(snapshot.reschedules):
        trackers.setdefault(row["alloc_id"], []).append(
            {
                "PrevAllocID": names("alloc_id", row["prev_alloc_id"]),
                "PrevNodeID": names("node_id", row["prev_node_id"]),
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
    index = _SLOT_INDEX.search(row["name"] or "")
    health = {
        "Healthy": row["deployment_healthy"], "Canary": row["canary"],
        "Timestamp": _rfc3339(row["deployment_health_at"]), "ModifyIndex": row["deployment_health_index"],
    }  # fmt: skip
    transition = {
        "Migrate": row["must_migrate"], "Reschedule": row["must_reschedule"],
        "ForceReschedule": row["forced_reschedule"],
    }  # fmt: skip
    return {
        "ID": names("alloc_id", row["alloc_id"]), "Namespace": names("namespace", row["namespace"]),
        "JobID": job, "TaskGroup": group,
        "Name": f"{job}.{group}[{index[1]}]" if index else names("name", row["name"]),
        "JobType": names.word("type", row["job_type"]), "JobVersion": row["job_version"],
        "NodeID": names("node_id", row["node_id"]), "NodeName": names("node", row["node_name"]),
        "EvalID": names("eval_id", row["eval_id"]),
        # it tells what waits to be rescheduled from what was given up
        "FollowupEvalID": names("eval_id", row["followup_eval_id"]),
        "ClientStatus": names.word("status", row["client_status"]),
        "DesiredStatus": names.word("status", row["desired_status"]),
        "ClientDescription": names("text", row["client_description"]),
        "DesiredDescription": names.word("text", row["desired_description"]),
        "PreviousAllocation": names("alloc_id", row["previous_alloc_id"]),
        "NextAllocation": names("alloc_id", row["next_alloc_id"]),
        "PreemptedByAllocation": names("alloc_id", row["preempted_by"]),
        "CreateIndex": row["create_index"], "ModifyIndex": row["modify_index"],
        "CreateTime": _ns(row["created_at"]), "ModifyTime": _ns(row["modified_at"]),
        "DeploymentStatus": health if any(value is not None for value in health.values()) else None,
        "DesiredTransition": transition,
        "PreemptedAllocations": [
            names("alloc_id", each) for each in (row["preempted_allocs"] or "").split(",") if each
        ],
    }  # fmt: skip


def _by_task(events: list[dict[str, Any]], names: _Names) -> dict[tuple[str, str], list[dict[str, Any]]]:
    by_task: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in events:
        by_task.setdefault((row["alloc_id"], row["task"]), []).append(_event(row, names))
    return by_task


def _event(row: dict[str, Any], names: _Names) -> dict[str, Any]:
    # Nomad writes details as text, booleans in lower case
    details = {name: str(row[name]).lower() for name in _DETAILS if row[name] is not None}
    return {
        "Type": names.word("type", row["type"]), "Time": _ns(row["time"]),
        "DisplayMessage": names("text", row["message"]),
        "Details": details, "RestartReason": names.reason(row["restart_reason"]),
        "StartDelay": _ns(row["start_delay"]), "KillTimeout": _ns(row["kill_timeout"]),
        "FailedSibling": names("task", row["failed_sibling"]),
        "TaskSignal": names.word("signal", row["task_signal"]),
        **{wire: names("text", row[column]) for column, wire in _TEXTS.items()},
    }  # fmt: skip


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return rows as plain values, with None for missing ones and whole numbers as int."""
    plain = frame.astype(object)
    return plain.where(frame.notna(), None).to_dict("records")  # type: ignore[return-value]


def _ns(time: Any) -> int | None:
    return None if time is None else int(time.value)


def _rfc3339(time: Any) -> str | None:
    return None if time is None else f"{time.tz_localize(None).isoformat()}Z"
