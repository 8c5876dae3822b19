"""The ledger of changes as the timeline shows it: what changed, with the diff."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from ..._utils.text import visible
from ...diagnosis.incident import Incident
from ...snapshot.snapshot import Snapshot
from ...tables.run_ids import RUN_SUFFIX

_MOST_DIFF = 12


def clusters_of(snapshot: Snapshot) -> Mapping[str | None, Snapshot]:
    """Return the snapshot of each cluster by its name; None names the only one."""
    parts: dict[str | None, Snapshot] = {}
    parts.update((name, part) for name, part in snapshot.clusters.items())
    return parts or {None: snapshot}


def read_changes(
    snapshot: Snapshot, incidents: Iterable[Incident], history: Any
) -> tuple[pd.DataFrame, list[str]]:
    """Return the ledger of changes with its diffs, and what is not known about it.

    Without a history, the changes that incidents know of stand for it.
    """
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for cluster, part in clusters_of(snapshot).items():
        known = history.get(cluster) if isinstance(history, Mapping) else history
        known = known if known is not None else getattr(part, "history", None)
        if known is not None:
            rows += _ledger(known, cluster)
            continue
        of = f" of {visible(cluster)}" if cluster else ""
        notes.append(
            f"Job versions, deployments and node events{of} were not fetched: "
            "take the snapshot with history=True."
        )
        mine = [each for each in incidents if each.cluster == cluster]
        rows += [{**change, "cluster": cluster} for each in mine for change in each.changes]
    names = ["cluster", "kind", "at", "namespace", "job_id", "node_name", "alloc_id", "version_before",
             "version_after", "detail", "diff"]  # fmt: skip
    frame = pd.DataFrame(rows, columns=names)
    frame["at"] = pd.to_datetime(frame["at"], utc=True)
    undated = int(frame["at"].isna().sum())
    if undated:
        notes.append(f"{undated:,} changes have no time and are not drawn.")
    frame = frame.dropna(subset=["at"]).sort_values("at", kind="stable")
    return frame.drop_duplicates(["cluster", "kind", "at", "job_id", "node_name", "alloc_id"]), notes


def _ledger(history: Any, cluster: str | None) -> list[dict[str, Any]]:
    diffs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for field in history.job_changes.to_dict("records"):
        diffs.setdefault((field["namespace"], field["job_id"], field["version"]), []).append(field)
    return [
        {
            **row,
            "cluster": cluster,
            "diff": diffs.get((row["namespace"], row["job_id"], row["version_after"]), [])
            if row["kind"] in ("job version", "scale", "operator stop")
            else [],
        }
        for row in history.changes.to_dict("records")
    ]


def change_row(
    row: Mapping[Any, Any], number: Callable[[pd.Timestamp], Any], job_number: Mapping[str, int]
) -> dict[str, Any]:
    """Return a row of the ledger as the timeline shows it. Its job is -1 if that has no lane."""
    before = f"{row['cluster']}: " if _given(row["cluster"]) else ""
    parent = re.sub(RUN_SUFFIX, "", str(row["job_id"])) if _given(row["job_id"]) else ""
    namespace = row["namespace"] if _given(row["namespace"]) else "unknown"
    return {
        "at": number(row["at"]),
        "kind": str(row["kind"]),
        "job": job_number.get(f"{before}{namespace}/{parent}", -1),
        "title": _change_title(row, before),
        "lines": _change_lines(row),
    }


def _given(value: Any) -> bool:
    return value is not None and not (pd.api.types.is_scalar(value) and pd.isna(value))


def _change_title(row: Mapping[str, Any], before: str) -> str:
    subject = visible(
        row["job_id"] if _given(row["job_id"]) else row["node_name"] if _given(row["node_name"]) else ""
    )
    alloc = f", allocation {str(row['alloc_id'])[:8]}" if _given(row["alloc_id"]) else ""
    old, new = (
        f"{int(row[name])}" if _given(row[name]) else "" for name in ("version_before", "version_after")
    )
    versions = f" {old} → {new}" if old and new else f" {new}" if new and row["kind"] == "job version" else ""
    return f"{before}{subject}: {row['kind']}{versions}{alloc}"


def _change_lines(row: Mapping[str, Any]) -> list[str]:
    diff = row["diff"] if isinstance(row["diff"], list) else []
    lines = [_diff_line(field) for field in diff[:_MOST_DIFF]]
    if len(diff) > _MOST_DIFF:
        lines.append(f"and {len(diff) - _MOST_DIFF:,} more fields")
    detail = json.loads(row["detail"]) if _given(row["detail"]) else {}
    told = [detail.get(name) for name in ("status", "description", "message")]
    lines += [visible(text) for text in dict.fromkeys(told) if isinstance(text, str)]
    return lines


def _diff_line(field: Mapping[str, Any]) -> str:
    path = " ".join(str(field[name]) for name in ("task_group", "task", "path") if _given(field.get(name)))
    old, new = (visible(field[name]) if _given(field.get(name)) else "(none)" for name in ("old", "new"))
    return f"{visible(path)}: {old} → {new}"
