# ruff: noqa: SIM905 - lists of words are read more easily as text
"""What had changed, without names: the tables of a history, built anew from the columns listed here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
import pyarrow as pa

from ..snapshot.change_ledger import MOST_PATHS
from ..snapshot.history import History
from ..tables import HISTORY

Names = Callable[[str, Any], str | None]
"""Replaces a name of some kind, equal ones by equal ones."""

_FIELDS = frozenset(
    """Affinities AllAtOnce Artifacts Attempts AutoPromote AutoRevert CPU Canary Checks Config Connect
    Constraints Consul Cores Count Datacenters Delay DelayFunction Devices DispatchPayload Driver Env
    EphemeralDisk HealthCheck HealthyDeadline Interval KillSignal KillTimeout Leader Lifecycle LogConfig
    MaxClientDisconnect MaxDelay MaxFileSizeMB MaxFiles MaxParallel MemoryMB MemoryMaxMB Meta Migrate
    MinHealthyTime Mode Networks NodePool ParameterizedJob Payload Periodic PortLabel Priority
    ProgressDeadline Provider ReschedulePolicy Resources RestartPolicy Scaling Services ShutdownDelay
    SizeMB Spreads Stagger Sticky Stop StopAfterClientDisconnect Templates Timeout Type Unlimited Update
    User Vault VolumeMounts Volumes Weight""".split()
)
"""Fields of Nomad's own job specification."""

_AUTHORS = frozenset({"Config", "Env", "Meta"})
"""Fields below which the author of a job chose the names."""

_AMOUNTS = frozenset(
    """Attempts AutoPromote AutoRevert CPU Canary Cores Count Delay HealthyDeadline Interval KillTimeout
    Leader MaxDelay MaxFileSizeMB MaxFiles MaxParallel MemoryMB MemoryMaxMB MinHealthyTime Priority
    ProgressDeadline ShutdownDelay SizeMB Stagger Stop Timeout Unlimited""".split()
)
"""Fields whose values are amounts or switches, which name nothing."""

_AMOUNT = re.compile(r"-?\d{1,20}|true|false")
_DEPLOYMENT = re.compile(
    r"(Deployment (is running( but requires manual promotion| pending automatic promotion)?|is paused|"
    r"completed successfully|marked as failed)|"
    r"Cancelled (because job is stopped|due to newer version of job)|"
    r"Failed due to (unhealthy allocations|progress deadline))"
    r"( - (no stable job version to auto revert to|"
    r"(not )?rolling back to (stable )?job version \d+( as current job has same specification)?))?"
)
_NODE_MESSAGE = re.compile(
    r"Node (drain (strategy set|complete|canceled|cancelled|removed)|marked as (in)?eligible for scheduling|"
    r"heartbeat missed|reregistered by heartbeat|re-registered|registered)"
)
_OWN_WORDS = frozenset(
    """running paused successful failed cancelled canceled blocked pending unblocking initializing ready
    down disconnected eligible ineligible draining complete service batch system sysbatch core added
    removed edited Cluster Drain Driver Scheduler Storage job-register job-deregister periodic-job node-
    drain node-update alloc-stop scheduled rolling-update deployment-watcher failed-follow-up max-plan-
    attempts alloc-failure queued-allocs preemption job-scaling max-disconnect-timeout reconnect
    deregistered collected job_versions deployments node_events nodes evaluations events""".split()
) | {
    "job version", "deployment", "scale", "drain", "eligibility", "node down", "node up", "operator restart",
    "operator stop", "dispatch", "purge",
}  # fmt: skip

_NAMED = {
    "namespace": "namespace", "job_id": "job", "parent_job_id": "job", "node_id": "node_id",
    "node_name": "node", "node_class": "class", "node_pool": "pool", "datacenter": "datacenter",
    "alloc_id": "alloc_id", "deployment_id": "deployment_id", "eval_id": "eval_id",
    "previous_eval_id": "eval_id", "next_eval_id": "eval_id", "blocked_eval_id": "eval_id",
    "task_group": "group", "task": "task",
}  # fmt: skip
"""Columns and the kind of name in each."""

_WORDS = frozenset(
    "kind status eligibility last_drain_status subsystem triggered_by type job_type source".split()
)
"""Columns of Nomad's own words, or of allocframe's. Any other word is left out."""

_TEXTS = {"status_description": _DEPLOYMENT, "message": _NODE_MESSAGE}
"""Columns of sentences; those that are not Nomad's own are replaced."""

_NUMBERS = frozenset({"changed", "fields_left_out", "same_as", "auto_reverted"})
_WORDS_OF_DETAIL = frozenset({"status", "triggered_by", "how"})
"""Further facts of a change that name nothing."""

_PLAIN_KINDS = frozenset({"int", "uint", "bool", "time", "duration", "float"})


def redacted_history(history: History, names: Names) -> History:
    """Return a history with every name and value replaced, equal ones by equal ones."""
    frames = {name: _redacted(name, getattr(history, name), names) for name in HISTORY}
    changed = _paths_by_version(history.job_changes, names)
    ledger = history.changes[["detail", "namespace", "job_id", "version_after"]].astype("object")
    details = [_detail(row, changed, names) for row in ledger.to_dict("records")]
    text = frames["changes"]["detail"]
    frames["changes"]["detail"] = pd.Series(details, text.index, "object").astype(text.dtype)
    notes = ["notes on what had changed were left out, because they may hold names"] if history.notes else []
    return History(frames, notes)


