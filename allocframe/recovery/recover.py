"""Recover what servers still hold: `recover` and the snapshot that it makes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from .._utils.memory import without_cycle_collection
from .._utils.progress import Progress, shown
from .._utils.prose import count
from ..errors import ConfigError, DecodeError
from ..fetch.history import find_requests
from ..snapshot.history import History
from ..snapshot.snapshot import Snapshot
from ..store.capture import Capture
from ..store.page_store import PageStore
from ..store.table_store import TableStore
from .folders import copied, find_program, find_raft_folder, is_snapshot, print_state, printed_log
from .replica import Replica
from .sources import Reader

_PAGE = 8 << 20
"""Bytes of JSON that are decoded at a time."""

_NAMES = {
    "Raft log": "a Raft log",
    "state": "a printed state",
    "debug bundle": "a debug bundle",
    "event stream": "an event stream",
    "list": "lists of the API",
}

_MOST_UNKNOWN = 5
"""Commands that a note names."""


def recover(
    *paths: str | os.PathLike[str],
    nomad: str | os.PathLike[str] | None = None,
    values: bool = False,
    progress: Progress = None,
) -> Snapshot:
    """Read what Nomad's servers still hold, purged jobs and collected allocations included.

    A server keeps the last ten thousand entries of its Raft log: every update of every task, as long as the
    log reaches back. The snapshot has the same tables as one from the API, with all of these events, and a
    `history`.

    Parameters
    ----------
    *paths : path
        In any mix, recognized by their content: a server's data folder, which is copied first and read by the
        ``nomad`` program; a file of ``nomad operator snapshot save``, which it reads, too; what ``nomad
        operator raft logs``, ``raft state`` or ``snapshot state`` printed, also compressed; debug bundles.
        All from the servers of one region.
    nomad : path, optional
        The ``nomad`` program for folders and snapshots, of the servers' version or newer. Defaults to the one
        on PATH.
    values : bool
        Show values of job specifications that may be secret, instead of salted hashes.
    progress : bool or callable, optional
        Whether to show how many lines of logs are read; by default after a second, on a terminal or in a
        notebook. A function is called with the number of lines and None.

    Returns
    -------
    Snapshot
        ``info["notes"]`` says which entries and times it covers, and what could not be read.
        `task_states.events_truncated` is true for each task of which events are missing.

    Raises
    ------
    FileNotFoundError
        There is no such file or folder.
    ConfigError
        A folder has no server's files, they may not be read, or there is no nomad program.
    DecodeError
        A path is not a log, state or bundle, or nothing in it can be read.

    Examples
    --------
    >>> from pathlib import Path
    >>> entry = {"LogType": "LogCommand", "Index": 7, "CommandType": "AllocClientUpdateRequestType"}
    >>> event = {"Type": "Received", "Time": 1795659363109089009}
    >>> task = {"State": "running", "Events": [event]}
    >>> alloc = {"ID": "541c05e8-142d-d8d9-387f-9e713574e1ba", "TaskStates": {"web": task}}
    >>> import json
    >>> _ = Path("logs.ndjson").write_text(json.dumps({**entry, "Body": {"Alloc": [alloc]}}))
    >>> af.recover("logs.ndjson").events["type"].tolist()
    ['Received']
    """
    if not paths:
        raise ConfigError("recover needs a server's folder, a printed log or state, or a debug bundle")
    replica = Replica()
    with shown(progress) as show, without_cycle_collection():
        reader = Reader(replica, show)
        for path in paths:
            _read(Path(path), reader, nomad)
        if not len(replica.allocations):
            names = ", ".join(map(str, paths))
            raise DecodeError(f"{names} has no allocation")
        return _make_snapshot(replica, reader, [str(path) for path in paths], values)


def _read(path: Path, reader: Reader, nomad: str | os.PathLike[str] | None) -> None:
    """Read one path into the reader's replica."""
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if path.is_file() and path.suffix != ".db":
        if is_snapshot(path):
            state = print_state(find_program(nomad), path, "snapshot state")
            reader.read_state(state, str(path))
            return
        try:
            reader.read_file(path)
        except PermissionError:
            raise ConfigError(f"{path} may not be read. Run this as a user who may read it") from None
        return
    raft = find_raft_folder(path.parent if path.is_file() else path)
    if raft is None:
        if {"allocations.json", "eventstream.json"}.intersection(file.name for file in path.rglob("*.json")):
            reader.read_bundle_folder(path)
            return
        raise ConfigError(
            f"{path} must be the data folder of a Nomad server, with server/raft in it, or a debug bundle, "
            "and is neither"
        )
    program = find_program(nomad)
    with copied(raft) as copy:
        with printed_log(program, copy) as output:
            reader.read_program(output, str(path))
        try:
            reader.read_state(print_state(program, copy), str(path))
        except DecodeError as error:
            reader.notes.append(f"objects from before the log are missing: {error}")


def _make_snapshot(replica: Replica, reader: Reader, files: list[str], values: bool) -> Snapshot:
    """Return the snapshot of what a replica knows. It is decoded as answers of Nomad are."""
    temporary = Capture.create()
    store = PageStore(temporary)
    try:
        for page in _pages(replica):
            added = temporary.add(page, path="", params={}, source="recovered")
            store.read(added, page)
            temporary.discard(added)
        store.drop_duplicates()
        incomplete = replica.allocations.incomplete_tasks()
        capture = Capture.create()
        snapshot = Snapshot(capture, TableStore.copy_of(store, incomplete))
        issues = len(store.issues())
    finally:
        store.close()
        temporary.close()
    capture.describe(**_info(replica, reader, files, len(incomplete), issues))
    evaluations = list(replica.evaluations.values())
    allocations, events = find_requests(snapshot, evaluations)
    snapshot.history = History.from_json(
        jobs=_jobs(replica),
        deployments=_deployments(replica),
        nodes=replica.nodes.values(),
        evaluations=evaluations,
        allocations=allocations,
        events=events,
        changes=replica.changes,
        values=values,
        listed=(),
    )
    return snapshot


