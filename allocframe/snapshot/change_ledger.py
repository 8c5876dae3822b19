"""The ledger of changes: a row for each thing that changed, made of the other tables. Nothing is guessed."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ..tables import CHANGES, frame_of_rows
from ..tables.run_ids import split_run_id

MOST_PATHS = 40
"""Changed fields that a row names; `job_changes` has all of them."""

_NODE_CHANGES = (
    ("Node drain ", "drain"),
    ("Node marked as ", "eligibility"),
    ("Node heartbeat missed", "node down"),
    ("Node reregistered by heartbeat", "node up"),
    ("Node re-registered", "node up"),
    ("Node registered", "node up"),
)
"""How Nomad 1.3 to 2.0 begin the messages of node events that change what can run where."""

_REQUESTED = "User requested"
"""How every version begins the reason of a restart that somebody asked for."""

Row = dict[str, Any]


def make_changes(
    frames: Mapping[str, pd.DataFrame],
    *,
    allocations: pd.DataFrame | None = None,
    events: pd.DataFrame | None = None,
    more: Iterable[Row] = (),
    listed: Collection[str] | None = None,
) -> pd.DataFrame:
    """Return the `CHANGES` table.

    Parameters
    ----------
    frames : dict
        The other tables of the history.
    allocations, events : pandas.DataFrame, optional
        Those of a snapshot: they tell which allocations an operator restarted or stopped.
    more : iterable of dict
        Changes that were seen themselves, as rows of this table.
    listed : collection of str, optional
        The namespaces of which `job_versions` has every job there is, so that a job which it lacks was
        purged. By default, all.
    """
    rows = [*_version_rows(frames), *_deployment_rows(frames["deployments"]), *_node_rows(frames)]
    seen = list(more)
    # What was seen itself is known better than its evaluations tell.
    moments = {(row.get("at"), row.get("namespace"), row.get("job_id")) for row in seen}
    purged = {(row.get("namespace"), row.get("job_id")) for row in seen if row["kind"] == "purge"}
    for row in _stop_rows(frames, allocations, listed):
        job = row["namespace"], row["job_id"]
        if (row["at"], *job) not in moments and not (job in purged and "alloc_id" not in row):
            rows.append(row)
    if events is not None and allocations is not None:
        rows += _restart_rows(events, allocations)
    rows = _drop_repeated([*seen, *rows])
    # Rows without a time come last, and a deployment after the version that it rolls out.
    rows.sort(
        key=lambda row: (row.get("at") is None, row.get("at") or 0, row["kind"] == "deployment", row["kind"])
    )
    return frame_of_rows(CHANGES, rows)


def _drop_repeated(rows: Iterable[Row]) -> list[Row]:
    """Keep the first of rows that tell the same: a change may be seen twice."""
    kept: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        kept.setdefault(tuple(row.get(name) for name in CHANGES.key[:-1]), row)
    return list(kept.values())


def nanoseconds(moment: Any) -> int | None:
    """Return a time of a table as nanoseconds, None if it is missing."""
    return None if pd.isna(moment) else int(moment.value)


def _given(value: Any) -> Any:
    """Return a value of a table as a plain one, None if it is missing."""
    if value is None or pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


def records(frame: pd.DataFrame) -> Iterator[Row]:
    """Yield the rows of a table as dicts in which a missing value is None and a time is nanoseconds."""
    names = list(frame.columns)
    for values in frame.itertuples(index=False, name=None):
        row = {}
        for name, value in zip(names, values, strict=True):
            row[name] = nanoseconds(value) if isinstance(value, pd.Timestamp) else _given(value)
        yield row


def _detail(**facts: Any) -> str | None:
    known = {name: value for name, value in facts.items() if value is not None and value != []}
    return json.dumps(known, separators=(",", ":")) if known else None


def is_dispatched(job_id: str | None) -> bool:
    """Return whether a job is a run that somebody dispatched."""
    run = split_run_id(job_id)
    return run is not None and run[1].startswith("dispatch-")


def _version_rows(frames: Mapping[str, pd.DataFrame]) -> Iterator[Row]:
    changed: dict[tuple[Any, ...], list[Row]] = {}
    for change in records(frames["job_changes"]):
        # After a purge, the versions of a job begin again: the index tells them apart.
        key = change["namespace"], change["job_id"], change["version"], change["job_modify_index"]
        changed.setdefault(key, []).append(change)
    stops = {
        (row["namespace"], row["job_id"], row["job_modify_index"]): row["created_at"]
        for row in records(frames["evaluations"])
        if row["triggered_by"] == "job-deregister"
    }
    submitted: dict[tuple[Any, ...], int] = {}
    for version in records(frames["job_versions"]):
        job = version["namespace"], version["job_id"]
        fields = changed.get((*job, version["version"], version["job_modify_index"]), [])
        if version["parent_job_id"] and not is_dispatched(version["job_id"]):
            continue  # the scheduler of a periodic job submitted it, and nobody changed anything
        row = {
            "kind": _version_kind(version, fields),
            "at": version["submitted_at"],
            "namespace": version["namespace"],
            "job_id": version["job_id"],
            "version_before": fields[0]["version_before"] if fields else None,
            "version_after": version["version"],
            "source": "job_versions",
            "detail": _version_detail(version, fields),
        }
        if row["kind"] == "operator stop" and version["submitted_at"] == submitted.get(job):
            # Older servers keep the time of the previous version; the evaluation of the stop has its own.
            row["at"] = stops.get((*job, version["job_modify_index"]))
        submitted[job] = version["submitted_at"]
        yield row


def _version_kind(version: Row, fields: list[Row]) -> str:
    if version["parent_job_id"]:
        return "dispatch"
    if any(field["path"] == "Stop" and field["new"] == "true" for field in fields):
        return "operator stop"
    if fields and all(field["path"] == "Count" for field in fields):
        return "scale"
    return "job version"


def _version_detail(version: Row, fields: list[Row]) -> str | None:
    names = [
        " ".join(part for part in (field["task_group"], field["task"], field["path"]) if part)
        for field in fields
    ]
    counts = {
        str(field["task_group"]): [field["old"], field["new"]] for field in fields if field["path"] == "Count"
    }
    return _detail(
        parent_job_id=version["parent_job_id"],
        changed=version["changed_fields"],
        fields=names[:MOST_PATHS],
        fields_left_out=max(len(names) - MOST_PATHS, 0) or None,
        counts=counts or None,
        same_as=version["same_as"],
    )


def _deployment_rows(deployments: pd.DataFrame) -> Iterator[Row]:
    for row in records(deployments):
        ended = row["ended_at"]
        yield {
            "kind": "deployment",
            "at": row["started_at"],
            "namespace": row["namespace"],
            "job_id": row["job_id"],
            "version_after": row["job_version"],
            "source": "deployments",
            "detail": _detail(
                deployment_id=row["deployment_id"],
                status=row["status"],
                description=row["status_description"],
                ended_at=None if ended is None else pd.Timestamp(ended, tz="UTC").isoformat(),
                auto_reverted=row["auto_reverted"] or None,
            ),
        }


def _node_rows(frames: Mapping[str, pd.DataFrame]) -> Iterator[Row]:
    last_status: dict[str, str] = {}
    for event in sorted(records(frames["node_events"]), key=lambda row: row["time"] or 0):
        message = event["message"] or ""
        kind = next((kind for start, kind in _NODE_CHANGES if message.startswith(start)), None)
        if kind is None:
            continue
        if kind in ("node down", "node up"):
            last_status[event["node_id"]] = kind
        details = json.loads(event["details"]) if event["details"] else None
        yield {
            "kind": kind,
            "at": event["time"],
            "node_name": event["node_name"],
            "source": "node_events",
            "detail": _detail(message=message, details=details, node_id=event["node_id"]),
        }
    for node in records(frames["nodes"]):
        if node["status"] == "down" and last_status.get(node["node_id"]) != "node down":
            # Its event has fallen out of the ten that Nomad keeps.
            yield {
                "kind": "node down",
                "at": node["status_updated_at"],
                "node_name": node["node_name"],
                "source": "nodes",
                "detail": _detail(message=node["status_description"], node_id=node["node_id"]),
            }


def _stop_rows(
    frames: Mapping[str, pd.DataFrame], allocations: pd.DataFrame | None, listed: Collection[str] | None
) -> Iterator[Row]:
    """Yield the stops of allocations and jobs that evaluations tell of."""
    evaluations = frames["evaluations"]
    stops = evaluations.loc[evaluations["triggered_by"] == "alloc-stop", "eval_id"]
    placed = {} if allocations is None or stops.empty else _find_replaced(allocations, set(stops))
    jobs: dict[tuple[Any, ...], set[Any]] = {}
    for version in records(frames["job_versions"]):
        jobs.setdefault((version["namespace"], version["job_id"]), set()).add(version["job_modify_index"])
    for row in records(evaluations):
        job = row["namespace"], row["job_id"]
        known = {"at": row["created_at"], "namespace": job[0], "job_id": job[1], "source": "evaluations"}
        detail = _detail(triggered_by=row["triggered_by"], eval_id=row["eval_id"])
        if row["triggered_by"] == "alloc-stop":
            alloc_ids: Sequence[str | None] = placed.get(row["eval_id"]) or [None]
            for alloc_id in alloc_ids:
                yield {**known, "kind": "operator stop", "alloc_id": alloc_id, "detail": detail}
        elif row["triggered_by"] == "job-deregister":
            indexes = {index for index in jobs.get(job, ()) if index is not None}
            if indexes & {row["job_modify_index"], row["create_index"]}:
                continue  # that version of the job is in the ledger
            is_listed = listed is None or row["namespace"] in listed
            was_purged = (is_listed and not indexes) or (
                bool(indexes) and row["create_index"] is not None and min(indexes) > row["create_index"]
            )
            yield {**known, "kind": "purge" if was_purged else "operator stop", "detail": detail}


def _find_replaced(allocations: pd.DataFrame, evaluations: set[str]) -> dict[str, list[str]]:
    """Return the allocations that each of some evaluations replaced, as the old or the new one tells."""
    replaced: dict[str, list[str]] = {}
    new = allocations[allocations["eval_id"].isin(evaluations)]
    new = new[["alloc_id", "eval_id", "previous_alloc_id"]].astype("object")
    by_evaluation = dict(zip(new["alloc_id"], new["eval_id"], strict=True))
    old = allocations[allocations["next_alloc_id"].isin(new["alloc_id"])]
    old = old[["alloc_id", "next_alloc_id"]].astype("object")
    pairs = [(row.eval_id, row.previous_alloc_id) for row in new.itertuples()]
    pairs += [(by_evaluation.get(row.next_alloc_id), row.alloc_id) for row in old.itertuples()]
    for eval_id, alloc_id in dict.fromkeys(pairs):
        if isinstance(eval_id, str) and isinstance(alloc_id, str):
            replaced.setdefault(eval_id, []).append(alloc_id)
    return replaced


def _restart_rows(events: pd.DataFrame, allocations: pd.DataFrame) -> Iterator[Row]:
    """Yield the restarts that somebody asked for. Restarts of checks and templates have other reasons."""
    signaled = events[events["type"] == "Restart Signaled"]
    texts = pd.concat(
        [signaled[name].astype("str").str.startswith(_REQUESTED) for name in ("message", "restart_reason")],
        axis=1,
    )
    requested = signaled[texts.any(axis=1)]
    names = ["namespace", "job_id", "node_name", "job_version"]
    owners = {
        row["alloc_id"]: {name: row[name] for name in names}
        for row in records(
            allocations.loc[allocations["alloc_id"].isin(requested["alloc_id"]), ["alloc_id", *names]]
        )
    }
    for event in records(requested[["alloc_id", "task", "time"]]):
        known = owners.get(event["alloc_id"], {})
        yield {
            "namespace": known.get("namespace"),
            "job_id": known.get("job_id"),
            "node_name": known.get("node_name"),
            "version_after": known.get("job_version"),
            "kind": "operator restart",
            "at": event["time"],
            "alloc_id": event["alloc_id"],
            "source": "events",
            "detail": _detail(task=event["task"]),
        }
