"""From one diagnosis to the next: which incidents are new, which have changed, and which are over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .diagnose import Diagnosis
from .incident import Incident

GOES_ON = ("ongoing", "gave up")


@dataclass(frozen=True)
class News:
    """What is new about an incident.

    Attributes
    ----------
    event : str
        "new", "changed" (its severity, state or cause) or "ended".
    incident : Incident
        As it is now; if it is no longer on record, as it was last.
    """

    event: str
    incident: Incident

    @property
    def text(self) -> str:
        """The news as a line."""
        incident = self.incident
        cause = f" Cause ({incident.cause.confidence}): {incident.cause.text}."
        known = "" if incident.cause.kind == "unknown" or self.event == "ended" else cause
        return f"{self.event:7} {incident.severity:8} {incident.summary}{known}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {"event": self.event, "text": self.text, "incident": self.incident.to_dict()}


@dataclass
class IncidentTracker:
    """Compares each diagnosis with the previous one.

    An incident is the same as an earlier one if it fails in the same way, on the same node if it is one of a
    node, and hits one of the same jobs: a common cause may spread, and a cause may become known later.

    Examples
    --------
    >>> from allocframe.diagnosis.follow import IncidentTracker
    >>> tracker = IncidentTracker()
    >>> {news.event for news in tracker.update(af.diagnose(snap))}
    {'new'}
    >>> tracker.update(af.diagnose(snap))
    []
    """

    going_on: list[Incident] = field(default_factory=list)

    def update(self, diagnosis: Diagnosis) -> list[News]:
        """Return what is new since the last call; at the first one, all that is ongoing."""
        loud = [each for each in diagnosis.incidents if each.severity != "info"]
        now = [each for each in loud if each.state in GOES_ON]
        over = [each for each in diagnosis.incidents if each.state not in GOES_ON or each.severity == "info"]
        news: list[News] = []
        left = list(self.going_on)
        for incident in now:
            before = _take(left, incident)
            if before is None:
                news.append(News("new", incident))
            elif _verdict(before) != _verdict(incident):
                news.append(News("changed", incident))
        news += [News("ended", _match(over, each) or each) for each in left]
        self.going_on = now
        return news


def _verdict(incident: Incident) -> tuple[str, str, str]:
    return incident.severity, incident.state, incident.cause.kind


def _take(incidents: list[Incident], wanted: Incident) -> Incident | None:
    """Return the incident that is the wanted one, and remove it."""
    found = _match(incidents, wanted)
    if found is not None:
        incidents.remove(found)
    return found


def _match(incidents: list[Incident], wanted: Incident) -> Incident | None:
    return next((each for each in incidents if _is_same(each, wanted)), None)


def _is_same(one: Incident, other: Incident) -> bool:
    mechanisms = [each.cause.mechanism or each.cause.kind for each in (one, other)]
    if one.cluster != other.cluster or mechanisms[0] != mechanisms[1]:
        return False
    if one.cause.mechanism == "lost":
        return one.nodes == other.nodes
    return bool(set(one.jobs) & set(other.jobs))
