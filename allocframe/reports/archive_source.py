"""What a report reads from an archive: snapshots that include allocations Nomad has removed since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from .._utils.prose import span
from .._utils.times import to_utc
from ..diagnosis.diagnose import diagnose
from ..diagnosis.incident import Incident
from ..errors import ConfigError
from ..snapshot.snapshot import Snapshot
from .impact import Instances
from .ledger import changes_of

if TYPE_CHECKING:
    from ..archive.archive import Archive

_SETTLED = pd.Timedelta("1min")
"""Events are seen a little after they happen, so a window is read as it was seen this long after its end."""

DAYS = 7


def snapshot_for_postmortem(
    archive: Archive, since: pd.Timestamp | str | None, until: pd.Timestamp | str | None
) -> Snapshot:
    """Return what an archive holds of a window, as it was seen soon after the window's end.

    If nobody watched at that moment, it is what was seen when watching resumed.

    Raises
    ------
    ConfigError
        There is no archive, no `since`, or nothing was recorded by then.
    """
    if since is None:
        raise ConfigError(
            "a postmortem from an archive needs since, such as 2026-11-24T09:30: an archive can hold months"
        )
    start = to_utc(since, "since")
    last, gaps = _last_observation(archive)
    at = last
    if until is not None:
        at = to_utc(until, "until") + _SETTLED
        resumed = [
            pd.Timestamp(gap["until"])
            for gap in gaps
            if pd.Timestamp(gap["since"]) < at < pd.Timestamp(gap["until"])
        ]
        at = min(last, max([at, *resumed]))
    return _snapshot(archive, at, start)


def snapshot_for_days(archive: Archive, days: int) -> tuple[Snapshot, pd.Timestamp]:
    """Return what an archive holds of its last days and as many before, and when the last ones begin.

    Raises
    ------
    ConfigError
        There is no archive, or it is empty.
    """
    if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= 366:
        raise ConfigError(f"days must be a whole number from 1 to 366, got {days!r}")
    last, _ = _last_observation(archive)
    length = pd.Timedelta(days, "D")
    return _snapshot(archive, last, (last - 2 * length).floor("D")), last - length


def _last_observation(archive: Archive) -> tuple[pd.Timestamp, list[dict[str, Any]]]:
    try:
        info = archive.info
    except FileNotFoundError:
        raise ConfigError(
            f"there is no archive in {_location(archive)}; allocframe record --archive DIR makes one"
        ) from None
    if info["last_seen_at"] is None:
        raise ConfigError(f"the archive in {_location(archive)} is empty: nothing was recorded yet")
    return pd.Timestamp(info["last_seen_at"]), info["gaps"]


def _location(archive: Archive) -> str:
    """Return the location of an archive as the user wrote it."""
    return repr(archive).removeprefix("Archive(").removesuffix(")")


def _snapshot(archive: Archive, at: pd.Timestamp, since: pd.Timestamp) -> Snapshot:
    try:
        return archive.snapshot(at, since=since)
    except ValueError as error:
        raise ConfigError(str(error)) from None


_LOOK_BACK = pd.Timedelta("30D")
_MOST_SIMILAR = 10


def similar_incidents(
    archive: Archive, incidents: list[Incident], begin: pd.Timestamp
) -> list[dict[str, Any]]:
    """Return incidents of the 30 days before `begin` that are like these, the most alike first.

    Alike are those of the same job, mechanism, exit code or node: two of these at least, or the job.
    """
    if not incidents:
        return []
    try:
        earlier = archive.snapshot(begin, since=begin - _LOOK_BACK)
    except ValueError:
        return []  # the archive begins with these incidents
    others = diagnose(earlier, progress=False).incidents
    instances = Instances(earlier, others)
    found: list[tuple[int, int, dict[str, Any]]] = []
    for old in others:
        alike = max((_alike(old, new) for new in incidents), key=len)
        over = old.last_at is None or old.last_at < begin
        if (
            old.severity == "info"
            or not over
            or old.began_at is None
            or not (len(alike) > 1 or "job" in alike)
        ):
            continue
        if any(_is_same(old, new) for new in incidents):
            continue  # it continued, and is described above
        ended = instances.course(old).recovered_at
        described = {
            "at": old.began_at,
            "title": old.title,
            "length": span((ended or old.last_at or old.began_at) - old.began_at),
            "ended": _ending(old, earlier),
            "alike": ", ".join(alike),
        }
        found.append((-len(alike), -old.began_at.value, described))
    found.sort(key=lambda each: each[:2])
    return [described for _, _, described in found[:_MOST_SIMILAR]]


def _alike(old: Incident, new: Incident) -> list[str]:
    """Return what two incidents have in common."""

    def mechanism(each: Incident) -> str:
        return each.cause.mechanism or each.cause.kind

    alike = []
    if set(old.jobs) & set(new.jobs):
        alike.append("job")
    if mechanism(old) == mechanism(new):
        alike.append("mechanism")
    if set(old.facts.get("exit_codes") or []) & set(new.facts.get("exit_codes") or []):
        alike.append("exit code")
    if old.cause.kind == new.cause.kind == "node" and set(old.nodes) & set(new.nodes):
        alike.append("node")
    return alike


def _is_same(old: Incident, new: Incident) -> bool:
    return bool(set(old.alloc_ids) & set(new.alloc_ids))


def _ending(incident: Incident, snapshot: Snapshot) -> str:
    """Return what ended an incident, as far as it was recorded."""
    acts = [each for each in changes_of(snapshot, None) if each.by_people and each.touches(incident)]
    last = incident.last_at
    near = [each for each in acts if last is not None and abs(each.at - last) <= pd.Timedelta("10min")]
    return near[-1].text if near else f"{incident.state}; what ended it is not on record"
