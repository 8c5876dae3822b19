"""What the timeline shows, as compact columns: incidents, lanes, runs, events, changes. No widgets here."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ... import stats
from ..._utils.text import visible
from ...diagnosis.data_quality import covered_window
from ...diagnosis.diagnose import Diagnosis, diagnose
from ...diagnosis.incident import Incident
from ...snapshot.snapshot import Snapshot
from ...stats import vocabulary
from ...stats.runs import find_slots
from ...tables.run_ids import RUN_SUFFIX
from .changes import change_row, clusters_of, read_changes

KINDS = tuple(dict.fromkeys(vocabulary.CAUSE_KINDS.values()))
"""Kinds of failures, requests and losses. Code n of an event is KINDS[n - 1]; 0 is none of them."""

LEAD = 0.2
"""Part of the length of an incident that is shown before it."""

_MARGIN = 0.06
_SHORTEST = pd.Timedelta("2min")
"""Shortest incident that the window is laid out for."""

_LONG = 1 << 32
_LOST_TEXT = "its node was lost"


def timeline_columns(
    snapshot: Snapshot, diagnosis: Diagnosis | None = None, history: Any = None
) -> dict[str, Any]:
    """Return what the timeline shows, ready for `json.dumps`.

    Numbers of many rows are arrays of little-endian integers in base64. Times are units of ``unit``
    milliseconds after ``base``. Events and runs are sorted by lane and time.
    """
    diagnosis = diagnosis or diagnose(snapshot, history=history, progress=False)
    parts = [_read_part(part, name) for name, part in clusters_of(snapshot).items()]
    events, runs = (pd.concat([part[n] for part in parts], ignore_index=True) for n in (0, 1))
    changes, notes = read_changes(snapshot, diagnosis.incidents, history)
    untimed = int(events["time"].isna().sum())
    events = events.dropna(subset=["time"])
    if untimed:
        notes.append(f"{untimed:,} events have no time and are not drawn.")
    lanes, jobs = _number_lanes(events, runs)
    clock = _Clock(snapshot, [events["time"], runs["started_at"], runs["ended_at"], changes["at"]])
    allocs = pd.Index(pd.concat([events["alloc_id"], runs["alloc_id"]]).unique())
    job_number = {key: number for number, key in enumerate(jobs["key"])}
    lanes_of = _lanes_by_allocation(events, runs, lanes)
    return {
        "format": 1,
        "base": clock.base,
        "unit": clock.unit,
        "span": clock.span,
        "observed": clock.observed,
        "open": clock.window(diagnosis.incidents),
        "kinds": KINDS,
        "summary": visible(diagnosis.summary),
        "incidents": [_incident(each, clock, lanes_of) for each in diagnosis.incidents],
        "jobs": {
            "name": [visible(name) for name in jobs["name"]],
            "namespace": [visible(name) for name in jobs["namespace"]],
        },
        "lanes": {
            "name": [visible(name) for name in lanes["name"]],
            "task": lanes["task"].tolist(),
            "job": _packed(lanes["job"]),
        },
        "allocs": allocs.tolist(),
        "events": _event_columns(events, lanes, allocs, clock),
        "runs": _run_columns(runs, lanes, allocs, clock),
        "changes": [change_row(row, clock.number, job_number) for row in changes.to_dict("records")],
        "gaps": _gaps(snapshot, clock),
        "notes": notes,
    }  # fmt: skip


def _read_part(snapshot: Snapshot, cluster: str | None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the events (with losses) and runs of one cluster, each with the key of its job and its lane."""
    events = stats.explain_events(snapshot)
    runs = stats.runs(snapshot)
    names = ["time", "type", "text", "kind", "alloc_id", "task", "job_id", "namespace", "slot"]
    events = events.assign(
        text=_texts(events), kind=_kinds(events), slot=find_slots(snapshot, events, fold_runs=True)
    )
    runs = runs.assign(slot=find_slots(snapshot, runs, fold_runs=True))
    losses = _losses(snapshot, pd.concat([_plain(runs[names[4:]]), _plain(events[names[4:]])]))
    every = pd.concat([_plain(events[names]), losses[names]], ignore_index=True)
    columns = [
        "started_at",
        "ended_at",
        "end",
        "failure",
        "job_version",
        "alloc_id",
        "task",
        "job_id",
        "namespace",
        "slot",
    ]
    return _keyed(every, cluster), _keyed(_plain(runs[columns]), cluster)


def _losses(snapshot: Snapshot, tasks: pd.DataFrame) -> pd.DataFrame:
    """Return the loss of each lost allocation, as an event of its first task.

    An allocation with two tasks is lost once, as in the diagnosis; the bars of both end.
    """
    allocations = snapshot.allocations
    lost = allocations[allocations["client_status"].isin(vocabulary.LOST_STATUSES)]
    lost = lost[["alloc_id", "modified_at"]].astype({"alloc_id": "str"})
    return (
        tasks.drop_duplicates("alloc_id")
        .merge(lost, on="alloc_id")
        .rename(columns={"modified_at": "time"})
        .assign(
            type="Lost",
            text=_LOST_TEXT,
            kind=KINDS.index(vocabulary.CAUSE_KINDS[vocabulary.LOST]) + 1,
        )
    )


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    texts = [
        name
        for name in frame.columns
        if name in ("type", "text", "alloc_id", "task", "job_id", "namespace", "slot", "end")
    ]
    return frame.astype(dict.fromkeys(texts, "str"))


