"""The recorder: write the changes of a watch into an archive, for months, through any failure.

Where a gap begins and ends is decided by the watch (`watch.reflector`); this counts them.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from .._utils.interrupts import LONGEST_WAIT
from .._utils.memory import release_memory
from .._utils.threads import aborted_by
from ..client.client import Client
from ..errors import AllocframeError, PermissionDenied
from ..nomad.retry import backoff
from ..watch.change import Change, Checkpoint, HistoryChange
from ..watch.history_watch import HistoryWatch
from ..watch.watch import Watch
from .archive import Archive
from .past_history import Known, history_change

MAX_ROWS = 50_000
"""Maximum rows that wait for a commit.

If more arrive, they stay in the watch's queue and in Nomad's rings.
"""

TICK = 1.0
"""Seconds between two looks at whether to stop or to commit."""

MAX_RETRY_PAUSE = 60.0
"""Maximum seconds between two attempts to write or to watch."""

STOP_TIMEOUT = 10.0
"""Seconds that a recorder may take to stop before its watch is closed."""

HEARTBEAT_INTERVAL = 60.0
"""Seconds without changes after which a heartbeat is committed, to prove that the recorder watched."""

RESYNC_INTERVAL = 300.0
"""Seconds after which everything is listed again. The event stream does not report removed allocations."""

COMPACT_EVERY = 500
"""Commits between two compactions."""

Status = Literal["starting", "recording", "cannot watch", "cannot write", "stopped"]


@dataclass
class Counts:
    """Counts of what a recorder has written."""

    commits: int = 0
    changes: int = 0
    events: int = 0
    gaps: int = 0
    failures: int = 0
    """Failed attempts to write. Their changes were kept and written later."""


@dataclass
class Totals:
    """Numbers of rows that a list has changed."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    new_events: int = 0

    def add(self, change: Change) -> Change:
        """Count a change, and return it."""
        self.added += len(change.added)
        self.changed += len(change.changed)
        self.removed += len(change.removed)
        self.new_events += len(change.new_events)
        return change


