"""Incidents: findings about the same thing, and what may be said of them and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from .._utils.prose import count, number, span
from ..stats.vocabulary import LOST
from .finding import Finding

_PRIMARY = ("AF202", "AF201", "AF401", "AF301", "AF204", "AF205", "AF302", "AF501")
"""The rules that make an incident; of several about one thing, the earlier one gives the sentence."""


@dataclass
class Incident:
    """One thing that went wrong.

    Attributes
    ----------
    title : str
        What it is about, such as "checkout version 1".
    clause : str
        What happened, with its numbers; part of a sentence.
    suspect : str
        The cause as far as the evidence goes; empty where it says nothing.
    unknown : str
        What it does not say.
    findings : list of Finding
    began_at, last_at : Timestamp
        First and last sign in the evidence; NaT where the finding is about all of it.
    """

    title: str
    clause: str
    suspect: str
    unknown: str
    findings: list[Finding] = field(default_factory=list)
    began_at: Any = pd.NaT
    last_at: Any = pd.NaT

    def touches(self, rows: pd.DataFrame) -> pd.Series[Any]:
        """Return which of the disturbances are part of this: those of its job version, its node, or its cause and time."""
        first, about = self.findings[0], self.findings[0].about
        if first.code in ("AF201", "AF202", "AF401"):
            named = ("namespace", "job_id", "job_version")
            same = [rows[name].astype("str") == str(about[name]) for name in named]
            mine: pd.Series[Any] = same[0] & same[1] & same[2] & (rows["cause"] != LOST)
            return mine
        if first.code in ("AF301", "AF302"):
            on_node: pd.Series[Any] = rows["node_name"].astype("str") == str(about["node_name"])
            return on_node & (rows["cause"] == LOST) if first.code == "AF301" else on_node
        same_cause: pd.Series[Any] = rows["cause"] == str(about["cause"])
        return same_cause & rows["at"].between(self.began_at, self.last_at)


def incidents(found: Iterable[Finding], since: pd.Timestamp, until: pd.Timestamp) -> list[Incident]:
    """Group the findings that touch a window by what they are about, the most severe first."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for one in found:
        if one.code in _PRIMARY and _within(one, since, until):
            groups.setdefault(_subject(one), []).append(one)
    made = [_incident(sorted(group, key=lambda one: _PRIMARY.index(one.code))) for group in groups.values()]
    return sorted(made, key=lambda one: one.findings[0].severity != "critical")


def _subject(one: Finding) -> tuple[str, ...]:
    about = one.about
    if one.code in ("AF201", "AF202", "AF401"):
        return tuple(str(about[name]) for name in ("namespace", "job_id", "job_version"))
    if one.code == "AF501":
        return (one.code, str(one.evidence["began_at"].iloc[0]))
    return (one.code, str(about.get("node_name") or about.get("cause")))


def _within(one: Finding, since: pd.Timestamp, until: pd.Timestamp) -> bool:
    began, last = one.times
    return bool(pd.isna(began) or (began <= until and last >= since))


def _incident(group: list[Finding]) -> Incident:
    made = _TELL[group[0].code](group)
    times = [moments for one in group if not pd.isna((moments := one.times)[0])]
    made.findings = group
    if times:
        made.began_at, made.last_at = min(began for began, _ in times), max(last for _, last in times)
    return made


def _of_version(group: list[Finding]) -> Incident:
    first, about = group[0], group[0].about
    version = about["job_version"]
    name = str(about["job_id"]) if pd.isna(version) else f"{about['job_id']} version {version}"
    if about["namespace"] != "default":
        name += f" (namespace {about['namespace']})"
    clause, unknown = {"AF202": _memory, "AF201": _loop, "AF401": _worse}[first.code](first, name)
    rollout = next((one.evidence.iloc[0] for one in group if one.code == "AF401"), None)
    suspect = "" if rollout is None else _first_suspect(rollout)
    return Incident(name, clause, suspect, unknown)


def _memory(one: Finding, name: str) -> tuple[str, str]:
    hit = len(one.evidence.drop_duplicates(["alloc_id", "task"]))
    tasks, were = count(hit, "tasks"), "was" if hit == 1 else "were"
    times = count(len(one.evidence), "times")
    if one.severity != "critical":
        said = f"{tasks} of {name} {were} killed by SIGKILL, {times} in all, perhaps for memory: the driver does not say"
        return said, f"who killed {name}"
    about = str(one.about["job_id"])
    said = f"{tasks} of {name} ran out of memory and {were} killed for it, {times} in all, as the driver confirms"
    return said, f"whether {about} leaks, its limit is too low or its node was short of memory"


_DOES = {
    "failure": "exits with code {code}", "out of memory": "runs out of memory", "health check": "fails its health check",
    "completed": "ends, with success, though it should run on",
}  # fmt: skip