def _keyed(rows: pd.DataFrame, cluster: str | None) -> pd.DataFrame:
    parent = rows["job_id"].str.replace(RUN_SUFFIX, "", regex=True)
    before = f"{cluster}: " if cluster else ""
    slot = rows["slot"].str.replace(r"^[^/]*/", "", regex=True)
    namespace = rows["namespace"].fillna("unknown")  # else the jobs without one would be a single job
    return rows.assign(
        namespace=namespace,
        job_name=before + parent,
        job=before + namespace + "/" + parent,
        lane_name=slot + " " + rows["task"],
    )


def _texts(events: pd.DataFrame) -> pd.Series[Any]:
    """Return what each event says, with what its exit code means."""
    text = events["message"].astype("str").fillna("")
    meaning = events["exit_meaning"].astype("str")
    meaning = meaning.where(meaning.notna() & ~meaning.isin(["ok", "error", "unknown"]), "")
    return (text + " · " + meaning).where(text.ne("") & meaning.ne(""), text + meaning)


def _kinds(events: pd.DataFrame) -> pd.Series[Any]:
    """Return the kind of each failure and of each end on request; 0 for other events."""
    cause = events["cause"].astype("str")
    number = {cause: KINDS.index(kind) + 1 for cause, kind in vocabulary.CAUSE_KINDS.items()}
    requested = (events["type"] == "Terminated") & cause.isin(vocabulary.REQUEST_CAUSES)
    shown = events["failure"].astype(bool) | requested
    kinds = cause.map(number).fillna(number["unknown"]).astype("int64")
    return kinds.where(shown, 0)