class Recorder:
    """Records one cluster into one archive until it is stopped.

    Parameters
    ----------
    client : Client
        The cluster.
    archive : Archive
        Where to record. Other recorders may write there too.
    namespace : str, optional
        The namespace to record; if omitted, all that the token may read.
    interval : float
        Maximum seconds that a change waits for its commit.
    stream : bool
        Subscribe to events if the token may.
    name : str, optional
        Name of the recorder in the archive, the same in every run; this machine's name if omitted.
    history : bool
        Record also what changes besides the allocations: jobs, deployments, nodes and evaluations.
    on_message : callable
        Called with one line of text when a problem begins or ends.
    """

    def __init__(
        self,
        client: Client,
        archive: Archive,
        *,
        namespace: str = "*",
        interval: float = 5.0,
        stream: bool = True,
        name: str | None = None,
        history: bool = True,
        on_message: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.counts: Counts = Counts()
        self.status: Status = "starting"
        self.last_error: str | None = None
        self.last: pd.Timestamp | None = None
        """The time of the last committed observation."""

        self.watch: Watch | None = None
        self.name: str = name or socket.gethostname()
        self._client, self._archive = client, archive
        self._namespace = namespace
        self._interval, self._stream, self._on_message = interval, stream, on_message
        self._records_history = history
        self._history_watch: HistoryWatch | None = None
        self._history_error: str | None = None
        self._no_stream: str | None = None
        self._uncommitted: list[Change] = []
        self._uncommitted_history: HistoryChange | None = None
        self._oldest_since = 0.0
        self._committed_at = 0.0
        self._not_before = 0.0
        self._failures_in_a_row = 0
        self._compact_at = COMPACT_EVERY

    def run(self, stop: threading.Event) -> None:
        """Record until `stop` is set, then commit what is left.

        Raises
        ------
        AllocframeError
            The first list failed.
        """
        # Either may take minutes, and off a terminal nothing else is seen until both are done.
        self._on_message("starting: reading the archive, then listing the cluster")
        resumed = self._resume(stop)
        if resumed is None:
            return
        checkpoint, known = resumed
        with (
            self._watching(checkpoint) as self.watch,
            self._watching_history(known) as self._history_watch,
            aborted_by(stop, self._abort),
        ):
            try:
                while not stop.is_set():
                    self._step(stop)
            finally:
                self._not_before = 0.0
                if self._has_history() and not self._uncommitted:
                    self._add(self.watch.heartbeat())
                if self._uncommitted and not self._commit():
                    count = len(self._uncommitted)
                    self._on_message(
                        f"stopped with {count} changes that could not be written: {self.last_error}"
                    )
                if stop.is_set():
                    self.status = "stopped"

    def report_failure(self, error: Exception) -> None:
        """Report that the cluster cannot be watched, for a caller that will try again."""
        reason = str(error) if isinstance(error, AllocframeError) else f"{type(error).__name__}: {error}"
        self._set_status("cannot watch", reason)

    def once(self) -> Totals:
        """List everything once and commit what has changed since the archive's last observation.

        Raises
        ------
        AllocframeError
            The list failed.
        OSError
            The archive could not be read or written.
        """
        with self._client.watch(
            namespace=self._namespace, stream=False, checkpoint=self._checkpoint()
        ) as watch:
            totals, changes = Totals(), watch._first_list()
            first = next(changes)  # if nothing can be listed, nothing else is tried
            self._archive.append(
                map(totals.add, itertools.chain([first], changes)),
                recorder=self.name,
                history=self._list_history(),
            )
            if watch.last_error:
                self._on_message(watch.last_error)
        return totals

    def _list_history(self) -> HistoryChange | None:
        """Return what has changed besides the allocations since it was last recorded."""
        if not self._records_history:
            return None
        at = pd.Timestamp.now(tz="UTC")
        try:
            history = self._client.history(namespace=self._namespace)
        except AllocframeError as error:
            self._on_message(f"jobs and nodes could not be read: {error}")
            return None
        return history_change(history, at, self._archive._known_history())

    def _watching(self, checkpoint: Checkpoint) -> Watch:
        return self._client.watch(
            namespace=self._namespace,
            stream=self._stream,
            checkpoint=checkpoint,
            resync_interval=RESYNC_INTERVAL,
        )

    @contextlib.contextmanager
    def _watching_history(self, known: Known | None) -> Iterator[HistoryWatch | None]:
        if known is None:
            yield None
            return
        watch = self._client._watch_history(
            namespace=self._namespace, known=known.rows, known_at=known.at, stream=self._stream
        )
        watch.start()
        try:
            yield watch
        finally:
            watch.close()

    def _abort(self) -> None:
        """End what this waits for."""
        for watch in (self.watch, self._history_watch):
            if watch is not None:
                watch.close()

    def _has_history(self) -> bool:
        return self._history_watch is not None and self._history_watch.has_news

    def _take_history(self) -> None:
        """Add what has changed besides the allocations to what is to be committed."""
        if (watch := self._history_watch) is None:
            return
        self._uncommitted_history = _joined(self._uncommitted_history, watch.take())
        if watch.last_error != self._history_error:
            self._history_error = watch.last_error
            self._on_message(
                f"cannot follow jobs and nodes: {watch.last_error}"
                if watch.last_error
                else "following jobs and nodes again"
            )

    def _resume(self, stop: threading.Event) -> tuple[Checkpoint, Known | None] | None:
        """Return what the archive has, once it can be read; None if the recorder was stopped before."""
        while not stop.is_set():
            try:
                known = self._archive._known_history(stop) if self._records_history else None
                return self._checkpoint(stop), known
            except Exception as error:
                if stop.is_set():
                    return None
                if not isinstance(error, OSError):
                    raise
                self._back_off(f"the archive cannot be read: {error}")
                stop.wait(self._not_before - time.monotonic())
        return None

    def _checkpoint(self, stop: threading.Event | None = None) -> Checkpoint:
        for file in self._archive.repair():
            self._on_message(
                f"{file} was truncated by a power loss: it was set aside, and its append is lost"
            )
        state = self._archive._state_until(stop)
        live = state.live
        if self._namespace != "*":
            live = live[live["namespace"] == self._namespace]
        indexes = dict(zip(live["alloc_id"].tolist(), live["modify_index"].fillna(0).tolist(), strict=True))
        namespaces = dict(zip(live["alloc_id"].tolist(), live["namespace"].tolist(), strict=True))
        self.last = state.at
        return Checkpoint(state.index, state.at, indexes, namespaces)

    def _step(self, stop: threading.Event) -> None:
        """Wait for a change, unless too many rows are uncommitted; commit when it is time."""
        if sum(map(_rows, self._uncommitted)) < MAX_ROWS:
            self._take(stop)
        else:
            stop.wait(TICK)
        now = time.monotonic()
        if not self._uncommitted and (self._has_history() or now - self._committed_at > HEARTBEAT_INTERVAL):
            self._add(self.watch.heartbeat() if self.watch else None)
        due = self._uncommitted and now - self._oldest_since >= self._interval
        if (due or sum(map(_rows, self._uncommitted)) >= MAX_ROWS) and now >= self._not_before:
            self._commit()
            if self.counts.commits >= self._compact_at and not stop.is_set():
                self._compact_at = self.counts.commits + COMPACT_EVERY
                self._compact(stop)

    def _take(self, stop: threading.Event) -> None:
        assert self.watch is not None  # noqa: S101 - only called while it is
        try:
            change = self.watch.poll(timeout=min(TICK, self._interval))
        except PermissionDenied as error:
            # No backoff here: the watch pauses longer after each failure.
            self._set_status("cannot watch", str(error))
            stop.wait(TICK)
            return
        except AllocframeError:
            if stop.is_set():
                return  # the watch was closed
            raise
        self._add(change)
        if self.watch.last_error:
            self._set_status("cannot watch", self.watch.last_error)
        elif self.status in ("starting", "cannot watch"):
            self._set_status("recording", None)
        if self.watch.no_stream != self._no_stream:
            self._no_stream = self.watch.no_stream
            reason = f"there is no event stream: {self._no_stream}. Blocking queries are sent instead"
            self._on_message(reason if self._no_stream else "there is an event stream now")

    def _add(self, change: Change | None) -> None:
        if change is not None:
            if not self._uncommitted:
                self._oldest_since = time.monotonic()
            self._uncommitted.append(change)

    def _commit(self) -> bool:
        """Write the uncommitted changes; return whether that worked. If not, they are kept and written again.

        A failed append may have written rows. That does no harm, because an archive shows each row once.
        """
        self._take_history()
        try:
            self._archive.append(self._uncommitted, recorder=self.name, history=self._uncommitted_history)
        except Exception as error:  # noqa: BLE001 - object stores raise anything; the changes must survive it
            self.counts.failures += 1
            self._back_off(f"the archive cannot be written: {error}")
            return False
        counts, committed = self.counts, self._uncommitted
        self._uncommitted, self._uncommitted_history = [], None
        counts.commits += 1
        counts.changes += sum(map(len, committed))
        counts.events += sum(len(change.new_events) for change in committed)
        counts.gaps += sum(change.gap is not None and change.gap.since is not None for change in committed)
        self.last, self._committed_at, self._failures_in_a_row = committed[-1].at, time.monotonic(), 0
        if self.status == "cannot write":
            self._set_status("recording", None)
        release_memory()
        return True

    def _compact(self, stop: threading.Event) -> None:
        try:
            self._archive._compact_until(stop)
        except Exception as error:  # noqa: BLE001 - the recorded data is unharmed, and recording matters more
            self._on_message(f"the archive could not be compacted: {error}")

    def _back_off(self, reason: str) -> None:
        """Report that the archive cannot be used, and pause longer after each failure."""
        self._failures_in_a_row += 1
        self._not_before = time.monotonic() + _pause(self._failures_in_a_row)
        self._set_status("cannot write", reason)

    def _set_status(self, status: Status, error: str | None) -> None:
        """Set the status. Say it only if it has changed, not after each retry."""
        if status != self.status:
            self._on_message(f"{status}: {error}" if error else status)
        self.status, self.last_error = status, error


def run_all(recorders: Mapping[str, Recorder], stop: threading.Event) -> None:
    """Run several recorders until `stop` is set.

    One that fails is started again, independently of the others.
    """
    threads = {
        name: threading.Thread(
            target=_run_forever, args=(recorder, stop), name=f"allocframe-{name}", daemon=True
        )
        for name, recorder in recorders.items()
    }
    for thread in threads.values():
        thread.start()
    while not stop.wait(LONGEST_WAIT):
        pass
    # First let them finish what they do. Then close the watches of those that still wait for their cluster.
    for close_watches in (False, True):
        if close_watches:
            for name, recorder in recorders.items():
                if threads[name].is_alive() and recorder.watch is not None:
                    recorder.watch.close()
        end = time.monotonic() + STOP_TIMEOUT
        for thread in threads.values():
            thread.join(max(end - time.monotonic(), 0.0))


def _run_forever(recorder: Recorder, stop: threading.Event) -> None:
    attempt = 0
    while not stop.is_set():
        try:
            recorder.run(stop)
        except Exception as error:  # noqa: BLE001 - a recorder must survive anything
            if not stop.is_set():
                recorder.report_failure(error)
                attempt += 1
                stop.wait(_pause(attempt))


def _pause(attempt: int) -> float:
    """Return the seconds before the next try. One recorder per store needs no jitter."""
    return backoff(attempt, first=TICK, longest=MAX_RETRY_PAUSE, jitter=0.0)


def _joined(first: HistoryChange | None, second: HistoryChange | None) -> HistoryChange | None:
    """Return two changes as one, when the first could not be written."""
    if first is None or second is None:
        return second if first is None else first
    frames = {
        name: pd.concat([change.frames[name] for change in (first, second) if name in change.frames])
        for name in {**first.frames, **second.frames}
    }
    notes = tuple(dict.fromkeys([*first.notes, *second.notes]))
    return HistoryChange(second.at, frames, first.gap_since or second.gap_since, notes)


def _rows(change: Change) -> int:
    return len(change) + len(change.events) + len(change.task_states) + len(change.reschedules)
