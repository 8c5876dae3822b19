"""What a report takes from an archive: the evidence of its time, with the allocations that are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import ConfigError
from ..snapshot.snapshot import Snapshot
from .postmortem import to_time

if TYPE_CHECKING:
    from ..archive.archive import Archive

_SETTLED = pd.Timedelta("1min")
"""After the end of a window: what happened in it may be seen a little later."""

DAYS = 7


def of_incident(
    archive: Archive, since: pd.Timestamp | str | None, until: pd.Timestamp | str | None
) -> Snapshot:
    """Return what an archive holds of a window, as it was seen soon after its end, or at the end of the gap that this lies in.

    Raises
    ------
    ConfigError
        There is no archive, no `since`, or nothing was seen by then.
    """
    if since is None:
        raise ConfigError(
            "a postmortem from an archive needs since, such as 2026-11-24T09:30: it holds months"
        )
    begin, last, gaps = to_time("since", since), *_last(archive)
    at = last
    if until is not None:
        at = to_time("until", until) + _SETTLED
        inside = [one for one in gaps if pd.Timestamp(one["since"]) < at < pd.Timestamp(one["until"])]
        at = min([last, max([at, *(pd.Timestamp(one["until"]) for one in inside)])])
    return _snapshot(archive, at, begin)


def of_days(archive: Archive, days: int) -> tuple[Snapshot, pd.Timestamp]:
    """Return what an archive holds of its last days, and of as many before them; and when they begin.

    Raises
    ------
    ConfigError
        There is no archive, or it is empty.
    """
    if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= 366:
        raise ConfigError(f"days must be a whole number from 1 to 366, not {days!r}")
    last, _ = _last(archive)
    length = pd.Timedelta(days, "D")
    return _snapshot(archive, last, (last - 2 * length).floor("D")), last - length


def _last(archive: Archive) -> tuple[pd.Timestamp, list[dict[str, Any]]]:
    try:
        info = archive.info
    except FileNotFoundError:
        raise ConfigError(
            f"there is no archive in {_place(archive)}; allocframe record --archive DIR makes one"
        ) from None
    if info["last_seen_at"] is None:
        raise ConfigError(f"the archive in {_place(archive)} is empty: nothing was recorded yet")
    return pd.Timestamp(info["last_seen_at"]), info["gaps"]


def _place(archive: Archive) -> str:
    """Return where an archive is, as it was given."""
    return repr(archive).removeprefix("Archive(").removesuffix(")")


def _snapshot(archive: Archive, at: pd.Timestamp, since: pd.Timestamp) -> Snapshot:
    try:
        return archive.snapshot(at, since=since)
    except ValueError as error:
        raise ConfigError(str(error)) from None