def _pages(replica: Replica) -> Iterator[bytes]:
    """Yield the known allocations as JSON arrays."""
    replica.link_replacements()
    rows: list[str] = []
    size = 0
    for alloc in replica.allocations:
        rows.append(alloc.to_json())
        size += len(rows[-1])
        if size >= _PAGE:
            yield f"[{','.join(rows)}]".encode("utf-8", "surrogatepass")
            rows, size = [], 0
    if rows:
        yield f"[{','.join(rows)}]".encode("utf-8", "surrogatepass")


def _jobs(replica: Replica) -> Iterator[list[dict[str, Any]]]:
    """Yield the versions of each job. Servers mark those as stable that a deployment found healthy."""
    healthy = {
        tuple(str(deployment.get(name)) for name in ("Namespace", "JobID", "JobVersion"))
        for deployment in replica.deployments.values()
        if deployment.get("Status") == "successful"
    }
    for versions in replica.jobs.versions(from_start=replica.first_index == 1):
        yield [
            {**spec, "Stable": spec.get("Stable") is True or key in healthy}
            for spec in versions
            for key in [tuple(str(spec.get(name)) for name in ("Namespace", "ID", "Version"))]
        ]


def _deployments(replica: Replica) -> Iterable[Mapping[str, Any]]:
    """Yield the known deployments with the counts of their groups, which servers take from allocations."""
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for alloc in replica.allocations:
        fields = alloc.fields
        key = str(fields.get("DeploymentID")), str(fields.get("TaskGroup"))
        status = fields.get("DeploymentStatus") or {}
        group = counts.setdefault(key, {"PlacedAllocs": 0, "HealthyAllocs": 0, "UnhealthyAllocs": 0})
        group["PlacedAllocs"] += 1
        healthy = status.get("Healthy") if isinstance(status, dict) else None
        group["HealthyAllocs"] += healthy is True
        group["UnhealthyAllocs"] += healthy is False
    for identity, deployment in replica.deployments.items():
        known = deployment.get("TaskGroups")
        groups = {
            name: {**group, **_larger(group, counts.get((identity, name), {}))}
            for name, group in (known.items() if isinstance(known, dict) else ())
            if isinstance(group, dict)
        }
        yield {**deployment, "TaskGroups": groups}


def _larger(group: Mapping[str, Any], counted: Mapping[str, int]) -> dict[str, int]:
    """Return the larger of two counts: a state may know allocations that no entry names, or the reverse."""
    return {
        name: max(number, group[name] if isinstance(group.get(name), int) else 0)
        for name, number in counted.items()
    }


def _info(replica: Replica, reader: Reader, files: list[str], incomplete: int, issues: int) -> dict[str, Any]:
    """Return the snapshot's `info`."""
    notes = [_coverage(replica, reader)]
    if incomplete:
        notes.append(f"{count(incomplete, 'tasks')} lack events: they began before, or updates are missing")
    if missing := replica.missing_entries():
        notes.append(f"{missing:,} entries between the first and the last are missing")
    unplaced = sum("JobID" not in alloc.fields for alloc in replica.allocations)
    if unplaced:
        notes.append(
            f"{count(unplaced, 'allocations')} were placed before the log begins: their jobs are not known. "
            "Add a printed state"
        )
    if replica.unknown:
        names = ", ".join(name for name, _ in replica.unknown.most_common(_MOST_UNKNOWN))
        total = sum(replica.unknown.values())
        notes.append(f"{count(total, 'entries')} left out as not understood: {names}")
    if issues:
        notes.append(f"{count(issues, 'values')} of the wrong type are missing")
    last = _isoformat(replica.last_time) or datetime.now(UTC).isoformat()
    return {
        "source": "recovered",
        "files": files,
        "started_at": last,
        "finished_at": last,
        "index_first": replica.first_index,
        "index_last": replica.last_index,
        "entries": replica.entries,
        "recovered_since": _isoformat(replica.first_time),
        "tasks_incomplete": incomplete,
        "complete": None,
        "notes": [*notes, *reader.notes],
    }


def _coverage(replica: Replica, reader: Reader) -> str:
    """Return the entries and times that are covered, in one line."""
    first, last = (_stamp(time) for time in (replica.first_time, replica.last_time))
    span = f", from {first} to {last} UTC" if first and last else ""
    kinds = [_NAMES[kind] for kind in sorted(reader.kinds)]
    if replica.first_index is not None:
        entries = f", entries {replica.first_index:,} to {replica.last_index:,}"
        kinds = [_NAMES["Raft log"] + entries, *(kind for kind in kinds if kind != _NAMES["Raft log"])]
    return f"recovered from {' and '.join(kinds)}{span}"


def _stamp(time: int | None) -> str:
    return "" if time is None else f"{pd.Timestamp(time, tz='UTC'):%Y-%m-%d %H:%M:%S}"


def _isoformat(time: int | None) -> str | None:
    return None if time is None else pd.Timestamp(time, tz="UTC").isoformat()
