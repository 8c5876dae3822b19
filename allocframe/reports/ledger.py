"""What changed, and what people did: rows of the change ledger and of the audit log, and their sentences."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from .._utils.prose import count, listed
from ..diagnosis.finding import plain
from ..diagnosis.incident import Incident
from ..diagnosis.incident_sentences import names
from ..snapshot.history import History
from ..snapshot.snapshot import Snapshot
from ..stats._source import are_among, pandas_table
from ..stats.explain import select_explained_events

_BY_PEOPLE = ("job version", "scale", "drain", "eligibility", "operator restart", "operator stop", "purge")
_CLOCKS = pd.Timedelta("10s")
"""Clocks of servers and nodes differ by so much at least."""

_LONGEST = 90
"""Characters of Nomad's own words in a sentence."""


@dataclass(frozen=True)
class Change:
    """One thing that changed: when, what, to whom, and whether somebody did it."""

    at: pd.Timestamp
    kind: str
    text: str
    jobs: tuple[tuple[str, str], ...] = ()
    node: str | None = None
    by_people: bool = False
    version: int | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    def touches(self, incident: Incident) -> bool:
        """Return whether it is about a job of an incident or, if it is about no job, a node of it."""
        if self.jobs:
            return bool(set(self.jobs) & set(incident.jobs))
        return self.node is not None and self.node in incident.nodes


def _restart_requests(snapshot: Snapshot) -> pd.DataFrame:
    """Return the events that the change ledger reads; all events of a large cluster take gigabytes."""
    return select_explained_events(snapshot, "type", ["Restart Signaled"])


def changes_of(snapshot: Snapshot, audit: pd.DataFrame | None) -> list[Change]:
    """Return everything that is known to have changed, in order of time."""
    history = snapshot.history
    if history is None:
        allocations = pandas_table(
            snapshot, "allocations", "alloc_id", "namespace", "job_id", "job_version", "node_name"
        )
        known = History.from_json(allocations=allocations, events=_restart_requests(snapshot))
        found = [*_rows(known.changes), *_placements(snapshot)]
    else:
        found = _rows(history.changes)
        found += list(_deployment_ends(history.deployments))
    found = _mark_rollbacks(found)
    if audit is not None:
        acts = list(_actions(snapshot, audit))
        found = [*(each for each in found if not _is_in(each, acts)), *acts]
    return sorted(_gather(found), key=lambda change: change.at)


def _mark_rollbacks(changes: list[Change]) -> list[Change]:
    """Say of versions that Nomad itself submitted, to roll back a failed deployment, that nobody did it."""
    reverts = [each for each in changes if each.detail.get("auto_reverted")]
    return [
        replace(each, by_people=False, text=f"{each.text.removesuffix('.')} (automatic rollback).")
        if each.detail.get("same_as") is not None
        and any(end.jobs == each.jobs and abs(each.at - end.at) <= _CLOCKS for end in reverts)
        else each
        for each in changes
    ]


def _is_in(change: Change, actions: list[Change]) -> bool:
    """Return whether the audit log has a change, too: it knows who did it."""
    return change.kind in ("operator restart", "operator stop") and any(
        act.detail["alloc_id"] == change.detail.get("alloc_id")
        and abs(act.at - change.at) <= pd.Timedelta("1min")
        for act in actions
    )


def first_human_action(
    incident: Incident, changes: list[Change], recovered_at: pd.Timestamp | None
) -> Change | None:
    """Return the first thing that somebody did about an incident before it was over, if it was seen."""
    if incident.began_at is None:
        return None
    begin = incident.began_at + _CLOCKS
    # clocks of servers and nodes differ: what ended it may seem to come just after
    end = None if recovered_at is None else recovered_at + _CLOCKS
    acts = (
        each
        for each in changes
        if each.by_people and each.at >= begin and (end is None or each.at <= end) and each.touches(incident)
    )
    return next(acts, None)


def _rows(ledger: pd.DataFrame) -> list[Change]:
    # a table of nanoseconds becomes plain values once, not cell by cell
    found = []
    for row in ledger.dropna(subset=["at"]).to_dict("records"):
        values = {str(name): plain(value) for name, value in row.items()}
        kind, job = str(values["kind"]), values["job_id"]
        if kind in ("deployment", "dispatch"):
            continue  # a deployment is reported when it ends; runs are not changes
        detail = json.loads(values["detail"]) if values.get("detail") else {}
        jobs = ((str(values["namespace"]), str(job)),) if job is not None else ()
        version = values["version_after"]
        found.append(
            Change(
                values["at"],
                kind,
                _sentence(kind, values, detail, names(list(jobs))),
                jobs,
                values["node_name"],
                _is_by_people(kind, version, detail),
                None if version is None else int(version),
                {**detail, "alloc_id": values.get("alloc_id")},
            )
        )
    return found