def _loop(one: Finding, name: str) -> tuple[str, str]:
    part = one.evidence
    code = part["exit_code"].mode()
    does = _DOES.get(str(one.about["cause"]), "crashes").format(code=code.iloc[0] if len(code) else "unknown")
    length: Any = part["median_run"].median()
    after = "" if pd.isna(length) else f", {span(length)} after each start (median)"
    going = int((~part["resolved"].astype(bool)).sum())
    state = f"{going:,} of them still looping" if going else "all of them running again"
    crashes, tasks = count(int(part["crashes"].sum()), "crashes"), count(len(part), "tasks")
    task = ", ".join(sorted(set(part["task"].astype(str))))
    said = f"task {task} of {name} {does}{after}: {crashes} of {tasks} and their replacements, {state}"
    return said, f"why {one.about['job_id']} does so"


def _worse(one: Finding, name: str) -> tuple[str, str]:
    row = one.evidence.iloc[0]
    said = f"{row['failed_tasks']:,} of {count(int(row['tasks']), 'tasks')} of {name} failed"
    return said, f"why {one.about['job_id']} fails"


def _first_suspect(row: pd.Series[Any]) -> str:
    return (
        f"{row['failed_tasks']:,} of {count(int(row['tasks']), 'tasks')} of version {row['job_version']} failed, and "
        f"{int(row['base_failed_tasks']):,} of {int(row['base_tasks']):,} of version {int(row['base_version'])}, so the change of "
        "version is the first suspect"
    )


def _lost_node(group: list[Finding]) -> Incident:
    name = str(group[0].about["node_name"])
    said = group[0].summary.removeprefix("Node ")
    return Incident(f"node {name}", f"node {said}", "", f"why node {name} was lost")


def _lemon(group: list[Finding]) -> Incident:
    row = group[0].evidence.iloc[0]
    name = str(row["node_name"])
    said = (
        f"on node {name} {row['observed']:,} of {count(int(row['tasks']), 'tasks')} failed, {number(row['ratio'])} times what its "
        "jobs make likely"
    )
    return Incident(
        f"node {name}", said, "so the node itself is the first suspect", f"what is wrong with node {name}"
    )


_STARTS = {
    "artifact": ("could not fetch their artifact", "an artifact store, or the way to it"),
    "driver": ("were refused by their driver", "a driver, an image or a registry"),
    "setup": ("could not be set up", "what they are set up with"),
    "validation": ("were invalid", "what they are checked against"),
}


def _starts(group: list[Finding]) -> Incident:
    one, cause = group[0], str(group[0].about["cause"])
    does, shared = _STARTS.get(cause, ("did not get to run", "what they need to start"))
    jobs = one.about["job_ids"]
    who = ", ".join(jobs[:3]) + (f" and {len(jobs) - 3:,} more" if len(jobs) > 3 else "")
    text = "download_error" if cause == "artifact" else "driver_error" if cause == "driver" else "message"
    words = one.evidence[text].dropna().astype(str).value_counts()
    said = f"{count(len(one.evidence), 'starts')} of tasks in {count(len(jobs), 'jobs')} ({who}) failed: they {does}"
    said += f', mostly "{words.index[0][:120]}"' if len(words) else ""
    wide = one.severity == "critical"
    suspect = f"several jobs share this, so look at what they share: {shared}" if wide else ""
    return Incident(
        f"failed starts ({cause})", said, suspect, f"what lies behind the failed starts ({cause})"
    )


_TOGETHER = {
    "template": ("a template was rendered anew and asked for it", "what changed the data of the template"),
    "vault": ("a new Vault token asked for it", "why the Vault token was renewed"),
    "operator": ("somebody asked for it", "who asked for the restarts"),
}


def _storm(group: list[Finding]) -> Incident:
    row = group[0].evidence.iloc[0]
    why, unknown = _TOGETHER.get(row["cause"], (f"cause of each: {row['cause']}", "what they have in common"))
    node = (
        f", {row['node_name_share']:.0%} of them on node {row['node_name']}"
        if row["node_name_share"] >= 0.5
        else ""
    )
    said = (
        f"{count(int(row['slots']), 'tasks')} of several jobs restarted or failed together from {row['began_at']:%Y-%m-%d %H:%M:%S} to "
        f"{row['ended_at']:%H:%M:%S} ({number(row['expected'])} expected by chance){node}"
    )
    return Incident(
        f"restart storm at {row['began_at']:%H:%M:%S} ({row['cause']})",
        said,
        f"for {row['cause_share']:.0%} of them {why}",
        unknown,
    )


_TELL: dict[str, Callable[[list[Finding]], Incident]] = {
    "AF201": _of_version, "AF202": _of_version, "AF401": _of_version, "AF301": _lost_node, "AF302": _lemon, "AF204": _starts,
    "AF205": _starts, "AF501": _storm,
}  # fmt: skip
