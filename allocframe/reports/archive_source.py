"""What a report reads from an archive: snapshots that include allocations Nomad has removed since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from .._utils.times import to_utc
from ..errors import ConfigError
from ..snapshot.snapshot import Snapshot

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
