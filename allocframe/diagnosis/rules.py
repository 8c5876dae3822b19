"""The rules of findings: what a colleague would point at, over the statistics of one cluster, each with its evidence."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import Any

import pandas as pd

from .. import stats
from ..snapshot.snapshot import Snapshot
from ..stats.explain import explained
from .finding import Finding, Thresholds

Rule = Callable[[Snapshot, Thresholds], Iterator[Finding]]


def _count(number: int, what: str) -> str:
    if number != 1:
        return f"{number:,} {what}"
    return f"1 {what.removesuffix('es' if what.endswith('shes') else 's')}"


def _clock(moment: pd.Timestamp) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def _named(job: object, version: object) -> str:
    return f"{job} version {version}" if version is not None and not pd.isna(version) else str(job)  # type: ignore[call-overload]


def _truncated(snapshot: Snapshot, limits: Thresholds) -> Iterator[Finding]:
    tasks = snapshot.task_states
    cut = tasks[tasks["events_truncated"]]
    if len(cut):
        summary = (
            f"Older events of {len(cut):,} of {_count(len(tasks), 'tasks')} ({len(cut) / len(tasks):.0%}) are gone: "
            "Nomad keeps ten; counts from events are lower bounds there"
        )
        yield Finding("AF101", "info", summary, evidence=cut)


def _incomplete(snapshot: Snapshot, limits: Thresholds) -> Iterator[Finding]:
    if len(snapshot) and snapshot.task_states.empty:
        yield Finding(
            "AF102",
            "warning",
            "The snapshot holds no task states: it can say nothing of restarts and failures",
        )
    if snapshot.info.get("complete") is False:
        yield Finding(
            "AF102", "warning", "The snapshot is not complete: " + "; ".join(snapshot.info.get("notes", []))
        )
    if len(snapshot.issues):
        fields = ", ".join(
            sorted(set(snapshot.issues["field"].str.replace(r"\[\d+\]", "", regex=True).astype(str)))[:3]
        )
        summary = f"{_count(len(snapshot.issues), 'values')} did not fit and are missing in the tables, such as {fields}"
        yield Finding("AF103", "warning", summary, evidence=snapshot.issues)


def _skewed(snapshot: Snapshot, limits: Thresholds) -> Iterator[Finding]:
    runs = stats.runs(snapshot)
    skewed = runs[runs["skewed"]]
    if len(skewed) >= limits.skewed_runs:
        nodes = skewed["node_name"].astype(str).nunique()
        summary = f"{_count(len(skewed), 'runs')} on {_count(nodes, 'nodes')} end before they start: clocks were set back there"
        yield Finding("AF104", "info", summary, evidence=skewed)


_KINDS = {"artifact": "AF204", "driver": "AF205", "setup": "AF205", "validation": "AF205", "hook": "AF205"}
_SAID = {
    "failure": "exits with code {code}", "out of memory": "runs out of memory", "artifact": "cannot fetch its artifact",
    "driver": "is refused by its driver", "setup": "cannot be set up", "validation": "is invalid", "hook": "fails in a hook",
    "health check": "fails its health check", "completed": "ends, with success, though it should run on",
}  # fmt: skip


def _loops(snapshot: Snapshot, limits: Thresholds) -> Iterator[Finding]:
    loops = stats.crash_loops(snapshot, min_restarts=limits.loop_restarts, window=limits.loop_window)
    if loops.empty:
        return
    keys = ["namespace", "job_id", "task_group", "task", "job_version", "cause"]
    for (namespace, job, _, task, version, cause), part in loops.groupby(keys, observed=True, dropna=False):
        if cause in _KINDS:
            continue
        code = part["exit_code"].mode()
        does = _SAID.get(str(cause), "crashes").format(code=code.iloc[0] if len(code) else "unknown")
        length: Any = part["median_run"].median()
        ran = "without ever running" if pd.isna(length) else f"after {_short(length)} (median)"
        going = int((~part["resolved"].astype(bool)).sum())
        state = f"{going} still looping" if going else "all running again"
        summary = (
            f"Task {task} of {_named(job, version)} {does} {ran}: {_count(int(part['crashes'].sum()), 'crashes')} in "
            f"{_count(len(part), 'slots')} since {_clock(part['first_at'].min())}, {state}"
        )
        about = {"namespace": namespace, "job_id": job, "job_version": version, "cause": cause}
        yield Finding("AF201", "critical" if going else "warning", summary, about, part)


def _short(length: pd.Timedelta) -> str:
    seconds = length.total_seconds()
    return (
        f"{seconds:.1f} s"
        if seconds < 60
        else f"{seconds / 60:.1f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def _memory(snapshot: Snapshot, limits: Thresholds) -> Iterator[Finding]:
    for sure, said in (
        ("confirmed", "killed for memory"),
        ("suspected", "killed by SIGKILL, perhaps for memory (the driver does not say)"),
    ):
        hit = explained(snapshot, "oom", [sure])
        for (namespace, job, version), part in hit.groupby(
            ["namespace", "job_id", "job_version"], observed=True, dropna=False
        ):
            tasks = part.drop_duplicates(["alloc_id", "task"])
            summary = (
                f"{_named(job, version)} was {said} {_count(len(part), 'times')} in {_count(len(tasks), 'tasks')}, last "
                f"at {_clock(part['time'].max())}"
            )
            about = {"namespace": namespace, "job_id": job, "job_version": version, "cause": "out of memory"}
            yield Finding("AF202", "critical" if sure == "confirmed" else "warning", summary, about, part)


def _kill_timeouts(snapshot: Snapshot, limits: Thresholds) -> Iterator[Finding]:
    hit = explained(snapshot, "exit_meaning", ["kill timeout exceeded"])
    for (namespace, job), part in hit.groupby(["namespace", "job_id"], observed=True):
        summary = (
            f"{job} did not end within its kill timeout and was killed by force {_count(len(part), 'times')}"
        )
        yield Finding("AF203", "info", summary, {"namespace": namespace, "job_id": job}, part)


def _failed_starts(snapshot: Snapshot, limits: Thresholds) -> Iterator[Finding]:
    failed = _failed_to_start(snapshot)
    for cause, part in failed.groupby("cause", observed=True):
        jobs = sorted(set(part["job_id"].astype(str)))
        wide = len(jobs) >= limits.shared_jobs
        column = (
            "download_error" if cause == "artifact" else "driver_error" if cause == "driver" else "message"
        )
        words = part[column].dropna().astype(str).value_counts()
        said = f', mostly "{words.index[0][:120]}"' if len(words) else ""
        who = ", ".join(jobs[:3]) + (f" and {len(jobs) - 3} more" if len(jobs) > 3 else "")
        summary = (
            f"{_count(len(part), 'starts')} failed ({cause}) in {_count(len(jobs), 'jobs')} ({who}) from "
            f"{_clock(part['time'].min())} to {_clock(part['time'].max())}{said}"
        )
        about = {"cause": cause, "job_ids": jobs, **({"job_id": jobs[0]} if len(jobs) == 1 else {})}
        yield Finding(
            _KINDS.get(str(cause), "AF205"), "critical" if wide else "warning", summary, about, part
        )


def _lost_nodes(snapshot: Snapshot, limits: Thresholds) -> Iterator[Finding]:
    for row in stats.blast_radius(snapshot).to_dict("records"):
        back = (
            ""
            if pd.isna(row["median_to_start"])
            else f", replacements ran after {_short(row['median_to_start'])} (median)"
        )
        missing = f", {row['unplaced']} without a replacement" if row["unplaced"] else ""
        summary = (
            f"Node {row['node_name']} was lost at {_clock(row['at'])} with {_count(row['lost'], 'allocations')} of "
            f"{_count(row['jobs'], 'jobs')}{back}{missing}"
        )
        mine = snapshot.allocations[snapshot.allocations["node_id"].astype(str) == str(row["node_id"])]
        about = {"node_id": row["node_id"], "node_name": row["node_name"]}
        yield Finding(
            "AF301",
            "critical",
            summary,
            about,
            mine[mine["client_status"].isin(stats.vocabulary.LOST_STATUSES)],
        )


def _lemons(snapshot: Snapshot, limits: Thresholds) -> Iterator[Finding]:
    nodes = stats.lemon_nodes(snapshot)
    for row in nodes[nodes["lemon"]].to_dict("records"):
        summary = (
            f"On node {row['node_name']} {_count(row['observed'], 'tasks')} of {row['tasks']:,} failed, {row['ratio']:.1f} times the "
            f"{row['expected']:.1f} that its jobs make likely (95 %: {row['lower']:.1f} to {row['upper']:.1f})"
        )
        mine = nodes[nodes["node_name"] == row["node_name"]]
        yield Finding("AF302", "warning", summary, {"node_name": row["node_name"]}, mine)


def _failed_to_start(snapshot: Snapshot) -> pd.DataFrame:
    return explained(snapshot, "type", list(stats.vocabulary.FAILED_STARTS))


def _elsewhere(snapshot: Snapshot, limits: Thresholds) -> set[str]:
    """Return the causes of failed starts that hit so many jobs that no job or version is to blame."""
    failed = _failed_to_start(snapshot)
    jobs = failed.groupby("cause", observed=True)["job_id"].nunique()
    return set(jobs[jobs >= limits.shared_jobs].index.astype(str))


def _versions(snapshot: Snapshot, limits: Thresholds) -> Iterator[Finding]:
    table = stats.rollouts(snapshot)
    worse = table[
        (table["failed_tasks"] >= limits.version_tasks) & (table["share_lower"] > table["base_share_upper"])
    ]
    shared = _elsewhere(snapshot, limits)
    for row in worse.to_dict("records"):
        if row["cause"] in shared:
            continue
        canary = " (canaries)" if row["canary"] else ""
        summary = (
            f"Of {_named(row['job_id'], row['job_version'])}{canary}, placed {_clock(row['placed_at'])}, {row['failed_tasks']:,} of "
            f"{_count(row['tasks'], 'tasks')} failed, of version {int(row['base_version'])} {int(row['base_failed_tasks']):,} of "
            f"{int(row['base_tasks']):,}"
        )
        about = {"namespace": row["namespace"], "job_id": row["job_id"], "job_version": row["job_version"]}
        yield Finding("AF401", "critical", summary, about, pd.DataFrame([row]))


def _storms(snapshot: Snapshot, limits: Thresholds) -> Iterator[Finding]:
    storms = stats.restart_storms(snapshot, window=limits.storm_window, min_slots=limits.storm_slots)
    shared = _elsewhere(snapshot, limits)
    several = storms[
        (storms["job_id_share"] < limits.storm_explained_share)
        & (storms["looping_share"] < limits.storm_explained_share)
        & ~storms["cause"].isin(list(shared))
    ]
    for row in several.to_dict("records"):
        node = (
            f", {row['node_name_share']:.0%} on node {row['node_name']}"
            if row["node_name_share"] >= 0.5
            else ""
        )
        summary = (
            f"{_count(row['slots'], 'tasks')} of several jobs restarted or failed together between {row['began_at']:%Y-%m-%d %H:%M:%S} and "
            f"{row['ended_at']:%H:%M:%S} UTC ({row['expected']:.1f} expected in {limits.storm_window}), {row['cause_share']:.0%} by cause: "
            f"{row['cause']}{node}"
        )
        yield Finding(
            "AF501",
            "warning",
            summary,
            {"cause": row["cause"], **({"node_name": row["node_name"]} if node else {})},
            pd.DataFrame([row]),
        )


def unplaced(evaluations: pd.DataFrame) -> Iterator[Finding]:
    """Yield what could not be placed, of evaluations."""
    failed = stats.placement_failures(evaluations)
    for (namespace, job, group), part in failed.groupby(["namespace", "job_id", "task_group"], observed=True):
        last = part.sort_values("created_at").iloc[-1]
        why = "; ".join(
            str(text) for text in (last["exhausted"], last["constraints"]) if isinstance(text, str)
        )
        queued = "" if pd.isna(last["queued"]) else f", {last['queued']} waiting"
        summary = f"Group {group} of {job} could not be placed in {_count(len(part), 'evaluations')}{queued}: {why or 'no node fits'}"
        yield Finding(
            "AF601", "warning", summary, {"namespace": namespace, "job_id": job, "task_group": group}, part
        )


def reserved(usage: pd.DataFrame, limits: Thresholds) -> Iterator[Finding]:
    """Yield where too little or too much is reserved, of samples of usage."""
    table = stats.headroom(usage)
    table = table[table["samples"] >= limits.usage_samples]
    tight = (table["memory_max_share"] >= limits.tight_share).fillna(False)
    idle = (
        (table["memory_max_share"] < limits.idle_share) & (table["cpu_p95_share"] < limits.idle_share)
    ).fillna(False)
    for row in table[tight].to_dict("records"):
        summary = (
            f"Task {row['task']} of {row['job_id']} used up to {row['memory_max_mib']:,.0f} of {row['memory_requested_mib']:,.0f} MiB "
            f"reserved ({row['memory_max_share']:.0%}), in {_count(row['samples'], 'samples')} of {_count(row['tasks'], 'tasks')}"
        )
        yield Finding("AF701", "warning", summary, _whose(row), pd.DataFrame([row]))
    for row in table[idle].to_dict("records"):
        summary = (
            f"Task {row['task']} of {row['job_id']} used at most {row['memory_max_mib']:,.0f} of {row['memory_requested_mib']:,.0f} MiB "
            f"reserved, and {row['cpu_p95_mhz']:,.0f} of {row['cpu_requested_mhz']:,.0f} MHz in 95 % of "
            f"{_count(row['samples'], 'samples')} of {_count(row['tasks'], 'tasks')}"
        )
        yield Finding("AF702", "info", summary, _whose(row), pd.DataFrame([row]))


def _whose(row: dict[Hashable, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("namespace", "job_id", "task_group", "task")}


RULES: tuple[Rule, ...] = (
    _truncated, _incomplete, _skewed, _loops, _memory, _kill_timeouts, _failed_starts, _lost_nodes, _lemons, _versions, _storms,
)  # fmt: skip