def _redacted(name: str, frame: pd.DataFrame, names: Names) -> pd.DataFrame:
    table, columns = HISTORY[name], {}
    data = pa.Table.from_pandas(frame, preserve_index=False)
    for column in table.columns:
        if column.kind in _PLAIN_KINDS:
            columns[column.name] = data[column.name].cast(column.arrow)
            continue
        rule = _rule(name, column.name, names)
        values = [
            None if value is None else rule(value)
            for value in data[column.name].cast(pa.string()).to_pylist()
        ]
        columns[column.name] = pa.chunked_array([pa.array(values, pa.string()).cast(column.arrow)])
    if name == "job_changes":
        _replace_values(frame, columns, names)
    return table.frame(columns)


def _rule(table: str, column: str, names: Names) -> Callable[[str], str | None]:
    """Return what becomes of the texts of a column. Of a column that is not listed, nothing."""
    if column in _NAMED:
        return lambda text: names(_NAMED[column], text)
    if column in _WORDS:
        return lambda text: text if text in _OWN_WORDS else None
    if column in _TEXTS:
        return lambda text: text if _TEXTS[column].fullmatch(text) else names("text", text)
    if (table, column) == ("job_changes", "path"):
        return lambda text: redact_path(text, names)
    return lambda text: None


def redact_path(path: str, names: Names) -> str:
    """Return the path of a field with the names that the author of a job chose replaced.

    Examples
    --------
    >>> from allocframe.reports.redact_history import redact_path
    >>> redact_path("Services[web].Checks[up].Timeout", lambda kind, name: f"{kind}-1")
    'Services[key-1].Checks[key-1].Timeout'
    """
    words, place = [], 0
    for match in re.finditer(r"([^.\[]+)((?:\[[^\]]*\])*)(\.|\Z)", path):
        if match.start() != place:
            return str(names("field", path))
        place = match.end()
        word, keys = match[1], re.findall(r"\[([^\]]*)\]", match[2])
        known = word if word in _FIELDS else names("field", word)
        replaced = "".join(f"[{names('key', key)}]" for key in keys)
        words.append(f"{known}{replaced}")
        if word in _AUTHORS and path[place:]:
            return ".".join([*words, str(names("key", path[place:]))])
    return ".".join(words) if place == len(path) else str(names("field", path))


def _replace_values(frame: pd.DataFrame, columns: dict[str, Any], names: Names) -> None:
    """Keep amounts of Nomad's own fields, and replace every other value."""
    paths = frame["path"].astype("object").tolist()
    for name in ("old", "new"):
        values = [
            None if pd.isna(value) else value if _is_amount(path, value) else names("value", value)
            for path, value in zip(paths, frame[name].astype("object"), strict=True)
        ]
        columns[name] = pa.chunked_array([pa.array(values, pa.string()).cast(columns[name].type)])


def _is_amount(path: Any, value: str) -> bool:
    words = re.sub(r"\[[^\]]*\]", "", str(path)).split(".")
    is_nomads = _FIELDS.issuperset(words) and _AUTHORS.isdisjoint(words) and words[-1] in _AMOUNTS
    return is_nomads and _AMOUNT.fullmatch(value) is not None


def _paths_by_version(changes: pd.DataFrame, names: Names) -> dict[tuple[Any, ...], list[str]]:
    """Return the redacted fields that each version changed, as the ledger names them."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for row in changes.astype("object").to_dict("records"):
        parts = [
            None if pd.isna(row["task_group"]) else names("group", row["task_group"]),
            None if pd.isna(row["task"]) else names("task", row["task"]),
            redact_path(str(row["path"]), names),
        ]
        key = row["namespace"], row["job_id"], row["version"]
        found.setdefault(key, []).append(" ".join(part for part in parts if part))
    return found


def _detail(row: Mapping[Any, Any], changed: Mapping[tuple[Any, ...], list[str]], names: Names) -> str | None:
    """Return what may be kept of the further facts of a change."""
    if pd.isna(row["detail"]):
        return None
    known: dict[str, Any] = json.loads(row["detail"])
    kept: dict[str, Any] = {}
    for name, value in known.items():
        if name in _NAMED:
            kept[name] = names(_NAMED[name], value)
        elif (name in _NUMBERS and isinstance(value, int)) or (
            name in _WORDS_OF_DETAIL and value in _OWN_WORDS
        ):
            kept[name] = value
        elif name in ("description", "message"):
            is_own = _DEPLOYMENT.fullmatch(str(value)) or _NODE_MESSAGE.fullmatch(str(value))
            kept[name] = value if is_own else names("text", value)
        elif name == "ended_at":
            kept[name] = pd.Timestamp(value).isoformat()
        elif name == "counts":
            kept[name] = {names("group", group): _amounts(pair) for group, pair in value.items()}
    fields = changed.get((row["namespace"], row["job_id"], row["version_after"]), [])
    if known.get("fields") and fields:
        kept["fields"] = fields[:MOST_PATHS]
    return json.dumps(kept, separators=(",", ":")) if kept else None


def _amounts(pair: list[Any]) -> list[str | None]:
    return [value if isinstance(value, str) and _AMOUNT.fullmatch(value) else None for value in pair]
