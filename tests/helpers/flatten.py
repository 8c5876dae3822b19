"""An independent flattening of Nomad's JSON: plain loops, no code of the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

DATA = Path(__file__).parents[1] / "data"
VERSIONS = ("1.3.1", "2.0.5")


def recorded(version: str, name: str) -> list[dict[str, Any]]:
    return json.loads((DATA / f"nomad-{version}" / f"{name}.json").read_text())


def recorded_rows(version: str, name: str = "list-all") -> list[dict[str, Any]]:
    return recorded(version, name)[0]["json"]


def given(text: Any) -> Any:
    return text or None


def task_rows(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for row in rows:
        for task, state in (row["TaskStates"] or {}).items():
            events = state["Events"] or []
            found[row["ID"], task] = {
                "state": given(state["State"]),
                "failed": state["Failed"],
                "restarts": state["Restarts"],
                "started_at": state["StartedAt"],
                "finished_at": state["FinishedAt"],
                "last_restart_at": state["LastRestart"],
                "event_count": len(events),
                "events_truncated": len(events) >= 10 and events[0]["Type"] != "Received",
            }
    return found


def event_rows(rows: list[dict[str, Any]]) -> dict[tuple[str, str, int], dict[str, Any]]:
    found = {}
    for row in rows:
        for task, state in (row["TaskStates"] or {}).items():
            for seq, event in enumerate(state["Events"] or []):
                found[row["ID"], task, seq] = {
                    **_event(event),
                    "job_id": row["JobID"],
                    "node_name": row["NodeName"],
                }
    return found


def _event(event: dict[str, Any]) -> dict[str, Any]:
    details = event["Details"] or {}
    exited = event["Type"] == "Terminated"
    return {
        "time": event["Time"],
        "type": event["Type"],
        "message": given(event["DisplayMessage"]) or given(event["Message"]),
        "exit_code": int(details.get("exit_code") or event["ExitCode"]) if exited else None,
        "signal": int(details.get("signal") or event["Signal"]) if exited else None,
        "oom_killed": details["oom_killed"] == "true" if exited and "oom_killed" in details else None,
        "restart_reason": given(details.get("restart_reason")) or given(event["RestartReason"]),
        "start_delay": event["StartDelay"] if event["Type"] == "Restarting" else None,
        "kill_timeout": event["KillTimeout"] if event["Type"] == "Killing" else None,
        "driver_error": given(event["DriverError"]),
        "download_error": given(event["DownloadError"]),
        "failed_sibling": given(event["FailedSibling"]),
        "task_signal": given(event["TaskSignal"])
        or (details.get("signal") if event["Type"] == "Signaling" else None),
    }
