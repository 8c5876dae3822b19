"""The sections of a report on a cluster: how much runs, how often it fails, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .. import plots, stats
from .._utils.prose import clock, count, number, percent, span
from .._utils.times import to_utc
from ..diagnosis.data_quality import covered_window, lower_bound_note, require_one_cluster
from ..diagnosis.diagnose import Diagnosis, diagnose
from ..diagnosis.incident import Incident
from ..diagnosis.incident_sentences import names
from ..diagnosis.quiet_sentences import is_open
from ..errors import ConfigError
from ..snapshot.snapshot import Snapshot
from ..stats.availability import parse_target
from .cluster import Trends, trends
from .document import (
    Block,
    Bullets,
    Document,
    Fold,
    Number,
    Numbers,
    Paragraph,
    Section,
    Strong,
    Table,
    Text,
)
from .impact import Instances, Job, Uptime, minutes
from .pictures import draw
from .titles import headline

_MOST_INCIDENTS = 10
_MOST_JOBS = 15
_MOST_STEPS = 7
_NO_USAGE = (
    "Use of memory and CPU was not measured, so nothing is said of reservations that are too large. "
    "Measure it with --usage, or in Python with client.usage(snap), and give its samples as usage=."
)


@dataclass(frozen=True)
class ClusterFacts:
    """What a report on a cluster is made of: facts, no sentences."""

    snapshot: Snapshot
    diagnosis: Diagnosis
    since: pd.Timestamp
    until: pd.Timestamp
    counted_since: pd.Timestamp | None
    incidents: list[Incident]
    jobs: dict[Job, tuple[int, Uptime]]
    failures: pd.Series[Any]
    changes: pd.Series[Any] | None
    trends: Trends
    slo: float
    usage: pd.DataFrame | None


def cluster_document(
    snapshot: Snapshot,
    *,
    since: pd.Timestamp | str | None = None,
    slo: float | str = "99.9%",
    usage: pd.DataFrame | None = None,
) -> Document:
    """Return the report on a cluster as a document.

    Raises
    ------
    ConfigError
        The snapshot is of several clusters, `since` is not a time, or `slo` is not an availability.
    """
    facts = gather(snapshot, since, slo, usage)
    sections = [
        Section("glance", "At a glance", list(_glance(facts))),
        Section("next", "What to do next", list(_next_steps(facts))),
        Section("incidents", "What stands out", list(_incidents(facts))),
        Section("availability", "Availability and error budgets", list(_availability(facts))),
        Section("trends", "Against the time before", list(_trends(facts))),
        Section("failures", "Failures by job", list(_failures(facts))),
        Section("deployments", "Deployments", list(_deployments(facts))),
        Section("nodes", "Nodes", list(_nodes(facts))),
        Section("rightsizing", "Rightsizing", list(_rightsizing(facts))),
        Section("evidence", "Evidence", list(_evidence(facts))),
    ]
    window = f"{clock(facts.since)} to {clock(facts.until, facts.since)} UTC"
    coverage = facts.diagnosis.data_quality.coverage[0].facts
    size = ", ".join(count(coverage[name], name) for name in ("nodes", "jobs", "allocations"))
    return Document("cluster", _title(facts), [("Window", window), ("Cluster", size)], sections)


def gather(
    snapshot: Snapshot,
    since: pd.Timestamp | str | None,
    slo: float | str,
    usage: pd.DataFrame | None,
) -> ClusterFacts:
    """Return the facts of a report on a cluster."""
    require_one_cluster(snapshot)
    try:
        target = parse_target(slo)
    except ValueError as error:
        raise ConfigError(str(error).replace("target", "slo", 1)) from None
    first, last = covered_window(snapshot)
    counted = None if since is None else to_utc(since, "since")
    start = first if counted is None else counted
    diagnosis = diagnose(snapshot, usage=usage, progress=False)
    incidents = [
        each for each in diagnosis.incidents if each.severity != "info" and each.reaches_into(start, last)
    ]
    rate = stats.change_failure_rate(snapshot, by=[])
    return ClusterFacts(
        snapshot,
        diagnosis,
        start,
        last,
        counted,
        incidents,
        Instances(snapshot).uptime_by_job(start, last),
        stats.failures(snapshot, by=[], since=since).iloc[0],
        rate.iloc[0] if len(rate) and rate["deployments"].iloc[0] else None,
        trends(snapshot, since=since),
        target,
        usage,
    )


def _title(facts: ClusterFacts) -> str:
    total = _total(facts)
    if not facts.incidents:
        return headline([], _open(facts))
    critical = sum(each.severity == "critical" for each in facts.incidents)
    what = count(len(facts.incidents), "incidents") + (f", {critical:,} critical" if critical else "")
    if total.availability is None:
        return what
    return f"{what}; services were up {percent(total.availability)} of the time"


def _open(facts: ClusterFacts) -> list[Incident]:
    """Return what has not failed and is stuck."""
    quiet = [each for each in facts.diagnosis.incidents if is_open(each) and each.severity == "info"]
    return [each for each in quiet if each.reaches_into(facts.since, facts.until)]


def _total(facts: ClusterFacts) -> Uptime:
    total = Uptime()
    for _, uptime in facts.jobs.values():
        total = total.plus(uptime)
    return total


# At a glance


def _glance(facts: ClusterFacts) -> Iterator[Block]:
    yield Numbers(list(_numbers(facts)))
    texts = [lower_bound_note(facts.snapshot)]
    if _total(facts).unknown > pd.Timedelta(0):
        texts.append(f"For {minutes(_total(facts).unknown)} instance-minutes, the events are lost.")
    yield Paragraph(" ".join(filter(None, texts)) or "No event is known to be lost.")


def _numbers(facts: ClusterFacts) -> Iterator[Number]:
    total, row = _total(facts), facts.failures
    if total.availability is not None:
        yield Number(
            percent(total.availability),
            "availability of services",
            f"{minutes(total.down)} instance-minutes lost",
        )
    spent = [job for job, used in _budgets(facts) if used > 1]
    yield Number(
        f"{len(spent):,}",
        "jobs spent their error budget",
        f"of {len(facts.jobs):,}, at {100 * facts.slo:.6g} %",
    )
    failures = int(row["count"])
    if row["exposure_hours"]:
        rate = f"{number(100 * float(row['rate_per_hour']))} in 100 task hours"
        interval = f"95 % interval {number(100 * float(row['lower']))} to {number(100 * float(row['upper']))}"
        yield Number(
            f"{failures:,}",
            "failures on record" if failures != 1 else "failure on record",
            f"{rate} ({interval})",
        )
    else:
        yield Number(f"{failures:,}", "failures on record", "no task ran")
    critical = sum(each.severity == "critical" for each in facts.incidents)
    ongoing = sum(each.state in ("ongoing", "gave up") for each in facts.incidents)
    noun = "incidents" if len(facts.incidents) != 1 else "incident"
    yield Number(f"{len(facts.incidents):,}", noun, f"{critical:,} critical, {ongoing:,} ongoing")
    if facts.changes is not None:
        row = facts.changes
        note = f"{int(row['failed']):,} of {count(int(row['deployments']), 'deployments')} failed"
        yield Number(_share(row["failed_share"]), "change failure rate", note)


def _share(value: float) -> str:
    return f"{number(100 * float(value))} %"


def _budgets(facts: ClusterFacts) -> list[tuple[Job, float]]:
    """Return which share of its error budget each job used, the worst first."""
    used = [(job, uptime.budget_used(facts.slo)) for job, (_, uptime) in facts.jobs.items()]
    known = [(job, share) for job, share in used if share is not None]
    return sorted(known, key=lambda each: -each[1])


# What to do next


def _next_steps(facts: ClusterFacts) -> Iterator[Block]:
    steps: list[Text] = list(_steps(facts))
    if not steps:
        yield Paragraph("Nothing needs to be done.")
        return
    yield Bullets(steps[:_MOST_STEPS])
    if len(steps) > _MOST_STEPS:
        yield Paragraph(f"{len(steps) - _MOST_STEPS:,} more are under What stands out.")


def _steps(facts: ClusterFacts) -> Iterator[Text]:
    for incident in facts.incidents:
        if incident.state in ("ongoing", "gave up"):
            yield (Strong("Now:"), f" {incident.title}. {_advice(incident)}")
    for incident in facts.incidents:
        if incident.state not in ("ongoing", "gave up") and incident.severity == "critical":
            yield (Strong("Soon:"), f" {incident.title}: write its postmortem.")
    lemons = stats.lemon_nodes(facts.snapshot)
    named = {incident.cause.subject.get("node_name") for incident in facts.incidents}
    for node in lemons.loc[lemons["lemon"].astype(bool), "node_name"].astype("str"):
        if node not in named:
            yield (Strong("Soon:"), f" check node {node}: it fails more than its jobs explain.")
    alone = [job for job, (instances, _) in facts.jobs.items() if instances == 1]
    if alone:
        verb = "has" if len(alone) == 1 else "have"
        yield (Strong("Later:"), f" {names(alone)} {verb} one instance. Is that meant?")


_ADVICE = {
    "job version": "Roll it back, or deploy a fix.",
    "crash": "Read its last log lines.",
    "out of memory": "Raise its memory, or find the leak.",
    "artifact": "Check the address of the artifact and its server.",
    "driver": "Check the image or the program that it names.",
    "template": "Check the template and what it reads.",
    "secrets": "Check Vault, or the identity of the job.",
    "health check": "Check what its health check asks for.",
    "volume": "Check the volume and its plugin.",
    "placement": "Make room for it, or ask for less.",
    "node": "Check the node, or drain it.",
    "common cause": "Look for what these jobs share.",
}


def _advice(incident: Incident) -> str:
    return _ADVICE.get(incident.cause.kind, "Look at its events.")


def _incidents(facts: ClusterFacts) -> Iterator[Block]:
    if not facts.incidents:
        quiet = _open(facts)
        what = "Nothing has failed, and this is open" if quiet else "Nothing stands out"
        yield Paragraph(f"{what}: there was no incident above info.")
        if quiet:
            yield Bullets([each.summary for each in quiet[:_MOST_INCIDENTS]])
        return
    shown = facts.incidents[:_MOST_INCIDENTS]
    yield Bullets([(Strong(f"{each.severity}, {each.state}:"), f" {each.summary}") for each in shown])
    if hidden := len(facts.incidents) - len(shown):
        yield Paragraph(f"{hidden:,} more are under Evidence.")


# Availability


def _availability(facts: ClusterFacts) -> Iterator[Block]:
    if not facts.jobs:
        yield Paragraph("No service or system job is in the evidence.")
        return
    yield Paragraph(
        "An instance is down while a task of it that should run does not. "
        f"A target of {100 * facts.slo:.6g} % allows the rest of this window as error budget. "
        "Batch jobs have no availability."
    )
    order = sorted(
        facts.jobs.items(), key=lambda each: (-(each[1][1].budget_used(facts.slo) or 0.0), each[0])
    )
    down = [(job, instances, uptime) for job, (instances, uptime) in order if uptime.down > pd.Timedelta(0)]
    rows: list[list[Text]] = [
        [names([job]), f"{instances:,}", percent(uptime.availability or 0.0), minutes(uptime.down),
         _budget(uptime, facts.slo)]
        for job, instances, uptime in down[:_MOST_JOBS]
    ]  # fmt: skip
    columns = ["job", "instances", "availability", "minutes lost", "error budget used"]
    hidden = len(down) - len(rows)
    if rows:
        yield Table(
            columns,
            rows,
            [False, True, True, True, True],
            f"{hidden:,} more jobs lost less" if hidden > 0 else "",
        )
    if well := len(order) - len(down):
        yield Paragraph(f"{count(well, 'jobs')} lost no time.")


def _budget(uptime: Uptime, slo: float) -> str:
    used = uptime.budget_used(slo)
    if used is None:
        return ""
    return f"{number(used)} times" if used >= 10 else f"{number(100 * used)} %"


# Trends


def _trends(facts: ClusterFacts) -> Iterator[Block]:
    found = facts.trends
    yield Paragraph(found.summary.text)
    if found.days is None:
        return
    yield draw(
        "days",
        "Failures and restarts in 100 task hours by day, with their intervals; incomplete days are grey",
        plots.daily,
        found.days,
    )
    if found.jobs is not None:
        worse = found.jobs[found.jobs["ratio"].fillna(float("inf")) > 1]
        rows = [_compared(row) for row in worse.head(_MOST_JOBS).to_dict("records")]
        columns = [
            "worst jobs",
            "failures",
            "before",
            "in 100 h",
            "before",
            "times as many",
            "more than chance",
        ]
        if rows:
            yield Table(columns, rows, [False, True, True, True, True, True, False])
        else:
            yield Paragraph("No job fails more often than before.")
    columns = ["day", "failures", "restarts", "exposure_hours", "looping", "new_loops", "nodes_lost", "lacks"]
    days = found.days[columns].assign(day=found.days["day"].dt.strftime("%a %Y-%m-%d"))
    yield Fold("Day by day", [Table.of(days, 40)])


def _compared(row: Any) -> list[Text]:
    rates = [row["rate_per_hour"], row["rate_per_hour_before"]]
    return [
        names([(row["namespace"], row["job_id"])]),
        f"{int(row['failures']):,}",
        f"{int(row['failures_before']):,}",
        *("" if pd.isna(rate) else number(100 * rate) for rate in rates),
        "" if pd.isna(row["ratio"]) or not row["failures_before"] else number(row["ratio"]),
        "yes" if row["sure"] else "no",
    ]


# Failures


def _failures(facts: ClusterFacts) -> Iterator[Block]:
    since = facts.counted_since
    ranking = stats.failure_ranking(facts.snapshot, by="job_id", since=since)
    if ranking.empty:
        yield Paragraph("No failure is on record.")
        return
    yield draw("failures", "Failures by job, the largest first", plots.pareto, ranking)
    first_event, last_event = facts.snapshot._span
    first = since if since is not None else first_event
    last = max(last_event, first)
    width = max((last - first) / 60, pd.Timedelta("1min")).ceil("1min")
    binned = stats.failures(facts.snapshot, by="job_id", bin=str(width), since=first, until=last + width)
    yield draw("failures-over-time", "Failures over time, a row for each job", plots.heatmap, binned)
    rates = stats.failures(facts.snapshot, by=["namespace", "job_id"], since=since)
    shown = rates[rates["count"] > 0].drop(columns=["window_start", "window_end"])
    note = Paragraph(
        "If the 95 % intervals of two jobs overlap widely, their order may be chance. "
        "A failed start has no running time: a job that never ran has a count and no rate."
    )
    yield Fold("Rates by job", [note, Table.of(shown, 40)])
    counters = stats.restarts(facts.snapshot, by=["namespace", "job_id"])
    counters = counters.loc[
        counters["counter"] > 0, ["namespace", "job_id", "counter", "count", "lost_to_ring", "tasks"]
    ]
    if len(counters):
        note = Paragraph(
            "counter is the nodes' own count over the life of the remaining allocations. "
            "count is what the events still show; the difference was lost."
        )
        yield Fold(
            "Restarts by job",
            [note, Table.of(counters.sort_values("counter", ascending=False, kind="stable"), 40)],
        )


def _deployments(facts: ClusterFacts) -> Iterator[Block]:
    if facts.changes is None:
        yield Paragraph("No deployment that ended is in the evidence.")
        return
    row = facts.changes
    total, failed = int(row["deployments"]), int(row["failed"])
    source = stats.deployments(facts.snapshot)
    known_from = source["known_from"].iloc[0]
    yield Paragraph(
        f"{failed:,} of {count(total, 'deployments')} failed: "
        f"a change failure rate of {_share(row['failed_share'])} "
        f"(95 % interval {_share(row['lower'])} to {_share(row['upper'])})."
    )
    if pd.notna(row["restored_median"]):
        yield Paragraph(
            f"The next version came {span(row['restored_median'])} after a failed one began (median)."
        )
    if known_from == "allocations":
        yield Paragraph("Deployments were not fetched: they are read off the allocations that are left.")
    elif facts.snapshot.info.get("recorded_since") is None:
        yield Paragraph(
            "Servers remove deployments about an hour after they end. Earlier ones need an archive."
        )
    mine = source[source["failed"].fillna(value=False).astype(bool)]
    if len(mine):
        columns = [
            "began_at",
            "namespace",
            "job_id",
            "job_version",
            "status",
            "placed",
            "healthy",
            "unhealthy",
        ]
        yield Table.of(mine[columns].sort_values("began_at", ascending=False, kind="stable"), _MOST_JOBS)


def _nodes(facts: ClusterFacts) -> Iterator[Block]:
    nodes = stats.lemon_nodes(facts.snapshot)
    failed = nodes[nodes["observed"] > 0]
    if failed.empty:
        yield Paragraph("Nothing failed on any node.")
        return
    yield draw(
        "nodes", "Nodes: observed over expected failed tasks, with the limits of chance", plots.funnel, nodes
    )
    yield Fold("Nodes with failed tasks", [Table.of(failed, _MOST_JOBS)])


def _rightsizing(facts: ClusterFacts) -> Iterator[Block]:
    ran_out = {
        job: None
        for incident in facts.diagnosis.incidents
        if incident.cause.kind == "out of memory" and incident.reaches_into(facts.since, facts.until)
        for job in incident.jobs
    }
    if ran_out:
        verb = "runs" if len(ran_out) == 1 else "run"
        yield Paragraph(f"{names(list(ran_out))} {verb} out of memory: raise the limit, or find the leak.")
    if facts.usage is None:
        yield Paragraph(_NO_USAGE)
        return
    table = stats.headroom(facts.usage)
    yield draw("memory", "Memory used, as a share of the memory reserved", plots.headroom, table)
    yield Fold("Memory and CPU by task", [Table.of(table, 40)])


def _evidence(facts: ClusterFacts) -> Iterator[Block]:
    for head, texts in facts.diagnosis.data_quality.points:
        yield Paragraph((Strong(f"{head}."),))
        yield Bullets(list(texts))
    findings = facts.diagnosis.findings.since(facts.counted_since).to_frame()
    if len(findings):
        yield Fold(f"All findings ({len(findings):,})", [Table.of(findings, 100)])