def _number_lanes(events: pd.DataFrame, runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the lanes (a slot's task) and their jobs, numbered by job and name."""
    names = ["job", "job_name", "namespace", "lane_name", "task"]
    lanes = pd.concat([events[names], runs[names]]).drop_duplicates(["job", "lane_name"])
    order = np.lexsort((_natural(lanes["lane_name"]), lanes["job"].to_numpy(dtype=object)))
    lanes = lanes.iloc[order].reset_index(drop=True)
    jobs = lanes.drop_duplicates("job").reset_index(drop=True)
    index = pd.Index(jobs["job"])
    numbered = pd.DataFrame(
        {
            "name": lanes["lane_name"],
            "task": lanes["task"],
            "job": index.get_indexer(pd.Index(lanes["job"])),
        }
    )
    numbered.index = pd.MultiIndex.from_arrays([lanes["job"], lanes["lane_name"]])
    return numbered, jobs.rename(columns={"job": "key", "job_name": "name"})


def _natural(names: pd.Series[Any]) -> Any:
    """Return keys that sort app[2] before app[10]."""
    padded = names.str.replace(r"\d+", lambda match: match.group().zfill(9), regex=True)
    return padded.to_numpy(dtype=object)


class _Clock:
    """Turns times into small integers."""

    def __init__(self, snapshot: Snapshot, columns: Sequence[pd.Series[Any]]) -> None:
        observed = max(covered_window(part)[1] for part in clusters_of(snapshot).values())
        known = [edge for column in columns for edge in (column.min(), column.max()) if not pd.isna(edge)]
        known += [observed] if not pd.isna(observed) else []
        first = min(known, default=pd.Timestamp(0, tz="UTC"))
        last = max(known, default=first)
        length = max(int((last - first) / pd.Timedelta("1ms")), 1)
        self.base = _milliseconds(first)
        self.unit = 1
        while length // self.unit >= _LONG - 1:
            self.unit *= 10
        self.span = length // self.unit + 1
        self.observed = self.number(observed)

    def number(self, moment: pd.Timestamp | None) -> int | None:
        if moment is None or pd.isna(moment):
            return None
        return min(max((_milliseconds(moment) - self.base) // self.unit, 0), self.span)

    def numbers(self, times: pd.Series[Any], missing: int = 0) -> Any:
        """Return a column of times; `missing` stands for those that are not known."""
        stamps = pd.to_datetime(times, utc=True).dt.as_unit("ns")
        values = (stamps.astype("int64").to_numpy() // 1_000_000 - self.base) // self.unit
        return np.where(stamps.isna(), missing, np.clip(values, 0, self.span))

    def window(self, incidents: Sequence[Incident]) -> list[int]:
        """Return the window to open with: the worst incident, those with it, and what led to them."""
        spans = [
            (self.number(each.began_at), self.span if each.state == "ongoing" else self.number(each.last_at))
            for each in incidents
            if each.severity != "info"
        ]
        known = [(begin, end) for begin, end in spans if begin is not None and end is not None]
        if not known:
            return [0, self.span]
        begin, end = known[0]
        for other_begin, other_end in known[1:]:
            if other_begin <= end and other_end >= begin:
                begin, end = min(begin, other_begin), max(end, other_end)
        length = max(end - begin, int(_SHORTEST / pd.Timedelta("1ms")) // self.unit)
        leads = [LEAD * length]
        for change in (change for each in incidents if each.severity != "info" for change in each.changes):
            at = self.number(change["at"]) if change["kind"] == "job version" else None
            # a deploy just before is what people look for, unless the incident would shrink to half
            if at is not None and 0 < begin - at < length:
                leads.append(begin - at + _MARGIN * length)
        return [
            max(begin - int(max(leads)), 0),
            max(min(begin + int((1 + _MARGIN) * length), self.span), 1),
        ]


def _milliseconds(moment: pd.Timestamp) -> int:
    return int(moment.value // 1_000_000)


def _lanes_by_allocation(
    events: pd.DataFrame, runs: pd.DataFrame, lanes: pd.DataFrame
) -> dict[str, list[int]]:
    """Return the lanes on which each allocation is drawn, one for each of its tasks."""
    names = ["alloc_id", "job", "lane_name"]
    pairs = pd.concat([events[names], runs[names]]).drop_duplicates()
    found: dict[str, list[int]] = {}
    for alloc_id, lane in zip(pairs["alloc_id"], _lane_numbers(pairs, lanes).tolist(), strict=True):
        found.setdefault(alloc_id, []).append(lane)
    return found


def _incident(incident: Incident, clock: _Clock, lanes_of: Mapping[str, list[int]]) -> dict[str, Any]:
    lanes = {lane for alloc_id in incident.alloc_ids for lane in lanes_of.get(alloc_id, ())}
    return {
        "title": visible(incident.title),
        "summary": incident.summary,
        "severity": incident.severity,
        "state": incident.state,
        "cause": f"{incident.cause.text} ({incident.cause.confidence})",
        "began": clock.number(incident.began_at),
        "last": clock.number(incident.last_at),
        "lanes": _packed(sorted(lanes)),
    }


def _event_columns(
    events: pd.DataFrame, lanes: pd.DataFrame, allocs: pd.Index, clock: _Clock
) -> dict[str, Any]:
    lane, at = _lane_numbers(events, lanes), clock.numbers(events["time"])
    order = np.lexsort((at, lane))
    types, type_names = pd.factorize(events["type"])
    texts, text_names = pd.factorize(events["text"])
    return {
        "lane": _packed(lane[order]),
        "at": _packed(at[order]),
        "kind": _packed(events["kind"].to_numpy()[order], "uint8"),
        "type": _packed(types[order], "uint16"),
        "text": _packed(texts[order]),
        "alloc": _packed(allocs.get_indexer(pd.Index(events["alloc_id"]))[order]),
        "types": [visible(name) for name in type_names],
        "texts": [visible(name) for name in text_names],
    }


_ENDS = ("running", "failed", "lost", "ended", "unknown")


def _run_columns(runs: pd.DataFrame, lanes: pd.DataFrame, allocs: pd.Index, clock: _Clock) -> dict[str, Any]:
    lane = _lane_numbers(runs, lanes)
    begin, end = clock.numbers(runs["started_at"]), clock.numbers(runs["ended_at"], clock.span)
    order = np.lexsort((begin, lane))
    failed, lost = runs["failure"].to_numpy(bool), (runs["end"] == vocabulary.LOST).to_numpy()
    open_, unknown = (runs["end"] == "running").to_numpy(), (runs["end"] == "unknown").to_numpy()
    ends = np.select([open_, failed, lost, unknown], [0, 1, 2, 4], 3)
    version = runs["job_version"].astype("Int64").fillna(-1).to_numpy(dtype="int64")
    return {
        "lane": _packed(lane[order]),
        "from": _packed(begin[order]),
        "to": _packed(np.maximum(end, begin)[order]),
        "end": _packed(ends[order], "uint8"),
        "version": _packed(version[order] + 1),
        "alloc": _packed(allocs.get_indexer(pd.Index(runs["alloc_id"]))[order]),
        "ends": _ENDS,
    }


def _lane_numbers(rows: pd.DataFrame, lanes: pd.DataFrame) -> Any:
    if rows.empty:
        return np.zeros(0, dtype="int64")
    keys = pd.MultiIndex.from_arrays([rows["job"], rows["lane_name"]])
    return lanes.index.get_indexer(keys)


def _packed(values: Any, kind: str = "uint32") -> str:
    array = np.asarray(values).astype(np.dtype(kind).newbyteorder("<"))
    return base64.b64encode(array.tobytes()).decode("ascii")


def _gaps(snapshot: Snapshot, clock: _Clock) -> list[list[int | None]]:
    """Return the times that nobody watched, which the snapshot of an archive knows."""
    gaps: Iterable[Mapping[str, Any]] = snapshot.info.get("gaps", [])
    return [
        [clock.number(pd.Timestamp(gap["since"])), clock.number(pd.Timestamp(gap["until"]))] for gap in gaps
    ]
