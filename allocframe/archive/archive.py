"""The archive: the history that Nomad forgets, in Delta Lake tables."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import pandas as pd

from .._utils.progress import Progress
from .._utils.times import to_utc
from ..snapshot.history import History
from ..snapshot.snapshot import Snapshot
from ..store.sql import lock_files, select, where
from ..tables import EVENTS
from ..watch.change import Change, HistoryChange
from ..watch.row_filter import RowFilter
from .append import append, complete_namespace, observed_at, snapshot_changes
from .checkpoint import EMPTY_STATE, ArchiveState, read_live, read_state
from .coverage import ALLOCATIONS_SEEN, COVERAGE, MISSING, MISSING_QUERY, QUERY
from .delta import DeltaTables
from .maintenance import compact, info, retain, sizes
from .past_history import Known, history_change, read_history, read_known
from .time_travel import PastTables, describe
from .views import Connection, check_columns, derive, read_archive, read_frame, retry_reading

__all__ = ["Archive"]

_T = TypeVar("_T")


class Archive:
    """Months of a cluster's history: removed allocations, and more than Nomad's ten events per task.

    An archive is a folder or an object store with Delta Lake tables: `allocations`, `task_states`, `events`,
    `reschedules`, and `snapshots` with one row per observation; and those of a `History`. It holds no job
    specifications, and of values that may be secret only hashes. Nothing is read or written until you call a
    method.

    Parameters
    ----------
    path : path or URL
        A folder, or a URL such as ``s3://bucket/nomad``. Only the owner can read the files of a local
        archive.
    storage_options : dict, optional
        Options of an object store, with the names that delta-rs uses, such as ``AWS_REGION``.

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
        return f"Archive({self._tables.location!r})"

    def append(
        self,
        change: Change | Snapshot | Iterable[Change],
        *,
        recorder: str | None = None,
        history: HistoryChange | None = None,
    ) -> None:
        """Store changes or a snapshot. Readers see all of it, or nothing if this fails at any point.

        Anything can be appended twice, after a failure or by mistake: readers see each event once. The time
        needed depends on the changes, not on the size of the archive. Several recorders may append at once.

        Parameters
        ----------
        change : Change, iterable of Change, or Snapshot
            The changes of a watch, written in one step; or a snapshot, of which only what is new is written,
            with its `history` if it has one. Snapshots and iterators are processed in parts, so they need not
            fit in memory.
        recorder : str, optional
            Name of the observer; this machine's name if omitted.
        history : HistoryChange, optional
            What changed in jobs and nodes meanwhile, written in the same step.

        Raises
        ------
        OSError
            The changes could not be written, for instance because the disk is full.
        DecodeError
            The archive was written by a newer allocframe.
        ValueError
            The snapshot has no time or no task states.

        Examples
        --------
        >>> archive = af.Archive("nomad-archive")
        >>> archive.append(change)
        >>> len(archive.snapshot()) == len(change.added)
        True
        """
        if isinstance(change, Snapshot):
            parts: Iterable[list[Change]] = ([part] for part in self._snapshot_changes(change))
            history = self._new_history(change) if history is None else history
        else:
            changes = [change] if isinstance(change, Change) else change
            # An iterator may be long: each of its changes is encoded alone.
            parts = (
                ([part] for part in changes) if isinstance(changes, Iterator) else _nonempty(list(changes))
            )
        append(self._tables, parts, recorder or socket.gethostname(), self._indexes, history)

    def _new_history(self, snapshot: Snapshot) -> HistoryChange | None:
        """Return what the history of a snapshot has that the archive does not know."""
        if snapshot.history is None:
            return None
        return history_change(snapshot.history, observed_at(snapshot), self._known_history())

    def _known_history(self, stop: threading.Event | None = None) -> Known:
        """Return what the archive knows of jobs and nodes, from which a recorder continues."""
        try:
            return self._read(lambda connection: read_known(connection, self._tables), stop)
        except FileNotFoundError:
            return Known(RowFilter(), None)

    def _snapshot_changes(self, snapshot: Snapshot) -> Iterator[Change]:
        observed_at(snapshot)  # refuse a snapshot before anything is written
        namespace = complete_namespace(snapshot)
        with contextlib.suppress(FileNotFoundError):
            rows, at = self._read(lambda connection: read_live(connection, namespace or "*"))
            return snapshot_changes(snapshot, rows, at)
        return snapshot_changes(snapshot, None, None)

    def _read(self, query: Callable[[Connection], _T], stop: threading.Event | None = None) -> _T:
        return read_archive(self._tables, query, stop)

    def _compact_until(self, stop: threading.Event) -> None:
        compact(self._tables, stop)

    def snapshot(
        self, at: pd.Timestamp | str | None = None, *, since: pd.Timestamp | str | None = None
    ) -> Snapshot:
        """Return the cluster as it was at a time, with the tables and methods of a live snapshot.

        The snapshot has all recorded events of its tasks. `events_truncated` is False if none is missing. Its
        `history` is what had changed in the seven days before; None if that was never recorded.

        Parameters
        ----------
        at : time or str, optional
            The time, in UTC unless it has an offset; the latest observation if omitted.
        since : time or str, optional
            Also include allocations that no longer existed at `at`, but did at this time or later.

        Raises
        ------
        FileNotFoundError
            There is no archive.
        ValueError
            The archive has no observation before `at`.

        Examples
        --------
        >>> back = archive.snapshot(at=change.at)
        >>> af.stats.restarts(back, by="job_id")["count"].sum() == (snap.events["type"] == "Restarting").sum()
        np.True_
        """
        moment = to_utc(at, "at") if at is not None else None
        first = to_utc(since, "since") if since is not None else None
        condition = "gone_at IS NULL"
        if first is not None:
            condition += f" OR epoch_ns(last_seen_at) >= {first.value}"
        past = retry_reading(lambda: PastTables(self._tables, moment, first, condition))
        try:
            snapshot = Snapshot(describe(past, self._tables.location, moment, first), past)
            snapshot.history = past.history
            return snapshot
        except BaseException:
            past.close()
            raise

    def history(
        self,
        at: pd.Timestamp | str | None = None,
        *,
        since: pd.Timestamp | str | None = None,
        namespace: str | None = None,
    ) -> History:
        """Return what had changed in the cluster up to a time, also what Nomad has forgotten since.

        Parameters
        ----------
        at : time or str, optional
            The time, in UTC unless it has an offset; the latest observation if omitted.
        since : time or str, optional
            Leave out what happened before.
        namespace : str, optional
            Only the jobs of this namespace.

        Returns
        -------
        History
            Its `notes` say since when jobs and nodes were watched, and when nobody did. Hashes of secrets can
            be compared within one change, not between changes.

        Raises
        ------
        FileNotFoundError
            There is no archive.

        Examples
        --------
        >>> recovered = af.Archive("recovered")
        >>> recovered.append(client.snapshot(namespace="*", history=True))
        >>> recovered.history(namespace="*").changes["kind"].isin(["job version", "deployment"]).any()
        np.True_
        """
        moment = to_utc(at, "at") if at is not None else None
        first = to_utc(since, "since") if since is not None else None

        def query(connection: Connection) -> History | None:
            return read_history(connection, self._tables, moment, since=first, namespace=namespace)

        return self._read(query) or History({}, ["no change of jobs and nodes was recorded"])

    def events(
        self,
        since: pd.Timestamp | str | None = None,
        until: pd.Timestamp | str | None = None,
        **columns: Any,
    ) -> pd.DataFrame:
        """Return all recorded task events, also of allocations that no longer exist: the `events` table.

        Parameters
        ----------
        since, until : time or str, optional
            Only events at or after `since` and before `until`, by the node's clock.
        **columns
            Only events whose column has this value, or one of these values.

        Examples
        --------
        >>> killed = archive.events(since="2026-01-01", type="Terminated", oom_killed=True)
        >>> len(killed) == (snap.events["oom_killed"] == True).sum() > 0
        np.True_
        """
        check_columns(EVENTS, columns)
        period = [f"epoch_ns(time) >= {to_utc(since, 'since').value}"] if since is not None else []
        period += [f"epoch_ns(time) < {to_utc(until, 'until').value}"] if until is not None else []
        # `seq` is derived from all events of a task, so stored rows cannot be filtered by it.
        stored = {name: value for name, value in columns.items() if name != "seq"}
        prefilter = " AND ".join([*period, where(stored.items())])

        def query(connection: Connection) -> pd.DataFrame:
            chosen = f"alloc_id IN (SELECT alloc_id FROM stored.events WHERE {prefilter})"
            derive(connection, chosen, until="events")
            condition = " AND ".join([*period, where(columns.items())])
            return read_frame(
                connection, EVENTS, f"FROM seen.events WHERE {condition} ORDER BY alloc_id, task, seq"
            )

        return self._read(query)

    def allocations(self, **columns: Any) -> pd.DataFrame:
        """Return the last version of every allocation that was ever seen.

        Parameters
        ----------
        **columns
            Only allocations whose column has this value, or one of these values.

        Returns
        -------
        pandas.DataFrame
            The `allocations` table with `first_seen_at`, `last_seen_at`, and `gone_at`, which is NaT while
            the allocation exists.

        Examples
        --------
        >>> archive.allocations(client_status="failed")["gone_at"].isna().all()
        np.True_
        """
        check_columns(ALLOCATIONS_SEEN, columns)
        condition = where(columns.items())

        def query(connection: Connection) -> pd.DataFrame:
            derive(connection, until="allocations")
            rest = f"FROM seen.allocations WHERE {condition} ORDER BY create_index, alloc_id"
            return read_frame(connection, ALLOCATIONS_SEEN, rest)

        return self._read(query)

    def sql(self, query: str, *, allow_files: bool = False) -> pd.DataFrame:
        """Run a SELECT over the whole history.

        Parameters
        ----------
        query : str
            One SELECT in DuckDB's SQL over `allocations` (with `first_seen_at`, `last_seen_at`, `gone_at`),
            `task_states`, `events`, `reschedules` and `snapshots`. Times are TIMESTAMP_NS in UTC, durations
            whole nanoseconds.
        allow_files : bool
            The query may also read files and URLs, and write files. Only for queries that you wrote yourself.

        Examples
        --------
        >>> gone = archive.sql("SELECT job_id, count(gone_at) AS gone FROM allocations GROUP BY ALL")
        >>> int(gone["gone"].sum())
        0
        """

        # The tables of tasks are costly to derive: leave them out if the query cannot use them.
        needs_tasks = any(name in query.lower() for name in ("task_states", "events", "reschedules"))

        def derive_and_select(connection: Connection) -> pd.DataFrame:
            derive(connection, until="reschedules" if needs_tasks else "allocations")
            if not allow_files:
                folder = self._tables.folder
                lock_files(connection, [] if folder is None else [str(folder)])
            return select(connection, query, "seen", allow_files=allow_files)

        return self._read(derive_and_select)

    def coverage(self) -> pd.DataFrame:
        """Return whether the history of each task is complete, and if not, what is missing and why.

        Returns
        -------
        pandas.DataFrame
            alloc_id, task, namespace, job_id, first_seen_at, last_seen_at, gone_at, events, complete, missing
            (the number of periods), missing_since, missing_until, reason. A history is complete if every
            event after the first was seen in the same ring as the event before it. If nobody watched at
            times, the last row has these: of tasks that came and went meanwhile nothing is known.

        Examples
        --------
        >>> coverage = archive.coverage()
        >>> coverage.loc[~coverage["complete"], "reason"].unique().tolist()
        ['it began before the archive']
        """

        def query(connection: Connection) -> pd.DataFrame:
            derive(connection, until="missing")
            return read_frame(connection, COVERAGE, f"FROM ({QUERY}) ORDER BY alloc_id, task")

        return self._read(query)

    def missing(self) -> pd.DataFrame:
        """Return the periods of which events of a task are missing: alloc_id, task, since, until, reason.

        Periods in which nobody watched the cluster have no alloc_id and task.

        Examples
        --------
        >>> bool(archive.missing()["until"].max() <= change.at)
        True
        """

        def query(connection: Connection) -> pd.DataFrame:
            derive(connection, until="missing")
            return read_frame(connection, MISSING, f"FROM ({MISSING_QUERY}) ORDER BY alloc_id, task, until")

        return self._read(query)

    def state(self) -> ArchiveState:
        """Return the last observation: time, index, live allocations, recorders.

        A recorder continues from it.
        Its size depends on the number of live allocations, not on the archive.

        Examples
        --------
        >>> archive.state().at == change.at
        True
        """
        return self._state_until(None)

    def _state_until(self, stop: threading.Event | None) -> ArchiveState:
        try:
            return self._read(read_state, stop)
        except FileNotFoundError:
            return EMPTY_STATE

    def repair(self) -> list[str]:
        """Go back to the last whole step after a power loss: set truncated commits aside.

        A recorder does this when it starts. Only an append that had not ended is lost, because what it writes
        is synced to the disk before it counts.

        Returns
        -------
        list of str
            The commits that were set aside, under names that end in ``.torn``. Usually there are none.

        Raises
        ------
        DecodeError
            A file is damaged whose rows may count already: that was not a power loss.

        Examples
        --------
        >>> archive.repair()
        []
        """
        return self._tables.repair()

    def compact(self, *, progress: Progress = None) -> None:
        """Merge the files of each day and remove duplicate rows, while recorders and readers keep working.

        This makes reading faster. Do it about every 500 appends.

        Parameters
        ----------
        progress : bool or callable, optional
            Whether to show which table is being compacted; by default after a second, on a terminal or in a
            notebook. A function is called with the number of tables that are done and of all.

        Examples
        --------
        >>> archive.compact()
        >>> archive.info["tables"]["events"]["files"]
        1
        """
        compact(self._tables, progress=progress)

    def retain(self, days: int) -> None:
        """Remove all but the last `days` days.

        The last row of each live allocation stays, and as many of its events as Nomad keeps.

        Examples
        --------
        >>> archive.retain(30)
        >>> len(archive.snapshot()) == len(snap)
        True
        """
        if days < 1:
            raise ValueError(f"days must be 1 or more, got {days}")
        retain(self._tables, days)

    @property
    def info(self) -> dict[str, Any]:
        """Times, recorders, gaps, and the size of each table, as plain JSON."""
        return info(self._tables)

    def _sizes(self) -> dict[str, dict[str, Any]]:
        """Return the size of each table, which `info` has as well."""
        return sizes(self._tables)


def _nonempty(changes: list[Change]) -> list[list[Change]]:
    return [changes] if changes else []