def _is_by_people(kind: str, version: int | None, detail: dict[str, Any]) -> bool:
    return kind in _BY_PEOPLE and not (kind == "job version" and version == 0 and "same_as" not in detail)


def _sentence(kind: str, row: dict[str, Any], detail: dict[str, Any], who: str) -> str:
    version, node = row["version_after"], row["node_name"]
    if kind == "job version":
        if detail.get("same_as") is not None:
            return f"{who} version {version} was submitted; it equals version {detail['same_as']}."
        fields = [str(each).rpartition(" ")[2] for each in detail.get("fields", [])]
        changed = f"; it changes {listed(fields, 3)}" if fields else ""
        return f"{who} version {version} was submitted{changed}."
    if kind == "scale":
        counts = [f"{group} from {old} to {new}" for group, (old, new) in detail.get("counts", {}).items()]
        return f"{who} was scaled{': ' if counts else ''}{listed(counts, 3)}."
    if kind == "operator restart":
        return f"Somebody restarted an allocation of {who}."
    if kind == "operator stop":
        what = "an allocation of " if row.get("alloc_id") else ""
        return f"Somebody stopped {what}{who}."
    if kind == "purge":
        return f"{who} was purged."
    message = str(detail.get("message") or kind)[:_LONGEST]
    return f"{node}: {message[0].lower()}{message[1:]}."


def _gather(changes: list[Change]) -> list[Change]:
    """Put restarts and stops of many allocations, and of one minute, into one."""
    kept: list[Change] = []
    many: dict[tuple[Any, ...], list[Change]] = {}
    for change in changes:
        if change.kind in ("operator restart", "operator stop") and change.detail.get("alloc_id"):
            many.setdefault((change.kind, change.jobs, change.at.floor("1min")), []).append(change)
        else:
            kept.append(change)
    for (kind, jobs, _), group in many.items():
        first = min(group, key=lambda change: change.at)
        allocs = len({change.detail["alloc_id"] for change in group})
        if allocs > 1:
            verb = "restarted" if kind == "operator restart" else "stopped"
            text = f"Somebody {verb} {count(allocs, 'allocations')} of {names(list(jobs))}."
            first = Change(first.at, kind, text, jobs, first.node, True, None, first.detail)
        kept.append(first)
    return kept


def _placements(snapshot: Snapshot) -> list[Change]:
    """Return the first placements of later versions: all that allocations tell of submitted versions."""
    columns = ("namespace", "job_id", "job_version", "created_at")
    rows = pandas_table(snapshot, "allocations", *columns).dropna()
    first = rows.groupby(["namespace", "job_id", "job_version"], observed=True)["created_at"].min()
    placed = first.sort_values(kind="stable").reset_index()
    later = placed.duplicated(["namespace", "job_id"])
    return [
        Change(
            row["created_at"],
            "job version",
            f"{names([(row['namespace'], row['job_id'])])} version {row['job_version']} was first placed.",
            ((str(row["namespace"]), str(row["job_id"])),),
            by_people=True,
            version=int(row["job_version"]),
        )
        for row in placed[later].to_dict("records")
    ]


def _deployment_ends(deployments: pd.DataFrame) -> list[Change]:
    found = []
    for row in deployments.dropna(subset=["ended_at"]).to_dict("records"):
        job = (str(row["namespace"]), str(row["job_id"]))
        who = f"The deployment of {names([job])} version {row['job_version']}"
        status, reverted = plain(row["status"]), bool(plain(row["auto_reverted"]))
        words = {"successful": "was successful", "failed": "failed", "cancelled": "was cancelled"}
        ended = words.get(str(status), f"ended as {status}")
        back = ", and Nomad rolled the job back" if reverted else ""
        found.append(
            Change(
                row["ended_at"], "deployment", f"{who} {ended}{back}.", (job,),
                version=int(row["job_version"]), detail={"status": status, "auto_reverted": reverted},
            )
        )  # fmt: skip
    return found


def _actions(snapshot: Snapshot, audit: pd.DataFrame) -> list[Change]:
    """Return the actions of the audit log on allocations of the evidence."""
    mine = audit[are_among(audit["alloc_id"], pandas_table(snapshot, "allocations", "alloc_id")["alloc_id"])]
    mine = mine[mine["result"].isin(["done", "unknown"])].dropna(subset=["asked_at"])
    verbs = {"stop": "stopped", "restart": "restarted", "signal": "signalled", "exec": "ran a command in"}
    found = []
    for row in mine.to_dict("records"):
        job = (str(row["namespace"]), str(row["job_id"]))
        done = verbs.get(str(row["action"]), f"asked for {row['action']} of")
        who = plain(row["user"]) or "Somebody"
        sure = "" if row["result"] == "done" else " (whether it worked is not known)"
        found.append(
            Change(
                row["asked_at"], "audit log",
                f"{who} {done} an allocation of {names([job])}{sure}.", (job,), by_people=True,
                detail={"alloc_id": row["alloc_id"]},
            )
        )  # fmt: skip
    return found
