"""The twelve sections of a postmortem, from its facts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from .._utils.prose import clock, count, number, percent, span
from ..diagnosis.data_quality import lower_bound_note, unwatched_note
from ..diagnosis.incident import Incident
from ..diagnosis.incident_sentences import names
from ..diagnosis.quiet_sentences import is_open
from ..diagnosis.verdict_sentences import unexplained
from .document import (
    Block,
    Bullets,
    Document,
    Fold,
    Number,
    Numbers,
    Paragraph,
    Part,
    People,
    Ref,
    Section,
    Strong,
    Table,
    Text,
)
from .impact import JobImpact, Uptime, minutes
from .log_excerpts import LogLines
from .postmortem import NO_INCIDENTS, Facts
from .postmortem_causes import (
    describe_causes,
    describe_evidence,
    describe_factors,
    describe_luck,
    similar_section,
)
from .timeline_lines import MOST_OTHERS
from .titles import headline, short_title

_MOST_IN_GLANCE = 8
_MOST_CHANGES = 6
_MOST_JOBS = 15
_MOST_MILESTONES = 20
_MOST_FIELDS = 12


def make_document(facts: Facts, lines: pd.DataFrame, logs: LogLines) -> Document:
    """Return the postmortem as a document."""
    sections = [
        Section("draft", "", [_people("author")]),
        Section("glance", "At a glance", list(_glance(facts))),
        Section("impact", "Impact", list(_impact(facts))),
        Section("changes", "What changed", list(_changes(facts))),
        Section("timeline", "Timeline", list(_timeline(facts, lines))),
        Section("milestones", "Milestones", list(_milestones(facts))),
        Section("causes", "Causes", list(describe_causes(facts))),
        Section("factors", "Contributing factors", list(describe_factors(facts))),
        Section("luck", "Where we were lucky", list(describe_luck(facts))),
        similar_section(facts),
        Section("people", "For people to write", [_people(key) for key in _PEOPLE if key != "author"]),
        Section("evidence", "Evidence", list(describe_evidence(facts, logs))),
    ]
    return Document("postmortem", headline(facts.incidents, facts.minor), _header(facts), sections)


_PEOPLE = {
    "author": ("Author and status", "Draft. Author: ... Reviewed by: ..."),
    "detection": ("Detection", "Who or what noticed first, when, and what would have noticed earlier?"),
    "response": ("Response", "Who did what, what helped, and what was in the way?"),
    "lessons": ("Lessons", "What went well, what went badly, and what was not known before?"),
    "actions": ("Action items", "What, who, until when: one line each."),
}


def _people(key: str) -> People:
    return People(key, *_PEOPLE[key])


def _header(facts: Facts) -> list[tuple[str, str]]:
    window = f"{clock(facts.since)} to {clock(facts.until, facts.since)} UTC"
    return [
        ("Severity", facts.incidents[0].severity if facts.incidents else "none"),
        ("State", _state(facts)),
        ("Window", window),
        ("Cluster", _cluster(facts)),
    ]


def _cluster(facts: Facts) -> str:
    region = facts.snapshot.info.get("region")
    quality = facts.diagnosis.data_quality.coverage[0].facts
    size = f"{count(quality['nodes'], 'nodes')}, {count(quality['allocations'], 'allocations')}"
    return f"{region}: {size}" if region else size


def _state(facts: Facts) -> str:
    states = [incident.state for incident in facts.incidents]
    if not states:
        return "no incident"
    ongoing = sum(state in ("ongoing", "gave up") for state in states)
    if not ongoing:
        return "over"
    return "ongoing" if ongoing == len(states) else f"{ongoing:,} of {len(states):,} incidents ongoing"


# At a glance


def _glance(facts: Facts) -> Iterator[Block]:
    if not facts.incidents:
        yield from _calm(facts)
        return
    yield Numbers(list(_numbers(facts)))
    shown = facts.incidents[:_MOST_IN_GLANCE]
    yield Bullets([_line(incident, number) for number, incident in enumerate(shown)])
    if hidden := len(facts.incidents) - len(shown):
        yield Paragraph((f"{count(hidden, 'more incidents')} are under ", Ref("Causes", "causes"), "."))
    notes = [unwatched_note(facts.snapshot, facts.since, facts.until), lower_bound_note(facts.snapshot)]
    if any(notes):
        yield Paragraph(" ".join(filter(None, notes)))


def _calm(facts: Facts) -> Iterator[Block]:
    is_quiet = any(is_open(each) for each in facts.minor)
    what = "Nothing has failed, and something is open" if is_quiet else "Nothing stands out"
    text = f"{what} from {clock(facts.since)} to {clock(facts.until, facts.since)} UTC."
    yield Paragraph(f"{text} There was {NO_INCIDENTS}.")
    account = facts.diagnosis.account
    if account.unexplained:
        yield Paragraph(unexplained(account.unexplained))
    if facts.minor:
        yield Paragraph("Notes:" if is_quiet else "Minor incidents:")
        first = sorted(facts.minor, key=lambda each: not is_open(each))
        yield Bullets([each.summary for each in first[:_MOST_IN_GLANCE]])
    notes = [unwatched_note(facts.snapshot, facts.since, facts.until), lower_bound_note(facts.snapshot)]
    yield Paragraph(" ".join(filter(None, notes)) or "No event is known to be lost.")


def _numbers(facts: Facts) -> Iterator[Number]:
    incidents, jobs = facts.incidents, facts.jobs
    earlier = any(each.began_before for each in incidents)
    began = f"since {clock(facts.begin, facts.until)} UTC{' or earlier' if earlier else ''}"
    ended = f"{clock(facts.begin, facts.until)} to {clock(facts.end, facts.begin)} UTC"
    yield Number(
        span(facts.end - facts.begin), "duration", f"{began}; ongoing" if facts.is_ongoing else ended
    )
    all_jobs = len(facts.instances.families)
    if jobs:
        yield Number(
            f"{len(jobs):,}", "jobs hit" if len(jobs) > 1 else "job hit", f"of {all_jobs:,} in the evidence"
        )
        hit = sum(each.hit for each in jobs)
        of = sum(each.instances for each in jobs)
        noun = "runs hit" if all(each.has_runs for each in jobs) else "instances hit"
        yield Number(f"{hit:,}", noun, f"of {of:,} that these jobs should run")
    total = _total([each.during for each in jobs])
    if total.availability is not None:
        least = "at least " if total.unknown > pd.Timedelta(0) else ""
        yield Number(
            f"{least}{minutes(total.down)}", "instance-minutes lost", f"of {minutes(total.wanted)} wanted"
        )
        compared = f"before: {_before(_total([each.before for each in jobs]), total)}"
        yield Number(percent(total.availability), "availability of the jobs hit", compared)
    bad = sum(_bad_now(each) for each in incidents)
    unknown = [each for each in incidents if each.state == "ongoing" and not _bad_now(each)]
    when = f"at {clock(facts.until, facts.begin)} UTC"
    if bad or not unknown:
        yield Number(f"{bad:,}", "instances not running well now", when)


def _before(before: Uptime | None, during: Uptime) -> str:
    """Return the availability of the time before, if enough of it is known."""
    if before is None or before.availability is None or not before.is_enough_before(during):
        return "not known"
    return percent(before.availability)


def _bad_now(incident: Incident) -> int:
    if incident.state not in ("ongoing", "gave up"):
        return 0
    facts = incident.facts
    if facts.get("runs"):
        return 0  # runs that failed are over
    if "lost" in facts:
        return int(facts["lost"]) - int(facts["running_again"])
    names = ("instances_bad", "waiting", "blocked", "unhealthy")
    return next((int(facts[name]) for name in names if facts.get(name)), 0)


def _total(times: list[Uptime | None]) -> Uptime:
    total = Uptime()
    for each in times:
        total = total.plus(each) if each is not None else total
    return total


def _line(incident: Incident, number: int) -> Text:
    cause = incident.cause
    why = ""
    if cause.kind in ("job version", "node", "common cause") and cause.mechanism not in ("lost", "restart"):
        why = f" Cause ({cause.confidence}): {cause.text}."
    elif cause.confidence in ("possible", "unknown"):
        why = (
            " Cause: not known." if cause.kind == "unknown" else f" Cause ({cause.confidence}): {cause.text}."
        )
    anchor = Ref(f"{number + 1}", f"incident-{number + 1}")
    return (anchor, ". ", Strong(f"{incident.severity}, {incident.state}:"), f" {incident.summary}{why}")


# Impact


def _impact(facts: Facts) -> Iterator[Block]:
    if not facts.jobs:
        yield Paragraph("No job was hit.")
        return
    period = f"from {clock(facts.begin)} to {clock(facts.end, facts.begin)} UTC"
    yield Paragraph(
        f"Counted {period}, from the first sign of the incidents to their end. "
        "An instance is down while a task of it that should run does not."
    )
    columns = ["job", "instances hit", "of", "minutes lost", "availability", "before"]
    if facts.slo is not None:
        columns.append("30-day budget used")
    length = facts.end - facts.begin
    rows = [_impact_row(each, facts.slo, length) for each in facts.jobs]
    numeric = [False] + [True] * (len(columns) - 1)
    yield Table(columns, rows[:_MOST_JOBS], numeric)
    if len(rows) > _MOST_JOBS:
        more = Table(columns, rows[_MOST_JOBS:], numeric)
        yield Fold(f"{count(len(rows) - _MOST_JOBS, 'more jobs')}", [more])
    notes = []
    if facts.slo is not None:
        used = _total([each.during for each in facts.jobs]).budget_used(facts.slo, length)
        if used is not None:
            notes.append(
                f"Together these jobs used {_budget(used)} of their error budget of 30 days "
                f"at a target of {_target(facts.slo)}."
            )
    if any(each.has_runs for each in facts.jobs):
        notes.append("Runs count as instances of their periodic or parameterized job.")
    if any(each.during is None for each in facts.jobs):
        notes.append("Batch jobs have no availability.")
    unknown = _total([each.during for each in facts.jobs]).unknown
    if unknown > pd.Timedelta(0):
        notes.append(f"For {minutes(unknown)} further instance-minutes, the events are lost.")
    twice = _hit_twice(facts)
    if twice:
        notes.append(f"{count(twice, 'instances')} were hit by more than one incident.")
    if notes:
        yield Paragraph(" ".join(notes))


def _impact_row(each: JobImpact, slo: float | None, length: pd.Timedelta) -> list[Text]:
    row: list[Text] = [names([each.job]), f"{each.hit:,}", f"{each.instances:,}"]
    during, before = each.during, each.before
    share = None if during is None else during.availability
    row.append("" if during is None else minutes(during.down))
    row.append("" if share is None else percent(share))
    row.append("" if during is None else _before(before, during))
    if slo is not None:
        used = during.budget_used(slo, length) if during is not None else None
        row.append("" if used is None else _budget(used))
    return row


def _target(slo: float) -> str:
    return f"{100 * slo:.6g} %"


def _budget(used: float) -> str:
    if 0 < used < 0.0001:
        return "under 0.01 %"
    return f"{100 * used:,.0f} %" if used >= 1 else f"{number(100 * used)} %"


def _hit_twice(facts: Facts) -> int:
    seen: dict[int, int] = {}
    for incident in facts.incidents:
        for instance in facts.instances.of(incident):
            seen[instance] = seen.get(instance, 0) + 1
    return sum(times > 1 for times in seen.values())


# What changed


def _changes(facts: Facts) -> Iterator[Block]:
    if not facts.versions_known:
        yield Paragraph(
            "Job versions were not fetched. What changed is known only from allocations: "
            "when a version was first placed, without its diff."
        )
    nothing: list[Incident] = []
    for index, incident in enumerate(facts.incidents):
        # a deployment begins with its version; how it ended is in the timeline
        rows = [each for each in incident.changes if each["kind"] not in ("deployment", "dispatch")]
        if "lost" in incident.facts:
            # a node is not lost because somebody changed a job on it, and its loss is not a change before it
            rows = [each for each in rows if not each.get("job_id") and each["kind"] != "node down"]
        if not rows:
            nothing.append(incident)
            continue
        blocks = [block for row in rows[:_MOST_CHANGES] for block in _change(row)]
        if len(rows) > _MOST_CHANGES:
            blocks.append(Paragraph(f"{len(rows) - _MOST_CHANGES} more are under Evidence."))
        yield Part(f"Before {index + 1}. {incident.title}", blocks)
    if not facts.incidents:
        yield Paragraph("There is no incident that a change could have begun.")
    elif len(nothing) == len(facts.incidents):
        yield Paragraph("Nothing changed in the evidence in the 30 minutes before the incidents.")
    elif nothing:
        which = f"{len(nothing):,} of the {len(facts.incidents):,} incidents"
        yield Paragraph(f"Nothing changed in the evidence in the 30 minutes before {which}.")
    if facts.snapshot.history is not None and facts.snapshot.history.notes:
        yield Bullets([f"{note[0].upper()}{note[1:]}." for note in facts.snapshot.history.notes[:5]])


def _change(row: dict[str, Any]) -> Iterator[Block]:
    who = names([(row["namespace"], row["job_id"])]) if row.get("job_id") else row.get("node_name")
    what = {
        "job version": f"{who} version {row['version_after']} was "
        f"{'first placed' if row['source'] == 'allocations' else 'submitted'}",
        "deployment": f"the deployment of {who} version {row['version_after']} began",
        "scale": f"{who} was scaled",
        "operator restart": f"somebody restarted an allocation of {who}",
        "operator stop": f"somebody stopped {who} or an allocation of it",
    }.get(row["kind"], f"{who}: {row['kind']}")
    before = row["before"]
    bound = "at most " if row.get("at_most") else ""
    when = f", {bound}{span(before)} before" if before > pd.Timedelta(0) else ""
    when = ", as it ended" if row.get("at_recovery") else when
    yield Paragraph(f"{row['at']:%H:%M:%S} UTC{when}: {what}.")
    diff = row.get("diff") or []
    if diff:
        cells: list[list[Text]] = [
            [" / ".join(filter(None, (each.get("task_group"), each.get("task")))), str(each["path"]),
             _value(each.get("old")), _value(each.get("new"))]
            for each in diff[:_MOST_FIELDS]
        ]  # fmt: skip
        more = len(diff) - _MOST_FIELDS
        yield Table(
            ["where", "field", "before", "after"],
            cells,
            [],
            f"{more:,} more fields changed" if more > 0 else "",
        )


def _value(value: object) -> str:
    return "" if value is None else str(value)


# Timeline and milestones


def _timeline(facts: Facts, lines: pd.DataFrame) -> Iterator[Block]:
    shown, others = lines[lines["shown"]], lines[~lines["shown"]]
    if shown.empty:
        yield Paragraph("Nothing in this window is worth a line.")
    else:
        day = shown["at"].iloc[0]
        rows: list[list[Text]] = [
            [_moment(row["at"], day), row["text"], _linked(row["anchor"])] for row in shown.to_dict("records")
        ]
        head = "time (UTC)" if _one_day(shown["at"]) else f"time (UTC), from {day:%Y-%m-%d}"
        yield Table([head, "what", "incident"], rows)
    if len(others):
        rows = [
            [_moment(at, facts.since), text, key]
            for at, text, key in others[["at", "text", "key"]].itertuples(index=False)
        ]
        hidden = len(rows) - MOST_OTHERS
        note = f"{hidden:,} more lines are not shown" if hidden > 0 else ""
        table = Table(["time (UTC)", "what", "key"], rows[:MOST_OTHERS], [], note)
        keys = Paragraph("To move a line up, write the report again with --star and its key.")
        yield Fold(f"{count(len(others), 'more lines')}", [keys, table])


def _one_day(times: pd.Series[Any]) -> bool:
    return bool(times.min().date() == times.max().date())


def _moment(time: pd.Timestamp, day: pd.Timestamp) -> str:
    return f"{time:%H:%M:%S}" if time.date() == day.date() else f"{time:%Y-%m-%d %H:%M:%S}"


def _linked(anchor: str) -> Text:
    return (Ref(anchor.removeprefix("incident-"), anchor),) if anchor else ""


def _milestones(facts: Facts) -> Iterator[Block]:
    if not facts.incidents:
        yield Paragraph("There is no incident.")
        return
    shown = list(zip(facts.incidents, facts.human, facts.courses, strict=True))[:_MOST_MILESTONES]
    rows: list[list[Text]] = []
    for incident, human, course in shown:
        goes_on = incident.state in ("ongoing", "gave up")
        lasted = ""
        if incident.began_at is not None and course.recovered_at is not None:
            lasted = span(course.recovered_at - incident.began_at)
        earlier = " or earlier" if incident.began_before else ""
        rows.append(
            [
                f"{len(rows) + 1}. {short_title(incident)}",
                _time(incident.began_at, facts, "unknown") + earlier,
                "not seen" if human is None else _time(human.at, facts, ""),
                _time(course.mitigated_at, facts, "not yet" if _is_mostly_down(incident) else "unknown"),
                _time(course.recovered_at, facts, "not yet" if goes_on else "unknown"),
                lasted,
            ]
        )
    columns = ["incident", "began", "first human action", "mitigated", "recovered", "began to recovered"]
    hidden = len(facts.incidents) - len(rows)
    yield Table(columns, rows, [], f"{hidden:,} more incidents are under Causes" if hidden else "")
    acts: list[Text] = [
        f"Incident {index + 1}, {span(human.at - incident.began_at)} after it began: {human.text}"
        for index, (incident, human, _) in enumerate(shown)
        if human is not None and incident.began_at is not None
    ]
    if acts:
        yield Paragraph("First human actions:")
        yield Bullets(acts)
    yield Paragraph(
        "Mitigated: from then on, at most half of the instances hit were down. Recovered: from then on, "
        "none was down. Human actions: those that Nomad or the audit log of this machine recorded."
    )


def _is_mostly_down(incident: Incident) -> bool:
    hit = incident.facts.get("instances")
    return hit is not None and 2 * _bad_now(incident) > hit


def _time(moment: pd.Timestamp | None, facts: Facts, missing: str) -> str:
    return missing if moment is None else _moment(moment, facts.begin)
