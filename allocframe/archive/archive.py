"""The archive: what Nomad forgets, kept in Delta Lake tables."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pandas as pd

from .._utils.times import to_utc
from ..snapshot.snapshot import Snapshot
from ..store.sql import select, where
from ..tables import EVENTS
from ..watch.change import Change
from .append import append, changes, covers
from .append import check as check_whole
from .checkpoint import NOTHING, State, known, state
from .coverage import COVERAGE, KEPT, MISSING, QUERY
from .delta import DeltaTables
from .maintenance import compact, info, retain
from .time_travel import PastTables, described
from .views import Connection, again, check, derive, frame, reading

__all__ = ["Archive"]


class Archive:
    """Everything that was seen of a cluster, for months: allocations that are gone, events beyond Nomad's ten for each task.

    An archive is a folder, or an object store, of Delta Lake tables: `allocations`, `task_states`, `events`, `reschedules`, and
    `snapshots`, which says what was seen when. It has no job specifications. Making this object touches nothing.

    Parameters
    ----------
    path : path or URL
        A folder, or such as ``s3://bucket/nomad``. Locally its files are readable by their owner only.
    storage_options : dict, optional
        What an object store needs, in the names of delta-rs, such as ``AWS_REGION``.

    Examples
    --------
    >>> archive = af.Archive("nomad-archive")
    >>> archive
    Archive('nomad-archive')
    """

    def __init__(
        self, path: str | os.PathLike[str], *, storage_options: Mapping[str, str] | None = None
    ) -> None:
        self._tables = DeltaTables(path, storage_options)
        self._indexes: dict[str, int | None] = {}

    def __repr__(self) -> str:
        return f"Archive({self._tables.where!r})"

    def append(self, change: Change | Snapshot | Iterable[Change], *, recorder: str | None = None) -> None:
        """Keep what a watch or a snapshot saw; all of it counts for a reader, or, if this fails at any instant, nothing.

        What failed can be given again, and so can what was kept: events and allocations are there once. The time this takes
        depends on the changes, not on the archive. Several recorders may append to one archive at once.

        Parameters
        ----------
        change : Change or several, or Snapshot
            What `Client.watch` yields; several become one step. Of a snapshot, a part at a time is in memory, and only what
            the archive has not is written.
        recorder : str, optional
            Who saw it; this machine's name otherwise.

        Raises
        ------
        OSError
            It could not be written, for instance because the disk is full.
        DecodeError
            A newer allocframe wrote the archive.
        ValueError
            The snapshot does not say when it was taken, or has no task states.

        Examples
        --------
        >>> archive = af.Archive("nomad-archive")
        >>> archive.append(change)
        >>> len(archive.snapshot()) == len(change.added)
        True
        """
        if isinstance(change, Snapshot):
            parts: Iterable[list[Change]] = ([part] for part in self._changes(change))
        else:
            told_of = [change] if isinstance(change, Change) else list(change)
            parts = [told_of] if told_of else []
        append(self._tables, parts, recorder or socket.gethostname(), self._indexes)

    def _changes(self, snapshot: Snapshot) -> Iterator[Change]:
        check_whole(snapshot)
        namespace = covers(snapshot)
        with contextlib.suppress(FileNotFoundError):
            rows, at = reading(self._tables, None, lambda connection: known(connection, namespace or "*"))
            return changes(snapshot, rows, at)
        return changes(snapshot, None, None)

    def snapshot(
        self, at: pd.Timestamp | str | None = None, *, since: pd.Timestamp | str | None = None
    ) -> Snapshot:
        """Return the cluster as it was seen at a time, with the tables and methods of a live snapshot.

        Its events are all that were ever seen of these tasks, and `events_truncated` is False where none was missed.

        Parameters
        ----------
        at : time or str, optional
            The moment, UTC where it names no offset; the latest otherwise.
        since : time or str, optional
            Also the allocations that were gone by then, but still there at this time or later.

        Raises
        ------
        FileNotFoundError
            There is no archive.
        ValueError
            Nothing had been seen by then.

        Examples
        --------
        >>> back = archive.snapshot(at=change.at)
        >>> af.stats.restarts(back, by="job_id")["count"].sum() == (snap.events["type"] == "Restarting").sum()
        np.True_
        """
        moment = to_utc(at, "at") if at is not None else None
        condition = "gone_at IS NULL"
        first = to_utc(since, "since") if since is not None else None
        if first is not None:
            condition += f" OR epoch_ns(last_seen_at) >= {first.value}"
        past = again(lambda: PastTables(self._tables, moment, condition))
        try:
            return Snapshot(described(past, self._tables.where, moment, first), past)
        except BaseException:
            past.close()
            raise

    def events(
        self,
        since: pd.Timestamp | str | None = None,
        until: pd.Timestamp | str | None = None,
        **columns: Any,
    ) -> pd.DataFrame:
        """Return the task events of all time, also of allocations that are gone: the `events` table, each event once.

        Parameters
        ----------
        since, until : time or str, optional
            Only events from `since` on and before `until`, by the node's clock.
        **columns
            A column of the table and its value, or a list of values of which one must match.

        Examples
        --------
        >>> killed = archive.events(since="2026-01-01", type="Terminated", oom_killed=True)
        >>> len(killed) == (snap.events["oom_killed"] == True).sum() > 0
        np.True_
        """
        check(EVENTS, columns)
        spans = [f"epoch_ns(time) >= {to_utc(since, 'since').value}"] if since is not None else []
        spans += [f"epoch_ns(time) < {to_utc(until, 'until').value}"] if until is not None else []
        stored = {name: value for name, value in columns.items() if name != "seq"}
        inside = " AND ".join([*spans, where(stored.items())])

        def work(connection: Connection) -> pd.DataFrame:
            derive(connection, f"alloc_id IN (SELECT alloc_id FROM stored.events WHERE {inside})")
            wanted = " AND ".join([*spans, where(columns.items())])
            return frame(connection, EVENTS, f"FROM seen.events WHERE {wanted} ORDER BY alloc_id, task, seq")

        return reading(self._tables, None, work)

    def allocations(self, **columns: Any) -> pd.DataFrame:
        """Return every allocation that was ever seen, as it was last seen, with when that was and since when it is gone.

        Parameters
        ----------
        **columns
            A column of the table and its value, or a list of values of which one must match.

        Returns
        -------
        pandas.DataFrame
            The `allocations` table, with `first_seen_at`, `last_seen_at` and `gone_at`, which is NaT while it is there.

        Examples
        --------
        >>> archive.allocations(client_status="failed")["gone_at"].isna().all()
        np.True_
        """
        check(KEPT, columns)

        def work(connection: Connection) -> pd.DataFrame:
            derive(connection, tasks=False)
            wanted = where(columns.items())
            return frame(
                connection, KEPT, f"FROM seen.allocations WHERE {wanted} ORDER BY create_index, alloc_id"
            )

        return reading(self._tables, None, work)

    def sql(self, query: str) -> pd.DataFrame:
        """Answer a SELECT over all that was ever seen.

        Parameters
        ----------
        query : str
            One SELECT in DuckDB's SQL over `allocations` (with `first_seen_at`, `last_seen_at`, `gone_at`), `task_states`, `events`,
            `reschedules` and `snapshots`. Times are TIMESTAMP_NS in UTC, durations whole nanoseconds.

        Examples
        --------
        >>> gone = archive.sql("SELECT job_id, count(gone_at) AS gone FROM allocations GROUP BY ALL")
        >>> int(gone["gone"].sum())
        0
        """

        def work(connection: Connection) -> pd.DataFrame:
            derive(
                connection,
                tasks=any(name in query.lower() for name in ("task_states", "events", "reschedules")),
            )
            return select(connection, query, "seen")

        return reading(self._tables, None, work)

    def coverage(self) -> pd.DataFrame:
        """Return, for each task that was ever seen, whether its history is complete, and if not, what is missing and why.

        Returns
        -------
        pandas.DataFrame
            alloc_id, task, namespace, job_id, first_seen_at, last_seen_at, gone_at, events, complete, missing (how many times are),
            missing_since, missing_until, reason. Complete is a history in which each event is tied to the one before it
            by a list that held both, from the first on.

        Examples
        --------
        >>> coverage = archive.coverage()
        >>> coverage.loc[~coverage["complete"], "reason"].unique().tolist()
        ['it began before the archive']
        """

        def work(connection: Connection) -> pd.DataFrame:
            derive(connection)
            return frame(connection, COVERAGE, f"FROM ({QUERY}) ORDER BY alloc_id, task")

        return reading(self._tables, None, work)

    def missing(self) -> pd.DataFrame:
        """Return the times of which events of a task are missing: alloc_id, task, since, until, reason.

        Examples
        --------
        >>> bool(archive.missing()["until"].max() <= change.at)
        True
        """

        def work(connection: Connection) -> pd.DataFrame:
            derive(connection)
            return frame(connection, MISSING, "FROM seen.missing ORDER BY alloc_id, task, until")

        return reading(self._tables, None, work)

    def state(self) -> State:
        """Return what was last seen, for a recorder that goes on: time, index, live allocations, recorders.

        It grows with the allocations that are still there, not with the archive.

        Examples
        --------
        >>> archive.state().at == change.at
        True
        """
        try:
            return reading(self._tables, None, state)
        except FileNotFoundError:
            return NOTHING

    def compact(self) -> None:
        """Write days that lie in many files anew, with each row once; recorders and readers may go on meanwhile.

        Reading gets faster by it, and appending stays as fast as it is: do it about every 500 appends.

        Examples
        --------
        >>> archive.compact()
        >>> archive.info["tables"]["events"]["files"]
        1
        """
        compact(self._tables)

    def retain(self, days: int) -> None:
        """Remove all days before the last `days` of the archive.

        What allocations that are still there need stays: their last row, and as many of their events as Nomad keeps.

        Examples
        --------
        >>> archive.retain(30)
        >>> len(archive.snapshot()) == len(snap)
        True
        """
        if days < 1:
            raise ValueError("days must be at least 1")
        retain(self._tables, days)

    @property
    def info(self) -> dict[str, Any]:
        """What there is, as plain JSON, with times, recorders, gaps, and the days, files, rows and bytes of each table."""
        return info(self._tables)
