"""The timeline in words: which lines a reader needs first, by rule, and all others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from ..diagnosis.incident import Incident
from ..errors import ConfigError
from .titles import short_title

if TYPE_CHECKING:
    from .postmortem import Facts

MOST_LINES = 20
"""Lines that are shown; the others are folded."""

MOST_OTHERS = 200

_BEFORE = pd.Timedelta("30min")
"""A change so long before an incident is near it, as in the diagnosis."""

_SAME = pd.Timedelta("1min")
"""Servers note the loss of a node and of its allocations one after the other."""

_STEP = pd.Timedelta("1s")
"""Mitigated and recovered are two lines if at least this much time lies between them."""

_BEGIN, _LOST, _SUSPECT, _HUMAN, _OVER, _MITIGATED, _SPREAD, _NEAR, _FAR = range(9)
"""What a line is about, the most important first."""


@dataclass(frozen=True)
class _Line:
    at: pd.Timestamp
    rank: int
    text: str
    about: str
    """What it is about: it makes its key, which stays the same if only the words change."""
    anchor: str = ""


def timeline_lines(facts: Facts, stars: list[str]) -> pd.DataFrame:
    """Return the lines: at, text, key, anchor, shown, starred; in order of time.

    Raises
    ------
    ConfigError
        A star is the key of no line.
    """
    lines = list({(line.at, line.text): line for line in _lines(facts)}.values())
    lines = [line for line in lines if facts.since - _BEFORE <= line.at <= facts.until]
    frame = pd.DataFrame(
        [(line.at, line.text, _key(line), line.anchor, line.rank) for line in lines],
        columns=["at", "text", "key", "anchor", "rank"],
    ).astype({"at": "datetime64[ns, UTC]", "text": "str", "key": "str", "anchor": "str"})
    if unknown := sorted(set(stars) - set(frame["key"])):
        raise ConfigError(
            f"star must be the key of a line of the timeline, got {', '.join(unknown)}. "
            "The keys are in the folded table below the timeline"
        )
    frame["starred"] = frame["key"].isin(stars)
    # chosen lines first, then by rank; of equal ones, the earlier
    order = frame.sort_values(["starred", "rank", "at"], ascending=[False, True, True], kind="stable").index
    frame["shown"] = False
    frame.loc[order[: max(MOST_LINES, int(frame["starred"].sum()))], "shown"] = True
    if facts.incidents:
        # what is far from every incident is not worth a line, even if there is room
        frame.loc[(frame["rank"] >= _FAR) & ~frame["starred"], "shown"] = False
    return frame.sort_values(["at", "rank"], kind="stable", ignore_index=True)


def _key(line: _Line) -> str:
    return hashlib.sha256(f"{line.at.value} {line.about}".encode()).hexdigest()[:6]


def _lines(facts: Facts) -> Iterator[_Line]:
    for number, incident in enumerate(facts.incidents):
        yield from _of_incident(facts, number, incident)
    for incident in facts.minor:
        # what somebody asked for is among the changes
        if incident.began_at is not None and incident.cause.kind != "operator":
            yield _Line(incident.began_at, _FAR, f"{incident.title}.", f"minor {incident.jobs}")
    lost = {
        (each.cause.subject["node_name"], each.began_at) for each in facts.incidents if "lost" in each.facts
    }
    human = {id(change) for change in facts.human if change is not None}
    for change in facts.changes:
        if change.kind == "node down" and any(
            node == change.node and at is not None and abs(at - change.at) < _SAME for node, at in lost
        ):
            continue  # the incident says it
        near = [
            incident
            for incident in facts.incidents
            if change.touches(incident)
            and not ("lost" in incident.facts and change.jobs)  # no job's version takes a node down
            and (incident.began_at is None or change.at >= incident.began_at - _BEFORE)
        ]
        rank = _NEAR if near else _FAR
        if id(change) in human:
            rank = _HUMAN
        elif near and change.kind == "job version" and _is_suspect(near, change.version):
            rank = _SUSPECT
        about = f"{change.kind} {change.jobs} {change.node} {change.version}"
        anchor = f"incident-{facts.incidents.index(near[0]) + 1}" if near else ""
        yield _Line(change.at, rank, change.text, about, anchor)


def _is_suspect(incidents: list[Incident], version: int | None) -> bool:
    return any(
        incident.cause.kind == "job version" and incident.cause.subject.get("job_version") == version
        for incident in incidents
    )


def _of_incident(facts: Facts, number: int, incident: Incident) -> Iterator[_Line]:
    anchor, title = f"incident-{number + 1}", short_title(incident)
    about = f"{incident.cause.mechanism or incident.cause.kind} {incident.jobs} {incident.nodes}"
    lost = "lost" in incident.facts
    if incident.began_at is not None:
        earliest = "First failure on record" if incident.began_before else "First failure"
        named = not lost and "failures" in incident.facts
        text = f"{earliest}: {title}." if named else f"{title}."
        yield _Line(incident.began_at, _LOST if lost else _BEGIN, text, f"began {about}", anchor)
    if incident.state == "gave up" and incident.last_at is not None:
        text = f"Last failure; Nomad gave up: {title}."
        yield _Line(incident.last_at, _OVER, text, f"gave up {about}", anchor)
    course, hit_at = facts.courses[number], facts.instances.all_hit_at(incident)
    if hit_at is not None:
        hit = len(facts.instances.of(incident))
        text = f"All {hit:,} instances that it hit had failed once: {title}."
        yield _Line(hit_at, _SPREAD, text, f"spread {about}", anchor)
    if course.recovered_at is None:
        return
    over = "Ended" if incident.state == "stopped" else "Recovered from"
    yield _Line(course.recovered_at, _OVER, f"{over}: {title}.", f"over {about}", anchor)
    if course.mitigated_at is not None and course.recovered_at - course.mitigated_at >= _STEP:
        text = f"At most half of what was hit was still down: {title}."
        yield _Line(course.mitigated_at, _MITIGATED, text, f"mitigated {about}", anchor)
